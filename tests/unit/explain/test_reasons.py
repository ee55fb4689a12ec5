"""Why each server lost, against vectors worked out by hand."""
from __future__ import annotations

import pytest

from lbq.explain.look import next_draws, state_of
from lbq.explain.reasons import BY_NAME, Foreseen, question
from lbq.model import TCP, Flow, RealServer, ServiceKey, VirtualService
from lbq.schedulers import BUILT_IN, create

VIP = 0xC0A80A01


def service_of(scheduler: str, *servers: tuple, flags: int = 0) -> VirtualService:
    """Return a service with servers (weight, active, inactive[, overloaded]), the first of them listed first."""
    service = VirtualService(ServiceKey(TCP, VIP, 80), create(scheduler), flags)
    for number, (weight, active, inactive, *overloaded) in reversed(list(enumerate(servers, 1))):
        server = RealServer(0xC0A81400 + number, 80, weight)
        service.add(server)
        server.active_conns, server.inactive_conns, server.overloaded = active, inactive, any(overloaded)
        server.upper = 9 if server.overloaded else 0
        service.changed(server)
    return service


def asked(service: VirtualService, client: int = 0xC0A80A09):
    """Return what is said of one flow, and who was chosen, by name."""
    flow = Flow(TCP, client, 40000, VIP, 80)
    asked = question(service, flow)
    return asked.answer(service.scheduler.schedule(service, flow))


def whys(reasons) -> list[str]:
    return [candidate.why for candidate in reasons.candidates]


def test_every_scheduler_says_its_reasons():
    assert set(BY_NAME) == set(BUILT_IN)


@pytest.mark.parametrize("scheduler", BY_NAME)
def test_where_there_is_no_server_that_is_the_reason(scheduler):
    reasons = asked(service_of(scheduler))
    assert (reasons.steps, reasons.candidates) == (["the service has no real server"], [])


def test_wlc_compares_loads_without_dividing():
    reasons = asked(service_of("wlc", (2, 2, 1), (1, 1, 0), (0, 0, 0), (5, 9, 0, True), (1, 1, 0)))
    # 257·2 + 1 = 515 over 2, against 257 over 1: 515 · 1 > 257 · 2
    assert whys(reasons) == ["load 515/2 > 257", "", "weight 0: quiesced",
                             "overloaded: 9 connections, upper threshold 9, lower 0",
                             "load 257 = 257, and listed later"]
    assert [candidate.chosen for candidate in reasons.candidates] == [False, True, False, False, False]


def test_nq_takes_the_first_idle_server_and_sed_the_least_delay():
    servers = (4, 3, 0), (1, 0, 0), (9, 0, 0)
    assert whys(asked(service_of("nq", *servers))) == ["3 active: not idle", "", "idle, too, but listed later"]
    assert whys(asked(service_of("sed", *servers))) == ["load 4/4 > 1/9", "load 1 > 1/9", ""]


def test_ovf_says_who_is_full_and_fo_who_is_lighter():
    servers = (5, 6, 0), (3, 3, 0), (1, 0, 0)
    assert whys(asked(service_of("ovf", *servers))) == ["full: 6 active > weight 5", "", "weight 1 < 3"]
    assert whys(asked(service_of("fo", *servers))) == ["", "weight 3 < 5", "weight 1 < 5"]


def test_rr_says_whose_turn_it_is():
    service = service_of("rr", (1, 0, 0), (0, 0, 0), (1, 0, 0))
    assert whys(asked(service)) == ["", "weight 0: quiesced", "its turn comes later"]
    second = asked(service)
    assert [candidate.score for candidate in second.candidates] == ["turn 3", "turn 1", "turn 2"]
    assert whys(second) == ["its turn comes later", "weight 0: quiesced", ""]
    assert second.steps == ["192.168.20.1:80 was chosen last"]


def test_wrr_says_its_level():
    service = service_of("wrr", (3, 0, 0), (1, 0, 0))
    service.scheduler.bind(service)
    reasons = asked(service)
    assert reasons.steps == ["level 3 of 3, going down by 1; it begins at the head of the list"]
    assert whys(reasons) == ["", "weight 1 does not reach level 3"]


@pytest.mark.parametrize("scheduler", ["sh", "mh", "dh"])
def test_hashing_names_the_bucket_and_asking_leaves_everything_as_it_was(scheduler):
    service = service_of(scheduler, (1, 0, 0), (1, 0, 0), (1, 0, 0))
    table = list(service.scheduler.table)
    reasons = asked(service)
    chosen = next(candidate.server for candidate in reasons.candidates if candidate.chosen)
    assert reasons.steps[-1].endswith(f"is {chosen}")
    assert service.scheduler.table == table
    assert sum(int(candidate.score.split()[0]) for candidate in reasons.candidates) == len(table)


def test_sh_tells_its_probes_when_it_falls_back():
    service = service_of("sh", (0, 0, 0), (0, 0, 0), (1, 0, 0), flags=0x08)
    for client in range(0xC0A80A01, 0xC0A80A41):
        reasons = asked(service, client)
        assert [candidate.chosen for candidate in reasons.candidates] == [False, False, True]
        assert reasons.steps[-1].endswith("is 192.168.20.3:80") or len(reasons.steps) > 16


def test_lblc_says_what_is_remembered_and_when_that_is_too_busy():
    service = service_of("lblc", (1, 0, 0), (1, 0, 0))
    first = asked(service)
    assert "is not remembered, so wlc chooses" in first.rule
    assert asked(service).steps == ["192.168.10.1 is remembered with 192.168.20.1:80"]
    service.servers[0].active_conns = 2
    busy = asked(service)
    assert busy.steps[-1].startswith("192.168.20.1:80 is too busy: 2 active > weight 1")
    assert whys(busy) == ["load 514 > 0", ""]


def test_twos_says_whom_it_drew_and_that_it_is_luck_where_nobody_knows():
    service = service_of("twos", (1, 1, 0), (2, 0, 0), (0, 0, 0), (3, 9, 0))
    assert whys(asked(service))[2] == "weight 0: quiesced" and asked(service).steps == []
    service.scheduler.random = Foreseen([1, 3])          # 0 and 1 are the first's, 2 and 3 the second's
    told = asked(service)
    assert told.steps == ["drawn: 1 of 0 to 6, which is 192.168.20.1:80",
                          "drawn: 3 of 0 to 6, which is 192.168.20.2:80"]
    assert whys(told) == ["load 257 > 0/2", "", "weight 0: quiesced",
                          "not drawn: a draw has 3 of 6 chances to be this one"]


def test_looking_at_what_twos_draws_next_draws_nothing():
    service = service_of("twos", (1, 0, 0), (5, 0, 0))
    luck = service.scheduler.random
    for _ in range(20):
        told = next_draws(service, luck)
        assert next_draws(service, luck) == told == [luck.randint(0, 6), luck.randint(0, 6)]


def test_mh_tells_its_probes_when_it_falls_back():
    service = service_of("mh", (1, 0, 0), (1, 0, 0, True), (1, 0, 0, True), flags=0x08)
    probed = 0
    for client in range(0xC0A80A01, 0xC0A80A41):
        reasons = asked(service, client)
        assert [candidate.chosen for candidate in reasons.candidates] == [True, False, False]
        assert reasons.steps[-1].endswith("is 192.168.20.1:80") or len(reasons.steps) > 16
        probed += len(reasons.steps) > 2
    assert probed > 20


def test_a_users_own_scheduler_may_remember_what_it_wants_by_any_name(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from lbq.schedulers.base import Scheduler\n"
        "class Mine(Scheduler):\n"
        "    name = 'mine'\n"
        "    last, level, memory = object(), 7.5, {}\n"
        "    def schedule(self, service, flow):\n"
        "        return None\n")
    service = VirtualService(ServiceKey(TCP, VIP, 80), create(f"{tmp_path}/mine.py:Mine"))
    assert state_of(service, VIP) == {}


def test_a_users_own_scheduler_says_no_reasons(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from lbq.schedulers.base import Scheduler\n"
        "class Mine(Scheduler):\n"
        "    name = 'rr'\n"
        "    def schedule(self, service, flow):\n"
        "        return service.servers[-1]\n")
    service = VirtualService(ServiceKey(TCP, VIP, 80), create(f"{tmp_path}/mine.py:Mine"))
    service.add(RealServer(1, 80))
    assert asked(service).rule.startswith("a scheduler of your own, rr")
