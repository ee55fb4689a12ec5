"""Maglev hashing (``mh``): a client stays with its server, and few clients move when a server comes or goes.

A table of 4,093 slots.  Every server has its own order of preference through all slots (offset, offset + skip,
offset + 2 skip, … by two hashes of its address and port); in list order the servers take turns, as many in a row as
their weight deserves, each taking the next slot of its order that is still free, until none is.  A server that goes
leaves its slots to the others and hardly any other slot changes hands.

The weights of the turns are the last ones that were not 0, so quiescing a server moves nobody.

    mh-port      hash the client's port, too
    mh-fallback  when the slot's server cannot take it, hash again with an offset until one can

Kernel: ip_vs_mh.c; lib/siphash.c (hsiphash() of a 64-bit kernel: SipHash-1-3, cut to 32 bits).
Paper: Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer, NSDI 2016.
"""
from __future__ import annotations

from math import gcd

from lbq.model import SCHED1, SCHED2, SCTP, TCP, UDP, Flow, RealServer, VirtualService
from lbq.schedulers.base import Scheduler
from lbq.schedulers.hashing import fold

SIZE = 4093                 # a prime: so every skip visits every slot
SHIFT_BITS = 6              # weights are scaled down until the largest has so many bits
FIRST_KEY = 2654435761
SECOND_KEY = 2654446892
FALLBACK, PORT = SCHED1, SCHED2
ALL32 = 0xFFFFFFFF
ALL64 = 0xFFFFFFFFFFFFFFFF
INITIAL0, INITIAL1 = 0x736F6D6570736575, 0x646F72616E646F6D
INITIAL2, INITIAL3 = 0x6C7967656E657261, 0x7465646279746573
FOUR_BYTES = 4 << 56        # SipHash puts the length of its input into the highest byte of the last word


def siphash(value: int, key: int) -> int:
    """Return SipHash-1-3 of the 32-bit *value*, little-endian, under a key of twice the same 64 bits, cut to 32 bits."""
    v0 = INITIAL0 ^ key
    v1 = INITIAL1 ^ key
    v2 = INITIAL2 ^ key
    v3 = INITIAL3 ^ key
    word = FOUR_BYTES | value & ALL32
    v3 ^= word
    for step in range(4):           # one round for the word, three at the end
        if step == 1:
            v0 ^= word
            v2 ^= 0xFF
        v0 = v0 + v1 & ALL64
        v1 = (v1 << 13 & ALL64 | v1 >> 51) ^ v0
        v0 = v0 << 32 & ALL64 | v0 >> 32
        v2 = v2 + v3 & ALL64
        v3 = (v3 << 16 & ALL64 | v3 >> 48) ^ v2
        v0 = v0 + v3 & ALL64
        v3 = (v3 << 21 & ALL64 | v3 >> 43) ^ v0
        v2 = v2 + v1 & ALL64
        v1 = (v1 << 17 & ALL64 | v1 >> 47) ^ v2
        v2 = v2 << 32 & ALL64 | v2 >> 32
    return (v0 ^ v1 ^ v2 ^ v3) & ALL32


def slot_of(address, port: int, key: int, offset: int) -> int:
    """Return the hash of an address and port."""
    return siphash(offset + port + fold(address), key)


class Maglev(Scheduler):
    """Choose by the client's address through a Maglev table."""

    name = "mh"

    def __init__(self):
        self.table = []

    def bind(self, service: VirtualService) -> None:
        """Make the table; with more servers than slots the old one stays."""
        servers = service.servers
        if len(servers) > SIZE:
            return
        turns = turns_of([server.last_weight for server in servers])
        if not any(turns):
            self.table = []
            return
        places = [slot_of(server.address, server.port, FIRST_KEY, 0) % SIZE for server in servers]
        skips = [slot_of(server.address, server.port, SECOND_KEY, 0) % (SIZE - 1) + 1 for server in servers]
        self.table = self._fill(servers, turns, places, skips)

    def _fill(self, servers, turns, places, skips):
        """Let the servers take slots by turns until none is left."""
        table = [None] * SIZE
        taken = 0
        while True:
            for index in range(len(servers)):
                for _turn in range(turns[index]):
                    place = places[index]
                    while table[place] is not None:
                        place += skips[index]
                        if place >= SIZE:
                            place -= SIZE
                    places[index] = place
                    table[place] = servers[index]
                    taken += 1
                    if taken == SIZE:
                        return table

    def server_added(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def server_changed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self.bind(service)

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        if not self.table:
            return None
        port = flow.cport if service.flags & PORT and flow.protocol in (TCP, UDP, SCTP) else 0
        hashed = slot_of(flow.caddr, port, FIRST_KEY, 0) % SIZE
        server = self.table[hashed]
        if server.can_schedule():
            return server
        if not service.flags & FALLBACK:
            return None
        for offset in range(SIZE):
            server = self.table[slot_of(flow.caddr, port, FIRST_KEY, (offset + hashed) % SIZE) % SIZE]
            if server.can_schedule():
                return server
        return None


def turns_of(weights: list[int]) -> list[int]:
    """Return how many slots in a row each server takes, by *weights* without their common divisor, scaled down."""
    divisor = gcd(*weights) if weights else 0
    if divisor == 0:
        return [0] * len(weights)
    shift = max(0, (max(weights) // divisor).bit_length() - SHIFT_BITS)
    return [(weight // divisor >> shift or 1) if weight else 0 for weight in weights]
