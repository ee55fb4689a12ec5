"""The running director under its users: listings of any length, losses in words, and hostile peers."""
from __future__ import annotations

import json
import os
import random
import re
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from lbq.control.client import SOCKET_NAME
from lbq.losses import QUIET_SECONDS
from tests.helpers.control import Peer
from tests.helpers.namespaces import RIP, line_of_three, lone_host
from tests.helpers.namespaces import VIP as LINE_VIP
from tests.helpers.processes import director_in, log_of, start_director, wait_until

STATE = Path("/run/lbq")
ADDRESS = "192.168.10.254"
VIP = f"{ADDRESS}:80"
NAT = ("--mode", "nat")


@pytest.fixture
def host(tmp_path):
    with lone_host(tmp_path) as host:
        yield host


def lbq(host, *words: str):
    """Run ``lbq WORDS`` on *host*."""
    return host.run([sys.executable, "-m", "lbq", *words], timeout=60)


def rows(host, *words: str):
    """Return what ``lbq WORDS --json`` prints."""
    return json.loads(lbq(host, *words, "--json").stdout)


def send_datagrams(host, count: int) -> None:
    """Send one datagram to the VIP from each of *count* ports of the director itself."""
    with host.inside(), ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.sendto(b"hello", (ADDRESS, 80))


def test_a_listing_of_many_pages_has_every_connection_once(host, engine):
    with director_in(host, "--vip", VIP, "--udp", *NAT, "--real", "192.168.20.1", "--engine", engine):
        send_datagrams(host, 600)
        wait_until(lambda: rows(host, "list")[0]["stats"]["conns"] == 600)

        listed = rows(host, "conns")

        assert len({row["cport"] for row in listed}) == len(listed) == 600
        assert {(row["vaddr"], row["daddr"], row["state"]) for row in listed} == {
            (ADDRESS, "192.168.20.1", "UDP")}
        assert len(lbq(host, "conns").stdout.splitlines()) == 601


def test_a_reader_that_stops_reading_is_no_error(host):
    with director_in(host, "--vip", VIP, "--udp", *NAT, "--real", "192.168.20.1"):
        send_datagrams(host, 600)
        done = host.run(["sh", "-c", f"{sys.executable} -m lbq conns | head -1"])

    assert done.stdout.startswith("pro expire state")
    assert done.stderr == ""


def test_losses_are_logged_with_their_reason_and_counted_in_words(host):
    with director_in(host, "--vip", VIP, "--udp", *NAT) as director:
        send_datagrams(host, 3)

        reason = "no real server can take the connection"
        told = rf"^.* (\d+) packets lost: {reason} \(dropped_no_server, \d+ in all\)$"
        # In one line, or, when the look that it takes every second falls between them, in two with a pause.
        wait_until(lambda: sum(map(int, re.findall(told, log_of(director), re.MULTILINE))) == 3, QUIET_SECONDS + 10)
        assert f"3  lost: {reason} (dropped_no_server)" in lbq(host, "stats").stdout
        assert rows(host, "stats")["counters"]["dropped_no_server"] == 3


def test_status_says_what_runs(host):
    with director_in(host, "--vip", VIP, *NAT, "--queue", "3", "--kernel-profile", "classic") as director, \
         Peer(STATE / str(host.inode) / SOCKET_NAME) as peer:
        status = peer.ask({"jsonrpc": "2.0", "id": 1, "method": "status"})["result"]

    assert status["pid"] == director.pid
    assert (status["queue"], status["profile"], status["engine"]) == (3, "classic", "fast")


def test_services_come_and_go_while_the_director_runs(host, engine):
    """Nothing at the start; a service with a server that gets its packet; nothing again."""
    with director_in(host, "serve", "--engine", engine):
        assert rows(host, "list") == []
        lbq(host, "add", "service", f"udp:{VIP}", "--scheduler", "wrr", "--persistent", "60")
        lbq(host, "add", "server", f"udp:{VIP}", "192.168.20.1,upper=9,lower=3")
        send_datagrams(host, 2)
        wait_until(lambda: rows(host, "list")[0]["stats"]["conns"] == 2)

        assert len(rows(host, "conns", "--service", f"udp:{VIP}", "--state", "udp")) == 2
        assert rows(host, "conns", "--server", "192.168.20.2") == []
        assert "9          3" in lbq(host, "list", "--thresholds").stdout

        assert "all services: 1" in lbq(host, "clear").stdout
        assert rows(host, "list") == []


def test_new_addresses_of_the_host_are_noticed(host):
    director = start_director(host, "--vip", VIP, *NAT, env={**os.environ, "LBQ_DEBUG": "1"})
    assert "own addresses: 127.0.0.1, 192.168.10.254, 192.168.20.254" in log_of(director)

    host.run(["ip", "address", "add", "10.9.8.7/32", "dev", "eth1"])

    wait_until(lambda: "own addresses: 10.9.8.7, 127.0.0.1, " in log_of(director))


@pytest.mark.slow
def test_a_deleted_server_keeps_its_connection_and_has_it_back_when_it_comes_back(tmp_path):
    with line_of_three(tmp_path) as (client, director, server):
        with server.inside():
            listener = socket.create_server((RIP, 80))
        with director_in(director, "--vip", f"{LINE_VIP}:80", *NAT, "--real", RIP), listener:
            with client.inside():
                connection = socket.create_connection((LINE_VIP, 80), timeout=10)
            accepted, _ = listener.accept()
            lbq(director, "del", "server", f"{LINE_VIP}:80", RIP)

            assert rows(director, "list")[0]["servers"] == []
            accepted.sendall(b"still here")
            assert connection.recv(64) == b"still here"
            assert f"{RIP},tcp:80" in director.run(["ipset", "save"]).stdout

            lbq(director, "add", "server", f"{LINE_VIP}:80", RIP)
            connection.sendall(b"back again")
            assert accepted.recv(64) == b"back again"


def test_hostile_peers_do_not_disturb_the_director(host):
    """Random bytes, endless lines, half-open peers, too many of them; then everybody is served as before."""
    noise = random.Random(8)
    with director_in(host, "--vip", VIP, *NAT, "--real", "192.168.20.1") as director, ExitStack() as stack:
        path = STATE / str(host.inode) / SOCKET_NAME
        for _ in range(30):
            peer = stack.enter_context(Peer(path))
            kind = noise.randrange(4)
            try:
                if kind == 0:
                    peer.send(noise.randbytes(noise.randrange(1, 4096)) + b"\n")
                elif kind == 1:
                    peer.send(b"x" * (1 << 20))
                elif kind == 2:
                    peer.send(b'{"jsonrpc": "2.0", "id": 1, "method": "list"')
                else:
                    peer.socket.shutdown(socket.SHUT_WR)
            except ConnectionError:
                continue        # the director has hung up on this one
        assert VIP in lbq(host, "list").stdout

        crowd = [stack.enter_context(Peer(path)) for _ in range(100)]
        refused = crowd[-1].receive()
        assert refused is None or "clients" in refused["error"]["message"]
        for peer in crowd:
            peer.close()

        wait_until(lambda: host.run([sys.executable, "-m", "lbq", "list"], check=False).returncode == 0)
        assert "Traceback" not in log_of(director)
        lbq(host, "stop")
        assert director.wait(10) == 0
