"""How much the randomised tests tried: one place to count, shown at the end of the run."""
from __future__ import annotations

import os
from collections import Counter

COUNTED: Counter = Counter()

# Steps of the random stories; the rest follows from it.  LBQ_AGREEMENT_STEPS asks for any number,
# `make test-full` for the full one (a minute and a half); the default takes seconds.
FULL_STEPS = 1_000_000
IS_FULL = os.environ.get("LBQ_FULL") == "1"
DEFAULT_STEPS = FULL_STEPS if IS_FULL else FULL_STEPS // 10
STEPS = int(os.environ.get("LBQ_AGREEMENT_STEPS", DEFAULT_STEPS))


def report() -> list[str]:
    """Return a line for each thing counted."""
    width = max(map(len, COUNTED), default=0)
    return [f"{name:{width}}  {count:>9,}" for name, count in sorted(COUNTED.items())]
