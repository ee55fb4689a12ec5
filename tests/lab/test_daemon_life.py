"""A director's life: it starts, is asked and changed, ends, and leaves the machine as it found it."""
from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.helpers.namespaces import lone_host, machines, picture
from tests.helpers.processes import (
    director_in,
    is_alive,
    log_of,
    signal_group,
    start_director,
    wait_until,
    worker_of,
)

STATE = Path("/run/lbq")
VIP = "192.168.10.254:80"
OPTIONS = ("--vip", VIP, "--mode", "nat", "--real", "192.168.20.1", "--real", "192.168.20.2:8080,weight=2")


@pytest.fixture
def host(tmp_path):
    with lone_host(tmp_path) as host:
        yield host


def lbq(host, *words: str, check: bool = True):
    """Run ``lbq WORDS`` on *host*."""
    return host.run([sys.executable, "-m", "lbq", *words], check=check, timeout=30)


def members(host, name: str) -> set[str]:
    """Return what is in one of lbq's sets, as ipset writes it."""
    return {line.split()[2] for line in host.run(["ipset", "save", name]).stdout.splitlines()
            if line.startswith("add ")}


def servers(host) -> list[tuple]:
    """Return (address, port, weight) of the real servers, as `lbq list --json` has them."""
    (service,) = json.loads(lbq(host, "list", "--json").stdout)
    return [(server["address"], server["port"], server["weight"]) for server in service["servers"]]


def test_ready_is_one_line_on_standard_output(host, engine):
    director = host.popen([sys.executable, "-m", "lbq", *OPTIONS, "--engine", engine])
    line = director.wait_for("ready")

    queues = "queues 0 to 1" if os.environ.get("LBQ_WORKERS") else "queue 0"
    assert line == f"ready: tcp:{VIP} nat wlc, real servers: 2, engine {engine}, {queues}, pid {director.pid}"
    lbq(host, "stop")
    assert director.wait(10) == 0
    assert director.stdout.read() == b""


def test_what_runs_can_be_listed_changed_and_stopped(host, engine):
    before, rips = picture(host), {
        "auto": "lbq-rip-steer", "offload": "lbq-rip-offload"}.get(os.environ.get("LBQ_DATA_PATH"), "lbq-rip")
    with director_in(host, *OPTIONS, "--engine", engine) as director:
        assert servers(host) == [("192.168.20.2", 8080, 2), ("192.168.20.1", 80, 1)]    # the newest first

        assert lbq(host, "add", "server", VIP, "192.168.20.3,weight=5").stdout == (
            f"added server 192.168.20.3:80 to tcp:{VIP}\n")
        assert servers(host)[0] == ("192.168.20.3", 80, 5)
        assert "192.168.20.3,tcp:80" in members(host, rips)

        assert lbq(host, "set", "server", VIP, "192.168.20.3,weight=0").stdout == (
            f"server 192.168.20.3:80 of tcp:{VIP} has weight 0 now\n")
        assert servers(host)[0] == ("192.168.20.3", 80, 0)

        lbq(host, "del", "server", VIP, "192.168.20.1")
        assert [address for address, _, _ in servers(host)] == ["192.168.20.3", "192.168.20.2"]
        assert "192.168.20.1,tcp:80" in members(host, rips), "it may come back, and replies still pass"

        assert lbq(host, "stop").stdout == "stopped; 0 connections ended with it\n"
        assert director.wait(10) == 0
    assert picture(host) == before
    assert not (STATE / str(host.inode)).exists()


@pytest.mark.parametrize(("words", "said"), [
    (("add", "server", VIP, "192.168.20.1"), "cannot add 192.168.20.1:80"),
    (("set", "server", VIP, "192.168.20.9,weight=1"), f"service tcp:{VIP} has no server"),
    (("del", "server", VIP, "192.168.20.9"), "cannot delete 192.168.20.9:80"),
    (("del", "server", "192.168.10.254:81", "192.168.20.1"), "no service tcp:192.168.10.254:81"),
    (("add", "server", f"udp:{VIP}", "192.168.20.1"), f"no service udp:{VIP}"),
], ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_change_that_is_refused_changes_nothing(host, words, said):
    with director_in(host, *OPTIONS):
        before = servers(host), members(host, "lbq-rip")
        done = lbq(host, *words, check=False)

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"lbq: {said}") and done.stderr.count("\n") == 1
        assert (servers(host), members(host, "lbq-rip")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(host, number):
    before = picture(host)
    director = start_director(host, *OPTIONS)
    worker = worker_of(director)

    director.send_signal(number)

    assert director.wait(10) == 0
    assert not is_alive(worker)
    assert picture(host) == before
    assert not (STATE / str(host.inode)).exists()
    assert f"{number.name}: stopping" in log_of(director)
    assert "connections that end with it: 0" in log_of(director)


def test_impatient_ctrl_c_does_not_break_the_clean_up(host):
    """The terminal sends each one to the packet process and to a running iptables-restore as well."""
    before = picture(host)
    director = start_director(host, *OPTIONS)

    def interrupted_to_the_end() -> bool:
        signal_group(director, signal.SIGINT)
        return director.poll() is not None

    wait_until(interrupted_to_the_end)

    assert director.returncode == 0
    assert "Traceback" not in log_of(director)
    assert picture(host) == before


@pytest.mark.parametrize("progress", ["lock", "undo.json", "control.sock"])
def test_a_signal_during_the_start_ends_it_cleanly(host, progress):
    before = picture(host)
    state = STATE / str(host.inode)
    director = host.popen([sys.executable, "-m", "lbq", *OPTIONS])
    wait_until((state / progress).exists)

    director.send_signal(signal.SIGTERM)

    assert director.wait(10) == 0
    assert "Traceback" not in log_of(director)
    assert picture(host) == before
    assert not state.exists()


def test_a_new_start_right_after_stop_works(host):
    for _ in range(3):
        start_director(host, *OPTIONS)
        lbq(host, "stop")       # comes back when the lock is free


def test_each_namespace_has_its_own_director(tmp_path):
    with machines(tmp_path, "one", "two") as (one, two):
        options = ("--mode", "nat", "--real", "127.0.0.9", "--vip")
        with director_in(one, *options, "127.0.0.1:80"), director_in(two, *options, "127.0.0.2:80"):
            here = two.run(["ip", "netns", "exec", one.name, sys.executable, "-m", "lbq", "list"]).stdout

            assert "127.0.0.1:80" in here and "127.0.0.2:80" not in here
            assert "127.0.0.2:80" in lbq(two, "list").stdout
            lbq(one, "stop")
            assert "127.0.0.2:80" in lbq(two, "list").stdout


def test_without_servers_the_log_says_the_command_that_adds_one(host):
    with director_in(host, *OPTIONS[:4]) as director:
        line = next(line for line in log_of(director).splitlines() if "no real server yet" in line)
        _, _, command = line.partition("add one with: lbq ")

        lbq(host, *command.replace("RIP[:PORT][,weight=N]", "192.168.20.1:8080,weight=3").split())

        assert servers(host) == [("192.168.20.1", 8080, 3)]


def test_the_json_log_is_one_object_a_line(host):
    with director_in(host, *OPTIONS, "--json-log") as director:
        lbq(host, "stop")
        assert director.wait(10) == 0
        lines = [json.loads(line) for line in log_of(director).splitlines()]

    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert {line["logger"] for line in lines} <= {"lbq", "lbq.host", "lbq.control"}


def test_systemd_hears_when_it_is_ready_and_when_it_stops(host, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(10)
        with director_in(host, *OPTIONS, env={**os.environ, "NOTIFY_SOCKET": path}):
            assert systemd.recv(64) == b"READY=1"
            lbq(host, "stop")
            assert systemd.recv(64) == b"STOPPING=1"


def test_what_it_runs_with_does_not_depend_on_the_current_folder(host, tmp_path):
    """A root shell may stand in any folder; a json.py that lies there is not ours to run."""
    (tmp_path / "json.py").write_text("raise SystemExit('somebody else’s json.py was run')")
    program = "import sys; sys.path.remove(''); from lbq.cli import main; sys.exit(main())"
    director = host.popen([sys.executable, "-c", program, *OPTIONS], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})

    director.wait_for("ready")
    assert director.stop() == 0
