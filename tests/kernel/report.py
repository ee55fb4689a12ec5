"""Compares transcripts with lbq's engines and adds up: scheduler x profile x decisions x differences."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.kernel import compare
from tests.kernel.player import Player

TICKS = "a matter of ticks"
# Decisions in the full set, by kernel and family.
FULL = {("classic", 4): 100_000, ("new", 4): 10_000, ("classic", 6): 20_000, ("new", 6): 5_000}
REPORTS: dict[tuple[str, int], Report] = {}     # of this run


@dataclass
class Commands:
    """What became of command lines: how many, of how many in full and in a slice, and where they differed."""

    full: int = 20_000
    slice: int = 1_000
    processes: int = 500
    processes_slice: int = 20
    lines: int = 0
    answers: Counter = field(default_factory=Counter)       # by exit status
    differences: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the report table."""
        kinds = ", ".join(f"{count:,} exits {status}" for status, count in sorted(self.answers.items()))
        return f"{self.lines:,} of {self.full:,} command lines ({kinds}; listings included): " \
               f"{len(self.differences)} sequences differ"


COMMANDS = Commands()


@dataclass
class Difference:
    """Where a scenario first went another way than in the kernel."""

    scenario: dict
    number: int         # of the step
    engine: str
    what: str

    def __str__(self) -> str:
        step = self.scenario["steps"][self.number]
        return f"seed {self.scenario['seed']} step {self.number} ({self.engine}): {step}: {self.what}"


@dataclass
class Report:
    """What was compared so far."""

    profile: str
    engines: dict
    family: int = 4
    decisions: Counter = field(default_factory=Counter)
    compared: Counter = field(default_factory=Counter)
    differing: Counter = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    late: int = 0       # scenarios that this machine was too busy to play to the end as they are meant
    ticks: int = 0      # compared only up to where two timers ended almost together

    def add(self, scenario: dict, transcript: dict) -> None:
        """Play *scenario* on every engine and compare with what the kernel did."""
        self.late += transcript["late"]
        self.compare(scenario, [compare.common(step, result, self.profile) for step, result in
                                zip(scenario["steps"], transcript["results"], strict=True)], transcript["at"])

    def compare(self, scenario: dict, expected: list, at: list[float]) -> None:
        """Play *scenario* on every engine and compare with the *expected* answers, in the common form."""
        reached = len(expected)
        for name, engine in self.engines.items():
            found = first_difference(scenario, expected, at, engine(profile=self.profile))
            if found:
                reached = min(reached, found[0])
                if found[1] == TICKS:
                    self.ticks += 1
                    continue
                self.differences.append(Difference(scenario, found[0], name, found[1]))
                self.differing[scheduler_of(scenario, found[0])] += 1
        for step, result in zip(scenario["steps"][:reached], expected, strict=False):
            self.compared[step["do"]] += 1
            if "by" in step and result is not None and not (result and result[0].startswith("host")):
                self.decisions[step["by"]] += 1

    def name(self) -> str:
        return f"{self.profile}, IPv{self.family}"

    def table(self) -> str:
        """Return the report table."""
        lines = [f"{'scheduler':<12}{'profile':<14}{'decisions':>10}{'differences':>13}"]
        lines += [f"{name:<12}{self.name():<14}{self.decisions[name]:>10,}{self.differing[name]:>13,}"
                  for name in sorted({*self.decisions, *self.differing})]
        lines.append(f"{'all':<12}{self.name():<14}{self.decisions.total():>10,}{self.differing.total():>13,}")
        if self.late:
            lines.append(f"{self.late} scenarios not compared to the end: the machine was too busy for their timeouts")
        if self.ticks:
            lines.append(f"{self.ticks} times not compared to the end: two timers ended within a tick of each other")
        return "\n".join(lines)


def first_difference(scenario: dict, expected: list, at: list[float], engine) -> tuple[int, str] | None:
    """Return (step number, what differs) of the first step that *engine* did not do as *expected*, or None."""
    player = Player(engine, scenario["world"])
    for number, (step, kernel, seconds) in enumerate(zip(scenario["steps"], expected, at, strict=True)):
        lbq = player.play(step, seconds)
        if what := compare.difference(step, kernel, lbq):
            return number, TICKS if compare.is_matter_of_ticks(step, kernel, lbq) else what
    return None


def scheduler_of(scenario: dict, number: int) -> str:
    """Return which scheduler was at work when step *number* happened."""
    return next((step["by"] for step in reversed(scenario["steps"][:number + 1]) if "by" in step), "none")
