"""Cuts packets that are too large: fragments, and TCP segments out of what the kernel merged.

The kernel does both for what goes through its own IP layer; packets of DR and TUN leave here ready made.

All functions write the pieces into *out* one after the other and return how many there are, or 0 when
*packet* cannot be cut, or when *room* bytes or *most* pieces are too few.  Each piece is a whole IP
packet, so its own length field says where the next one starts.

An IPv6 packet is only cut by who sends it: a tunnel's outer one, or one that came in fragments and was put together.

Kernel: net/ipv4/ip_output.c, ip_do_fragment(); net/ipv4/ip_options.c, ip_options_fragment();
net/ipv6/ip6_output.c, ip6_fragment(), and output_core.c, ip6_find_1stfragopt();
net/ipv4/tcp_offload.c, tcp_gso_segment(); net/ipv4/af_inet.c, inet_gso_segment().
RFC 791, RFC 8200 (4.5), RFC 3168 (what CWR means).
"""
from __future__ import annotations

import cython

from lbq import packet as pkt

COPIED = 0x80           # option types with this bit go into every fragment
END = 0
NO_OPERATION = 1
FRAGMENT_HEADER = 8     # bytes of it, in IPv6

FIN = 0x01
PSH = 0x08
CWR = 0x80


def fragment(packet, length: int, mtu: int, out, room: int, most: int) -> int:
    """Cut an IPv4 *packet* into fragments of at most *mtu* bytes; one that fits stays one, unchanged."""
    header = _header(packet, length)
    if header == 0:
        return 0
    if length <= mtu:
        if length > room or most < 1:
            return 0
        _copy(packet, 0, length, out, 0)
        return 1
    step = (mtu - header) & ~7
    word = pkt.get16(packet, pkt.IP_FRAGMENT)
    first = word & pkt.OFFSET_MASK
    if step <= 0 or first * 8 + length - header > 0xFFFF:
        return 0
    count = 0
    start = header
    to = 0
    while start < length:
        # The last piece need not end on a multiple of 8 and so may be a little longer.
        size = length - start if length - start <= mtu - header else step
        if to + header + size > room or count >= most:
            return 0
        _copy(packet, 0, header, out, to)
        if count > 0 and first == 0:
            _drop_options(out, to + 20, to + header)
        _copy(packet, start, size, out, to + header)
        more = start + size < length or word & pkt.MORE_FRAGMENTS
        pkt.put16(out, to + pkt.IP_FRAGMENT, first + (start - header) // 8 + (pkt.MORE_FRAGMENTS if more else 0))
        _finish_header(out, to, header, size)
        start += size
        to += header + size
        count += 1
    return count


def fragment6(packet, length: int, mtu: int, out, room: int, most: int, identification: int) -> int:
    """Cut an IPv6 *packet* into fragments of at most *mtu* bytes, which *identification* holds together."""
    start = _unfragmentable(packet, length)
    step = (mtu - start - FRAGMENT_HEADER) & ~7
    if start == 0 or step <= 0:
        return 0
    field = _last_next_header(packet, start)
    headers = start + FRAGMENT_HEADER
    offset = 0
    count = 0
    to = 0
    while start + offset < length:
        left = length - start - offset
        size = left if left <= mtu - headers else step
        if to + headers + size > room or count >= most:
            return 0
        _copy(packet, 0, start, out, to)
        out[to + field] = pkt.FRAGMENT
        out[to + start] = packet[field]
        out[to + start + 1] = 0
        pkt.put16(out, to + start + 2, offset | (1 if size < left else 0))
        pkt.put32(out, to + start + 4, identification)
        _copy(packet, start + offset, size, out, to + headers)
        _finish_header(out, to, start, FRAGMENT_HEADER + size)
        offset += size
        to += headers + size
        count += 1
    return count


def segment(packet, length: int, payload: int, out, room: int, most: int) -> int:
    """Cut the TCP packet of *length* bytes into segments with *payload* bytes each, their checksums complete."""
    header = _tcp_header(packet, length)
    if header == 0 or payload <= 0 or header + 20 > length:
        return 0
    start = header + (packet[header + pkt.TCP_OFFSET] >> 4) * 4
    if start < header + 20 or start > length:
        return 0
    headers = start
    identification = pkt.get16(packet, pkt.IP_ID)
    sequence = pkt.get32(packet, header + pkt.TCP_SEQUENCE)
    flags = packet[header + pkt.TCP_FLAGS]
    count = 0
    to = 0
    while start < length or count == 0:
        size = min(payload, length - start)
        if to + headers + size > room or count >= most:
            return 0
        _copy(packet, 0, headers, out, to)
        _copy(packet, start, size, out, to + headers)
        if packet[0] >> 4 == 4:
            pkt.put16(out, to + pkt.IP_ID, (identification + count) & 0xFFFF)
        pkt.put32(out, to + header + pkt.TCP_SEQUENCE, sequence + (start - headers))
        out[to + header + pkt.TCP_FLAGS] = _flags_of(flags, count == 0, start + size == length)
        _finish_header(out, to, header, headers - header + size)
        _finish_tcp(out, to, header, headers + size)
        start += size
        to += headers + size
        count += 1
    return count


def _copy(source, at: int, length: int, target, to: int) -> None:
    if cython.compiled:
        memcpy(target + to, source + at, length)    # noqa: F821  cimported in pieces.pxd
    else:
        target[to:to + length] = source[at:at + length]


def _header(packet, length: int) -> int:
    """Return how long the IPv4 header of *packet* is, or 0 when there is none or it speaks of another length."""
    if length < 20 or packet[0] >> 4 != 4 or packet[0] & 0x0F < 5 or (packet[0] & 0x0F) * 4 > length:
        return 0
    return (packet[0] & 0x0F) * 4 if pkt.get16(packet, pkt.IP_LENGTH) == length else 0


def _tcp_header(packet, length: int) -> int:
    """Return where the TCP header of *packet* is, or 0 when it is no whole TCP packet."""
    if length < 20:
        return 0
    if packet[0] >> 4 == 4:
        return _header(packet, length) if packet[pkt.IP_PROTOCOL] == pkt.TCP else 0
    found = pkt.find_transport(packet, 0, length)
    if found < 0 or found & (pkt.PROTOCOL_MASK | pkt.IS_FRAGMENT) != pkt.TCP or pkt.whole_length(packet) != length:
        return 0
    return found >> pkt.START_SHIFT


def _unfragmentable(packet, length: int) -> int:
    """Return how long the part of an IPv6 *packet* is that every fragment repeats, or 0 when it is no whole one."""
    if length < pkt.IP6_HEADER or packet[0] >> 4 != 6 or pkt.whole_length(packet) != length:
        return 0
    protocol = packet[pkt.IP6_NEXT]
    at = pkt.IP6_HEADER
    routed = False
    while protocol == pkt.HOP_BY_HOP or protocol == pkt.ROUTING or (protocol == pkt.DESTINATION_OPTIONS and not routed):
        if at + 2 > length:
            return 0
        routed = routed or protocol == pkt.ROUTING
        protocol = packet[at]
        at += (packet[at + 1] + 1) * 8
    return at if at <= length else 0


def _last_next_header(packet, end: int) -> int:
    """Return where the part of an IPv6 *packet* that ends at *end* says what follows it."""
    field = pkt.IP6_NEXT
    at = pkt.IP6_HEADER
    while at < end:
        field = at
        at += (packet[at + 1] + 1) * 8
    return field


def _drop_options(out, at: int, end: int) -> None:
    """Make no-operations of the options in [*at*, *end*) that belong into the first fragment only."""
    while at < end and out[at] != END:
        if out[at] == NO_OPERATION:
            at += 1
            continue
        if at + 1 >= end or out[at + 1] < 2 or at + out[at + 1] > end:
            return
        size = out[at + 1]
        if out[at] & COPIED == 0:
            for i in range(size):
                out[at + i] = NO_OPERATION
        at += size


def _flags_of(flags: int, first: bool, last: bool) -> int:
    """Return the TCP flags of a segment: what ends a stretch of data is in the last, CWR in the first only."""
    if not last:
        flags &= ~(FIN | PSH)
    if not first:
        flags &= ~CWR
    return flags & 0xFF


def _finish_header(out, to: int, header: int, size: int) -> None:
    """Write the length, and checksum, of the IP header of *header* bytes at *to*, behind which *size* bytes follow."""
    if out[to] >> 4 == 6:
        pkt.put16(out, to + pkt.IP6_LENGTH, header - pkt.IP6_HEADER + size)
        return
    pkt.put16(out, to + pkt.IP_LENGTH, header + size)
    pkt.put16(out, to + pkt.IP_CHECKSUM, 0)
    pkt.put16(out, to + pkt.IP_CHECKSUM, ~pkt.word_sum(out, to, to + header) & 0xFFFF)


def _finish_tcp(out, to: int, header: int, length: int) -> None:
    """Write the TCP checksum of the packet of *length* bytes at *to*."""
    field = to + header + pkt.TCP_CHECKSUM
    pkt.put16(out, field, 0)
    if out[to] >> 4 == 6:
        total = pkt.word_sum(out, to + pkt.IP6_SOURCE, to + pkt.IP6_SOURCE + 32)
    else:
        total = pkt.word_sum(out, to + pkt.IP_SOURCE, to + pkt.IP_SOURCE + 8)
    total += pkt.TCP + length - header
    pkt.put16(out, field, ~pkt.fold(total + pkt.word_sum(out, to + header, to + length)) & 0xFFFF)
