"""Plays scenarios against the kernel: the program that runs in the guest.

    python -m tests.kernel.agent KIND SCENARIOS RESULTS

Reads one scenario a line and appends one transcript a line, as each is done.  Scenarios that wait are put
aside meanwhile, so that their waits overlap; one that is due goes before one that has not begun, which keeps
real time close to the time the scenario means.  When each step really happened is in the transcript's ``at``.
A scenario that a busy machine kept from that, so that timeouts meant for a wait may end before it, is played
again; one that never went as meant is marked ``late`` and ends before the step that came too late.
"""
from __future__ import annotations

import heapq
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from tests.kernel import compare, wire
from tests.kernel.scenarios import WAIT_SECONDS
from tests.kernel.world import World, write

# Seconds that all between two waits may take, by the shortest timeout that the scenario may meet.
PATIENCE = {"--set": 1.5, " -p ": 1.5, "schedule_icmp": 2.5, "sctp": 3.0}
PATIENCE_OTHERWISE = 3.0        # CLOSE ends after 10 s: not in one wait, and surely in two
PATIENCE_WITHOUT_WAITS = 8.0    # ... and not before anybody has looked
# ... and one packet or look: when in it the kernel acted is not known, and what is left of a time may differ by two
# seconds.  A command may take longer where a guest is slow, and sets no timer.
TIMED, STEP_PATIENCE = ("send", "show"), 1.5
TRIES = 5
SETTLE_SECONDS = 0.03       # some timer ticks: what the kernel does "now" with timers is done then
WORLDS = 60                 # at a time
BUSY_WORLDS = 3             # those that are not in a long wait: more, and each would be late


def play(scenario: dict, transcript: dict) -> Iterator[float]:
    """Play *scenario*, write down in *transcript* what the kernel does, and yield the seconds to wait."""
    world = World(scenario.get("world", {}))
    started = since = time.monotonic()
    patience = patience_with(json.dumps(scenario))
    outputs = {}
    transcript.update(results=[], at=[], late=False)
    try:
        for step in scenario["steps"]:
            took = 0.0
            if step["do"] in ("wait", "settle"):
                result = None
                if step["do"] == "wait":        # only what it takes beyond its own seconds counts
                    since += step["seconds"]
                yield step.get("seconds", SETTLE_SECONDS)
                world.enter()
            else:
                began = time.monotonic()
                result = ACTIONS[step["do"]](world, step, outputs)
                took = time.monotonic() - began
            now = time.monotonic()
            if now - since > patience or (took > STEP_PATIENCE and step["do"] in TIMED):
                transcript["late"] = True
                return
            transcript["results"].append(result)
            transcript["at"].append(round(now - started, 3))
            if step["do"] == "wait":
                since = now
    finally:
        world.close()


def patience_with(scenario: str) -> float:
    """Return how many seconds all between two waits of *scenario* (JSON) may take."""
    otherwise = PATIENCE_OTHERWISE if f'"seconds": {WAIT_SECONDS}' in scenario else PATIENCE_WITHOUT_WAITS
    return min((seconds for word, seconds in PATIENCE.items() if word in scenario), default=otherwise)


def playing(scenario: dict, transcript: dict) -> Iterator[float]:
    """Play *scenario* until it goes as it is meant, some times at the most."""
    for _ in range(TRIES):
        yield from play(scenario, transcript)
        if not transcript["late"]:
            return


def send(world: World, step: dict, outputs: dict) -> list | None:
    """Send what *step* describes; return what came out as [where, hex], or None when it cannot be built."""
    packets = wire.build(step, outputs)
    if packets is None:
        return None
    for packet in packets:
        world.send(step.get("side", "c"), packet)
    result = [[side, frame.hex()] for side, frame in world.received()]
    if "id" in step:
        outputs[step["id"]] = compare.came_out(compare.frames_of(result))
    return result


def sysctl(world: World, step: dict, outputs: dict) -> None:
    write(f"/proc/sys/net/ipv4/vs/{step['name']}", step["value"])


def ipvsadm(world: World, step: dict, outputs: dict) -> str:
    return world.ipvsadm.run(step["line"])


def show(world: World, step: dict, outputs: dict) -> dict:
    return {"services": read("ip_vs"), "connections": connections()}


def stats(world: World, step: dict, outputs: dict) -> list[str]:
    return [world.ipvsadm.run(f"-L -n --{listing}") for listing in step["listings"]]


ACTIONS = {"send": send, "sysctl": sysctl, "ipvsadm": ipvsadm, "show": show, "stats": stats}


def connections() -> str:
    """Return the listing of connections, read until it is the same twice.

    The kernel finds the next page by position in a table that all worlds share: an entry that another world's
    timer removes meanwhile makes it leave one out.
    """
    text, seen = read("ip_vs_conn"), None
    while (entries := sorted(line.split()[:8] for line in text.splitlines())) != seen:
        text, seen = read("ip_vs_conn"), entries
    return text


def read(name: str) -> str:
    with open(f"/proc/net/{name}") as file:
        return file.read()


def main(kind: str, scenarios: str, results: str) -> None:
    """Play every scenario in the file *scenarios*."""
    waiting: list[tuple] = []
    with open(scenarios) as todo, open(results, "w") as done:
        for number, line in enumerate(todo):
            while waiting and (waiting[0][0] <= time.monotonic() or is_full(waiting)):
                resume(heapq.heappop(waiting), waiting, done)
            transcript = {"number": number, "kind": kind}
            resume((0.0, number, playing(json.loads(line), transcript), transcript), waiting, done)
        while waiting:
            resume(heapq.heappop(waiting), waiting, done)


def is_full(waiting: list[tuple]) -> bool:
    """Return whether no further scenario should begin now."""
    soon = time.monotonic() + 1
    return len(waiting) >= WORLDS or sum(due < soon for due, *_ in waiting) >= BUSY_WORLDS


def resume(entry: tuple, waiting: list[tuple], done: TextIO) -> None:
    """Let a scenario go on when it is due, until it waits again or its transcript is done."""
    due, number, player, transcript = entry
    time.sleep(max(0.0, due - time.monotonic()))
    try:
        seconds = next(player)
    except StopIteration:
        done.write(json.dumps(transcript, separators=(",", ":")) + "\n")
        done.flush()
        os.fsync(done.fileno())         # or the host will not see it before the guest halts, if ever
    else:
        heapq.heappush(waiting, (time.monotonic() + seconds, number, player, transcript))


if __name__ == "__main__":
    main(*sys.argv[1:])
