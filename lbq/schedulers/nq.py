"""Never queue (``nq``): an idle server at once, even a slow one; when there is none, as sed.

The first idle server in the list is taken, not the heaviest.  Idle means no active connection, so for UDP, whose
connections are never active, it is always the first server that can take any.

Kernel: ip_vs_nq.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class NeverQueue(Scheduler):
    """Choose the first idle server, else the one with the smallest (active + 1) / weight."""

    name = "nq"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        best = None
        best_load = 0
        for server in service.servers:
            if not server.can_schedule():
                continue
            if server.active_conns == 0:
                return server
            load = server.active_conns + 1
            if best is None or best_load * server.weight > load * best.weight:
                best = server
                best_load = load
        return best
