"""No scheduler (``none``): nobody gets new connections; those there are go on.

Persistent clients, too, keep the servers they have.

Kernel: ip_vs_ctl.c, ip_vs_add_service(): a service of this name is bound to no scheduler.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class NoScheduler(Scheduler):
    """Choose nobody."""

    name = "none"

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return None."""
        return None
