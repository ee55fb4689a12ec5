"""Shows that the recorded answers notice a mistake: wrong comparisons, states, thresholds and timers, one at a time.

    python -m tests.kernel.mutants [NAME ...]

Every mutant is one change to a copy of lbq's sources; the readable engine with that change plays the recorded
scenarios (``tests/vectors``), and must differ from the kernels.  Prints a table; a mutant that nobody notices is
named, and makes the exit status 1.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.kernel.mutations import MUTATIONS, STATE_ROWS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120       # for one mutant
CAUGHT, SURVIVED = 10, 0
# What plays the recordings.  A mutant that crashes or never ends is not what was meant: it proves nothing.
PLAY = """
import sys
sys.path[:0] = [{copy!r}]
sys.path.append({root!r})
from tests.kernel.mutants import is_noticed
sys.exit(is_noticed())
"""


class Mutant(NamedTuple):
    """One change: *old* becomes *new* in *file*, at its only occurrence behind *after*."""

    name: str
    file: str
    old: str
    new: str
    after: str = ""

    def source(self) -> str:
        """Return the changed source."""
        text = (ROOT / "lbq" / self.file).read_text()
        head, found, tail = text.partition(self.after) if self.after else ("", "", text)
        if self.old not in tail or (self.after and not found):
            raise SystemExit(f"mutants: {self.name}: {self.file} has no {self.old!r}; the source has changed")
        return head + found + tail.replace(self.old, self.new, 1)


def mutants() -> list[Mutant]:
    """Return all of them: the hand-written ones, and one for each row of the state tables."""
    result = [Mutant(*mutation) for mutation in MUTATIONS]
    for file, table, rows in STATE_ROWS:
        result += [state_mutant(file, table, row) for row in rows.strip().splitlines()]
    return result


def state_mutant(file: str, table: str, row: str) -> Mutant:
    """Return the mutant of a *row* like ``IN fin ES TW``: in that row, from ES the next state is TW."""
    direction, event, column, wrong = row.split()
    text = (ROOT / "lbq" / file).read_text().partition(f"\n{table} = \"\"\"")[2].partition('"""')[0]
    columns, *lines = text.strip("\n").split("\n")
    old = next(line for line in lines if line.split()[:2] == [direction, event])
    cells = old.split()[2:]
    at = columns.split().index(column)
    if cells[at] == wrong:
        raise SystemExit(f"mutants: {file} {table}: {row} is no mistake")
    cells[at] = wrong
    new = f"{direction:<3} {event:<5} " + " ".join(cells)
    return Mutant(f"{table} {direction} {event}: {column} -> {wrong}", file, old, new, f"\n{table} = \"\"\"")


def is_noticed() -> int:
    """Play every recording on the readable engine of this process; return CAUGHT at the first difference."""
    from lbq.director import Director
    from tests.kernel.guest import KINDS
    from tests.kernel.record import DECISIONS, recorded
    from tests.kernel.report import TICKS, first_difference

    recordings = {(kind, family): recorded(kind, family) for kind in KINDS for family in DECISIONS}
    for each, (kind, _) in interleaved(recordings):
        found = first_difference(each["scenario"], each["answers"], each["at"], Director(profile=kind))
        if found and found[1] != TICKS:
            return CAUGHT
    return SURVIVED


def interleaved(recordings: dict):
    """Yield (scenario, name) from all *recordings* by name in turn: a mistake shows sooner."""
    while recordings:
        for name in list(recordings):
            each = next(recordings[name], None)
            if each is None:
                del recordings[name]
            else:
                yield each, name


def try_out(mutant: Mutant | None) -> tuple[bool, float]:
    """Return whether the recordings notice *mutant* (None: the sources as they are), and in how many seconds."""
    with tempfile.TemporaryDirectory(prefix="lbq-mutant-") as copy:
        shutil.copytree(ROOT / "lbq", Path(copy, "lbq"), ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        if mutant is not None:
            Path(copy, "lbq", mutant.file).write_text(mutant.source())
        started = time.monotonic()
        program = PLAY.format(copy=copy, root=str(ROOT))
        done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "LBQ_PURE": "1"}, timeout=SECONDS,
                              capture_output=True, text=True, check=False)
        if done.returncode not in (CAUGHT, SURVIVED):
            raise SystemExit(f"mutants: {mutant.name if mutant else 'lbq as it is'} crashed:\n{done.stderr[-2000:]}")
        return done.returncode == CAUGHT, time.monotonic() - started


def main(names: list[str]) -> int:
    """Try the mutants called *names*, or all; return 1 when one is not noticed."""
    if try_out(None)[0]:
        print("mutants: lbq as it is differs from the recordings; run pytest tests/agreement first", file=sys.stderr)
        return 2
    chosen = [mutant for mutant in mutants() if not names or any(name in mutant.name for name in names)]
    print(f"{'mutant':<64}{'noticed':>8}{'seconds':>9}")
    survivors = 0
    for mutant in chosen:
        noticed, seconds = try_out(mutant)
        survivors += not noticed
        print(f"{mutant.name:<64}{'yes' if noticed else 'NO':>8}{seconds:>9.1f}", flush=True)
    print(f"{len(chosen)} mutants, {len(chosen) - survivors} noticed, {survivors} not")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
