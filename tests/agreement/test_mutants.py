"""Mistakes made on purpose, in every scheduler and every row of the state tables, are noticed by the recordings."""
from __future__ import annotations

import os

import pytest

from tests.helpers import sampled
from tests.kernel.mutants import mutants, try_out

ALL = mutants()
CHOSEN = ALL if os.environ.get("LBQ_FULL") == "1" else ALL[::len(ALL) // 6]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", CHOSEN, ids=lambda mutant: mutant.name)
def test_a_mistake_is_noticed(mutant):
    noticed, _ = try_out(mutant)

    assert noticed
    sampled.COUNTED["mutants"] += 1
