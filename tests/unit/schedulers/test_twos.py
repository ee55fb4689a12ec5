"""Power of two choices (ip_vs_twos.c); luck is replaced by numbers that were written down."""
from __future__ import annotations

from collections import Counter
from itertools import product
from random import Random

import pytest

from lbq.model import CLASSIC


class Drawn:
    """Draws what it is told, and remembers out of what it was to draw."""

    def __init__(self, *numbers: int):
        self.numbers = list(numbers)
        self.limits = []

    def randint(self, first: int, last: int) -> int:
        """Return the next number."""
        self.limits.append((first, last))
        return self.numbers.pop(0)


# The list is C1 B2 A3: 0 and 1 are C, 2 and 3 are B, 4 to 6 are A.
@pytest.mark.parametrize(("number", "server"), [(0, "C"), (1, "C"), (2, "B"), (3, "B"), (4, "A"), (5, "A"), (6, "A")])
def test_twos_a_number_is_in_the_share_of_one_server(farm, number, server):
    service = farm("twos", "A3 B2 C1")
    service.scheduler.random = Drawn(number, number)

    assert service.picks(1) == server
    assert service.scheduler.random.limits == [(0, 6), (0, 6)]


@pytest.mark.parametrize(("loads", "chosen"), [
    ({}, "C"),                                  # equal: the first draw
    ({"C": (1, 1)}, "A"),
    ({"C": (1, 1), "A": (3, 3)}, "C"),          # 1/1 = 3/3
    ({"C": (1, 1), "A": (2, 2)}, "A"),
    ({"C": (1, 1), "A": (4, 4)}, "C"),
])
def test_twos_takes_the_less_loaded_for_its_weight(farm, loads, chosen):
    service = farm("twos", "A3 B2 C1")
    service.load(**loads)
    service.scheduler.random = Drawn(0, 6)

    assert service.picks(1) == chosen


@pytest.mark.parametrize(("profile", "chosen"), [(CLASSIC, "A"), ("new", "B")])
def test_twos_one_active_against_256_inactive_shows_the_profile(farm, profile, chosen):
    service = farm("twos", "A B", profile)
    service.load(A=(1, 1), B=(0, 256))
    service.scheduler.random = Drawn(2, 1)      # A first, then B

    assert service.picks(1) == chosen


def test_twos_does_not_draw_quiesced_or_overloaded_servers(farm):
    service = farm("twos", "A3 B2 C1 D9 E0")
    service.overload("D")
    service.scheduler.random = Drawn(0, 0, 6, 6)

    assert service.picks(2) == "C A"
    assert service.scheduler.random.limits == [(0, 6)] * 4


def test_twos_with_luck_of_its_own_shares_as_all_pairs_of_draws_do(farm):
    """20,000 choices among idle servers: the first draw always stands, so the shares are 2, 2 and 3 of 7."""
    service = farm("twos", "A3 B2 C1")
    service.scheduler.random = Random(20261122)
    share = Counter(service.picks(20_000).split())

    assert all(abs(share[name] / 20_000 - part / 7) < 0.015 for name, part in (("A", 3), ("B", 2), ("C", 2)))


def test_twos_over_all_pairs_of_draws(farm):
    service = farm("twos", "A2 B1")
    service.load(A=(1, 1), B=(1, 1))            # A is less loaded for its weight; list order B A
    pairs = list(product(range(4), repeat=2))
    service.scheduler.random = Drawn(*(number for pair in pairs for number in pair))

    assert Counter(service.picks(len(pairs)).split()) == {"A": 12, "B": 4}


def test_twos_weights_as_large_as_they_get(farm):
    service = farm("twos", f"A{2**31 - 1} B{2**31 - 1}")
    service.scheduler.random = Drawn(2**32 - 2, 2**32 - 2)

    assert service.picks(1) == "A"


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_twos_without_a_usable_server_chooses_nobody(farm, servers):
    service = farm("twos", servers)
    service.scheduler.random = Drawn()          # and draws nothing

    assert service.picks(1) == "-"
