"""Source hashing (``sh``): one table of 256 buckets, looked up by the client's address.

A client stays with its server without anything being remembered.  Going round the list, each server takes as many
buckets in a row as its weight (one when it is quiesced), until all are given out; every change makes the table anew.

    sh-port      hash the client's port, too, so that the connections of one client spread
    sh-fallback  when the bucket's server can take nobody, try other buckets

Surprise: the fallback does not begin at the next bucket.  The kernel adds the hash to a probe that already has it in,
so it begins at twice the hash and goes up from there; so do we.

Kernel: ip_vs_sh.c.
"""
from __future__ import annotations

from lbq.model import Flow, RealServer, VirtualService, fold
from lbq.schedulers.base import Scheduler
from lbq.schedulers.hashing import client_port, falls_back, hash32

BITS = 8
SIZE = 1 << BITS


class SourceHashing(Scheduler):
    """Choose by the client's address, and by its port if the service says so."""

    name = "sh"

    def __init__(self):
        self.table = []

    def bind(self, service: VirtualService) -> None:
        """Give the buckets to the servers, by weight."""
        table = []
        while service.servers and len(table) < SIZE:
            for server in service.servers:
                table += [server] * min(max(server.weight, 1), SIZE - len(table))
        self.table = table

    def server_added(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def server_changed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew: the weight may be another."""
        self.bind(service)

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        table = self.table
        if not table:
            return None
        hashed = hash32(fold(flow.caddr) + client_port(service, flow) & 0xFFFFFFFF, BITS)
        server = table[hashed]
        if server.can_schedule():
            return server
        if falls_back(service):
            for step in range(SIZE):
                server = table[(hashed + hashed + step) % SIZE]
                if server.can_schedule():
                    return server
        return None
