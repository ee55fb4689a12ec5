"""What a connection costs in memory, without a network: resident bytes, ns a packet, ns a new connection.

    python -m lbq.bench.memory [--flows 1000000] [--services 1] [--servers 4] [--ipv6] [--packets 1000000]

Loads what the packet process loads, opens the connections to the first of the services, sends what
``FastDirector.benchmark_established`` sends, and asks the kernel what this process has in memory: its own
pages and the table's shared ones, the interpreter included.  Prints one line of JSON.  It can be asked
only once in a process: what was opened before would be counted.
"""
from __future__ import annotations

import _thread
import argparse
import json
import re
import time
from pathlib import Path

VIP, RIP = 0x0A000101, 0x0A000201               # 10.0.1.1, 10.0.2.1
OTHER_VIPS, OTHER_RIPS = 0x0A800000, 0x0AC00000     # 10.128.0.0, 10.192.0.0: of services that get no packet
PORTS_A_VIP = 100
SETTLES = 0.5           # seconds, and as many for each million connections: huge pages come from a thread of their own
DEFAULT_TABLE = 1 << 20         # connections that a director has room for when nothing is said


def resident_bytes() -> int:
    """Return the resident memory of this process, shared pages counted in full."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024


def measure(flows: int, services: int, servers: int, ipv6: bool, packets: int) -> dict:
    """Return what *flows* NAT connections, found from both sides, cost; raises AssertionError when some are lost.

    They go to the first of *services* services (at most 16,384) and by wlc to its *servers* servers; the other
    services have a VIP and port and one server each.
    """
    import lbq.worker  # noqa: F401 - what the packet process has in memory besides the table
    from lbq._fastpath import FastDirector
    from lbq.model import AF_INET, AF_INET6, ServiceKey

    director = FastDirector(max_connections=max(flows, DEFAULT_TABLE))
    _thread.start_new_thread(director.claim_ahead, ())      # as in the packet process
    network, family = (0x20010DB8 << 96, AF_INET6) if ipv6 else (0, AF_INET)
    key = ServiceKey(6, network | VIP, 80, family)
    director.add_service(key, "wlc")
    for number in range(servers):
        director.add_server(key, network | RIP + number, 80)
    for number in range(services - 1):
        other = ServiceKey(6, network | OTHER_VIPS + number // PORTS_A_VIP, 8000 + number % PORTS_A_VIP, family)
        director.add_service(other, "wlc")
        director.add_server(other, network | OTHER_RIPS + number, 80)
    opening = director.benchmark_opening(flows)
    time.sleep(SETTLES * (1 + flows / 1e6))
    nanoseconds = director.benchmark_established(packets)
    if director.statistics()["connections"] != flows:
        raise AssertionError(f"wanted {flows} connections: {director.statistics()}")
    resident = resident_bytes()
    return {"flows": flows, "services": services, "servers": servers, "ipv6": ipv6, "resident_bytes": resident,
            "bytes_per_flow": resident / flows, "established_ns": nanoseconds, "opening_ns": opening}


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(prog="python -m lbq.bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--flows", type=int, default=1_000_000, help="connections (1,000,000)")
    parser.add_argument("--services", type=int, default=1, help="services; the first has all connections (1)")
    parser.add_argument("--servers", type=int, default=4, help="real servers of the first service (4)")
    parser.add_argument("--ipv6", action="store_true", help="connections over IPv6 rather than IPv4")
    parser.add_argument("--packets", type=int, default=1_000_000, help="packets of connections that are open")
    chosen = parser.parse_args()
    print(json.dumps(measure(**vars(chosen))))


if __name__ == "__main__":
    main()
