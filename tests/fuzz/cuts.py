"""What cuts, wraps and unwraps packets, called directly: any lengths and rooms, in buffers that end where they say.

The engines call these with lengths that they have checked; here the numbers are as bad as a caller could make them
within what each promises to check itself.  What was cut can be put together again; what was wrapped, unwrapped.
"""
from __future__ import annotations

import ctypes
import random
from collections import Counter
from contextlib import contextmanager

from lbq import decap
from lbq.director import Director
from lbq.modes import pieces, tun
from lbq.protocols import icmp, sctp
from tests.fuzz import mutate, packets
from tests.fuzz.families import FAMILIES
from tests.helpers.packets import address
from tests.helpers.story import Teller

PACKETS = 150
MOST = 128
VIP = address("192.168.10.1")
SANITIZER = ctypes.CDLL(None)


def play(seed: int, counted: Counter, tell=lambda packet: None) -> None:
    """Play case *seed*; *tell* is called with each packet."""
    choose = random.Random(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    live = known_connections(choose, family)
    last = b""
    for _ in range(PACKETS):
        valid, _ = family.packet(choose, live)
        packet = mutate.packet(choose, family, valid, last) if choose.random() < 0.6 else valid
        last = valid
        tell(packet)
        with exactly(packet) as content:
            cut(choose, pieces.fragment, content, choose.choice((68, 69, 576, 1500, choose.randrange(70000))))
            cut(choose, pieces.segment, content, choose.choice((1, 8, 536, 1460, len(packet), 70000)))
            wrapped(choose, packet, content)
            at = icmp.quoted(content, len(packet))
            assert at == 0 or 28 <= at <= len(packet) - 20
            if len(packet) >= 20:
                answer = bytearray(icmp.MAX_BYTES)
                with exactly(answer) as room:
                    assert 28 <= icmp.error(3, 4, 1400, content, len(packet), room) <= icmp.MAX_BYTES
                assert -1 <= sctp.event(content, choose.choice((0, 8, 20, len(packet))), len(packet)) <= 9
        received = packet[:choose.randrange(len(packet) + 1)] if choose.random() < 0.2 else packet
        for kind in ("ipip", "gre", "gue"):
            inner = decap.read_inner(received, kind)
            assert received.endswith(inner)
            assert decap.why_not(inner, {VIP}) or (inner[0] >> 4, inner[16:20]) == (4, VIP.to_bytes(4))
        counted["packets cut"] += 1


def known_connections(choose: random.Random, family) -> list:
    """Return some connections of a director, for packets to be about."""
    teller = Teller(Director())
    for step in family.world(choose):
        teller.tell(step)
    for _ in range(30):
        teller.tell(packets.queued(choose, *family.packet(choose, [])))
    return packets.some_connections(choose, teller.engine)


def cut(choose: random.Random, how, content: bytearray, most: int) -> None:
    """Cut *content* into pieces of *most* bytes, some rooms being too small; the pieces say their own lengths."""
    length = len(content)
    room = choose.choice((3 * 65536, 3 * 65536, choose.randrange(2 * length + 1)))
    with exactly(bytearray(room)) as out:
        count = how(content, length, most, out, room, choose.choice((MOST, MOST, 1, 0)))
        at = 0
        for _ in range(count):
            size = int.from_bytes(out[at + 2:at + 4], "big")
            assert size >= 20 and at + size <= room
            at += size
        assert 0 <= count <= MOST


def wrapped(choose: random.Random, packet: bytes, content: bytearray) -> None:
    """Wrap a packet, and find it again."""
    kind, flags = choose.randrange(3), choose.randrange(3)
    if len(packet) < 20 or packet[0] >> 4 != 4 or not 20 <= (packet[0] & 15) * 4 <= len(packet) or len(packet) > 65000:
        return
    with exactly(bytearray(tun.overhead(kind, flags))) as head:
        tun.wrap(content, len(packet), head, 1, 2, kind, 6080, flags, True, 7, choose.getrandbits(32))
        whole = bytes(head) + packet
    at = tun.inner_of(bytearray(whole), len(whole))
    assert at == len(whole) - len(packet)


@contextmanager
def exactly(data: bytes):
    """Give *data* as a bytearray of which the sanitizer knows that it ends where it ends: Python adds a zero byte."""
    buffer = bytearray(data)
    end = ctypes.c_char.from_buffer(buffer) if buffer else None
    if end is None:
        yield buffer
        return
    place = ctypes.c_void_p(ctypes.addressof(end) + len(buffer))
    SANITIZER.__asan_poison_memory_region(place, ctypes.c_size_t(1))
    try:
        yield buffer
    finally:
        SANITIZER.__asan_unpoison_memory_region(place, ctypes.c_size_t(1))
        del end
