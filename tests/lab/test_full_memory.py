"""The fast director's table when its file system is full: new clients are dropped, and nothing crashes."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lbq.lab.topology import this_lbq

FULL_TMPFS = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
              'mount -t tmpfs -o size=7800k none /mnt && exec "$@"', "sh"]
STORY = """
import json, struct, sys
from lbq._fastpath import FastDirector
from lbq.model import AF_INET, AF_INET6, ServiceKey

family = {"IPv4": AF_INET, "IPv6": AF_INET6}[sys.argv[1]]
director = FastDirector(max_connections=100_000, table_path="/mnt/table")
web = ServiceKey(6, 0xC0A80A01, 80, family)
director.add_service(web, "rr")
director.add_server(web, 0xC0A81401, 80)

def syn(client):
    segment = struct.pack("!HHIIBBHHH", 4000, 80, 0, 0, 0x50, 2, 0, 0, 0)
    if family == AF_INET6:
        return struct.pack("!IHBB16s16s", 6 << 28, 20, 6, 64, client.to_bytes(16), web.address.to_bytes(16)) + segment
    return struct.pack("!BBHHHBBHII", 0x45, 0, 40, 0, 0, 64, 6, 0, client, web.address) + segment

def open_connections(count, now):
    before = director.statistics()
    for number in range(count):
        director.handle(bytearray(syn(0x0A000000 + number)), 0, 0, 0, now)
    after = director.statistics()
    return [after[name] - before[name] for name in ("rewritten", "dropped_table_full")]

first = open_connections(30_000, 1)
director.expire(10**12)
print(json.dumps([first, open_connections(first[0], 10**12)]))
"""


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_full_tmpfs_is_a_full_table(family):
    environment = {"PYTHONPATH": this_lbq()["PYTHONPATH"], "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run([*FULL_TMPFS, sys.executable, "-c", STORY, family], check=True, capture_output=True,
                          text=True, env=environment)
    (accepted, dropped), again = json.loads(done.stdout)

    assert 4096 <= accepted < 30_000
    assert accepted + dropped == 30_000
    assert again == [accepted, 0], "what the table has already, it uses again"
