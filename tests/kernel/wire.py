"""Packets of scenarios: from the words of a step to bytes, for the kernel and for lbq's engines alike.

A step says what matters and leaves out the rest:

    {"do": "send", "proto": "tcp", "flags": "S", "from": "172.16.0.1:40001", "to": "10.0.0.1:80"}
    {"do": "send", "side": "s", "answer": 7, "flags": "SA"}           the server answers what step 7 brought it
    {"do": "send", "side": "s", "about": 7, "icmp": [3, 1, 0]}        an ICMP error about what step 7 brought it

``side`` c (the client side, if nothing is said) or s; ``payload`` bytes of payload; ``ttl``, ``tos``, ``df``,
``ip_id``; ``checksum`` "none" (UDP) or a number that stands in the place of the right one; ``cut``: send it as
fragments with so many bytes each, or only the one whose number ``piece`` is; SCTP has ``chunk``, the type of its first
chunk.  An ICMP error may have ``from`` (else the quoted packet's destination reports it), ``quote`` (bytes quoted; else
as many as fit) and ``inner`` (quote the packet inside the tunnel's), or be ``quoting`` a packet nobody sent.

Addresses like ``[2001:db8::1]:80`` make it IPv6.  Then there are ``label``, the flow label, and ``ext``, a letter for
each extension header: hop-by-hop, destination options, routing, authentication, fragment (of a datagram that is in one
piece); capital ones are longer.  An error about an IPv6 packet is ``icmp6``.

Nothing here uses lbq's own arithmetic.
"""
from __future__ import annotations

import struct

from tests.kernel import topology
from tests.kernel.fragments import fragments
from tests.kernel.ip import (
    AUTHENTICATION,
    DESTINATION,
    FRAGMENT,
    GRE,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPIP,
    IPV6,
    ROUTING,
    SCTP,
    TCP,
    UDP,
    checksum,
    parse,
    pseudo_header,
)

NUMBERS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP}
FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20}
GUE_PORT = 6080
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}
PATTERN = bytes(range(256)) * 300
QUOTE = {4: 548, 6: 1232}           # bytes that an ICMP error quotes, at the most
EXTENSION = {"h": HOP_BY_HOP, "d": DESTINATION, "r": ROUTING, "a": AUTHENTICATION, "f": FRAGMENT}


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
    if "cut" not in step:
        return [packet]
    pieces = fragments(packet, step["cut"], step["ip_id"])
    return [pieces[min(step["piece"], len(pieces) - 1)]] if "piece" in step else pieces


def endpoint(text: str) -> tuple[bytes, int]:
    """Return ``10.0.0.1:80`` or ``[2001:db8::1]:80`` as (address, port)."""
    host, _, port = text.rpartition(":")
    return topology.packed(host.strip("[]")), int(port)


def answer(step: dict, packet: bytes) -> bytes | None:
    """Return what the machine that got *packet* answers."""
    packet = decapsulated(packet)
    parsed = parse(packet)
    if len(packet) < parsed.header + 4:
        return None
    sport, dport = struct.unpack_from("!HH", packet, parsed.header)
    return datagram(step, parsed.protocol, parsed.destination, dport, parsed.source, sport)


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
        protocol, kind = (ICMP, 8) if len(source) == 4 else (ICMPV6, 128)
        segment = struct.pack("!BBHHH", kind, 0, 0, sport, 1)
    return ip(step, protocol, source, destination, segment + payload)


def ip(step: dict, protocol: int, source: bytes, destination: bytes, segment: bytes) -> bytes:
    """Return an IP packet around *segment*, with the checksums that *step* asks for."""
    if protocol in CHECKSUM_AT:
        value = step.get("checksum")
        if value is None:
            pseudo = pseudo_header(source, destination, protocol, len(segment))
            value = checksum(pseudo + segment) or (0xFFFF if protocol == UDP else 0)
        elif value == "none":
            value = 0
        at = CHECKSUM_AT[protocol]
        segment = segment[:at] + struct.pack("!H", value) + segment[at + 2:]
    if len(source) == 16:
        protocol, extensions = extended(step.get("ext", ""), protocol)
        segment = extensions + segment
        first = 6 << 28 | step.get("tos", 0) << 20 | step.get("label", 0)
        return struct.pack("!IHBB", first, len(segment), protocol, step.get("ttl", 64)) + source + destination + segment
    header = struct.pack("!BBHHHBBH", 0x45, step.get("tos", 0), 20 + len(segment), step.get("ip_id", 1),
                         0x4000 if step.get("df", 1) else 0, step.get("ttl", 64), protocol, 0) + source + destination
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + segment


def extended(letters: str, protocol: int) -> tuple[int, bytes]:
    """Return the extension headers for *letters*, with *protocol* behind them, as (number of the first, bytes)."""
    result = b""
    for letter in reversed(letters):
        size = 24 if letter.isupper() else 8
        kind = EXTENSION[letter.lower()]
        if kind == FRAGMENT:
            body = struct.pack("!BxHI", protocol, 0, 0x1234)
        elif kind == AUTHENTICATION:
            body = struct.pack("!BBHII", protocol, 4, 0, 1, 1) + bytes(12)
        elif kind == ROUTING:               # of type 0, used up
            body = struct.pack("!BBBB", protocol, size // 8 - 1, 0, 0) + bytes(size - 4)
        else:                               # an option: padding, of which hosts accept little, or an unknown one
            body = struct.pack("!BBBB", protocol, size // 8 - 1, 1 if size == 8 else 0x1E, size - 4) + bytes(size - 4)
        result, protocol = body + result, kind
    return protocol, result


def icmp_error(step: dict, quoted: bytes) -> bytes:
    """Return an ICMP error about the packet *quoted*, to its sender."""
    if step.get("inner"):
        quoted = decapsulated(quoted)
    parsed = parse(quoted)
    protocol, (kind, code, rest) = (ICMP, step["icmp"]) if parsed.version == 4 else (ICMPV6, step["icmp6"])
    length = len(parsed.source)
    source = topology.in_family(step["from"], length) if "from" in step else parsed.destination
    message = struct.pack("!BBHI", kind, code, 0, rest) + quoted[:step.get("quote", QUOTE[parsed.version])]
    return ip({"df": 0, **step}, protocol, source, parsed.source, message)


def decapsulated(packet: bytes) -> bytes:
    """Return the packet inside a tunnel's (IPIP, GRE, GUE), or *packet* itself."""
    parsed = parse(packet)
    at = parsed.header
    if parsed.protocol in (IPIP, IPV6):
        return packet[at:]
    if parsed.protocol == GRE:
        return packet[at + (8 if packet[at] & 0x80 else 4):]
    if parsed.protocol == UDP and packet[at + 2:at + 4] == struct.pack("!H", GUE_PORT):
        return packet[at + 8 + 4 + (packet[at + 8] & 31) * 4:]
    return packet


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
