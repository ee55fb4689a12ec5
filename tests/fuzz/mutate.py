"""What is done to valid packets, messages and lines so that they become hostile."""
from __future__ import annotations

import random
from collections.abc import Sequence

from tests.fuzz import families

INTERESTING = (0, 1, 2, 3, 4, 6, 7, 8, 17, 19, 20, 21, 28, 39, 40, 41, 43, 44, 51, 58, 60, 127, 128, 132, 255, 256,
               0x1FFF, 0x2000, 0x4000, 0x7FFF, 0x8000, 0xFFFB, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def fields(choose: random.Random, data: bytearray, known: Sequence[tuple[int, int]]) -> None:
    """Write into one of the *known* fields a number on which somebody may trip."""
    if not known:
        return
    at, size = choose.choice(known)
    present = int.from_bytes(data[at:at + size], "big")
    value = choose.choice((choose.choice(INTERESTING), present + choose.choice((-8, -4, -1, 1, 4, 8)),
                           len(data) + choose.randrange(-9, 9), present ^ 1 << choose.randrange(8 * size),
                           choose.getrandbits(8 * size)))
    data[at:at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "big")


def anything(choose: random.Random, data: bytearray, other: bytes = b"") -> None:
    """Flip, cut, insert, double or cross *data* with *other*, anywhere."""
    at = choose.randrange(len(data) + 1)
    size = choose.choice((1, 2, 4, 8, 20, 60))
    what = choose.randrange(7)
    if what == 0 and at < len(data):
        data[at] ^= 1 << choose.randrange(8)
    elif what == 1 and at < len(data):
        data[at] = choose.choice(INTERESTING) & 0xFF
    elif what == 2:
        del data[at:]
    elif what == 3:
        del data[at:at + size]
    elif what == 4:
        data[at:at] = choose.randbytes(size)
    elif what == 5:
        data[at:at] = data[at:at + size]
    else:
        data[at:] = other[choose.randrange(len(other) + 1):]


def packet(choose: random.Random, valid: bytes, other: bytes) -> bytes:
    """Return *valid* after a few changes, most of them to fields, often with lengths and checksums made right."""
    data = bytearray(valid)
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        if choose.random() < 0.75:
            fields(choose, data, families.fields(data))
        else:
            anything(choose, data, other)
        if choose.random() < 0.5:
            families.of_packet(data).repair(data)
    return bytes(data[:0xFFFF])
