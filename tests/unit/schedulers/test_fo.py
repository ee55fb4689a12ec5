"""Weighted failover.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_fo.c)."""
from __future__ import annotations

import pytest


def test_fo_stays_with_the_heaviest_server(farm, active):
    assert farm("fo", "A3 B2 C1").picks(5, active) == "A A A A A"


def test_fo_fails_over_by_weight_and_back(farm):
    service = farm("fo", "A3 B2 C1")
    assert service.picks(1) == "A"
    service.overload("A")
    assert service.picks(1) == "B"
    service.edit("B0")
    assert service.picks(1) == "C"
    service.overload("A", overloaded=False)
    assert service.picks(1) == "A"

    service.edit("C3")
    assert service.picks(1) == "C"
    service.delete("C")
    assert service.picks(1) == "A"


def test_fo_of_equal_weights_the_newest(farm):
    assert farm("fo", "A2 B2 C1").picks(1) == "B"


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_fo_without_a_usable_server_chooses_nobody(farm, servers):
    assert farm("fo", servers).picks(1) == "-"
