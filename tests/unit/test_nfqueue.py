"""lbq.nfqueue: what becomes of a NetfilterQueue packet, and how opening fails.

The lab tests run the real queue, with ``--engine reference``.
"""
from __future__ import annotations

import sys
from types import ModuleType

import pytest

from lbq import nfqueue
from lbq.director import ACCEPT, DROP, Verdict
from lbq.errors import HostError, PermissionMissing, QueueBusy
from lbq.model import AF_INET, AF_INET6, Sent


class FakeQueued:
    """A packet of NetfilterQueue's that writes down its verdict."""

    hook, indev, outdev, mark = 4, 5, 7, 9

    def __init__(self):
        self.done = []

    def get_payload(self):
        return b"packet"

    def set_payload(self, payload):
        self.done.append(payload)

    def set_mark(self, mark):
        self.done.append(f"mark {mark}")

    def accept(self):
        self.done.append("accept")

    def drop(self):
        self.done.append("drop")


class FakeDirector:
    """A director that rewrites every packet in the same way and gives the verdict it was made with."""

    def __init__(self, verdict):
        self.verdict = verdict
        self.counted = {"send_errors": 0}

    def handle(self, packet, hook, form, out_device, now_ns, mark):
        self.seen = (bytes(packet), hook, form, out_device, mark)
        packet[:3] = b"PAC"
        return self.verdict


class FakeSocket:
    """A raw socket that writes down what it sends."""

    def __init__(self, error=None):
        self.error = error
        self.sent = []

    def sendto(self, data, flags, where):
        if self.error:
            raise self.error
        self.sent.append((data, where))


ANSWER = b"\x45" + bytes(11) + bytes([192, 168, 10, 1]) + bytes([192, 168, 10, 9]) + bytes(8)


@pytest.mark.parametrize(("verdict", "done"), [
    (Verdict(ACCEPT), ["accept"]),
    (Verdict(ACCEPT, changed=True), [b"PACket", "accept"]),
    (Verdict(ACCEPT, unmarked=True), ["mark 0", "accept"]),
    (Verdict(DROP), ["drop"]),
    (Verdict(DROP, answer=ANSWER), ["drop"]),
])
def test_a_verdict_is_carried_out(verdict, done):
    director, queued, raw = FakeDirector(verdict), FakeQueued(), FakeSocket()

    nfqueue.answer(director, queued, {AF_INET: raw})

    assert director.seen == (b"packet", 4, 0, 7, 9)
    assert queued.done == done
    assert raw.sent == ([(ANSWER, ("192.168.10.9", 0))] if verdict.answer else [])


def test_an_answer_that_cannot_be_sent_is_lost():
    queued = FakeQueued()

    nfqueue.answer(FakeDirector(Verdict(DROP, answer=ANSWER)), queued,
                   {AF_INET: FakeSocket(OSError(101, "no route"))})

    assert queued.done == ["drop"]


FORWARDED = Verdict(DROP, sent=(Sent(0xC0A81401, b"first"), Sent(0xC0A81402, b"second")))


def test_what_leaves_by_another_way_goes_to_its_next_hop():
    director, queued, raw = FakeDirector(FORWARDED), FakeQueued(), FakeSocket()

    nfqueue.answer(director, queued, {AF_INET: raw})

    assert raw.sent == [(b"first", ("192.168.20.1", 0)), (b"second", ("192.168.20.2", 0))]
    assert queued.done == ["drop"]
    assert director.counted == {"send_errors": 0}


LINK_LOCAL = bytes([0xFE, 0x80, *bytes(13), 9])
GLOBAL = bytes([0x20, 0x01, 0x0D, 0xB8, *bytes(11), 9])


@pytest.mark.parametrize(("client", "where"), [(GLOBAL, ("2001:db8::9", 0, 0, 0)), (LINK_LOCAL, ("fe80::9", 0, 0, 5))])
def test_an_ipv6_answer_goes_to_its_client_on_the_link_it_came_from(client, where):
    raw = FakeSocket()
    reply = b"\x60" + bytes(23) + client + bytes(8)

    nfqueue.answer(FakeDirector(Verdict(DROP, answer=reply)), FakeQueued(), {AF_INET6: raw})

    assert raw.sent == [(reply, where)]


def test_what_leaves_over_ipv6_goes_to_its_next_hop():
    director, raw = FakeDirector(Verdict(DROP, sent=(Sent(1, b"packet", 0, AF_INET6),))), FakeSocket()

    nfqueue.answer(director, FakeQueued(), {AF_INET6: raw})

    assert raw.sent == [(b"packet", ("::1", 0, 0, 0))]
    assert director.counted == {"send_errors": 0}


def test_on_a_host_without_ipv6_what_would_leave_over_it_is_counted():
    director = FakeDirector(Verdict(DROP, sent=(Sent(1, b"packet", 0, AF_INET6),)))

    nfqueue.answer(director, FakeQueued(), {AF_INET: FakeSocket()})

    assert director.counted == {"send_errors": 1}


def test_what_the_kernel_does_not_send_is_counted():
    director, queued = FakeDirector(FORWARDED), FakeQueued()

    nfqueue.answer(director, queued, {AF_INET: FakeSocket(OSError(90, "message too long"))})

    assert queued.done == ["drop"]
    assert director.counted == {"send_errors": 2}


def netfilterqueue(monkeypatch, opening=None, binding=None) -> None:
    """Put a NetfilterQueue package in place that fails so."""
    class Fake:
        def __init__(self):
            if opening:
                raise opening

        def bind(self, number, callback, length):
            if binding:
                raise binding

    module = ModuleType("netfilterqueue")
    module.NetfilterQueue = Fake
    monkeypatch.setitem(sys.modules, "netfilterqueue", module)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "netfilterqueue", None)

    with pytest.raises(HostError, match="pip install NetfilterQueue"):
        nfqueue.bind(0, None)


def test_a_queue_that_is_taken_is_named(monkeypatch):
    netfilterqueue(monkeypatch, binding=OSError("Failed to create queue 3."))

    with pytest.raises(QueueBusy, match="cannot bind NFQUEUE 3: another program holds it"):
        nfqueue.bind(3, None)


@pytest.mark.parametrize(("user", "error", "cure"), [(1000, PermissionMissing, "run lbq as root"),
                                                     (0, HostError, "modprobe nfnetlink_queue")])
def test_a_queue_that_cannot_be_opened(monkeypatch, user, error, cure):
    netfilterqueue(monkeypatch, opening=OSError("Failed to bind family 2. Are you root?"))
    monkeypatch.setattr(nfqueue.os, "geteuid", lambda: user)

    with pytest.raises(error, match=cure):
        nfqueue.bind(0, None)
