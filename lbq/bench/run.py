"""``lbq bench``: one run, one table; also an earlier run's tables again.

Builds the network, starts every column's forwarder for one service, and then measures in rounds: each column once a
round, in another order each time.  The tables go to standard output, progress to standard error.  What this machine
lacks is an empty column or workload with the reason.  Leaves nothing behind, however it ends.
"""
from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from lbq.bench import plot, report, series
from lbq.bench.columns import COLUMNS, ON_DEMAND, Column, Prototype, Service
from lbq.bench.machine import Missing, Tools, describe, require
from lbq.bench.network import Network
from lbq.bench.progress import Progress, in_words
from lbq.bench.workloads import PATIENCE, WORKLOADS, Bench, Failed, start_server
from lbq.errors import ConfigError, LbqError
from lbq.grammar import did_you_mean, parse_number
from lbq.lab import signals
from lbq.options import Parser

ROUNDS, SECONDS = 9, 1
LONG_ROUNDS = 3             # of what takes seconds in memory
BETWEEN_SECONDS = 0.4       # from one measurement to the next
START_SECONDS = 1.5         # of a forwarder, before its first, uncounted measurement
BY_DEFAULT = [name for name in COLUMNS if name not in ON_DEMAND]
ALL_WORKLOADS = {**{name: workload.about for name, workload in WORKLOADS.items()}, **series.ABOUT}


def _parser() -> Parser:
    columns = "\n".join(f"  {name:<21}{column.about}" for name, column in COLUMNS.items())
    workloads = "\n".join(f"  {name:<21}{about}" for name, about in ALL_WORKLOADS.items())
    whole, quick = (in_words(expected_seconds(BY_DEFAULT, list(ALL_WORKLOADS), rounds, SECONDS))
                    for rounds in (ROUNDS, 1))
    parser = Parser("lbq bench", "Measure on this machine what forwarding costs through lbq, the kernel, proxies and a "
                    "queue that decides nothing (the floor).", epilog=f"""\
columns, who forwards:
{columns}
workloads, what is measured:
{workloads}

In a round every column is measured once, for SECONDS, in another order each time.  The tables have the median over the
rounds and its quartiles.  Ratios are taken within a round: what slows the machine for a while slows both sides.
All of it takes about {whole}; with --quick {quick}, which tells whether it runs, not how fast.

Needs root.  All traffic stays in network namespaces (lbqb-…) that are made for it and taken away, however it ends.
What is not installed is an empty column or workload, with the reason and the package.

examples:
  sudo lbq bench --quick
  sudo lbq bench --columns plain,lbq,steer,haproxy --workloads bulk,requests --rounds 5
  sudo lbq bench --output today.json          keeps every number, and draws today.png
  lbq bench --show today.json --terminal      its tables again, and charts here
  lbq bench --workloads memory,services       no network, no root""")
    add = parser.add_argument
    add("--columns", metavar="NAMES", help="some of the columns, with commas between them (default: those above ipvs)")
    add("--workloads", metavar="NAMES", help="some of the workloads (default: all)")
    add("--rounds", metavar="N", default=str(ROUNDS), help=f"(default {ROUNDS})")
    add("--seconds", metavar="N", default=str(SECONDS), help=f"of one measurement (default {SECONDS})")
    add("--quick", action="store_true", help="one round")
    add("--prototype", metavar="PROGRAM", help="another floor beside ours: PROGRAM QUEUE RANGE 1 1 1")
    add("--output", metavar="FILE.json", help="keep every number, and draw FILE.png")
    add("--json", action="store_true", help="print every number instead of the tables")
    add("--plot", metavar="FILE.png", help="draw charts")
    add("--terminal", action="store_true", help="charts after the tables")
    add("--show", metavar="FILE.json", help="measure nothing: show a run that was kept")
    return parser


def options(words: list[str]) -> argparse.Namespace:
    """Return the command line, validated; raises ConfigError."""
    said = _parser().parse_args(words)
    if said.prototype:
        Prototype.path = Path(said.prototype).resolve()
    elif "prototype" in (said.columns or "").split(","):
        raise ConfigError("the column prototype needs a program: --prototype PROGRAM")
    default = [*BY_DEFAULT, "prototype"] if said.prototype else BY_DEFAULT
    said.columns = _choose("column", said.columns, COLUMNS, default)
    said.workloads = _choose("workload", said.workloads, ALL_WORKLOADS, list(ALL_WORKLOADS))
    said.rounds = 1 if said.quick else parse_number(said.rounds, "--rounds", 1, 1000)
    said.seconds = parse_number(said.seconds, "--seconds", 1, 600)
    if said.output and not said.plot:
        said.plot = str(Path(said.output).with_suffix(".png"))
    for name, endings in (("output", (".json",)), ("plot", plot.PICTURES)):
        if path := getattr(said, name):
            plot.check_file(f"--{name}", Path(path), endings)
    return said


def _choose(what: str, words: str | None, known: dict, default: list[str]) -> list[str]:
    """Return the names in *words*, or the *default*; raises ConfigError for one that is not *known*."""
    names = words.split(",") if words is not None else default
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {what} '{name}'{did_you_mean(name, known)}; there are {', '.join(known)}")
    return list(dict.fromkeys(names))


def expected_seconds(columns: list[str], workloads: list[str], rounds: int, seconds: int) -> float:
    """Return about how long a run takes."""
    through = [WORKLOADS[name] for name in workloads if name in WORKLOADS]
    services = {workload.service for workload in through}
    return (len(columns) * (len(through) * rounds * (seconds + BETWEEN_SECONDS)
                            + len(services) * (seconds + START_SECONDS))
            + sum(setting.seconds() * rounds_of(setting, rounds) for setting in series.settings(workloads)))


def rounds_of(setting: series.Setting, rounds: int) -> int:
    """Return how many of *rounds* measure *setting*."""
    return min(rounds, LONG_ROUNDS) if setting.is_long() else rounds


class Run:
    """The measurements of one run, and the order they are taken in."""

    def __init__(self, chosen: argparse.Namespace, words: list[str]):
        self.chosen = chosen
        self.words = words
        self.workloads = [name for name in chosen.workloads if name in WORKLOADS]
        self.measurements: list[dict] = []
        self.memory: list[dict] = []            # rows of series.run()
        self.missing: dict[str, str] = {}       # why, by "WORKLOAD COLUMN" or by what was to be measured in memory
        self.progress = Progress(expected_seconds(chosen.columns, chosen.workloads, chosen.rounds, chosen.seconds))
        self.bench: Bench
        self.columns: dict[str, Column] = {}

    def all(self) -> None:
        """Measure everything.  Raises LbqError when the network cannot be built."""
        if self.workloads:
            with (tempfile.TemporaryDirectory(prefix="lbq-bench-") as folder,
                  Network({name: COLUMNS[name].method for name in self.chosen.columns}) as network):
                self.bench = Bench(network, Tools(Path(folder)), self.chosen.seconds)
                self.columns = {name: COLUMNS[name](network.directors[name], self.bench.tools)
                                for name in self.chosen.columns}
                # Service by service: a director has one service.
                for service in dict.fromkeys(WORKLOADS[name].service for name in self.workloads):
                    self._through(service, [name for name in self.workloads if WORKLOADS[name].service == service])
        self._in_memory()

    def _through(self, service: Service, workloads: list[str]) -> None:
        """Measure the *workloads* of one service through all columns."""
        names = [name for name in workloads if self._is_possible(name)]
        if not names:
            return
        try:
            start_server(self.bench, service)
        except LbqError as reason:
            self._miss(names, list(self.columns), reason)
            return
        running: dict[str, Column] = {}
        with ExitStack() as stack:
            for name, column in self.columns.items():
                self._say(f"{service.protocol} port {service.port}: starting {column.title}")
                try:
                    require(column.programs)
                    stack.callback(_stop, column)
                    column.start(service)
                    self._warm_up(column, names[0], service)
                    running[name] = column
                except (Missing, Failed, LbqError) as reason:
                    self._miss(names, [name], reason)
                self.progress.done(self.chosen.seconds + START_SECONDS)
            for name in names:
                self._rounds(name, running)

    def _is_possible(self, workload: str) -> bool:
        """Return True when this machine has what makes the load of *workload*."""
        try:
            require(WORKLOADS[workload].programs)
            if WORKLOADS[workload].tool:
                self.bench.tools.path(WORKLOADS[workload].tool)
        except Missing as reason:
            self._miss([workload], list(self.columns), reason)
            return False
        return True

    def _miss(self, workloads: list[str], columns: list[str], reason: Exception) -> None:
        """Note why there will be no numbers."""
        self._say(f"{', '.join(workloads)} through {', '.join(columns)}: {reason}")
        self.missing.update({f"{workload} {column}": str(reason) for workload in workloads for column in columns})
        self.progress.drop(len(workloads) * len(columns) * self.chosen.rounds * self._cell_seconds)

    def _warm_up(self, column: Column, workload: str, service: Service) -> None:
        """Run *workload* once, uncounted; again while the forwarder is still starting."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                WORKLOADS[workload].measure(self.bench, column)
                return
            except Failed:
                column.check()
                self._restart_server(service)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _rounds(self, workload: str, running: dict[str, Column]) -> None:
        for number in range(self.chosen.rounds):
            self._say(f"{workload}: round {number + 1} of {self.chosen.rounds}; {self.progress.left()} left")
            for name in shuffled(list(running), number):
                self._measure(workload, number, name, running[name])
                self.progress.done(self._cell_seconds)

    def _measure(self, workload: str, number: int, name: str, column: Column) -> None:
        try:
            column.check()
            numbers = WORKLOADS[workload].measure(self.bench, column)
        except (Missing, Failed) as reason:
            self._say(f"{workload} through {name}: {reason}")
            self.missing[f"{workload} {name}"] = str(reason)
            self._restart_server(WORKLOADS[workload].service)
            return
        self.measurements.append({"workload": workload, "round": number, "column": name, "numbers": numbers})

    def _restart_server(self, service: Service) -> None:
        """Start what answers anew, as it may be stuck; where that fails, the next measurement does and says so."""
        with suppress(LbqError):
            start_server(self.bench, service)

    def _in_memory(self) -> None:
        """Measure what needs no network."""
        settings = series.settings(self.chosen.workloads)
        for number in range(self.chosen.rounds if settings else 0):
            self._say(f"in memory: round {number + 1} of {self.chosen.rounds}; {self.progress.left()} left")
            for setting in shuffled([setting for setting in settings
                                     if number < rounds_of(setting, self.chosen.rounds)], number):
                try:
                    self.memory.append({"round": number, **series.run(setting)})
                except Missing as reason:
                    self._say(str(reason))
                    self.missing[setting.label()] = str(reason)
                self.progress.done(setting.seconds())

    @property
    def _cell_seconds(self) -> float:
        """Return what one measurement through one column takes."""
        return self.chosen.seconds + BETWEEN_SECONDS

    def _say(self, line: str) -> None:
        """Print *line* for the person who waits, unless a signal has asked to end."""
        signals.check()
        print(line, file=sys.stderr, flush=True)

    def as_dict(self) -> dict:
        """Return all there is to keep of this run."""
        return {**describe(), "command": " ".join(["lbq bench", *self.words]),
                "rounds": self.chosen.rounds, "seconds": self.chosen.seconds,
                "columns": {name: column.title for name, column in self.columns.items()},
                "missing": self.missing, "measurements": self.measurements, "memory": self.memory}


def _stop(column: Column) -> None:
    """End *column*; where it could not be started, it need not be possible to stop it."""
    with suppress(LbqError):
        column.stop()


def shuffled(names: list, number: int) -> list:
    """Return *names* in the order of round *number*: another one each round, the same in every run.

    Not rotated: then each column would have the same column before it in every round.
    """
    return random.Random(number).sample(names, len(names))


def load(path: str) -> dict:
    """Return the run that was kept in *path*; raises ConfigError when there is none."""
    try:
        run = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(run, dict) or not {"columns", "missing", "measurements"} <= run.keys():
        raise ConfigError(f"{path} is not what lbq bench --output has written")
    return run


def main(words: list[str]) -> int:
    """Do what ``lbq bench WORDS`` says; return the exit status."""
    chosen = options(words)
    if chosen.show:
        return _present(load(chosen.show), chosen)
    run = Run(chosen, words)
    signals.listen()
    try:
        try:
            run.all()
        finally:
            signals.ignore()        # from here on nothing interrupts
    except signals.Interrupted as interrupted:
        print(f"{interrupted}: the benchmark ends here; nothing is kept", file=sys.stderr)
        return interrupted.status
    results = run.as_dict()
    if chosen.output:
        Path(chosen.output).write_text(json.dumps(results, indent=1) + "\n")
        print(f"every number is in {chosen.output}", file=sys.stderr)
    return _present(results, chosen)


def _present(results: dict, chosen: argparse.Namespace) -> int:
    """Print and draw *results* as *chosen*."""
    print(json.dumps(results, indent=1) if chosen.json else report.markdown(results), flush=True)
    if chosen.terminal:
        plot.chart(plot.show, results)
    if chosen.plot and plot.chart(plot.draw, results, Path(chosen.plot)):
        print(f"charts are in {chosen.plot}", file=sys.stderr)
    return 0
