"""Weighted least-connection (``wlc``): the default scheduler of IPVS.

Give the new connection to the server that is least loaded *for its size*:

    load = (256 * active + inactive) / weight        (classic kernels; new ones count active + inactive
                                                      where classic ones count inactive)

An active connection counts 256 times an inactive one, because a connection that is closing costs a
server little.  We never divide: a/v > b/w is the same question as a*w > b*v when both weights are
positive, and integers do not round.  The comparison is strict, so among equals the first in the list
wins, which is the server added last; idle servers are all equal whatever their weights.

Kernel: ip_vs_wlc.c, and ip_vs_dest_conn_overhead() in include/net/ip_vs.h.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class WeightedLeastConnection(Scheduler):
    """Choose the server with the fewest connections per unit of weight."""

    name = "wlc"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        best = None
        best_load = 0
        for server in service.servers:
            if not server.can_schedule():
                continue
            load = server.overhead()
            if best is None or best_load * server.weight > load * best.weight:
                best = server
                best_load = load
        return best
