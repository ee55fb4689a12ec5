"""Weighted overflow.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_ovf.c)."""
from __future__ import annotations

import pytest


def test_ovf_gives_each_server_one_more_than_its_weight_and_then_nobody(farm, profile, active):
    assert farm("ovf", "A3 B2 C1", profile).picks(11, active) == "A A A A B B B C C - -"


def test_ovf_does_not_see_udp(farm, inactive):
    assert farm("ovf", "A3 B2 C1").picks(9, inactive) == "A A A A A A A A A"


@pytest.mark.parametrize(("loads", "chosen"), [
    ({}, "A"),
    ({"A": (3, 3)}, "A"),
    ({"A": (4, 4)}, "B"),
    ({"A": (4, 4), "B": (3, 3)}, "C"),
    ({"A": (4, 4), "B": (3, 3), "C": (2, 2)}, "-"),
])
def test_ovf_flows_over_by_weight(farm, loads, chosen):
    service = farm("ovf", "A3 B2 C1")
    service.load(**loads)

    assert service.picks(1) == chosen


def test_ovf_comes_back_when_connections_end(farm, active):
    service = farm("ovf", "A1 B2")
    assert service.picks(4, active) == "B B B A"

    service.load(B=(2, 3))
    assert service.picks(1) == "B"


def test_ovf_passes_over_quiesced_and_overloaded_servers(farm):
    service = farm("ovf", "A3 B2 C1")
    service.overload("A")
    service.edit("B0")

    assert service.picks(1) == "C"


def test_ovf_of_equal_weights_the_newest(farm):
    assert farm("ovf", "A2 B2 C1").picks(1) == "B"


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_ovf_without_a_usable_server_chooses_nobody(farm, servers):
    assert farm("ovf", servers).picks(1) == "-"
