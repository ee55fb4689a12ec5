"""Locality-based least-connection (``lblc``): a destination stays with its cache until that is overloaded.

For transparent caches behind a firewall mark.  The first packet to a destination chooses by wlc and the choice is
remembered.  Another one is chosen, again by wlc, when the remembered server is gone, quiesced, or has more active
connections than its weight while some other has less than half of its own.  The overload flag of -x is *not* looked
at for a remembered server.

Kernel: ip_vs_lblc.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.locality import MAX_ENTRIES, Memory, is_overloaded
from lbq.schedulers.wlc import WeightedLeastConnection


class Remembered:
    """Where a destination goes."""

    def __init__(self, address: int, server: RealServer, last_use: int):
        self.address = address
        self.server = server
        self.last_use = last_use


class LocalityBasedLeastConnection(WeightedLeastConnection):
    """Choose what this destination had before, else by wlc."""

    name = "lblc"

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
            server = entry.server
            if server.available and server.weight > 0 and not is_overloaded(server, service):
                return server
        server = WeightedLeastConnection.schedule(self, service, flow)
        if server is None:
            return None
        if entry is not None:
            entry.server = server
        elif is_room(self.memory, server):
            self.memory.add(Remembered(flow.vaddr, server, flow.now_ns))
        return server


def is_room(memory: Memory, server: RealServer) -> bool:
    """Return False when new kernels (from 6.1.192) remember no more: at one and a half times the usual most."""
    return server.active_cost == 256 or memory.count < MAX_ENTRIES * 3 // 2
