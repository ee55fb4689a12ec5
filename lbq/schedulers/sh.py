"""Source hashing (``sh``): one table of 256 buckets, looked up by the client's address.

A client stays with its server without anything being remembered.  Going round the list, each server takes as many
consecutive buckets as its weight (one when it is quiesced), until all are given out; every change makes the table anew.

    sh-port      hash the client's port, too: connections of one client spread
    sh-fallback  when the bucket's server cannot take it, look at other buckets: at 2 * bucket first, since the
                 kernel adds what it already hashed to once more, and from there on upwards

Kernel: ip_vs_sh.c.
"""
from __future__ import annotations

from lbq.model import SCHED1, SCHED2, SCTP, TCP, UDP, Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler
from lbq.schedulers.hashing import fold, hash32

BITS = 8
SIZE = 1 << BITS
FALLBACK, PORT = SCHED1, SCHED2


class SourceHashing(Scheduler):
    """Choose by the client's address, and port if the service says so."""

    name = "sh"

    def __init__(self):
        self.table = []

    def bind(self, service: VirtualService) -> None:
        """Make the table."""
        self.table = []
        while service.servers and len(self.table) < SIZE:
            for server in service.servers:
                room = SIZE - len(self.table)
                self.table += [server] * min(max(server.weight, 1), room)

    def server_added(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def server_changed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        if not self.table:
            return None
        port = flow.cport if service.flags & PORT and flow.protocol in (TCP, UDP, SCTP) else 0
        hashed = hash32(port + fold(flow.caddr), BITS)
        server = self.table[hashed]
        if server.can_schedule():
            return server
        if not service.flags & FALLBACK:
            return None
        for offset in range(SIZE):
            server = self.table[(offset + hashed) % SIZE + hashed & (SIZE - 1)]
            if server.can_schedule():
                return server
        return None
