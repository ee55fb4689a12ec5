"""From measurements to tables: medians and spreads, ratios pair by pair, and which goals are met.

A ratio of two columns is taken within each round and then its median over the rounds, because what slows
the machine down for a while slows neighbours alike.  How far "the same twice" lies apart (floor again ÷
floor) is the resolution of the whole run: a goal missed by less than that counts as met within the spread.
"""
from __future__ import annotations

from statistics import median, quantiles
from typing import NamedTuple

from lbq.bench.series import MILLION, Setting, setting_of
from lbq.bench.workloads import WORKLOADS, Row


class Goal(NamedTuple):
    """*number* of *workload*, *subject* ÷ *reference*: at least *limit*, or at most when *at_most*."""

    workload: str
    number: str
    subject: str
    reference: str
    limit: float
    at_most: bool = False


FLOORS = {"lbq": ("floor", "floor-again"), "steer": ("floor-headers", "floor-headers-again")}   # of a subject, twice
EQUALS = {**FLOORS, "offload": FLOORS["lbq"]}       # two columns that should not differ: how well a subject is measured
GOALS = [
    *(Goal(workload, number, subject, FLOORS[subject][0], 0.95) for workload, number in (
        ("bulk", "gbit_per_second"), ("download", "gbit_per_second"), ("connections", "per_second"),
        ("requests", "per_second")) for subject in FLOORS),
    *(Goal(workload, "gbit_per_second", subject, "plain", limit) for workload in ("bulk", "download")
      for subject, limit in (("lbq", 0.65), ("steer", 0.9))),
    *(Goal(workload, "gbit_per_second", "steer", "haproxy", 2.0) for workload in ("bulk", "download")),
    *(Goal(workload, "gbit_per_second", "offload", "dnat", 0.98) for workload in ("bulk", "download")),
    *(Goal(workload, "per_second", "offload", "dnat", 0.95) for workload in ("connections", "requests")),
    *(Goal("connections", "per_second", subject, proxy, 1.0) for subject in EQUALS for proxy in ("haproxy", "nginx")),
    *(Goal("requests", "per_second", "steer", proxy, 1.0) for proxy in ("haproxy", "nginx")),
    Goal("requests", "p99_ms", "lbq", "haproxy", 1.0, at_most=True),
    *(Goal(workload, "director_us_per_packet", subject, FLOORS[subject][0], 1.05, at_most=True)
      for workload in ("udp", "flood") for subject in FLOORS),
]


class Limit(NamedTuple):
    """*number* of what is measured in memory with *setting*: at most *most*."""

    setting: Setting
    number: str
    heading: str
    most: float


LIMITS = [
    Limit(Setting(), "established_ns", "established packet in memory, ns", 40),
    Limit(Setting(4 * MILLION), "established_ns", "established packet in memory, ns", 70),
    Limit(Setting(200_000, servers=16), "opening_ns", "new connection in memory, ns", 500),
    Limit(Setting(4 * MILLION), "bytes_per_flow", "resident memory of the packet process, bytes a connection", 96),
    Limit(Setting(4 * MILLION, ipv6=True), "bytes_per_flow",
          "resident memory of the packet process, bytes a connection", 160),
]
MEMORY_COLUMNS = {"established_ns": "established packet, ns", "opening_ns": "new connection, ns",
                  "bytes_per_flow": "bytes a connection"}
SOUND_FLOORS = {"floor": 0.68, "floor-headers": 0.90}    # of plain forwarding's bulk TCP, at least
MISSED = "**missed**"
NOTHING = "–"


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    middle: float
    high: float

    def text(self, digits: int) -> str:
        """Return it with its quartiles, or alone where they say nothing."""
        if self.low == self.high:
            return f"{self.middle:,.{digits}f}"
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

    def noise(self, workload: str, number: str, subject: str) -> float | None:
        """Return how far two equal columns lie from each other: a quartile of their ratio, less 1.

        For *subject* these are its floor, measured twice, or else the plain one.  None when it was not.
        """
        floor, again = EQUALS[subject]
        again = self.ratio(workload, number, again, floor)
        return max(abs(again.low - 1), abs(again.high - 1)) if again else None

    def difference(self, workload: str, number: str, column: str, reference: str) -> Spread | None:
        """Return median and quartiles of *column* − *reference*, taken round by round."""
        ours, theirs = (self.by_round(workload, name, number) for name in (column, reference))
        return spread([ours[at] - theirs[at] for at in ours if at in theirs])

    def missing(self, workload: str, column: str) -> str:
        """Return why *column* has no values for *workload*."""
        return self.run["missing"].get(f"{workload} {column}", "")

    def workloads(self) -> list[str]:
        """Return the names of the workloads of this run, in the order of the table."""
        tried = {row["workload"] for row in self.run["measurements"]}
        tried |= {key.partition(" ")[0] for key in self.run["missing"]}
        return [name for name in WORKLOADS if name in tried]

    def settings(self) -> list[Setting]:
        """Return what was measured in memory, in the order of the table."""
        settings = {setting_of(row) for row in self.run.get("memory", [])}
        return sorted(settings, key=lambda setting: (setting.servers, setting.services > 1, setting.ipv6, setting))

    def in_memory(self, setting: Setting, number: str) -> Spread | None:
        """Return median and quartiles of *number*, measured in memory with *setting*."""
        return spread([row[number] for row in self.run.get("memory", [])
                       if setting_of(row) == setting and number in row])


def values_table(results: Results) -> list[str]:
    """Return the table of medians: a row for a number, a column for a forwarder."""
    if not results.columns:
        return []
    lines = head("median [quartiles]", results.columns)
    notes: list[str] = []
    for name in results.workloads():
        for row in WORKLOADS[name].rows:
            cells = [_cell(results, name, column, row, notes) for column in results.columns]
            if set(cells) != {NOTHING}:
                lines.append(table_row([row.heading, *cells]))
    remarks = [*(f"{at}) {note}  " for at, note in enumerate(notes, start=1)), *_errors(results)]
    return [*lines, "", *remarks] if remarks else lines


def _errors(results: Results) -> list[str]:
    """Return a line for each column through which requests failed: its other numbers mean little."""
    lines = []
    for name in results.workloads():
        for column, title in results.columns.items():
            count = sum(results.by_round(name, column, "errors").values())
            if count:
                lines.append(f"{WORKLOADS[name].title} through {title}: {count:,.0f} requests failed  ")
    return lines


def _cell(results: Results, workload: str, column: str, row: Row, notes: list[str]) -> str:
    """Return one cell; an empty one refers to the note that says why."""
    if row.minus:
        values = results.difference(workload, row.number, column, row.minus)
    else:
        values = results.values(workload, column, row.number)
    if values:
        return values.text(row.digits)
    reason = results.missing(workload, column)
    if row.minus or not reason:
        return NOTHING
    if reason not in notes:
        notes.append(reason)
    return f"{NOTHING} {notes.index(reason) + 1})"


def ratios_table(results: Results) -> list[str]:
    """Return each column ÷ the floor, the floor against itself among them."""
    if "floor" not in results.columns:
        return []
    columns = {name: title for name, title in results.columns.items() if name != "floor"}
    lines = head("÷ floor, pair by pair", columns)
    for name in results.workloads():
        for row in WORKLOADS[name].rows:
            if row.number == "lost" or row.minus:
                continue
            ratios = [results.ratio(name, row.number, column, "floor") for column in columns]
            if any(ratios):
                lines.append(table_row([row.heading, *(ratio.text(2) if ratio else NOTHING for ratio in ratios)]))
    return lines


def goals_table(results: Results) -> list[str]:
    """Return each goal, what was reached, and whether that is enough."""
    lines = [table_row(["goal", "reached", "resolution", ""]), table_row(["---", "---:", "---:", "---"])]
    for goal in GOALS:
        ratio = results.ratio(goal.workload, goal.number, goal.subject, goal.reference)
        if ratio is None:
            continue
        noise = results.noise(goal.workload, goal.number, goal.subject)
        sign = "≤" if goal.at_most else "≥"
        title = WORKLOADS[goal.workload].title + (", p99" if goal.number == "p99_ms" else "")
        what = f"{title}: {results.columns[goal.subject]} {sign} "
        what += f"{goal.limit} × {results.columns[goal.reference]}"
        verdict = judge(goal, ratio.middle, noise or 0.0)
        verdict += _excuse(results, goal) if verdict == MISSED else ""
        lines.append(table_row([what, ratio.text(2), "" if noise is None else f"± {noise:.0%}", verdict]))
    for limit in LIMITS:
        values = results.in_memory(limit.setting, limit.number)
        if values:
            what = f"{limit.heading}; {limit.setting.label()} ≤ {limit.most}"
            verdict = "met" if values.middle <= limit.most else MISSED
            lines.append(table_row([what, values.text(1), "", verdict]))
    return lines if len(lines) > 2 else []


def floors_line(results: Results) -> list[str]:
    """Return whether the floors are what they should be, next to plain forwarding; nothing when none was measured.

    A floor that is itself too slow flatters whatever is held against it.
    """
    reached = {name: results.ratio("bulk", "gbit_per_second", name, "plain") for name in SOUND_FLOORS}
    said = [f"{results.columns[name]} {ratio.middle:.2f} (at least {SOUND_FLOORS[name]:.2f})"
            for name, ratio in reached.items() if ratio]
    valid = all(ratio.middle >= SOUND_FLOORS[name] for name, ratio in reached.items() if ratio)
    return [f"Floors {'valid' if valid else '**invalid**'}, of plain forwarding's bulk TCP: "
            f"{', '.join(said)}."] if said else []


def judge(goal: Goal, reached: float, noise: float) -> str:
    """Return whether *reached* is enough, where two equal columns differ by *noise*."""
    distance = reached / goal.limit if goal.at_most else goal.limit / reached
    if distance <= 1:
        return "met"
    return "met within the spread" if distance <= 1 + noise else MISSED


def _excuse(results: Results, goal: Goal) -> str:
    """Return what the floor itself reaches, where that is not the goal: nothing over a queue can do more."""
    if goal.subject not in FLOORS or goal.reference == (floor := FLOORS[goal.subject][0]):
        return ""
    reached = results.ratio(goal.workload, goal.number, floor, goal.reference)
    if reached is None or (reached.middle <= goal.limit if goal.at_most else reached.middle >= goal.limit):
        return ""
    return f" (the floor itself: {reached.middle:.2f})"


def memory_table(results: Results) -> list[str]:
    """Return what connections cost in memory, by their number, by services, by servers."""
    settings = results.settings()
    if not settings:
        return []
    lines = head("in memory, fast engine", MEMORY_COLUMNS)
    for setting in settings:
        # Of few connections, the bytes are the interpreter's.
        numbers = [number for number in MEMORY_COLUMNS if number != "bytes_per_flow" or setting.flows >= MILLION]
        cells = {number: results.in_memory(setting, number) for number in numbers}
        lines.append(table_row([setting.label(), *(cells[number].text(1) if cells.get(number) else NOTHING
                                              for number in MEMORY_COLUMNS)]))
    return lines


def micro_table(micro: dict) -> list[str]:
    """Return the micro benchmarks, compiled beside interpreted."""
    if not micro:
        return []
    compiled, interpreted = micro["compiled"], micro["interpreted"]
    lines = [table_row(["in memory, one thread, ns", "compiled", "interpreted"]), table_row(["---", "---:", "---:"])]
    for name in {**compiled, **interpreted}:
        cells = [f"{numbers[name]:,.0f}" if name in numbers else NOTHING for numbers in (compiled, interpreted)]
        lines.append(table_row([name.replace("_", " "), *cells]))
    return lines


def _not_measured(results: Results) -> list[str]:
    """Return why something could not be measured in memory: there, no cell says so."""
    through = {f"{name} {column}" for name in WORKLOADS for column in results.columns}
    return [f"not measured: {reason}  " for what, reason in results.run["missing"].items() if what not in through]


def head(what: str, columns: dict[str, str]) -> list[str]:
    """Return the first two lines of a table with a column for each forwarder."""
    return [table_row([what, *columns.values()]), table_row(["---", *["---:"] * len(columns)])]


def table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(run: dict) -> str:
    """Return the whole report of *run*."""
    results = Results(run)
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    head = [f"{run['machine']}, Linux {run['kernel']}, {run['date']}; {versions}.",
            f"`{run['command']}`: rounds: {run['rounds']}, {run['seconds']} s a measurement."]
    parts = [head, floors_line(results), goals_table(results), values_table(results), ratios_table(results),
             memory_table(results), _not_measured(results), micro_table(run.get("micro", {}))]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"
