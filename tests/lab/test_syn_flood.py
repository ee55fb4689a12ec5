"""A SYN flood from addresses that nobody has: memory stays at its bound, open connections go on, new ones come back."""
from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.processes import worker_of
from tests.helpers.topology import curl, hold, start_endpoints, start_nginx, still_answers

MOST = 3000
SYNS = 30_000
FLOOD_SECONDS = 30
GROWTH_KIB = 2048               # of the packet process, from before the first connection
FLOODER = f"""
import random, socket, struct, sys

def total(data):
    words = sum(struct.unpack(f"!{{len(data) // 2}}H", data))
    words = (words & 0xFFFF) + (words >> 16)
    return ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF

vip = socket.inet_aton(sys.argv[1])
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for number in range({SYNS}):
    client, port = 0xC6120000 + random.randrange(1 << 17), random.randrange(1024, 65536)        # 198.18.0.0/15
    segment = struct.pack("!HHIIBBHHH", port, 80, random.randrange(1 << 32), 0, 0x50, 2, 64240, 0, 0)
    pseudo = struct.pack("!I4sBBH", client, vip, 0, 6, len(segment))
    segment = segment[:16] + struct.pack("!H", total(pseudo + segment)) + segment[18:]
    header = struct.pack("!BBHHHBBHI4s", 0x45, 0, 40, 0, 0, 64, 6, 0, client, vip)
    sender.sendto(header + segment, (sys.argv[1], 0))
"""
def resident_kib(pid: int) -> int:
    """Return what process *pid* has in memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def counters(lab) -> dict:
    """Return what `lbq stats` counts."""
    return json.loads(lab.lbq("stats", "--json").stdout)["counters"]


@pytest.fixture(autouse=True)
def full(forgiven):
    """Let the table be full: that is what these tests are about."""
    forgiven.add("dropped_table_full")


@pytest.mark.parametrize("data_path", ["rewrite", "steer"])
def test_open_connections_go_on_and_memory_stays_in_bounds(lab, data_path):
    start_endpoints(lab, "hold")
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:80")]
    director = lab.start_director("--mode", "nat", "--max-connections", str(MOST), "--data-path", data_path, *reals)
    worker = worker_of(director)
    held = [hold(lab.client, lab.vip)[1] for _ in range(4)]
    before = resident_kib(worker)

    flooder = lab.client.popen([sys.executable, "-c", FLOODER, lab.vip])
    talks = 0
    deadline = time.monotonic() + FLOOD_SECONDS
    while flooder.poll() is None and time.monotonic() < deadline:
        assert all(still_answers(connection) for connection in held)
        talks += 1
    flooder.wait(FLOOD_SECONDS)

    assert all(still_answers(connection) for connection in held)
    assert flooder.returncode == 0 and talks > 0
    counted = counters(lab)
    assert counted["connections"] == MOST and counted["dropped_table_full"] > SYNS // 2
    assert resident_kib(worker) - before < GROWTH_KIB
    for connection in held:
        connection.close()


def test_new_clients_come_in_again_once_half_open_connections_are_dropped(lab):
    """drop_entry ends a thirty-second of them a second, as the kernel's does; by themselves they end after a minute."""
    start_nginx(lab)
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:80")]
    lab.start_director("--mode", "nat", "--max-connections", str(MOST), *reals)
    lab.client.run([sys.executable, "-c", FLOODER, lab.vip], timeout=FLOOD_SECONDS)
    assert counters(lab)["connections"] == MOST

    lab.lbq("sysctl", "drop_entry=3")

    assert curl(lab.client, f"http://{lab.vip}/").strip().startswith("web")
    assert counters(lab)["connections"] <= MOST
