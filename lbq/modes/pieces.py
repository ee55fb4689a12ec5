"""Cutting packets: one that is too long for its way into fragments, one large TCP packet into segments.

The kernel does both for what goes through its own IP layer; packets of DR and TUN leave lbq ready made.

    fragment   RFC 791, 2.3; options of later fragments as in the kernel's ip_options_fragment()
    segment    as the kernel's tcp_gso_segment(): PSH and FIN only on the last, CWR only on the first

Both write the pieces one after the other into *out* (*room* bytes), their lengths into *sizes* (*most* places), and
return how many there are, 0 when they do not fit.
"""
from __future__ import annotations

from lbq import packet as pkt

MORE_FRAGMENTS = 0x2000
OFFSET_MASK = 0x1FFF
FIN, PSH, CWR = 0x01, 0x08, 0x80
SEQUENCE = 4                # in the TCP header
DATA_OFFSET = 12
COPIED = 0x80               # an option that every fragment has
END_OF_OPTIONS, NO_OPERATION = 0, 1


def fragment(packet, length: int, mtu: int, out, sizes, most: int, room: int) -> int:
    """Cut *packet* into fragments of at most *mtu* bytes, whatever its DF says."""
    header = (packet[0] & 15) * 4
    data = (mtu - header) & ~7
    if data <= 0:
        return 0
    word = pkt.get16(packet, pkt.IP_FRAGMENT)
    offset = word & OFFSET_MASK
    count, at, begin = 0, header, 0
    while at < length:
        size = min(data, length - at)
        if count >= most or begin + header + size > room:
            return 0
        for i in range(header):
            out[begin + i] = packet[i]
        if count and header > 20:
            _drop_options(out, begin, header)
        for i in range(size):
            out[begin + header + i] = packet[at + i]
        last = at + size == length and word & MORE_FRAGMENTS == 0
        pkt.put16(out, begin + pkt.IP_LENGTH, header + size)
        pkt.put16(out, begin + pkt.IP_FRAGMENT, offset + (at - header) // 8 | (0 if last else MORE_FRAGMENTS))
        _finish_header(out, begin, header)
        sizes[count] = header + size
        count += 1
        begin += header + size
        at += size
    return count


def segment(packet, length: int, payload: int, out, sizes, most: int, room: int) -> int:
    """Cut the TCP *packet* into segments with at most *payload* bytes of data."""
    header = (packet[0] & 15) * 4
    start = header + (packet[header + DATA_OFFSET] >> 4) * 4
    if payload <= 0 or start < header + 20 or start > length:
        return 0
    sequence = pkt.get32(packet, header + SEQUENCE)
    identification = pkt.get16(packet, 4)
    flags = packet[header + pkt.TCP_FLAGS]
    count, at, begin = 0, start, 0
    while count == 0 or at < length:
        size = min(payload, length - at)
        if count >= most or begin + start + size > room:
            return 0
        for i in range(start):
            out[begin + i] = packet[i]
        for i in range(size):
            out[begin + start + i] = packet[at + i]
        pkt.put16(out, begin + pkt.IP_LENGTH, start + size)
        pkt.put16(out, begin + 4, identification + count & 0xFFFF)
        pkt.put32(out, begin + header + SEQUENCE, sequence + (at - start) & pkt.ALL_ONES)
        ours = flags
        if at + size < length:
            ours &= ~(FIN | PSH)
        if count:
            ours &= ~CWR
        out[begin + header + pkt.TCP_FLAGS] = ours & 0xFF
        _finish_header(out, begin, header)
        _finish_segment(out, begin, header, start + size)
        sizes[count] = start + size
        count += 1
        begin += start + size
        at += size
    return count


def _drop_options(out, begin: int, header: int) -> None:
    """Turn those IP options that only a first fragment has into no-operations."""
    at = begin + 20
    end = begin + header
    while at < end:
        kind = out[at]
        if kind == END_OF_OPTIONS:
            return
        if kind == NO_OPERATION:
            at += 1
            continue
        size = out[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            return
        if kind & COPIED == 0:
            for i in range(size):
                out[at + i] = NO_OPERATION
        at += size


def _finish_header(out, begin: int, header: int) -> None:
    pkt.put16(out, begin + pkt.IP_CHECKSUM, 0)
    pkt.put16(out, begin + pkt.IP_CHECKSUM, ~pkt.word_sum(out, begin, begin + header) & 0xFFFF)


def _finish_segment(out, begin: int, header: int, size: int) -> None:
    field = begin + header + pkt.TCP_CHECKSUM
    pkt.put16(out, field, 0)
    total = pkt.word_sum(out, begin + pkt.IP_SOURCE, begin + pkt.IP_SOURCE + 8) + 6 + size - header
    total += pkt.word_sum(out, begin + header, begin + size)
    pkt.put16(out, field, ~pkt.fold(total) & 0xFFFF)
