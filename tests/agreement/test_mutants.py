"""Mistakes made on purpose, in every scheduler and every row of the state tables, are noticed by the recordings."""
from __future__ import annotations

import pytest

from tests.fuzz.mutants import MUTANTS as FUZZED
from tests.helpers import sampled
from tests.kernel.mutants import ROOT, mutants, try_out

ALL = mutants()
CHOSEN = ALL if sampled.IS_FULL else ALL[::len(ALL) // 6]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", CHOSEN, ids=lambda mutant: mutant.name)
def test_a_mistake_is_noticed(mutant):
    noticed, _ = try_out(mutant)

    assert noticed
    sampled.COUNTED["mutants"] += 1


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mistake_can_still_be_made(mutant):
    """Also those that only the full set tries out are changes of the sources as they are."""
    assert mutant.source() != (ROOT / "lbq" / mutant.file).read_text()


@pytest.mark.parametrize("mutant", FUZZED, ids=lambda mutant: mutant.name)
def test_a_mistake_for_the_fuzzers_can_still_be_made(mutant):
    """They are tried out by hand (tests/fuzz/mutants.py), each takes a build."""
    for file, old, new in mutant.edits:
        assert old in (ROOT / "lbq" / file).read_text() and old != new
