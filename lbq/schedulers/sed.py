"""Shortest expected delay (``sed``): where would the new connection wait least?

    expected delay = (active + 1) / weight

The 1 is the connection that asks.  Inactive connections are taken to cost nothing, so UDP, whose connections
are never active, always goes to the heaviest server.  Compared by cross-multiplication, first of equals wins.

Kernel: ip_vs_sed.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class ShortestExpectedDelay(Scheduler):
    """Choose the server with the smallest (active + 1) / weight."""

    name = "sed"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        best = None
        best_load = 0
        for server in service.servers:
            if not server.can_schedule():
                continue
            load = server.active_conns + 1
            if best is None or best_load * server.weight > load * best.weight:
                best = server
                best_load = load
        return best
