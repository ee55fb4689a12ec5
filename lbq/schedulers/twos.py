"""Power of two choices (``twos``): draw two servers at random by weight, and take the less loaded one.

Almost as even as looking at all of them, for the price of two.  The draw is out of 0 to the sum of all weights, *both
included*, as in the kernel; so the first server of the list is favoured a little.

Kernel: ip_vs_twos.c.  Paper: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
"""
from __future__ import annotations

from random import Random

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class PowerOfTwoChoices(Scheduler):
    """Choose the less loaded of two random servers."""

    name = "twos"

    def __init__(self):
        self.random = Random()

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        total = 0
        for server in service.servers:
            if server.can_schedule():
                total += server.weight
        if total == 0:
            return None
        first = self._drawn(service, self.random.randint(0, total))
        second = self._drawn(service, self.random.randint(0, total))
        if second.weight * first.overhead() > first.weight * second.overhead():
            return second
        return first

    def _drawn(self, service: VirtualService, draw: int) -> RealServer | None:
        """Return the server whose share of the weights holds *draw*."""
        for server in service.servers:
            if server.can_schedule():
                draw -= server.weight
                if draw <= 0:
                    return server
        return None
