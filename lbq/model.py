"""The nouns: a flow, a real server, a virtual service.

Addresses are integers in host byte order, ports are integers; ``ipaddress`` and text exist only
outside (``grammar.py``).  A service's ``servers`` list is in the kernel's order: the *newest first*
(ip_vs_ctl.c links a new destination at the head), and every scheduler walks it from the head.
"""
from __future__ import annotations

from typing import NamedTuple

AF_INET = 2
AF_INET6 = 10
FAMILY_NAMES = {AF_INET: "inet", AF_INET6: "inet6"}
IP = 0          # the protocol of a firewall mark's persistence templates
TCP = 6
UDP = 17
SCTP = 132

NAT = 0         # the kernel's IP_VS_CONN_F_MASQ
LOCAL = 1       # IP_VS_CONN_F_LOCALNODE
TUN = 2         # IP_VS_CONN_F_TUNNEL
DR = 3          # IP_VS_CONN_F_DROUTE
BYPASS = 4      # IP_VS_CONN_F_BYPASS: no server, on to where the client wanted to go
MODE_MASK = 7
MODE_NAMES = {NAT: "nat", LOCAL: "local", TUN: "tun", DR: "dr", BYPASS: "bypass"}
PROTOCOL_NAMES = {IP: "ip", TCP: "tcp", UDP: "udp", SCTP: "sctp"}

# A connection's flags; the numbers are the kernel's IP_VS_CONN_F_*.
OFFLOADED = 0x0010      # conntrack carries it, and says when it ends; not one of the kernel's
NO_OUTPUT = 0x0080      # no reply has passed here yet (DR, TUN)
INACTIVE = 0x0100       # counts as inactive on its server
OUT_SEQ = 0x0200        # the server's sequence numbers are shifted (FTP)
IN_SEQ = 0x0400         # the client's are
NO_CPORT = 0x0800       # the client's port is not known yet (passive FTP)
TEMPLATE = 0x1000       # not a connection: where a persistent client goes
ONE_PACKET = 0x2000     # never entered in the table
MIXED = 0x4000          # the real server is of the other family; not one of the kernel's

# A service's flags; the numbers are the kernel's IP_VS_SVC_F_*.
PERSISTENT = 0x01
OPS = 0x04              # one-packet scheduling, UDP only
SCHED1 = 0x08           # sh-fallback, mh-fallback
SCHED2 = 0x10           # sh-port, mh-port
SCHED3 = 0x20

# lbq's own, which no ipvsadm line sets: a service does better than the kernel's (docs/better.md).
END_DELETED = 0x10000   # connections of a deleted server start over
MOVE_QUIESCED = 0x20000     # clients of a server of weight 0 go elsewhere as soon as they can
OPS_REPLIES = 0x40000   # answers to one-packet datagrams come from the VIP
OFFLOAD = 0x80000       # lbq sees the first packet of a flow, and conntrack the others (docs/data-paths.md)
SERVICE_FLAGS = {"persistent": PERSISTENT, "ops": OPS, "sched1": SCHED1, "sched2": SCHED2, "sched3": SCHED3,
                 "end-deleted": END_DELETED, "move-quiesced": MOVE_QUIESCED, "ops-replies": OPS_REPLIES,
                 "offload": OFFLOAD}

IPIP, GUE, GRE = range(3)               # how TUN wraps a packet; the kernel's IP_VS_CONN_F_TUNNEL_TYPE_*
TUNNEL_NAMES = {IPIP: "ipip", GUE: "gue", GRE: "gre"}
NOCSUM, CSUM, REMCSUM = range(3)        # IP_VS_TUNNEL_ENCAP_FLAG_*
TUNNEL_FLAG_NAMES = {NOCSUM: "nocsum", CSUM: "csum", REMCSUM: "remcsum"}

CLASSIC = "classic"     # kernels up to 6.1.176
NEW = "new"             # kernels from 6.1.187


class ServiceKey(NamedTuple):
    """What names a virtual service: an address and port, or a firewall mark."""

    protocol: int
    address: int
    port: int
    family: int = AF_INET
    fwmark: int = 0


class Tunnel(NamedTuple):
    """How TUN wraps packets for one server: IPIP, GUE or GRE; GUE's UDP port; which checksum."""

    type: int = IPIP
    port: int = 0
    flags: int = NOCSUM


class Sent(NamedTuple):
    """A packet that leaves by DR or TUN: to which next hop, its bytes, and for TCP to be cut, a segment's payload.

    *family* is that of the next hop's address and of the packet.
    """

    next_hop: int
    packet: bytes
    segment: int = 0
    family: int = AF_INET


class Verdict(NamedTuple):
    """What becomes of a packet.

    *action* is netfilter's ACCEPT or DROP, *changed* says that it was rewritten in place, *answer* is an ICMP packet
    of the director's own, *sent* what leaves in the packet's place by DR or TUN, *unmarked* that its firewall mark is
    taken off, so that the host routes it where it was going and not where the mark leads.  *steer* is the number of
    the real server that the kernel is to address the packet to, or to make it a reply of, told by a mark; 0: none.
    """

    action: int
    changed: bool = False
    answer: bytes | None = None
    sent: tuple[Sent, ...] = ()
    unmarked: bool = False
    steer: int = 0


class Flow:
    """The five-tuple of a client's packet and the time in ns, all a scheduler may know of it.

    For a connection that is made for an ICMP error about one (sysctl schedule_icmp), *vaddr* is the client's
    address: the kernel's destination-hashing schedulers look at that end of the quoted packet.
    """

    def __init__(self, protocol: int, caddr: int, cport: int, vaddr: int, vport: int, family: int = AF_INET,
                 now_ns: int = 0):
        self.family = family
        self.protocol = protocol
        self.caddr = caddr
        self.cport = cport
        self.vaddr = vaddr
        self.vport = vport
        self.now_ns = now_ns


class RealServer:
    """One real server under one virtual service (the kernel calls it a destination).

    *family* is its service's, or with TUN the other one.
    *weight* 0 means quiesced: it finishes what it has and gets nothing new.  *last_weight* is the last one that was
    not 0, as mh wants it.  *upper* and *lower* are the connection thresholds (0: none; ``thresholds.py``).
    *active_conns*, *inactive_conns* and *persistent_conns* (templates) are kept by the connection table; schedulers
    only read them.
    *active_cost* is what one active connection weighs against an inactive one: 256 in the classic
    kernel profile; 257 in the new one, which counts the active connection again in the total.
    """

    def __init__(self, address: int, port: int, weight: int = 1, mode: int = NAT, active_cost: int = 257,
                 family: int = AF_INET):
        self.family = family
        self.address = address
        self.port = port
        self.weight = weight
        self.last_weight = weight
        self.mode = mode
        self.tunnel = Tunnel()
        self.upper = 0
        self.lower = 0
        self.active_cost = active_cost
        self.active_conns = 0
        self.inactive_conns = 0
        self.persistent_conns = 0
        self.overloaded = False
        self.available = True       # False once deleted, while connections still refer to it
        self.ends = False           # deleted, and its connections end (END_DELETED)
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

    def is_referenced(self) -> bool:
        """Return True while a connection or a template points here."""
        return self.active_conns + self.inactive_conns + self.persistent_conns > 0


class VirtualService:
    """A virtual service: what clients connect to, the servers behind it, and who chooses among them.

    *timeout* (seconds) and *netmask* are those of persistence, used when PERSISTENT is in *flags*.  The netmask of an
    IPv6 service is the length of a prefix; None is the whole address.  *idle* seconds without a packet end an
    established or UDP connection; 0: as many as the director's timeouts say.
    """

    def __init__(self, key: ServiceKey, scheduler=None, flags: int = 0, timeout: int = 0, netmask: int | None = None,
                 idle: int = 0):
        self.key = key
        self.servers = []           # newest first
        self.scheduler = scheduler
        self.flags = flags
        self.timeout = timeout
        self.netmask = whole_mask(key.family) if netmask is None else netmask
        self.idle = idle
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

    def remove(self, server: RealServer) -> bool:
        """Unlink *server* and tell the scheduler, which may still read ``server.position``; return False if it fails.

        It does not keep the server by failing.
        """
        del self.servers[server.position]
        try:
            if self.scheduler is not None:
                self.scheduler.server_removed(self, server)
        except (Exception, SystemExit):         # a user's own
            return False
        finally:
            self._number()
            server.position = -1
        return True

    def remove_all(self) -> list[RealServer]:
        """Unlink all servers, without a notice to the scheduler, and return them."""
        servers = self.servers
        self.servers = []
        for server in servers:
            server.position = -1
        return servers

    def changed(self, server: RealServer) -> None:
        """Tell the scheduler that an attribute of *server* was edited."""
        if self.scheduler is not None:
            self.scheduler.server_changed(self, server)

    def client(self, address: int) -> int:
        """Return the part of a client's *address* that persistence remembers."""
        if self.key.family == AF_INET6:
            hidden = 128 - self.netmask
            return address >> hidden << hidden
        return address & self.netmask

    def _number(self) -> None:
        for position, server in enumerate(self.servers):
            server.position = position


def whole_mask(family: int) -> int:
    """Return the netmask that leaves a client's whole address."""
    return 128 if family == AF_INET6 else 0xFFFFFFFF


def packed(address: int, family: int) -> bytes:
    """Return *address* in network order: 4 bytes, or 16."""
    return address.to_bytes(16 if family == AF_INET6 else 4, "big")


def fold(address: int) -> int:
    """Return an address as 32 bits: an IPv4 one as it is, an IPv6 one as the XOR of its four words."""
    if address >> 32:
        return (address >> 96 ^ address >> 64 ^ address >> 32 ^ address) & 0xFFFFFFFF
    return address


def is_unicast6(address: int) -> bool:
    """Return True when the IPv6 *address* is of the kind one host has: not multicast, unspecified or IPv4-mapped.

    Kernel: net/ipv6/addrconf_core.c, __ipv6_addr_type().
    """
    return address >> 120 != 0xFF and address != 0 and address >> 32 != 0xFFFF


def is_link_local6(address: int) -> bool:
    """Return True for an IPv6 address that means another machine on every link: fe80::/10."""
    return address >> 118 == 0x3FA
