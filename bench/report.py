"""From measurements to a table: medians and spreads, ratios pair by pair, and which goals are met.

``python bench/report.py bench/results/FILE.json`` prints the Markdown again.

A ratio of two columns is taken within each round and then its median over the rounds, because what slows
the machine down for a while slows neighbours alike.  How far "the same twice" lies apart (floor again ÷
floor) is the resolution of the whole run: a goal missed by less than that counts as met within the spread.
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from workloads import WORKLOADS


class Goal(NamedTuple):
    """*number* of *workload*, lbq fast ÷ *reference*: at least *limit*, or at most when *at_most*."""

    workload: str
    number: str
    reference: str
    limit: float
    at_most: bool = False


GOALS = [
    Goal("bulk", "gbit_per_second", "floor", 0.85),
    Goal("bulk", "gbit_per_second", "plain", 0.6),
    Goal("bulk4", "gbit_per_second", "floor", 0.85),
    Goal("bulk4", "gbit_per_second", "plain", 0.6),
    Goal("download", "gbit_per_second", "floor", 0.85),
    Goal("download", "gbit_per_second", "plain", 0.6),
    Goal("udp", "director_us_each", "floor", 1.2, at_most=True),
    Goal("flood", "director_us_each", "floor", 1.2, at_most=True),
    Goal("connections", "per_second", "floor", 0.85),
    Goal("connections", "per_second", "haproxy", 1.0),
]
SUBJECT = "lbq"
TITLES = {number: heading for load in WORKLOADS.values() for number, heading, _ in load.rows}


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    middle: float
    high: float

    def text(self, digits: int) -> str:
        return f"{self.middle:,.{digits}f} [{self.low:,.{digits}f}–{self.high:,.{digits}f}]"


def spread(values: list[float]) -> Spread | None:
    """Return the median and quartiles of *values*, or None when there are none."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0]) if values else None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, median(values), high)


class Results:
    """One run's measurements, as the JSON file holds them."""

    def __init__(self, run: dict):
        self.run = run
        self.columns: dict[str, str] = run["columns"]

    def by_round(self, workload: str, column: str, number: str) -> dict[int, float]:
        """Return the values of *number* by round."""
        return {row["round"]: row["numbers"][number] for row in self.run["measurements"]
                if row["workload"] == workload and row["column"] == column and number in row["numbers"]}

    def values(self, workload: str, column: str, number: str) -> Spread | None:
        """Return median and quartiles of *number* over the rounds."""
        return spread(list(self.by_round(workload, column, number).values()))

    def ratio(self, workload: str, number: str, column: str, reference: str) -> Spread | None:
        """Return median and quartiles of *column* ÷ *reference*, taken round by round."""
        ours, theirs = (self.by_round(workload, name, number) for name in (column, reference))
        return spread([ours[at] / theirs[at] for at in ours if theirs.get(at)])

    def noise(self, workload: str, number: str) -> float:
        """Return how far the floor lies from itself: the larger distance of a quartile of its ratio from 1."""
        again = self.ratio(workload, number, "floor-again", "floor")
        return max(abs(again.low - 1), abs(again.high - 1)) if again else 0.0

    def missing(self, workload: str, column: str) -> str:
        """Return why *column* has no values for *workload*."""
        return self.run["missing"].get(f"{workload} {column}", "")

    def workloads(self) -> list[str]:
        """Return the names of the workloads of this run, in the order of the table."""
        return [name for name in WORKLOADS if any(row["workload"] == name for row in self.run["measurements"])]


def values_table(results: Results) -> list[str]:
    """Return the table of medians: a row for a number, a column for a forwarder."""
    lines = [_row(["median [quartiles]", *results.columns.values()]), _row(["---", *["---:"] * len(results.columns)])]
    notes: list[str] = []
    for name in results.workloads():
        for number, heading, digits in WORKLOADS[name].rows:
            cells = [_cell(results, name, column, number, digits, notes) for column in results.columns]
            lines.append(_row([heading, *cells]))
    return [*lines, "", *[f"{at}) {note}  " for at, note in enumerate(notes, start=1)]]


def _cell(results: Results, workload: str, column: str, number: str, digits: int, notes: list[str]) -> str:
    """Return one cell; an empty one refers to the note that says why."""
    values = results.values(workload, column, number)
    if values and values.high > 0:
        return values.text(digits)
    reason = results.missing(workload, column)
    if not reason:
        return "–"
    if reason not in notes:
        notes.append(reason)
    return f"– {notes.index(reason) + 1})"


def ratios_table(results: Results) -> list[str]:
    """Return each column ÷ the floor, the floor against itself among them."""
    columns = {name: title for name, title in results.columns.items() if name != "floor"}
    lines = [_row(["÷ floor, pair by pair", *columns.values()]), _row(["---", *["---:"] * len(columns)])]
    for name in results.workloads():
        for number, heading, _ in WORKLOADS[name].rows:
            ratios = [results.ratio(name, number, column, "floor") for column in columns]
            lines.append(_row([heading, *[ratio.text(2) if ratio and ratio.high > 0 else "–" for ratio in ratios]]))
    return lines


def goals_table(results: Results) -> list[str]:
    """Return each goal, what was reached, and whether that is enough."""
    lines = [_row(["goal", "reached", "floor ÷ itself", ""]), _row(["---", "---:", "---:", "---"])]
    for goal in GOALS:
        ratio = results.ratio(goal.workload, goal.number, SUBJECT, goal.reference)
        if ratio is None:
            continue
        noise = results.noise(goal.workload, goal.number)
        sign = "≤" if goal.at_most else "≥"
        heading = next(text for number, text, _ in WORKLOADS[goal.workload].rows if number == goal.number)
        lines.append(_row([f"{heading.removeprefix('… ')}, {goal.workload}: lbq {sign} {goal.limit} × {results.columns[goal.reference]}",
                           ratio.text(2), f"1 ± {noise:.2f}", judge(goal, ratio.middle, noise)]))
    return lines


def judge(goal: Goal, reached: float, noise: float) -> str:
    """Return whether *reached* is enough, where two equal columns differ by *noise*."""
    distance = reached / goal.limit if goal.at_most else goal.limit / reached
    if distance <= 1:
        return "met"
    return "met within the spread" if distance <= 1 + noise else "**missed**"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(run: dict) -> str:
    """Return the whole report of *run*."""
    results = Results(run)
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    head = [f"{run['machine']}, Linux {run['kernel']}, {run['date']}; {versions}.",
            f"`{run['command']}`: {run['rounds']} interleaved rounds of {run['seconds']} s a measurement."]
    parts = [head, values_table(results), ratios_table(results), goals_table(results)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
