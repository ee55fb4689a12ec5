"""What ``lbq trace`` costs a packet while nobody looks (part of ``make bench``).

    python bench/trace_off.py [FILE.json]

The fast path is compiled once more without its two questions whether somebody looks.  Both builds then handle the same
packets of established connections in turn, in two processes at a time; every pair of processes has its memory
elsewhere, so there are several.  With FILE, which ``lbq bench --output`` has written, the numbers are kept there, too.
"""
from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASKS = {        # in _fastpath.pyx, and what stands there when nobody can look
    "self._decide_seen(&one, now_ns) if self.tracing else self._decide(&one, now_ns)": "self._decide(&one, now_ns)",
    "                if self.tracing:\n"
    "                    self._decide_seen(&batch.packets[i], now)\n"
    "                else:\n"
    "                    self._decide(&batch.packets[i], now)\n":
        "                self._decide(&batch.packets[i], now)\n",
}
FLOWS = 100_000
PACKETS = 1_000_000     # a turn
PAIRS = 10
TURNS = 6               # of each process of a pair
GOAL = 1.01
PROGRAM = f"""
import sys
from lbq._fastpath import FastDirector
from lbq.model import ServiceKey
director, service = FastDirector(max_connections={FLOWS}), ServiceKey(6, 0x0A000101, 80)
director.add_service(service, "wlc")
for number in range(4):
    director.add_server(service, 0x0A000201 + number, 8080)
director.benchmark_opening({FLOWS})
director.benchmark_established({PACKETS})
print("ready", flush=True)
for line in sys.stdin:
    print(director.benchmark_established({PACKETS}), flush=True)
"""


def without_asking(copy: Path) -> Path:
    """Build lbq in *copy* without the branches; return the folder to import it from."""
    shutil.copytree(ROOT / "lbq", copy / "lbq", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, copy)
    fast_path = copy / "lbq" / "_fastpath.pyx"
    text = fast_path.read_text()
    for asks, does_not in ASKS.items():
        if text.count(asks) != 1:
            sys.exit(f"trace_off: _fastpath.pyx does not ask once {asks!r}; has it changed?")
        text = text.replace(asks, does_not)
    fast_path.write_text(text)
    done = subprocess.run([sys.executable, "setup.py", "-q", "build", "--build-lib", "built"], cwd=copy,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"trace_off: cannot compile lbq:\n{done.stderr[-2000:]}")
    return copy / "built"


def start(build: Path | None) -> subprocess.Popen:
    """Start a process that measures the lbq in *build*, or the installed one; it waits for its turns."""
    environment = {**os.environ, **({"PYTHONPATH": str(build)} if build else {})}
    return subprocess.Popen([sys.executable, "-P", "-c", PROGRAM], env=environment, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen) -> float:
    """Return nanoseconds a packet of one turn of *process*."""
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def pair(build: Path) -> tuple[float, float]:
    """Return what the installed lbq and the one in *build* take for a packet, medians of their turns."""
    took: tuple[list[float], list[float]] = ([], [])
    with start(None) as asking, start(build) as silent:
        both = (asking, silent)
        for process in both:
            if process.stdout.readline() != "ready\n":
                sys.exit("trace_off: a process that measures has ended")
        for turn in range(TURNS):
            for which in (0, 1) if turn % 2 else (1, 0):
                took[which].append(ask(both[which]))
        for process in both:
            process.stdin.close()
    return statistics.median(took[0]), statistics.median(took[1])


def main() -> None:
    """Measure, print, and keep the numbers where the command line says."""
    with tempfile.TemporaryDirectory(prefix="lbq-trace-off-") as folder:
        build = without_asking(Path(folder))
        pairs = [pair(build) for _ in range(PAIRS)]
    ratios = sorted(asking / silent for asking, silent in pairs)
    middle = statistics.median(ratios)
    print(f"lbq trace while nobody looks: {statistics.median(first for first, _ in pairs):.1f} ns a packet of an "
          f"established connection, {statistics.median(second for _, second in pairs):.1f} compiled without it; "
          f"ratio {middle:.3f} [{ratios[0]:.3f} – {ratios[-1]:.3f}] of {PAIRS} pairs of processes, goal ≤ {GOAL}: "
          f"{'met' if middle <= GOAL else 'MISSED'}")
    if len(sys.argv) > 1:
        kept = Path(sys.argv[1])
        kept.write_text(json.dumps({**json.loads(kept.read_text()), "trace_off": pairs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
