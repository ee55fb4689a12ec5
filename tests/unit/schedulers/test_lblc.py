"""Locality-based least-connection.  The histories are those of running kernels 6.1.176, 6.1.192 (ip_vs_lblc.c)."""
from __future__ import annotations

import pytest

from lbq.model import CLASSIC
from tests.unit.schedulers.conftest import VIP, flow

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
ENOUGH = 16384


def wanted(service, number: int = 1, now_ns: int = 1) -> str:
    """Return who serves destination 10.0.0.<number>."""
    return service.serve(flow(vaddr=VIP - 1 + number, now_ns=now_ns))


def entries(service) -> int:
    """Return how many destinations are remembered."""
    return sum(len(bucket) for bucket in service.scheduler.memory.buckets)


def minutes_pass(service, first: int, last: int) -> None:
    """Tick at the minutes *first* to *last*, both included."""
    for minute in range(first, last + 1):
        service.tick(minute * MINUTE + 1)


def test_lblc_one_destination_moves_on_when_its_server_is_too_busy(farm, profile, active):
    assert farm("lblc", "A B C", profile).picks(14, active) == "C C B B A A A A A A A A A A"


def test_lblc_each_destination_has_its_own_server(farm, active):
    service = farm("lblc", "A10 B10 C10")
    for number in (1, 2, 3):
        active(service.server(wanted(service, number)))

    assert service.destinations([1, 2, 3, 1, 2, 3]) == "C B A C B A"


def test_lblc_does_not_look_at_the_overload_flag_of_a_remembered_server(farm, active):
    service = farm("lblc", "A10 B10")
    assert service.picks(1, active) == "B"
    service.overload("B")
    assert service.picks(3, active) == "B B B"

    service.edit("B0")
    assert service.picks(2, active) == "A A"
    service.edit("B10")
    assert service.picks(1) == "A"


def test_lblc_a_new_destination_does_not_go_to_an_overloaded_server(farm):
    service = farm("lblc", "A10 B10")
    service.overload("B")

    assert wanted(service) == "A"


# B has more active connections than its weight of 2: is there another with less than half of its own?
@pytest.mark.parametrize(("busy", "other", "chosen"), [
    (2, 0, "B"),                    # B has just its weight
    (3, 0, "A"),
    (3, 1, "A"),
    (3, 2, "B"),                    # A, of weight 4, is half full
])
def test_lblc_when_a_server_is_too_busy(farm, busy, other, chosen):
    service = farm("lblc", "A4 B2")
    assert wanted(service) == "B"
    service.load(B=(busy, busy), A=(other, other))

    assert wanted(service) == chosen


def test_lblc_an_idle_server_that_is_overloaded_counts_as_the_other_and_yet_is_not_chosen(farm):
    """B is left by the rule, and wlc finds nobody but B."""
    service = farm("lblc", "A4 B2")
    assert wanted(service) == "B"
    service.load(B=(3, 3))
    service.overload("A")

    assert wanted(service) == "B"
    service.overload("B")
    assert wanted(service) == "-"


def test_lblc_a_deleted_server_is_replaced(farm):
    service = farm("lblc", "A B")
    assert wanted(service) == "B"
    service.delete("B")

    assert wanted(service) == "A"
    service.add("B1")
    assert wanted(service) == "A"


@pytest.mark.parametrize("forgotten", [False, True])
def test_lblc_a_server_that_was_away_has_its_destinations_again(farm, forgotten):
    """The kernel keeps a deleted server as long as it is remembered here, however long ago its last connection was."""
    service = farm("lblc", "A B")
    assert wanted(service) == "B"
    service.delete("B")
    if forgotten:
        service.table.trash.clear()
    service.add("B1")
    service.load(B=(1, 1))          # so that wlc would choose A

    assert wanted(service) == "B"


def test_lblc_in_an_empty_service_chooses_nobody_and_remembers_nothing(farm):
    service = farm("lblc")

    assert wanted(service) == "-"
    assert entries(service) == 0


def test_lblc_another_scheduler_in_between_forgets_all(farm):
    service = farm("lblc", "A B")
    assert wanted(service) == "B"
    service.load(B=(1, 1))
    service.rebind("rr")
    service.rebind("lblc")

    assert wanted(service) == "A"


def test_lblc_forgets_after_a_day_and_looks_every_half_hour(farm):
    service = farm("lblc", "A B")
    wanted(service, 1, now_ns=1)
    wanted(service, 2, now_ns=10 * MINUTE + 1)
    minutes_pass(service, 0, 24 * 60 - 1)
    assert entries(service) == 2
    minutes_pass(service, 24 * 60, 24 * 60)         # the first was used exactly a day ago
    assert entries(service) == 1
    minutes_pass(service, 24 * 60 + 1, 24 * 60 + 29)
    assert entries(service) == 1
    minutes_pass(service, 24 * 60 + 30, 24 * 60 + 30)
    assert entries(service) == 0


def test_lblc_a_use_that_is_refused_is_a_use(farm):
    service = farm("lblc", "A")
    service.scheduler.expiration_seconds = 600
    wanted(service)
    service.edit("A0")
    assert wanted(service, now_ns=25 * MINUTE) == "-"

    minutes_pass(service, 0, 59)
    assert entries(service) == 1
    minutes_pass(service, 60, 60)
    assert entries(service) == 0


def test_lblc_the_sysctl_says_how_long(farm):
    service = farm("lblc", "A")
    assert service.scheduler.expiration_seconds == 86400
    service.table.set_sysctl("lblc_expiration", 1800)
    wanted(service)

    minutes_pass(service, 0, 29)
    assert entries(service) == 1
    minutes_pass(service, 30, 30)
    assert entries(service) == 0


def remember(service, count: int, first: int = 0, now_ns: int = 1) -> None:
    """Let so many destinations be wanted."""
    for number in range(first, first + count):
        service.scheduler.schedule(service.service, flow(vaddr=0x0B000000 + number, now_ns=now_ns))


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "count"), [(CLASSIC, 24600), ("new", 24576)])
def test_lblc_new_kernels_remember_no_more_than_half_as_much_again(farm, profile, count):
    service = farm("lblc", "A B", profile)
    remember(service, 24600)

    assert entries(service) == service.scheduler.memory.count == count
    assert service.serve(flow(vaddr=0x0C000000)) == "B"


@pytest.mark.slow
def test_lblc_with_too_many_entries_those_unused_for_six_minutes_go_bucket_by_bucket(farm):
    service = farm("lblc", "A B")
    remember(service, ENOUGH + 300)
    minutes_pass(service, 0, 5)
    assert entries(service) == ENOUGH + 300
    assert service.scheduler.memory.interval == 1           # the full check does not come nearer

    minutes_pass(service, 6, 6)         # 300 too many: 400 or a bucket more are to go
    gone = ENOUGH + 300 - entries(service)
    rover = service.scheduler.memory.rover
    assert 400 <= gone < 400 + 40
    assert 0 < rover < 40
    assert not any(service.scheduler.memory.buckets[1:rover + 1])
    assert all(service.scheduler.memory.buckets[rover + 1:])

    minutes_pass(service, 7, 7)
    assert service.scheduler.memory.rover == rover
    assert service.scheduler.memory.interval == 2


@pytest.mark.slow
def test_lblc_recently_used_entries_stay_however_many(farm):
    service = farm("lblc", "A B")
    remember(service, ENOUGH + 300)
    remember(service, ENOUGH + 300, now_ns=MINUTE)
    minutes_pass(service, 0, 6)

    assert entries(service) == ENOUGH + 300
    assert service.scheduler.memory.rover == 0              # it has been all the way round


@pytest.mark.parametrize(("profile", "counted"), [(CLASSIC, 2), ("new", 1)])
def test_lblc_classic_kernels_count_a_destination_that_moves_twice(farm, profile, counted):
    service = farm("lblc", "A B", profile)
    assert wanted(service) == "B"
    service.edit("B0")
    assert wanted(service) == "A"

    assert (entries(service), service.scheduler.memory.count) == (1, counted)


def test_lblc_a_clock_that_jumps_hours_ahead_is_one_check(farm):
    service = farm("lblc", "A B")
    wanted(service)
    service.tick(1)
    service.tick(7 * 60 * MINUTE)

    assert service.scheduler.memory.interval == 2
    assert service.scheduler.memory.next_check == 7 * 60 * MINUTE + 1


def test_lblc_a_large_memory_is_tidied_in_short_steps(farm):
    service = farm("lblc", "A9999")
    memory = service.scheduler.memory
    service.tick(1)
    for number in range(4000):
        wanted(service, number)
    memory.interval, memory.next_check = 30, 2 * DAY

    steps, before = 0, memory.count
    service.table.tick(2 * DAY)
    while service.table.go_on():
        assert before - memory.count < 300
        steps, before = steps + 1, memory.count

    assert steps >= 4000 // 300
    assert (entries(service), memory.count) == (0, 0)
