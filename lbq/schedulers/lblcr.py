"""Locality-based least-connection with replication (``lblcr``): a destination stays with a *set* of caches.

As lblc, but when a destination is too much for its cache, another one, chosen by wlc, joins its set, and the least
loaded of the set serves it.  A set that has been the same for ``expiration_seconds`` loses its most loaded member.
Members that are overloaded, quiesced or gone stay in the set and are passed over.

Kernel: ip_vs_lblcr.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.locality import Entry, LocalityBased, is_too_busy, present
from lbq.schedulers.wlc import WeightedLeastConnection

SECOND = 1_000_000_000


class RememberedSet(Entry):
    """The servers of a destination, the newest member first; *last_change* is in ns."""

    def __init__(self, address: int, last_use: int, server: RealServer):
        self.address = address
        self.last_use = last_use
        self.last_change = last_use
        self.servers = [server]

    def join(self, server: RealServer, now_ns: int) -> None:
        """Make *server* a member, unless it is one."""
        if server not in self.servers:
            self.servers.insert(0, server)
            self.last_change = now_ns

    def shrink(self, now_ns: int) -> None:
        """Drop the member with the most connections per unit of weight; quiesced ones are not looked at."""
        most = None
        for server in self.servers:
            if server.weight > 0 and (
                    most is None or most.overhead() * server.weight < server.overhead() * most.weight):
                most = server
        if most is not None:
            self.servers.remove(most)
            self.last_change = now_ns

    def least_loaded(self, service: VirtualService) -> RealServer | None:
        """Return the usable member with the fewest connections per unit of weight, or None."""
        best = None
        for place in range(len(self.servers)):
            server = self.servers[place] = present(self.servers[place], service)
            if not server.available or not server.can_schedule():
                continue
            if best is None or best.overhead() * server.weight > server.overhead() * best.weight:
                best = server
        return best


class LocalityBasedWithReplication(LocalityBased):
    """Choose out of this destination's set, which grows by wlc and shrinks with time."""

    name = "lblcr"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        entry = self.memory.find(flow.vaddr, flow.now_ns)
        if entry is not None:
            server = entry.least_loaded(service)
            if len(entry.servers) > 1 and flow.now_ns > entry.last_change + self.expiration_seconds * SECOND:
                entry.shrink(flow.now_ns)   # it may be the very server that is chosen now
            if server is not None and not is_too_busy(server, service):
                return server
        server = WeightedLeastConnection.schedule(self, service, flow)
        if server is None:
            return None
        if entry is None:
            self.memory.add(RememberedSet(flow.vaddr, flow.now_ns, server), server)
        else:
            entry.join(server, flow.now_ns)
        return server
