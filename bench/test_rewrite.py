"""How long does NAT take for one packet?  Microseconds of a round are nanoseconds a packet."""
from __future__ import annotations

import pytest

from lbq import packet as pkt

SHAPES = {
    "64 B, RFC 1624": (64, 0),
    "1500 B, summed in full": (1500, pkt.CHECKSUM_NOT_READY),
    "64 KiB, to be segmented": (65212, pkt.CHECKSUM_NOT_READY | pkt.SEGMENTED_LATER),
}


def segment(length: int) -> bytearray:
    """Return a TCP segment of *length* bytes with its IP header."""
    packet = bytearray(length)
    packet[0], packet[8], packet[9], packet[32], packet[33] = 0x45, 64, 6, 0x50, 0x10
    packet[2:4] = length.to_bytes(2, "big")
    packet[12:24] = bytes([10, 0, 0, 1, 10, 0, 1, 1, 0x9C, 0x40, 0, 80])
    packet[10:12] = pkt.header_checksum(packet, 20).to_bytes(2, "big")
    return packet


@pytest.mark.parametrize("shape", SHAPES)
def test_rewrite(benchmark, loops, shape):
    length, form = SHAPES[shape]
    packet = segment(length)

    benchmark(loops.rewrite, packet, length, form)

    assert packet[16:20] == bytes([10, 0, 2, 1])
    assert pkt.header_checksum(packet, 20) == int.from_bytes(packet[10:12], "big")


def test_next_tcp_state(benchmark, loops):
    state = benchmark(loops.follow, 0x10)

    assert state == 1       # ESTABLISHED
