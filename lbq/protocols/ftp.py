"""FTP behind NAT: the control connection says in words where the data connection will be.

    passive   the server says   227 Entering Passive Mode (RIP, port)   or   229 … (|||port|)
              the client must hear the VIP, and the data connection must be known before it comes
    active    the client says   PORT its address and port   (or EPRT)
              the words are right; the server's connection from its port 20 must be known

Over IPv6 there are only EPSV and EPRT.

The words are read as loosely as the kernel reads them: in any case, with any text before the numbers, and
PASV and EPSV anywhere in a segment.  Numbers that do not fit into a byte or a port are no announcement.

A reply that changes its length shifts all later sequence numbers of the server; ``SequenceShift`` keeps
count.  A segment sent again counts once, and keeps the number it had.

Differs from IPVS: a reply that is sent again says again what the client was to hear.  The kernel lets it through as the
server wrote it: a client that lost the first one is sent to the RIP, and where the lengths differ, what is too much is
taken for the beginning of the next reply.

Kernel: ip_vs_ftp.c, ip_vs_ftp_in(), ip_vs_ftp_out(), ip_vs_ftp_get_addrport(); nf_conntrack_seqadj.c.
RFC 959, RFC 2428; RFC 2018 (selective acknowledgements).
"""
from __future__ import annotations

import re
import socket
from typing import NamedTuple

from lbq import packet as pkt
from lbq.model import AF_INET, AF_INET6

PASV, EPSV = "227 ", "229 "     # what a client asked for, named by how the reply begins

_ASKS = re.compile(rb"PASV\r\n|EPSV[\r ].", re.IGNORECASE | re.DOTALL)
_ASKS6 = re.compile(rb"EPSV[\r ].", re.IGNORECASE | re.DOTALL)
_ONE_FAMILY = {AF_INET: b"1\r", AF_INET6: b"2\r"}      # EPSV may name the network protocol
_SIX = rb"(\d*),(\d*),(\d*),(\d*),(\d*),(\d*)(?=\D)"
_PORT = re.compile(rb"PORT[^ \d]* *" + _SIX, re.IGNORECASE)
_EPRT = re.compile(rb"EPRT[^ ]* +([!-/:-~])1\1(\d+)\.(\d+)\.(\d+)\.(\d+)\1(\d+)\1", re.IGNORECASE)
_EPRT6 = re.compile(rb"EPRT[^ ]* +([!-/;-~])2\1([0-9A-Fa-f:.]+)\1(\d+)\1", re.IGNORECASE)
_REPLY_227 = re.compile(rb"227 [^(\d]*\(*" + _SIX)
_REPLY_229 = re.compile(rb"229 [^(]*\(+([!-'*-/:-~)])\1\1(\d+)\1")      # RFC 2428: only the port

SACK, END, NO_OPERATION = 5, 0, 1       # TCP options
ACK = 0x10
LARGEST = 0xFFFF
MOST_BYTES = LARGEST - 4                # of a packet that a verdict can return: its attribute counts its own header


class Announced(NamedTuple):
    """Where a data connection will be, and for a server's reply which bytes of the payload say so."""

    address: int
    port: int
    start: int = 0
    end: int = 0


def asks_passive(payload: bytes, family: int = AF_INET) -> str | None:
    """Return the reply to wait for when the client asks for a passive data connection."""
    found = (_ASKS if family == AF_INET else _ASKS6).search(payload)
    if found is None:
        return None
    if found[0][:1] in b"Pp":
        return PASV
    names_family = found[0][4:5] == b" "
    return EPSV if not names_family or payload[found.start() + 5:][:2] == _ONE_FAMILY[family] else None


def announces_active(payload: bytes, family: int = AF_INET) -> Announced | None:
    """Return where the client waits for an active data connection."""
    if family == AF_INET6:
        return _announces_active6(payload)
    if found := _PORT.match(payload):
        return _address_and_port(_numbers(found.groups()))
    if (found := _EPRT.match(payload)) and found[1] != b".":
        *octets, port = _numbers(found.groups()[1:])
        return _address_and_port([*octets, port >> 8, port & 0xFF]) if port else None
    return None


def _announces_active6(payload: bytes) -> Announced | None:
    found = _EPRT6.match(payload)
    if found is None:
        return None
    port, = _numbers([found[3]])
    try:
        address = int.from_bytes(socket.inet_pton(AF_INET6, found[2].decode()), "big")
    except OSError:
        return None
    return Announced(address, port) if 0 < port <= LARGEST else None


def announces_passive(payload: bytes, mode: str, server: int) -> Announced | None:
    """Return where the *server* waits for a passive data connection, and where its reply says so."""
    if mode == PASV and (found := _REPLY_227.match(payload)):
        where = _address_and_port(_numbers(found.groups()))
        return where and where._replace(start=found.start(1), end=found.end(6))
    if mode == EPSV and (found := _REPLY_229.match(payload)):
        port, = _numbers([found[2]])
        return Announced(server, port, found.start(1), found.end()) if 0 < port <= LARGEST else None
    return None


def words_for(mode: str, address: int, port: int) -> bytes:
    """Return what the reply is to say instead."""
    if mode == EPSV:
        return b"|||%d|" % port
    return ",".join(map(str, [*address.to_bytes(4, "big"), port >> 8, port & 0xFF])).encode()


def _numbers(digits) -> list[int]:
    """Return what strings of digits mean: none is 0, and too many are more than anything allows."""
    return [int(text or b"0") if len(text) < 10 else LARGEST << 16 for text in digits]


def _address_and_port(numbers: list[int]) -> Announced | None:
    if any(number > 255 for number in numbers):
        return None
    return Announced(int.from_bytes(bytes(numbers[:4]), "big"), numbers[4] << 8 | numbers[5])


class Answer(NamedTuple):
    """What was written into the last reply, the segment at *sequence*: *words* in place of *said*."""

    sequence: int
    at: int                 # in the payload
    said: bytes
    words: bytes

    def is_in(self, sequence: int, payload: bytes) -> bool:
        """Return True when a segment is the reply that the server sends again."""
        return sequence == self.sequence and payload[self.at:self.at + len(self.said)] == self.said


class SequenceShift:
    """By how much the server's sequence numbers differ from those the client sees: *before* and *after* a position.

    Two numbers are enough as long as what was sent before the last but one change is acknowledged, which
    it is: an FTP client asks again only when it has the answer.
    """

    def __init__(self):
        self.position = 0
        self.before = 0
        self.after = 0

    def is_needed(self) -> bool:
        """Return True once anything was shifted."""
        return self.before != 0 or self.after != 0

    def add(self, sequence: int, difference: int) -> None:
        """Note that the segment at *sequence* has become longer by *difference*; sent again it counts once."""
        if difference and (self.before == self.after or _is_after(sequence, self.position)):
            self.position = sequence
            self.before = self.after
            self.after += difference

    def for_client(self, sequence: int) -> int:
        """Return the number that the client knows the server's *sequence* by."""
        return sequence + (self.after if _is_after(sequence, self.position) else self.before) & pkt.ALL_ONES

    def for_server(self, acknowledged: int) -> int:
        """Return what the server calls what the client has *acknowledged*."""
        moved = _is_after(acknowledged - self.before & pkt.ALL_ONES, self.position)
        return acknowledged - (self.after if moved else self.before) & pkt.ALL_ONES


class Control:
    """One FTP control connection; the packets it is shown are whole, and their checksums become right."""

    def __init__(self):
        self.mode = None            # the reply we wait for
        self.shift = SequenceShift()
        self.answer: Answer | None = None

    def from_client(self, packet: bytearray, established: bool) -> Announced | None:
        """Read, and renumber, a client's segment; return where it waits for the server's data connection."""
        header, start = _starts(packet)
        if self.shift.is_needed():
            _renumber_acknowledged(packet, header, start, self.shift)
        if not established:
            return None
        payload, family = bytes(packet[start:]), AF_INET6 if packet[0] >> 4 == 6 else AF_INET
        if mode := asks_passive(payload, family):
            self.mode = mode
            return None
        announced = announces_active(payload, family)
        if announced is not None:
            self.mode = None
        return announced

    def from_server(self, packet: bytearray, established: bool, server: int) -> Announced | None:
        """Return where the *server* says it waits for the client's data connection, if this segment says so."""
        if not established or self.mode is None:
            return None
        header, start = _starts(packet)
        payload = bytes(packet[start:])
        if self.answer is not None and self.answer.is_in(pkt.get32(packet, header + pkt.TCP_SEQUENCE), payload):
            return None                 # it announced the connection before this one
        return announces_passive(payload, self.mode, server)

    def answer_client(self, packet: bytearray, announced: Announced | None, address: int, port: int) -> None:
        """Write the data connection's *address* and *port* into the reply, if it is one, and renumber the segment."""
        header, start = _starts(packet)
        sequence = pkt.get32(packet, header + pkt.TCP_SEQUENCE)
        answer = None
        if announced is not None:
            said = bytes(packet[start + announced.start:start + announced.end])
            answer = Answer(sequence, announced.start, said, words_for(self.mode, address, port))
        elif self.answer is not None and self.answer.is_in(sequence, bytes(packet[start:])):
            answer = self.answer
        if answer is not None:
            replace_payload(packet, start + answer.at, start + answer.at + len(answer.said), answer.words)
        if announced is not None:
            self.shift.add(sequence, len(answer.words) - len(answer.said))
            self.mode, self.answer = None, answer
        if self.shift.is_needed():
            pkt.put32(packet, header + pkt.TCP_SEQUENCE, self.shift.for_client(sequence))
        if answer is not None or self.shift.is_needed():
            _write_checksum(packet, header)


def replace_payload(packet: bytearray, start: int, end: int, words: bytes) -> None:
    """Write *words* in place of the bytes in [*start*, *end*) of a TCP packet; length and checksums become right."""
    if len(packet) + len(words) - (end - start) > MOST_BYTES:
        raise ValueError(f"a packet of {len(packet)} bytes has no room for {words!r}")
    header, _ = _starts(packet)
    packet[start:end] = words
    if packet[0] >> 4 == 6:
        pkt.put16(packet, pkt.IP6_LENGTH, len(packet) - pkt.IP6_HEADER)
    else:
        pkt.put16(packet, pkt.IP_LENGTH, len(packet))
        pkt.put16(packet, pkt.IP_CHECKSUM, pkt.header_checksum(packet, header))
    _write_checksum(packet, header)


def _starts(packet: bytearray) -> tuple[int, int]:
    """Return where the TCP header and the payload begin."""
    if packet[0] >> 4 == 6:
        header = pkt.find_transport(packet, 0, len(packet)) >> pkt.START_SHIFT
    else:
        header = (packet[0] & 15) * 4
    return header, min(header + max((packet[header + pkt.TCP_OFFSET] >> 4) * 4, 20), len(packet))


def _renumber_acknowledged(packet: bytearray, header: int, start: int, shift: SequenceShift) -> None:
    """Write what the server calls what a client's segment acknowledges, in the header and in SACK options."""
    if packet[header + pkt.TCP_FLAGS] & ACK:
        at = header + pkt.TCP_ACKNOWLEDGED
        pkt.put32(packet, at, shift.for_server(pkt.get32(packet, at)))
    at = header + 20
    while at + 1 < start and packet[at] != END:
        if packet[at] == NO_OPERATION:
            at += 1
            continue
        size = packet[at + 1]
        if size < 2 or at + size > start:
            break
        if packet[at] == SACK:
            for edge in range(at + 2, at + size - 3, 4):
                pkt.put32(packet, edge, shift.for_server(pkt.get32(packet, edge)))
        at += size
    _write_checksum(packet, header)


def _write_checksum(packet: bytearray, header: int) -> None:
    field = header + pkt.TCP_CHECKSUM
    pkt.put16(packet, field, pkt.transport_checksum(packet, pkt.TCP, header, len(packet), field))


def _is_after(one: int, other: int) -> bool:
    """Return True when sequence number *one* lies after *other*; they go round."""
    return 0 < (one - other & pkt.ALL_ONES) < 1 << 31
