"""The packet that is to be explained: as someone describes it, a TCP, UDP or SCTP packet, or out of a capture."""
from __future__ import annotations

import struct

from lbq import packet as pkt
from lbq.errors import ConfigError
from lbq.model import AF_INET6, SCTP, TCP, UDP, packed
from lbq.parsing import Parsed, parse
from lbq.protocols import tcp
from lbq.replay.capture import LINKS, Damaged, Pieces, Record, is_capture, records, unread_link

FLAGS = {"S": tcp.SYN, "A": tcp.ACK, "F": tcp.FIN, "R": tcp.RST, "P": 0x08, "U": 0x20}
CHUNKS = {"I": 1, "D": 0, "A": 6, "F": 7}       # SCTP: INIT, DATA, ABORT, SHUTDOWN
HOPS = 64
NEEDED = {TCP: 20, UDP: 8, SCTP: 16}            # bytes of a transport's header that decisions and checksums go by


def build(protocol: int, source: tuple[int, int], destination: tuple[int, int], family: int, flags: str = "S",
          payload: int = 0) -> bytearray:
    """Return a packet from *source* to *destination*, (address, port) each, with right checksums.

    *flags* are letters out of SAFRPU for TCP, and for SCTP the type of the first chunk: I or S (INIT), D (DATA),
    A (ABORT), F (SHUTDOWN).
    """
    content = bytes(payload)
    if protocol == TCP:
        body = struct.pack("!HHIIBBHHH", source[1], destination[1], 1, 1 if "A" in flags else 0, 5 << 4,
                           _bits(flags), 64240, 0, 0) + content
    elif protocol == UDP:
        body = struct.pack("!HHHH", source[1], destination[1], 8 + payload, 0) + content
    else:
        body = struct.pack("!HHIIBBH", source[1], destination[1], 1, 0, _chunk(flags), 0, 4 + payload) + content
        body += bytes(-len(body) % 4)
    addresses = packed(source[0], family) + packed(destination[0], family)
    if family == AF_INET6:
        head = struct.pack("!IHBB", 6 << 28, len(body), protocol, HOPS) + addresses
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, HOPS, protocol, 0) + addresses
    packet = bytearray(head + body)
    if len(packet) > 65535:
        raise ConfigError(f"a packet has at most 65,535 bytes; {payload} bytes of payload are too many")
    if family != AF_INET6:
        pkt.put16(packet, pkt.IP_CHECKSUM, pkt.header_checksum(packet, len(head)))
    if protocol == SCTP:
        pkt.put_crc32c(packet, len(head), len(packet))
    else:
        at = len(head) + (pkt.TCP_CHECKSUM if protocol == TCP else pkt.UDP_CHECKSUM)
        pkt.put16(packet, at, pkt.transport_checksum(packet, protocol, len(head), len(packet), at))
    return packet


def _bits(flags: str) -> int:
    unknown = set(flags.upper()) - set(FLAGS)
    if unknown:
        raise ConfigError(f"'{flags}' are no TCP flags; write letters out of {''.join(FLAGS)}, such as SA")
    return sum(FLAGS[letter] for letter in set(flags.upper()))


def _chunk(flags: str) -> int:
    if flags.upper() == "S":
        return CHUNKS["I"]              # what opens, as with TCP
    if flags.upper() not in CHUNKS:
        raise ConfigError(f"'{flags}' is no SCTP chunk; write one of {' '.join(CHUNKS)}")
    return CHUNKS[flags.upper()]


def from_capture(path: str, number: int | None) -> bytearray:
    """Return packet *number* of a capture, counted from 1 as Wireshark does; None: the first that can be explained.

    What the capture has not kept behind its headers is zeros: nothing depends on that but a checksum that is made anew.
    """
    nothing = (f"no packet in {path} is TCP, UDP or SCTP over IP, with its header" if number is None else
               f"{path} has no packet {number}")
    try:
        with open(path, "rb") as file:
            if not is_capture(file.peek(4)[:4]):
                raise ConfigError(f"{path} is no capture; pcap and pcapng are read, such as tcpdump -w writes")
            for at, record in enumerate(records(Pieces(file, path)), 1):
                if number not in (None, at):
                    continue
                if record[1] not in LINKS:
                    nothing = unread_link(path, record[1])
                    continue
                packet, kept = _packet(record)
                if at == number and not packet:
                    raise ConfigError(f"packet {number} of {path} is no IP packet")
                parsed = parse(packet)
                if isinstance(parsed, Parsed) and kept < min(parsed.header + NEEDED[parsed.protocol], parsed.length):
                    if number is None:
                        continue
                    raise ConfigError(f"of packet {number} of {path} only {kept} bytes were captured, too few to say "
                                      "what becomes of it; capture more of each, tcpdump -s 128")
                if at == number or isinstance(parsed, Parsed):
                    return packet
    except Damaged as damage:
        raise ConfigError(str(damage).partition("; --partial")[0]) from damage     # which is for replay
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    raise ConfigError(nothing)


def _packet(record: Record) -> tuple[bytearray, int]:
    """Return the IP packet of a captured frame, as long as its header says, and how many bytes are from the capture.

    It is empty when there is none.
    """
    _, link, data, at, end, _ = record
    start = LINKS[link](data, at, end)
    packet = bytearray(data[start:end] if 0 <= start < end else b"")
    length = pkt.whole_length(packet) if len(packet) >= (pkt.IP6_HEADER if packet[:1] >= b"\x60" else 20) else 0
    return packet[:length] + bytes(max(length - len(packet), 0)), len(packet)
