"""Records what the kernels do in ``tests/vectors``, for the agreement suite, which needs no guest.

    python -m tests.kernel.record [--seed N] [--decisions N]

Written is, for each kernel, a gzipped file with one scenario a line: its steps, the common form (compare.py) of what
each of them did, and when.
"""
from __future__ import annotations

import argparse
import gzip
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.kernel import compare
from tests.kernel.guest import KINDS, GuestError
from tests.kernel.scenarios import scenarios
from tests.kernel.session import transcripts

FOCUS = ("weights", "limits", "closing", "removal")   # more of what notices small mistakes
VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def path_of(kind: str) -> Path:
    return VECTORS / f"kernel-{kind}.jsonl.gz"


def record(kind: str, seed: int, decisions: int) -> int:
    """Play scenarios in a guest of this *kind* and write down its answers; return how many bytes that took."""
    stories = scenarios(seed, decisions)
    for theme in FOCUS:         # others have numbers of their own
        stories += scenarios(seed + 1 + FOCUS.index(theme), decisions // 6, theme)
    played = sorted(transcripts(kind, stories), key=lambda pair: pair[1]["number"])
    lines = []
    for scenario, transcript in played:
        if transcript["late"]:
            continue            # the machine was too busy for its timeouts
        answers = [compare.common(step, result, kind)
                   for step, result in zip(scenario["steps"], transcript["results"], strict=True)]
        lines.append({"scenario": scenario, "answers": answers, "at": transcript["at"]})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path_of(kind).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return path_of(kind).stat().st_size


def recorded(kind: str) -> Iterator[dict]:
    """Yield the recorded scenarios of this *kind* of kernel."""
    with gzip.open(path_of(kind), "rt") as lines:
        for line in lines:
            yield json.loads(line)


def main() -> int:
    """Record both kernels."""
    parser = argparse.ArgumentParser(description="Record what kernel IPVS does.")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--decisions", type=int, default=9000, help="for each kernel")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # guests end with us
    for kind in KINDS:
        try:
            size = record(kind, arguments.seed, arguments.decisions)
        except GuestError as error:
            print(f"record: {error}", file=sys.stderr)
            return 2
        print(f"{path_of(kind)}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
