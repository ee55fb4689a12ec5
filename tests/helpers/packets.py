"""Builds IPv4 packets and reads them again, without lbq's own arithmetic.

Checksums are computed here the slow way (RFC 1071 over ``struct`` words) and checked with dpkt, so that a
mistake in ``lbq.packet`` cannot hide in the packets it is tested with.

    tcp("192.168.10.9:40000", "192.168.10.1:80", "S")         a SYN, ready for a director
    udp("192.168.10.9:40000", "192.168.10.1:53", b"hello")
    read(packet).source, .destination, .flags, .checksums_right

*checksum* says what stands in the TCP or UDP checksum field: ``right``; ``pseudo``, the pseudo-header sum
that the kernel leaves there when hardware (or segmentation) is to finish it; ``none``, zero; or a number.
"""
from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

import dpkt

FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20}
TCP, UDP = 6, 17


def address(text: str) -> int:
    """Return an IPv4 address as lbq keeps it, an integer."""
    return int(ipaddress.IPv4Address(text))


def endpoint(text: str) -> tuple[int, int]:
    """Return ``192.168.10.1:80`` as (address, port)."""
    host, _, port = text.partition(":")
    return address(host), int(port)


def ones_complement_sum(data: bytes) -> int:
    """Return the 16-bit ones' complement sum of *data*, padded with a zero byte."""
    data = bytes(data) + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp(source: str, destination: str, flags: str = "A", payload: bytes = b"", *, sequence: int = 1000,
        options: bytes = b"", checksum: str | int = "right", **ip_fields) -> bytearray:
    """Return a TCP segment in an IPv4 packet; *flags* are letters out of ``FSRPAU``."""
    (caddr, cport), (vaddr, vport) = endpoint(source), endpoint(destination)
    offset = 5 + len(options) // 4
    bits = sum(FLAGS[letter] for letter in flags)
    header = struct.pack("!HHIIBBHHH", cport, vport, sequence, 2000 if "A" in flags else 0, offset << 4, bits,
                         64240, 0, 0)
    return ipv4(TCP, caddr, vaddr, header + options + payload, 16, checksum, **ip_fields)


def udp(source: str, destination: str, payload: bytes = b"", *, checksum: str | int = "right",
        **ip_fields) -> bytearray:
    """Return a UDP datagram in an IPv4 packet."""
    (caddr, cport), (vaddr, vport) = endpoint(source), endpoint(destination)
    header = struct.pack("!HHHH", cport, vport, 8 + len(payload), 0)
    return ipv4(UDP, caddr, vaddr, header + payload, 6, checksum, **ip_fields)


def ipv4(protocol: int, source: int, destination: int, segment: bytes, field: int | None = None,
         checksum: str | int = "right", *, tos: int = 0, ttl: int = 64, identification: int = 1,
         fragment: int = 0x4000, ip_options: bytes = b"") -> bytearray:
    """Return an IPv4 packet around *segment*, whose own checksum field is at *field*."""
    segment = bytearray(segment)
    if field is not None:
        sum_of_segment = transport_checksum(protocol, source, destination, segment, checksum)
        struct.pack_into("!H", segment, field, sum_of_segment)
    length = 20 + len(ip_options) + len(segment)
    header = bytearray(struct.pack("!BBHHHBBHII", 0x45 + len(ip_options) // 4, tos, length, identification,
                                   fragment, ttl, protocol, 0, source, destination) + ip_options)
    struct.pack_into("!H", header, 10, ~ones_complement_sum(header) & 0xFFFF)
    return header + segment


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
    packet[8] -= 1
    packet[10:12] = bytes(2)
    struct.pack_into("!H", packet, 10, ~ones_complement_sum(packet[:(packet[0] & 15) * 4]) & 0xFFFF)
    return bytes(packet)


def icmp_error(source: str, destination: str, kind: int, code: int, about: bytes, mtu: int = 0) -> bytes:
    """Return an ICMP error from *source* about the packet *about*."""
    segment = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + about
    segment = segment[:2] + struct.pack("!H", ~ones_complement_sum(segment) & 0xFFFF) + segment[4:]
    return bytes(ipv4(1, address(source), address(destination), segment, fragment=0))


def transport_checksum(protocol: int, source: int, destination: int, segment: bytes,
                       checksum: str | int) -> int:
    """Return what stands in the checksum field of *segment*, in which that field is still zero."""
    if isinstance(checksum, int):
        return checksum
    if checksum == "none":
        return 0
    pseudo = struct.pack("!IIHH", source, destination, protocol, len(segment))
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
