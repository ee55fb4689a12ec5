"""Offloaded services: what is refused, and in which order host and engine follow a change."""
from __future__ import annotations

import asyncio
import re

import pytest

from lbq.control.operations import Operations
from lbq.errors import ConfigError, HostError
from lbq.grammar import parse_server, parse_service
from lbq.model import AF_INET, NAT, OFFLOAD
from lbq.options import ServiceWords, director_parser, validate
from tests.unit.test_operations import PLAIN, RIP, FakeHost, FakeProcess

SERVICE = "192.168.10.1:81"
KEY = parse_service(SERVICE)
PLACE = (KEY, RIP, 81)
WAY = (NAT, 1, True)            # mode, number, offloaded
TIMEOUTS = (900, 120, 300)
FACTS = {"queue": 5, "engine": "fast", "mark_mask": 0x300}


class Process(FakeProcess):
    """A packet process whose conntrack has told all when it is asked."""

    def __init__(self, story):
        super().__init__(story)
        self.answers |= {"timeouts": TIMEOUTS, "ask_conntrack": 3, "told_by_conntrack": 3, "list_services": ([], None),
                         "list_connections": ({"ok": None, "now": 0}, b""), "delete_server": 2}


@pytest.fixture
def story():
    return []


@pytest.fixture
def operations(story):
    """A director with an offloaded service and one server, which is number 1."""
    operations = Operations(Process(story), FakeHost(story), FACTS)
    asyncio.run(operations.add_service(SERVICE, data_path="offload"))
    asyncio.run(operations.add_server(SERVICE, "192.168.20.1"))
    return operations


def options(*words):
    parser = director_parser()
    return validate(parser.parse_args(["--vip", "192.168.10.1:80", "--mode", "nat", "--data-path", "offload", *words]))


def test_an_offloaded_service():
    assert options("--real", "10.0.0.1", "--persistent", "60").settings.data_path == "offload"


@pytest.mark.parametrize(("words", "complaint"), [
    (["--vip", "fwmark:7"], "fwmark:7 cannot be offloaded: a firewall mark has no address"),
    (["--vip", "192.168.10.1:0", "--persistent"], "cannot be offloaded: it covers every port"),
    (["--vip", "sctp:192.168.10.1:80"], "cannot be offloaded: the kernel's rules for that know TCP and UDP"),
    (["--vip", "192.168.10.1:21"], "cannot be offloaded: FTP's messages"),
    (["--udp", "--ops"], "cannot be offloaded: --ops schedules every datagram"),
    (["--idle", "60"], "cannot be offloaded: --idle is a service's own"),
    (["--mode", "dr", "--real", "10.0.0.1"], "real server 10.0.0.1:80 cannot be offloaded: conntrack rewrites packets"),
    (["--real", "10.0.0.1,mode=tun"], "real server 10.0.0.1:80 cannot be offloaded"),
    (["--engine", "reference"], "--engine reference rewrites every packet itself; --data-path offload is for"),
    (["--queue", "65535"], "--data-path offload needs the queue behind --queue"),
])
def test_what_cannot_be_offloaded_is_refused_with_the_reason(words, complaint):
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        options(*words)


def test_conntrack_is_listened_to_before_the_first_offloaded_service_has_rules(operations, story):
    assert story == [("host", "check_service", KEY),
                     ("host", "offloading_refused", AF_INET),
                     ("engine", "open_headers_queue", 6, 0x300),
                     ("engine", "open_conntrack"),
                     ("engine", "timeouts"),
                     ("host", "set_flow_timeouts", *TIMEOUTS),
                     ("engine", "add_service", KEY, "wlc", OFFLOAD, 0, 0xFFFFFFFF, 0),
                     ("host", "add_service", KEY, False, True),
                     ("host", "add_server", *PLACE, *WAY),
                     ("engine", "add_server", *PLACE, 1, *PLAIN, None, 1)]
    asyncio.run(operations.add_service("192.168.10.1:82", data_path="offload"))
    assert [line[1] for line in story].count("open_conntrack") == 1


def test_a_director_that_starts_with_an_offloaded_service(story):
    operations = Operations(Process(story), FakeHost(story), FACTS)
    asyncio.run(operations.begin(KEY, ServiceWords(scheduler="wlc", mode="nat", data_path="offload"),
                                 [parse_server("192.168.20.1", KEY)], {}))

    assert ("engine", "open_conntrack") in story
    assert operations.members() == ([KEY], [(*PLACE, *WAY)])
    assert (operations.steered(), operations.offloaded()) == ([], [KEY])


def test_a_kernel_that_cannot_is_told_of_and_nothing_is_changed(story):
    class Host(FakeHost):
        async def call(self, name, *args):
            await super().call(name, *args)
            return "this kernel's conntrack tells of no events" if name == "offloading_refused" else None

    operations = Operations(Process(story), Host(story), FACTS)
    with pytest.raises(HostError, match=r"10\.1:81 cannot be offloaded: this kernel's conntrack tells of"):
        asyncio.run(operations.add_service(SERVICE, data_path="offload"))
    assert operations.services == {}
    assert story == [("host", "check_service", KEY), ("host", "offloading_refused", AF_INET)]


def test_a_deleted_servers_flows_are_closed_and_opened_when_it_is_back(operations, story):
    story.clear()
    asyncio.run(operations.delete_server(SERVICE, "192.168.20.1"))
    assert story == [("engine", "delete_server", *PLACE), ("host", "close_server", *PLACE)]
    story.clear()
    asyncio.run(operations.add_server(SERVICE, "192.168.20.1"))
    assert story == [("engine", "add_server", *PLACE, 1, *PLAIN, None, 1), ("host", "open_server", *PLACE)]


def test_a_deleted_services_flows_are_closed_until_they_have_ended(operations, story):
    story.clear()
    asyncio.run(operations.delete_service(SERVICE))
    assert story == [("engine", "delete_service", KEY), ("host", "remove_service", KEY),
                     ("host", "close_server", *PLACE)]
    operations.process.answers["tick"] = [(list(KEY), RIP, 81, AF_INET)]
    asyncio.run(operations.tick())
    assert story[-1] == ("host", "remove_server", *PLACE, *WAY)
    assert (operations.steers, operations.offloads) == ({}, set())


def test_a_listing_waits_for_conntracks_counters(operations, story):
    for ask in (operations.list, operations.connections):
        story.clear()
        asyncio.run(ask())
        assert [line[1] for line in story[:2]] == ["ask_conntrack", "told_by_conntrack"]


def test_new_timeouts_are_conntracks_as_well(operations, story):
    story.clear()
    asyncio.run(operations.timeouts(tcp=1000))
    assert ("host", "set_flow_timeouts", *TIMEOUTS) in story


def test_settings_keep_the_data_path(operations, story):
    story.clear()
    asyncio.run(operations.set_service(SERVICE, scheduler="rr", data_path="auto"))
    assert story == [("engine", "set_service", KEY, "rr", OFFLOAD, 0, 0xFFFFFFFF, 0)]
    with pytest.raises(ConfigError, match="has the data path offload, and that stays"):
        asyncio.run(operations.set_service(SERVICE, data_path="steer"))
    with pytest.raises(ConfigError, match="cannot be offloaded: --idle"):
        asyncio.run(operations.set_service(SERVICE, idle=60))
    with pytest.raises(ConfigError, match="cannot be offloaded: conntrack rewrites"):
        asyncio.run(operations.set_server(SERVICE, "192.168.20.1,mode=dr"))


@pytest.mark.parametrize(("other", "server"), [
    ("192.168.10.1:82", "192.168.20.1:81"), ("192.168.10.1:21", "192.168.20.1"), ("fwmark:7", "192.168.20.1:81")])
def test_a_server_is_tracked_or_it_is_not(operations, other, server):
    asyncio.run(operations.add_service(other))
    with pytest.raises(ConfigError, match=r"is also one of tcp:192\.168\.10\.1:81, and only one of the two"):
        asyncio.run(operations.add_server(other, server))
    asyncio.run(operations.add_server(other, "192.168.20.9"))
    if other != "192.168.10.1:82":
        asyncio.run(operations.add_server(other, f"{server},mode=dr"))      # its replies come from the VIP
    else:
        asyncio.run(operations.add_server(other, "192.168.20.1:82"))


def test_the_other_way_round(operations):
    asyncio.run(operations.add_service("192.168.10.1:82"))
    asyncio.run(operations.add_server("192.168.10.1:82", "192.168.20.3:99"))
    with pytest.raises(ConfigError, match=r"192\.168\.20\.3:99 is also one of tcp:192\.168\.10\.1:82"):
        asyncio.run(operations.add_server(SERVICE, "192.168.20.3:99"))
    assert (KEY, RIP + 2, 99, AF_INET) not in operations.servers
    assert operations.free_steers == []


def test_a_server_that_is_not_forgotten_yet_keeps_its_data_path(operations):
    asyncio.run(operations.delete_service(SERVICE))
    asyncio.run(operations.add_service(SERVICE))
    with pytest.raises(ConfigError, match="when that had another data path, and is not forgotten yet"):
        asyncio.run(operations.add_server(SERVICE, "192.168.20.1"))
