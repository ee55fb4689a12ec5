"""The address families whose packets are fuzzed (``family.py``), and those that a case is about: one, or both.

A packet is read as what it says it is: a few flipped bits make one of the other family out of it.
"""
from __future__ import annotations

import random

from tests.fuzz.family import Family
from tests.fuzz.ipv4 import IPv4
from tests.fuzz.ipv6 import HEADER as HEADER6
from tests.fuzz.ipv6 import IPv6
from tests.helpers.story import Step

IPV4, IPV6 = IPv4(), IPv6()
IPV4.other, IPV6.other = IPV6, IPV4
DEEPEST = 4             # packets in packets whose fields are known


class Corpus:
    """What happens in a case: *families* share one director."""

    def __init__(self, *families: Family):
        self.families = families

    def world(self, choose: random.Random) -> list[Step]:
        """Return the commands that configure the director."""
        return [step for family in self.families for step in family.world(choose)]

    def command(self, choose: random.Random) -> Step:
        """Return a command that changes it."""
        return choose.choice(self.families).command(choose)

    def packet(self, choose: random.Random, live: list) -> tuple[bytes, bool]:
        """Return a valid packet, mostly about one of the connections in *live*, and whether it goes to a client."""
        return choose.choice(self.families).packet(choose, live)


CORPORA = (Corpus(IPV4), Corpus(IPV6), Corpus(IPV4, IPV6))


def of_case(seed: int) -> Corpus:
    """Return what case *seed* is about; the story with that number (``tests/helpers/story.py``) is about the same."""
    return CORPORA[seed // 3 % len(CORPORA)]


def of_packet(packet: bytes, at: int = 0) -> Family:
    """Return the family whose packet begins at *at*; what is no IPv6 packet is IPv4's to refuse."""
    return IPV6 if len(packet) >= at + HEADER6 and packet[at] >> 4 == 6 else IPV4


def fields(packet: bytes) -> list[tuple[int, int]]:
    """Return (offset, size) of the numbers in *packet* and in those that it holds."""
    found, at = [], 0
    for _ in range(DEEPEST):
        here, at = of_packet(packet, at).fields(packet, at)
        found += here
        if at is None or at >= len(packet):
            break
    return [(offset, size) for offset, size in found if offset + size <= len(packet)]
