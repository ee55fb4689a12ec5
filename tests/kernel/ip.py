"""Reads and makes IP headers of both families, for what the suite sends and what it sees.

Nothing here uses lbq's own arithmetic.
"""
from __future__ import annotations

import socket
import struct
from typing import NamedTuple

HOP_BY_HOP, ICMP, IPIP, TCP, UDP, IPV6, ROUTING, FRAGMENT = 0, 1, 4, 6, 17, 41, 43, 44
GRE, AUTHENTICATION, ICMPV6, DESTINATION, SCTP = 47, 51, 58, 60, 132
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION)
HEADER = {4: 20, 6: 40}             # bytes, without options and extensions


class Parsed(NamedTuple):
    """What the headers of an IP packet, or of its beginning that an ICMP error quotes, say."""

    version: int
    source: bytes
    destination: bytes
    protocol: int           # of what comes behind the IP header and its extensions
    header: int             # where that is; behind the end of a quote that is shorter
    fragment: int           # where the fragment header is (IPv4: its fields), or 0
    offset: int             # of this fragment in its datagram, in bytes
    more: bool              # fragments come behind it

    def is_icmp(self) -> bool:
        return self.protocol == (ICMP if self.version == 4 else ICMPV6)

    def pseudo(self, length: int) -> bytes:
        """Return the pseudo-header that a checksum over *length* bytes includes."""
        return pseudo_header(self.source, self.destination, self.protocol, length)


def parse(packet: bytes) -> Parsed:
    """Return what the headers of *packet* say."""
    if packet[0] >> 4 == 6:
        return _parse6(packet)
    field = struct.unpack_from("!H", packet, 6)[0]
    fragment = 4 if field & 0x3FFF else 0
    return Parsed(4, packet[12:16], packet[16:20], packet[9], (packet[0] & 15) * 4, fragment, (field & 0x1FFF) * 8,
                  bool(field & 0x2000))


def _parse6(packet: bytes) -> Parsed:
    protocol, at, fragment, field = packet[6], 40, 0, 0
    while protocol in EXTENSIONS and at + 8 <= len(packet):
        if protocol == FRAGMENT:
            fragment, field = at, struct.unpack_from("!H", packet, at + 2)[0]
        protocol, at = packet[at], at + extension_size(packet, protocol, at)
        if field & 0xFFF8:
            break                       # what comes next is from the middle of something
    return Parsed(6, packet[8:24], packet[24:40], protocol, at, fragment, field & 0xFFF8, bool(field & 1))


def extension_size(packet: bytes, kind: int, at: int) -> int:
    """Return how many bytes the extension header of this *kind* at *at* has."""
    if kind == FRAGMENT:
        return 8
    return (packet[at + 1] + 2) * 4 if kind == AUTHENTICATION else (packet[at + 1] + 1) * 8


def pointer(packet: bytes, header: int) -> int:
    """Return where in an IPv6 *packet* the number is that says what is at *header*, which may be its transport's."""
    field, at = 6, 40
    while at < header:
        field, at = at, at + extension_size(packet, packet[field], at)
    return field


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """Return what a checksum over *length* bytes of *protocol* between these two addresses includes beside them."""
    if len(source) == 4:
        return b"" if protocol == ICMP else source + destination + struct.pack("!HH", protocol, length)
    return source + destination + struct.pack("!II", length, protocol)


def hops(packet: bytes) -> int:
    """Return the time to live, or hop limit."""
    return packet[7] if packet[0] >> 4 == 6 else packet[8]


def with_hops(packet: bytes, number: int) -> bytes:
    """Return *packet* with another time to live, or hop limit."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((number,)) + packet[8:]
    return with_checksum(packet[:8] + bytes((number,)) + packet[9:])


def source(packet: bytes) -> str:
    """Return the source of *packet* as text."""
    return text(packet[8:24] if packet[0] >> 4 == 6 else packet[12:16])


def destination(packet: bytes) -> str:
    """Return the destination of *packet* as text."""
    return text(packet[24:40] if packet[0] >> 4 == 6 else packet[16:20])


def text(address: bytes) -> str:
    """Return an *address* of either family as text."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, bytes(address))


def with_checksum(packet: bytes) -> bytes:
    """Return an IPv4 *packet* with the right header checksum."""
    header = packet[:10] + b"\0\0" + packet[12:(packet[0] & 15) * 4]
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + packet[len(header):]


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of *data*."""
    # The sum of 16-bit words, carries added back, is the number itself modulo 65535.
    total = int.from_bytes(data + bytes(len(data) % 2), "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))
