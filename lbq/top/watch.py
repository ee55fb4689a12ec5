"""What is known of the running director, from bounded questions: a look costs it the same whatever it has.

    totals, losses, queues      all of it
    services and servers        LINES lines of the listing, the next ones each time, and those on the screen
    connections                 PAGES pages of the table, the next ones each time
    decisions                   on demand: a trace, as many packets as decisions.py says

So what fits into one look is as new as the look, and ten thousand services are in the right order some looks later.
Each look is a connection of its own: a director that is gone, or another one, is noticed by it.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from lbq.control.client import PAGE, ControlClient
from lbq.control.rows import key_of
from lbq.errors import LbqError
from lbq.filters import Wanted
from lbq.grammar import format_service
from lbq.losses import DROPPED
from lbq.model import TEMPLATE, ServiceKey
from lbq.services import MOST_LINES
from lbq.top.decisions import TracedDecisions
from lbq.top.newest import NewestConnections

LINES = 256             # of the listing
SCREEN_LINES = 8        # of a service that is on the screen and not among them
PAGES = 8               # of connections
KEPT = 10_000           # connections that are wanted
FIRST_CONNECTION = 1    # as 0, with which conntrack would be asked what it counts


@dataclass
class Service:
    """A service as it was last seen."""

    key: ServiceKey
    place: int                  # in the listing
    row: dict
    servers: list[dict] = field(default_factory=list)
    round: int = 0              # in which it was last seen
    name: str = ""

    def count(self, what: str) -> int:
        """Return ``active`` or ``inactive`` connections of all its servers."""
        return sum(server[what] for server in self.servers)

    def open_servers(self) -> int:
        """Return how many servers take something new."""
        return sum(1 for server in self.servers if server["weight"] and not server["overloaded"])


class Listing:
    """The services, read a stretch at a time."""

    def __init__(self):
        self.services: dict[ServiceKey, Service] = {}
        self.rounds = 0             # that have ended
        self._cursor = 0
        self._line = 0              # of the service that is entered
        self._last: ServiceKey | None = None        # the service that the last page ended in
        self._seen: set[ServiceKey] = set()

    def read(self, client: ControlClient, shown: Collection[ServiceKey], entered: ServiceKey | None) -> None:
        """Read the next stretch, of the service that is *entered* if there is one, and the services *shown*."""
        self._seen = set()
        if entered is not None and self._read_entered(client, entered):
            return
        following = self._page(client, self._cursor, LINES)
        if following is None:
            for key in [key for key, service in self.services.items() if service.round < self.rounds]:
                del self.services[key]
            self.rounds += 1
        self._cursor = following or 0
        for service in [self.services[key] for key in shown if key in self.services and key not in self._seen]:
            self._page(client, service.place * MOST_LINES, min(1 + len(service.servers), SCREEN_LINES))

    def _read_entered(self, client: ControlClient, key: ServiceKey) -> bool:
        """Read the next servers of one service; return False when it is not where it was."""
        service = self.services.get(key)
        if service is None:
            return False
        start = service.place * MOST_LINES
        if self._line > len(service.servers):
            self._line = 0
        if self._line:
            self._page(client, start, 1)
        self._last = key
        limit = min(LINES, 2 + len(service.servers) - self._line)       # one more than is known
        place, line = divmod(self._page(client, start + self._line, limit) or 0, MOST_LINES)
        self._line = line if place == service.place else 0
        return key in self._seen

    def _page(self, client: ControlClient, cursor: int, limit: int) -> int | None:
        """Read *limit* lines from *cursor* on, which are services and lines of the next one; return what follows."""
        page = client.call("list_page", cursor=cursor, limit=limit)
        place, line = divmod(cursor, MOST_LINES)
        following = MOST_LINES * MOST_LINES if page["next"] is None else page["next"]
        for row in page["services"]:
            self._see(row, place, line, ends=following >= (place + 1) * MOST_LINES)
            place, line = place + 1, 0
        return page["next"]

    def _see(self, row: dict, place: int, line: int, ends: bool) -> None:
        """Take in a row, from line number *line* of its service on; *ends*: to its last one."""
        key = key_of(row)
        service = self.services.get(key)
        if service is None:
            service = self.services[key] = Service(key, place, row, name=format_service(key))
        servers = row.pop("servers")
        service.row, service.round = row, self.rounds
        self._seen.add(key)
        if line == 0:
            service.place = place
        elif key != self._last:         # others were deleted meanwhile: the next round knows better
            return
        first = max(line - 1, 0)
        service.servers[first:None if ends else first + len(servers)] = servers
        self._last = key


class Connections:
    """The connection table, read a stretch at a time."""

    def __init__(self):
        self.newest = NewestConnections()
        self.states: Counter[str] = Counter()       # in the last round, as far as it has got in the first
        self.are_states_whole = False               # they are of a whole round
        self.found: list[dict] = []                 # those that are wanted, likewise, KEPT of them at most
        self.matching = 0                           # how many are
        self.is_found_whole = False
        self.seen = 0                               # connections in this round
        self._wanted: Wanted | None = None
        self._begin()

    def want(self, wanted: Wanted | None) -> None:
        """Collect the connections that pass the test *wanted* from now on."""
        self._wanted, self.found, self.matching, self.is_found_whole = wanted, [], 0, False
        self._begin()

    def read(self, client: ControlClient, now: float) -> None:
        """Read the next stretch, to the end of the table at most."""
        for _ in range(PAGES):
            page = client.call("connections", cursor=self._cursor, limit=PAGE)
            for row in page["connections"]:
                self._see(row, now)
            if page["next"] is None:
                self._end()
                return
            self._cursor = page["next"]
        self._tell(is_whole=False)

    def _begin(self) -> None:
        self._cursor, self.seen, self._states, self._found, self._matching = FIRST_CONNECTION, 0, Counter(), [], 0

    def _see(self, row: dict, now: float) -> None:
        self.seen += 1
        if row["flags"] & TEMPLATE:
            self._states["templates"] += 1
        else:
            self._states[row["state"]] += 1
            self.newest.see(row, now)
        if self._wanted is not None and self._wanted(row):
            self._matching += 1
            if len(self._found) < KEPT:
                self._found.append(row)

    def _tell(self, is_whole: bool) -> None:
        """Show what this round has found, unless a former one has found more."""
        if is_whole or not self.are_states_whole:
            self.states, self.are_states_whole = self._states, is_whole
        if is_whole or not self.is_found_whole:
            self.found, self.matching, self.is_found_whole = self._found, self._matching, is_whole

    def _end(self) -> None:
        self._tell(is_whole=True)
        self.newest.end_round()
        self._begin()


class Watch:
    """Looks at the director that *connect* reaches, and knows what it has seen; *traced* are decisions, if wanted."""

    def __init__(self, connect: Callable[[], ControlClient], traced: TracedDecisions | None = None):
        self.connect = connect
        self.traced = traced
        self.error: LbqError | None = None          # why the last look failed
        self.looked_at: float | None = None         # when the last one that did not
        self.wanted: Wanted | None = None
        self.forget({})

    def forget(self, status: dict) -> None:
        """Begin anew, with another director."""
        self.status = status
        self.totals: dict = {}
        self.losses: dict[str, int] = {}            # by kind
        self.losses_second: dict[str, float] = {}   # in a second, since the look before
        self.listing = Listing()
        self.connections = Connections()
        self.connections.want(self.wanted)
        if self.traced is not None:
            self.traced.forget()

    def want(self, wanted: Wanted | None) -> None:
        """Collect the connections that pass the test *wanted* from now on."""
        self.wanted = wanted
        self.connections.want(wanted)

    @property
    def newest(self) -> NewestConnections | TracedDecisions:
        """Where the newest decisions come from."""
        return self.connections.newest if self.traced is None else self.traced

    def look(self, now: float, shown: Collection[ServiceKey] = (), entered: ServiceKey | None = None) -> None:
        """Ask for the next stretch of everything; *error* tells why that was not possible."""
        try:
            with self.connect() as client:
                status = client.call("status")
                if (status["pid"], status["started"]) != (self.status.get("pid"), self.status.get("started")):
                    self.forget(status)
                self.status = status
                self._see_totals(client.call("totals"), now)
                self.listing.read(client, shown, entered)
                self.connections.read(client, now)
                if self.traced is not None:
                    self.traced.read(client)
        except LbqError as error:
            self.error = error
        else:
            self.error, self.looked_at = None, now

    def end(self) -> None:
        """Leave the director as it was."""
        if self.traced is not None:
            with suppress(LbqError), self.connect() as client:
                self.traced.end(client)

    def _see_totals(self, totals: dict, now: float) -> None:
        losses = {**totals["counters"], **(totals["queue"] or {})}
        losses = {kind: losses[kind] for kind in DROPPED if losses.get(kind)}
        passed = now - self.looked_at if self.totals and self.looked_at is not None else 0
        self.losses_second = {kind: max(count - self.losses.get(kind, 0), 0) / passed
                              for kind, count in losses.items()} if passed > 0 else {}
        self.totals, self.losses = totals, losses
