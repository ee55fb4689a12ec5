"""The micro benchmarks twice, compiled and interpreted, as one table (part of ``make bench``).

    python bench/micro.py [FILE.json]

With FILE, which ``lbq bench --output`` has written, the numbers are kept there, too.  ``pytest bench`` runs the
benchmarks once, with pytest-benchmark's own table.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lbq.bench.report import micro_table

HERE = Path(__file__).resolve().parent


def run() -> dict[str, dict[str, float]]:
    """Run the suite in two processes; return nanoseconds by name, for either."""
    return {"compiled": _run(pure=False), "interpreted": _run(pure=True)}


def _run(pure: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder) / "numbers.json"
        # -P: not the checkout's plain lbq/ but the installed one
        command = [sys.executable, "-P", "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider",
                   "--benchmark-max-time=0.3", f"--benchmark-json={numbers}"]
        done = subprocess.run(command, env={**os.environ, "LBQ_PURE": "1" if pure else "0"},
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"bench: pytest {HERE} failed:\n{done.stdout}{done.stderr}")
        rows = json.loads(numbers.read_text())["benchmarks"]
    # A round repeats its question a thousand times; a test that measures by itself says so.
    return {row["name"].removeprefix("test_"): row["extra_info"].get("ns", row["stats"]["median"] * 1e6)
            for row in rows}


def main() -> None:
    """Measure, print, and keep the numbers where the command line says."""
    micro = run()
    print("\n".join(micro_table(micro)))
    if len(sys.argv) > 1:
        kept = Path(sys.argv[1])
        kept.write_text(json.dumps({**json.loads(kept.read_text()), "micro": micro}, indent=1) + "\n")


if __name__ == "__main__":
    main()
