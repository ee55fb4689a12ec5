"""Never queue.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_nq.c)."""
from __future__ import annotations

import pytest


def test_nq_from_idle_one_new_connection_after_another(farm, profile, active):
    service = farm("nq", "A3 B2 C1", profile)

    assert service.picks(14, active) == "C B A A B A A B A C B A A B"


def test_nq_does_not_see_udp(farm, inactive):
    assert farm("nq", "A3 B2 C1").picks(9, inactive) == "C C C C C C C C C"


def test_nq_with_a_quiesced_server(farm, profile, active):
    service = farm("nq", "A1 B0 C5 D2", profile)

    assert service.picks(15, active) == "D C A C C C D C C C D C C D C"


@pytest.mark.parametrize(("loads", "chosen"), [
    ({}, "C"),
    ({"C": (1, 1)}, "B"),
    ({"C": (1, 1), "B": (1, 1)}, "A"),
    ({"C": (1, 1), "B": (1, 1), "A": (1, 1)}, "A"),
    ({"C": (1, 1), "B": (1, 1), "A": (3, 3)}, "B"),
    ({"C": (0, 9), "B": (0, 0)}, "C"),
])
def test_nq_takes_the_first_idle_server_else_the_shortest_delay(farm, loads, chosen):
    service = farm("nq", "A3 B2 C1")
    service.load(**loads)

    assert service.picks(1) == chosen


def test_nq_passes_over_an_idle_server_that_is_overloaded(farm):
    service = farm("nq", "A3 B2 C1")
    service.overload("CB")

    assert service.picks(1) == "A"


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_nq_without_a_usable_server_chooses_nobody(farm, servers):
    assert farm("nq", servers).picks(1) == "-"
