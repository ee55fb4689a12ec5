"""A packet as someone describes it: the bytes of a TCP, UDP or SCTP packet between two endpoints."""
from __future__ import annotations

import struct

from lbq import packet as pkt
from lbq.errors import ConfigError
from lbq.model import AF_INET6, SCTP, TCP, UDP, packed
from lbq.protocols import tcp

FLAGS = {"S": tcp.SYN, "A": tcp.ACK, "F": tcp.FIN, "R": tcp.RST, "P": 0x08, "U": 0x20}
CHUNKS = {"I": 1, "D": 0, "A": 6, "F": 7}       # SCTP: INIT, DATA, ABORT, SHUTDOWN
HOPS = 64


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
