"""What a look asks, and what is known after it."""
from __future__ import annotations

import pytest

from lbq.control.questions import LINES as MOST_LINES
from lbq.errors import ConfigError, NotRunning, PeerError
from lbq.top import watch as watch_module
from lbq.top.newest import NewestConnections

VIP = "192.168.10.1:80"


def services(watched) -> list[str]:
    return [service.name for service in watched.watch.listing.services.values()]


def lines_asked(watched) -> int:
    """Return how many lines of the listing a look asked for."""
    return sum(params["limit"] for method, params in watched.asked if method == "list_page")


def test_a_look_at_little_knows_all_of_it(watched):
    watched.add(VIP, "192.168.20.1", "192.168.20.2,weight=0")
    watched.add("udp:[2001:db8::1]:53", "[2001:db8:1::1]:53")
    watched.look()

    assert services(watched) == [f"tcp:{VIP}", "udp:[2001:db8::1]:53"]
    assert watched.watch.listing.rounds == 1
    web = next(iter(watched.watch.listing.services.values()))
    assert (web.open_servers(), len(web.servers), web.row["data_path"]) == (1, 2, "rewrite")
    assert [method for method, _ in watched.asked] == ["status", "totals", "list_page", "connections"]


def test_what_is_deleted_is_forgotten_at_the_next_look(watched):
    watched.add(VIP, "192.168.20.1", "192.168.20.2")
    watched.add("192.168.10.2:80", "192.168.20.1")
    watched.look()

    watched.call("delete_service", service="192.168.10.2:80")
    watched.call("delete_server", service=VIP, server="192.168.20.2")
    watched.look()

    assert services(watched) == [f"tcp:{VIP}"]
    assert [server["address"] for server in watched.watch.listing.services.popitem()[1].servers] == ["192.168.20.1"]


@pytest.fixture
def many(watched):
    """A director with 400 services of one server each: 800 lines."""
    for number in range(400):
        watched.add(f"10.0.{number // 100}.{number % 100}:80", "192.168.20.1")
    return watched


def test_many_services_are_read_in_turn(many):
    many.look()
    assert 0 < len(services(many)) < 400 and many.watch.listing.rounds == 0

    for _ in range(3):
        many.look()

    assert len(set(services(many))) == 400 and many.watch.listing.rounds == 1
    assert all(len(service.servers) == 1 for service in many.watch.listing.services.values())


def test_a_look_at_many_asks_no_more_than_one_at_few(many):
    """Nothing but pages is asked for, and a screen of 50 lines beside the 256 of every look."""
    for _ in range(6):
        many.lines(80, 50)
        many.look()

        assert {method for method, _ in many.asked} == {"status", "totals", "list_page", "connections"}
        assert 256 <= lines_asked(many) <= 256 + 50 * 2
        assert len(many.asked) <= 4 + 50


def test_what_is_on_the_screen_is_read_by_every_look(many):
    for _ in range(4):
        many.look()
    many.lines()
    many.call("add_server", service="10.0.0.0:80", server="192.168.20.9")
    many.watch.listing._cursor = 127 << 17      # the next stretch is elsewhere
    many.look()

    first = next(iter(many.watch.listing.services.values()))
    assert first.name == "tcp:10.0.0.0:80"
    assert first.servers[0]["address"] == "192.168.20.9"


def test_services_that_move_up_in_the_listing_are_found_again(many):
    for _ in range(4):
        many.look()
    for number in range(50):
        many.call("delete_service", service=f"10.0.0.{number}:80")
    for _ in range(8):
        many.lines()
        many.look()

    assert sorted(services(many)) == sorted(f"tcp:10.0.{number // 100}.{number % 100}:80" for number in range(50, 400))
    assert all(len(service.servers) == 1 for service in many.watch.listing.services.values())


def test_a_service_of_many_servers_is_read_in_turn(watched):
    watched.add("192.168.10.9:80", "192.168.20.1")
    watched.add(VIP, *(f"10.0.{number // 100}.{number % 100}" for number in range(600)))
    watched.add("192.168.10.8:80", "192.168.20.1")
    for _ in range(4):
        watched.look()
    big = next(service for service in watched.watch.listing.services.values() if service.name == f"tcp:{VIP}")
    assert len({server["address"] for server in big.servers}) == len(big.servers) == 600

    watched.top.level.selected = big.key
    watched.press("enter")
    watched.call("delete_server", service=VIP, server="10.0.0.7")
    watched.call("add_server", service=VIP, server="10.9.9.9")
    for _ in range(6):
        watched.look()
        assert lines_asked(watched) <= 256 + 1

    assert len({server["address"] for server in big.servers}) == len(big.servers) == 600
    assert "10.9.9.9" in {server["address"] for server in big.servers}


def test_servers_that_go_between_two_stretches_leave_the_next_service_as_it_is(watched):
    """The second stretch begins where there was a server, and is another service's now."""
    watched.add(VIP, *(f"10.0.{number // 100}.{number % 100}" for number in range(300)))
    watched.add("192.168.10.2:80", "192.168.20.1", "192.168.20.2")
    watched.look()
    watched.look()
    watched.look()
    for number in range(290):
        watched.call("delete_server", service=VIP, server=f"10.0.{number // 100}.{number % 100}")
    watched.look()
    assert [len(service.servers) for service in watched.watch.listing.services.values()][1] == 2

    watched.look()
    watched.look()
    assert [len(service.servers) for service in watched.watch.listing.services.values()] == [10, 2]


def test_one_service_after_the_other_is_entered(watched):
    watched.add(VIP, *(f"10.0.{number // 100}.{number % 100}" for number in range(300)))
    watched.add("192.168.10.2:80", "192.168.20.1")
    watched.look()
    watched.look()
    watched.press("enter")
    watched.look()
    watched.press("escape", "end", "enter")
    watched.look()

    assert watched.watch.error is None and watched.lines()[-1] != "it was deleted"
    assert "tcp:192.168.10.2:80 wlc rewrite, servers: 1" in watched.lines()
    watched.look()
    assert lines_asked(watched) <= 4        # it, its server, and room for one more


def test_connections_are_counted_by_state(watched):
    watched.add(VIP, "192.168.20.1")
    for port in range(3):
        watched.open(f"192.168.10.100:{40000 + port}", VIP)
    watched.look()

    assert watched.watch.connections.states == {"SYN_RECV": 3}
    assert watched.watch.connections.are_states_whole


def test_templates_are_no_connections(watched):
    watched.add(VIP, "192.168.20.1", persistent=300)
    watched.look()
    watched.open("192.168.10.100:40000", VIP)
    watched.look()

    assert watched.watch.connections.states == {"SYN_RECV": 1, "templates": 1}
    assert [decision.client for decision in watched.watch.newest.newest(9)] == ["192.168.10.100:40000"]


def test_new_connections_are_those_that_the_last_round_did_not_have(watched):
    watched.add(VIP, "192.168.20.1")
    watched.open("192.168.10.100:40000", VIP)
    watched.look()
    assert watched.watch.newest.newest(9) == []

    watched.open("192.168.10.100:40001", VIP)
    watched.look()
    watched.open("192.168.10.100:40002", VIP)
    watched.look()
    watched.look()

    found = watched.watch.newest.newest(9)
    assert [(decision.client, decision.service, decision.server, decision.what) for decision in found] == [
        ("192.168.10.100:40002", f"tcp:{VIP}", "192.168.20.1:80", "SYN_RECV"),
        ("192.168.10.100:40001", f"tcp:{VIP}", "192.168.20.1:80", "SYN_RECV")]
    assert [watched.now - decision.at for decision in found] == [1, 2]


def test_a_long_table_is_read_in_turn(watched, monkeypatch):
    monkeypatch.setattr(watch_module, "PAGE", 8)
    watched.add(VIP, "192.168.20.1")
    for port in range(100):
        watched.open(f"192.168.10.100:{40000 + port}", VIP)
    watched.look()
    assert watched.watch.connections.states == {"SYN_RECV": 64} and not watched.watch.connections.are_states_whole

    watched.look()
    assert watched.watch.connections.states == {"SYN_RECV": 100} and watched.watch.connections.are_states_whole
    watched.look()
    assert watched.watch.connections.states == {"SYN_RECV": 100}


def test_the_connections_of_one_server_are_found_in_turn_and_states_stay(watched, monkeypatch):
    monkeypatch.setattr(watch_module, "PAGE", 8)
    monkeypatch.setattr(watch_module, "KEPT", 30)
    watched.add(VIP, "192.168.20.1")
    for port in range(100):
        watched.open(f"192.168.10.100:{40000 + port}", VIP)
    for _ in range(3):
        watched.look()
    watched.press("enter")
    watched.look()
    watched.press("enter")
    watched.look()
    found = watched.watch.connections
    assert (found.matching, len(found.found), found.is_found_whole, found.states["SYN_RECV"]) == (64, 30, False, 100)
    assert f"tcp:{VIP} at 192.168.20.1:80, connections: 64 among the first 64" in watched.lines()

    watched.look()
    assert (found.matching, len(found.found), found.is_found_whole) == (100, 30, True)
    watched.look()
    assert (found.matching, found.states["SYN_RECV"]) == (100, 100)


ROW = {"protocol": "tcp", "caddr": "10.0.0.1", "cport": 9, "vaddr": "10.0.0.2", "vport": 80, "daddr": "10.0.0.3",
       "dport": 80, "state": "NONE"}


def test_a_connection_that_is_met_twice_in_a_round_is_new_once():
    newest = NewestConnections()
    newest.end_round()
    newest.see(ROW, 1.0)
    newest.see(ROW, 1.0)

    assert len(newest.newest(9)) == 1


def test_too_many_connections_to_tell_apart_are_not_kept(monkeypatch):
    monkeypatch.setattr("lbq.top.newest.MOST_CONNECTIONS", 2)
    newest = NewestConnections()
    newest.end_round()
    for port in range(5):
        newest.see({**ROW, "cport": port}, 1.0)

    assert (newest.newest(9), newest.remark(), newest.now) == ([], "not told apart above 2 connections", set())
    newest.end_round()
    newest.see({**ROW, "cport": 1}, 2.0)
    newest.end_round()
    newest.see({**ROW, "cport": 2}, 3.0)
    assert [decision.client for decision in newest.newest(9)] == ["10.0.0.1:2"]


def test_losses_are_told_by_the_second(watched):
    watched.add(VIP)
    watched.open("192.168.10.100:40000", VIP)
    watched.look()
    assert watched.watch.losses == {"dropped_no_server": 1} and watched.watch.losses_second == {}

    for port in range(6):
        watched.open(f"192.168.10.100:{40000 + port}", VIP)
    watched.look(2)

    assert watched.watch.losses == {"dropped_no_server": 7}
    assert watched.watch.losses_second == {"dropped_no_server": 3.0}


def test_a_director_that_is_gone_is_remembered_until_another_one_is_there(watched):
    watched.add(VIP, "192.168.20.1")
    watched.look()
    connect = watched.watch.connect

    def refuse():
        raise NotRunning("no director runs")

    watched.watch.connect = refuse
    watched.look()
    assert isinstance(watched.watch.error, NotRunning) and services(watched) == [f"tcp:{VIP}"]

    watched.watch.connect = connect
    watched.call("clear")
    watched.director.operations.facts["pid"] = 4712
    watched.look()
    assert watched.watch.error is None and services(watched) == []


def test_of_another_director_nothing_is_new_that_it_has_at_first(watched):
    watched.add(VIP, "192.168.20.1")
    watched.look()
    watched.open("192.168.10.100:40000", VIP)
    watched.look()
    assert len(watched.watch.newest.newest(9)) == 1
    for _ in range(2):
        watched.press("enter")
        watched.look()

    watched.director.operations.facts["started"] += 1
    watched.look()
    assert watched.watch.newest.newest(9) == [] and watched.watch.losses_second == {}
    assert watched.watch.connections.matching == 1      # those one looks at are looked for in it, too


def test_a_director_that_dies_during_a_look_is_noticed(watched):
    def die(method, **_):
        raise PeerError(f"cannot {method}: the director closed the connection")

    connect = watched.watch.connect

    def connected():
        client = connect()
        client.call = die
        return client

    watched.watch.connect = connected
    watched.look()

    assert "closed the connection" in str(watched.watch.error)


@pytest.mark.parametrize("params", [{"cursor": -1}, {"limit": 0}, {"cursor": 1 << 60}])
def test_a_page_of_the_listing_begins_somewhere_and_has_lines(watched, params):
    with pytest.raises(ConfigError, match="a page has a cursor from 0"):
        watched.call("list_page", **params)


def test_a_page_of_the_listing_is_bounded_whatever_is_asked_for(many):
    page = many.call("list_page", limit=10**9)

    assert sum(1 + len(row["servers"]) for row in page["services"]) == MOST_LINES


def test_the_pages_of_the_listing_are_the_listing(many):
    rows, cursor = [], 0
    while cursor is not None:
        page = many.call("list_page", cursor=cursor, limit=50)
        rows += page["services"]
        cursor = page["next"]

    assert sum(len(row["servers"]) for row in rows) == 400
    assert list(dict.fromkeys(row["address"] for row in rows)) == [row["address"] for row in many.call("list")]
