"""nfnetlink_queue messages as the kernel writes them, and verdicts as it reads them, for tests.

Written from include/uapi/linux/netfilter/nfnetlink_queue.h, independently of ``_nfqueue.pxd``.
"""
from __future__ import annotations

import struct
from typing import NamedTuple

PACKET, VERDICT = 3 << 8 | 0, 3 << 8 | 1
QUEUE = 7           # what the tests' directors are attached to
PACKET_HDR, VERDICT_HDR, MARK, INDEV, OUTDEV, HWADDR, PAYLOAD, CAP_LEN, SKB_INFO = 1, 2, 3, 5, 6, 9, 10, 13, 14


class Verdict(NamedTuple):
    """What one verdict message says.

    *payload* is None when the packet is not returned, *mark* when the firewall mark stays as it is.
    """

    queue: int
    packet_id: int
    action: int
    payload: bytes | None
    mark: int | None = None


def attribute(kind: int, value: bytes) -> bytes:
    """Return one netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def packet_message(packet_id: int, content: bytes, hook: int, form: int, out_device: int, truncated: bool,
                   more: bytes = b"") -> bytes:
    """Return the message of one queued packet; *more* are attributes of no interest before the last one."""
    body = attribute(PACKET_HDR, struct.pack("!IHB", packet_id, 0x0800, hook)) + more
    if out_device:
        body += attribute(OUTDEV, struct.pack("!I", out_device))
    if truncated:
        body += attribute(CAP_LEN, struct.pack("!I", len(content) + 1000))
    if form:
        body += attribute(SKB_INFO, struct.pack("!I", form))
    return message(body + attribute(PAYLOAD, content))


def message(attributes: bytes, queue: int = QUEUE) -> bytes:
    """Return the message of a queued packet of which *attributes* say everything."""
    body = struct.pack("!BBH", 2, 0, queue) + attributes
    return struct.pack("=IHHII", 16 + len(body), PACKET, 0, 0, 0) + body


def verdicts(datagram: bytes) -> list[Verdict]:
    """Return what the messages in *datagram* say; every length and padding is checked on the way."""
    found, at = [], 0
    while at < len(datagram):
        length, kind, flags, _, _ = struct.unpack_from("=IHHII", datagram, at)
        assert kind == VERDICT
        assert flags == 1, "NLM_F_REQUEST, or the kernel passes the message over"
        assert length % 4 == 0
        queue = struct.unpack_from("!H", datagram, at + 18)[0]
        inside = dict(_attributes(datagram[at + 20:at + length]))
        action, packet_id = struct.unpack("!II", inside.pop(VERDICT_HDR))
        mark = int.from_bytes(inside.pop(MARK)) if MARK in inside else None
        found.append(Verdict(queue, packet_id, action, inside.pop(PAYLOAD, None), mark))
        assert inside == {}
        at += length
    assert at == len(datagram)
    return found


def _attributes(body: bytes):
    at = 0
    while at < len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        padded = length + 3 & ~3
        assert body[at + length:at + padded] == bytes(padded - length), "padding is zero"
        yield kind, body[at + 4:at + length]
        at += padded
    assert at == len(body)
