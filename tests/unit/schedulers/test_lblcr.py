"""Locality-based least-connection with replication.  Histories of kernels 6.1.176 and 6.1.192 (ip_vs_lblcr.c)."""
from __future__ import annotations

import pytest

from lbq.model import CLASSIC, fold
from lbq.schedulers.hashing import hash32
from tests.unit.schedulers.conftest import VIP, flow, name_of

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def wanted(service, now_ns: int = 1) -> str:
    """Return who serves the one destination."""
    return service.serve(flow(now_ns=now_ns))


def members(service) -> str:
    """Return the set of the one destination, the newest member first."""
    entry = service.scheduler.memory.buckets[hash32(fold(VIP), 10)].get(VIP)
    return "" if entry is None else "".join(name_of(server) for server in entry.servers)


def grown(farm, servers: str, names: str, profile: str = "new"):
    """Return a service whose destination has the set *names*, written as ``members`` does."""
    service = farm("lblcr", servers, profile)
    for name in reversed(names):
        others = [server for server in service.service.servers if name_of(server) != name]
        weights = [(server, server.weight) for server in others]
        for server in others:
            server.weight = 0
        assert wanted(service) == name
        for server, weight in weights:
            server.weight = weight
    assert members(service) == names
    return service


def test_lblcr_the_set_grows_when_its_servers_are_too_busy(farm, profile, active):
    service = farm("lblcr", "A B C", profile)

    assert service.picks(4, active) == "C C B B"
    assert members(service) == "BC"
    assert service.picks(8, active) == "A A A B C A B C"
    assert members(service) == "ABC"


def test_lblcr_an_overloaded_member_is_passed_over(farm, active):
    service = farm("lblcr", "A10 B10")
    assert service.picks(1, active) == "B"
    service.overload("B")

    assert service.picks(3, active) == "A A A"
    assert members(service) == "AB"


def test_lblcr_the_least_loaded_member_serves_and_of_equals_the_newest(farm):
    service = grown(farm, "A4 B2 C9", "AB")
    assert wanted(service) == "A"
    service.load(A=(2, 2), B=(1, 1))            # 2/4 = 1/2
    assert wanted(service) == "A"
    service.load(A=(3, 3))
    assert wanted(service) == "B"


@pytest.mark.parametrize(("profile", "chosen"), [(CLASSIC, "A"), ("new", "B")])
def test_lblcr_within_the_set_the_profile_shows(farm, profile, chosen):
    service = grown(farm, "A9 B9", "AB", profile)
    service.load(A=(1, 1), B=(0, 256))

    assert wanted(service) == chosen


def test_lblcr_quiesced_and_deleted_members_stay_and_are_passed_over(farm):
    service = grown(farm, "A9 B9 C9", "ABC")
    service.edit("A0")
    service.delete("B")
    assert wanted(service) == "C"

    assert members(service) == "ABC"
    service.add("B9")
    assert wanted(service) == "B"


def test_lblcr_a_member_that_was_away_for_long_is_the_same_member(farm):
    service = grown(farm, "A9 B9", "AB")
    service.delete("A")
    service.table.trash.clear()
    service.add("A9")

    assert wanted(service) == "A"
    assert members(service) == "AB"


def test_lblcr_a_member_that_wlc_chooses_again_joins_only_once(farm):
    """Both are too busy by the rule, since quiesced D is idle, but wlc has only them."""
    service = grown(farm, "A1 B1 D9", "AB")
    service.load(A=(2, 2), B=(2, 2))
    service.overload("D")

    assert wanted(service) == "B"               # the list is D B A
    assert members(service) == "AB"


def test_lblcr_a_set_that_has_been_the_same_for_a_day_loses_its_most_loaded_member(farm):
    service = grown(farm, "A9 B9 C9", "ABC")
    service.load(B=(2, 2), C=(1, 1))
    day = 86400 * SECOND
    assert (wanted(service, 1 + day), members(service)) == ("A", "ABC")         # not yet: a day exactly

    assert (wanted(service, 2 + day), members(service)) == ("A", "AC")
    assert (wanted(service, 2 + day + day), members(service)) == ("A", "AC")
    assert (wanted(service, 3 + day + day), members(service)) == ("A", "A")
    assert (wanted(service, 4 + 3 * day), members(service)) == ("A", "A")       # the last one stays


def test_lblcr_the_member_that_goes_may_be_the_one_that_is_chosen(farm):
    service = grown(farm, "A9 B9", "AB")
    service.load(A=(1, 1), B=(2, 2))
    service.overload("A")
    service.edit("A0")              # is not looked at, so B is the most loaded and the only choice

    assert wanted(service, 86400 * SECOND + 2) == "B"
    assert members(service) == "A"


def test_lblcr_of_equally_loaded_members_the_newest_goes(farm):
    service = grown(farm, "A9 B9", "AB")

    assert (wanted(service, 86400 * SECOND + 2), members(service)) == ("A", "B")


def test_lblcr_of_quiesced_members_none_goes(farm):
    service = grown(farm, "A9 B9", "AB")
    service.edit("A0")
    service.edit("B0")

    assert (wanted(service, 86400 * SECOND + 2), members(service)) == ("-", "AB")


def test_lblcr_the_sysctl_says_how_long_and_what_is_unused_is_forgotten(farm):
    service = grown(farm, "A9 B9", "AB")
    service.table.set_sysctl("lblcr_expiration", 600)
    wanted(service, 10 * MINUTE + 1)
    assert members(service) == "AB"
    wanted(service, 10 * MINUTE + 2)
    assert members(service) == "B"

    for minute in range(31):
        assert members(service) == "B"
        service.tick(minute * MINUTE + 2)
    assert members(service) == ""


def test_lblcr_in_an_empty_service_chooses_nobody_and_remembers_nothing(farm):
    service = farm("lblcr")

    assert wanted(service) == "-"
    assert members(service) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "count"), [(CLASSIC, 24600), ("new", 24576)])
def test_lblcr_new_kernels_remember_no_more_than_half_as_much_again(farm, profile, count):
    service = farm("lblcr", "A B", profile)
    service.serve(*(flow(vaddr=number) for number in range(1, 24601)))

    assert sum(len(bucket) for bucket in service.scheduler.memory.buckets) == count
