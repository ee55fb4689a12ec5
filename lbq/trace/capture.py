"""Traced packets as a capture that Wireshark opens: before and after, each with what was decided as its comment.

Two interfaces, "before" and "after", of raw IP packets (LINKTYPE_RAW), cut to what is kept of them.

Format: draft-ietf-opsawg-pcapng; section, interface and enhanced packet blocks.
"""
from __future__ import annotations

import struct
from typing import BinaryIO

from lbq import __version__

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
COMMENT, NAME, RESOLUTION = 1, 2, 9     # options of packets; of interfaces, these two
APPLICATION = 4
LINKTYPE_RAW = 101
NANOSECONDS = b"\x09"       # ten to the minus nine
BEFORE, AFTER = range(2)


class Capture:
    """A pcapng file that is being written."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self._block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), [(APPLICATION, f"lbq {__version__}".encode())])
        for name in (b"before", b"after"):
            self._block(INTERFACE, struct.pack("<HHI", LINKTYPE_RAW, 0, 0), [(NAME, name), (RESOLUTION, NANOSECONDS)])

    def add(self, interface: int, unix_ns: int, packet: bytes, length: int, comment: str) -> None:
        """Write the first bytes of a *packet* that has *length* bytes, seen at *unix_ns*."""
        content = packet + bytes(-len(packet) % 4)
        head = struct.pack("<IIIII", interface, unix_ns >> 32, unix_ns & 0xFFFFFFFF, len(packet),
                           max(length, len(packet)))
        self._block(PACKET, head + content, [(COMMENT, comment.encode())])

    def _block(self, kind: int, body: bytes, options: list[tuple[int, bytes]]) -> None:
        for code, value in options:
            body += struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
        body += bytes(4)            # the end of options
        total = struct.pack("<I", 12 + len(body))
        self.file.write(struct.pack("<I", kind) + total + body + total)
        self.file.flush()           # whoever looks at it meanwhile sees whole packets
