"""Weighted round-robin.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_wrr.c)."""
from __future__ import annotations

from collections import Counter

import pytest


def test_wrr_starts_at_the_lowest_level_when_servers_are_added_one_by_one(farm):
    assert farm("wrr", "A3 B2 C1").picks(12) == "C B A A B A C B A A B A"


def test_wrr_starts_at_the_top_when_bound_to_servers_that_exist(farm):
    service = farm("rr", "A3 B2 C1")

    service.rebind("wrr")

    assert service.picks(12) == "A B A C B A A B A C B A"


def test_wrr_follows_edits_and_quiesced_servers(farm):
    service = farm("wrr", "A4 B2")
    assert service.picks(6) == "B A A B A A"

    service.edit("B4")
    assert service.picks(4) == "B A B A"
    service.edit("A6")
    assert service.picks(10) == "B A A B A B A A B A"
    service.edit("A0")
    assert service.picks(3) == "B B B"
    service.edit("B0")
    assert service.picks(1) == "-"
    service.edit("B1")
    assert service.picks(2) == "B B"


def test_wrr_starts_again_at_the_head_when_a_server_is_added_or_deleted(farm):
    service = farm("wrr", "A3 B2 C1")
    assert service.picks(4) == "C B A A"

    service.add("D2")
    assert service.picks(16) == "A D B A D C B A A D B A D C B A"
    service.delete("A")
    assert service.picks(10) == "D C B D B D C B D B"


def test_wrr_an_edit_that_changes_nothing_still_moves_the_cursor_to_the_head(farm):
    service = farm("wrr", "A1 B1 C1")
    assert service.picks(2) == "C B"

    service.edit("A1")

    assert service.picks(3) == "C B A"


@pytest.mark.parametrize("weights", [(3, 2, 1), (4, 2, 2), (10, 5, 1), (7, 7, 7), (100, 1, 0), (6, 4, 2)])
def test_wrr_shares_in_proportion_to_the_weights(farm, weights):
    """Whatever round it starts in, a whole round gives each server its weight's share exactly."""
    shares = dict(zip("ABC", weights, strict=True))
    service = farm("wrr", " ".join(f"{name}{weight}" for name, weight in shares.items()))
    service.picks(17)

    chosen = Counter(service.picks(2 * sum(weights)).split())

    assert chosen == Counter({name: 2 * weight for name, weight in shares.items() if weight})


def test_wrr_passes_over_an_overloaded_server(farm):
    service = farm("wrr", "A3 B2 C1")
    service.server("A").overloaded = True

    assert service.picks(6) == "C B B C B B"


@pytest.mark.parametrize("rounds", range(7))
def test_wrr_when_all_are_overloaded_nobody_is_chosen_and_it_recovers(farm, rounds):
    service = farm("wrr", "A3 B2 C1")
    service.picks(rounds)
    for name in "ABC":
        service.server(name).overloaded = True
    assert service.picks(3) == "- - -"

    for name in "ABC":
        service.server(name).overloaded = False
    chosen = Counter(service.picks(12).split())

    assert chosen["-"] == 0
    assert chosen["A"] > chosen["B"] > chosen["C"] > 0


def overload(service, overloaded: bool) -> None:
    """Set or clear the flag on all servers."""
    for server in service.service.servers:
        server.overloaded = overloaded


def test_wrr_once_round_on_the_lowest_level_in_vain_leaves_the_cursor_where_it_was(farm):
    service = farm("wrr", "A B C")
    assert service.picks(2) == "C B"
    overload(service, True)
    assert service.picks(2) == "- -"

    overload(service, False)
    assert service.picks(3) == "A C B"


def test_wrr_down_all_levels_in_vain_starts_again_at_the_head(farm):
    service = farm("rr", "A3 B3 C1")
    service.rebind("wrr")
    assert service.picks(1) == "B"
    overload(service, True)
    assert service.picks(1) == "-"

    overload(service, False)
    assert service.picks(3) == "B A B"


def test_wrr_an_edit_puts_the_level_on_a_multiple_of_the_divisor(farm):
    """Weights 3 and 2 become 4 and 2: level 2 becomes 2 // 2 * 2 + 1 = 3, which only A reaches."""
    service = farm("rr", "A3 B2")
    service.rebind("wrr")
    assert service.picks(2) == "A B"

    service.edit("A4")

    assert service.picks(6) == "A B A A B A"


def test_wrr_in_an_empty_service_chooses_nobody(farm):
    assert farm("wrr").picks(2) == "- -"


def test_wrr_with_nothing_but_quiesced_servers_chooses_nobody(farm):
    assert farm("wrr", "A0 B0").picks(2) == "- -"


def test_wrr_a_common_divisor_shortens_the_round(farm):
    assert Counter(farm("wrr", "A200 B100").picks(3).split()) == {"A": 2, "B": 1}
