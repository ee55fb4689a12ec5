"""What both directors offer besides a packet's way: listings in pages, counters, schedulers that fail."""
from __future__ import annotations

import sys

import pytest

from lbq.conntrack import FIELDS, RECORD
from lbq.errors import NoSuchServer, NoSuchService, ServerExists, ServiceExists, UnknownScheduler
from lbq.model import AF_INET, CSUM, DR, GUE, RealServer
from lbq.outcomes import DROPPED, PASSED
from tests.helpers import engines
from tests.helpers.cases import (
    DNS,
    WEB,
    Case,
    client,
    comes_from,
    connections,
    dropped,
    refused,
    server,
    service,
    shows,
    to,
)
from tests.helpers.engines import add_service, key
from tests.helpers.packets import address, endpoint

RIP = endpoint("192.168.20.1:80")
REASONS = {*(f"dropped_{reason}" for reason in DROPPED), *(f"passed_{reason}" for reason in PASSED)}


def test_the_counters_have_the_names_that_are_documented(engine):
    assert set(engine.statistics()) == REASONS | {
        "packets", "bytes", "accepted", "rewritten", "forwarded", "connections", "connections_max", "conns", "expired",
        "started_over", "icmp_sent", "icmp_limited", "verdict_errors", "send_errors", "scheduler_errors"}
    assert engine.statistics()["connections_max"] == 100
    assert sum(engine.statistics().values()) == 100


def test_a_row_of_the_listing(engine):
    add_service(engine, WEB, "192.168.20.1:80", "192.168.20.2:8080,3", scheduler="wlc")
    nothing = {"conns": 0, "packets_in": 0, "packets_out": 0, "bytes_in": 0, "bytes_out": 0}
    traffic = {"stats": nothing, "shown": nothing, "rates": nothing}
    plain = {"family": "inet", "mode": "nat", "upper": 0, "lower": 0, "tunnel": "ipip", "tunnel_port": 0,
             "tunnel_flags": "nocsum", "active": 0, "inactive": 0, "persistent": 0, "overloaded": False, **traffic}

    assert engine.list_services() == ([{
        "family": "inet", "protocol": "tcp", "address": "192.168.10.1", "port": 80, "fwmark": 0, "scheduler": "wlc",
        "flags": [], "timeout": 0, "netmask": "255.255.255.255", "idle": 0, **traffic,
        "servers": [{"address": "192.168.20.2", "port": 8080, "weight": 3, **plain},
                    {"address": "192.168.20.1", "port": 80, "weight": 1, **plain}]}], None)


def test_totals_are_those_of_all_services_and_of_those_that_are_gone(engine):
    def totals() -> list[tuple]:
        return [tuple(numbers.values()) for numbers in engine.totals().values()]

    nothing = (0, 0, 0, 0, 0)
    Case("", service(WEB, "192.168.20.1:80"), service(DNS, "192.168.20.1:53"),
         client("192.168.10.9:1").syn() >> to("192.168.20.1:80"),
         server("192.168.20.1:80", "192.168.10.9:1").synack() >> comes_from("192.168.10.1:80"),
         client("192.168.10.9:1", "192.168.10.1:53").udp(bytes(12)) >> to("192.168.20.1:53")).play(engine)
    counted = (2, 2, 1, 80, 40)
    assert totals() == [counted, nothing, nothing]

    engine.delete_service(key(DNS))
    assert totals() == [counted, nothing, nothing]
    engine.tick(2_000 * engines.NS)
    rates = (0, 0, 0, 10, 5)
    assert totals() == [counted, counted, rates]
    engine.zero(key(WEB))
    assert totals() == [counted, counted, rates]
    engine.zero()
    assert totals() == [nothing, nothing, nothing]

    add_service(engine, DNS)                # in the slot of the one that is gone
    assert totals() == [nothing, nothing, nothing]


def test_the_counters_of_a_service_are_those_of_its_servers_together(engine):
    Case("", service(WEB, "192.168.20.1:80", "192.168.20.2:80"),
         client("192.168.10.9:1").syn() >> to("192.168.20.2:80"),
         client("192.168.10.9:2").syn() >> to("192.168.20.1:80"),
         server("192.168.20.1:80", "192.168.10.9:2").synack() >> comes_from("192.168.10.1:80")).play(engine)

    row, = engines.services(engine)

    assert row["stats"] == {"conns": 2, "packets_in": 2, "packets_out": 1, "bytes_in": 80, "bytes_out": 40}


def test_services_come_in_pages(engine):
    names = [f"tcp:192.168.10.1:{port}" for port in range(1, 8)]
    for name in names:
        add_service(engine, name)

    rows, cursor = engine.list_services(0, 3)
    more, behind = engine.list_services(cursor, 3)

    assert [row["port"] for row in (*rows, *more)] == [1, 2, 3, 4, 5, 6]
    assert [row["port"] for row in engines.services(engine, limit=3)] == list(range(1, 8))
    assert [row["port"] for row in engine.list_services(behind, 3)[0]] == [7]
    assert engine.list_services(behind, 3)[1] is None


def test_a_page_after_its_service_went_begins_with_what_came_into_its_place(engine):
    for port in (1, 2, 3):
        add_service(engine, f"tcp:192.168.10.1:{port}", "192.168.20.1:80", "192.168.20.2:80")
    _, cursor = engine.list_services(0, 2)
    engine.delete_service(key("tcp:192.168.10.1:1"))

    rows, _ = engine.list_services(cursor, 100)

    assert [row["port"] for row in rows] == [2, 3]
    assert engine.list_services(10**12, 3) == ([], None)


def test_a_service_of_many_servers_comes_in_pages_too(engine):
    add_service(engine, "tcp:192.168.10.1:79")
    add_service(engine, WEB, *(f"192.168.20.{host}:80" for host in range(1, 8)))
    add_service(engine, "tcp:192.168.10.1:81", "192.168.20.1:81")
    whole, last = engine.list_services(0, 100)

    first, cursor = engine.list_services(0, 5)

    assert last is None
    assert [len(row["servers"]) for row in first] == [0, 3]
    assert [row["address"] for row in first[1]["servers"]] == ["192.168.20.7", "192.168.20.6", "192.168.20.5"]
    assert [row["port"] for row in engine.list_services(cursor, 1)[0]] == [80]
    for limit in range(1, 13):
        assert engines.services(engine, limit=limit) == whole, limit


@pytest.mark.parametrize("limit", [1, 7, 50, 256])
def test_connections_come_in_pages_each_once(engine, limit):
    add_service(engine, WEB, "192.168.20.1:80")
    for port in range(40001, 40051):
        engine.handle(bytearray(client(f"192.168.10.9:{port}").syn().packet), 0)

    listed = engines.connections(engine, limit=limit)

    assert sorted(connection["cport"] for connection in listed) == list(range(40001, 40051))
    assert len(engine.list_connections(0, limit)[0]) == 64 * min(limit, 50)


def test_an_empty_director_lists_nothing(engine):
    assert engine.list_services() == ([], None)
    assert engine.list_connections() == (b"", None)
    assert engine.tick(0) == []


@pytest.mark.parametrize(("mistake", "error"), [
    (("add_service", key(WEB), "rr"), ServiceExists),
    (("add_service", key(DNS), "wcl"), UnknownScheduler),
    (("delete_service", key(DNS)), NoSuchService),
    (("add_server", key(DNS), *RIP), NoSuchService),
    (("add_server", key(WEB), *RIP), ServerExists),
    (("set_server", key(WEB), RIP[0], 81, 1), NoSuchServer),
    (("delete_server", key(WEB), RIP[0] + 1, 80), NoSuchServer),
    (("delete_server", key(DNS), *RIP), NoSuchService),
])
def test_a_mistake_is_an_error_and_changes_nothing(engine, mistake, error):
    add_service(engine, WEB, "192.168.20.1:80")
    before = engine.list_services()

    with pytest.raises(error):
        getattr(engine, mistake[0])(*mistake[1:])

    assert engine.list_services() == before


def test_the_trash_is_emptied_of_servers_without_connections(engine):
    add_service(engine, WEB, "192.168.20.1:80", "192.168.20.2:80")
    engine.handle(bytearray(client().syn().packet), 0)          # to 192.168.20.2, the newest
    engine.delete_server(key(WEB), *endpoint("192.168.20.1:80"))
    engine.delete_server(key(WEB), *endpoint("192.168.20.2:80"))

    assert engines.forget_deleted(engine) == [(key(WEB), address("192.168.20.1"), 80, AF_INET)]
    assert engines.forget_deleted(engine, 10**16) == []


def test_many_servers_come_and_go(engine):
    """A server's place in the director's own arrays is used again, with nothing left of its predecessor."""
    add_service(engine, WEB)
    for number in range(200):
        where = (address("192.168.30.1") + number, 80)
        engine.add_server(key(WEB), *where)
        packet = bytearray(client(f"192.168.10.9:{40000 + number}").tcp("S").packet)
        assert engine.handle(packet, 0).changed
        row = engines.servers(engine, WEB)[f"192.168.30.{number + 1}:80"]
        assert (row["active"], row["stats"]["conns"], row["stats"]["packets_in"]) == (1, 1, 1)
        assert RECORD.unpack(engine.list_connections()[0])[FIELDS.index("server")] == 0
        engine.delete_server(key(WEB), *where)
        engine.expire(10**15)
        assert len(engines.forget_deleted(engine)) == 1
    assert engine.statistics()["connections"] == 0


# ---- A user's own scheduler -------------------------------------------------------------------------------


def scheduler_that(answers):
    """Return a scheduler whose answer is *answers(service)*."""
    from lbq.schedulers.base import Scheduler

    class Own(Scheduler):
        name = "own"

        def schedule(self, service, flow):
            self.flow = flow
            return answers(service)

    return Own()


def with_scheduler(engine, answers):
    """Give *engine* a service with two servers and a scheduler of the user's; return the scheduler."""
    add_service(engine, WEB, "192.168.20.1:80", "192.168.20.2:80")
    own = scheduler_that(answers)
    engine.services.service(key(WEB)).scheduler = own
    return own


def test_a_users_own_scheduler_chooses(engine):
    own = with_scheduler(engine, lambda service: service.servers[-1])

    Case("", client().syn() >> to("192.168.20.1:80"), connections(1),
         shows(WEB, "192.168.20.1:80", active=1)).play(engine)

    assert (own.flow.caddr, own.flow.cport) == endpoint("192.168.10.9:40000")
    assert (own.flow.vaddr, own.flow.vport, own.flow.protocol) == (*endpoint("192.168.10.1:80"), 6)


@pytest.mark.parametrize("answers", [lambda service: 1 / 0, lambda service: sys.exit(1),
                                     lambda service: "192.168.20.1", lambda service: 7],
                         ids=["raises", "exits", "text", "number"])
def test_a_scheduler_that_fails_refuses_its_client_and_stops_nobody_else(engine, answers):
    with_scheduler(engine, answers)

    Case("", service(DNS, "192.168.20.1:53"),
         client().syn() >> refused,
         client(vip="192.168.10.1:53").udp() >> to("192.168.20.1:53")).play(engine)

    assert engine.statistics()["scheduler_errors"] == 1


def test_a_scheduler_that_remembers_a_deleted_server_refuses(engine):
    removed = []
    with_scheduler(engine, lambda service: removed[0])
    removed.append(engine.services.server(key(WEB), *RIP))
    engine.delete_server(key(WEB), *RIP)

    Case("", client().syn() >> refused).play(engine)


@pytest.mark.parametrize("foreign", [
    lambda engine: engine.services.service(key(DNS)).servers[0],
    lambda engine: RealServer(*RIP),
], ids=["of another service", "of nobody"])
def test_a_scheduler_that_chooses_a_server_not_of_its_service_refuses(engine, foreign):
    with_scheduler(engine, lambda service: foreign(engine))

    Case("", service(DNS, "192.168.20.1:53"), client().syn() >> refused, connections(0)).play(engine)


class NoticeFailed(Exception):
    """A user's own scheduler failed when it was told of a change."""


def fail(self, service, server_or_time):
    raise NoticeFailed


def with_notices_that_fail(engine, *notices):
    """Give *engine* a service with one server, whose scheduler fails when told of *notices* from now on."""
    add_service(engine, WEB, "192.168.20.1:80")
    own = scheduler_that(lambda service: service.servers[0])
    engine.services.service(key(WEB)).scheduler = own
    for notice in notices:
        setattr(type(own), notice, fail)
    return type(own)


def test_a_server_whose_scheduler_fails_to_take_it_is_not_added(engine):
    scheduler = with_notices_that_fail(engine, "server_added")
    before = engine.list_services()
    other = endpoint("192.168.20.2:80")

    with pytest.raises(NoticeFailed):
        engine.add_server(key(WEB), *other)

    assert engine.list_services() == before
    with pytest.raises(NoSuchServer):
        engine.delete_server(key(WEB), *other)
    assert engines.forget_deleted(engine) == []
    del scheduler.server_added
    engine.add_server(key(WEB), *other)
    Case("", client().syn() >> to("192.168.20.2:80")).play(engine)


def test_a_deleted_server_whose_scheduler_fails_to_take_it_back_stays_deleted(engine):
    scheduler = with_notices_that_fail(engine)
    Case("", client().syn() >> to("192.168.20.1:80")).play(engine)
    engine.delete_server(key(WEB), *RIP)
    scheduler.server_added = fail

    with pytest.raises(NoticeFailed):
        engine.add_server(key(WEB), *RIP)

    Case("", client().ack() >> dropped("server_gone"), server().ack() >> comes_from("192.168.10.1:80")).play(engine)
    engine.expire(10**15)
    assert engines.forget_deleted(engine) == [(key(WEB), *RIP, AF_INET)]


def test_an_edit_that_the_scheduler_does_not_take_changes_nothing(engine):
    with_notices_that_fail(engine, "server_changed")
    before = engine.list_services()

    with pytest.raises(NoticeFailed):
        engine.set_server(key(WEB), *RIP, 5, DR, 7, 3, (GUE, 6080, CSUM))

    assert engine.list_services() == before
    Case("", client().syn() >> to("192.168.20.1:80")).play(engine)


def test_a_scheduler_that_fails_at_a_tick_keeps_nobody_from_theirs(engine):
    scheduler = with_notices_that_fail(engine)
    scheduler.tick = fail
    engine.services.ageing[key(WEB)] = engine.services.service(key(WEB))
    add_service(engine, DNS, "192.168.20.1:53")
    engine.delete_server(key(DNS), *endpoint("192.168.20.1:53"))

    assert engines.forget_deleted(engine) == [(key(DNS), *endpoint("192.168.20.1:53"), AF_INET)]
    assert engine.statistics()["scheduler_errors"] == 6


@pytest.mark.parametrize("delete", [("delete_server", key(WEB), *RIP), ("delete_service", key(WEB))],
                         ids=["server", "service"])
def test_a_deleted_server_is_deleted_even_if_its_scheduler_fails(engine, delete):
    with_notices_that_fail(engine, "server_removed")
    add_service(engine, DNS)            # with no service at all nobody looks at packets
    Case("", client().syn() >> to("192.168.20.1:80")).play(engine)

    getattr(engine, delete[0])(*delete[1:])

    assert engine.statistics()["scheduler_errors"] == (delete[0] == "delete_server")
    Case("", client().ack() >> dropped("server_gone"), server().ack() >> comes_from("192.168.10.1:80")).play(engine)
    engine.expire(10**15)
    assert engines.forget_deleted(engine) == [(key(WEB), *RIP, AF_INET)]
