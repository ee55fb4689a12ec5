"""Packets of scenarios: from the words of a step to bytes, for the kernel and for lbq's engines alike.

A step says what matters and leaves out the rest:

    {"do": "send", "proto": "tcp", "flags": "S", "from": "172.16.0.1:40001", "to": "10.0.0.1:80"}
    {"do": "send", "side": "s", "answer": 7, "flags": "SA"}           the server answers what step 7 brought it
    {"do": "send", "side": "s", "about": 7, "icmp": [3, 1, 0]}        an ICMP error about what step 7 brought it

``side`` c (the client side, if nothing is said) or s; ``payload`` bytes of payload; ``ttl``, ``tos``, ``df``,
``ip_id``; ``checksum`` "none" (UDP) or a number that stands in the place of the right one; ``cut``: send it as
fragments with so many bytes each; SCTP has ``chunk``, the type of its first chunk.  An ICMP error may have
``from`` (else the quoted packet's destination reports it), ``quote`` (bytes quoted; else up to 548) and
``inner`` (quote the packet inside the tunnel's), or be ``quoting`` a packet nobody sent.

Nothing here uses lbq's own arithmetic.
"""
from __future__ import annotations

import socket
import struct

TCP, UDP, ICMP, SCTP, IPIP, GRE = 6, 17, 1, 132, 4, 47
NUMBERS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP}
FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20}
GUE_PORT = 6080
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2}
PATTERN = bytes(range(256)) * 300


def build(step: dict, outputs: dict) -> list[bytes] | None:
    """Return the packets (one, or its fragments) of a send *step*; None when what it refers to never came out."""
    reference = step.get("answer", step.get("about"))
    if "quoting" in step:
        packet = icmp_error(step, build(step["quoting"], outputs)[0])
    elif reference is not None:
        came_out = [packet for side, packet in outputs.get(reference, ()) if side == step["side"]]
        if not came_out:
            return None
        packet = icmp_error(step, came_out[0]) if "about" in step else answer(step, came_out[0])
    else:
        packet = datagram(step, NUMBERS[step["proto"]], *endpoint(step["from"]), *endpoint(step["to"]))
    if packet is None:
        return None
    return fragments(packet, step["cut"]) if "cut" in step else [packet]


def endpoint(text: str) -> tuple[bytes, int]:
    """Return ``10.0.0.1:80`` as (4 bytes, port)."""
    host, _, port = text.partition(":")
    return socket.inet_aton(host), int(port or 0)


def answer(step: dict, packet: bytes) -> bytes | None:
    """Return what the machine that got *packet* answers."""
    packet = decapsulated(packet)
    header = (packet[0] & 15) * 4
    if len(packet) < header + 4:
        return None
    sport, dport = struct.unpack_from("!HH", packet, header)
    source, destination = packet[16:20], packet[12:16]
    if "from" in step:
        source, dport = endpoint(step["from"])
    return datagram(step, packet[9], source, dport, destination, sport)


def datagram(step: dict, protocol: int, source: bytes, sport: int, destination: bytes, dport: int) -> bytes:
    """Return the packet that *step* describes between these two ends."""
    payload = PATTERN[:step.get("payload", 0)]
    if protocol == TCP:
        bits = sum(FLAGS[letter] for letter in step["flags"])
        segment = struct.pack("!HHIIBBHHH", sport, dport, 1000, 2000 if bits & 0x10 else 0, 0x50, bits, 64240, 0, 0)
    elif protocol == UDP:
        segment = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
    elif protocol == SCTP:
        chunk = struct.pack("!BBHI", step["chunk"], 0, 8 + len(payload), 1) + payload
        segment, payload = sctp(sport, dport, chunk), b""
    else:                                   # ICMP echo: the ports are its type and identifier
        segment = struct.pack("!BBHHH", 8, 0, 0, sport, 1)
    return ipv4(step, protocol, source, destination, segment + payload)


def ipv4(step: dict, protocol: int, source: bytes, destination: bytes, segment: bytes) -> bytes:
    """Return an IPv4 packet around *segment*, with the checksums that *step* asks for."""
    if protocol in CHECKSUM_AT:
        pseudo = b"" if protocol == ICMP else source + destination + struct.pack("!HH", protocol, len(segment))
        value = step.get("checksum")
        if value is None:
            value = checksum(pseudo + segment) or (0xFFFF if protocol == UDP else 0)
        elif value == "none":
            value = 0
        at = CHECKSUM_AT[protocol]
        segment = segment[:at] + struct.pack("!H", value) + segment[at + 2:]
    header = struct.pack("!BBHHHBBH", 0x45, step.get("tos", 0), 20 + len(segment), step.get("ip_id", 1),
                         0x4000 if step.get("df", 1) else 0, step.get("ttl", 64), protocol, 0) + source + destination
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + segment


def icmp_error(step: dict, quoted: bytes) -> bytes:
    """Return an ICMP error about the packet *quoted*, to its sender."""
    if step.get("inner"):
        quoted = decapsulated(quoted)
    kind, code, rest = step["icmp"]
    source = socket.inet_aton(step["from"]) if "from" in step else quoted[16:20]
    message = struct.pack("!BBHI", kind, code, 0, rest) + quoted[:step.get("quote", 548)]
    return ipv4({"df": 0, **step}, ICMP, source, quoted[12:16], message)


def decapsulated(packet: bytes) -> bytes:
    """Return the packet inside a tunnel's (IPIP, GRE, GUE), or *packet* itself."""
    header = (packet[0] & 15) * 4
    if packet[9] == IPIP:
        return packet[header:]
    if packet[9] == GRE:
        return packet[header + (8 if packet[header] & 0x80 else 4):]
    if packet[9] == UDP and packet[header + 2:header + 4] == struct.pack("!H", GUE_PORT):
        return packet[header + 8 + 4 + (packet[header + 8] & 31) * 4:]
    return packet


def fragments(packet: bytes, size: int) -> list[bytes]:
    """Return *packet* cut into fragments with *size* bytes (a multiple of 8) each."""
    body = packet[20:]
    result = []
    for offset in range(0, len(body), size):
        part = body[offset:offset + size]
        more = 0x2000 if offset + size < len(body) else 0
        header = (packet[:2] + struct.pack("!H", 20 + len(part)) + packet[4:6] + struct.pack("!H", more | offset // 8)
                  + packet[8:10] + b"\0\0" + packet[12:20])
        result.append(header[:10] + struct.pack("!H", checksum(header)) + header[12:] + part)
    return result


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of *data*."""
    # The sum of 16-bit words, carries added back, is the number itself modulo 65535.
    total = int.from_bytes(data + bytes(len(data) % 2), "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def sctp(sport: int, dport: int, chunks: bytes) -> bytes:
    """Return an SCTP packet with the right CRC32c."""
    header = struct.pack("!HHI", sport, dport, 1)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunks)) + chunks


def crc32c(data: bytes) -> int:
    """Return the CRC32c (Castagnoli) of *data*."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
