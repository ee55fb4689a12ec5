"""``lbq top`` in front of a running director with its queue: real traffic, losses, another director."""
from __future__ import annotations

import json
import socket
import sys

import pytest

from tests.helpers.namespaces import lone_host
from tests.helpers.processes import director_in, wait_until
from tests.helpers.terminal import Terminal

ADDRESS = "192.168.10.254"
VIP = f"udp:{ADDRESS}:53"
OPTIONS = ("--vip", VIP, "--mode", "nat", "--real", "192.168.20.1")
TOP = [sys.executable, "-m", "lbq", "top"]
both_engines = pytest.mark.parametrize("engine", ["fast", "reference"])


@pytest.fixture
def host(tmp_path):
    with lone_host(tmp_path) as host:
        yield host


def send(host, count: int) -> list[int]:
    """Send a datagram from each of *count* ports of the director to the VIP; return the ports."""
    ports = []
    with host.inside():
        for _ in range(count):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", (ADDRESS, 53))
                ports.append(sock.getsockname()[1])
    return ports


@both_engines
def test_traffic_is_seen_and_another_director_is_followed(host, engine):
    with host.inside():
        terminal = Terminal([*TOP, "--interval", "0.2"])
    with terminal:
        terminal.wait_for("no director runs in this network namespace")
        with director_in(host, *OPTIONS, "--engine", engine):
            terminal.wait_for(f"engine {engine}")
            terminal.wait_for("queue waiting 0  dropped 0  socket overruns 0  lost 0")
            terminal.wait_for("none yet")
            [port] = send(host, 1)
            terminal.wait_for(f"{ADDRESS}:{port} ")
            terminal.wait_for("states  UDP 1")

            terminal.press("enter")
            terminal.wait_for("servers: 1")
            terminal.press("enter")
            terminal.wait_for("connections: 1")
            terminal.wait_until(lambda lines: any(line.startswith(f"{ADDRESS}:{port} ") and " UDP " in line
                                                  for line in lines))

        terminal.wait_for("no director runs in this network namespace")
        with director_in(host, "--vip", f"{ADDRESS}:80", "--mode", "nat", "--engine", engine):
            terminal.wait_until(lambda lines: f"tcp:{ADDRESS}:80" in "\n".join(lines) and VIP not in "\n".join(lines))
            send(host, 3)
        terminal.press("q")
        assert terminal.end() == 0


@both_engines
def test_scripts_get_losses_and_the_queue(host, engine):
    with director_in(host, "--vip", VIP, "--mode", "nat", "--engine", engine):
        send(host, 4)

        def lost():
            said = json.loads(host.run([*TOP, "--json", "--interval", "0.1"]).stdout)
            return said if said["counters"]["dropped_no_server"] == 4 else None

        said = wait_until(lost)
        assert set(said["queue"]) == {"waiting", "queue_dropped", "user_dropped"}
        assert said["services"][0]["port"] == 53 and said["whole"] == {"services": True, "states": True}
        screen = host.run([*TOP, "--once", "--interval", "0.1"]).stdout
        assert "lost: 4, 0/s, no real server can take the connection (dropped_no_server)" in screen


def test_decisions_are_seen_also_those_that_make_no_connection(host):
    with director_in(host, "--vip", VIP, "--mode", "nat"):
        with host.inside():
            terminal = Terminal([*TOP, "--interval", "0.2", "--trace"])
        with terminal:
            terminal.wait_for("newest decisions: none yet")
            [port] = send(host, 1)
            terminal.wait_until(lambda lines: any(f"{ADDRESS}:{port} " in line and "nobody" in line
                                                  and "DROP no_server" in line for line in lines))
            host.run([sys.executable, "-m", "lbq", "add", "server", VIP, "192.168.20.1"])
            [port] = send(host, 1)
            terminal.wait_for("192.168.20.1:53")
            terminal.press("q")
            assert terminal.end() == 0

        said = json.loads(host.run([*TOP, "--json", "--interval", "0.1"]).stdout)
        assert not said["status"]["traced"]
        said = json.loads(host.run([*TOP, "--json", "--interval", "0.1", "--trace"]).stdout)
        assert said["newest"] == [] and said["status"]["traced"]
