"""Cuts packets into fragments and puts them together again, in both families."""
from __future__ import annotations

import struct

from tests.kernel.ip import FRAGMENT, Parsed, parse, pointer, with_checksum


def fragments(packet: bytes, size: int, identification: int) -> list[bytes]:
    """Return *packet* cut into fragments with *size* bytes (a multiple of 8) each."""
    parsed = parse(packet)
    body = packet[parsed.header:]
    return [fragment(packet, parsed, body[start:start + size], start, start + size < len(body), identification)
            for start in range(0, len(body), size)]


def fragment(packet: bytes, parsed: Parsed, part: bytes, offset: int, more: bool, identification: int) -> bytes:
    """Return the fragment of *packet* that has *part* of it, from *offset* on."""
    head = packet[:parsed.header]
    if parsed.version == 4:
        return with_fields4(head, (0x2000 if more else 0) | offset // 8, part)
    at = pointer(packet, parsed.header)
    inserted = struct.pack("!BBHI", head[at], 0, offset | more, identification)
    return with_length6(head[:at] + bytes((FRAGMENT,)) + head[at + 1:] + inserted + part)


def whole(first: bytes, body: bytes) -> bytes:
    """Return the datagram that *first*, its first fragment, begins, with all of its *body*."""
    parsed = parse(first)
    if parsed.version == 4:
        return with_fields4(first[:parsed.header], 0, body)
    at = pointer(first, parsed.fragment)
    head = first[:at] + first[parsed.fragment:parsed.fragment + 1] + first[at + 1:parsed.fragment]
    return with_length6(head + body)


def reassembled(frames: list[tuple[str, str, bytes]], keep: bool = True) -> list[tuple[str, str, bytes]]:
    """Return *frames* with fragments put together; pieces of an incomplete datagram stay as they are, or are lost."""
    complete, pieces = [], {}
    for where, mac, packet in frames:
        parsed = parse(packet)
        if parsed.fragment:
            identification = packet[4:6] if parsed.version == 4 else packet[parsed.fragment + 4:parsed.fragment + 8]
            name = (where, mac, identification, parsed.protocol if parsed.version == 4 else 0, parsed.source,
                    parsed.destination)
            pieces.setdefault(name, []).append((parsed.offset, parsed, packet))
        else:
            complete.append((where, mac, packet))
    for (where, mac, *_), parts in pieces.items():
        parts.sort(key=lambda part: part[0])
        body = b"".join(packet[start_of_body(parsed):] for _, parsed, packet in parts)
        offset, last, packet = parts[-1]
        if parts[0][0] == 0 and not last.more and offset + len(packet) - start_of_body(last) == len(body):
            complete.append((where, mac, whole(parts[0][2], body)))
        elif keep:
            complete += [(where, mac, packet) for _, _, packet in parts]
    return complete


def start_of_body(parsed: Parsed) -> int:
    """Return where in a fragment the part of the datagram's body begins."""
    return parsed.header if parsed.version == 4 else parsed.fragment + 8


def with_fields4(head: bytes, fragment: int, body: bytes) -> bytes:
    """Return an IPv4 packet with this *head*, but with the right length and checksum and another *fragment* field."""
    return with_checksum(head[:2] + struct.pack("!H", len(head) + len(body)) + head[4:6] + struct.pack("!H", fragment)
                         + head[8:] + body)


def with_length6(packet: bytes) -> bytes:
    """Return an IPv6 *packet* whose payload length is right."""
    return packet[:4] + struct.pack("!H", len(packet) - 40) + packet[6:]
