"""What is above IP, the same in both families: TCP segments, datagrams, SCTP packets, FTP's words among them."""
from __future__ import annotations

import random
import struct
from typing import NamedTuple

from lbq.model import AF_INET6, SCTP, TCP, UDP
from tests.helpers import packets

TRANSPORT_HEADERS = {TCP: 20, UDP: 8, SCTP: 12}
CHECKSUM_AT = {TCP: 16, UDP: 6}
OF_ALL_FLAGS = ["S"] * 6 + ["A"] * 6 + ["FA", "FA", "SA", "R", "RA", "PA", "SF", "SR", "F", "", "P", "FSRPAU"]
CHUNKS = (0, 1, 1, 2, 3, 6, 7, 8, 9, 10, 10, 11, 11, 14, 99, 255)
FTP_LINES = (b"PASV\r\n", b"pasv\r\n", b"EPSV\r\n", b"EPSV 1\r\n", b"EPSV 2\r\n", b"PORT %s\r\n",
             b"EPRT |1|%s|%d|\r\n", b"EPRT !2!%s!%d!\r\n", b"227 Entering Passive Mode (%s).\r\n", b"227 %s\r\n",
             b"229 Entering Extended Passive Mode (|||%d|)\r\n", b"229 (!!!%d!)\r\n", b"220 ready\r\n")
FTP_LINES6 = (b"EPSV\r\n", b"epsv \r\n", b"EPSV 1\r\n", b"EPSV 2\r\n", b"EPRT |2|2001:db8::%d:9|%d|\r\n",
              b"EPRT !2!::ffff:1.2.3.%d!%d!\r\n", b"EPRT |2|%d::g|%d|\r\n", b"PASV\r\n",
              b"229 Entering Extended Passive Mode (|||%d|)\r\n", b"229 (!!!0%d!)\r\n", b"220 ready\r\n")
FTP_WORDS = (b"PASV", b"EPSV", b"PORT ", b"EPRT ", b"227 ", b"229 ", b"(", b")", b"|||", b"|1|", b"|2|", b"::", b",",
             b"\r\n", b" ", b"192,168,20,1,4,1", b"1.2.3.4", b"fe80::1%lo", b"65536", b"99999999999999999999", b"-1",
             b"\0", b"\xff")


class Meaning(NamedTuple):
    """What a packet says; *protocol* is None when it says nothing that can be trusted."""

    protocol: int | None
    source_port: int = 0
    destination: int = 0
    destination_port: int = 0
    flags: int = 0              # of TCP
    first_chunk: int = -1       # of SCTP
    is_later: bool = False      # a later fragment of IPv6


def segment(choose: random.Random, family: int, protocol: int, source_port: int, destination_port: int,
            flags: str = "") -> bytes:
    """Return a TCP, UDP or SCTP segment between two ports, its checksum still zero; no *flags* are any."""
    ports = struct.pack("!HH", source_port, destination_port)
    content = payload(choose, family, protocol == TCP and 21 in (source_port, destination_port))
    if protocol == SCTP:
        return ports + choose.randbytes(8) + chunks(choose)
    if protocol == UDP:
        return ports + struct.pack("!HH", 8 + len(content), 0) + content
    options = tcp_options(choose)
    bits = sum(packets.FLAGS[letter] for letter in flags or choose.choice(OF_ALL_FLAGS))
    numbers = choose.choice((0, 1000, 1030, 0xFFFFFFF0)), choose.choice((2000, 2030, 0xFFFFFFFE))
    header = struct.pack("!IIBBHHH", *numbers, (5 + len(options) // 4) << 4, bits, 512, 0, 0)
    return ports + header + options + content


def payload(choose: random.Random, family: int, ftp: bool) -> bytes:
    if ftp and choose.random() < 0.6:
        return ftp_words(choose, family)
    return choose.randbytes(choose.choice((0, 0, 0, 1, 7, 8, 63, 500, 1460, 1461, 4000)) if choose.random() < 0.995
                            else choose.choice((30000, 65415)))


def ftp_words(choose: random.Random, family: int) -> bytes:
    """Return a line of the FTP control connection, or words of one in any order."""
    if choose.random() < 0.3:
        return b"".join(choose.choice(FTP_WORDS) for _ in range(choose.randrange(1, 9)))
    line = choose.choice(FTP_LINES6 if family == AF_INET6 else FTP_LINES)
    numbers = [choose.choice((0, 1, 9, 20, 168, 192, 255, 256)) for _ in range(6)]
    where = b".".join(b"%d" % number for number in numbers[:4])
    port = choose.choice((0, 20, 1024, 51210, 65535, 65536))
    six = b",".join(b"%d" % number for number in numbers)
    if b"%d" in line and line.count(b"%") == 2:
        return line % (where if b"%s" in line else numbers[0], port)
    return line % six if b"%s" in line else line % port if b"%d" in line else line


def tcp_options(choose: random.Random) -> bytes:
    if choose.random() < 0.7:
        return b""
    options = b""
    while len(options) < 36 and choose.random() < 0.7:
        kind = choose.choice((0, 1, 2, 3, 5, 5, 8, 77))
        size = choose.choice((0, 1, 2, 10, 18, 34)) if kind == 5 else choose.randrange(0, 12)
        options += bytes([kind]) + (bytes([size]) + choose.randbytes(max(size - 2, 0)) if kind > 1 else b"")
    options = options[:40]
    return options + bytes(-len(options) % 4)


def chunks(choose: random.Random) -> bytes:
    """Return one SCTP chunk or several, whose lengths are right, as a rule."""
    chunks = b""
    for _ in range(choose.choice((0, 1, 1, 1, 2, 3))):
        body = choose.randbytes(choose.choice((0, 0, 1, 2, 4, 16, 64)))
        size = 4 + len(body) if choose.random() < 0.9 else choose.choice((0, 1, 3, 4, 5, 0xFFFC, 0xFFFF))
        chunks += bytes([choose.choice(CHUNKS), choose.randrange(256)]) + struct.pack("!H", size) + body
        chunks += bytes(-len(body) % 4)
    return chunks


def fields(packet: bytes, header: int, protocol: int) -> list[tuple[int, int]]:
    """Return (offset, size) of the numbers in what begins at *header*, some of them behind the end."""
    found = [(header, 2), (header + 2, 2)]
    if protocol == TCP:
        found += [(header + 4, 4), (header + 8, 4), (header + 12, 1), (header + 13, 1), (header + 16, 2)]
        found += [(offset, 1) for offset in range(header + 20, header + 28)]        # TCP options
    elif protocol == UDP:
        found += [(header + 4, 2), (header + 6, 2), (header + 8, 1), (header + 9, 1)]
    elif protocol == SCTP:
        found += [(header + 8, 4), (header + 12, 1), (header + 14, 2), (header + 16, 1), (header + 18, 2)]
    else:
        found += [(header, 1), (header + 1, 1), (header + 4, 2), (header + 6, 2)]
    return found


def meaning(protocol: int, destination: int, segment: bytes) -> Meaning:
    """Return what a *segment* to an address says."""
    if protocol not in TRANSPORT_HEADERS:
        return Meaning(protocol, destination=destination)
    if len(segment) < TRANSPORT_HEADERS[protocol]:
        return Meaning(None)
    ports = struct.unpack_from("!HH", segment)
    return Meaning(protocol, ports[0], destination, ports[1], segment[13] if protocol == TCP else 0,
                   segment[12] if protocol == SCTP and len(segment) >= 16 else -1)
