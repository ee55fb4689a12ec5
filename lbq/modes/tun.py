"""TUN, tunnelling (``ipip``, ipvsadm -i): the request travels to the real server inside another packet.

    in     CIP:cport -> VIP:vport   becomes   director -> RIP [ CIP:cport -> VIP:vport ]
    out    VIP:vport -> CIP:cport   goes from the real server to the client, past the director

The real server unwraps the packet, finds the VIP on one of its own interfaces and answers from it.  As
in DR the director sees only requests and ports cannot change; unlike in DR the real server may be any
number of routers away.  What the wrapping costs is room: *overhead* bytes less in every packet.

    IPIP   outer IP (protocol 4)  | packet
    GUE    outer IP (17)  | UDP to the tunnel's port | GUE: 0, 4 (IPv4), flags 0 | packet
    GRE    outer IP (47)  | flags, 0x0800 [, checksum, 0]                        | packet

The outer IP header is that of the real server's family, IPv4 or IPv6; the packet is of the client's.  All four pairs
work: for an IPv6 packet 4 becomes 41 and 0x0800 becomes 0x86DD.

The outer header takes the inner one's TTL or hop limit (already one less) and its type of service, except that
"congestion experienced" becomes "capable" (RFC 6040: the inner header still has the mark).  An IPv4 one forbids
fragments when the inner one is IPv4 and does, and *pmtu_disc* is on; then its identification is 0.  The flow label of
an IPv6 one is 0.

CSUM asks for GUE's UDP checksum or GRE's; REMCSUM gives GUE its UDP checksum, too, and nothing else: the
extra header that the kernel has for it describes checksums that are not complete, and ours are.

Kernel: ip_vs_xmit.c, ip_vs_tunnel_xmit(), ip_vs_tunnel_xmit_v6(), ipvs_gue_encap(), ipvs_gre_encap(); ip_vs_core.c,
ipvs_udp_decap(), ipvs_gre_decap(); include/net/udp.h, udp_flow_src_port().
RFC 2003 (IPIP), RFC 2473 (in IPv6), RFC 2784 and 2890 (GRE), draft-ietf-intarea-gue-09.
"""
from __future__ import annotations

import cython

from lbq import packet as pkt

IPIP, GUE, GRE = range(3)       # the kernel's numbers, as in model.py
CSUM = 1
REMCSUM = 2

IP_HEADER = 20
GUE_HEADERS = 12                # UDP and GUE
GRE_HEADER = 4
GRE_CHECKSUM = 0x8000
GRE_KEY = 0x2000
GRE_SEQUENCE = 0x1000
GRE_UNKNOWN = 0x4FFF            # routing, recursion, versions: nothing that anybody sends us
ETHER_IPV4 = 0x0800
ETHER_IPV6 = 0x86DD
IN_IP = 4                       # IP protocol numbers
IN_IPV6 = 41
IN_UDP = 17
IN_GRE = 47
FIRST_PORT = 32768              # ip_local_port_range
LAST_PORT = 60999

if cython.compiled:             # numbers with a C type are invisible to Python code; these are its copies
    globals().update(IPIP=IPIP, GUE=GUE, GRE=GRE, CSUM=CSUM, REMCSUM=REMCSUM)


def overhead(kind: int, flags: int, in_ipv6: bool) -> int:
    """Return how many bytes a tunnel of *kind* with *flags*, over IPv4 or *in_ipv6*, puts in front of a packet."""
    header = pkt.IP6_HEADER if in_ipv6 else IP_HEADER
    if kind == GUE:
        return header + GUE_HEADERS
    if kind == GRE:
        return header + GRE_HEADER + (4 if flags & CSUM else 0)
    return header


def protocol_of(kind: int, of_ipv6: bool) -> int:
    """Return the protocol number in the outer header of a tunnel of *kind* for packets of IPv4, or *of_ipv6*."""
    if kind == GUE:
        return IN_UDP
    if kind == GRE:
        return IN_GRE
    return IN_IPV6 if of_ipv6 else IN_IP


def wrap(packet, length: int, out, source: int, destination: int, kind: int, port: int, flags: int,
         pmtu_disc: bool, identification: int, flow_hash: int) -> int:
    """Write into *out* what goes in front of *packet* over IPv4; return its size.

    The packet's TTL counts this hop already; it and its checksums must be complete; *identification* is used where
    fragments are allowed.
    """
    size = overhead(kind, flags, False)
    of_ipv6 = packet[0] >> 4 == 6
    forbidden = pmtu_disc and not of_ipv6 and pkt.get16(packet, pkt.IP_FRAGMENT) & pkt.DONT_FRAGMENT
    out[0] = 0x45
    out[pkt.IP_TOS] = _outer_tos(packet)
    pkt.put16(out, pkt.IP_LENGTH, size + length)
    pkt.put16(out, pkt.IP_ID, 0 if forbidden else identification)
    pkt.put16(out, pkt.IP_FRAGMENT, pkt.DONT_FRAGMENT if forbidden else 0)
    out[pkt.IP_TTL] = packet[pkt.IP6_HOPS] if of_ipv6 else packet[pkt.IP_TTL]
    out[pkt.IP_PROTOCOL] = protocol_of(kind, of_ipv6)
    pkt.put32(out, pkt.IP_SOURCE, source)
    pkt.put32(out, pkt.IP_DESTINATION, destination)
    pkt.put16(out, pkt.IP_CHECKSUM, pkt.header_checksum(out, IP_HEADER))
    _write_between(packet, length, out, IP_HEADER, kind, port, flags, flow_hash)
    return size


def wrap6(packet, length: int, out, source, destination, kind: int, port: int, flags: int, flow_hash: int) -> int:
    """Write into *out* what goes in front of *packet* over IPv6; return its size.  The addresses are 16 bytes each."""
    size = overhead(kind, flags, True)
    of_ipv6 = packet[0] >> 4 == 6
    tos = _outer_tos(packet)
    out[0] = 0x60 | tos >> 4
    out[1] = (tos & 15) << 4
    pkt.put16(out, 2, 0)
    pkt.put16(out, pkt.IP6_LENGTH, size - pkt.IP6_HEADER + length)
    out[pkt.IP6_NEXT] = protocol_of(kind, of_ipv6)
    out[pkt.IP6_HOPS] = packet[pkt.IP6_HOPS] if of_ipv6 else packet[pkt.IP_TTL]
    for i in range(16):
        out[pkt.IP6_SOURCE + i] = source[i]
        out[pkt.IP6_DESTINATION + i] = destination[i]
    _write_between(packet, length, out, pkt.IP6_HEADER, kind, port, flags, flow_hash)
    return size


def _outer_tos(packet) -> int:
    """Return the type of service, or traffic class, that goes in front of *packet*."""
    tos = (packet[0] & 15) << 4 | packet[1] >> 4 if packet[0] >> 4 == 6 else packet[pkt.IP_TOS]
    return tos & 0xFC | 2 if tos & 3 == 3 else tos


def gue_port(flow_hash: int) -> int:
    """Return the UDP source port for the flow with *flow_hash*, so that routers spread flows over paths."""
    mixed = (flow_hash ^ flow_hash << 16) & pkt.ALL_ONES
    return (mixed * (LAST_PORT - FIRST_PORT) >> 32) + FIRST_PORT


def _write_between(packet, length: int, out, at: int, kind: int, port: int, flags: int, flow_hash: int) -> None:
    """Write what stands at *at* in *out*, between the outer IP header and the packet."""
    if kind == GUE:
        _write_gue(packet, length, out, at, port, flags, flow_hash)
    elif kind == GRE:
        _write_gre(packet, length, out, at, flags)


def _write_gue(packet, length: int, out, at: int, port: int, flags: int, flow_hash: int) -> None:
    pkt.put16(out, at + pkt.PORT_SOURCE, gue_port(flow_hash))
    pkt.put16(out, at + pkt.PORT_DESTINATION, port)
    pkt.put16(out, at + pkt.UDP_LENGTH, GUE_HEADERS + length)
    pkt.put16(out, at + pkt.UDP_CHECKSUM, 0)
    out[at + 8] = 0                                     # version 0, data, no optional words
    out[at + 9] = IN_IPV6 if packet[0] >> 4 == 6 else IN_IP
    pkt.put16(out, at + 10, 0)
    if flags & (CSUM | REMCSUM):
        total = pkt.pseudo_sum(out, IN_UDP, at, at + GUE_HEADERS + length)
        total += pkt.word_sum(out, at, at + GUE_HEADERS) + pkt.word_sum(packet, 0, length)
        checksum = ~pkt.fold(total) & 0xFFFF
        pkt.put16(out, at + pkt.UDP_CHECKSUM, 0xFFFF if checksum == 0 else checksum)


def _write_gre(packet, length: int, out, at: int, flags: int) -> None:
    pkt.put16(out, at, GRE_CHECKSUM if flags & CSUM else 0)
    pkt.put16(out, at + 2, ETHER_IPV6 if packet[0] >> 4 == 6 else ETHER_IPV4)
    if flags & CSUM:
        pkt.put32(out, at + 4, 0)
        total = pkt.word_sum(out, at, at + 8) + pkt.word_sum(packet, 0, length)
        pkt.put16(out, at + 4, ~pkt.fold(total) & 0xFFFF)


def inner_of(packet, length: int) -> int:
    """Return where in *packet*, of which *length* bytes are here, the tunnelled packet starts.

    -1 means: no tunnel of ours, or a later fragment; 0: a tunnel with no whole IP header of the promised version in
    it.  That the UDP port is a tunnel's is for the caller to check, and so is how much of the inner packet there must
    be: an ICMP error quotes only the beginning.
    """
    header = _header(packet, 0, length)
    if header == 0:
        return -1
    if packet[0] >> 4 == 6:
        found = pkt.find_transport(packet, 0, length)
        if found < 0 or found & pkt.IS_FRAGMENT:
            return -1
        header = found >> pkt.START_SHIFT
        protocol = found & pkt.PROTOCOL_MASK
    elif pkt.get16(packet, pkt.IP_FRAGMENT) & pkt.OFFSET_MASK:
        return -1
    else:
        protocol = packet[pkt.IP_PROTOCOL]
    between = 0
    if protocol == IN_UDP:
        between = _gue_size(packet, header, length)
    elif protocol == IN_GRE:
        between = _gre_size(packet, header, length)
    elif protocol not in (IN_IP, IN_IPV6):
        return -1
    if between < 0:
        return -1
    if _header(packet, header + between, length) == 0:
        return 0
    return header + between if packet[header + between] >> 4 == _promised(packet, header, protocol) else 0


def _promised(packet, header: int, protocol: int) -> int:
    """Return the IP version that the tunnel headers at *header* say the inner packet has."""
    if protocol == IN_UDP:
        return 6 if packet[header + 9] == IN_IPV6 else 4
    if protocol == IN_GRE:
        return 6 if pkt.get16(packet, header + 2) == ETHER_IPV6 else 4
    return 6 if protocol == IN_IPV6 else 4


def _header(packet, at: int, length: int) -> int:
    """Return how long the IP header at *at* is, without extensions; 0 when there is none, or not all of it."""
    if at + IP_HEADER > length:
        return 0
    if packet[at] >> 4 == 6:
        return pkt.IP6_HEADER if at + pkt.IP6_HEADER <= length else 0
    if packet[at] >> 4 != 4 or packet[at] & 0x0F < 5:
        return 0
    header = (packet[at] & 0x0F) * 4
    return header if at + header <= length else 0


def _gue_size(packet, at: int, length: int) -> int:
    """Return the bytes of UDP and GUE headers at *at*, or -1 when it is no data packet with IP in it."""
    if at + GUE_HEADERS > length or packet[at + 8] >> 5 != 0 or packet[at + 9] not in (IN_IP, IN_IPV6):
        return -1
    return GUE_HEADERS + (packet[at + 8] & 0x1F) * 4


def _gre_size(packet, at: int, length: int) -> int:
    """Return the bytes of the GRE header at *at*, or -1 when there is no IP in it."""
    if at + GRE_HEADER > length or pkt.get16(packet, at + 2) not in (ETHER_IPV4, ETHER_IPV6):
        return -1
    flags = pkt.get16(packet, at)
    if flags & GRE_UNKNOWN:
        return -1
    return (GRE_HEADER + (4 if flags & GRE_CHECKSUM else 0) + (4 if flags & GRE_KEY else 0)
            + (4 if flags & GRE_SEQUENCE else 0))
