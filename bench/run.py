"""lbq beside plain forwarding, iptables DNAT, HAProxy and the floor: one run, one table (``make bench``).

    sudo python bench/run.py [--rounds 9] [--columns lbq,floor] [--workloads bulk,udp] [--quick]

Builds the network, starts every column's forwarder for one service, and then measures in rounds: each
column once a round, in another order each time.  Prints Markdown; keeps every single number
in bench/results/.  Needs root; leaves nothing behind.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import micro
import report
from columns import COLUMNS, Column, Missing, Prototype, Service
from network import Network
from workloads import PATIENCE, WORKLOADS, Bench, Failed, start_server

from lbq import __version__

HERE = Path(__file__).resolve().parent
IN_MEMORY = {"memory": "bench/memory.py", "micro": "bench/micro.py"}    # no network
GIT_DESCRIBE = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
PROGRAMS = ["ip", "iptables", "iperf3", "wrk", "nginx", "cc"]


def options(words: list[str] | None = None) -> argparse.Namespace:
    """Return the command line, read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=1, help="of a measurement")
    parser.add_argument("--columns", help=f"some of {', '.join(COLUMNS)}")
    parser.add_argument("--workloads", help=f"some of {', '.join([*WORKLOADS, *IN_MEMORY])}")
    parser.add_argument("--quick", action="store_true", help="one round: does it run, not how fast is it")
    parser.add_argument("--prototype", type=Path, metavar="PROGRAM", help="another floor beside ours")
    parser.add_argument("--output", type=Path, help="where the numbers go; bench/results/DATE.json")
    chosen = parser.parse_args(words)
    chosen.columns = _choose(parser, chosen.columns, COLUMNS)
    chosen.workloads = _choose(parser, chosen.workloads, {**WORKLOADS, **IN_MEMORY})
    if chosen.prototype:
        Prototype.path = chosen.prototype.resolve()
    elif "prototype" in chosen.columns:
        chosen.columns.remove("prototype")
    chosen.rounds = 1 if chosen.quick else chosen.rounds
    chosen.output = chosen.output or HERE / "results" / f"{date.today()}.json"
    return chosen


def _choose(parser: argparse.ArgumentParser, words: str | None, known: dict) -> list[str]:
    """Return the names in *words*, or all of *known*."""
    names = words.split(",") if words else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def require() -> None:
    """Exit with one line when this machine cannot run the benchmark."""
    if importlib.util.find_spec("lbq._fastpath") is None:
        sys.exit("bench: lbq is not compiled for this Python; run it with `make bench`")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        sys.exit("bench: cannot make network namespaces: not root; run it with sudo")
    if missing:
        sys.exit(f"bench: {', '.join(missing)} missing; run packaging/install-debian bench")


def compile_tools(folder: Path) -> None:
    """Compile the C helpers beside this file into *folder*."""
    for name in ("floor", "udpload"):
        subprocess.run(["cc", "-O3", "-Wall", "-o", folder / name, HERE / f"{name}.c"], check=True)


class Run:
    """The measurements of one run, and the order they are taken in."""

    def __init__(self, bench: Bench, chosen: argparse.Namespace):
        self.bench = bench
        self.chosen = chosen
        self.workloads = [name for name in chosen.workloads if name in WORKLOADS]
        self.columns = {name: COLUMNS[name](bench.network.directors[name], bench.tools)
                        for name in chosen.columns}
        self.measurements: list[dict] = []
        self.missing: dict[str, str] = {}

    def all(self) -> None:
        """Measure everything, service by service: a director has one service."""
        for service in dict.fromkeys(WORKLOADS[name].service for name in self.workloads):
            names = [name for name in self.workloads if WORKLOADS[name].service == service]
            start_server(self.bench, service)
            try:
                running = self._start(service, names)
                for name in names:
                    self._rounds(name, running)
            finally:
                for column in self.columns.values():
                    column.stop()

    def _start(self, service: Service, workloads: list[str]) -> dict[str, Column]:
        """Start every column for *service*; return those that do it."""
        running = {}
        for name, column in self.columns.items():
            try:
                column.start(service)
                self._warm_up(column, workloads[0], service)
                running[name] = column
            except (Missing, Failed) as reason:
                say(f"{name}: {reason}")
                self.missing.update({f"{workload} {name}": str(reason) for workload in workloads})
        return running

    def _warm_up(self, column: Column, workload: str, service: Service) -> None:
        """Run *workload* once, uncounted; again while the forwarder is still starting."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                WORKLOADS[workload].measure(self.bench, column)
                return
            except Failed:
                column.check()
                start_server(self.bench, service)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _rounds(self, workload: str, running: dict[str, Column]) -> None:
        for number in range(self.chosen.rounds):
            say(f"{workload}: round {number + 1} of {self.chosen.rounds}")
            for name in shuffled(list(running), number):
                self._measure(workload, number, name, running[name])

    def _measure(self, workload: str, number: int, name: str, column: Column) -> None:
        try:
            column.check()
            numbers = WORKLOADS[workload].measure(self.bench, column)
        except (Missing, Failed) as reason:
            say(f"{workload} through {name}: {reason}")
            self.missing[f"{workload} {name}"] = str(reason)
            start_server(self.bench, WORKLOADS[workload].service)
            return
        self.measurements.append({"workload": workload, "round": number, "column": name, "numbers": numbers})

    def as_dict(self) -> dict:
        """Return all there is to keep of this run."""
        return {**describe(), "command": " ".join(["bench/run.py", *sys.argv[1:]]),
                "rounds": self.chosen.rounds, "seconds": self.chosen.seconds,
                "missing": self.missing, "measurements": self.measurements,
                "columns": {name: column.title for name, column in self.columns.items()}}


def in_memory(chosen: argparse.Namespace) -> dict:
    """Measure what needs no network: the table and the path of a packet, each time in a new process."""
    command = [sys.executable, HERE / "memory.py"]
    rows: dict[str, list[dict]] = {"memory": [], "memory6": []}
    if "memory" in chosen.workloads:
        for number in range(chosen.rounds):
            say(f"memory: round {number + 1} of {chosen.rounds}")
            for name, more in (("memory", []), ("memory6", ["--ipv6"])):
                done = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE)
                rows[name].append(json.loads(done.stdout))
    return {**rows, "micro": micro.run() if "micro" in chosen.workloads else {}}


def shuffled(names: list[str], number: int) -> list[str]:
    """Return *names* in the order of round *number*: another one each round, the same in every run.

    Not rotated: then each column would have the same column before it in every round.
    """
    return random.Random(number).sample(names, len(names))


def describe() -> dict:
    """Return what the numbers depend on: machine, kernel, date, versions."""
    processor = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"machine": f"{os.cpu_count()} × {processor[1] if processor else platform.machine()}",
            "kernel": platform.release(), "date": f"{date.today()}",
            "versions": {"lbq": __version__, "commit": _first(GIT_DESCRIBE, r"^([\w.-]+)$"),
                         "Python": platform.python_version(),
                         "NetfilterQueue": _package("NetfilterQueue"),
                         "HAProxy": _first(["haproxy", "-v"], r"version (\S+)"),
                         "iptables": _first(["iptables", "--version"], r"v(.*)"),
                         "iperf3": _first(["iperf3", "--version"], r"iperf (\S+)"),
                         "wrk": _first(["wrk", "--version"], r"wrk (\S+)"),
                         "nginx": _first(["nginx", "-v"], r"nginx/(\S+)")}}


def _first(command: list[str], pattern: str) -> str:
    """Return the first match of *pattern* in what *command* says."""
    if shutil.which(command[0]) is None:
        return "missing"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def say(line: str) -> None:
    """Print *line* for the person who waits; the table alone goes to standard output."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run the benchmark."""
    chosen = options()
    require()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that the network is taken down
    with Network(chosen.columns) as network:
        compile_tools(network.folder)
        run = Run(Bench(network, network.folder, chosen.seconds), chosen)
        run.all()
    results = {**run.as_dict(), **in_memory(chosen)}
    chosen.output.parent.mkdir(exist_ok=True)
    chosen.output.write_text(json.dumps(results, indent=1) + "\n")
    print(report.markdown(results))
    say(f"every number is in {chosen.output}")


if __name__ == "__main__":
    main()
