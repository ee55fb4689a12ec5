"""A director that hangs, is of another version, or speaks nonsense: one line, and the host is looked at anyhow."""
from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from lbq.control import client
from lbq.doctor import gather
from lbq.doctor.facts import DIRECTOR, NO_DIRECTOR, Facts, Server, Service
from lbq.errors import NotRunning, PeerError
from lbq.model import TCP, ServiceKey


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Look at the director alone, one whose socket is in the folder that is returned."""
    monkeypatch.setattr(gather, "state_directory", lambda: tmp_path)
    monkeypatch.setattr(gather.probes, "check_permission", lambda: None)
    for look in ("_read_queues", "_read_links", "_read_rules", "_probe", "_read_ways_back"):
        monkeypatch.setattr(gather, look, lambda facts: None)
    return tmp_path


@contextmanager
def answering(folder, *results):
    """Answer each request with the next of *results*, then no more."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / client.SOCKET_NAME))
    listener.listen()

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines, suppress(BrokenPipeError):
            for result in results:
                lines.readline()
                connection.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode() + b"\n")
            lines.read()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.close()
        thread.join(10)


STATUS = {"queue": 0, "version": "0.1"}


@pytest.mark.parametrize(("results", "reason"), [
    ((), "has not answered in 0.1 s"),
    (([],), "has not answered in 0.1 s"),
    ((STATUS, {"services": [{"protocol": "tcp"}], "counters": {}, "queue": None}), "not understood"),
    ((STATUS, {"services": 7}), "not understood"),
    ((STATUS, {"services": [], "counters": {}, "queue": None}, {"connections": [{}], "next": None}), "not understood"),
])
def test_a_director_that_nobody_understands_is_one_line(alone, results, reason, monkeypatch):
    if "not answered" in reason:        # one that does answer may be slow
        monkeypatch.setattr(gather, "ANSWER_SECONDS", 0.1)
    with answering(alone, *results):
        facts = gather.gather(None, 0.1, passive=True)

    assert reason in facts.missing[DIRECTOR]
    assert "\n" not in facts.missing[DIRECTOR]


def test_who_asks_about_a_service_is_told_that_the_director_is_not_understood(alone):
    with answering(alone, STATUS, {"services": 7}), pytest.raises(PeerError, match="is it of another version"):
        gather.gather("10.0.0.1:80", 0.1, passive=True)


def test_no_director_is_no_trouble_unless_a_service_is_meant(alone):
    assert gather.gather(None, 0.1, passive=True).missing[DIRECTOR] == NO_DIRECTOR
    with pytest.raises(NotRunning):
        gather.gather("10.0.0.1:80", 0.1, passive=True)


@pytest.mark.parametrize(("hosts", "services", "told"), [
    (128, 2, []), (129, 1, ["asked 128 of 129 real servers"]),
    (100, 3, ["of 300 places that these have in services 256"]),
    (200, 3, ["asked 128 of 200 real servers", "of 384 places that these have in services 256"])])
def test_what_is_too_much_to_be_asked_is_told(hosts, services, told):
    facts = Facts()
    for port in range(1, services + 1):
        key = ServiceKey(TCP, 1, port)
        facts.services.append(Service(key, [Server(key, address, 80) for address in range(hosts)]))
    asked = gather._hosts(facts)

    assert len(asked) == min(hosts, 128) and len(list(gather._asked(asked))) == min(len(asked) * services, 256)
    assert [line.partition(";")[0][:len(begin)] for line, begin in zip(facts.left_out, told, strict=True)] == told


@pytest.mark.parametrize(("error", "reason"), [
    (OSError(24, "Too many open files"), "cannot look: Too many open files"), (PeerError("a\nb"), "cannot look: a\\nb"),
    (KeyError(7), "cannot look: this host says what nobody understands (KeyError(7))"),
])
def test_what_hinders_a_look_is_one_line(error, reason):
    def look(facts):
        raise error

    facts = Facts()
    gather._attempt(facts, "links", look)

    assert facts.missing == {"links": reason}


class Director:
    """Answers like one that has a connection with a SYN alone, of which so many seconds are *left*."""

    def __init__(self, *left: int):
        self.pages = [{"next": None, "connections": [{
            "state": "SYN_RECV", "expires_seconds": seconds, "caddr": "10.9.9.9", "cport": 4000 + number,
            "vaddr": "10.0.0.1", "vport": 80, "daddr": "10.0.1.1", "dport": 80}
            for number, seconds in enumerate(left)]}]

    def call(self, method: str, **_):
        return {"services": [], "counters": {}, "queue": None} if method == "stats" else self.pages[0]


@pytest.mark.parametrize(("before", "after", "trying"), [
    (59, 58, 0), (59, 59, 1), (53, 59, 1), (53, 52, 0), (53, 51, 0)])
def test_a_client_that_sends_no_syn_during_the_look_has_given_up(before, after, trying):
    server = Server(ServiceKey(TCP, 0x0A000001, 80), 0x0A000101, 80)
    facts = Facts(services=[Service(server.service, [server])])
    waiting = gather._waiting(Director(before))
    gather._ask_again(facts, Director(after), {}, waiting, time.monotonic() - 1.01)

    assert (server.waiting, server.trying) == ([0x0A090909], [0x0A090909] * trying)
