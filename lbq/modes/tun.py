"""Tunnelling (``tun``, ipvsadm -i): the packet travels inside another one, so a real server may be anywhere.

    in    [ director -> RIP [ CIP:cport -> VIP:vport ]]    the inner packet is the client's, its TTL one less
    out   VIP:vport -> CIP:cport                           from the real server straight to the client

    ipip  outer IPv4 header (20 bytes)
    gue   and UDP (8) and GUE (4): RFC draft-ietf-intarea-gue
    gre   and GRE (4, or 8 with a checksum): RFC 2784

Kernel: ip_vs_xmit.c, ip_vs_tunnel_xmit(), ipvs_gue_encap(), ipvs_gre_encap(); RFC 2003, RFC 6040.
"""
from __future__ import annotations

import cython

from lbq import packet as pkt

IPIP, GUE, GRE = range(3)
NOCSUM, CSUM, REMCSUM = range(3)
PROTOCOL_IPIP = 4
PROTOCOL_UDP = 17
PROTOCOL_GRE = 47
DONT_FRAGMENT = 0x4000
ECN_MASK = 3
ECN_CE = 3
ECN_ECT0 = 2
LOWEST_PORT = 32768         # net.ipv4.ip_local_port_range
HIGHEST_PORT = 60999
GRE_CHECKSUM = 0x8000
GRE_IPV4 = 0x0800


def overhead(kind: int, flags: int) -> int:
    """Return how many bytes a tunnel packet is longer than what it carries."""
    if kind == GUE:
        return 20 + 8 + 4
    if kind == GRE:
        return 20 + 8 if flags == CSUM else 20 + 4
    return 20


def protocol_of(kind: int) -> int:
    """Return the IP protocol of the outer header."""
    if kind == GUE:
        return PROTOCOL_UDP
    if kind == GRE:
        return PROTOCOL_GRE
    return PROTOCOL_IPIP


def wrap(packet, length: int, out, source: int, destination: int, kind: int, port: int, flags: int,
         pmtu_disc: bool, identification: int, flow_hash: int) -> int:
    """Write into *out* the headers that go before *packet* of *length* bytes; return how many bytes they are."""
    size = overhead(kind, flags)
    for i in range(size):
        out[i] = 0
    keep = pmtu_disc and packet[pkt.IP_FRAGMENT] & 0x40 != 0
    ecn = packet[1] & ECN_MASK
    out[0] = 0x45
    out[1] = (packet[1] & 0xFC) | (ECN_ECT0 if ecn == ECN_CE else ecn)
    pkt.put16(out, pkt.IP_LENGTH, size + length)
    if keep:
        pkt.put16(out, pkt.IP_FRAGMENT, DONT_FRAGMENT)
    else:
        pkt.put16(out, 4, identification)
    out[pkt.IP_TTL] = packet[pkt.IP_TTL]
    out[pkt.IP_PROTOCOL] = protocol_of(kind)
    pkt.put32(out, pkt.IP_SOURCE, source)
    pkt.put32(out, pkt.IP_DESTINATION, destination)
    pkt.put16(out, pkt.IP_CHECKSUM, pkt.header_checksum(out, 20))
    if kind == GUE:
        _wrap_gue(packet, length, out, port, flags, flow_hash)
    elif kind == GRE:
        _wrap_gre(packet, length, out, flags)
    return size


def _wrap_gue(packet, length: int, out, port: int, flags: int, flow_hash: int) -> None:
    pkt.put16(out, 20, gue_port(flow_hash))
    pkt.put16(out, 22, port)
    pkt.put16(out, 24, 8 + 4 + length)
    out[29] = PROTOCOL_IPIP
    if flags != NOCSUM:
        total = pkt.word_sum(out, pkt.IP_SOURCE, 20) + PROTOCOL_UDP + 8 + 4 + length
        total += pkt.word_sum(out, 20, 32) + pkt.word_sum(packet, 0, length)
        checksum = ~pkt.fold(total) & 0xFFFF
        pkt.put16(out, 26, checksum if checksum else 0xFFFF)


def _wrap_gre(packet, length: int, out, flags: int) -> None:
    pkt.put16(out, 22, GRE_IPV4)
    if flags == CSUM:
        pkt.put16(out, 20, GRE_CHECKSUM)
        pkt.put16(out, 24, ~pkt.fold(pkt.word_sum(out, 20, 24) + pkt.word_sum(packet, 0, length)) & 0xFFFF)


def gue_port(flow_hash: int) -> int:
    """Return the UDP source port for a flow, out of the host's local range: udp_flow_src_port()."""
    mixed = (flow_hash ^ (flow_hash << 16)) & pkt.ALL_ONES
    return ((mixed * (HIGHEST_PORT - LOWEST_PORT)) >> 32) + LOWEST_PORT


def inner_of(packet, length: int) -> int:
    """Return where the inner IPv4 packet begins in a tunnel packet of which *length* bytes are here, or 0."""
    if length < 20 or packet[0] >> 4 != 4:
        return 0
    at = (packet[0] & 15) * 4
    if at < 20:
        return 0
    protocol = packet[pkt.IP_PROTOCOL]
    if protocol == PROTOCOL_UDP:
        if length < at + 12 or packet[at + 8] >> 5 != 0 or packet[at + 9] != PROTOCOL_IPIP:
            return 0
        at += 8 + 4 + (packet[at + 8] & 0x1F) * 4
    elif protocol == PROTOCOL_GRE:
        if length < at + 4 or pkt.get16(packet, at) & 0x7FFF or pkt.get16(packet, at + 2) != GRE_IPV4:
            return 0
        at += 8 if pkt.get16(packet, at) & GRE_CHECKSUM else 4
    elif protocol != PROTOCOL_IPIP:
        return 0
    if length < at + 20 or packet[at] >> 4 != 4:
        return 0
    return at
