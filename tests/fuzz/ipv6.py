"""The IPv6 corpus: its addresses, packets with extension headers of every kind, and what IPv6 packets say."""
from __future__ import annotations

import random
import struct
from typing import NamedTuple

from lbq.model import AF_INET6, SCTP
from tests.fuzz import segments
from tests.fuzz.family import IN_GRE, IN_IP, IN_IPV6, Family, endpoints, services, write_sum
from tests.fuzz.segments import CHECKSUM_AT, Meaning
from tests.helpers import packets
from tests.helpers.packets import UDP, address

ICMPV6 = 58
HEADER = 40
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, OPTIONS = 0, 43, 44, 51, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, OPTIONS)
VIP, OWN = "2001:db8::c0a8:a01", "2001:db8::c0a8:a0fe"
INNER = {ICMPV6: 8, IN_IP: 0, IN_IPV6: 0, UDP: 12, IN_GRE: 4}   # how far behind these headers another packet may begin
NOTHING = -1                # no protocol: the headers lead nowhere
FIRST_QUESTION = 128        # ICMPv6 types below are errors
JUMBO = b"\xc2\x04"         # an option: RFC 2675


class Chain(NamedTuple):
    """Where the headers of a packet lead."""

    protocol: int
    header: int
    is_fragment: bool = False
    is_later: bool = False


class IPv6(Family):
    """Addresses of IPv6, and its packets.

    Among the clients are two whose four words are the same in another order, and two that say an IPv4 address.
    """

    number, icmp, hops_at, header_sum = AF_INET6, ICMPV6, 7, ()
    vip, own, router, loopback = map(address, (VIP, OWN, "2001:db8:20::99", "::1"))
    clients = endpoints(*(f"[{host}]:{port}" for host in ("2001:db8::c0a8:a09", "c0a8:a09::2001:db8", "2001:db8::77")
                          for port in (40000, 40001, 20)), "[::ffff:192.168.10.9]:40000", "[::192.168.10.9]:40000")
    strangers = endpoints("[ff02::5]:4000", "[::]:68", "[::1]:4000", "[2001:db8:20::2]:80", "[fe80::9]:40000",
                          "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:0", "[::ffff:192.168.10.1]:80",
                          f"[{VIP}]:80", f"[{OWN}]:40000")
    elsewhere, = endpoints("[2001:db8:30::30]:80")
    services = services(f"[{VIP}]", "[2001:db8::c0a8:a02]", AF_INET6)
    netmasks = (128, 120, 64, 33, 1)
    mtus = (1500, 1500, 1400, 1320, 1280, 600, 69, 0, -1)
    errors = ((1, 3), (1, 4), (2, 0), (2, 0), (3, 0), (3, 1), (4, 1), (127, 0), (128, 0), (135, 0), (0, 0), (255, 0))
    quoted = (0, 39, 40, 43, 44, 48, 56, 96, 128, 548, 1232, 65000)

    def server_address(self, number: int, is_ftp: bool) -> int:
        """Return the address of a server."""
        return address(f"2001:db8:{20 + is_ftp}::{number}")

    def packet_of(self, choose: random.Random, protocol: int, source: int, destination: int, segment: bytes) -> bytes:
        """Return a valid packet around *segment*, its extension headers whole, but for some lengths that lie."""
        extensions = _extensions(choose)
        room = 0xFFFF - sum(len(header) for _, header in extensions)
        checksum = choose.choice(("right",) * 6 + ("pseudo", "none", 0x1234)) if protocol != SCTP else None
        packet = packets.ipv6(protocol, source, destination, segment[:max(room, 24)], checksum,
                              tos=choose.choice((0, 3, 0xFF)), ttl=choose.choice((64, 64, 64, 2, 1, 0)),
                              flow_label=choose.choice((0, 0xFFFFF)), extensions=extensions)
        if choose.random() < 0.01:
            packet[4:6] = b"\0\0"           # a jumbogram says its length in an option
        return bytes(packet)

    def plain(self, protocol: int, source: int, destination: int, segment: bytes) -> bytes:
        """Return the plainest packet around *segment*."""
        return bytes(packets.ipv6(protocol, source, destination, segment))

    # ---- Reading what may be broken --------------------------------------------------------------------------

    def fields(self, packet: bytes, at: int) -> tuple[list[tuple[int, int]], int | None]:
        """Return where the numbers of the packet at *at* are, and where one begins that it holds, perhaps."""
        found = [(at, 1), (at + 1, 1), (at + 4, 2), (at + 6, 1), (at + 7, 1),
                 *((at + offset, 4) for offset in range(8, HEADER, 4))]
        if at + HEADER > len(packet):
            return found, None
        protocol, header = packet[at + 6], at + HEADER
        while protocol in EXTENSIONS and header + 8 <= len(packet) and len(found) < 100:
            found += [(header, 1), (header + 1, 1), (header + 2, 2), (header + 4, 4)]
            protocol, header = packet[header], header + _size(protocol, packet[header + 1])
        found += segments.fields(packet, header, protocol)
        return found, header + INNER[protocol] if protocol in INNER else None

    def repair(self, packet: bytearray) -> None:
        """Make the length and the checksum right that whoever sent the packet would have made right."""
        if not HEADER <= len(packet) <= HEADER + 0xFFFF:
            return
        struct.pack_into("!H", packet, 4, len(packet) - HEADER)
        chain = _chain(packet, 0, len(packet))
        field = chain and {ICMPV6: 2, **CHECKSUM_AT}.get(chain.protocol)
        if not field or chain.is_later or chain.header + field + 2 > len(packet):
            return
        at = chain.header + field
        pseudo = self.pseudo_header(packet, chain.protocol, len(packet) - chain.header)
        write_sum(packet, at, pseudo + packet[chain.header:at] + b"\0\0" + packet[at + 2:])

    def meaning(self, packet: bytes) -> Meaning:
        """Return what *packet* says to one who reads it by the RFCs.

        A cut packet says nothing, nor do the pieces of ICMPv6: there are no errors in pieces, and no other piece of
        them is followed.  The first fragment of anything else is a packet like any other.
        """
        if len(packet) < HEADER or self.length(packet) > len(packet):
            return Meaning(None)
        packet = packet[:self.length(packet)]
        chain = _chain(packet, 0, len(packet))
        destination = int.from_bytes(packet[24:40], "big")
        if chain is None:
            return Meaning(NOTHING, destination=destination)
        content = packet[chain.header:]
        if chain.protocol == ICMPV6:
            is_error = content[:1] < bytes([FIRST_QUESTION])
            if len(content) < 8 or chain.is_later or (chain.is_fragment and is_error):
                return Meaning(None)
        if chain.is_later:
            return Meaning(chain.protocol, destination=destination, is_later=True)
        return segments.meaning(chain.protocol, destination, content)

    def length(self, packet: bytes) -> int:
        """Return how long *packet* says it is."""
        return HEADER + int.from_bytes(packet[4:6], "big")

    def transport(self, packet: bytes, at: int = 0) -> tuple[int, int]:
        """Return protocol and place of the transport's header."""
        chain = _chain(packet, at, len(packet))
        return chain.protocol, chain.header

    def addresses(self, packet: bytes, at: int = 0) -> tuple[int, int]:
        """Return where the addresses are."""
        return at + 8, at + 24

    def pseudo_header(self, packet: bytes, protocol: int, size: int) -> bytes:
        """Return the pseudo-header of a segment."""
        return bytes(packet[8:40]) + struct.pack("!II", size, protocol)

    def header_sum_is_right(self, packet: bytes, at: int = 0) -> bool:
        """Return True: there is none."""
        return True

    def is_right_answer(self, packet: bytes) -> bool:
        """Return True for an ICMPv6 error without extension headers that fits any link, with a right checksum."""
        return (packet[6:8] == bytes([ICMPV6, 64]) and len(packet) <= 1280 and packet[HEADER] < FIRST_QUESTION
                and self.checksum_is_right(packet))


def _size(protocol: int, field: int) -> int:
    """Return how long an extension header is whose second byte is *field*."""
    if protocol == FRAGMENT:
        return 8
    return (field + 2) * 4 if protocol == AUTHENTICATION else (field + 1) * 8


def _chain(packet: bytes, at: int, end: int) -> Chain | None:
    """Return where the headers of the packet at *at* lead, None when that is beyond *end*, or nowhere."""
    protocol, at, is_fragment = packet[at + 6], at + HEADER, False
    while protocol in EXTENSIONS:
        if end - at < (4 if protocol == FRAGMENT else 2):      # what of it is read
            return None
        following = packet[at]
        if protocol == FRAGMENT:
            is_fragment = True
            if int.from_bytes(packet[at + 2:at + 4], "big") >> 3:
                return None if following in EXTENSIONS else Chain(following, at, True, True)
        protocol, at = following, at + _size(protocol, packet[at + 1])
    return Chain(protocol, at, is_fragment)


def _extensions(choose: random.Random) -> list[tuple[int, bytes]]:
    """Return a chain of extension headers, in any order, rarely one that takes long to follow."""
    what = choose.random()
    if what < 0.7:
        return []
    if what < 0.71:
        return [(choose.choice((HOP_BY_HOP, OPTIONS)), bytes(8))] * choose.choice((20, 300, 8180))
    return [_extension(choose) for _ in range(choose.choice((1, 1, 1, 2, 3, 9)))]


def _extension(choose: random.Random) -> tuple[int, bytes]:
    kind = choose.choice((HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, OPTIONS, OPTIONS))
    if kind == FRAGMENT:
        word = choose.choice((0, 0, 1, 1, 8, 9, 0xFFF8, 0xFFF9))
        return kind, struct.pack("!BBHI", 0, 0, word, choose.getrandbits(32))
    size = choose.choice((8, 8, 16, 24, 512))
    field = size // 4 - 2 if kind == AUTHENTICATION else size // 8 - 1
    if choose.random() < 0.05:
        field = choose.choice((0, 1, 2, field ^ 1, 255))
    body = choose.choice((JUMBO + struct.pack("!I", choose.choice((0, 100, 65536))), b"\1\4\0\0\0\0", b"\5\2\0\0\1\0",
                          choose.randbytes(6)))
    return kind, bytes([0, field & 0xFF]) + body + bytes(size - 8)
