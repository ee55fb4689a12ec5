"""What can be asked of a running director and changes nothing: listings, counters, one packet's facts, a trace.

The public coroutines are methods of the control socket (server.py), as those of ``Operations``, which change things.
"""
from __future__ import annotations

import asyncio
import time

from lbq.conntrack import decode, split
from lbq.control.channel import PacketProcess
from lbq.control.rows import key_of
from lbq.errors import ConfigError, HostError
from lbq.grammar import MAX_MARK, PROTOCOLS, ServerWords, read_endpoint
from lbq.losses import LossWatch, queue_counters
from lbq.model import NAT, ServiceKey
from lbq.options import DATA_PATHS, MAX_CONNECTIONS, ServiceWords
from lbq.queues import Queues
from lbq.services import MOST_LINES, join_pages
from lbq.trace import records

PAGE = 256              # connections; a page leaves the packet process in under 200 µs
LINES_PAGE = 8          # services and servers; likewise
LINES = 256             # of such pages together, in an answer
LOOKS = 3               # at a service that is another meanwhile, before giving up
TRACE_PAGE = 64         # records of a trace; a page leaves the packet process in under 200 µs
TRACE_SECONDS = 3       # a trace that is not read for so long ends: whoever wanted it is gone
CONNTRACK_SECONDS = 2   # what an asker waits for conntrack's counters, and how often it looks
CONNTRACK_PAUSE = 0.005
MAX_CURSOR = MOST_LINES << 32


class Questions:
    """The asking half of a running director."""

    def __init__(self, process: PacketProcess, facts: dict):
        self.process = process
        self.facts = facts                      # what `status` tells and never changes
        self.services: dict[ServiceKey, ServiceWords] = {}
        self.servers: dict[tuple, ServerWords] = {}     # by service; address, port and family
        self.queues = Queues(facts["queue"], facts.get("workers", 1))
        self.losses = LossWatch()
        self.hears_conntrack = False
        self.traces = 0                         # begun so far, which is the newest one's number
        self.traced: int | None = None          # the number of the one that runs
        self.traced_at = 0.0                    # when it was last read, of time.monotonic()

    async def status(self) -> dict:
        """Return what this director is."""
        counters = await self.process.call("statistics")
        return {**self.facts, "services": len(self.services),
                **{name: counters[name] for name in ("connections", "connections_max")},
                "traced": self.traced is not None}

    async def list(self) -> list:
        """Return a row for every service, with its servers, newest first."""
        await self._hear_conntrack()
        rows, cursor = [], 0
        while cursor is not None:
            page, cursor = await self.process.call("list_services", cursor, LINES_PAGE)
            join_pages(rows, page)
        return self._completed(rows)

    async def list_page(self, cursor: int = 0, limit: int = LINES) -> dict:
        """Return *limit* lines of the listing, or a few more, from *cursor* on, and the cursor of the next or None.

        A service is one line and each of its servers another (``services.page`` says what a cursor is).  It is for
        who looks again and again: conntrack is not asked what it counts.
        """
        if not 0 <= cursor <= MAX_CURSOR or limit < 1:
            raise ConfigError(f"a page has a cursor from 0 to {MAX_CURSOR} and a limit from 1")
        rows = []
        for _ in range(0, min(limit, LINES), LINES_PAGE):
            page, cursor = await self.process.call("list_services", cursor, min(limit, LINES_PAGE))
            join_pages(rows, page)
            if cursor is None:
                break
        return {"services": self._completed(rows), "next": cursor}

    def _completed(self, rows: list[dict]) -> list[dict]:
        """Return the engine's *rows* with what only the front knows of a service."""
        for row in rows:
            words = self.services.get(key_of(row))
            row["pe"] = words.pe if words else ""       # deleted since
            row["data_path"] = words.data_path if words else DATA_PATHS[0]
        return rows

    async def _hear_conntrack(self) -> None:
        """Wait until the engine has read what conntrack counts, as long as that is of use."""
        if not self.hears_conntrack:
            return
        number = await self.process.call("ask_conntrack")
        deadline = time.monotonic() + CONNTRACK_SECONDS
        while await self.process.call("told_by_conntrack") < number and time.monotonic() < deadline:
            await asyncio.sleep(CONNTRACK_PAUSE)

    async def stats(self) -> dict:
        """Return the services' rows and the ``totals``."""
        return {"services": await self.list(), **await self.totals()}

    async def totals(self) -> dict:
        """Return the sum of all services, the engine's counters and those of the kernel's queues.

        And how many seconds ago the last packet was lost, by reason.
        """
        counted = queue_counters(self.queues.all)
        return {"total": await self.process.call("totals"), "counters": await self.process.call("statistics"),
                "queue": counted._asdict() if counted else None,
                "last_lost": self.losses.seconds_since(time.monotonic())}

    async def connections(self, cursor: int = 0, limit: int = PAGE) -> dict:
        """Return a page of connections and the cursor of the next one, or None after the last."""
        if not 0 <= cursor <= MAX_CONNECTIONS or limit < 1:
            raise ConfigError(f"a page has a cursor from 0 to {MAX_CONNECTIONS} and a limit from 1")
        if cursor == 0:
            await self._hear_conntrack()
        page, raw = await self.process.call("list_connections", cursor, min(limit, PAGE))
        return {"connections": [decode(record, page["now"]) for record in split(raw)], "next": page["ok"]}

    async def look(self, protocol: str, source: str, destination: str, fwmark: int = 0) -> dict:
        """Return what the engine knows of a packet between two endpoints, and its service's row (explain/twin.py)."""
        if protocol not in PROTOCOLS or not 0 <= fwmark <= MAX_MARK:
            raise ConfigError(f"a packet has one of the protocols {', '.join(PROTOCOLS)}, and a mark below 2^32")
        (caddr, cport, family), (vaddr, vport, other) = map(read_endpoint, (source, destination))
        if family != other:
            raise ConfigError(f"{source} and {destination} are not of one address family")
        asked = (PROTOCOLS[protocol], caddr, cport, vaddr, vport, fwmark,
                 self.service_of(PROTOCOLS[protocol], caddr, cport, family))
        for _ in range(LOOKS):
            picture = await self.process.call("look", family, *asked)
            rows, cursor = [], picture["service"] and picture["service"]["cursor"]
            while cursor is not None and len(rows) < 2:
                page, cursor = await self.process.call("list_services", cursor, LINES_PAGE)
                join_pages(rows, page)
            if not rows or key_of(rows[0]) == ServiceKey(*picture["service"]["key"]):
                row = self._completed(rows[:1])[0] if rows else None
                return {**picture, "now": time.monotonic_ns(), "row": row}
        raise HostError("cannot look at a service: services come and go too fast; try again")

    def service_of(self, protocol: int, address: int, port: int, family: int) -> ServiceKey | None:
        """Return a service of which this is the end of a NAT server, None when there is none.

        The one that wants answers to its datagrams to come from the VIP, as long as there is no other such.
        """
        found = [key for (key, *place), words in self.servers.items()
                 if (place[0], place[2]) == (address, family) and (place[1] or key.port) in (0, port)
                 and words.mode == NAT and (key.fwmark or key.protocol == protocol)]
        answering = [key for key in found if self.services[key].ops_replies]
        silent = [key for key in found if key not in answering]
        return answering[0] if len(answering) == 1 else next(iter(silent), None)

    # ---- Trace ---------------------------------------------------------------------------------------------

    async def trace_start(self, client: str | None = None, service: str | None = None, server: str | None = None,
                          state: str | None = None, only_new: bool = False, only_drops: bool = False,
                          every: int = 1) -> dict:
        """Begin to keep what is decided about packets, until it is not read any more.

        Return the trace's number, by which it is read and ended, and the outcomes' names.
        """
        packets = records.wanted(client=client, service=service, server=server, state=state, only_new=only_new,
                                 only_drops=only_drops, every=every)
        if self.facts["engine"] != "fast":
            raise HostError("only the fast engine can be traced; run the director with --engine fast")
        if self.traced is not None:
            raise HostError("somebody is tracing already, and only one can; end that lbq trace first")
        self.traces += 1
        number = self.traces
        self.traced, self.traced_at = number, time.monotonic()      # before: two that ask at once must not both begin
        try:
            return {"trace": number, "outcomes": await self.process.call("trace_start", packets)}
        except BaseException:
            self.traced = None
            raise

    async def trace_read(self, trace: int, limit: int = TRACE_PAGE) -> list:
        """Return a page of records in hexadecimal digits (trace/records.py), and the trace's counters."""
        if trace != self.traced:        # another may have begun since
            raise HostError("the trace was ended, because nobody read it")
        self.traced_at = time.monotonic()
        return await self.process.call("trace_read", max(1, min(limit, TRACE_PAGE)))

    async def trace_stop(self, trace: int) -> None:
        """Keep nothing any more, unless another trace has begun since."""
        if trace == self.traced:
            self.traced = None
            await self.process.call("trace_stop")

    async def end_stale_trace(self) -> None:
        """Keep no trace whose reader is gone."""
        if self.traced is not None and time.monotonic() > self.traced_at + TRACE_SECONDS:
            await self.trace_stop(self.traced)
