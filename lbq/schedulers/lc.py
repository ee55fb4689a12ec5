"""Least-connection (``lc``): the server with the fewest connections, whatever its weight.

An active connection counts 256 times (257 in new kernels) an inactive one.  Among equals the first in the list
wins, which is the server added last.  Weight matters only when it is 0: then the server is passed over.

Kernel: ip_vs_lc.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class LeastConnection(Scheduler):
    """Choose the server with the fewest connections."""

    name = "lc"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        best = None
        best_load = 0
        for server in service.servers:
            if not server.can_schedule():
                continue
            load = server.overhead()
            if best is None or load < best_load:
                best = server
                best_load = load
        return best
