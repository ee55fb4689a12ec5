"""What is left when a director is killed, and that it can be put right: fail closed, then clean."""
from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lbq.control.client import SOCKET_NAME
from tests.helpers.control import Peer
from tests.helpers.namespaces import lone_host, picture
from tests.helpers.processes import director_in, is_alive, log_of, start_director, wait_until, worker_of

STATE = Path("/run/lbq")
VIP = "192.168.10.254:80"
OPTIONS = ("--vip", VIP, "--mode", "nat", "--real", "192.168.20.1")


@pytest.fixture
def host(tmp_path):
    with lone_host(tmp_path) as host:
        yield host


def lbq(host, *words: str, check: bool = True):
    """Run ``lbq WORDS`` on *host*."""
    return host.run([sys.executable, "-m", "lbq", *words], check=check, timeout=30)


def rules_are_in(host) -> bool:
    return "NFQUEUE" in host.run(["iptables-save"]).stdout


def kill(director) -> None:
    """Kill the front, and return when the packet process is gone, too: while it has the queue, the host is not free."""
    worker = worker_of(director)
    director.kill()
    director.wait(10)
    wait_until(lambda: not is_alive(worker))


def test_the_packet_process_dies_with_a_killed_front_and_the_rules_stay(host):
    director = start_director(host, *OPTIONS)
    worker = worker_of(director)

    kill(director)

    assert not is_alive(worker)
    assert rules_are_in(host)
    assert "no director runs" in lbq(host, "list", check=False).stderr


def test_cleanup_after_a_kill_puts_everything_back(host):
    before = picture(host)
    kill(start_director(host, *OPTIONS))

    done = lbq(host, "cleanup")

    assert "ip_forward" in done.stdout and "rules removed" in done.stdout
    assert picture(host) == before
    assert not (STATE / str(host.inode)).exists()
    assert lbq(host, "cleanup").stdout == "nothing to clean up in this network namespace\n"


def test_a_new_start_after_a_kill_works_and_its_end_puts_everything_back(host):
    before = picture(host)
    kill(start_director(host, *OPTIONS))

    with director_in(host, *OPTIONS) as director:
        assert "taking them over" in log_of(director)
        assert VIP in lbq(host, "list").stdout
        lbq(host, "stop")
        assert director.wait(10) == 0

    assert picture(host) == before
    assert not (STATE / str(host.inode)).exists()


def test_a_killed_packet_process_is_told_and_the_rules_stay(host, engine):
    before = picture(host)
    director = start_director(host, *OPTIONS, "--engine", engine)

    os.kill(worker_of(director), signal.SIGKILL)

    assert director.wait(10) == 1
    last = log_of(director).splitlines()[-1]
    assert "the packet process died (signal SIGKILL); the rules stay in" in last
    assert "Traceback" not in log_of(director)
    assert rules_are_in(host)
    assert "no director runs" in lbq(host, "list", check=False).stderr

    lbq(host, "cleanup")
    assert picture(host) == before


def test_a_start_after_a_dead_packet_process_works(host):
    director = start_director(host, *OPTIONS)
    os.kill(worker_of(director), signal.SIGKILL)
    assert director.wait(10) == 1

    with director_in(host, *OPTIONS):
        assert VIP in lbq(host, "list").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_packet_process_leaves_signals_to_the_front(host, number):
    """systemd and terminals send theirs to every process; packets must flow until the rules are out."""
    with director_in(host, *OPTIONS) as director:
        worker = worker_of(director)
        os.kill(worker, number)

        assert VIP in lbq(host, "list").stdout
        assert is_alive(worker)


@pytest.mark.slow
def test_a_packet_process_that_hangs_does_not_stop_the_clean_up(host):
    before = picture(host)
    director = start_director(host, *OPTIONS)
    worker = worker_of(director)
    os.kill(worker, signal.SIGSTOP)

    director.terminate()

    assert director.wait(20) == 0
    assert "did not end within" in log_of(director)
    assert not is_alive(worker)
    assert picture(host) == before


def test_whoever_waits_for_a_killed_packet_process_is_told(host):
    """Its questions are in flight: one of a client, and the one that the front asks every second."""
    director = start_director(host, *OPTIONS)
    with Peer(STATE / str(host.inode) / SOCKET_NAME) as peer:
        worker = worker_of(director)
        os.kill(worker, signal.SIGSTOP)
        peer.send(b'{"jsonrpc": "2.0", "id": 1, "method": "list"}\n')
        time.sleep(1.5)

        os.kill(worker, signal.SIGKILL)

        assert "the packet process ended (signal SIGKILL)" in peer.receive()["error"]["message"]
        assert director.wait(10) == 1
        assert "Traceback" not in log_of(director)


def test_a_start_that_fails_at_the_last_step_takes_everything_out_again(host):
    before = picture(host)
    blocked = STATE / str(host.inode) / SOCKET_NAME
    blocked.mkdir(parents=True)

    done = lbq(host, *OPTIONS, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"lbq: cannot listen on {blocked}: ")
    assert "Traceback" not in done.stderr
    assert picture(host) == before
    blocked.rmdir()
    blocked.parent.rmdir()      # nothing else is left in it


def test_a_failed_start_after_a_kill_leaves_what_the_killed_one_left(host, tmp_path):
    """Rules and record belong together: whoever cannot take them over must not lose the record."""
    before = picture(host)
    kill(start_director(host, *OPTIONS))

    done = lbq(host, *OPTIONS, "--max-connections", "1", "--engine", "fast", "--add-vip", "eth7", check=False)

    assert done.returncode == 2
    assert rules_are_in(host)
    lbq(host, "cleanup")
    assert picture(host) == before
