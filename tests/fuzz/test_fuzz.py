"""Hostile bytes to everything that reads any, in the sanitized build, for as long as there is time.

``LBQ_FUZZ_SECONDS`` asks for any number of seconds, ``LBQ_FULL=1`` for half an hour.  Cases are numbered and the same
for ever; what a case does wrong is shown with the command that plays it again.  ``LBQ_FUZZ_FIRST`` begins elsewhere.
"""
from __future__ import annotations

import json
import os
from collections import Counter

import pytest

from tests.fuzz import sanitized
from tests.fuzz.judge import OUTCOMES

FULL_SECONDS = 1800
SECONDS = int(os.environ.get("LBQ_FUZZ_SECONDS") or (FULL_SECONDS if os.environ.get("LBQ_FULL") == "1" else 100))
FIRST = int(os.environ.get("LBQ_FUZZ_FIRST") or 0)
PROCESSES = 2
SHARES = {"packets": 0.36, "alone": 0.10, "netlink": 0.22, "control": 0.10, "cuts": 0.08, "words": 0.05, "files": 0.05,
          "conntrack": 0.04}
MOST_GROWN_KIB = 64 << 10       # in the second half of the time
PLAYED: Counter = Counter()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("target", SHARES)
def test_nothing_hostile_does_harm(target):
    seconds = SECONDS * SHARES[target]
    started = [sanitized.start("-m", "tests.fuzz.worker", target, FIRST + number, PROCESSES, seconds)
               for number in range(PROCESSES)]
    ended = [process.communicate() for process in started]

    for process, (said, complained) in zip(started, ended, strict=True):
        *cases, last = said.split("\n")[:-1] or [""]
        if process.returncode:
            pytest.fail(f"case {last} of {target} ended with status {process.returncode}; to play it again:\n"
                        f"    python -m tests.fuzz.replay {target} {last}\n{complained[-20_000:]}", pytrace=False)
        assert cases, "not a single case was played"
        counted = json.loads(last)
        assert counted.pop("grown_kib") < MOST_GROWN_KIB
        PLAYED.update(counted)


def test_every_outcome_was_reached():
    """Packets that all end in the same three ways would prove nothing (the test above has counted)."""
    assert [outcome for outcome in OUTCOMES if PLAYED[outcome] == 0] == []
