"""The fast director does, packet by packet, what the readable one does, also where it sees headers only.

Both are told the same random stories.  After each step the verdict, the packet's bytes, the answer to a
command and the counters must be equal; every few steps all listings too.
"""
from __future__ import annotations

import pytest

from lbq.director import DROPPED, PASSED
from tests.helpers import sampled
from tests.helpers.engines import ENGINES
from tests.helpers.story import Teller, crowd, story

STORY_STEPS = 500
STORIES_A_TEST = 20
TESTS = max(1, sampled.STEPS // (STORY_STEPS * STORIES_A_TEST))
CROWD_STEPS = 20_000
OUTCOMES = ["rewritten", "forwarded", "expired", "started_over", "icmp_sent", "icmp_limited",
            *(f"passed_{reason}" for reason in PASSED if reason != "whole"),
            *(f"dropped_{reason}" for reason in DROPPED)]
CROWDS = max(1, sampled.STEPS // 100_000)


def compare(seed: int) -> dict:
    """Tell story *seed* to both directors; return the statistics they agreed on."""
    options = {"max_connections": (3, 8, 1000)[seed % 3], "profile": ("new", "classic")[seed % 2]}
    names = "reference", "steered" if seed % 4 == 3 else "fast"
    reference, fast = (Teller(ENGINES[name](**options)) for name in names)
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

    for outcome in OUTCOMES:
        sampled.COUNTED[f"directors: {outcome}"] += total[outcome]


def test_the_stories_led_to_every_outcome():
    """Agreement about what never happens would be worth nothing (the tests above have counted)."""
    assert [outcome for outcome in OUTCOMES if sampled.COUNTED[f"directors: {outcome}"] == 0] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CROWDS))
def test_the_directors_agree_about_a_crowd(seed):
    """A full table of two thousand: long probes, deletions among them, thousands of timers."""
    reference, fast = (Teller(ENGINES[name](max_connections=2000)) for name in ("reference", "fast"))
    for number, step in enumerate(crowd(seed, CROWD_STEPS)):
        assert fast.tell(step) == reference.tell(step), f"crowd {seed}, step {number}: {step}"
        if number % 2000 == 1999:
            assert fast.engine.statistics() == reference.engine.statistics()
            assert fast.state() == reference.state()
    statistics = reference.engine.statistics()
    sampled.COUNTED["crowds: steps"] += CROWD_STEPS
    sampled.COUNTED["crowds: connections made"] += statistics["conns"]
    sampled.COUNTED["crowds: connections ended by their timer"] += statistics["expired"]

    assert statistics["dropped_table_full"] > 0
    assert statistics["expired"] > 1000

    for teller in (reference, fast):
        teller.now_ns += 10**12
        teller.engine.expire(teller.now_ns)
        assert teller.engine.statistics()["connections"] == 0
        assert all(server["active"] == server["inactive"] == 0
                   for row in teller.state()["services"] for server in row["servers"])
