"""The fast engine without the readable one beside it, for what is random in each: drop_entry and the scheduler twos.

Only what must hold in any case is looked at: nothing is touched that is not the packet's, nothing raises, the
counters add up and every connection ends.
"""
from __future__ import annotations

import random
from collections import Counter

from lbq._fastpath import FastDirector
from tests.fuzz import families, packets
from tests.fuzz.judge import adds_up
from tests.helpers.steered import Steered
from tests.helpers.story import Step, Teller

LOOKED_AT = 50      # steps between two looks at the counters
THE_END = 10**15    # ns: later than any timer


def play(seed: int, counted: Counter, tell=None) -> None:
    """Play case *seed*; *tell* is called with each step before it happens."""
    choose = random.Random(seed)
    corpus = families.of_case(seed)
    profile = choose.choice(("new", "classic"))
    kind = choose.choice((FastDirector, Steered))       # the second sees headers only
    teller = Teller(kind(max_connections=choose.choice((3, 40, 1000)), profile=profile))
    for number, step in enumerate(random_ones(choose, packets.steps(choose, corpus, teller.engine, seed))):
        if tell:
            tell(step)
        teller.tell(step)
        if number % LOOKED_AT == LOOKED_AT - 1:
            adds_up(teller.engine)
        counted["packets"] += step.kind == "packet"
    teller.now_ns += THE_END
    teller.engine.expire(teller.now_ns)
    adds_up(teller.engine)
    assert teller.engine.statistics()["connections"] == 0


def random_ones(choose: random.Random, steps):
    """Give *steps*, with the sysctl and the scheduler that no two engines decide alike."""
    yield Step("call", ("set_sysctl", "drop_entry", 3))
    for step in steps:
        if step.kind == "call" and step.arguments[0] in ("add_service", "set_service") and choose.random() < 0.5:
            step = Step("call", (*step.arguments[:2], "twos", *step.arguments[3:]))
        yield step
