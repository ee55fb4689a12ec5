"""The pages of the schedulers say what the schedulers do."""
from __future__ import annotations

import pytest
import scheduler_pages
import worked
from markdown import prose

from lbq.schedulers import BUILT_IN

# Worked out by hand from weights A 3, B 1, C 2, D 0, list order D C B A; every second connection is inactive.
BY_HAND = {
    "rr": "C B A C B A C B",
    "wrr": "C B A A C A C B",       # bound while empty: the rest of level 1 comes first, then levels 3, 2 and 1
    "wlc": "C B A B B A A C",       # at the eighth 257/2 against 259 and 515/3
    "sed": "A C C A A C C B",       # at the eighth 1 = 3/3 < 3/2, and B is listed before A
    "fo": "A A A A A A A A",
    "ovf": "A A A A A A A C",       # A is full with more active connections than its weight: four
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_example_is_what_comes_out_by_hand(name):
    assert [step.chosen for step in worked.steps(name)] == BY_HAND[name].split()


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_reasons_are_those_of_the_choice(name):
    for step in worked.steps(name):
        chosen = [candidate.server for candidate in step.reasons.candidates if candidate.chosen]
        assert chosen == ([] if step.chosen == "nobody" else [f"192.168.20.{'ABCD'.index(step.chosen) + 1}:80"])
        assert all(candidate.why for candidate in step.reasons.candidates if not candidate.chosen)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_page_begins_its_code_behind_the_imports(name):
    first = scheduler_pages.read(name)[2]
    lines = scheduler_pages.source(name).read_text().splitlines()
    assert not [line for line in lines[first - 1:] if line.startswith(("from ", "import ", '"""'))]
    assert any("def schedule(" in line or "(Scheduler):" in line for line in lines[first - 1:])


def test_what_looks_like_emphasis_stays_as_it_is():
    assert prose("so a*w > b*v, *here*") == "so a\\*w > b\\*v, *here*"


def test_sources_of_a_docstring_stay_on_lines_of_their_own():
    assert prose("Kernel: a.c.\nPaper: B.") == "Kernel: a.c.\\\nPaper: B."
