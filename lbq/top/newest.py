"""The newest connections: those that are in the table now and were not when it was last read.

What is shown of the newest decisions comes from an object with ``title``, ``remark()`` and ``newest()``: from this one,
or with ``--trace`` from the one in ``decisions.py``.
"""
from __future__ import annotations

from collections import deque
from typing import NamedTuple

from lbq.show.ipvs import numeric

KEPT = 100
MOST_CONNECTIONS = 1 << 16      # in a table whose connections are told apart: about 20 MB
IDENTITY = ("protocol", "caddr", "cport", "vaddr", "vport", "daddr", "dport")


class Decision(NamedTuple):
    """One line: when it was noticed, who asked for what, who got it, and what is to be said about it."""

    at: float
    client: str
    service: str
    server: str
    what: str


def endpoint(row: dict, end: str) -> str:
    """Return the address and port of one *end* of a connection: ``c``, ``v`` or ``d``."""
    return numeric(row[f"{end}addr"], row[f"{end}port"], row["protocol"])


def service_of(row: dict) -> str:
    """Return what the client of a connection asked for."""
    return f"{row['protocol']}:{endpoint(row, 'v')}"


class NewestConnections:
    """Is shown the rows of the connection table, round after round, and keeps those it has not seen before."""

    title = "newest connections"

    def __init__(self):
        self.before: set[tuple] | None = None       # what the last round had; None: there was none
        self.now: set[tuple] = set()
        self.kept: deque[Decision] = deque(maxlen=KEPT)
        self.is_too_much = False

    def see(self, row: dict, now: float) -> None:
        """Look at one *row* of the table."""
        if self.is_too_much:
            return
        identity = tuple(row[name] for name in IDENTITY)
        if self.before is not None and identity not in self.before and identity not in self.now:
            self.kept.appendleft(Decision(now, endpoint(row, "c"), service_of(row), endpoint(row, "d"), row["state"]))
        self.now.add(identity)
        if len(self.now) > MOST_CONNECTIONS:
            self.is_too_much, self.before, self.now = True, None, set()
            self.kept.clear()

    def end_round(self) -> None:
        """The table has been seen to its end."""
        self.before, self.now = None if self.is_too_much else self.now, set()
        self.is_too_much = False

    def remark(self) -> str:
        """Return why nothing is shown, or an empty string."""
        if self.kept:
            return ""
        if self.is_too_much:
            return f"not told apart above {MOST_CONNECTIONS} connections"
        return "none yet" if self.before is not None else "the table is being read for the first time"

    def newest(self, count: int) -> list[Decision]:
        """Return the *count* newest, the newest first."""
        return list(self.kept)[:count]
