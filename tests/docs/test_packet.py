"""What docs/packet.md names is there; the addresses in its tables are tests/lab/test_packet_page.py's."""
from __future__ import annotations

import re

import pytest

from lbq.host import offloading, rules, steering
from lbq.losses import DROPPED
from lbq.model import AF_INET
from lbq.outcomes import PASSED
from tests.helpers.documented import blocks
from tests.helpers.sphinx import DOCS

PAGE = DOCS / "packet.md"
TEXT = PAGE.read_text()
COLUMNS = 42            # of a telephone's screen


def named(pattern: str, text: str = TEXT) -> set[str]:
    """Return what *pattern* finds."""
    return set(re.findall(pattern, text))


def test_chains_sets_and_tables_are_those_of_the_rules():
    chains = {chain for of_table in rules.CHAINS.values() for chain in of_table}
    assert named(r"\bLBQ-[A-Z]+(?:-[A-Z]+)*") <= chains
    assert chains - named(r"\bLBQ-[A-Z]+(?:-[A-Z]+)*") <= {"LBQ-REQUEST-HEADERS-TO", "LBQ-REPLY-HEADERS-TO"}
    assert named(r"\blbq-[a-z]+(?:-[a-z]+)*") <= {*rules.SETS[AF_INET], steering.TABLE, offloading.TABLE}


@pytest.mark.parametrize(("place", "priority"), [
    ("nf_tables, prerouting", steering.PRIORITY), ("nf_tables, postrouting", steering.PRIORITY),
    ("nf_tables, prerouting", offloading.CLOSED_PRIORITY), ("`nat PREROUTING`", offloading.NAT_PRIORITY)])
def test_priorities_are_those_of_our_chains(place, priority):
    [row] = [line for line in TEXT.split("\n") if line.startswith(f"| {place} | −")]
    assert str(priority).replace("-", "−") in row


def test_every_loss_has_its_place():
    _, _, table = TEXT.partition("## Where a packet gets lost\n")
    table, _, _ = table.partition("\n## ")
    assert named(r"`((?:dropped|queue|user)_[a-z_]+|[a-z]+_errors)`", table) - {"queue_drops"} == set(DROPPED)


def test_counters_are_those_of_the_director():
    assert named(r"`(passed_[a-z_]+)`") <= {f"passed_{reason}" for reason in PASSED}
    assert named(r"`(dropped_[a-z_]+)`") <= set(DROPPED)


def test_drawings_fit_a_telephone():
    drawings = [lines for lines in blocks(PAGE) if any("▼" in line for line in lines)]
    assert len(drawings) == 9
    assert [line for lines in drawings for line in lines if len(line) > COLUMNS] == []
