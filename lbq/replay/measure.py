"""What is measured while flows are played: where they go, how many are in progress at each server, how even that is.

The time of a capture is cut into slices, equal ones, and once more at every change.  Within a slice weights are
constant, so what a server's part of it would have been is a plain fraction: its weight of all weights.
"""
from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

SECOND = 1_000_000_000
PERCENTILE = 0.99


@dataclass
class Slice:
    """A piece of time: from when, how long, the servers' weights in it, what began there, flows·ns in progress."""

    start_ns: int
    length_ns: int
    weights: list[int]
    flows: list[int]
    load: list[int]


@dataclass
class Measured:
    """What one scheduler made of the traffic, by server where it is a list."""

    scheduler: str
    flows: list[int]
    packets: list[int]
    octets: list[int]
    peak: list[int]
    p99: list[int]
    slices: list[Slice]
    refused: int = 0            # flows that no server took
    forgotten: int = 0          # flows that the table had forgotten before a packet of theirs came
    cut: int = 0                # flows in progress whose server was gone
    moved: int = 0              # flows in progress that went on at another server
    later: int = 0              # flows that began after the first change ...
    displaced: int = 0          # ... of which so many went to another server than without any change ...
    had_to: int = 0             # ... and so many had to: theirs took none any more
    seconds: float = 0.0
    chosen: list[int] = field(default_factory=list)     # by flow: the server it began at, -1 for none


class Meter:
    """Counts flows in progress at each server, exactly, as they come and go."""

    def __init__(self, servers: int):
        self.live = [0] * servers
        self.flows = [0] * servers
        self.peak = [0] * servers
        self.slices: list[Slice] = []
        self._since = [0] * servers
        self._levels: list[defaultdict[int, int]] = [defaultdict(int) for _ in range(servers)]
        self._load = [0] * servers
        self._began = [0] * servers         # flows of the present slice
        self._start = 0

    def begin(self, server: int, now: int) -> None:
        """Note that a new flow goes to *server*."""
        self.flows[server] += 1
        self._began[server] += 1
        self.enter(server, now)

    def enter(self, server: int, now: int) -> None:
        """Note that a flow is in progress at *server* from now on."""
        self._settle(server, now)
        self.live[server] += 1
        if self.live[server] > self.peak[server]:
            self.peak[server] = self.live[server]

    def leave(self, server: int, now: int) -> None:
        """Note that a flow is in progress at *server* no more."""
        self._settle(server, now)
        self.live[server] -= 1

    def cut(self, now: int, weights: list[int]) -> None:
        """End a slice, in which the servers had these *weights*."""
        for server in range(len(self.live)):
            self._settle(server, now)
        if now > self._start or any(self._began):
            self.slices.append(Slice(self._start, now - self._start, list(weights), self._began, self._load))
            self._began, self._load = [0] * len(self.live), [0] * len(self.live)
        self._start = now

    def p99(self) -> list[int]:
        """Return how many flows a server had in progress, or fewer, for 99 % of the time."""
        return [_percentile(levels, peak) for levels, peak in zip(self._levels, self.peak, strict=True)]

    def _settle(self, server: int, now: int) -> None:
        elapsed = now - self._since[server]
        if elapsed:
            self._levels[server][self.live[server]] += elapsed
            self._load[server] += self.live[server] * elapsed
            self._since[server] = now


def _percentile(levels: dict[int, int], peak: int) -> int:
    wanted = PERCENTILE * sum(levels.values())
    reached = 0
    for level in sorted(levels):
        reached += levels[level]
        if reached >= wanted:
            return level
    return peak                 # all of it at one moment


def compare(changed: Measured, plain: Measured, first: Sequence[int], origin: int, change_ns: int) -> None:
    """Note in *changed* which flows from *change_ns* on went elsewhere than in *plain*, a play without changes.

    *first* is when each flow began, by a clock that says *origin* when the play begins; a change has the play's time.
    """
    starts = [piece.start_ns for piece in changed.slices]
    for number, moment in enumerate(first):
        began = moment - origin
        if began < change_ns:
            continue
        changed.later += 1
        was = plain.chosen[number]
        if was == changed.chosen[number]:
            continue
        changed.displaced += 1
        if was >= 0:
            changed.had_to += changed.slices[bisect_right(starts, began) - 1].weights[was] == 0


def shares(numbers: list[int]) -> list[float]:
    """Return what part of their sum each number is."""
    total = sum(numbers)
    return [number / total if total else 0.0 for number in numbers]


def imbalance(slices: list[Slice], what: str) -> float | None:
    """Return how many times its part, by weight, the server got that is worst off.

    *what* is ``flows``, taken over all the time, or ``load``, flows in progress: the mean of what it is in each
    slice, a busy one counting for more.  1.0 is perfectly even; None: there is nothing to divide.
    """
    if what == "flows":
        return _worst([sum(column) for column in zip(*(piece.flows for piece in slices), strict=True)],
                      [sum(column) for column in zip(*(_due(piece, piece.flows) for piece in slices), strict=True)])
    weighed = [(_worst(piece.load, _due(piece, piece.load)), sum(piece.load)) for piece in slices]
    weighed = [(worst, load) for worst, load in weighed if worst is not None]
    total = sum(load for _, load in weighed)
    return sum(worst * load for worst, load in weighed) / total if total else None


def _due(piece: Slice, numbers: list[int]) -> list[float]:
    """Return each server's part, by weight, of all that is in *numbers*."""
    total, weight = sum(numbers), sum(piece.weights)
    return [total * own / weight if weight else 0.0 for own in piece.weights]


def _worst(numbers: list[int], due: list[float]) -> float | None:
    """Return the largest of *numbers* ÷ what was *due*, None when nothing was."""
    return max((number / part for number, part in zip(numbers, due, strict=True) if part), default=None)
