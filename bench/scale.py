"""How long packets wait for a command, and a command for its answer, where there is much of everything (root).

    sudo python bench/scale.py [--services 10000] [--servers 1000] [--rounds 3]

*Pauses*: commands and ticks run in the packets' own thread, between two batches.  Each is timed in this process, with
so many services and so many servers in one of them; what counts is the shortest of the rounds, as this machine may
interrupt any of them.  *Commands*: the same through the control socket of a director in a network namespace of its
own, the host's part and the packet process's included; medians and the 99th percentile.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from lbq._fastpath import FastDirector
from lbq.control.client import ControlClient
from lbq.host.setup import state_directory
from lbq.lab.namespace import Namespace
from lbq.lab.topology import lbq_command, this_lbq
from lbq.model import ServiceKey

TCP = 6
SECOND = 1_000_000_000
VIP, RIP = 0x0A010000, 0x0A020000
RESTS = 190             # seconds after which a deleted server is forgotten
SAMPLE = 500            # commands that are timed, where there are more
PIECES = 100            # more than a tick leaves
ROUTES = 32             # as many as the front tells of at a time


def key(number: int) -> ServiceKey:
    """Return the name of service *number*: a hundred on each address."""
    return ServiceKey(TCP, VIP + number // 100, 1 + number % 100)


class Pauses:
    """The shortest time that each thing took, in microseconds."""

    def __init__(self):
        self.shortest: dict[str, float] = {}
        self.awake = -1                 # a descriptor that is readable: run() returns at once

    def time(self, name: str, function, *arguments):
        """Call *function*, note how long that took, and return what it returns."""
        started = time.perf_counter_ns()
        value = function(*arguments)
        took = (time.perf_counter_ns() - started) / 1000
        self.shortest[name] = min(took, self.shortest.get(name, took))
        return value

    def time_pieces(self, name: str, director: FastDirector, now: int) -> None:
        """Time the longest of a tick and the pieces that it leaves, one of which ``run`` does before it returns."""
        longest = Pauses()
        longest.time("tick", director.tick, now)
        took = longest.shortest["tick"]
        for number in range(PIECES):
            longest.time(str(number), director.run, self.awake)
            took = max(took, longest.shortest[str(number)])
        self.shortest[name] = min(took, self.shortest.get(name, took))


def pauses(services: int, servers: int, rounds: int) -> dict[str, float]:
    """Return what keeps packets waiting, and how many microseconds."""
    times = Pauses()
    for _ in range(rounds):
        _one_round(times, services, servers)
    return times.shortest


def _one_round(times: Pauses, services: int, servers: int) -> None:
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (asker, asked), (_, queue) = pairs
    asker.send(b"readable")
    times.awake = asked.fileno()
    director = FastDirector(max_connections=1 << 16)
    director.attach(queue, 0)
    director.run(times.awake)           # from now on what takes long is done in pieces
    now = time.monotonic_ns()
    for number in range(services - 1):
        director.add_service(key(number), "wlc")
        director.add_server(key(number), RIP, 80)
    last = key(services - 1)
    times.time("add a service", director.add_service, last, "wlc")
    times.time("add a server", director.add_server, last, RIP, 80)
    for number in range(1, servers):
        director.add_server(last, RIP + number, 80)
    times.time(f"add a server to {servers:,}", director.add_server, last, RIP + servers, 80)
    times.time("give one of them another weight", director.set_server, last, RIP + 5, 80, 7)
    times.time("delete one of them", director.delete_server, last, RIP + 6, 80)
    for scheduler in ("mh", "sh", "dh", "wrr", "lblcr", "wlc"):
        times.time(f"another scheduler for {servers:,} servers: {scheduler}", director.set_service, last,
                   scheduler, 0, 0)
    director.set_service(last, "mh", 0, 0)
    times.time(f"mh: delete one of {servers:,}", director.delete_server, last, RIP + 7, 80)
    times.time(f"routes of {ROUTES} servers", director.set_routes,
               [(RIP + number, 1500, 1, 1, "020000000001") for number in range(ROUTES)])
    times.time("a page of the listing", director.list_services, (services - 2) << 17, 8)
    times.time("counters and totals", lambda: (director.statistics(), director.totals()))
    times.time_pieces("a tick with estimation", director, now + 10 * SECOND)
    times.time(f"delete the service with {servers:,} servers", director.delete_service, last)
    times.time("delete a service", director.delete_service, key(0))
    times.time_pieces("a tick with all of them in the trash", director, now + 100 * SECOND)
    for second in range(0, 2 * RESTS, 5):
        times.time_pieces("and when they are forgotten", director, now + (100 + second) * SECOND)
    for pair in pairs:
        for end in pair:
            end.close()


def commands(services: int, servers: int) -> dict[str, tuple[float, float]]:
    """Return median and 99th percentile, in ms, of what a director in a namespace is asked through its socket."""
    with tempfile.TemporaryDirectory() as folder:
        host = Namespace(f"lbqb-{os.getpid()}-scale", "10.1.0.1", Path(folder))
        host.create()
        directory = host.call(state_directory)
        try:
            host.popen(lbq_command("serve"), env=this_lbq()).wait_for("ready", 20)
            with ControlClient(directory) as client:
                return _ask(client, services, servers)
        finally:
            host.stop_processes()
            host.remove()
            shutil.rmtree(directory, ignore_errors=True)


def _ask(client: ControlClient, services: int, servers: int) -> dict[str, tuple[float, float]]:
    names = [f"10.1.{number // 100}.1:{1 + number % 100}" for number in range(services)]
    many = names[-1]
    return {
        f"add a service, the last of {services:,}": _timed(client, "add_service", [
            {"service": name} for name in names]),
        "add a server to a service": _timed(client, "add_server", [
            {"service": name, "server": "10.2.0.1"} for name in names[:SAMPLE]]),
        f"add a server to one service, up to {servers:,}": _timed(client, "add_server", [
            {"service": many, "server": f"10.2.{number // 250}.{1 + number % 250}"} for number in range(servers)]),
        "give a server another weight": _timed(client, "set_server", [
            {"service": many, "server": f"10.2.{number // 250}.{1 + number % 250},weight=3"}
            for number in range(min(servers, SAMPLE))]),
        "delete a server": _timed(client, "delete_server", [
            {"service": many, "server": f"10.2.{number // 250}.{1 + number % 250}"}
            for number in range(min(servers, SAMPLE) // 2)]),
        "delete a service": _timed(client, "delete_service", [{"service": name} for name in names[:SAMPLE]]),
    }


def _timed(client: ControlClient, method: str, asked: list[dict]) -> tuple[float, float]:
    took = []
    for parameters in asked:
        started = time.perf_counter_ns()
        client.call(method, **parameters)
        took.append((time.perf_counter_ns() - started) / 1e6)
    took = took[-SAMPLE:]
    return median(took), quantiles(took, n=100)[98]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3, help="of the pauses")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    waited = pauses(chosen.services, chosen.servers, chosen.rounds)
    answered = commands(chosen.services, chosen.servers)
    if chosen.json:
        print(json.dumps({"pauses_us": waited, "commands_ms": answered}))
        return
    print(f"{'packets wait for':<58}{'µs':>8}")
    for name, took in waited.items():
        print(f"{name:<58}{took:>8.0f}")
    print(f"\n{'command, at the control socket':<58}{'median':>8}{'p99':>8}   ms")
    for name, (middle, high) in answered.items():
        print(f"{name:<58}{middle:>8.2f}{high:>8.2f}")


if __name__ == "__main__":
    main()
