"""Plays scenarios against the kernel: the program that runs in the guest.

    python -m tests.kernel.agent SCENARIOS RESULTS

Reads one scenario a line and appends one transcript a line, as each is done.  Scenarios that wait are put
aside meanwhile, so that their waits overlap; one that is due goes before one that has not begun, which keeps
real time close to the time the scenario means.
"""
from __future__ import annotations

import heapq
import json
import os
import sys
import time
from collections.abc import Iterator

from tests.kernel import wire
from tests.kernel.world import World, write

SETTLE_SECONDS = 0.05       # some timer ticks: what the kernel does "now" with timers is done then
WORLDS = 60                 # at a time
GLOBAL_SYSCTLS = {"ipv4/icmp_msgs_per_sec": 100_000_000, "ipv4/icmp_msgs_burst": 100_000_000}


def play(scenario: dict, transcript: dict) -> Iterator[float]:
    """Play *scenario*, write down in *transcript* what the kernel does, and yield the seconds to wait."""
    world = World(scenario.get("world", {}))
    started = time.monotonic()
    outputs = {}
    results = transcript["results"] = []
    try:
        for step in scenario["steps"]:
            kind = step["do"]
            if kind in ("wait", "settle"):
                results.append(None)
                yield step.get("seconds", SETTLE_SECONDS)
                world.enter()
            elif kind == "send":
                results.append(send(world, step, outputs))
            elif kind == "ipvsadm":
                results.append(world.ipvsadm.run(step["line"]))
            elif kind == "sysctl":
                write(f"/proc/sys/net/ipv4/vs/{step['name']}", step["value"])
                results.append(None)
            elif kind == "show":
                results.append({"at": round(time.monotonic() - started, 2), "services": read("ip_vs"),
                                "connections": read("ip_vs_conn")})
            else:
                results.append([world.ipvsadm.run(f"-L -n --{listing}") for listing in step["listings"]])
    finally:
        world.close()


def send(world: World, step: dict, outputs: dict) -> list | None:
    """Send what *step* describes; return what came out as [where, hex], or None when it cannot be built."""
    packets = wire.build(step, outputs)
    if packets is None:
        return None
    for packet in packets:
        world.send(step.get("side", "c"), packet)
    found = world.received()
    if "id" in step:
        outputs[step["id"]] = [(side, frame[14:]) for side, frame in found if side != "host"]
    return [[side, frame.hex()] for side, frame in found]


def read(name: str) -> str:
    with open(f"/proc/net/{name}") as file:
        return file.read()


def main(scenarios: str, results: str) -> None:
    """Play every scenario in the file *scenarios*."""
    for name, value in GLOBAL_SYSCTLS.items():
        if os.path.exists(f"/proc/sys/net/{name}"):
            write(f"/proc/sys/net/{name}", value)
    waiting: list[tuple] = []
    with open(scenarios) as todo, open(results, "w") as done:
        number = 0
        exhausted = False
        while waiting or not exhausted:
            if not waiting or (not exhausted and len(waiting) < WORLDS and waiting[0][0] > time.monotonic()):
                line = todo.readline()
                exhausted = not line
                if exhausted:
                    continue
                transcript = {"number": number}
                player = play(json.loads(line), transcript)
                number += 1
            else:
                due, _, player, transcript = heapq.heappop(waiting)
                time.sleep(max(0.0, due - time.monotonic()))
            try:
                seconds = next(player)
            except StopIteration:
                done.write(json.dumps(transcript) + "\n")
                done.flush()
                os.fsync(done.fileno())
            else:
                heapq.heappush(waiting, (time.monotonic() + seconds, transcript["number"], player, transcript))


if __name__ == "__main__":
    main(*sys.argv[1:])
