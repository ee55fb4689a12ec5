"""What lblc and lblcr share: a memory of destinations that forgets, and how both tell that a server is too busy.

The memory has 1,024 buckets, as in the kernel, because it is tidied up bucket by bucket, once a minute:

    every 30 minutes    everything that was unused for ``expiration_seconds`` goes
    in between          only with more than 16,384 entries: of those unused for six minutes, a third more than are
                        too many, at most 8,192; it goes on where it stopped the minute before

A deleted server is not looked for in here.  It is seen to be gone when it is next wanted; if it has been added
again by then it is chosen again, as in the kernel, which keeps a deleted server for as long as one of these
memories refers to it.

Kernel: ip_vs_lblc.c and ip_vs_lblcr.c, *_check_expire(), *_full_check(), is_overloaded().
"""
from __future__ import annotations

from collections.abc import Iterator

from lbq.model import RealServer, VirtualService, fold
from lbq.schedulers.hashing import hash32
from lbq.schedulers.wlc import WeightedLeastConnection

SECOND = 1_000_000_000
BITS = 10
BUCKETS = 1 << BITS
ENOUGH = 16 * BUCKETS
MOST = ENOUGH * 3 // 2              # in kernels from 6.1.192 (profile new)
CHECK_INTERVAL = 60 * SECOND
FULL_CHECK = 30                     # in intervals
UNUSED = 360 * SECOND
DAY = 86400
PIECE = 250                         # entries that one step looks at: packets wait meanwhile


class Entry:
    """What is remembered of one destination; *last_use* is in ns."""

    def __init__(self, address: int, last_use: int):
        self.address = address
        self.last_use = last_use


class Memory:
    """Entries by destination address, and the clockwork that tidies them up."""

    def __init__(self):
        self.buckets = [{} for _ in range(BUCKETS)]
        self.count = 0              # as the kernel counts, which in classic kernels is too much: see lblc.py
        self.rover = 0              # the bucket that was tidied last
        self.interval = 1           # number of the current one, 1 … FULL_CHECK
        self.next_check = 0         # 0: the clock has not started

    def find(self, address: int, now_ns: int) -> Entry | None:
        """Return the entry of *address*, which is used now, or None."""
        self._start(now_ns)
        bucket = self.buckets[hash32(fold(address), BITS)]
        entry = bucket.get(address)
        if entry is not None:
            entry.last_use = now_ns
        return entry

    def add(self, entry: Entry, server: RealServer) -> None:
        """Remember *entry*, which leads to *server*; in new kernels only while there is room."""
        if self.count < MOST or is_classic(server):
            bucket = self.buckets[hash32(fold(entry.address), BITS)]
            bucket[entry.address] = entry
            self.count += 1

    def tidy(self, now_ns: int, expiration_seconds: int) -> Iterator | None:
        """Return steps that forget what is due at *now_ns*; to be called every second or so."""
        self._start(now_ns)
        if now_ns < self.next_check:
            return None
        while self.next_check <= now_ns:
            self.next_check += CHECK_INTERVAL
        if self.interval == FULL_CHECK:
            self.interval = 1
            return self.sweep(now_ns - expiration_seconds * SECOND, self.count + 1)
        if self.count > ENOUGH:
            return self.sweep(now_ns - UNUSED, min((self.count - ENOUGH) * 4 // 3, ENOUGH // 2))
        self.interval += 1
        return None

    def _start(self, now_ns: int) -> None:
        if self.next_check == 0:
            self.next_check = now_ns + CHECK_INTERVAL

    def sweep(self, used_ns: int, goal: int) -> Iterator:
        """Forget entries last used at *used_ns* or earlier, bucket after bucket, until they are *goal* or more."""
        looked = 0
        for _ in range(BUCKETS):
            self.rover = (self.rover + 1) % BUCKETS
            bucket = self.buckets[self.rover]
            looked += 1 + len(bucket)
            goal -= self._forget(bucket, used_ns)
            if goal <= 0:
                return
            if looked > PIECE:
                looked = 0
                yield

    def _forget(self, bucket: dict[int, Entry], used_ns: int) -> int:
        """Forget the entries of *bucket* last used at *used_ns* or earlier; return how many they were."""
        old = unused(bucket, used_ns)
        for address in old:
            del bucket[address]
        self.count -= len(old)
        return len(old)


def unused(bucket: dict[int, Entry], used_ns: int) -> list[int]:
    """Return the addresses in *bucket* that were last used at *used_ns* or earlier."""
    old = []
    for entry in bucket.values():
        if entry.last_use <= used_ns:
            old.append(entry.address)
    return old


def is_classic(server: RealServer) -> bool:
    """Return True in the classic kernel profile, where an active connection costs 256 and not 257."""
    return server.active_cost == 256


def is_too_busy(server: RealServer, service: VirtualService) -> bool:
    """Return True when *server* has more active connections than its weight and another less than half its own.

    The other may even be quiesced or overloaded: the kernel does not look.
    """
    if server.active_conns <= server.weight:
        return False
    for other in service.servers:       # noqa: SIM110  any() would not be a C loop when compiled
        if other.active_conns * 2 < other.weight:
            return True
    return False


def present(server: RealServer, service: VirtualService) -> RealServer:
    """Return *server*, or when it was deleted and added again, the one that is there now."""
    if not server.available:
        for other in service.servers:
            if other.address == server.address and other.port == server.port and other.family == server.family:
                return other
    return server


class LocalityBased(WeightedLeastConnection):
    """Remember destinations; where a new one goes is wlc's choice."""

    def __init__(self):
        self.memory = Memory()
        self.expiration_seconds = DAY       # sysctl lblc_expiration or lblcr_expiration

    def bind(self, service: VirtualService) -> None:
        """Start with nothing remembered."""
        self.memory = Memory()

    def tick(self, service: VirtualService, now_ns: int) -> Iterator | None:
        """Forget destinations that have been unused for long."""
        return self.memory.tidy(now_ns, self.expiration_seconds)
