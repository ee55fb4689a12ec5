"""Weighted least-connection.  The histories are those of running kernels 6.1.176, 6.1.192 (ip_vs_wlc.c)."""
from __future__ import annotations

import pytest

from lbq.model import CLASSIC


def count_active(server) -> None:
    """A TCP connection that stays."""
    server.active_conns += 1


def count_inactive(server) -> None:
    """A UDP connection, which never becomes active."""
    server.inactive_conns += 1


@pytest.mark.parametrize("count", [count_active, count_inactive])
def test_wlc_from_idle_one_new_connection_after_another(farm, profile, count):
    service = farm("wlc", "A3 B2 C1", profile)

    assert service.picks(14, count) == "C B A A B A C B A A B A C B"


def test_wlc_with_a_quiesced_server(farm, profile):
    service = farm("wlc", "A1 B0 C5 D2", profile)

    assert service.picks(16, count_active) == "D C A C C D C C D C A C C D C C"


def test_wlc_idle_servers_are_equal_whatever_their_weights(farm):
    assert farm("wlc", "A1000 B1").picks(3) == "B B B"


# (active, total) of each server, and who is chosen: computed by the kernel's own selection code.
@pytest.mark.parametrize(("loads", "chosen"), [
    ({}, "C"),
    ({"C": (0, 1)}, "B"),
    ({"C": (0, 1), "B": (0, 2)}, "A"),
    ({"C": (0, 1), "B": (0, 2), "A": (0, 4)}, "C"),
    ({"C": (1, 1), "B": (1, 1), "A": (1, 1)}, "A"),
])
def test_wlc_compares_load_per_weight(farm, loads, chosen):
    service = farm("wlc", "A3 B2 C1")
    service.load(**loads)

    assert service.picks(1) == chosen


@pytest.mark.parametrize(("profile", "chosen"), [(CLASSIC, "B"), ("new", "A")])
def test_wlc_one_active_against_256_inactive_shows_the_profile(farm, profile, chosen):
    """Classic kernels see 256 = 256, a tie, which the newest wins; new ones see 257 > 256."""
    service = farm("wlc", "A B", profile)
    service.load(A=(0, 256), B=(1, 1))

    assert service.picks(1) == chosen


def test_wlc_ties_go_to_the_newest(farm):
    service = farm("wlc", "A B C")
    service.load(A=(2, 2), B=(1, 1), C=(1, 1))

    assert service.picks(1) == "C"


def test_wlc_passes_over_an_overloaded_server(farm):
    service = farm("wlc", "A B")
    service.server("B").overloaded = True

    assert service.picks(1) == "A"


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_wlc_without_a_usable_server_chooses_nobody(farm, servers):
    assert farm("wlc", servers).picks(1) == "-"


def test_wlc_weights_and_connections_as_large_as_they_get(farm):
    """16 million connections times a weight of 2^31 - 1 must not wrap."""
    service = farm("wlc", f"A{2**31 - 1} B1")
    service.load(A=(16_000_000, 16_000_000), B=(1, 1))

    assert service.picks(1) == "A"
