"""The IPv4 corpus: its addresses, valid IPv4 packets around segments, and what IPv4 packets say."""
from __future__ import annotations

import random
import struct

from lbq.model import AF_INET
from tests.fuzz import segments
from tests.fuzz.family import IN_GRE, IN_IP, IN_IPV6, Family, endpoints, services, write_sum
from tests.fuzz.segments import CHECKSUM_AT, Meaning
from tests.helpers import packets
from tests.helpers.packets import UDP, address, ones_complement_sum

ICMP = 1
HEADER = 20
VIP, OWN = "192.168.10.1", "192.168.10.254"
INNER = {ICMP: 8, IN_IP: 0, IN_IPV6: 0, UDP: 12, IN_GRE: 4}     # how far behind these headers another packet may begin


class IPv4(Family):
    """Addresses of IPv4, and its packets."""

    number, icmp, hops_at, header_sum = AF_INET, ICMP, 8, (10, 11)
    vip, own, router, loopback = map(address, (VIP, OWN, "192.168.20.99", "127.0.0.2"))
    clients = endpoints(*(f"192.168.10.{host}:{port}" for host in (9, 10, 77) for port in (40000, 40001, 20)))
    strangers = endpoints("224.0.0.5:4000", "0.0.0.0:68", "127.0.0.1:4000", "192.168.20.2:80", "255.255.255.255:0",
                          f"{VIP}:80", f"{OWN}:40000")
    elsewhere, = endpoints("192.168.30.30:80")
    services = services(VIP, "192.168.10.2", AF_INET)
    netmasks = (0xFFFFFFFF, 0xFFFFFF00)
    mtus = (1500, 1500, 1400, 576, 100, 69, 0, -1)
    errors = ((3, 1), (3, 3), (3, 4), (3, 4), (4, 0), (11, 0), (11, 1), (5, 1), (12, 0), (0, 0), (8, 0))
    quoted = (0, 19, 20, 23, 24, 28, 48, 76, 128, 548, 548, 65000)

    def server_address(self, number: int, is_ftp: bool) -> int:
        """Return the address of a server."""
        if is_ftp:
            return address(f"10.0.0.{number}" if number % 2 else f"192.168.20.10{number}")
        return address(f"192.168.20.{number}")

    def packet_of(self, choose: random.Random, protocol: int, source: int, destination: int, segment: bytes) -> bytes:
        """Return a valid packet around *segment*."""
        ip_options = _ip_options(choose)
        segment, checksum = segment[:0xFFFF - HEADER - len(ip_options)], choose.choice(
            ("right",) * 6 + ("pseudo", "none", 0x1234))
        if protocol == ICMP:
            segment = _with_checksum(segment, 0x1234 if choose.random() < 0.1 else None)
        return bytes(packets.ipv4(protocol, source, destination, segment, CHECKSUM_AT.get(protocol), checksum,
                                  tos=choose.choice((0, 3, 0xFF)), ttl=choose.choice((64, 64, 64, 2, 1, 0)),
                                  ip_options=ip_options, fragment=choose.choice((0, 0x4000, 0x4000)),
                                  identification=choose.getrandbits(16)))

    def plain(self, protocol: int, source: int, destination: int, segment: bytes) -> bytes:
        """Return the plainest packet around *segment*."""
        return bytes(packets.ipv4(protocol, source, destination, segment))

    # ---- Reading what may be broken --------------------------------------------------------------------------

    def fields(self, packet: bytes, at: int) -> tuple[list[tuple[int, int]], int | None]:
        """Return where the numbers of the packet at *at* are, and where one begins that it holds, perhaps."""
        found = [(at, 1), (at + 1, 1), (at + 2, 2), (at + 4, 2), (at + 6, 2), (at + 8, 1), (at + 9, 1), (at + 10, 2),
                 (at + 12, 4), (at + 16, 4)]
        if at + HEADER > len(packet):
            return found, None
        header, protocol = at + max((packet[at] & 15) * 4, HEADER), packet[at + 9]
        found += [(offset, 1) for offset in range(at + HEADER, header)]                 # IP options
        found += segments.fields(packet, header, protocol)
        return found, header + INNER[protocol] if protocol in INNER else None

    def repair(self, packet: bytearray) -> None:
        """Make the length and the checksums right that whoever sent the packet would have made right."""
        header = (packet[0] & 15) * 4 if packet else 0
        if header < HEADER or header > len(packet) or len(packet) > 0xFFFF:
            return
        struct.pack_into("!H", packet, 2, len(packet))
        write_sum(packet, 10, packet[:10] + b"\0\0" + packet[12:header])
        field = {ICMP: 2, **CHECKSUM_AT}.get(packet[9])
        if field is None or header + field + 2 > len(packet):
            return
        at = header + field
        pseudo = self.pseudo_header(packet, packet[9], len(packet) - header)
        write_sum(packet, at, pseudo + packet[header:at] + b"\0\0" + packet[at + 2:])

    def meaning(self, packet: bytes) -> Meaning:
        """Return what *packet* says to one who reads it by the RFCs; a fragment and a cut packet say nothing."""
        if len(packet) < HEADER or packet[0] >> 4 != 4:
            return Meaning(None)
        header, length = (packet[0] & 15) * 4, self.length(packet)
        if not HEADER <= header <= length <= len(packet) or int.from_bytes(packet[6:8], "big") & 0x3FFF:
            return Meaning(None)
        return segments.meaning(packet[9], int.from_bytes(packet[16:20], "big"), packet[header:length])

    def length(self, packet: bytes) -> int:
        """Return how long *packet* says it is."""
        return int.from_bytes(packet[2:4], "big")

    def transport(self, packet: bytes, at: int = 0) -> tuple[int, int]:
        """Return protocol and place of the transport's header."""
        return packet[at + 9], at + (packet[at] & 15) * 4

    def addresses(self, packet: bytes, at: int = 0) -> tuple[int, int]:
        """Return where the addresses are."""
        return at + 12, at + 16

    def pseudo_header(self, packet: bytes, protocol: int, size: int) -> bytes:
        """Return the pseudo-header of a segment; ICMP has none."""
        return b"" if protocol == ICMP else bytes(packet[12:20]) + struct.pack("!HH", protocol, size)

    def header_sum_is_right(self, packet: bytes, at: int = 0) -> bool:
        """Return True when the checksum of the IP header at *at* is right."""
        return ones_complement_sum(packet[at:at + (packet[at] & 15) * 4]) == 0xFFFF

    def is_right_answer(self, packet: bytes) -> bool:
        """Return True for an ICMP packet without options, not longer than RFC 1812 allows, with right checksums."""
        return (packet[0] == 0x45 and packet[9] == ICMP and len(packet) <= 576
                and ones_complement_sum(packet[:HEADER]) == ones_complement_sum(packet[HEADER:]) == 0xFFFF)


def _with_checksum(message: bytes, checksum: int | None) -> bytes:
    """Return an ICMP *message* with its checksum, or with another one."""
    if checksum is None:
        checksum = ~ones_complement_sum(message) & 0xFFFF
    return message[:2] + checksum.to_bytes(2, "big") + message[4:]


def _ip_options(choose: random.Random) -> bytes:
    if choose.random() < 0.85:
        return b""
    options = choose.choice((b"\x01" * 4, b"\x07\x27\x04" + bytes(36) + b"\0", b"\x94\x04\0\0", b"\x44\x28" + bytes(38),
                             bytes([choose.randrange(256), choose.randrange(44)]) + choose.randbytes(6)))
    return options + bytes(-len(options) % 4)
