"""ICMP errors: the director's own, and those of others that must be translated.

**Its own.**  A client hears of everything that keeps its packet from a real server: no server can take the
connection (type 3 code 3; IPVS never answers with a TCP reset), no way there (3/1), too large for the way
(3/4, with the next hop's MTU), too many hops (11/0).  Each is built as the kernel's icmp_send() builds it:

    IP     source = the VIP, destination = the client, TTL 64, DF clear, TOS = (theirs & 0x1E) | 0xC0
    ICMP   type, code, and for 3/4 the MTU
    quote  the client's packet as it is now, up to 576 bytes in all (RFC 1812, 4.3.2.3)

Answering everybody would make the director a mirror for floods, so two limits apply, the kernel's own:
1000 answers a second with bursts of 50 for all clients together (icmp_msgs_per_sec, icmp_msgs_burst), and
one a second with bursts of 6 for each (icmp_ratelimit).

**Of others.**  An error quotes the packet it is about, and under NAT that packet has the wrong addresses
for whoever gets the error.  IPVS translates types 3, 4 and 11 (not 5 and 12) in both directions:

    in     about VIP:vport -> client    goes to the real server, and speaks of RIP:rport -> client
    out    about client -> RIP:rport    comes from the VIP, and speaks of client -> VIP:vport

ICMPv6 has its own file, ``icmpv6.py``.

Kernel: net/ipv4/icmp.c, icmp_send(), icmp_global_allow(); net/ipv4/inetpeer.c, inet_peer_xrlim_allow();
netfilter/ipvs/ip_vs_core.c, ip_vs_in_icmp(), ip_vs_out_icmp(), ip_vs_nat_icmp().
"""
from __future__ import annotations

import cython

from lbq import packet as pkt

ICMP = 1
MAX_BYTES = 576
ICMP_HEADER = 8
HEADERS = 28                # IP and ICMP
TOS_PRECEDENCE = 0xC0       # internetwork control
TOS_KEPT = 0x1E
TTL = 64
UNREACHABLE, SOURCE_QUENCH, TIME_EXCEEDED = 3, 4, 11        # the types that are translated

# Why a packet does not reach a real server: type and code of the ICMP that says so, then of the ICMPv6.
NO_SERVER, NO_WAY, NO_HOPS, NO_ROOM = 0x03_03_01_04, 0x03_01_01_03, 0x0B_00_03_00, 0x03_04_02_00

GLOBAL_COST = 1_000_000     # ns of credit for one answer: 1000 a second
GLOBAL_BURST = 50
CLIENT_COST = 1_000_000_000
CLIENT_BURST = 6
CLIENTS = 1024              # remembered clients; a power of two
CLIENT_BITS = 10

if cython.compiled:         # numbers with a C type are invisible to Python code; these are its copies
    globals().update(MAX_BYTES=MAX_BYTES, NO_SERVER=NO_SERVER, NO_WAY=NO_WAY, NO_HOPS=NO_HOPS, NO_ROOM=NO_ROOM)


def error(kind: int, code: int, mtu: int, packet, length: int, answer) -> int:
    """Write into *answer* (576 bytes of room) an ICMP error about *packet* for its sender; return its length.

    *mtu* is that of the next hop, for type 3 code 4, and 0 otherwise.
    """
    quoted_bytes = min(length, MAX_BYTES - HEADERS)
    total = HEADERS + quoted_bytes
    for i in range(HEADERS):
        answer[i] = 0
    answer[0] = 0x45
    answer[1] = (packet[1] & TOS_KEPT) | TOS_PRECEDENCE
    pkt.put16(answer, pkt.IP_LENGTH, total)
    answer[pkt.IP_TTL] = TTL
    answer[pkt.IP_PROTOCOL] = ICMP
    pkt.put32(answer, pkt.IP_SOURCE, pkt.get32(packet, pkt.IP_DESTINATION))
    pkt.put32(answer, pkt.IP_DESTINATION, pkt.get32(packet, pkt.IP_SOURCE))
    pkt.put16(answer, pkt.IP_CHECKSUM, pkt.header_checksum(answer, 20))
    answer[20] = kind
    answer[21] = code
    pkt.put16(answer, 26, mtu)
    for i in range(quoted_bytes):
        answer[HEADERS + i] = packet[i]
    pkt.put16(answer, 22, ~pkt.word_sum(answer, 20, total) & 0xFFFF)
    return total


def come_from(answer, source: int) -> None:
    """Let an ICMP packet come from *source*, this host, rather than from where the packet it is about was going."""
    pkt.put32(answer, pkt.IP_SOURCE, source)
    pkt.put16(answer, pkt.IP_CHECKSUM, pkt.header_checksum(answer, 20))


def quoted(packet, length: int) -> int:
    """Return where in *packet* the one begins that an ICMP error of type 3, 4 or 11 is about; 0: there is none.

    Its whole header is here, perhaps no more, although every router quotes at least 8 bytes behind it.
    """
    if length < 20 or packet[0] >> 4 != 4 or packet[0] & 0x0F < 5 or packet[pkt.IP_PROTOCOL] != ICMP:
        return 0
    header = (packet[0] & 0x0F) * 4
    at = header + ICMP_HEADER
    if at + 20 > length or packet[at] >> 4 != 4 or packet[at] & 0x0F < 5:
        return 0
    kind = packet[header]
    if kind != UNREACHABLE and kind != SOURCE_QUENCH and kind != TIME_EXCEEDED:
        return 0
    return at if at + (packet[at] & 0x0F) * 4 <= length else 0


def checksum_right(packet, length: int) -> bool:
    """Return True when the checksum of the ICMP message in *packet* is right."""
    return pkt.word_sum(packet, (packet[0] & 15) * 4, length) == 0xFFFF


def to_real_server(packet, length: int, rip: int, rport: int) -> None:
    """NAT of an error about what a real server sent: it must speak of the real server's own address and port."""
    _translate(packet, length, pkt.IP_DESTINATION, pkt.IP_SOURCE, rip, pkt.PORT_SOURCE, rport)


def to_client(packet, length: int, vip: int, vport: int) -> None:
    """NAT of an error about what a client sent: it must come from, and speak of, the virtual service."""
    _translate(packet, length, pkt.IP_SOURCE, pkt.IP_DESTINATION, vip, pkt.PORT_DESTINATION, vport)


def _translate(packet, length: int, outer: int, inner: int, address: int, at_port: int, port: int) -> None:
    """Write *address* into both headers and *port* into the quoted packet.

    The checksums of both IP headers and of the message become right; the quoted TCP or UDP checksum covers
    more than is quoted, nobody can check it, and the kernel leaves it alone, too.
    """
    header = (packet[0] & 15) * 4
    at = header + ICMP_HEADER
    quoted_header = (packet[at] & 15) * 4
    pkt.put32(packet, outer, address)
    pkt.put16(packet, pkt.IP_CHECKSUM, pkt.header_checksum(packet, header))
    pkt.put32(packet, at + inner, address)
    pkt.put16(packet, at + pkt.IP_CHECKSUM, 0)
    pkt.put16(packet, at + pkt.IP_CHECKSUM, ~pkt.word_sum(packet, at, at + quoted_header) & 0xFFFF)
    protocol = packet[at + pkt.IP_PROTOCOL]
    if protocol == pkt.TCP or protocol == pkt.UDP or protocol == pkt.SCTP:
        pkt.put16(packet, at + quoted_header + at_port, port)
    pkt.put16(packet, header + 2, 0)
    pkt.put16(packet, header + 2, ~pkt.word_sum(packet, header, length) & 0xFFFF)


def is_somebody(client: int) -> bool:
    """Return True when *client* can be an address of one host's own: not in 0.0.0.0/8, multicast or broadcast."""
    return client >> 24 != 0 and client >> 28 < 0xE


class RateLimit:
    """Who may still be answered: a token bucket for everybody and one for each client.

    Tokens are kept as nanoseconds of credit.  Clients are remembered in a table of fixed size, each at
    one place only; two that share a place push each other out and start afresh.  That is generous to
    them, and the common bucket still holds.
    """

    def __init__(self):
        self.is_on = True
        self.credit = GLOBAL_BURST * GLOBAL_COST
        self.stamp = 0
        if not cython.compiled:         # the compiled class has C arrays, declared in icmp.pxd
            self.clients = [0] * CLIENTS
            self.credits = [0] * CLIENTS
            self.stamps = [0] * CLIENTS

    def allow(self, client: int, now_ns: int) -> bool:
        """Return True when *client*, an address or 32 bits of one, may be answered at *now_ns*; count the answer."""
        if not self.is_on:
            return True
        place = (client ^ client >> CLIENT_BITS ^ client >> 2 * CLIENT_BITS) & (CLIENTS - 1)
        credit = CLIENT_BURST * CLIENT_COST
        if self.clients[place] == client:
            credit = min(credit, self.credits[place] + now_ns - self.stamps[place])
        self.clients[place] = client
        self.stamps[place] = now_ns
        self.credit = min(self.credit + now_ns - self.stamp, GLOBAL_BURST * GLOBAL_COST)
        self.stamp = now_ns
        allowed = credit >= CLIENT_COST and self.credit >= GLOBAL_COST
        if allowed:
            credit -= CLIENT_COST
            self.credit -= GLOBAL_COST
        self.credits[place] = credit
        return allowed
