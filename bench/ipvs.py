"""lbq beside kernel IPVS, in both kernel guests (``make bench-ipvs``).

    python bench/ipvs.py [--quick] [--kernel classic|new] [--output FILE.json]
    python bench/ipvs.py --show FILE.json

This kernel may have no IPVS; those of the guests do (tests/kernel/guest.py).  Each is booted once, alone, and runs
``lbq bench`` with all columns: plain forwarding, kernel IPVS, lbq in each data path, the floors.  Ratios are taken
within a round; a guest is slower than this machine, by the same for all.
"""
from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from lbq.bench import report
from lbq.bench.report import FLOORS, MISSED, Goal, Results
from lbq.bench.run import ROUNDS, SECONDS, expected_seconds
from lbq.bench.workloads import WORKLOADS
from lbq.host.iptables import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))      # last: the lbq to be measured is the installed one

from tests.kernel.guest import KINDS, Guest, GuestError  # noqa: E402
from tests.kernel.session import complete_lines  # noqa: E402

TITLES = {"classic": "User-Mode Linux, one processor", "new": "Debian's kernel under qemu, two emulated processors"}
COLUMNS = ["plain", "ipvs", "ipvs-dr", "ipvs-tun", "lbq", "lbq-dr", "lbq-tun", "steer", "steer-dr", "steer-tun",
           "offload", "floor", "floor-again", "floor-headers", "floor-headers-again"]
MEASURED = ["window", "bulk", "connections"]
PEERS = {       # whom each kernel IPVS is held against
    "ipvs": ["lbq", "steer", "offload", "plain", "floor", "floor-headers"],
    "ipvs-dr": ["lbq-dr", "steer-dr"],
    "ipvs-tun": ["lbq-tun", "steer-tun"],
}
AGAIN = {"floor": "floor-again", "floor-headers": "floor-headers-again"}
# The classic guest's kernel has nf_tables, and no table of the family ip in it.
SETTINGS = {"classic": {ENVIRONMENT: "iptables-legacy-restore"}, "new": {}}
BOOT_SECONDS = {"classic": 120, "new": 600}
SLOWER = {"classic": 3, "new": 6}       # than expected of this machine, at most
MEGABYTES = 2048
WORST_NOISE = 0.25      # between equal columns: a goal closer to its limit than a worse one is not decided
UNDECIDED = "undecided: the machine was too busy"


class Either(NamedTuple):
    """A goal that one of *subjects* must reach: *number* of *workload* at least that of *reference*."""

    workload: str
    number: str
    subjects: tuple[str, str]
    reference: str


GOALS = [Either(workload, number, subjects, reference)
         for workload, number in (("window", "per_second"), ("bulk", "gbit_per_second"))
         for subjects, reference in ((("lbq", "steer"), "ipvs"), (("lbq-dr", "steer-dr"), "ipvs-dr"))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench/ipvs.py", description="Measure lbq beside kernel IPVS in kernel guests.")
    add = parser.add_argument
    add("--kernel", choices=KINDS, action="append", help="one guest only (default: one after the other)")
    add("--columns", default=",".join(COLUMNS), help="as of lbq bench")
    add("--workloads", default=",".join(MEASURED), help="as of lbq bench")
    add("--rounds", type=int, default=ROUNDS)
    add("--quick", action="store_true", help="one round")
    add("--output", type=Path, help="keep every number")
    add("--show", type=Path, help="measure nothing: show what was kept")
    return parser


def measure(kind: str, said: argparse.Namespace) -> dict:
    """Boot a guest of this *kind*, let it measure, and return its run as ``lbq bench --json`` prints it."""
    columns, workloads = said.columns.split(","), said.workloads.split(",")
    rounds = 1 if said.quick else said.rounds
    seconds = BOOT_SECONDS[kind] + SLOWER[kind] * int(expected_seconds(columns, workloads, rounds, SECONDS))
    with tempfile.TemporaryDirectory(prefix="lbq-ipvs-", dir="/var/tmp") as scratch:
        numbers, progress = Path(scratch, "numbers"), Path(scratch, "progress")
        progress.touch()
        benchmark = [sys.executable, "-P", "-m", "lbq", "bench", "--json", "--columns", said.columns,
                     "--workloads", said.workloads, "--rounds", str(rounds)]
        with Guest(kind, in_guest(benchmark, SETTINGS[kind], numbers, progress), seconds=seconds,
                   megabytes=MEGABYTES) as guest, open(progress) as lines:
            for line in follow(guest, lines):
                print(f"{kind}: {line.rstrip()}", file=sys.stderr, flush=True)
            guest.check_success()
        return json.loads(numbers.read_text())


def in_guest(command: list[str], settings: dict[str, str], numbers: Path, progress: Path) -> list[str]:
    """Return what runs *command* there; a line it says is seen here at once only when it is synced."""
    variables = "".join(f"export {name}={shlex.quote(value)}; " for name, value in settings.items())
    follow = f'while read -r line; do echo "$line" | tee -a {progress}; sync {progress}; done'
    return ["bash", "-c", f"set -o pipefail; {variables}{{ {shlex.join(command)} 2>&1 >{numbers}; }} | {follow}"]


def follow(guest: Guest, lines: TextIO) -> Iterator[str]:
    """Yield what the guest has said, until it ends."""
    is_running = True
    while is_running:
        is_running = guest.is_running()     # before reading: what it wrote last is read, too
        yield from complete_lines(lines)
        time.sleep(0.2)


def present(runs: dict[str, dict]) -> str:
    """Return the report of all guests; a run may also be ``{"missing": reason}``."""
    return "\n".join(f"## {TITLES[kind]} ({kind})\n\n" + _tables(run) for kind, run in runs.items())


def _tables(run: dict) -> str:
    if "measurements" not in run:
        return f"Not measured: {run['missing']}\n"
    results = Results(run)
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    parts = [[f"{run['machine']}, Linux {run['kernel']}, {run['date']}, rounds: {run['rounds']}, "
              f"{run['seconds']} s a measurement; {versions}."],
             goals_table(results), ratios_table(results), report.values_table(results)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def goals_table(results: Results) -> list[str]:
    """Return each goal, what rewrite and steer reach, and whether the better one is enough."""
    lines = [report.table_row(["goal", "rewrite", "steer", "resolution", ""]),
             report.table_row(["---", "---:", "---:", "---:", "---"])]
    for goal in GOALS:
        if goal.workload in results.workloads() and goal.reference in results.columns:
            lines.append(report.table_row(_judged(results, goal)))
    return lines if len(lines) > 2 else []


def _judged(results: Results, goal: Either) -> list[str]:
    """Return the cells of one goal."""
    what = f"{WORKLOADS[goal.workload].title}: lbq ≥ 1.0 × {results.columns[goal.reference]}"
    ratios = {subject: results.ratio(goal.workload, goal.number, subject, goal.reference) for subject in goal.subjects}
    reached = {subject: ratio for subject, ratio in ratios.items() if ratio}
    cells = [ratio.text(2) if ratio else report.NOTHING for ratio in ratios.values()]
    if not reached:
        return [what, *cells, "", "not measured"]
    best = max(reached, key=lambda subject: reached[subject].middle)
    path = best.partition("-")[0]
    noise = results.noise(goal.workload, goal.number, path)
    verdict = _verdict(Goal(goal.workload, goal.number, path, goal.reference, 1.0), reached[best].middle, noise or 0.0)
    if verdict == MISSED:
        verdict += _excuse(results, goal, path)
    return [what, *cells, "" if noise is None else f"± {noise:.0%}", verdict]


def _verdict(goal: Goal, reached: float, noise: float) -> str:
    """Return what report.judge() says, unless equal columns differ by too much to tell."""
    if noise > WORST_NOISE and max(reached, 1 / reached) <= 1 + noise:
        return UNDECIDED
    return report.judge(goal, reached, noise)


def _excuse(results: Results, goal: Either, path: str) -> str:
    """Return what the floor of *path* reaches, when that is not enough either; there is none of DR."""
    if goal.reference != "ipvs":
        return ""
    floor = results.ratio(goal.workload, goal.number, FLOORS[path][0], goal.reference)
    return f" (the floor itself: {floor.middle:.2f})" if floor and floor.middle < 1 else ""


def ratios_table(results: Results) -> list[str]:
    """Return each column ÷ kernel IPVS of its method, and each floor ÷ itself, pair by pair."""
    pairs = [(column, reference) for reference, columns in PEERS.items() for column in columns]
    pairs += [(again, floor) for floor, again in AGAIN.items()]
    lines = [report.table_row(["pair by pair", *(WORKLOADS[name].title for name in results.workloads())]),
             report.table_row(["---", *["---:"] * len(results.workloads())])]
    for column, reference in pairs:
        ratios = [results.ratio(name, WORKLOADS[name].rows[0].number, column, reference)
                  for name in results.workloads()]
        if any(ratios):
            lines.append(report.table_row([f"{results.columns[column]} ÷ {results.columns[reference]}",
                                           *(ratio.text(2) if ratio else report.NOTHING for ratio in ratios)]))
    return lines if len(lines) > 2 else []


def main() -> int:
    """Do what the command line says; return the exit status."""
    said = _parser().parse_args()
    if said.show:
        print(present(json.loads(said.show.read_text())))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # ends the guest, too
    runs = {}
    for kind in said.kernel or KINDS:
        try:
            runs[kind] = measure(kind, said)
        except GuestError as reason:
            print(f"{kind}: {reason}", file=sys.stderr)
            runs[kind] = {"missing": str(reason)}
        if said.output:         # now: the next guest takes a quarter of an hour
            said.output.write_text(json.dumps(runs, indent=1) + "\n")
    print(present(runs))
    return 0 if all("measurements" in run for run in runs.values()) else 1


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
