"""Locality-based least-connection (``lblc``): a destination stays with its cache until that is too busy.

For transparent caches behind a firewall mark.  The first packet to a destination is scheduled by wlc, and the choice
is remembered.  Wlc chooses again when the remembered server is gone, quiesced, or has more active connections than
its weight while another has less than half of its own.

Surprise: the overload flag of ``-x`` is not looked at for a remembered server.

Kernel: ip_vs_lblc.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.locality import Entry, LocalityBased, is_classic, is_too_busy, present
from lbq.schedulers.wlc import WeightedLeastConnection


class Remembered(Entry):
    """Where a destination goes."""

    def __init__(self, address: int, last_use: int, server: RealServer):
        self.address = address
        self.last_use = last_use
        self.server = server


class LocalityBasedLeastConnection(LocalityBased):
    """Choose the server that this destination had before, else by wlc."""

    name = "lblc"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        entry = self.memory.find(flow.vaddr, flow.now_ns)
        if entry is not None:
            server = entry.server = present(entry.server, service)
            if server.available and server.weight > 0 and not is_too_busy(server, service):
                return server
        server = WeightedLeastConnection.schedule(self, service, flow)
        if server is None:
            return None
        if entry is None:
            self.memory.add(Remembered(flow.vaddr, flow.now_ns, server), server)
        elif entry.server is not server:
            entry.server = server
            if is_classic(server):
                self.memory.count += 1      # classic kernels put a new entry in its place and count both
        return server
