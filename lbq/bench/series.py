"""The measurements in memory, by what varies: size of the table, number of services, servers to choose from.

Each is a process of its own (``memory.py``); rounds go through all of them in another order each time.
"""
from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from lbq.bench.machine import Missing, available_bytes
from lbq.lab.topology import this_lbq

TIMEOUT = 120       # seconds for one process
BYTES_PER_FLOW = {False: 120, True: 200}    # more than it takes, by whether it is IPv6: refuse rather than swap
MILLION = 1_000_000


class Setting(NamedTuple):
    """What one process measures: connections, services, servers of the first service, the address family."""

    flows: int = MILLION
    services: int = 1
    servers: int = 4
    ipv6: bool = False

    def label(self) -> str:
        """Return it as the first cell of a row of the table."""
        words = [f"{self.flows:,} connections"]
        words += ["IPv6"] if self.ipv6 else []
        words += [f"{self.services:,} services"] if self.services > 1 else []
        words += [f"wlc over {self.servers} servers"] if self.servers != Setting().servers else []
        return ", ".join(words)

    def seconds(self) -> float:
        """Return about how long it takes."""
        return 0.5 + self.flows * 5e-7 + self.services * 2e-5

    def is_long(self) -> bool:
        """Return True when a few rounds must do."""
        return self.flows > MILLION


SERIES = {
    "memory": [*map(Setting, (1_000, 10_000, 100_000, MILLION, 4 * MILLION)),
               Setting(MILLION, ipv6=True), Setting(4 * MILLION, ipv6=True)],
    "services": [Setting(100_000, services) for services in (1, 10, 100, 1_000, 10_000)],
    "new-flow": [Setting(200_000, servers=16)],
}
ABOUT = {
    "memory": "in memory: cost of a packet and of a connection, 1,000 to 4,000,000 connections",
    "services": "in memory: the same with 1 to 10,000 services",
    "new-flow": "in memory: a new connection, its server chosen of 16 by wlc",
}


def settings(workloads: list[str]) -> list[Setting]:
    """Return the settings of *workloads*, each once."""
    return list(dict.fromkeys(setting for name in workloads for setting in SERIES.get(name, [])))


def setting_of(row: dict) -> Setting:
    """Return what *row* of a results file was measured with; the first such files name only ``flows``."""
    return Setting(*(row.get(name, default) for name, default in Setting._field_defaults.items()))


def run(setting: Setting) -> dict:
    """Measure *setting* in a process of its own; return its numbers, or raise Missing."""
    if setting.flows * BYTES_PER_FLOW[setting.ipv6] > available_bytes():
        raise Missing(f"{setting.flows:,} connections do not fit into the memory that is free")
    command = [sys.executable, "-P", "-m", "lbq.bench.memory", "--flows", setting.flows, "--services", setting.services,
               "--servers", setting.servers, *(["--ipv6"] if setting.ipv6 else [])]
    try:
        done = subprocess.run([str(word) for word in command], env=this_lbq(), capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{setting.label()}: no answer within {TIMEOUT} s") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:]
        raise Missing(f"{setting.label()}: the process ended with status {done.returncode}: {' '.join(said)}")
    return json.loads(done.stdout)
