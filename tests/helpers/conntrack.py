"""What conntrack tells, as the kernel writes it: events, and messages of a list; and what is asked of it, read.

Written from include/uapi/linux/netfilter/nfnetlink_conntrack.h, independently of ``_ctnetlink.pxd``.
"""
from __future__ import annotations

import ipaddress
import struct

from tests.helpers.netlink import attribute
from tests.helpers.packets import endpoint

NEW, DELETE = 0x100, 0x102
DONE = 3
TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO, TIMEOUT, COUNTERS_ORIG, COUNTERS_REPLY, ID = 1, 2, 3, 4, 7, 9, 10, 12
NESTED = 0x8000
SEEN_REPLY, CONFIRMED, DST_NAT = 2, 8, 32
SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE = range(1, 9)
CLOSE_INIT = 4
PROTOCOLS = {"tcp": 6, "udp": 17}


def told(client: str, service: str, server: str, *, kind: int = NEW, number: int = 7,
         status: int = CONFIRMED | DST_NAT, state: int | None = None, flags: int = 0, timeout: int | None = None,
         counters: tuple[int, int, int, int] | None = None, sequence: int = 0) -> bytes:
    """Return a message about the connection of *client* to *service* (``tcp:VIP:port``) that *server* answers.

    *counters* are packets and bytes of the client, then of the server.
    """
    protocol, _, vip = service.partition(":")
    parts = [tuple_of(TUPLE_ORIG, PROTOCOLS[protocol], client, vip),
             tuple_of(TUPLE_REPLY, PROTOCOLS[protocol], server, client),
             attribute(ID, struct.pack("!I", number)), attribute(STATUS, struct.pack("!I", status))]
    if timeout is not None:
        parts.append(attribute(TIMEOUT, struct.pack("!I", timeout)))
    if state is not None:
        tcp = attribute(1, bytes([state])) + attribute(4, struct.pack("BB", flags, 0)) + attribute(5, bytes(2))
        parts.append(attribute(PROTOINFO | NESTED, attribute(1 | NESTED, tcp)))
    if counters is not None:
        for place, (packets, size) in ((COUNTERS_ORIG, counters[:2]), (COUNTERS_REPLY, counters[2:])):
            parts.append(attribute(place | NESTED, attribute(1, struct.pack("!Q", packets))
                                   + attribute(2, struct.pack("!Q", size))))
    family = 10 if vip.startswith("[") else 2
    body = struct.pack("=BBH", family, 0, 0) + b"".join(parts)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def done(sequence: int = 0) -> bytes:
    """Return what ends a list."""
    return struct.pack("=IHHIIi", 20, DONE, 2, sequence, 0, 0)


def tuple_of(place: int, protocol: int, source: str, destination: str) -> bytes:
    """Return one of the two tuples of a connection."""
    (saddr, sport), (daddr, dport) = endpoint(source), endpoint(destination)
    six = source.startswith("[")
    kinds, length = ((3, 4), 16) if six else ((1, 2), 4)
    addresses = b"".join(attribute(kind, address.to_bytes(length, "big"))
                         for kind, address in zip(kinds, (saddr, daddr), strict=True))
    ports = attribute(1, bytes([protocol])) + b"".join(
        attribute(kind, struct.pack("!H", port)) for kind, port in ((2, sport), (3, dport)))
    return attribute(place | NESTED, attribute(1 | NESTED, addresses) + attribute(2 | NESTED, ports))


def read_delete(message: bytes) -> tuple[str, str, int]:
    """Return client, VIP and number of the connection that *message* asks to forget."""
    length, kind, flags = struct.unpack_from("=IHH", message)
    assert (length, kind, flags) == (len(message), DELETE, 1), message.hex()
    found = parts(message[20:])
    whole = parts(found[TUPLE_ORIG])
    ends = [*parts(whole[1]).values()]
    _, sport, dport = parts(whole[2]).values()
    client, vip = (_endpoint(address, port) for address, port in zip(ends, (sport, dport), strict=True))
    return client, vip, int.from_bytes(found.get(ID, b""), "big")


def parts(data: bytes) -> dict[int, bytes]:
    """Return the attributes in *data* by kind."""
    found, at = {}, 0
    while at < len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        found[kind & ~NESTED] = data[at + 4:at + size]
        at += size + 3 & ~3
    return found


def _endpoint(octets: bytes, port: bytes) -> str:
    address = ipaddress.ip_address(octets)
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{host}:{int.from_bytes(port, 'big')}"
