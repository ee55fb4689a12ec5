"""The nouns: a flow, a real server, a virtual service.

Addresses are integers in host byte order, ports are integers; ``ipaddress`` and text exist only
outside (``grammar.py``).  A service's ``servers`` list is in the kernel's order: the *newest first*
(ip_vs_ctl.c links a new destination at the head), and every scheduler walks it from the head.
"""
from __future__ import annotations

from typing import NamedTuple

AF_INET = 2
AF_INET6 = 10
TCP = 6
UDP = 17

NAT = 0         # the kernel's IP_VS_CONN_F_MASQ
TUN = 2         # IP_VS_CONN_F_TUNNEL
DR = 3          # IP_VS_CONN_F_DROUTE
MODE_NAMES = {NAT: "nat", TUN: "tun", DR: "dr"}
PROTOCOL_NAMES = {TCP: "tcp", UDP: "udp"}

CLASSIC = "classic"     # kernels up to 6.1.176
NEW = "new"             # kernels from 6.1.187


class ServiceKey(NamedTuple):
    """What names a virtual service: an address and port, or a firewall mark."""

    protocol: int
    address: int
    port: int
    family: int = AF_INET
    fwmark: int = 0


class Verdict(NamedTuple):
    """What becomes of a packet: netfilter's ACCEPT or DROP, whether it was rewritten, an ICMP packet to send."""

    action: int
    changed: bool = False
    answer: bytes | None = None


class Flow:
    """The five-tuple of a client's packet, all a scheduler may know of it."""

    def __init__(self, protocol: int, caddr: int, cport: int, vaddr: int, vport: int, family: int = AF_INET):
        self.family = family
        self.protocol = protocol
        self.caddr = caddr
        self.cport = cport
        self.vaddr = vaddr
        self.vport = vport


class RealServer:
    """One real server under one virtual service (the kernel calls it a destination).

    *weight* 0 means quiesced: it finishes what it has and gets nothing new.
    *active_conns* and *inactive_conns* are kept by the connection table; schedulers only read them.
    *active_cost* is what one active connection weighs against an inactive one: 256 in the classic
    kernel profile; 257 in the new one, which counts the active connection again in the total.
    """

    def __init__(self, address: int, port: int, weight: int = 1, mode: int = NAT, active_cost: int = 257):
        self.address = address
        self.port = port
        self.weight = weight
        self.mode = mode
        self.active_cost = active_cost
        self.active_conns = 0
        self.inactive_conns = 0
        self.overloaded = False
        self.available = True       # False once deleted, while connections still refer to it
        self.service = None         # the service it is, or before it was deleted was, a server of
        self.position = -1          # index in service.servers
        self.slot = -1              # index in the engine's server array

    def can_schedule(self) -> bool:
        """Return True when a scheduler may choose this server: neither quiesced nor overloaded."""
        return self.weight > 0 and not self.overloaded

    def overhead(self) -> int:
        """Return the load that least-connection schedulers compare.

        Kernel: ip_vs_dest_conn_overhead() in include/net/ip_vs.h; 256·active + inactive (classic)
        or 256·active + total (new).
        """
        return self.active_conns * self.active_cost + self.inactive_conns


class VirtualService:
    """A virtual service: what clients connect to, the servers behind it, and who chooses among them."""

    def __init__(self, key: ServiceKey, scheduler=None):
        self.key = key
        self.servers = []           # newest first
        self.scheduler = scheduler
        self.slot = -1              # index in the engine's service array
        if scheduler is not None:
            scheduler.bind(self)

    def add(self, server: RealServer) -> None:
        """Link *server* at the head of the list and tell the scheduler; if that fails, it is not added."""
        self.servers.insert(0, server)
        self._number()
        try:
            if self.scheduler is not None:
                self.scheduler.server_added(self, server)
        except BaseException:
            del self.servers[0]
            self._number()
            server.position = -1
            raise
        server.service = self

    def remove(self, server: RealServer) -> None:
        """Unlink *server* and tell the scheduler, which may still read ``server.position``."""
        del self.servers[server.position]
        try:
            if self.scheduler is not None:
                self.scheduler.server_removed(self, server)
        finally:
            self._number()
            server.position = -1

    def changed(self, server: RealServer) -> None:
        """Tell the scheduler that an attribute of *server* was edited."""
        if self.scheduler is not None:
            self.scheduler.server_changed(self, server)

    def _number(self) -> None:
        for position, server in enumerate(self.servers):
            server.position = position
