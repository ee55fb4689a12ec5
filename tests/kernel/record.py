"""Records what the kernels do in ``tests/vectors``, for the agreement suite, which needs no guest.

    python -m tests.kernel.record [--seed N] [--decisions N] [--family 4|6]

Written is, for each kernel and each family, a gzipped file with one scenario a line: its steps, the common form
(compare.py) of what each of them did, and when.
"""
from __future__ import annotations

import argparse
import gzip
import itertools
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.kernel import compare
from tests.kernel.guest import KINDS, GuestError
from tests.kernel.ipv6 import told
from tests.kernel.scenarios import scenarios
from tests.kernel.session import transcripts

FOCUS = {4: ("weights", "limits", "closing", "removal"), 6: ("odd",)}     # more of what notices small mistakes
VECTORS = Path(__file__).resolve().parents[1] / "vectors"
DECISIONS = {4: 9000, 6: 2600}


def path_of(kind: str, family: int) -> Path:
    return VECTORS / f"kernel-{kind}{'-ipv6' if family == 6 else ''}.jsonl.gz"


def record(kind: str, family: int, seed: int, decisions: int) -> int:
    """Play scenarios in a guest of this *kind* and write down its answers; return how many bytes that took."""
    stories = scenarios(seed, decisions)
    for theme in FOCUS[family]:         # others have numbers of their own
        stories += scenarios(seed + 1 + FOCUS[family].index(theme), decisions // 6, theme)
    played = transcripts(kind, told(stories, family, kind))
    lines = []
    for scenario, transcript in sorted(played, key=lambda pair: pair[1]["number"]):
        answers = [compare.common(step, result, kind)
                   for step, result in zip(scenario["steps"], transcript["results"], strict=True)]
        lines.append({"scenario": scenario, "answers": answers, "at": transcript["at"]})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path_of(kind, family).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return path_of(kind, family).stat().st_size


def recorded(kind: str, family: int = 4) -> Iterator[dict]:
    """Yield the recorded scenarios of this *kind* of kernel."""
    with gzip.open(path_of(kind, family), "rt") as lines:
        for line in lines:
            yield json.loads(line)


def main() -> int:
    """Record both kernels in both families, or what the command line names."""
    parser = argparse.ArgumentParser(description="Record what kernel IPVS does.")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--decisions", type=int, help="for each kernel (9,000 of IPv4, 2,600 of IPv6)")
    parser.add_argument("--family", type=int, choices=DECISIONS, action="append", help="only this one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # guests end with us
    for kind, family in itertools.product(KINDS, arguments.family or DECISIONS):
        try:
            size = record(kind, family, arguments.seed, arguments.decisions or DECISIONS[family])
        except GuestError as error:
            print(f"record: {error}", file=sys.stderr)
            return 2
        print(f"{path_of(kind, family)}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
