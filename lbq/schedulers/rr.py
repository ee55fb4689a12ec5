"""Round-robin (``rr``): each server in its turn, whatever its weight or load.

The cursor rests on the server chosen last; the next choice starts behind it and wraps once.  A server
that is quiesced (weight 0) or overloaded is passed over.  When the server under the cursor is deleted,
the cursor steps back to its predecessor, so that nobody is skipped.

Kernel: ip_vs_rr.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler


class RoundRobin(Scheduler):
    """Choose the next usable server behind the one chosen last."""

    name = "rr"

    def __init__(self):
        self.last = None        # None: the head of the list, before the first server

    def bind(self, service: VirtualService) -> None:
        """Start at the head."""
        self.last = None

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Step back to the predecessor when the server under the cursor goes."""
        if self.last is server:
            self.last = service.servers[server.position - 1] if server.position > 0 else None

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        servers = service.servers
        count = len(servers)
        start = 0 if self.last is None else self.last.position + 1
        for step in range(count):       # from behind the cursor round to the cursor itself
            at = start + step
            if at >= count:
                at -= count
            server = servers[at]
            if server.can_schedule():
                self.last = server
                return server
        return None
