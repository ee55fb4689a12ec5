"""lbq.services: adding, editing and deleting; the trash."""
from __future__ import annotations

import pytest

from lbq import services
from lbq.errors import NoSuchServer, NoSuchService, ServerExists, ServiceExists, UnknownScheduler
from lbq.model import AF_INET, TCP, UDP, ServiceKey
from lbq.schedulers.base import Scheduler
from lbq.services import SECOND, ServiceTable
from tests.helpers.packets import address

WEB = ServiceKey(TCP, address("192.168.10.1"), 80)
RIP = address("192.168.20.1")


@pytest.fixture
def table() -> ServiceTable:
    """Return a table with one TCP service and one server."""
    table = ServiceTable()
    table.add_service(WEB, "rr")
    table.add_server(WEB, RIP, 80)
    return table


def test_a_service_is_found_by_its_key(table):
    assert table.service(WEB).key == WEB
    assert table.server(WEB, RIP, 80).address == RIP


def test_the_same_address_may_serve_tcp_and_udp(table):
    table.add_service(WEB._replace(protocol=UDP), "rr")

    assert len(table.by_key) == 2


def test_a_service_is_added_once(table):
    with pytest.raises(ServiceExists, match=r"tcp:192\.168\.10\.1:80: it is already there"):
        table.add_service(WEB, "rr")


def test_an_unknown_scheduler_adds_nothing(table):
    with pytest.raises(UnknownScheduler):
        table.add_service(WEB._replace(port=81), "wcl")

    assert len(table.by_key) == 1


def test_a_scheduler_starts_anew_only_when_another_one_is_asked_for(table, tmp_path):
    """Even when a user's own calls itself by another name than it was asked for."""
    (tmp_path / "mine.py").write_text("from lbq.schedulers.rr import RoundRobin\n\n\n"
                                      "class Mine(RoundRobin):\n    name = 'wlc'\n\n"
                                      "    def schedule(self, service, flow):\n        return None\n")
    name = f"{tmp_path}/mine.py:Mine"
    first = table.set_service(WEB, name, 0, 0, 0xFFFFFFFF).scheduler

    assert table.set_service(WEB, name, 1, 300, 0xFFFFFFFF).scheduler is first
    assert type(table.set_service(WEB, "wlc", 1, 300, 0xFFFFFFFF).scheduler) is not type(first)


def test_a_missing_service_is_named(table):
    with pytest.raises(NoSuchService, match=r"no service udp:192\.168\.10\.1:53"):
        table.service(ServiceKey(UDP, WEB.address, 53))


def test_a_server_is_added_once(table):
    with pytest.raises(ServerExists, match=r"192\.168\.20\.1:80 .* already there"):
        table.add_server(WEB, RIP, 80, weight=5)

    assert table.server(WEB, RIP, 80).weight == 1


def test_a_server_may_have_two_ports(table):
    table.add_server(WEB, RIP, 81)

    assert [server.port for server in table.service(WEB).servers] == [81, 80]


@pytest.mark.parametrize("do", ["set_server", "delete_server"])
def test_a_missing_server_is_named(table, do):
    arguments = (RIP, 8080, 1) if do == "set_server" else (RIP, 8080)

    with pytest.raises(NoSuchServer, match=r"192\.168\.20\.1:8080"):
        getattr(table, do)(WEB, *arguments)


def test_editing_never_moves_a_server(table):
    table.add_server(WEB, RIP + 1, 80)

    table.set_server(WEB, RIP, 80, 9)

    servers = table.service(WEB).servers
    assert [(server.address - RIP, server.weight) for server in servers] == [(1, 1), (0, 9)]


def test_a_deleted_server_is_not_available(table):
    server = table.delete_server(WEB, RIP, 80)

    assert not server.available
    assert table.service(WEB).servers == []
    with pytest.raises(NoSuchServer):
        table.server(WEB, RIP, 80)


def test_a_deleted_server_comes_back_with_its_connections(table):
    table.add_server(WEB, RIP + 1, 80)
    server = table.delete_server(WEB, RIP, 80)
    server.active_conns, server.inactive_conns = 2, 3

    revived = table.add_server(WEB, RIP, 80, weight=7)

    assert revived is server
    assert (revived.available, revived.weight) == (True, 7)
    assert (revived.active_conns, revived.inactive_conns) == (2, 3)
    assert table.service(WEB).servers[0] is revived         # at the head, like any added server
    assert table.trash == {}


def test_servers_of_a_deleted_service_come_back_too(table):
    server = table.server(WEB, RIP, 80)
    table.delete_service(WEB)
    table.add_service(WEB, "wlc")

    assert table.add_server(WEB, RIP, 80) is server
    assert server.service is table.service(WEB)


def test_a_trashed_server_of_another_service_is_another_server(table):
    other = WEB._replace(port=443)
    table.add_service(other, "rr")
    server = table.delete_server(WEB, RIP, 80)

    assert table.add_server(other, RIP, 80) is not server


def test_the_trash_keeps_servers_that_still_have_connections(table):
    server = table.delete_server(WEB, RIP, 80)
    server.inactive_conns = 1
    assert table.empty_trash(0) == table.empty_trash(1000 * SECOND) == {}

    server.inactive_conns = 0

    assert table.empty_trash(1060 * SECOND) == {}, "seen idle"
    assert table.empty_trash(1120 * SECOND) == {}
    assert list(table.empty_trash(1180 * SECOND)) == [(WEB, RIP, 80, AF_INET)]
    assert table.trash == {}
    assert table.add_server(WEB, RIP, 80) is not server


class Stepping(Scheduler):
    """A scheduler whose tick returns what it was made with."""

    name = "stepping"

    def __init__(self, steps):
        self.steps = steps

    def tick(self, service, now_ns):
        """Return the steps."""
        return self.steps


def appoint(table, key, scheduler):
    """Let *scheduler* work for the service *key*."""
    table.service(key).scheduler = scheduler
    table.ageing[key] = table.service(key)


def test_what_takes_a_scheduler_long_is_done_step_by_step(table):
    done = []
    appoint(table, WEB, Stepping(done.append(number) for number in range(3)))
    table.tick(1)

    assert done == []
    assert (table.go_on(), done) == (True, [0])
    while table.go_on():
        pass
    assert (done, table.scheduler_errors) == ([0, 1, 2], 0)


def test_a_scheduler_that_fails_in_a_step_is_counted_and_the_others_go_on(table):
    done = []
    other = WEB._replace(port=443)
    table.add_service(other, "rr")
    appoint(table, WEB, Stepping(1 // 0 for _ in range(3)))
    appoint(table, other, Stepping(done.append(number) for number in range(2)))
    table.tick(1)

    while table.go_on():
        pass

    assert (done, table.scheduler_errors) == ([0, 1], 1)


def test_schedulers_take_their_steps_by_turns(table):
    done = []
    other = WEB._replace(port=443)
    table.add_service(other, "rr")
    for key, name in ((WEB, "a"), (other, "b")):
        appoint(table, key, Stepping(map(done.append, [name, name])))
    table.tick(1)
    while table.go_on():
        pass

    assert done == ["a", "b", "a", "b"]


def test_a_scheduler_that_has_not_finished_is_not_asked_again(table):
    appoint(table, WEB, Stepping(iter(int, 1)))       # without an end
    for second in range(3):
        table.tick(second)
        assert table.go_on()

    assert len(table.begun) == 1


@pytest.mark.parametrize("end", [lambda table: table.delete_service(WEB),
                                 lambda table: table.set_service(WEB, "sed", 0, 0)], ids=["deleted", "replaced"])
def test_the_steps_of_a_scheduler_end_with_it(table, end):
    done = []
    appoint(table, WEB, Stepping(done.append(number) for number in range(3)))
    table.tick(1)
    table.go_on()
    end(table)
    table.tick(2)

    assert (table.go_on(), done, len(table.begun)) == (False, [0], 0)


def test_a_large_trash_is_looked_through_in_pieces(table):
    for number in range(500):
        table.add_server(WEB, RIP + 1 + number, 80)
    table.delete_service(WEB)
    table.empty_trash(0)
    for minute in (1, 2):
        assert [len(table.empty_trash(minute * 60 * SECOND + second)) for second in range(3)] == [0, 0, 0]

    assert [len(table.empty_trash(180 * SECOND + second)) for second in range(4)] == [200, 200, 101, 0]
    assert (table.trash, table.idle_since) == ({}, {})


def test_a_round_through_the_trash_that_takes_longer_than_a_minute_comes_to_its_end(table, monkeypatch):
    """What is looked at last has its turn, although there are always connections of what comes first."""
    monkeypatch.setattr(services, "TRASH_PIECE", 1)
    for number in range(80):
        table.add_server(WEB, RIP + 1 + number, 80)
    for server in table.service(WEB).servers[:70]:
        server.active_conns = 1
    table.delete_service(WEB)

    for second in range(400):
        table.empty_trash(second * SECOND)

    assert len(table.trash) == 70
