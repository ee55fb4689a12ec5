"""Any message on the queue's socket: read as the kernel's rules say, and its packet judged as the readable engine does.

One case is a director with services of every kind and batches of messages, most of them valid ones of which something
was changed: lengths that lie, attributes twice, in another order, of other kinds, cut.  ``read`` here is written from
include/uapi/linux/netfilter/nfnetlink_queue.h and net/netlink/attr.h, independently of ``_nfqueue.pxd``.
"""
from __future__ import annotations

import random
import struct
import time
from collections import Counter
from typing import NamedTuple

from lbq._fastpath import FastDirector
from lbq.director import Director
from lbq.netlink import KNOCK
from tests.fuzz import families, mutate, packets
from tests.fuzz.judge import adds_up
from tests.helpers import netlink
from tests.helpers.batches import Kernel
from tests.helpers.story import Teller

BATCHES = 25
MOST_SECONDS = 2            # of a case: until the first timer is over, which only one of the two engines would see
MOST_MESSAGES = 64
BATCH_BYTES = 100_000       # what the socket pair takes at once
MESSAGE_ROOM = 65536 + 4096 + 192
VERDICT_ROOM = 32           # what must lie before a payload, so that its verdict can be written there
HEADER = 20                 # nlmsghdr, nfgenmsg
NESTED, NET_BYTEORDER = 0x8000, 0x4000
KINDS = (netlink.PACKET_HDR, netlink.MARK, netlink.INDEV, netlink.OUTDEV, netlink.HWADDR, netlink.PAYLOAD,
         netlink.CAP_LEN, netlink.SKB_INFO, 0, 4, 11, 12, 15, 20, 0x3FFF)


class Queued(NamedTuple):
    """What a message says of its packet; *content* is None when it holds none."""

    packet_id: int = 0
    hook: int = 0
    form: int = 0
    out_device: int = 0
    truncated: bool = False
    mark: int = 0
    content: bytes | None = None


def play(seed: int, counted: Counter, tell=None) -> None:
    """Play case *seed*; *tell* is called with each message before it is sent."""
    choose = random.Random(seed)
    corpus = families.of_case(seed)
    fast, reference = (Teller(engine(max_connections=500)) for engine in (FastDirector, Director))
    kernel, begin = Kernel(fast.engine), time.monotonic()
    try:
        for teller in (fast, reference):
            teller.engine.limit_icmp(False)         # the limits look at the clock, and each has its own
        for step in corpus.world(choose):
            assert fast.tell(step) == reference.tell(step)
        for _ in range(BATCHES):
            if time.monotonic() - begin > MOST_SECONDS:
                break
            messages = batch(choose, corpus, reference.engine)
            if tell:
                for message in messages:
                    tell(message)
            exchange(kernel, reference.engine, messages)
            counted["messages"] += len(messages)
            step = corpus.command(choose)
            if choose.random() < 0.3 and "expire_nodest_conn" not in step.arguments:    # its scan runs in the loop only
                assert fast.tell(step) == reference.tell(step)
        assert fast.state()["services"] == reference.state()["services"]
        adds_up(fast.engine)
    finally:
        kernel.close()


def exchange(kernel: Kernel, reference: Director, messages: list[bytes]) -> None:
    """Let both engines judge *messages*, and compare the verdicts."""
    errors = kernel.director.statistics()["verdict_errors"]
    expected, no_packets = [], 0
    for message in messages:
        queued = read(message[:MESSAGE_ROOM])
        if queued is None:
            no_packets += not is_knock(message)
            continue
        packet = bytearray(queued.content or b"")
        verdict = reference.handle(packet, queued.hook, queued.form, queued.out_device, time.monotonic_ns(),
                                   queued.truncated, queued.mark)
        queue = struct.unpack_from("!H", message, 18)[0]        # where the packet waits, as the message says
        expected.append(netlink.Verdict(queue, queued.packet_id, verdict.action,
                                        bytes(packet) if verdict.changed else None,
                                        0 if verdict.unmarked else None))
    seen = kernel.exchange(messages)
    for number, (fast, wanted) in enumerate(zip(seen, expected, strict=True)):
        assert fast == wanted, (number, fast, wanted)
    assert kernel.director.statistics()["verdict_errors"] == errors + no_packets


def is_knock(message: bytes) -> bool:
    """Return True for what asks a director to see whether anybody wants something."""
    return len(message) >= len(KNOCK) and message[4:6] == KNOCK[4:6]


def read(message: bytes) -> Queued | None:
    """Return what *message* says, None when it is no packet's; what follows an attribute that lies is not read."""
    if len(message) < HEADER or struct.unpack_from("=H", message, 4)[0] != netlink.PACKET:
        return None
    found, at = Queued(), HEADER
    while at + 4 <= len(message):
        size, kind = struct.unpack_from("=HH", message, at)
        if size < 4 or at + size > len(message):
            break
        found = _with(found, kind & ~(NESTED | NET_BYTEORDER), message[at + 4:at + size], at)
        at += size + 3 & ~3
    return found


def _with(found: Queued, kind: int, value: bytes, at: int) -> Queued:
    """Return *found* with what the attribute of *kind* at *at* says; one that is too short says nothing."""
    if kind == netlink.PAYLOAD and at >= VERDICT_ROOM:
        return found._replace(content=value)
    if kind == netlink.PACKET_HDR and len(value) >= 7:
        packet_id, _, hook = struct.unpack_from("!IHB", value)
        return found._replace(packet_id=packet_id, hook=hook)
    if kind == netlink.CAP_LEN:
        return found._replace(truncated=True)
    if len(value) < 4 or kind not in (netlink.OUTDEV, netlink.MARK, netlink.SKB_INFO):
        return found
    if kind == netlink.MARK:
        return found._replace(mark=struct.unpack_from("!I", value)[0])
    number, = struct.unpack_from("!i", value)
    return found._replace(out_device=number) if kind == netlink.OUTDEV else found._replace(form=number)


def batch(choose: random.Random, corpus: families.Corpus, reference: Director) -> list[bytes]:
    """Return messages for one call, so few that a socket pair holds them."""
    live = packets.some_connections(choose, reference)
    messages: list[bytes] = []
    for _ in range(choose.choice((1, 2, 8, MOST_MESSAGES))):
        message = hostile(choose, valid(choose, corpus, live)) if choose.random() < 0.5 else valid(choose, corpus, live)
        if sum(map(len, messages)) + len(message) < BATCH_BYTES and message:
            messages.append(message)
    return messages


def valid(choose: random.Random, corpus: families.Corpus, live: list) -> bytes:
    """Return a message as the kernel writes it, about a packet that may be hostile itself."""
    content, to_client = corpus.packet(choose, live)
    if choose.random() < 0.2:
        content = packets.hostile(choose, content, b"")
    _, (content, hook, form, out_device, truncated, mark) = packets.queued(choose, content, to_client)
    more = netlink.attribute(netlink.MARK, struct.pack("!I", mark)) if mark else b""
    if choose.random() < 0.1:
        more += netlink.attribute(choose.choice(KINDS), choose.randbytes(choose.randrange(12)))
    return netlink.packet_message(choose.getrandbits(32), content[:0xFFFF - 4], hook, form & 0xFFFFFFFF, out_device,
                                  truncated, more)


def hostile(choose: random.Random, message: bytes) -> bytes:
    """Return *message* with lengths that lie, attributes in other places, or cut."""
    data = bytearray(message)
    places = attributes(message)
    what = choose.random()
    if what < 0.4:
        at = choose.choice(places)
        size, kind = struct.unpack_from("=HH", data, at)
        size = choose.choice((size, size + choose.randrange(-9, 9), choose.choice(mutate.INTERESTING), len(data) - at))
        kind = choose.choice((kind, kind | NESTED, kind | NET_BYTEORDER, choose.choice(KINDS), choose.getrandbits(16)))
        struct.pack_into("=HH", data, at, size & 0xFFFF, kind)
    elif what < 0.6:
        parts = [message[at:end] for at, end in zip(places, [*places[1:], len(message)], strict=True)]
        choose.shuffle(parts)
        parts[choose.randrange(len(parts) + 1):0] = [choose.choice(parts)] * choose.randrange(3)
        data[HEADER:] = b"".join(parts)
    elif what < 0.7:
        data[choose.randrange(HEADER)] = choose.randrange(256)
    elif what < 0.75:
        data += bytes(MESSAGE_ROOM - len(data)) + choose.randbytes(choose.randrange(20))
    else:
        mutate.anything(choose, data, message)
    return bytes(data)


def attributes(message: bytes) -> list[int]:
    """Return where the attributes of a valid *message* begin."""
    places, at = [], HEADER
    while at < len(message):
        places.append(at)
        at += struct.unpack_from("=H", message, at)[0] + 3 & ~3
    return places
