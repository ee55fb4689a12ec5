"""Locality-based least-connection with replication (``lblcr``): a destination stays with a *set* of caches.

As lblc, but a destination that is too much for one cache gets another one added to its set, and the least loaded of
the set serves it.  A set that has not grown for ``expiration_seconds`` loses its most loaded member.

Kernel: ip_vs_lblcr.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.lblc import is_room
from lbq.schedulers.locality import SECOND, Memory, is_overloaded
from lbq.schedulers.wlc import WeightedLeastConnection


class RememberedSet:
    """The servers of a destination, the newest member first."""

    def __init__(self, address: int, server: RealServer, now_ns: int):
        self.address = address
        self.servers = [server]
        self.last_use = now_ns
        self.last_change = now_ns

    def least_loaded(self) -> RealServer | None:
        """Return the member that wlc would choose."""
        best = None
        for server in self.servers:
            if server.overloaded or not server.available or (best is None and server.weight <= 0):
                continue
            if best is None or best.overhead() * server.weight > server.overhead() * best.weight:
                best = server
        return best

    def most_loaded(self) -> RealServer | None:
        """Return the member with the most connections per unit of weight."""
        most = None
        for server in self.servers:
            if server.weight > 0 and (
                    most is None or most.overhead() * server.weight < server.overhead() * most.weight):
                most = server
        return most


class LocalityBasedWithReplication(WeightedLeastConnection):
    """Choose out of this destination's set, which grows by wlc and shrinks with time."""

    name = "lblcr"

    def __init__(self):
        self.memory = Memory()
        self.expiration_seconds = 86400

    def bind(self, service: VirtualService) -> None:
        """Start with nothing remembered."""
        self.memory = Memory()

    def tick(self, service: VirtualService, now_ns: int) -> None:
        """Forget what has not been used for long."""
        self.memory.check(now_ns, self.expiration_seconds)

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        entry = self.memory.find(flow.vaddr)
        if entry is not None:
            entry.last_use = flow.now_ns
            server = entry.least_loaded()
            self._shrink(entry, flow.now_ns)
            if server is not None and not is_overloaded(server, service):
                return server
        server = WeightedLeastConnection.schedule(self, service, flow)
        if server is None:
            return None
        if entry is None:
            if is_room(self.memory, server):
                self.memory.add(RememberedSet(flow.vaddr, server, flow.now_ns))
        elif server not in entry.servers:
            entry.servers.insert(0, server)
            entry.last_change = flow.now_ns
        return server

    def _shrink(self, entry: RememberedSet, now_ns: int) -> None:
        if len(entry.servers) > 1 and now_ns > entry.last_change + self.expiration_seconds * SECOND:
            most = entry.most_loaded()
            if most is not None:
                entry.servers.remove(most)
                entry.last_change = now_ns
