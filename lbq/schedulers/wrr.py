"""Weighted round-robin (``wrr``): as rr, but a server of weight 3 gets three turns for another's one.

Think of the weights as columns of bricks.  A *level* sweeps from the highest brick down; on each level
the sweep visits, in list order, every server whose column reaches that high, and then drops by the
greatest common divisor of the weights.  Below the last level it starts at the top again.

    weights  A 3   B 2   C 1      level 3: A     level 2: A B     level 1: A B C

Surprise: a service that was bound while empty starts at level 1, not at the top, because adding a
server lowers nothing; the kernel behaves so, and so do we.

Kernel: ip_vs_wrr.c.
"""
from __future__ import annotations

from math import gcd

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class WeightedRoundRobin(Scheduler):
    """Choose in turn among the servers whose weight reaches the current level."""

    name = "wrr"

    def __init__(self):
        self.last = None            # None: the head of the list
        self.level = 0
        self.top = 0                # highest level: max weight - (divisor - 1), so the last level is 1
        self.divisor = 1

    def bind(self, service: VirtualService) -> None:
        """Start at the head of the list, on the top level."""
        self._measure(service)
        self.level = self.top

    def server_added(self, service: VirtualService, server: RealServer) -> None:
        """Measure again."""
        self._restart(service)

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Measure again."""
        self._restart(service)

    def server_changed(self, service: VirtualService, server: RealServer) -> None:
        """Measure again: the weight may be new."""
        self._restart(service)

    def _measure(self, service: VirtualService) -> None:
        weights = [server.weight for server in service.servers if server.weight > 0]
        self.last = None
        self.divisor = gcd(*weights) or 1
        self.top = max(weights, default=0) - (self.divisor - 1)

    def _restart(self, service: VirtualService) -> None:
        self._measure(service)
        if self.level > self.top or self.level == 0:
            self.level = self.top
        elif self.divisor > 1:
            self.level = self.level // self.divisor * self.divisor + 1

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        if self.top == 0:
            return None
        servers = service.servers
        count = len(servers)
        begin = self.last
        at = 0 if begin is None else begin.position + 1
        whole = begin is None       # this sweep covers the whole list
        wrapped = False             # the level went below the last and back to the top
        while True:
            while at < count:
                server = servers[at]
                if server.weight >= self.level and not server.overloaded:
                    self.last = server
                    return server
                if server is begin and wrapped and self.level <= self.divisor:
                    return None     # once round, on the lowest level: nobody
                at += 1
            lowest = self.level <= self.divisor
            self.level -= self.divisor
            if self.level <= 0:
                self.level = self.top
                wrapped = True
                if begin is None or (whole and lowest):
                    self.last = None
                    return None
            at = 0
            whole = True
