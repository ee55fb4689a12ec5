"""A service whose servers have letters for names, to write scheduling histories down as text."""
from __future__ import annotations

import pytest

import lbq.schedulers
from lbq.model import CLASSIC, TCP, Flow, ServiceKey
from lbq.services import ServiceTable

KEY = ServiceKey(TCP, 1, 80)
FLOW = Flow(TCP, 10, 40000, 1, 80)


class Farm:
    """One service; server ``A`` has address 0x0A, ``B`` 0x0B, and so on."""

    def __init__(self, scheduler: str, servers: str = "", profile: str = "new"):
        self.table = ServiceTable(profile)
        self.table.add_service(KEY, scheduler)
        for name in servers.split():
            self.add(name)

    @property
    def service(self):
        """Return the virtual service."""
        return self.table.service(KEY)

    def add(self, name: str) -> None:
        """Add ``A3``: server A of weight 3; weight 1 when none is said."""
        self.table.add_server(KEY, int(name[0], 36), 80, int(name[1:] or 1))

    def edit(self, name: str) -> None:
        """Give a server another weight."""
        self.table.set_server(KEY, int(name[0], 36), 80, int(name[1:]))

    def delete(self, name: str) -> None:
        """Delete a server."""
        self.table.delete_server(KEY, int(name, 36), 80)

    def server(self, name: str):
        """Return the server itself."""
        return self.table.server(KEY, int(name, 36), 80)

    def load(self, **loads: tuple[int, int]) -> None:
        """Set (active, total) of servers by name."""
        for name, (active, total) in loads.items():
            server = self.server(name)
            server.active_conns, server.inactive_conns = active, total - active

    def rebind(self, scheduler: str) -> None:
        """Give the service, with its servers, another scheduler."""
        self.service.scheduler = lbq.schedulers.create(scheduler)
        self.service.scheduler.bind(self.service)

    def picks(self, count: int, then=None) -> str:
        """Return who is chosen in the next *count* rounds, ``-`` for nobody; *then* is told each."""
        chosen = []
        for _ in range(count):
            server = self.service.scheduler.schedule(self.service, FLOW)
            chosen.append("-" if server is None else f"{server.address:X}")
            if server is not None and then is not None:
                then(server)
        return " ".join(chosen)


@pytest.fixture
def farm():
    """Return the class, to make farms of."""
    return Farm


@pytest.fixture(params=["new", CLASSIC])
def profile(request) -> str:
    """Run the test under both kernel profiles."""
    return request.param
