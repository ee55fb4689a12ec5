"""Weighted overflow (``ovf``): fill the heaviest server, then the next; the weight is how many each takes.

A server is full when it has *more* active connections than its weight, so one of weight w gets w + 1.  When all are
full nobody is chosen.  Of equal weights the first in the list, the server added last.

Kernel: ip_vs_ovf.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class Overflow(Scheduler):
    """Choose the heaviest server that has no more active connections than its weight."""

    name = "ovf"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        best = None
        for server in service.servers:
            if not server.can_schedule() or server.active_conns > server.weight:
                continue
            if best is None or server.weight > best.weight:
                best = server
        return best
