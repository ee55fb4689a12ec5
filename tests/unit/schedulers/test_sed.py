"""Shortest expected delay.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_sed.c)."""
from __future__ import annotations

import pytest


def test_sed_from_idle_one_new_connection_after_another(farm, profile, active):
    service = farm("sed", "A3 B2 C1", profile)

    assert service.picks(14, active) == "A B A C B A A B A C B A A B"


def test_sed_does_not_see_udp(farm, inactive):
    assert farm("sed", "A3 B2 C1").picks(9, inactive) == "A A A A A A A A A"


def test_sed_with_a_quiesced_server(farm, profile, active):
    service = farm("sed", "A1 B0 C5 D2", profile)

    assert service.picks(15, active) == "C C D C C D C A C C D C C D C"


@pytest.mark.parametrize(("loads", "chosen"), [
    ({}, "A"),
    ({"A": (1, 1)}, "B"),
    ({"A": (1, 1), "B": (1, 1)}, "A"),
    ({"A": (2, 2), "B": (1, 1)}, "C"),
])
def test_sed_counts_the_connection_that_asks(farm, loads, chosen):
    service = farm("sed", "A3 B2 C1")
    service.load(**loads)

    assert service.picks(1) == chosen


def test_sed_passes_over_an_overloaded_server(farm):
    service = farm("sed", "A3 B2 C1")
    service.overload("A")

    assert service.picks(1) == "B"


def test_sed_weights_and_connections_as_large_as_they_get(farm):
    service = farm("sed", f"A{2**31 - 1} B1")
    service.load(A=(16_000_000, 16_000_000))

    assert service.picks(1) == "A"


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_sed_without_a_usable_server_chooses_nobody(farm, servers):
    assert farm("sed", servers).picks(1) == "-"
