"""What the hashing schedulers share: which bits of a client are hashed, and how the kernel's hash_32() does it.

The multiplier is 2^32 divided by the golden ratio, whose multiples spread evenly; the highest bits are the best mixed.

Kernel: include/linux/hash.h; ip_vs_dh.c, ip_vs_sh.c, ip_vs_mh.c and ip_vs_lblc.c, *_hashkey().
"""
from __future__ import annotations

from lbq.model import SCHED1, SCHED2, SCTP, TCP, UDP, Flow, VirtualService

GOLDEN_RATIO = 0x61C88647
MASK = 0xFFFFFFFF
FALLBACK = SCHED1                   # sh-fallback, mh-fallback
PORT = SCHED2                       # sh-port, mh-port
WITH_PORTS = (TCP, UDP, SCTP)


def hash32(value: int, bits: int) -> int:
    """Return a hash of the 32-bit *value* with so many *bits*."""
    return (value * GOLDEN_RATIO & MASK) >> (32 - bits)


def client_port(service: VirtualService, flow: Flow) -> int:
    """Return the client's port when *service* hashes it, else 0."""
    return flow.cport if service.flags & PORT and flow.protocol in WITH_PORTS else 0


def falls_back(service: VirtualService) -> bool:
    """Return True when *service* wants another server instead of one that can take nobody."""
    return service.flags & FALLBACK != 0
