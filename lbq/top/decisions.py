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
from lbq.trace.command import PAGE
from lbq.trace.records import Traced, decode

PAGES = 8               # that a look reads
FRESH_SECONDS = 2.5     # after which a trace may be somebody else's: the director ends it when nobody reads it for 3
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
        self._names: list[str] | None = None        # of outcomes; None: there is no trace of ours
        self._read_at = 0.0

    def read(self, client: ControlClient, now: float) -> None:
        """Take in what was decided since the last look, and see that there is a trace."""
        if not self.is_ours(now):
            self._names = None
        try:
            if self._names is None:
                self._begin(client)
            for _ in range(PAGES):
                records, counters = client.call("trace_read", limit=PAGE)
                for traced in decode(bytes.fromhex(records), self._names):
                    self.see(traced)
                waiting = counters.get("waiting", 0)            # of a trace that is gone nothing is counted
                self.missed = self._missed_before + counters.get("lost", 0)
                if not waiting:
                    break
            else:                   # the rest is old when it is its turn
                self.missed += waiting
                client.call("trace_stop")
                self._begin(client)
        except HostError as error:
            self._names, self.refused = None, str(error)
        else:
            self.refused, self._read_at = "", now

    def is_ours(self, now: float) -> bool:
        """Return True while there is a trace that was begun here."""
        return self._names is not None and now - self._read_at < FRESH_SECONDS

    def end(self, client: ControlClient, now: float) -> None:
        """Leave no trace behind."""
        if self.is_ours(now):
            client.call("trace_stop")

    def _begin(self, client: ControlClient) -> None:
        self._names, self._missed_before = client.call("trace_start"), self.missed

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
