"""The fast director does, packet by packet, what the readable one does.

Both are told the same random stories.  After each step the verdict, the packet's bytes, the answer to a
command and the counters must be equal; every few steps all listings too.
"""
from __future__ import annotations

import pytest

from lbq.director import DROPPED, PASSED
from tests.helpers import sampled
from tests.helpers.engines import ENGINES
from tests.helpers.story import Teller, story

STORY_STEPS = 500
STORIES_A_TEST = 20
TESTS = max(1, sampled.STEPS // (STORY_STEPS * STORIES_A_TEST))


def compare(seed: int) -> dict:
    """Tell story *seed* to both directors; return the statistics they agreed on."""
    options = {"max_connections": (3, 8, 1000)[seed % 3], "profile": ("new", "classic")[seed % 2]}
    reference, fast = (Teller(ENGINES[name](**options)) for name in ("reference", "fast"))
    for number, step in enumerate(story(seed, STORY_STEPS)):
        where = f"story {seed}, step {number}: {step}"
        assert fast.tell(step) == reference.tell(step), where
        assert fast.engine.statistics() == reference.engine.statistics(), where
        if number % 10 == 9 or number == STORY_STEPS - 1:
            assert fast.state() == reference.state(), where
    return reference.engine.statistics()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(TESTS))
def test_the_directors_agree(part):
    total = sampled.Counter()
    for seed in range(part * STORIES_A_TEST, (part + 1) * STORIES_A_TEST):
        total.update(compare(seed))
        sampled.COUNTED["directors: steps"] += STORY_STEPS

    outcomes = ["rewritten", "expired", "icmp_sent", "icmp_limited",
                *(f"passed_{reason}" for reason in PASSED), *(f"dropped_{reason}" for reason in DROPPED)]
    for outcome in outcomes:
        sampled.COUNTED[f"directors: {outcome}"] += total[outcome]
    missing = [outcome for outcome in outcomes if total[outcome] == 0]
    assert missing == [], "the stories are too tame"
