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
from lbq.model import AF_INET, AF_INET6
from lbq.modes import pieces, tun
from lbq.protocols import icmp, icmpv6, sctp
from tests.fuzz import families, mutate, packets
from tests.helpers.story import Teller

PACKETS = 150
MOST = 128
VIPS = {(families.IPV4.vip, AF_INET), (families.IPV6.vip, AF_INET6)}
SANITIZER = ctypes.CDLL(None)


def play(seed: int, counted: Counter, tell=lambda packet: None) -> None:
    """Play case *seed*; *tell* is called with each packet."""
    choose = random.Random(seed)
    corpus = families.of_case(seed)
    live = known_connections(choose, corpus)
    last = b""
    for _ in range(PACKETS):
        valid, _ = corpus.packet(choose, live)
        packet = mutate.packet(choose, valid, last) if choose.random() < 0.6 else valid
        last = valid
        tell(packet)
        with exactly(packet) as content:
            cut(choose, pieces.fragment, content, choose.choice((68, 69, 576, 1500, choose.randrange(70000))))
            cut(choose, pieces.fragment6, content, choose.choice((48, 56, 1280, 1500, choose.randrange(70000))), 7)
            cut(choose, pieces.segment, content, choose.choice((1, 8, 536, 1460, len(packet), 70000)))
            wrapped(choose, packet, content)
            answered(choose, packet, content)
        received = packet[:choose.randrange(len(packet) + 1)] if choose.random() < 0.2 else packet
        for kind in ("ipip", "gre", "gue"):
            for family in (AF_INET, AF_INET6):
                inner = decap.read_inner(received, kind, family)
                assert received.endswith(inner)
                why = decap.why_not(inner, VIPS)
                assert why or VIPS & {(int.from_bytes(inner[16:20]), AF_INET), (int.from_bytes(inner[24:40]), AF_INET6)}
        counted["packets cut"] += 1


def known_connections(choose: random.Random, corpus: families.Corpus) -> list:
    """Return some connections of a director, for packets to be about."""
    teller = Teller(Director())
    for step in corpus.world(choose):
        teller.tell(step)
    for _ in range(30):
        teller.tell(packets.queued(choose, *corpus.packet(choose, [])))
    return packets.some_connections(choose, teller.engine)


def cut(choose: random.Random, how, content: bytearray, most: int, *more: int) -> None:
    """Cut *content* into pieces of *most* bytes, some rooms being too small; the pieces say their own lengths."""
    length = len(content)
    room = choose.choice((3 * 65536, 3 * 65536, choose.randrange(2 * length + 1)))
    with exactly(bytearray(room)) as out:
        count = how(content, length, most, out, room, choose.choice((MOST, MOST, 1, 0)), *more)
        at = 0
        for _ in range(count):
            size = families.of_packet(out, at).length(out[at:at + 40])
            assert size >= 20 and at + size <= room
            at += size
        assert 0 <= count <= MOST


def wrapped(choose: random.Random, packet: bytes, content: bytearray) -> None:
    """Wrap a packet, and find it again."""
    kind, flags, in_ipv6 = choose.randrange(3), choose.randrange(3), choose.random() < 0.5
    if len(packet) < 20 or len(packet) > 65000 or not (
            len(packet) >= 40 if packet[0] >> 4 == 6
            else packet[0] >> 4 == 4 and 20 <= (packet[0] & 15) * 4 <= len(packet)):
        return
    with exactly(bytearray(tun.overhead(kind, flags, in_ipv6))) as head:
        if in_ipv6:
            tun.wrap6(content, len(packet), head, bytes(16), b"\xff" * 16, kind, 6080, flags, choose.getrandbits(32))
        else:
            tun.wrap(content, len(packet), head, 1, 2, kind, 6080, flags, True, 7, choose.getrandbits(32))
        whole = bytes(head) + packet
    outer = families.of_packet(whole)
    assert outer.length(whole) == len(whole) and outer.header_sum_is_right(whole)
    with exactly(whole[:choose.randrange(len(whole))]) as part:
        assert tun.inner_of(part, len(part)) in (-1, 0, len(whole) - len(packet))
    at = tun.inner_of(bytearray(whole), len(whole))
    assert at == len(whole) - len(packet)


def answered(choose: random.Random, packet: bytes, content: bytearray) -> None:
    """Look for what an ICMP error quotes, and answer with one."""
    length = len(packet)
    at, at6 = icmp.quoted(content, length), icmpv6.quoted(content, length)
    assert at == 0 or 28 <= at <= length - 20
    assert at6 == 0 or 48 <= at6 <= length - 40
    if at6:
        assert icmpv6.checksum_right(content, length) in (True, False)
        with exactly(packet) as quoting:
            (icmpv6.to_client if choose.random() < 0.5 else icmpv6.to_real_server)(quoting, length, bytes(16), 80)
            assert icmpv6.checksum_right(quoting, length)
    if length >= 20:
        with exactly(bytearray(icmp.MAX_BYTES)) as room:
            assert 28 <= icmp.error(3, 4, 1400, content, length, room) <= icmp.MAX_BYTES
        assert -1 <= sctp.event(content, choose.choice((0, 8, 20, length)), length) <= 9
    if length >= 40:
        with exactly(bytearray(icmpv6.MAX_BYTES)) as room:
            assert 48 <= icmpv6.error(2, 0, 1400, content, length, b"\x20" * 16, room) <= icmpv6.MAX_BYTES


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
