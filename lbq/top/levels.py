"""What can be looked into: all services, the servers of one, the connections of one server.

A level knows its rows and their columns, in which order they are, and which is selected.  Rows are sorted by what was
last seen of them; those that are equal stay in the order of ``lbq list``.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from lbq import filters
from lbq.filters import Wanted
from lbq.grammar import format_service
from lbq.model import ServiceKey
from lbq.show.ipvs import numeric
from lbq.top.layout import Column, duration
from lbq.top.newest import IDENTITY, endpoint, service_of
from lbq.top.watch import KEPT, Service, Watch

NAME_WIDTH = 12
ENDPOINT_WIDTH = 19         # of what is left away rather than cut
RATES = (("CONN/S", 7, ("conns",)), ("PKT/S", 8, ("packets_in", "packets_out")), ("IN/S", 4, ("bytes_in",)),
         ("OUT/S", 5, ("bytes_out",)))
FIRST_SORTED_BY = "PKT/S"


def _rate(names: Sequence[str]) -> Callable[[dict], int]:
    """Return what adds up the rates *names* of a row."""
    return lambda row: sum(row["rates"][name] for name in names)


def _of_service(value: Callable[[dict], Any]) -> Callable[[Service], Any]:
    return lambda service: value(service.row)


def _server_name(row: dict) -> str:
    return numeric(row["address"], row["port"], "")


def _state(row: dict) -> str:
    """Return whether a server takes something new: up, quiesced (weight 0) or full (its upper threshold)."""
    if row["weight"] == 0:
        return "quiesced"
    return "full" if row["overloaded"] else "up"


def _parts(numbers: tuple[int, int]) -> str:
    return "{}/{}".format(*numbers)


SERVICE_COLUMNS = (
    Column("SERVICE", 10, lambda service: service.key, format_service, NAME_WIDTH),
    Column("SCHED", 1, lambda service: service.row["scheduler"], str, 5),
    Column("UP/ALL", 3, lambda service: (service.open_servers(), len(service.servers)), _parts),
    Column("ACTIVE", 9, lambda service: service.count("active")),
    Column("INACT", 2, lambda service: service.count("inactive")),
    *(Column(title, importance, _of_service(_rate(names))) for title, importance, names in RATES),
)
SERVER_COLUMNS = (
    Column("SERVER", 10, _server_name, str, NAME_WIDTH),
    Column("STATE", 6, _state, str, 8),
    Column("MODE", 1, lambda row: row["mode"], str, 5),
    Column("WEIGHT", 5.5, lambda row: row["weight"]),
    Column("ACTIVE", 9, lambda row: row["active"]),
    Column("INACT", 3, lambda row: row["inactive"]),
    *(Column(title, importance, _rate(names)) for title, importance, names in RATES),
    Column("BOUND", 0, lambda row: row["persistent"]),
)
CONNECTION_COLUMNS = (
    Column("CLIENT", 10, lambda row: endpoint(row, "c"), str, NAME_WIDTH),
    Column("STATE", 9, lambda row: row["state"], str, 11),
    Column("LEFT", 8, lambda row: row["expires_seconds"], duration, 7),
    Column("PKT IN", 7, lambda row: row["packets_in"]),
    Column("SERVICE", 5, service_of, str, ENDPOINT_WIDTH),
    Column("SERVER", 4, lambda row: endpoint(row, "d"), str, ENDPOINT_WIDTH),
)


def decision_columns(now: float, arrow: str) -> tuple[Column, ...]:
    """Return the columns of the newest decisions, as they are told at *now*."""
    return (
        Column("", 9, lambda decision: max(int(now - decision.at), 0), duration, 5),
        Column("", 10, lambda decision: decision.client, str, NAME_WIDTH),
        Column("", 7, lambda decision: f"{arrow} {decision.service}", str, NAME_WIDTH),
        Column("", 8, lambda decision: f"{arrow} {decision.server}", str, NAME_WIDTH),
        Column("", 6, lambda decision: decision.what, str, 11),
    )


class Level:
    """Rows to choose from; *inside* is what can be seen of one."""

    inside = ""
    columns: tuple[Column, ...] = ()

    def __init__(self):
        self.sorted_by = next((number for number, column in enumerate(self.columns)
                               if column.title == FIRST_SORTED_BY), 0)
        self.is_reversed = False
        self.filter = ""
        self.selected: Hashable | None = None       # None: whatever is at *index*
        self.index = 0
        self.first = 0                              # row on the screen

    # ---- What differs from level to level -------------------------------------------------------------------

    entered: ServiceKey | None = None       # the service it is about
    wanted: Wanted | None = None            # the connections it is about

    def all(self, watch: Watch) -> list[Any]:
        """Return its rows in the director's order."""
        raise NotImplementedError

    def identity(self, row: Any) -> Hashable:
        """Return what tells *row* from the others."""
        raise NotImplementedError

    def words(self, row: Any) -> str:
        """Return what a filter is looked for in."""
        raise NotImplementedError

    def enter(self, row: Any) -> Level | None:
        """Return what there is to be seen of *row*."""
        raise NotImplementedError

    def heading(self, watch: Watch, count: int) -> str:
        """Return what is shown, of which there are *count* rows."""
        raise NotImplementedError

    def is_gone(self, watch: Watch) -> bool:
        """Return True when what it is about is there no more."""
        return False

    # ---- What does not ----------------------------------------------------------------------------------------

    @property
    def is_descending(self) -> bool:
        """Whether the largest comes first."""
        return self.columns[self.sorted_by].is_number != self.is_reversed

    def rows(self, watch: Watch) -> list[Any]:
        """Return the rows that pass the filter, sorted."""
        wanted = self.filter.lower()
        found = [row for row in self.all(watch) if not wanted or wanted in self.words(row).lower()]
        return sorted(found, key=self.columns[self.sorted_by].value, reverse=self.is_descending)

    def place(self, rows: Sequence[Any], height: int) -> int:
        """Find the selected row again, scroll until it is among *height* lines; return its index, or -1 of none."""
        if self.selected is not None:
            self.index = next((number for number, row in enumerate(rows) if self.identity(row) == self.selected),
                              self.index)
        self.index = max(min(self.index, len(rows) - 1), 0)
        self.first = min(self.first, self.index, max(len(rows) - height, 0))
        self.first = max(self.first, self.index - height + 1)
        return self.index if rows else -1

    def move(self, rows: Sequence[Any], index: int) -> None:
        """Select another row; at the first one, whatever row is the first."""
        self.index = max(min(index, len(rows) - 1), 0)
        self.selected = self.identity(rows[self.index]) if self.index and rows else None

    def sort_by(self, number: int) -> None:
        """Sort by the column *number*, its natural end first."""
        self.sorted_by, self.is_reversed = number % len(self.columns), False


class Services(Level):
    """All services."""

    inside, columns = "servers", SERVICE_COLUMNS

    def all(self, watch: Watch) -> list[Service]:
        """Return the services that are known."""
        return sorted(watch.listing.services.values(), key=lambda service: service.place)

    def identity(self, row: Service) -> ServiceKey:
        """Return its key."""
        return row.key

    def words(self, row: Service) -> str:
        """Return its name and scheduler, and its servers."""
        return " ".join([row.name, row.row["scheduler"], *map(_server_name, row.servers)])

    def enter(self, row: Service) -> Servers:
        """Return its servers."""
        return Servers(row.key)

    def heading(self, watch: Watch, count: int) -> str:
        """Return how many services there are, and how many of them have been seen."""
        told = watch.status.get("services", 0)
        return f"services: {count}" + ("" if watch.listing.rounds else f" so far, of {told}")


class Servers(Level):
    """The servers of one service."""

    inside, columns = "connections", SERVER_COLUMNS

    def __init__(self, key: ServiceKey):
        super().__init__()
        self.entered = key

    def all(self, watch: Watch) -> list[dict]:
        """Return the servers that are known of the service."""
        service = watch.listing.services.get(self.entered)
        return service.servers if service else []

    def identity(self, row: dict) -> tuple[str, int]:
        """Return its address and port."""
        return row["address"], row["port"]

    def words(self, row: dict) -> str:
        """Return its name, mode and state."""
        return f"{_server_name(row)} {row['mode']} {_state(row)}"

    def enter(self, row: dict) -> Connections:
        """Return its connections."""
        return Connections(self.entered, row["address"], row["port"])

    def heading(self, watch: Watch, count: int) -> str:
        """Return the service with its settings, and how many servers it has."""
        service = watch.listing.services.get(self.entered)
        words = [format_service(self.entered)]
        if service:
            row = service.row
            words += [row["scheduler"], *(f"persistent {row['timeout']}" if flag == "persistent" else flag
                                          for flag in row["flags"]), row["data_path"]]
        return f"{' '.join(words)}, servers: {count}"

    def is_gone(self, watch: Watch) -> bool:
        """Return True when the service is."""
        return bool(watch.listing.rounds) and self.entered not in watch.listing.services


class Connections(Level):
    """The connections of one server."""

    columns = CONNECTION_COLUMNS

    def __init__(self, key: ServiceKey, address: str, port: int):
        super().__init__()
        self.entered = key
        self.server = numeric(address, port, "")
        bracketed = f"[{address}]" if ":" in address else address
        self.wanted = filters.chosen(service=format_service(key), server=self.server if port else bracketed)

    def all(self, watch: Watch) -> list[dict]:
        """Return those that were found."""
        return watch.connections.found

    def identity(self, row: dict) -> tuple:
        """Return what names it."""
        return tuple(row[name] for name in IDENTITY)

    def words(self, row: dict) -> str:
        """Return its ends and its state."""
        return " ".join([endpoint(row, "c"), service_of(row), endpoint(row, "d"), row["state"]])

    def enter(self, row: dict) -> None:
        """Return nothing: a connection has no parts."""

    def heading(self, watch: Watch, count: int) -> str:
        """Return whose they are, how many, and how far the table has been searched."""
        connections = watch.connections
        words = f"{format_service(self.entered)} at {self.server}, connections: {connections.matching}"
        if not connections.is_found_whole:
            return f"{words} among the first {connections.seen}"
        return words if connections.matching <= KEPT else f"{words}, {KEPT} of them here"

    def is_gone(self, watch: Watch) -> bool:
        """Return True when the service is."""
        return bool(watch.listing.rounds) and self.entered not in watch.listing.services
