"""Destination hashing (``dh``): one table of 256 buckets, looked up by the address the client wants.

For a cluster of transparent caches behind a firewall mark: each destination stays with its cache.  The buckets go to
the servers in list order, one each, round and round, whatever their weights; the table is made anew when a server is
added or deleted, not when one is edited.  A bucket whose server is quiesced or overloaded serves nobody: there is no
second choice, since then two caches would hold the same pages.

Kernel: ip_vs_dh.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService, fold
from lbq.schedulers.base import Scheduler
from lbq.schedulers.hashing import hash32

BITS = 8


class DestinationHashing(Scheduler):
    """Choose by the destination address."""

    name = "dh"

    def __init__(self):
        self.table = []

    def bind(self, service: VirtualService) -> None:
        """Give the buckets to the servers, one each, round and round."""
        servers = service.servers
        self.table = [servers[bucket % len(servers)] for bucket in range(1 << BITS)] if servers else []

    def server_added(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        if not self.table:
            return None
        server = self.table[hash32(fold(flow.vaddr), BITS)]
        return server if server.can_schedule() else None
