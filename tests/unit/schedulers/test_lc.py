"""Least-connection.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_lc.c)."""
from __future__ import annotations

import pytest

from lbq.model import CLASSIC


@pytest.mark.parametrize("count", ["active", "inactive"])
def test_lc_from_idle_one_new_connection_after_another(farm, profile, count, request):
    service = farm("lc", "A3 B2 C1", profile)

    assert service.picks(14, request.getfixturevalue(count)) == "C B A C B A C B A C B A C B"


def test_lc_knows_only_one_weight_and_that_is_0(farm, active):
    service = farm("lc", "A1 B0 C5 D2")

    assert service.picks(6, active) == "D C A D C A"
    service.edit("B1")
    service.edit("C0")
    assert service.picks(4, active) == "B B D B"


@pytest.mark.parametrize(("loads", "chosen"), [
    ({}, "C"),
    ({"C": (0, 1)}, "B"),
    ({"C": (0, 1), "B": (0, 1)}, "A"),
    ({"C": (1, 1), "B": (0, 255), "A": (0, 254)}, "A"),
    ({"C": (2, 2), "B": (1, 1), "A": (1, 1)}, "B"),
])
def test_lc_takes_the_least_load_and_of_equals_the_newest(farm, loads, chosen):
    service = farm("lc", "A3 B2 C1")
    service.load(**loads)

    assert service.picks(1) == chosen


@pytest.mark.parametrize(("profile", "chosen"), [(CLASSIC, "B"), ("new", "A")])
def test_lc_one_active_against_256_inactive_shows_the_profile(farm, profile, chosen):
    service = farm("lc", "A B", profile)
    service.load(A=(0, 256), B=(1, 1))

    assert service.picks(1) == chosen


def test_lc_passes_over_an_overloaded_server(farm):
    service = farm("lc", "A B")
    service.overload("B")

    assert service.picks(1) == "A"


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_lc_without_a_usable_server_chooses_nobody(farm, servers):
    assert farm("lc", servers).picks(1) == "-"
