"""Builds IPv4 and IPv6 packets and reads them again, without lbq's own arithmetic.

Checksums are computed here the slow way (RFC 1071 over ``struct`` words) and checked with dpkt, so that a
mistake in ``lbq.packet`` cannot hide in the packets it is tested with.

    tcp("192.168.10.9:40000", "192.168.10.1:80", "S")         a SYN, ready for a director
    udp("[2001:db8::9]:40000", "[2001:db8::1]:53", b"hello", extensions=[(60, bytes(8))])
    read(packet).source, .destination, .flags, .checksums_right

*checksum* says what stands in the TCP or UDP checksum field: ``right``; ``pseudo``, the pseudo-header sum
that the kernel leaves there when hardware (or segmentation) is to finish it; ``none``, zero; or a number.
"""
from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import dpkt

FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20}
TCP, UDP, ICMPV6 = 6, 17, 58
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMPV6: 2}
EXTENSIONS = (0, 43, 44, 60)


def address(text: str) -> int:
    """Return an address as lbq keeps it, an integer."""
    return int(ipaddress.ip_address(text))


def endpoint(text: str) -> tuple[int, int]:
    """Return ``192.168.10.1:80`` or ``[2001:db8::1]:80`` as (address, port)."""
    host, _, port = text.rpartition(":")
    return address(host.strip("[]")), int(port)


def is_ipv6(text: str) -> bool:
    """Return True when *text* is an IPv6 endpoint."""
    return text.startswith("[")


def ones_complement_sum(data: bytes) -> int:
    """Return the 16-bit ones' complement sum of *data*, padded with a zero byte."""
    data = bytes(data) + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp(source: str, destination: str, flags: str = "A", payload: bytes = b"", *, sequence: int = 1000,
        options: bytes = b"", checksum: str | int = "right", **ip_fields) -> bytearray:
    """Return a TCP segment in an IP packet; *flags* are letters out of ``FSRPAU``."""
    (caddr, cport), (vaddr, vport) = endpoint(source), endpoint(destination)
    offset = 5 + len(options) // 4
    bits = sum(FLAGS[letter] for letter in flags)
    header = struct.pack("!HHIIBBHHH", cport, vport, sequence, 2000 if "A" in flags else 0, offset << 4, bits,
                         64240, 0, 0)
    return ip(is_ipv6(source), TCP, caddr, vaddr, header + options + payload, checksum, **ip_fields)


def udp(source: str, destination: str, payload: bytes = b"", *, checksum: str | int = "right",
        **ip_fields) -> bytearray:
    """Return a UDP datagram in an IP packet."""
    (caddr, cport), (vaddr, vport) = endpoint(source), endpoint(destination)
    header = struct.pack("!HHHH", cport, vport, 8 + len(payload), 0)
    return ip(is_ipv6(source), UDP, caddr, vaddr, header + payload, checksum, **ip_fields)


def ip(six: bool, protocol: int, source: int, destination: int, segment: bytes, checksum: str | int,
       **fields) -> bytearray:
    """Return an IPv4 packet or, for *six*, an IPv6 one around a TCP or UDP *segment*."""
    if six:
        return ipv6(protocol, source, destination, segment, checksum, **fields)
    return ipv4(protocol, source, destination, segment, CHECKSUM_AT[protocol], checksum, **fields)


def ipv4(protocol: int, source: int, destination: int, segment: bytes, field: int | None = None,
         checksum: str | int = "right", *, tos: int = 0, ttl: int = 64, identification: int = 1,
         fragment: int = 0x4000, ip_options: bytes = b"") -> bytearray:
    """Return an IPv4 packet around *segment*, whose own checksum field is at *field*."""
    segment = bytearray(segment)
    if field is not None:
        pseudo = struct.pack("!IIHH", source, destination, protocol, len(segment))
        struct.pack_into("!H", segment, field, transport_checksum(protocol, pseudo, segment, checksum))
    length = 20 + len(ip_options) + len(segment)
    header = bytearray(struct.pack("!BBHHHBBHII", 0x45 + len(ip_options) // 4, tos, length, identification,
                                   fragment, ttl, protocol, 0, source, destination) + ip_options)
    struct.pack_into("!H", header, 10, ~ones_complement_sum(header) & 0xFFFF)
    return header + segment


def ipv6(protocol: int, source: int, destination: int, segment: bytes, checksum: str | int | None = None, *,
         tos: int = 0, ttl: int = 64, flow_label: int = 0, extensions: Sequence[tuple[int, bytes]] = ()) -> bytearray:
    """Return an IPv6 packet around *segment*; *extensions* are (protocol, header), whose first byte is filled in."""
    segment = bytearray(segment)
    if checksum is not None:
        pseudo = pseudo6(protocol, source, destination, len(segment))
        struct.pack_into("!H", segment, CHECKSUM_AT[protocol], transport_checksum(protocol, pseudo, segment, checksum))
    chain = [number for number, _ in extensions] + [protocol]
    between = b"".join(bytes([following]) + header[1:]
                       for (_, header), following in zip(extensions, chain[1:], strict=True))
    return bytearray(struct.pack("!IHBB", 6 << 28 | tos << 20 | flow_label, len(between) + len(segment), chain[0], ttl)
                     + source.to_bytes(16, "big") + destination.to_bytes(16, "big") + between) + segment


def pseudo6(protocol: int, source: int, destination: int, length: int) -> bytes:
    """Return IPv6's pseudo-header (RFC 8200, 8.1)."""
    return source.to_bytes(16, "big") + destination.to_bytes(16, "big") + struct.pack("!II", length, protocol)


def without_ip_sum(packet: bytes, identification: int | None = None) -> bytes:
    """Return *packet* with another identification and no header checksum, once that is known to be right."""
    packet = bytearray(packet)
    assert ones_complement_sum(packet[:20]) == 0xFFFF or identification is not None
    packet[10:12] = bytes(2)
    if identification is not None:
        struct.pack_into("!H", packet, 4, identification)
    return bytes(packet)


def with_less_ttl(packet: bytes) -> bytes:
    """Return *packet* one hop later."""
    packet = bytearray(packet)
    if packet[0] >> 4 == 6:
        packet[7] -= 1
        return bytes(packet)
    packet[8] -= 1
    packet[10:12] = bytes(2)
    struct.pack_into("!H", packet, 10, ~ones_complement_sum(packet[:(packet[0] & 15) * 4]) & 0xFFFF)
    return bytes(packet)


def icmp_error(source: str, destination: str, kind: int, code: int, about: bytes, mtu: int = 0) -> bytes:
    """Return an ICMP or ICMPv6 error from *source* about the packet *about*."""
    if ":" in source:
        segment = struct.pack("!BBHI", kind, code, 0, mtu) + about
        return bytes(ipv6(ICMPV6, address(source), address(destination), segment, "right"))
    segment = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + about
    segment = segment[:2] + struct.pack("!H", ~ones_complement_sum(segment) & 0xFFFF) + segment[4:]
    return bytes(ipv4(1, address(source), address(destination), segment, fragment=0))


def transport_checksum(protocol: int, pseudo: bytes, segment: bytes, checksum: str | int) -> int:
    """Return what stands in the checksum field of *segment*, in which that field is still zero."""
    if isinstance(checksum, int):
        return checksum
    if checksum == "none":
        return 0
    if checksum == "pseudo":
        return ones_complement_sum(pseudo)
    return ~ones_complement_sum(pseudo + segment) & 0xFFFF or (0xFFFF if protocol == UDP else 0)


@dataclass(frozen=True)
class Read:
    """What a packet says, as text where people read it."""

    source: str
    destination: str
    flags: str
    ttl: int
    checksums_right: bool


def read(packet: bytes) -> Read:
    """Return what *packet* says, without padding; its checksums are right when dpkt would write the same."""
    if packet[0] >> 4 == 6:
        return _read6(packet)
    packet = packet[:int.from_bytes(packet[2:4], "big")]
    parsed = dpkt.ip.IP(bytes(packet))
    inner = parsed.data
    flags = "".join(letter for letter, bit in FLAGS.items() if parsed.p == TCP and inner.flags & bit)
    return Read(source=f"{ipaddress.IPv4Address(parsed.src)}:{inner.sport}",
                destination=f"{ipaddress.IPv4Address(parsed.dst)}:{inner.dport}",
                flags=flags, ttl=parsed.ttl, checksums_right=with_right_checksums(packet) == bytes(packet))


def with_right_checksums(packet: bytes) -> bytes:
    """Return *packet* with IP and TCP or UDP checksums as dpkt computes them from nothing."""
    parsed = dpkt.ip.IP(bytes(packet))
    parsed.sum = 0
    if parsed.p in (TCP, UDP):
        parsed.data.sum = 0
    return bytes(parsed)


def transport6(packet: bytes) -> tuple[int, int]:
    """Return the protocol in an IPv6 *packet* and where its header starts."""
    protocol, at = packet[6], 40
    while protocol in EXTENSIONS:
        size = 8 if protocol == 44 else packet[at + 1] * 8 + 8
        protocol, at = packet[at], at + size
    return protocol, at


def sum6(packet: bytes) -> int:
    """Return the sum over pseudo-header and transport segment that a receiver of IPv6 *packet* makes; ffff: right."""
    protocol, at = transport6(packet)
    source, destination = (int.from_bytes(packet[start:start + 16], "big") for start in (8, 24))
    return ones_complement_sum(pseudo6(protocol, source, destination, len(packet) - at) + packet[at:])


def _read6(packet: bytes) -> Read:
    packet = bytes(packet[:40 + int.from_bytes(packet[4:6], "big")])
    protocol, at = transport6(packet)
    source, destination = (ipaddress.IPv6Address(packet[start:start + 16]) for start in (8, 24))
    sport, dport = struct.unpack_from("!HH", packet, at)
    flags = "".join(letter for letter, bit in FLAGS.items() if protocol == TCP and packet[at + 13] & bit)
    return Read(source=f"[{source}]:{sport}", destination=f"[{destination}]:{dport}", flags=flags, ttl=packet[7],
                checksums_right=sum6(packet) == 0xFFFF)
