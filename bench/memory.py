"""What a connection costs: resident memory of the packet process over its connections, and ns a packet.

    python bench/memory.py [--flows 1000000] [--packets 1000000] [--ipv6]

Loads what the packet process loads, opens the connections, sends what
``FastDirector.benchmark_established`` sends, and asks the kernel what this process has in memory: its own
pages and the table's shared ones, the interpreter included.  Prints one line of JSON.
"""
from __future__ import annotations

import argparse
import json
import re
from pathlib import Path


def resident_bytes() -> int:
    """Return the resident memory of this process, shared pages counted in full."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024


def measure(flows: int, packets: int, ipv6: bool) -> dict:
    """Return what *flows* NAT connections, found from both sides, take in a process of their own."""
    import lbq.worker  # noqa: F401 - what the packet process has in memory besides the table
    from lbq._fastpath import FastDirector
    from lbq.model import AF_INET, AF_INET6, ServiceKey

    director = FastDirector(max_connections=max(flows, 1 << 20))
    network = 0x20010DB8 << 96 if ipv6 else 0
    key = ServiceKey(6, network | 0x0A000101, 80, AF_INET6 if ipv6 else AF_INET)
    director.add_service(key, "wlc")
    for number in range(4):
        director.add_server(key, network | 0x0A000201 + number, 80)
    opening = director.benchmark_opening(flows)
    nanoseconds = director.benchmark_established(packets)
    if director.statistics()["connections"] != flows:
        raise AssertionError(f"wanted {flows} connections: {director.statistics()}")
    return {"flows": flows, "resident_bytes": resident_bytes(),
            "bytes_per_flow": resident_bytes() / flows, "established_ns": nanoseconds, "opening_ns": opening}


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--ipv6", action="store_true", help="connections over IPv6 rather than IPv4")
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.flows, chosen.packets, chosen.ipv6)))


if __name__ == "__main__":
    main()
