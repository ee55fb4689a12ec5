"""The newest decisions out of a trace: which are shown, what is missed, and whose trace is read."""
from __future__ import annotations

import pytest

from lbq.control.questions import TRACE_PAGE
from lbq.errors import HostError
from lbq.model import NAT, TCP
from lbq.protocols import tcp as states
from lbq.top.decisions import PAGES, TracedDecisions
from lbq.trace.records import FIELDS, RECORD
from tests.helpers.packets import tcp

VIP = "192.168.10.1:80"
OUTCOMES = ["rewritten", "dropped_no_server"]
SECOND = 1_000_000_000


def record(client: str, seconds: int, outcome: str = "rewritten", is_new: bool = True) -> bytes:
    """Return what is traced of a SYN; who is dropped has no connection."""
    packet, has_entry = bytes(tcp(client, VIP, "S")), outcome == "rewritten"
    its = {**dict.fromkeys(FIELDS, 0), "now_ns": seconds * SECOND, "length": len(packet), "before_length": len(packet),
           "rport": 80, "outcome": OUTCOMES.index(outcome), "protocol": TCP, "has_entry": has_entry,
           "had_entry": not is_new, "is_new": is_new and has_entry, "mode": NAT, "has_server": has_entry,
           "rip": bytes([192, 168, 20, 1]),
           "state_after": states.NAMES.index("SYN_RECV"), "next_hop": b"", "before": packet, "after": b""}
    return RECORD.pack(*its.values())


class Director:
    """Answers as one that can be traced."""

    def __init__(self):
        self.waiting: list[bytes] = []
        self.lost = 0
        self.refusal = ""
        self.asked: list[str] = []
        self.traces = 0                 # begun so far

    def call(self, method: str, trace: int = 0):
        """Do what is asked."""
        self.asked.append(method)
        if self.refusal:
            raise HostError(self.refusal)
        if method == "trace_start":
            self.traces, self.lost = self.traces + 1, 0
            return {"trace": self.traces, "outcomes": OUTCOMES}
        if trace != self.traces:
            raise HostError("the trace was ended")
        if method == "trace_read":
            page, self.waiting = self.waiting[:TRACE_PAGE], self.waiting[TRACE_PAGE:]
            return [b"".join(page).hex(), {"lost": self.lost, "waiting": len(self.waiting)}]
        self.waiting = []
        return None


@pytest.fixture
def director() -> Director:
    return Director()


@pytest.fixture
def decisions(director) -> TracedDecisions:
    """Return decisions of which a trace has been begun."""
    made = TracedDecisions()
    made.read(director)
    return made


def test_who_is_new_and_who_gets_nobody_is_shown_the_newest_first(director, decisions):
    assert (decisions.newest(9), decisions.remark()) == ([], "none yet")
    director.waiting = [record("10.0.0.9:1", 98), record("10.0.0.9:2", 99, is_new=False),
                        record("10.0.0.9:3", 100, "dropped_no_server")]
    decisions.read(director)

    assert decisions.newest(9) == [(100.0, "10.0.0.9:3", f"tcp:{VIP}", "nobody", "DROP no_server"),
                                   (98.0, "10.0.0.9:1", f"tcp:{VIP}", "192.168.20.1:80", "SYN_RECV")]
    assert decisions.remark() == "" and decisions.newest(1) == decisions.newest(9)[:1]


def test_of_a_busy_director_a_sample_is_looked_at_and_the_rest_counted(director, decisions):
    director.asked.clear()
    director.waiting, director.lost = [record("10.0.0.9:1", 100)] * (TRACE_PAGE * PAGES + 10), 7
    decisions.read(director)

    assert decisions.missed == 17 and decisions.remark() == "17 packets came too fast to be looked at"
    assert director.asked == [*["trace_read"] * PAGES, "trace_stop", "trace_start"]
    director.lost = 3
    decisions.read(director)
    assert decisions.missed == 20


def test_a_trace_that_is_refused_says_why_until_there_is_one(director, decisions):
    director.refusal = "somebody is tracing already"
    decisions.read(director)
    assert decisions.remark() == "somebody is tracing already"
    director.refusal = ""
    decisions.read(director)
    assert decisions.remark() == "none yet"


def test_a_trace_that_has_ended_is_begun_anew(director, decisions):
    director.traces += 1                # ours was not read for long, and somebody else's followed
    director.asked.clear()
    decisions.read(director)
    assert decisions.remark() == "the trace was ended"
    decisions.read(director)
    decisions.end(director)

    assert director.asked == ["trace_read", "trace_start", "trace_read", "trace_stop"]


def test_a_packet_of_which_little_is_known_is_told_all_the_same(director, decisions):
    its = dict(zip(FIELDS, RECORD.unpack(record("10.0.0.9:1", 100, "dropped_no_server")), strict=True))
    director.waiting = [RECORD.pack(*{**its, "before_length": length}.values()) for length in (0, 20)]
    decisions.read(director)

    assert [decision[1:3] for decision in decisions.newest(9)] == [
        ("10.0.0.9:0", "tcp:192.168.10.1:0"), ("?:0", "?:?:0")]


def test_an_engine_that_cannot_be_traced_is_watched_all_the_same(watched):
    watched.watch.traced = TracedDecisions()
    watched.add(VIP, "192.168.20.1")
    watched.look()

    assert watched.watch.error is None
    assert any(line.startswith("newest decisions: only the fast engine can be traced") for line in watched.lines())
