"""Power of two choices (``twos``): draw two servers at random by weight, and take the less loaded of them.

Almost as even as looking at all of them, and many directors that do so do not all rush to the same idle server.
Loads are compared as in wlc; when they are equal the first draw stands.

Surprise: the kernel draws from 0 to the sum of the weights, *both included*, so the first server of the list is a
little favoured; so do we.

Kernel: ip_vs_twos.c.
Paper: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
"""
from __future__ import annotations

from random import Random

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class PowerOfTwoChoices(Scheduler):
    """Choose the less loaded of two servers drawn at random."""

    name = "twos"

    def __init__(self):
        self.random = Random()      # the only scheduler with luck; tests bring their own

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        total = 0
        for server in service.servers:
            if server.can_schedule():
                total += server.weight
        if total == 0:
            return None
        first = drawn(service, self.random.randint(0, total))
        second = drawn(service, self.random.randint(0, total))
        if second.weight * first.overhead() > first.weight * second.overhead():
            return second
        return first


def drawn(service: VirtualService, number: int) -> RealServer:
    """Return the server whose share of the summed weights *number* is in."""
    for server in service.servers:
        if server.can_schedule():
            number -= server.weight
            if number <= 0:
                return server
    raise ValueError("the number is above the sum of the weights")
