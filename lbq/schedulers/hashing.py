"""What the hashing schedulers share: Fibonacci hashing of addresses, as the kernel's hash_32() does it.

The multiplier is 2^32 divided by the golden ratio, whose multiples spread evenly; the highest bits are the best mixed.

Kernel: include/linux/hash.h; ip_vs_dh.c, ip_vs_sh.c and ip_vs_lblc.c, *_hashkey().
"""
from __future__ import annotations

GOLDEN_RATIO = 0x61C88647
MASK = 0xFFFFFFFF


def fold(address) -> int:
    """Return an address as 32 bits: an IPv4 one as it is, an IPv6 one as the XOR of its four words."""
    if address <= MASK:
        return address
    return (address >> 96 ^ address >> 64 ^ address >> 32 ^ address) & MASK


def hash32(value: int, bits: int) -> int:
    """Return a hash of the 32-bit *value* with so many *bits*."""
    return (value * GOLDEN_RATIO & MASK) >> (32 - bits)
