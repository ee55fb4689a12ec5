"""Captures and CSV files of known flows, for replay's tests; written here with struct, not with lbq's own words."""
from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.helpers.packets import endpoint, ipv4, tcp, udp

RAW, ETHERNET = 101, 1
EPOCH = 1_700_000_000
Timed = tuple[float, bytes]         # seconds after EPOCH, an IP packet or a frame


def connection(client: str, vip: str, start: float, end: float, *, data: int = 0) -> list[Timed]:
    """Return the packets of a TCP connection: handshake at *start*, *data* requests in between, close at *end*."""
    step = (end - start) / (data + 1)
    middle = [(start + step * number, tcp(client, vip, "PA", b"x" * 10)) for number in range(1, data + 1)]
    return [(start, tcp(client, vip, "S")), (start, tcp(vip, client, "SA")), (start, tcp(client, vip, "A")), *middle,
            (end, tcp(client, vip, "FA")), (end, tcp(vip, client, "FA")), (end, tcp(client, vip, "A"))]


def question(client: str, vip: str, start: float, end: float) -> list[Timed]:
    """Return a datagram and the answer to it."""
    return [(start, udp(client, vip, b"?")), (end, udp(vip, client, b"!"))]


def sctp(source: str, destination: str, *chunks: int) -> bytes:
    """Return an SCTP packet over IPv4 with empty *chunks*, by their types."""
    (caddr, cport), (vaddr, vport) = endpoint(source), endpoint(destination)
    content = b"".join(struct.pack("!BBH", chunk, 0, 4) for chunk in chunks)
    return bytes(ipv4(132, caddr, vaddr, struct.pack("!HHII", cport, vport, 1, 0) + content))


def in_order(*flows: Iterable[Timed]) -> list[Timed]:
    """Return the packets of all *flows* by time."""
    return sorted((packet for flow in flows for packet in flow), key=lambda packet: packet[0])


def pcap(packets: Sequence[Timed], link: int = RAW, order: str = "<", nano: bool = False) -> bytes:
    """Return a pcap file."""
    magic, units = (0xA1B23C4D, 10**9) if nano else (0xA1B2C3D4, 10**6)
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link)]
    for moment, packet in packets:
        seconds, fraction = divmod(round(moment * units), units)
        parts += [struct.pack(f"{order}IIII", EPOCH + seconds, fraction, len(packet), len(packet)), bytes(packet)]
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Return a block of pcapng."""
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + size + body + size


def pcapng(packets: Sequence[Timed], link: int = RAW, order: str = "<", options: bytes = b"",
           units: int = 10**6) -> bytes:
    """Return a pcapng file with one interface that has these *options*."""
    parts = [block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order),
             block(1, struct.pack(f"{order}HHI", link, 0, 0) + options, order)]
    for moment, packet in packets:
        ticks = EPOCH * units + round(moment * units)
        parts.append(block(6, struct.pack(f"{order}IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(packet),
                                          len(packet)) + bytes(packet), order))
    return b"".join(parts)


def write(path: Path, content: bytes | str) -> str:
    """Write *content* into *path* and return that as text."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def csv(*lines: str, header: str = "start,client,duration") -> str:
    """Return a CSV file."""
    return "\n".join([header, *lines]) + "\n"
