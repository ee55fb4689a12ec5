"""A service whose servers have letters for names, to write scheduling histories down as text."""
from __future__ import annotations

import pytest

import lbq.schedulers
from lbq.model import CLASSIC, TCP, Flow, ServiceKey
from lbq.services import ServiceTable

VIP = 0x0A000001                # 10.0.0.1
CLIENT = 0xC0A80001             # 192.168.0.1
SERVERS = 0x0A010000            # 10.1.0.0; server A is 10.1.0.1, B 10.1.0.2
KEY = ServiceKey(TCP, VIP, 80)


def address_of(name: str) -> int:
    """Return the address of server ``A``, ``B``, …"""
    return SERVERS + ord(name) - ord("A") + 1


def name_of(server) -> str:
    """Return the letter of *server*, ``-`` for none."""
    return "-" if server is None else chr(ord("A") + server.address - SERVERS - 1)


def flow(caddr: int = CLIENT, cport: int = 40001, vaddr: int = VIP, now_ns: int = 1, protocol: int = TCP) -> Flow:
    """Return a client's flow."""
    return Flow(protocol, caddr, cport, vaddr, 80, now_ns=now_ns)


class Farm:
    """One service; its servers have letters for names."""

    def __init__(self, scheduler: str, servers: str = "", profile: str = "new", flags: int = 0):
        self.table = ServiceTable(profile)
        self.table.add_service(KEY, scheduler, flags)
        for name in servers.split():
            self.add(name)

    @property
    def service(self):
        """Return the virtual service."""
        return self.table.service(KEY)

    def add(self, name: str) -> None:
        """Add ``A3``: server A of weight 3; weight 1 when none is said."""
        self.table.add_server(KEY, address_of(name[0]), 80, int(name[1:] or 1))

    def edit(self, name: str) -> None:
        """Give a server another weight."""
        self.table.set_server(KEY, address_of(name[0]), 80, int(name[1:]))

    def delete(self, name: str) -> None:
        """Delete a server."""
        self.table.delete_server(KEY, address_of(name), 80)

    def tick(self, now_ns: int) -> None:
        """Let a second pass, and all that it leads to."""
        self.table.tick(now_ns)
        while self.table.go_on():
            pass

    def server(self, name: str):
        """Return the server itself."""
        return self.table.server(KEY, address_of(name), 80)

    def load(self, **loads: tuple[int, int]) -> None:
        """Set (active, total) of servers by name."""
        for name, (active, total) in loads.items():
            server = self.server(name)
            server.active_conns, server.inactive_conns = active, total - active

    def overload(self, names: str, overloaded: bool = True) -> None:
        """Set or clear the overload flag of servers."""
        for name in names:
            self.server(name).overloaded = overloaded

    @property
    def scheduler(self):
        """Return the service's scheduler."""
        return self.service.scheduler

    def rebind(self, scheduler: str) -> None:
        """Give the service, with its servers, another scheduler."""
        self.service.scheduler = lbq.schedulers.create(scheduler)
        self.service.scheduler.bind(self.service)

    def picks(self, count: int, then=None) -> str:
        """Return who is chosen in the next *count* rounds, ``-`` for nobody; *then* is told each."""
        chosen = []
        for _ in range(count):
            server = self.scheduler.schedule(self.service, flow())
            chosen.append(name_of(server))
            if server is not None and then is not None:
                then(server)
        return " ".join(chosen)

    def serve(self, *flows: Flow) -> str:
        """Return who is chosen for each flow."""
        return " ".join(name_of(self.scheduler.schedule(self.service, each)) for each in flows)

    def clients(self, numbers, **more) -> str:
        """Return who is chosen for clients 192.168.0.1, .2, … by *numbers*."""
        return self.serve(*(flow(CLIENT - 1 + number, **more) for number in numbers))

    def ports(self, numbers, **more) -> str:
        """Return who is chosen for the client 192.168.0.1 with ports by *numbers*."""
        return self.serve(*(flow(cport=number, **more) for number in numbers))

    def destinations(self, numbers, **more) -> str:
        """Return who is chosen for destinations 10.0.0.1, .2, … by *numbers*."""
        return self.serve(*(flow(vaddr=VIP - 1 + number, **more) for number in numbers))

    def table_names(self) -> str:
        """Return the letters of the scheduler's table, slot by slot."""
        return "".join(name_of(server) for server in self.scheduler.table)


def count_active(server) -> None:
    """A TCP connection that stays."""
    server.active_conns += 1


def count_inactive(server) -> None:
    """A UDP connection, which never becomes active."""
    server.inactive_conns += 1


@pytest.fixture(name="active")
def fixture_active():
    """Return what a TCP connection that stays does to its server."""
    return count_active


@pytest.fixture(name="inactive")
def fixture_inactive():
    """Return what a UDP connection does to its server."""
    return count_inactive


@pytest.fixture
def farm():
    """Return the class, to make farms of."""
    return Farm


@pytest.fixture(params=["new", CLASSIC])
def profile(request) -> str:
    """Run the test under both kernel profiles."""
    return request.param
