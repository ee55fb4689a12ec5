"""The newest decisions, out of a trace (``lbq top --trace``): who got which server, and whose packets go nowhere, why.

Unlike the newest connections, of which the table is read now and then, those are among them that have come and gone
meanwhile, and those that nobody could be found for.  A trace keeps what comes after it was read, until it is full: of a
busy director's packets that is a sample, and what is missed is counted.
"""
from __future__ import annotations

from collections import deque

from lbq.control.client import ControlClient
from lbq.errors import HostError
from lbq.explain.fields import fields
from lbq.show.ipvs import numeric
from lbq.top.layout import short
from lbq.top.newest import KEPT, Decision
from lbq.trace.records import Traced, decode

PAGES = 32              # that a look reads
SECOND = 1_000_000_000


class TracedDecisions:
    """Reads a trace of everything, and keeps the packets that began a connection or went nowhere."""

    title = "newest decisions"

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Begin anew, with another director."""
        self.kept: deque[Decision] = deque(maxlen=KEPT)
        self.missed = 0                             # packets
        self.refused = ""                           # why there is no trace
        self._missed_before = 0                     # the present trace
        self._begun: dict | None = None             # the director's answer: its number, and the outcomes' names

    def read(self, client: ControlClient) -> None:
        """Take in what was decided since the last look, and see that there is a trace."""
        try:
            if self._begun is None:
                self._begin(client)
            for _ in range(PAGES):
                records, counters = client.call("trace_read", trace=self._begun["trace"])
                for traced in decode(bytes.fromhex(records), self._begun["outcomes"]):
                    self.see(traced)
                self.missed = self._missed_before + counters["lost"]
                if not counters["waiting"]:
                    break
            else:                   # the rest is old when it is its turn
                self.missed += counters["waiting"]
                self.end(client)
                self._begin(client)
        except HostError as error:  # somebody else traces, or this trace has ended, because it was not read
            self._begun, self.refused = None, str(error)
        else:
            self.refused = ""

    def end(self, client: ControlClient) -> None:
        """Leave no trace behind."""
        if self._begun is not None:
            client.call("trace_stop", trace=self._begun["trace"])

    def _begin(self, client: ControlClient) -> None:
        self._begun, self._missed_before = client.call("trace_start"), self.missed

    def see(self, traced: Traced) -> None:
        """Keep what was decided about one packet, if that is of interest."""
        if not traced.is_new and not traced.is_dropped():
            return
        its = fields(traced.before)
        what = f"DROP {traced.outcome.removeprefix('dropped_')}" if traced.is_dropped() else traced.state_after
        self.kept.appendleft(Decision(traced.now_ns / SECOND, _end(its, "source"),
                                      f"{its.get('protocol', '?')}".lower() + f":{_end(its, 'destination')}",
                                      traced.server or "nobody", what))

    def remark(self) -> str:
        """Return what is to be known of them, or an empty string."""
        if self.refused:
            return self.refused
        if self.missed:
            return f"{short(self.missed)} packets came too fast to be looked at"
        return "" if self.kept else "none yet"

    def newest(self, count: int) -> list[Decision]:
        """Return the *count* newest, the newest first."""
        return list(self.kept)[:count]


def _end(its: dict, end: str) -> str:
    """Return address and port of one *end* of a packet, as far as it has them."""
    return numeric(str(its.get(end, "?")), its.get(f"{end} port", 0), "")
