"""The framing of captures: pcap and pcapng, in the order in which packets were written, a piece of the file at a time.

Why our own: every packet of ten million passes here, and only its place in the file is wanted.  What there is to
install takes 3 to 4 times as long for that alone (dpkt 1.9.8, scapy 2.8; docs/replay.md has the figures), and answers
damaged files with exceptions of many kinds.

Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; link types: draft-ietf-opsawg-pcaplinktype.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import BinaryIO, NamedTuple

from lbq.errors import ConfigError

PIECE = 1 << 22             # bytes read at a time
LONGEST = 1 << 18           # a captured packet's; tcpdump's own limit
LONGEST_BLOCK = 1 << 26     # a pcapng block's
MICRO, NANO = 0xA1B2C3D4, 0xA1B23C4D
SECTION, INTERFACE, OLD_PACKET, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
BYTE_ORDER = 0x1A2B3C4D
OPTION_RESOLUTION, OPTION_OFFSET = 9, 14
ORDERS = {"<": "little", ">": "big"}


class Damaged(ConfigError):
    """A capture is not what its own numbers say; the packets before that have been given."""


# A packet: its time (ns), the link type, where it is (data[at:end]) and its length on the wire.  Plain, for speed.
Record = tuple[int, int, bytes, int, int, int]


class Interface(NamedTuple):
    """What pcapng says of one: link type, units of time a second, nanoseconds to add, most bytes kept of a packet."""

    link: int
    units: int
    offset_ns: int
    snap: int


class Pieces:
    """A file of which one piece is in memory, and how far it has been read."""

    def __init__(self, file: BinaryIO, name: str):
        self.name = name
        self.data = b""
        self.at = 0
        self.before = 0         # bytes of the file before *data*
        self._file = file

    def more(self, wanted: int) -> bool:
        """Have at least *wanted* bytes from ``at`` on in ``data``; return False when the file ends before."""
        if len(self.data) - self.at >= wanted:
            return True
        parts = [self.data[self.at:]]
        missing = wanted - len(parts[0])
        self.before += self.at
        while missing > 0:
            part = self._file.read(max(PIECE, missing))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self.data, self.at = b"".join(parts), 0
        return missing <= 0

    def position(self) -> int:
        """Return how many bytes of the file have been gone through."""
        return self.before + self.at

    def left(self) -> int:
        """Return how many bytes are in memory and not yet gone through."""
        return len(self.data) - self.at


def is_capture(begin: bytes) -> bool:
    """Return True when a file begins as pcap or pcapng does; four bytes tell."""
    return int.from_bytes(begin[:4], "little") == SECTION or _order(begin[:4]) is not None


def records(pieces: Pieces) -> Iterator[Record]:
    """Give the packets of a capture; raises Damaged where it stops being one."""
    pieces.more(4)
    begin = pieces.data[:4]
    if int.from_bytes(begin, "little") == SECTION:
        return _pcapng(pieces)
    return _pcap(pieces, _order(begin))


def _order(begin: bytes) -> str | None:
    """Return the byte order of a pcap file that begins so, None when none does."""
    for order, name in ORDERS.items():
        if int.from_bytes(begin, name) in (MICRO, NANO) and len(begin) == 4:
            return order
    return None


def _pcap(pieces: Pieces, order: str) -> Iterator[Record]:
    if not pieces.more(24):
        raise Damaged(f"{pieces.name} is cut off in its first 24 bytes, the header of a pcap file; capture it again")
    nano = int.from_bytes(pieces.data[:4], ORDERS[order]) == NANO
    link = int.from_bytes(pieces.data[20:24], ORDERS[order]) & 0x0FFFFFFF     # above: what is left of a checksum
    pieces.at = 24
    header = Struct(f"{order}IIII").unpack_from
    factor = 1 if nano else 1000
    count = 0
    while True:
        data, at, last = pieces.data, pieces.at, len(pieces.data) - 16
        while at <= last:
            seconds, fraction, captured, length = header(data, at)
            end = at + 16 + captured
            if captured > LONGEST:
                pieces.at = at
                raise _too_long(pieces, count + 1, captured)
            if end > last + 16:
                break
            count += 1
            at += 16
            yield seconds * 1_000_000_000 + fraction * factor, link, data, at, end, length
            at = end
        pieces.at = at
        wanted = 16
        if pieces.left() >= 16:
            wanted += header(data, at)[2]
        if not pieces.more(wanted):
            if pieces.left():
                raise _cut(pieces, count + 1)
            return


def _too_long(pieces: Pieces, number: int, captured: int) -> Damaged:
    return Damaged(f"{pieces.name} is damaged: packet {number}, at byte {pieces.position()}, claims {captured} bytes; "
                   "--partial plays the packets before it")


def _cut(pieces: Pieces, number: int) -> Damaged:
    return Damaged(f"{pieces.name} is cut off in packet {number}, at byte {pieces.position()}: the capture did not end "
                   "properly, or was not copied whole; --partial plays the packets before it")


def _pcapng(pieces: Pieces) -> Iterator[Record]:
    order, interfaces, count, last_time = "<", [], 0, 0
    head = Struct("<II").unpack_from
    packet_head = Struct("<IIIII").unpack_from
    while pieces.more(12):
        data, at = pieces.data, pieces.at
        kind, size = head(data, at)
        if kind == SECTION:
            order = _section_order(pieces, data[at + 8:at + 12])
            interfaces = []
            head = Struct(f"{order}II").unpack_from
            packet_head = Struct(f"{order}IIIII").unpack_from
            size = head(data, at)[1]
        if size < 12 or size % 4 or size > LONGEST_BLOCK:
            raise Damaged(f"{pieces.name} is damaged: the block at byte {pieces.position()}, after packet {count}, "
                          f"claims {size} bytes; --partial plays the packets before it")
        if not pieces.more(size):
            raise _cut(pieces, count + 1)
        data, at = pieces.data, pieces.at
        end = at + size - 4
        if kind in (ENHANCED, OLD_PACKET):
            if size < 32:
                raise _odd(pieces, count + 1)
            number, high, low, captured, length = packet_head(data, at + 8)
            if kind == OLD_PACKET:
                number = number & 0xFFFF if order == "<" else number >> 16
            if number >= len(interfaces) or at + 28 + captured > end:
                raise _odd(pieces, count + 1)
            interface = interfaces[number]
            last_time = (high << 32 | low) * 1_000_000_000 // interface.units + interface.offset_ns
            count += 1
            yield last_time, interface.link, data, at + 28, at + 28 + captured, length
        elif kind == SIMPLE:
            if not interfaces or size < 16:
                raise _odd(pieces, count + 1)
            length = int.from_bytes(data[at + 8:at + 12], ORDERS[order])
            captured = min(length, interfaces[0].snap or length, size - 16)
            count += 1
            yield last_time, interfaces[0].link, data, at + 12, at + 12 + captured, length
        elif kind == INTERFACE:
            if size < 20:
                raise _odd(pieces, count + 1)
            interfaces.append(_interface(data[at + 8:end], ORDERS[order]))
        pieces.at += size
    if pieces.left():
        raise _cut(pieces, count + 1)


def _section_order(pieces: Pieces, magic: bytes) -> str:
    for order, name in ORDERS.items():
        if int.from_bytes(magic, name) == BYTE_ORDER:
            return order
    raise Damaged(f"{pieces.name} is damaged: the section at byte {pieces.position()} says no byte order; capture it "
                  "again")


def _odd(pieces: Pieces, number: int) -> Damaged:
    return Damaged(f"{pieces.name} is damaged: the block at byte {pieces.position()} does not hold packet {number} or "
                   "names no interface; --partial plays the packets before it")


def _interface(body: bytes, order: str) -> Interface:
    """Return what an interface block's *body* says; options that make no sense say nothing."""
    link = int.from_bytes(body[:2], order)
    snap = int.from_bytes(body[4:8], order)
    units, offset = 1_000_000, 0
    at = 8
    while at + 4 <= len(body):
        code = int.from_bytes(body[at:at + 2], order)
        size = int.from_bytes(body[at + 2:at + 4], order)
        value = body[at + 4:at + 4 + size]
        if code == OPTION_RESOLUTION and len(value) == 1:
            units = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** min(value[0], 18)
        elif code == OPTION_OFFSET and len(value) == 8:
            offset = int.from_bytes(value, order, signed=True)
        at += 4 + (size + 3 & ~3)
    return Interface(link, units, offset * 1_000_000_000, snap)


# ---- Where the IP packet starts ---------------------------------------------------------------------------

IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
VLANS = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")
PPPOE = b"\x88\x64"


def ethernet(data: bytes, at: int, end: int) -> int:
    """Return where the IP packet of an Ethernet frame starts, behind any VLAN tags; -1 when there is none."""
    return _behind(data, at + 12, end)


def cooked(data: bytes, at: int, end: int) -> int:
    """Do the same for a Linux cooked capture (SLL), such as ``tcpdump -i any`` writes."""
    return _behind(data, at + 14, end)


def cooked2(data: bytes, at: int, end: int) -> int:
    """Do the same for the second version (SLL2), which has the protocol first."""
    kind = data[at:at + 2]
    if kind in VLANS:
        return _behind(data, at + 22, end)
    return at + 20 if kind in (IPV4, IPV6) else -1


def _behind(data: bytes, at: int, end: int) -> int:
    """Return where the IP packet behind the protocol number at *at* starts, or -1."""
    kind = data[at:at + 2]
    while kind in VLANS and at + 6 <= end:
        at += 4
        kind = data[at:at + 2]
    if kind == PPPOE:
        at += 8                 # a session of a DSL line: six bytes, and two with PPP's own number
        return at + 2 if data[at:at + 2] in (b"\x00\x21", b"\x00\x57") else -1
    return at + 2 if kind in (IPV4, IPV6) else -1


def loopback(data: bytes, at: int, end: int) -> int:
    """Do the same for BSD's loopback: four bytes with the address family."""
    return at + 4


def raw(data: bytes, at: int, end: int) -> int:
    """Do the same where nothing is before the IP packet."""
    return at


LINKS: dict[int, Callable[[bytes, int, int], int]] = {
    0: loopback, 108: loopback, 1: ethernet, 12: raw, 14: raw, 101: raw, 228: raw, 229: raw, 113: cooked,
    276: cooked2}


def unread_link(name: str, link: int) -> str:
    """Say that a capture is of a kind of network whose frames are not known here."""
    return (f"{name} has link type {link}, which lbq does not read; it reads Ethernet, Linux cooked, raw IP and "
            "loopback captures, such as tcpdump -i any writes")
