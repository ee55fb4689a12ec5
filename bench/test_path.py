"""How long does a packet take: parse, find, state, rewrite or forward, count, timer?  And a new connection?

The fast path measures itself, without the loop that makes the packets; its number, the median of many batches of 64,
is in ``extra_info``.
"""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from lbq.director import Director
from lbq.model import AF_INET, AF_INET6, DR, TUN, ServiceKey

PACKETS = 1_000_000
PREROUTING = 0          # the hook where requests are seen


FAMILIES = pytest.mark.parametrize("family", [AF_INET, AF_INET6], ids=["ipv4", "ipv6"])


@FAMILIES
@pytest.mark.parametrize("flows", [1_000, 100_000, 1_000_000])
def test_established_packet(benchmark, fast_director, flows, family):
    """64-byte TCP acknowledgements of random connections, from both sides, in batches of 64."""
    director = fast_director(flows, family=family)

    measure_established(benchmark, director, flows)


@FAMILIES
@pytest.mark.parametrize("mode", [DR, TUN], ids=["dr", "tun"])
def test_established_packet_forwarded(benchmark, fast_director, mode, family):
    """The same for DR and TUN, which see the client's only; what would be sent is thrown away."""
    director = fast_director(100_000, mode=mode, family=family)

    measure_established(benchmark, director, 100_000)


@pytest.mark.parametrize("workers", [1, 2])
def test_established_packet_of_workers(benchmark, fast_director, workers):
    """What *workers* need for a packet together, while each makes the packets of its next batch beside the lock."""
    director = fast_director(100_000)
    director.benchmark_opening(100_000)
    director.benchmark_workers(workers)

    with ThreadPoolExecutor(workers) as threads:
        def measure():
            return list(threads.map(lambda number: director.benchmark_established(PACKETS, number + 1, number),
                                    range(workers)))

        benchmark.extra_info["ns"] = sum(benchmark.pedantic(measure, rounds=1)) / workers ** 2


def measure_established(benchmark, director, flows: int) -> None:
    """Open *flows* connections and measure the packets of random ones."""
    director.benchmark_opening(flows)

    benchmark.extra_info["ns"] = benchmark.pedantic(director.benchmark_established, args=(PACKETS,), rounds=1)

    assert director.statistics()["connections"] == flows


@FAMILIES
@pytest.mark.parametrize("servers", [4, 16])
def test_new_connection(benchmark, fast_director, servers, family):
    """The client's SYN, its server chosen by wlc."""
    director = fast_director(200_000, servers=servers, family=family)

    benchmark.extra_info["ns"] = benchmark.pedantic(director.benchmark_opening, args=(200_000,), rounds=1)

    assert director.statistics()["conns"] == 200_000


def test_established_packet_in_the_readable_director(benchmark):
    """The same with ``director.py`` and a thousand connections."""
    director = Director(max_connections=1000)
    key = ServiceKey(6, 0x0A000101, 80)
    director.add_service(key, "wlc")
    director.add_server(key, 0x0A000201, 8080)
    for number in range(1000):
        director.handle(segment(number, 0x02), PREROUTING, 0, 0, 1)
    packets = [bytes(segment(number, 0x10)) for number in range(1000)]

    def thousand():
        for packet in packets:
            director.handle(bytearray(packet), PREROUTING, 0, 0, 1)

    benchmark(thousand)

    assert director.statistics()["rewritten"] >= 2000


def segment(number: int, flags: int) -> bytearray:
    """Return a TCP segment of client *number* with right lengths; nobody looks at its checksums."""
    packet = bytearray(64)
    packet[0], packet[3], packet[8], packet[9], packet[32], packet[33] = 0x45, 64, 64, 6, 0x50, flags
    packet[12:24] = bytes([10, 0, 0, 1, 10, 0, 1, 1, *(10000 + number).to_bytes(2, "big"), 0, 80])
    return packet
