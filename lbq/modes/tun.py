"""TUN, tunnelling (``ipip``, ipvsadm -i): the request travels to the real server inside another packet.

    in     CIP:cport -> VIP:vport   becomes   director -> RIP [ CIP:cport -> VIP:vport ]
    out    VIP:vport -> CIP:cport   goes from the real server to the client, past the director

The real server unwraps the packet, finds the VIP on one of its own interfaces and answers from it.  As
in DR the director sees only requests and ports cannot change; unlike in DR the real server may be any
number of routers away.  What the wrapping costs is room: *overhead* bytes less in every packet.

    IPIP   outer IPv4 (protocol 4)  | packet
    GUE    outer IPv4 (17)  | UDP to the tunnel's port | GUE: 0, 4 (IPv4), flags 0 | packet
    GRE    outer IPv4 (47)  | flags, 0x0800 [, checksum, 0]                        | packet

The outer header takes the inner one's TTL (already one less) and its type of service, except that
"congestion experienced" becomes "capable" (RFC 6040: the inner header still has the mark).  It forbids
fragments when the inner one does and *pmtu_disc* is on; then its identification is 0.

CSUM asks for GUE's UDP checksum or GRE's; REMCSUM gives GUE its UDP checksum, too, and nothing else: the
extra header that the kernel has for it describes checksums that are not complete, and ours are.

Kernel: ip_vs_xmit.c, ip_vs_tunnel_xmit(), ipvs_gue_encap(), ipvs_gre_encap(); ip_vs_core.c,
ipvs_udp_decap(), ipvs_gre_decap(); include/net/udp.h, udp_flow_src_port().
RFC 2003 (IPIP), RFC 2784 and 2890 (GRE), draft-ietf-intarea-gue-09.
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
IN_IP = 4                       # IP protocol numbers
IN_UDP = 17
IN_GRE = 47
FIRST_PORT = 32768              # ip_local_port_range
LAST_PORT = 60999

if cython.compiled:             # numbers with a C type are invisible to Python code; these are its copies
    globals().update(IPIP=IPIP, GUE=GUE, GRE=GRE, CSUM=CSUM, REMCSUM=REMCSUM)


def overhead(kind: int, flags: int) -> int:
    """Return how many bytes a tunnel of *kind* with *flags* puts in front of a packet."""
    if kind == GUE:
        return IP_HEADER + GUE_HEADERS
    if kind == GRE:
        return IP_HEADER + GRE_HEADER + (4 if flags & CSUM else 0)
    return IP_HEADER


def protocol_of(kind: int) -> int:
    """Return the IP protocol number in the outer header of a tunnel of *kind*."""
    if kind == GUE:
        return IN_UDP
    if kind == GRE:
        return IN_GRE
    return IN_IP


def wrap(packet, length: int, out, source: int, destination: int, kind: int, port: int, flags: int,
         pmtu_disc: bool, identification: int, flow_hash: int) -> int:
    """Write into *out* what goes in front of *packet*, whose TTL counts this hop already; return its size.

    *packet* and its checksums must be complete; *identification* is used where fragments are allowed.
    """
    size = overhead(kind, flags)
    forbidden = pmtu_disc and pkt.get16(packet, pkt.IP_FRAGMENT) & pkt.DONT_FRAGMENT
    out[0] = 0x45
    out[pkt.IP_TOS] = packet[pkt.IP_TOS]
    if packet[pkt.IP_TOS] & 3 == 3:
        out[pkt.IP_TOS] = packet[pkt.IP_TOS] & 0xFC | 2
    pkt.put16(out, pkt.IP_LENGTH, size + length)
    pkt.put16(out, pkt.IP_ID, 0 if forbidden else identification)
    pkt.put16(out, pkt.IP_FRAGMENT, pkt.DONT_FRAGMENT if forbidden else 0)
    out[pkt.IP_TTL] = packet[pkt.IP_TTL]
    out[pkt.IP_PROTOCOL] = protocol_of(kind)
    pkt.put32(out, pkt.IP_SOURCE, source)
    pkt.put32(out, pkt.IP_DESTINATION, destination)
    pkt.put16(out, pkt.IP_CHECKSUM, pkt.header_checksum(out, IP_HEADER))
    if kind == GUE:
        _write_gue(packet, length, out, port, flags, flow_hash)
    elif kind == GRE:
        _write_gre(packet, length, out, flags)
    return size


def gue_port(flow_hash: int) -> int:
    """Return the UDP source port for the flow with *flow_hash*, so that routers spread flows over paths."""
    mixed = (flow_hash ^ flow_hash << 16) & pkt.ALL_ONES
    return (mixed * (LAST_PORT - FIRST_PORT) >> 32) + FIRST_PORT


def _write_gue(packet, length: int, out, port: int, flags: int, flow_hash: int) -> None:
    pkt.put16(out, IP_HEADER + pkt.PORT_SOURCE, gue_port(flow_hash))
    pkt.put16(out, IP_HEADER + pkt.PORT_DESTINATION, port)
    pkt.put16(out, IP_HEADER + pkt.UDP_LENGTH, GUE_HEADERS + length)
    pkt.put16(out, IP_HEADER + pkt.UDP_CHECKSUM, 0)
    out[IP_HEADER + 8] = 0                              # version 0, data, no optional words
    out[IP_HEADER + 9] = IN_IP
    pkt.put16(out, IP_HEADER + 10, 0)
    if flags & (CSUM | REMCSUM):
        total = pkt.word_sum(out, pkt.IP_SOURCE, IP_HEADER + GUE_HEADERS) + IN_UDP + GUE_HEADERS + length
        checksum = ~pkt.fold(total + pkt.word_sum(packet, 0, length)) & 0xFFFF
        pkt.put16(out, IP_HEADER + pkt.UDP_CHECKSUM, 0xFFFF if checksum == 0 else checksum)


def _write_gre(packet, length: int, out, flags: int) -> None:
    pkt.put16(out, IP_HEADER, GRE_CHECKSUM if flags & CSUM else 0)
    pkt.put16(out, IP_HEADER + 2, ETHER_IPV4)
    if flags & CSUM:
        pkt.put32(out, IP_HEADER + 4, 0)
        total = pkt.word_sum(out, IP_HEADER, IP_HEADER + 8) + pkt.word_sum(packet, 0, length)
        pkt.put16(out, IP_HEADER + 4, ~pkt.fold(total) & 0xFFFF)


def inner_of(packet, length: int) -> int:
    """Return where in *packet*, of which *length* bytes are here, the tunnelled IPv4 packet starts.

    -1 means: no tunnel of ours, or a later fragment; 0: a tunnel with no whole IPv4 header in it.  That the UDP
    port is a tunnel's is for the caller to check, and so is how much of the inner packet there must be: an ICMP
    error quotes only the beginning.
    """
    header = _header(packet, 0, length)
    if header == 0 or pkt.get16(packet, pkt.IP_FRAGMENT) & pkt.OFFSET_MASK:
        return -1
    between = 0
    if packet[pkt.IP_PROTOCOL] == IN_UDP:
        between = _gue_size(packet, header, length)
    elif packet[pkt.IP_PROTOCOL] == IN_GRE:
        between = _gre_size(packet, header, length)
    elif packet[pkt.IP_PROTOCOL] != IN_IP:
        return -1
    if between < 0:
        return -1
    if _header(packet, header + between, length) == 0:
        return 0
    return header + between


def _header(packet, at: int, length: int) -> int:
    """Return how long the IPv4 header at *at* is, or 0 when there is none, or not all of it."""
    if at + IP_HEADER > length or packet[at] >> 4 != 4 or packet[at] & 0x0F < 5:
        return 0
    header = (packet[at] & 0x0F) * 4
    return header if at + header <= length else 0


def _gue_size(packet, at: int, length: int) -> int:
    """Return the bytes of UDP and GUE headers at *at*, or -1 when it is no data packet with IPv4 in it."""
    if at + GUE_HEADERS > length or packet[at + 8] >> 5 != 0 or packet[at + 9] != IN_IP:
        return -1
    return GUE_HEADERS + (packet[at + 8] & 0x1F) * 4


def _gre_size(packet, at: int, length: int) -> int:
    """Return the bytes of the GRE header at *at*, or -1 when there is no IPv4 in it."""
    if at + GRE_HEADER > length or pkt.get16(packet, at + 2) != ETHER_IPV4:
        return -1
    flags = pkt.get16(packet, at)
    if flags & GRE_UNKNOWN:
        return -1
    return (GRE_HEADER + (4 if flags & GRE_CHECKSUM else 0) + (4 if flags & GRE_KEY else 0)
            + (4 if flags & GRE_SEQUENCE else 0))
