"""Header offsets, big-endian access and the Internet checksum, on the bytes of one IP packet.

``packet`` is a ``bytearray`` when this file runs interpreted and an ``unsigned char *`` when it is
compiled; ``packet[i]`` means the same on both.

RFC 791 (IPv4), RFC 8200 (IPv6), RFC 793 (TCP), RFC 768 (UDP), RFC 9260 (SCTP), RFC 1071 and RFC 1624 (checksums).
"""
from __future__ import annotations

import cython

ALL_ONES = 0xFFFFFFFF       # a name, because as a number it is a Python object to compiled code

# When this is compiled, the numbers and the functions that every packet needs are C, in packet.pxd: there they become
# part of whoever uses them, where a call into another module would go through a pointer.  Here is what they are.
if not cython.compiled:
    IP_TOS = 1
    IP_LENGTH = 2
    IP_ID = 4
    IP_FRAGMENT = 6         # flags and offset
    IP_TTL = 8
    IP_PROTOCOL = 9
    IP_CHECKSUM = 10
    IP_SOURCE = 12
    IP_DESTINATION = 16

    IP6_LENGTH = 4          # of what follows the 40 bytes of the header
    IP6_NEXT = 6
    IP6_HOPS = 7
    IP6_SOURCE = 8
    IP6_DESTINATION = 24
    IP6_HEADER = 40

    # From the start of the TCP, UDP or SCTP header:
    PORT_SOURCE = 0
    PORT_DESTINATION = 2
    UDP_LENGTH = 4
    UDP_CHECKSUM = 6
    TCP_SEQUENCE = 4
    TCP_ACKNOWLEDGED = 8
    TCP_OFFSET = 12         # the upper four bits: how many words the header has
    TCP_FLAGS = 13
    TCP_CHECKSUM = 16
    SCTP_CHECKSUM = 8       # 32 bits

    DONT_FRAGMENT = 0x4000
    MORE_FRAGMENTS = 0x2000
    OFFSET_MASK = 0x1FFF    # in units of 8 bytes
    FRAGMENT_MASK = 0x3FFF  # more-fragments and the offset: non-zero means a fragment

    TCP = 6                 # IP protocol numbers
    UDP = 17
    SCTP = 132
    ICMPV6 = 58
    HOP_BY_HOP = 0          # IPv6's extension headers
    ROUTING = 43
    FRAGMENT = 44
    AUTHENTICATION = 51
    DESTINATION_OPTIONS = 60

    # What find_transport() returns: the protocol, two flags, and above them where its header starts.
    PROTOCOL_MASK = 0xFF
    IS_FRAGMENT = 0x100     # there is a fragment header
    IS_LATER = 0x200        # ... and this is not the first fragment, so there is no header of the protocol's
    START_SHIFT = 10

    # NFQA_SKB_INFO, what the kernel says of a queued packet's checksum and shape:
    CHECKSUM_NOT_READY = 1  # the field holds the pseudo-header sum; hardware was to finish it
    SEGMENTED_LATER = 2     # GSO: one large packet that will leave as many
    CHECKSUM_NOT_VERIFIED = 4

    CRC32C = [0] * 256

    def get16(packet, at: int) -> int:
        """Return the 16-bit number at offset *at*."""
        return packet[at] << 8 | packet[at + 1]

    def put16(packet, at: int, value: int) -> None:
        """Write the 16-bit *value* at offset *at*."""
        packet[at] = value >> 8 & 0xFF
        packet[at + 1] = value & 0xFF

    def get32(packet, at: int) -> int:
        """Return the 32-bit number at offset *at*."""
        return get16(packet, at) << 16 | get16(packet, at + 2)

    def put32(packet, at: int, value: int) -> None:
        """Write the 32-bit *value* at offset *at*."""
        put16(packet, at, value >> 16 & 0xFFFF)
        put16(packet, at + 2, value & 0xFFFF)

    def fold(total: int) -> int:
        """Return *total* as a 16-bit ones' complement sum: every carry is added back in."""
        while total > 0xFFFF:
            total = (total & 0xFFFF) + (total >> 16)
        return total

    def adjust(checksum: int, old: int, new: int) -> int:
        """Return *checksum* after one 16-bit word went from *old* to *new*.

        RFC 1624, equation 3:  HC' = ~(~HC + ~m + m')

        >>> hex(adjust(0xDD2F, 0x5555, 0x3285))
        '0x0'
        """
        return ~fold((~checksum & 0xFFFF) + (~old & 0xFFFF) + new) & 0xFFFF

    def change32(old: int, new: int) -> int:
        """Return what must be added to a ones' complement sum in which a 32-bit word goes from *old* to *new*."""
        return fold((~old >> 16 & 0xFFFF) + (~old & 0xFFFF) + (new >> 16) + (new & 0xFFFF))

    def put_address(packet, at: int, address) -> None:
        """Write the 16 bytes of an IPv6 *address* at offset *at*."""
        packet[at:at + 16] = address

if cython.compiled:         # C is invisible to Python code; these are its ways there
    globals().update(ALL_ONES=ALL_ONES, get16=get16, put16=put16, get32=get32, put32=put32, fold=fold, adjust=adjust,
                     change32=change32)


def _fill() -> None:
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)     # Castagnoli's polynomial, lowest power first
        CRC32C[byte] = crc


_fill()


def word_sum(packet, start: int, end: int) -> int:
    """Return the folded ones' complement sum of the 16-bit words in [*start*, *end*), zero-padded."""
    if cython.compiled:
        return sum_words(packet + start, end - start)   # noqa: F821  C code in packet.pxd
    total = 0
    for at in range(start, end - 1, 2):
        total += packet[at] << 8 | packet[at + 1]
    if (end - start) & 1:
        total += packet[end - 1] << 8
    return fold(total)


def header_checksum(packet, header: int) -> int:
    """Return the IPv4 header checksum over *header* bytes, the field itself counted as zero."""
    return ~fold(word_sum(packet, 0, IP_CHECKSUM) + word_sum(packet, IP_CHECKSUM + 2, header)) & 0xFFFF


def pseudo_sum(packet, protocol: int, header: int, end: int) -> int:
    """Return the sum of the pseudo-header of a *protocol* segment in [*header*, *end*): addresses, protocol, length.

    It is also what stands in the checksum field when hardware, or segmentation, is to finish it.
    """
    if packet[0] >> 4 == 6:
        total = word_sum(packet, IP6_SOURCE, IP6_SOURCE + 32)
    else:
        total = word_sum(packet, IP_SOURCE, IP_SOURCE + 8)
    return fold(total + protocol + (end - header))


def transport_checksum(packet, protocol: int, header: int, end: int, field: int) -> int:
    """Return the TCP or UDP checksum of the segment in [*header*, *end*), whose own field is at *field*.

    RFC 768: a UDP result of 0 is sent as 0xFFFF.
    """
    total = pseudo_sum(packet, protocol, header, end)
    total += word_sum(packet, header, field) + word_sum(packet, field + 2, end)
    result = ~fold(total) & 0xFFFF
    if result == 0 and protocol == UDP:
        return 0xFFFF
    return result


def whole_length(packet) -> int:
    """Return how long the packet says it is, its IP header included."""
    if packet[0] >> 4 == 6:
        return IP6_HEADER + get16(packet, IP6_LENGTH)
    return get16(packet, IP_LENGTH)


def find_transport(packet, at: int, end: int) -> int:
    """Return what lies behind the IPv6 header at *at* and its extension headers, or -1 when they lead beyond *end*.

    The protocol, IS_FRAGMENT and IS_LATER, and the offset of its header in the bits from START_SHIFT on.  Behind
    the fragment header of a later fragment lies the middle of something: then the offset is meaningless.

    Kernel: net/ipv6/exthdrs_core.c, ipv6_find_hdr().
    """
    if at + IP6_HEADER > end or packet[at] >> 4 != 6:
        return -1
    protocol = packet[at + IP6_NEXT]
    at += IP6_HEADER
    flags = 0
    while True:
        if protocol == FRAGMENT:
            if at + 4 > end:            # the kernel reads no more of it
                return -1
            flags |= IS_FRAGMENT
            protocol = packet[at]
            if get16(packet, at + 2) & 0xFFF8:
                if is_extension(protocol):
                    return -1
                return at << START_SHIFT | flags | IS_LATER | protocol
            at += 8
        elif is_extension(protocol):
            if at + 2 > end:
                return -1
            size = (packet[at + 1] + 2) * 4 if protocol == AUTHENTICATION else (packet[at + 1] + 1) * 8
            protocol = packet[at]
            at += size
        else:
            return at << START_SHIFT | flags | protocol


def is_extension(protocol: int) -> bool:
    """Return True for an IPv6 extension header that another header follows."""
    return protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS)


def decrement_ttl(packet) -> None:
    """Take one off the TTL or hop limit, as every router does, and bring a header checksum into line (RFC 1624)."""
    if packet[0] >> 4 == 6:
        packet[IP6_HOPS] = (packet[IP6_HOPS] - 1) & 0xFF
        return
    old = get16(packet, IP_TTL)
    packet[IP_TTL] = (packet[IP_TTL] - 1) & 0xFF
    put16(packet, IP_CHECKSUM, adjust(get16(packet, IP_CHECKSUM), old, get16(packet, IP_TTL)))


def crc32c(packet, start: int, end: int) -> int:
    """Return the CRC32c of the bytes in [*start*, *end*).

    >>> hex(crc32c(bytearray(b"123456789"), 0, 9))
    '0xe3069283'
    """
    crc = ALL_ONES
    for at in range(start, end):
        crc = CRC32C[(crc ^ packet[at]) & 0xFF] ^ (crc >> 8)
    return crc ^ ALL_ONES


def put_crc32c(packet, header: int, end: int) -> None:
    """Write the checksum of the SCTP packet in [*header*, *end*): lowest byte first (RFC 9260, appendix A)."""
    put32(packet, header + SCTP_CHECKSUM, 0)
    crc = crc32c(packet, header, end)
    for i in range(4):
        packet[header + SCTP_CHECKSUM + i] = crc >> 8 * i & 0xFF
