"""What lblc and lblcr share: a memory of destinations with an end, and the two questions they ask about load.

The memory is a hash table of 1,024 buckets as in the kernel, because its clean-up goes bucket by bucket:

    every minute        when there are more than 16,384 entries, up to half of the surplus, and a third more, of those
                        unused for six minutes
    every half an hour  all that were unused for ``expiration_seconds`` (a day, sysctl lblc_expiration, lblcr_expiration)

Kernel: ip_vs_lblc.c and ip_vs_lblcr.c, *_check_expire(), *_full_check(), is_overloaded().
"""
from __future__ import annotations

from lbq.model import RealServer, VirtualService
from lbq.schedulers.hashing import fold, hash32

BITS = 10
BUCKETS = 1 << BITS
MAX_ENTRIES = 16384
SECOND = 1_000_000_000
CHECK_INTERVAL = 60 * SECOND
ENTRY_TIMEOUT = 360 * SECOND
FULL_CHECK = 30             # in check intervals


class Memory:
    """Entries by destination address; an entry is anything with ``address`` and ``last_use`` (ns)."""

    def __init__(self):
        self.buckets = [{} for _ in range(BUCKETS)]
        self.count = 0
        self.rover = 0
        self.counter = 1
        self.next_check = 0

    def find(self, address: int):
        """Return the entry of *address*, or None."""
        return self.buckets[hash32(fold(address), BITS)].get(address)

    def add(self, entry) -> None:
        """Remember *entry* in place of an older one of its address."""
        bucket = self.buckets[hash32(fold(entry.address), BITS)]
        self.count += entry.address not in bucket
        bucket[entry.address] = entry

    def check(self, now_ns: int, expiration_seconds: int) -> None:
        """Forget what is due at *now_ns*; call it at least once a minute."""
        if self.next_check == 0:
            self.next_check = now_ns + CHECK_INTERVAL
        while now_ns >= self.next_check:
            self._check(self.next_check, expiration_seconds)
            self.next_check += CHECK_INTERVAL

    def _check(self, now_ns: int, expiration_seconds: int) -> None:
        if self.counter % FULL_CHECK == 0:
            for bucket in self.buckets:
                self._forget(bucket, now_ns - expiration_seconds * SECOND)
            self.counter = 1
            return
        if self.count <= MAX_ENTRIES:
            self.counter += 1
            return
        goal = min((self.count - MAX_ENTRIES) * 4 // 3, MAX_ENTRIES // 2)
        for _ in range(BUCKETS):
            self.rover = (self.rover + 1) % BUCKETS
            goal -= self._forget(self.buckets[self.rover], now_ns - ENTRY_TIMEOUT)
            if goal <= 0:
                return

    def _forget(self, bucket: dict, before_ns: int) -> int:
        """Forget entries last used at *before_ns* or earlier; return how many."""
        old = [address for address, entry in bucket.items() if entry.last_use <= before_ns]
        for address in old:
            del bucket[address]
        self.count -= len(old)
        return len(old)


def is_overloaded(server: RealServer, service: VirtualService) -> bool:
    """Return True when *server* has more active connections than its weight while another is less than half full."""
    if server.active_conns <= server.weight:
        return False
    return any(other.active_conns * 2 < other.weight for other in service.servers)
