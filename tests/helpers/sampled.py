"""How much the randomised tests tried: one place to count, shown at the end of the run."""
from __future__ import annotations

import os
from collections import Counter

COUNTED: Counter = Counter()

# `make test-full` raises it; the default takes a few seconds.
STEPS = int(os.environ.get("LBQ_AGREEMENT_STEPS", "100000"))


def report() -> list[str]:
    """Return a line for each thing counted."""
    width = max(map(len, COUNTED), default=0)
    return [f"{name:{width}}  {count:>9,}" for name, count in sorted(COUNTED.items())]
