"""Several workers: packets are shared evenly and both ways alike, and what is decided is what one worker decides.

That traffic of every kind goes through is shown by the tests that take ``engine``: they come here, too.
"""
from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from lbq.netlink import bound_queues
from tests.helpers.dual import v6, with_ipv6
from tests.helpers.endpoints import digest_of
from tests.helpers.namespaces import picture
from tests.helpers.processes import wait_until
from tests.helpers.topology import (
    curl,
    settle,
    start_endpoints,
    start_nginx,
    tell,
    udp_socket,
    upload,
    wrk,
)

REQUESTS = 240
SIZE = 32 << 20
NAT = ("--mode", "nat", "--scheduler", "rr")
QUEUE_FILE = "/proc/thread-self/net/netfilter/nfnetlink_queue"


def queued(host) -> dict[int, int]:
    """Return how many packets each queue of *host* has had, by its number (column 8 is the last id)."""
    with host.inside(), open(QUEUE_FILE) as file:
        return {int(line.split()[0]): int(line.split()[7]) for line in file}


def start(lab, *options):
    """Start a director of the lab's two web servers."""
    return lab.start_director(*NAT, *(word for server in lab.servers for word in ("--real", f"{server.address}:80")),
                              *options)


@pytest.mark.parametrize("workers", [2, 3])
def test_round_robin_is_exact_and_every_worker_has_its_share(lab, workers):
    start_nginx(lab)
    start(lab, "--workers", str(workers), "--queue", "7")

    answers = Counter(curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(REQUESTS))

    assert answers == {"web01": REQUESTS // 2, "web02": REQUESTS // 2}
    shares = queued(lab.director)
    assert sorted(shares) == list(range(7, 7 + workers))
    assert min(shares.values()) > sum(shares.values()) / workers / 2


def test_both_directions_of_a_connection_are_one_workers(lab):
    """So is each: a connection moves one queue's counter only.

    The client's ports are said: the kernel's steps from one to the next are random, and all may be of one worker.
    """
    with_ipv6(lab)
    start_nginx(lab)
    start_nginx(lab, ipv6=True)
    start(lab, "--workers", "2")
    tell(lab, "add_service", service=f"[{v6(lab.vip)}]:80", scheduler="rr")
    tell(lab, "add_server", service=f"[{v6(lab.vip)}]:80", server=f"[{v6(lab.servers[0].address)}]:80")

    for url, first in ((f"http://{lab.vip}/", 40000), (f"http://[{v6(lab.vip)}]/", 41000)):
        used = []
        for port in range(first, first + 16, 2):
            before = queued(lab.director)
            curl(lab.client, url, "--local-port", str(port))
            settle(lab)
            after = queued(lab.director)
            [moved] = [number for number in after if after[number] > before[number]]
            used.append(moved)
        assert used == [0, 1] * 4


@pytest.mark.parametrize("path", ["rewrite", "steer", "offload"])
def test_bulk_and_many_connections_at_once(lab, path):
    start_nginx(lab)
    start_endpoints(lab, "bulk", 9000)
    start(lab, "--workers", "2", "--data-path", path)
    tell(lab, "add_service", service=f"{lab.vip}:9000", scheduler="wlc", data_path=path)
    for server in lab.servers:
        tell(lab, "add_server", service=f"{lab.vip}:9000", server=f"{server.address}:9000")

    for _ in range(4):
        assert upload(lab.client, f"http://{lab.vip}:9000/", SIZE) == digest_of(SIZE)
    assert wrk(lab.client, f"http://{lab.vip}/", connections=64, seconds=2) > 500
    [web] = [row for row in tell(lab, "list") if row["port"] == 80]
    counted = [server["stats"]["conns"] for server in web["servers"]]
    assert abs(counted[0] - counted[1]) <= 1 and sum(counted) >= 64


def test_datagrams_and_commands_beside_them(lab):
    """Commands are done between two batches of the first worker, and the others stand still meanwhile."""
    start_endpoints(lab, "echo", 53)
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:53")]
    lab.start_director("--vip", f"{lab.vip}:53", "--udp", *NAT, *reals, "--workers", "2")

    answered = Counter()
    with ExitStack() as stack:          # closed at the end, so that no port comes twice
        for number in range(100):
            sock = stack.enter_context(udp_socket(lab.client, lab.vip, 53))
            sock.send(b"%d" % number)
            answered[sock.recv(100).split()[0]] += 1
            if number % 10 == 0:
                tell(lab, "add_service", service=f"udp:{lab.vip}:{1000 + number}", scheduler="rr")
                assert len(tell(lab, "list")) == 2 + number // 10
    assert answered == {b"web01": 50, b"web02": 50}


@pytest.mark.parametrize("ending", ["stop", "killed"])
def test_everything_is_as_it_was_after_the_end(lab, ending):
    before = picture(lab.director)
    director = start(lab, "--workers", "2", "--data-path", "steer")
    with lab.director.inside():
        assert sorted(bound_queues()) == [0, 1, 2, 3]
    if ending == "stop":
        director.stop()
    else:
        director.send_signal(signal.SIGKILL)
        director.wait(10)
        lab.lbq("cleanup")
    assert picture(lab.director) == before


def test_each_worker_has_a_processor_and_who_makes_huge_pages_has_all(lab):
    director = start(lab, "--workers", "2")
    children = Path(f"/proc/{director.pid}/task/{director.pid}/children").read_text().split()
    [process] = [int(child) for child in children if b"lbq.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def placed() -> list[list[int]]:
        return sorted(sorted(os.sched_getaffinity(int(thread))) for thread in os.listdir(f"/proc/{process}/task"))

    both = sorted(os.sched_getaffinity(0))[:2]
    wait_until(lambda: placed() == sorted([[both[0]], [both[1]], sorted(os.sched_getaffinity(0))]))
