"""Plays cases of one target until time is up, in a process of the sanitized build.

    python -m tests.fuzz.worker TARGET FIRST STEP SECONDS      cases FIRST, FIRST + STEP, …
    python -m tests.fuzz.worker TARGET CASE                    one case, telling each step before it happens

Prints the number of each case before it begins and, at the end, what was counted as one line of JSON.
"""
from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path


def main(target: str, first: str, step: str = "0", seconds: str = "") -> None:
    """Play what the command line says."""
    play = importlib.import_module(f"tests.fuzz.{target}").play
    counted: Counter = Counter()
    if not seconds:
        play(int(first), counted, lambda step: print(_shortened(step), flush=True))
        return
    case, begin, warm = int(first), time.monotonic(), 0
    while (spent := time.monotonic() - begin) < float(seconds):
        print(case, flush=True)
        play(case, counted)
        counted["cases"] += 1
        case += int(step)
        if spent < float(seconds) / 2 or not warm:
            warm = rss()
    counted["grown_kib"] = rss() - warm
    require_sanitizers()
    print(json.dumps(counted))


def require_sanitizers() -> None:
    """Raise when compiled code of lbq ran here that no sanitizer watched."""
    modules = [Path(module.__file__) for name, module in sys.modules.items()
               if name.startswith("lbq") and getattr(module, "__file__", "").endswith(".so")]
    unwatched = [path.name for path in modules if b"__asan_report_load1" not in path.read_bytes()]
    if unwatched or not modules:
        raise AssertionError(f"not sanitized: {unwatched or 'nothing is compiled'}")


def _shortened(step) -> str:
    """Return a step as a line; of a long packet only the headers matter."""
    words = repr(step)
    return words if len(words) < 1000 else words[:900] + " … " + words[-60:]


def rss() -> int:
    """Return the memory this process has taken at most, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])
