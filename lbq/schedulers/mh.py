"""Maglev hashing (``mh``): a client stays with its server, and few clients move when a server comes or goes.

A table of 4,093 slots.  Every server prefers the slots in an order of its own (offset, offset + skip, offset + 2 skip,
… round the table; both come from hashes of its address and port).  In list order the servers take turns, as many in a
row as their weight deserves, each taking the next slot of its order that is still free, until none is.  When a server
goes, the others share its slots and hardly any other slot changes hands.

    mh-port      hash the client's port, too, so that the connections of one client spread
    mh-fallback  when the slot's server can take nobody, hash again with another offset, until one can

A server that is quiesced keeps its slots (the turns go by the last weight that was not 0), so nobody else's clients
move.  With more servers than slots the table stays as it is, and mh cannot be chosen for such a service.

Differs from IPVS: when more than 4,093 servers keep the table as it is, a deleted server in it counts as quiesced;
the kernel goes on sending it new clients, whose packets it then drops.

Kernel: ip_vs_mh.c; lib/siphash.c (hsiphash() of a 64-bit kernel: SipHash-1-3, cut to 32 bits).
Paper: Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer, NSDI 2016.
"""
from __future__ import annotations

from array import array
from math import gcd

from lbq.errors import ServiceError
from lbq.model import Flow, RealServer, VirtualService, fold
from lbq.schedulers.base import Scheduler
from lbq.schedulers.hashing import client_port, falls_back

SIZE = 4093                         # a prime, so that every skip visits every slot
WEIGHT_BITS = 6                     # weights are scaled down until the largest has so many
OFFSET_KEY = 2654435761
SKIP_KEY = 2654446892
WORD = 0xFFFFFFFFFFFFFFFF
ALL_ONES = 0xFFFFFFFF               # a name: as a number it is a Python object to compiled code
SIPHASH0, SIPHASH1 = 0x736F6D6570736575, 0x646F72616E646F6D     # "somepseudorandomlygeneratedbytes"
SIPHASH2, SIPHASH3 = 0x6C7967656E657261, 0x7465646279746573
LENGTH = 4 << 56                    # of the hashed bytes, in the highest byte of the last word


def siphash(value: int, key: int) -> int:
    """Return SipHash-1-3 of the 32-bit *value* in little-endian bytes; both halves of the key are *key*."""
    v0, v1, v2, v3 = SIPHASH0 ^ key, SIPHASH1 ^ key, SIPHASH2 ^ key, SIPHASH3 ^ key
    message = LENGTH | value
    v3 ^= message
    for turn in range(4):           # one for the message, three to finish
        v0 = v0 + v1 & WORD
        v1 = (v1 << 13 & WORD | v1 >> 51) ^ v0
        v0 = v0 << 32 & WORD | v0 >> 32
        v2 = v2 + v3 & WORD
        v3 = (v3 << 16 & WORD | v3 >> 48) ^ v2
        v0 = v0 + v3 & WORD
        v3 = (v3 << 21 & WORD | v3 >> 43) ^ v0
        v2 = v2 + v1 & WORD
        v1 = (v1 << 17 & WORD | v1 >> 47) ^ v2
        v2 = v2 << 32 & WORD | v2 >> 32
        if turn == 0:
            v0 ^= message
            v2 ^= 0xFF
    return v0 ^ v1 ^ v2 ^ v3


def hashed(address: int, port: int, key: int, offset: int) -> int:
    """Return 32 bits that *address*, *port* and *offset* decide."""
    return siphash(fold(address) + port + offset & ALL_ONES, key) & ALL_ONES


def slot_of(address: int, port: int, offset: int) -> int:
    """Return the slot of a client in the table, or with an *offset* that is not 0, one to try instead."""
    return hashed(address, port, OFFSET_KEY, offset) % SIZE


def turns_of(servers: list[RealServer]) -> list[int]:
    """Return how many slots in a row each server takes: its weight, without the common divisor, scaled down."""
    turns = []
    for server in servers:
        turns.append(server.last_weight)
    divisor = gcd(*turns) or 1
    shift = max(0, (max(turns, default=0) // divisor).bit_length() - WEIGHT_BITS)
    for index, weight in enumerate(turns):
        if weight > 0:
            turns[index] = max(weight // divisor >> shift, 1)
    return turns


def fill(servers: list[RealServer], turns: list[int], family: int) -> list[RealServer]:
    """Return the table of a service of *family* after its servers took slots by *turns*, until none was left."""
    count = len(servers)
    places, skips = array("I", bytes(4 * count)), array("I", bytes(4 * count))
    for index in range(count):
        server = servers[index]
        address = server.address
        if server.family > family:      # IPv6 behind an IPv4 service: the kernel hashes as many bits as IPv4 has
            address = address >> 96
        places[index] = hashed(address, server.port, OFFSET_KEY, 0) % SIZE
        skips[index] = hashed(address, server.port, SKIP_KEY, 0) % (SIZE - 1) + 1
    table = [None] * SIZE
    taken = bytearray(SIZE)
    free = SIZE
    while True:
        for index in range(count):
            place, skip = places[index], skips[index]
            for _ in range(turns[index]):
                while taken[place]:
                    place += skip
                    if place >= SIZE:
                        place -= SIZE
                table[place], taken[place] = servers[index], 1
                free -= 1
                if free == 0:
                    return table
            places[index] = place


class Maglev(Scheduler):
    """Choose by the client's address, and by its port if the service says so, through a Maglev table."""

    name = "mh"

    def __init__(self):
        self.table = []

    def bind(self, service: VirtualService) -> None:
        """Make the table."""
        if len(service.servers) > SIZE:
            raise ServiceError(f"cannot schedule by mh: the service has {len(service.servers)} servers, "
                               f"and mh's table has room for {SIZE}")
        self._fill(service)

    def server_added(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self._fill(service)

    def server_removed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew."""
        self._fill(service)

    def server_changed(self, service: VirtualService, server: RealServer) -> None:
        """Make the table anew: the weight may be another."""
        self._fill(service)

    def _fill(self, service: VirtualService) -> None:
        if len(service.servers) <= SIZE:
            turns = turns_of(service.servers)
            self.table = fill(service.servers, turns, service.key.family) if any(turns) else []

    def schedule(self, service: VirtualService, flow: Flow) -> RealServer | None:
        """Return the server for *flow*, or None when no server can take it."""
        table = self.table
        if not table:
            return None
        port = client_port(service, flow)
        slot = slot_of(flow.caddr, port, 0)
        server = table[slot]
        if server.can_schedule() and server.available:
            return server
        if falls_back(service):
            for step in range(SIZE):
                server = table[slot_of(flow.caddr, port, (slot + step) % SIZE)]
                if server.can_schedule() and server.available:
                    return server
        return None
