"""What every scheduler is: one method that chooses, five that are told.

A scheduler belongs to one virtual service.  It sees a ``Flow``, never a packet; it has no clock and
no randomness of its own.  Only ``schedule`` is mandatory; the rest are notices it may ignore.

A scheduler that fails costs no more than what it was asked for: a client is refused when ``schedule`` raises
or returns anything but a server of *service*; a server is not added when ``server_added`` raises, not edited when
``server_changed`` does, and deleted all the same when ``server_removed`` does.

Kernel: struct ip_vs_scheduler (init_service, add_dest, del_dest, upd_dest, schedule).
"""
from __future__ import annotations

from collections.abc import Iterator

from lbq.model import Flow, RealServer, VirtualService


class Scheduler:
    """Base of all schedulers; ``name`` is what ``ipvsadm -s`` calls it."""

    name = ""

    def bind(self, service: VirtualService) -> None:
        """Start working for *service*, whose servers may already be there."""

    def server_added(self, service: VirtualService, server: RealServer) -> None:
        """Notice that *server* was linked at the head of ``service.servers``."""

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Notice that *server* was unlinked; ``server.position`` still says where it was."""

    def server_changed(self, service: VirtualService, server: RealServer) -> None:
        """Notice that an attribute of *server*, such as its weight, was edited."""

    def tick(self, service: VirtualService, now_ns: int) -> Iterator | None:
        """Notice that about a second has passed, for schedulers that remember and forget.

        Packets wait meanwhile.  What takes longer than 0.1 ms is returned as an iterator, whose steps are taken one
        by one, with packets in between; there is no other tick before its end.
        """

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for the new *flow*, or None when no server can take it.

        *flow* is lent for this call; the next one may fill the same object anew.
        """
        raise NotImplementedError
