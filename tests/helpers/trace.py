"""Prints what lbq does with seeded input, one short line a step, to be compared with another build's.

    python -m tests.helpers.trace FIRST COUNT      stories FIRST .. FIRST + COUNT - 1
"""
from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import lbq.packet as pkt
from lbq.director import Director
from lbq.modes import nat
from lbq.protocols import tcp
from tests.helpers.story import Teller, digest, story

STORY_STEPS = 400


def is_compiled() -> bool:
    """Return True when lbq's algorithms run as machine code."""
    return not pkt.__file__.endswith(".py")


def lines(first: int, count: int) -> Iterator[str]:
    """Yield a line for each number with a name, each step of the stories, and calls with arguments no story has."""
    yield from _numbers()
    for seed in range(first, first + count):
        yield from _story_lines(seed)
        yield from _arithmetic_lines(seed)


def _numbers() -> Iterator[str]:
    for name, value in sorted(vars(pkt).items()):
        if name.isupper() and isinstance(value, int):
            yield f"number packet.{name} {value}"


def _story_lines(seed: int) -> Iterator[str]:
    teller = Teller(Director(max_connections=(3, 8, 1000)[seed % 3], profile=("new", "classic")[seed % 2]))
    for number, step in enumerate(story(seed, STORY_STEPS)):
        yield f"story {seed}.{number} {step.kind} {digest(teller.tell(step))}"
        if number % 20 == 19:
            yield f"story {seed}.{number} state {digest((teller.state(), teller.engine.statistics()))}"


def _arithmetic_lines(seed: int) -> Iterator[str]:
    choose = random.Random(seed)
    for number in range(50):
        packet = bytearray(choose.randbytes(choose.randrange(120, 1600)))
        packet[0] = 0x45 + choose.randrange(11)
        packet[9] = choose.choice((6, 17))
        end = choose.randrange(100, len(packet) + 1)
        results = [pkt.word_sum(packet, number, end), pkt.header_checksum(packet, (packet[0] & 15) * 4),
                   pkt.adjust(*(choose.getrandbits(16) for _ in range(3))),
                   pkt.change32(choose.getrandbits(32), choose.getrandbits(32)),
                   [tcp.next_state(choose.randrange(3), flags, choose.randrange(11)) for flags in range(256)]]
        nat.rewrite(packet, end, 16, choose.getrandbits(32), 2, choose.getrandbits(16), choose.randrange(8),
                    choose.random() < 0.5)
        yield f"arithmetic {seed}.{number} {digest((results, packet))}"


if __name__ == "__main__":
    print("compiled" if is_compiled() else "interpreted")
    for line in lines(int(sys.argv[1]), int(sys.argv[2])):
        print(line)
