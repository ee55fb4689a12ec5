"""A table that grows onto huge pages, where the kernel gives any, holds what one on small pages holds."""
from __future__ import annotations

import ctypes
import mmap
import re
import threading
import time
from pathlib import Path

import pytest

from lbq._fastpath import FastDirector
from lbq.model import AF_INET, AF_INET6, TCP, ServiceKey

FLOWS = 100_000                 # three huge pages
PATIENCE = 20
HUGE, MADV_COLLAPSE = 2 << 20, 25       # <linux/mman.h>


def huge_kilobytes() -> int:
    """Return how much of the tables in this process lies on huge pages."""
    return sum(int(size) for size in re.findall(r"ShmemPmdMapped:\s+(\d+)", Path("/proc/self/smaps").read_text()))


def kernel_gives_one() -> bool:
    """Return whether the kernel gives a huge page now; where memory is in small pieces, or short, it does not."""
    with mmap.mmap(-1, 2 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        begin = ctypes.c_char.from_buffer(memory)
        at = -ctypes.addressof(begin) % HUGE
        del begin
        memory[at] = 1                          # it must not be empty
        try:
            memory.madvise(MADV_COLLAPSE, at, HUGE)
        except OSError:
            return False
    return True


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_connections_are_found_on_huge_pages(family):
    director = FastDirector(max_connections=4 * FLOWS)
    web = ServiceKey(TCP, 0x0A000101 if family == AF_INET else 0x20010DB8 << 96 | 1, 80, family)
    director.add_service(web, "rr")
    director.add_server(web, web.address + 1, 80)
    before = huge_kilobytes()
    claims = threading.Thread(target=director.claim_ahead, daemon=True)
    claims.start()

    director.benchmark_opening(FLOWS)
    director.benchmark_established(FLOWS)       # raises unless every packet finds its connection

    deadline = time.monotonic() + PATIENCE
    while claims.is_alive() and huge_kilobytes() == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not claims.is_alive() or huge_kilobytes() > before or not kernel_gives_one()
