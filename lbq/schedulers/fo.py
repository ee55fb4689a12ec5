"""Weighted failover (``fo``): all to the heaviest server; the next one when that is quiesced or overloaded.

Of equal weights the first in the list, the server added last.  Connections are not counted.

Kernel: ip_vs_fo.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class Failover(Scheduler):
    """Choose the heaviest server that can take anything."""

    name = "fo"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        best = None
        for server in service.servers:
            if server.can_schedule() and (best is None or server.weight > best.weight):
                best = server
        return best
