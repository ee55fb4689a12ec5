"""In which order host and engine follow a change, and what happens when one of them refuses."""
from __future__ import annotations

import asyncio

import pytest

from lbq.conntrack import RECORD
from lbq.control.operations import Operations
from lbq.errors import ConfigError, HostError, NoSuchServer, NoSuchService, ServerExists
from lbq.grammar import parse_server, parse_service
from lbq.model import DR, GUE, NAT, TUN
from lbq.options import ServiceWords

PLAIN = (NAT, 0, 0, (0, 0, 0))      # mode, thresholds, tunnel
VIP = "192.168.10.1:80"
KEY = parse_service(VIP)
RIP = parse_server("192.168.20.1", KEY).address


class FakeProcess:
    """A packet process that writes down what it is asked, and answers what a test put into *answers*."""

    def __init__(self, story: list):
        self.story = story
        self.answers = {"tick": [], "statistics": {"connections": 3, "connections_max": 10}}

    async def call(self, do, *args):
        self.story.append(("engine", do, *args))
        await asyncio.sleep(0)      # as long as it takes, others run
        answer = self.answers.get(do)
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeHost:
    """A host that writes down what it is told."""

    def __init__(self, story: list):
        self.story = story
        self.refusal = None

    async def call(self, name, *args):
        self.story.append(("host", name, *args))
        await asyncio.sleep(0)
        if self.refusal:
            raise self.refusal


@pytest.fixture
def story():
    return []


@pytest.fixture
def operations(story):
    operations = Operations(FakeProcess(story), FakeHost(story), {"queue": 0, "version": "1"})
    asyncio.run(operations.begin(KEY, ServiceWords(scheduler="wlc", mode="nat"),
                                 [parse_server("192.168.20.1,weight=2", KEY)], {"pmtu_disc": 0}))
    return operations


def test_the_first_service_and_its_servers_go_to_the_engine(operations, story):
    assert story == [("engine", "set_sysctl", "pmtu_disc", 0),
                     ("engine", "add_service", KEY, "wlc", 0, 0, 0xFFFFFFFF),
                     ("engine", "add_server", KEY, RIP, 80, 2, *PLAIN)]
    assert operations.members() == ([KEY], [(KEY, RIP, 80, NAT)])


def test_a_new_server_is_in_the_hosts_set_before_the_engine_uses_it(operations, story):
    story.clear()
    said = asyncio.run(operations.add_server(VIP, "192.168.20.2:8080"))

    assert story == [("host", "add_server", KEY, RIP + 1, 8080, NAT),
                     ("engine", "add_server", KEY, RIP + 1, 8080, 1, *PLAIN)]
    assert said == "added server 192.168.20.2:8080 to tcp:192.168.10.1:80"


def test_an_engine_that_refuses_takes_the_set_entry_back(operations, story):
    operations.process.answers["add_server"] = HostError("no room")
    story.clear()

    with pytest.raises(HostError, match="no room"):
        asyncio.run(operations.add_server(VIP, "192.168.20.2"))

    assert story[-1] == ("host", "remove_server", KEY, RIP + 1, 80, NAT)
    assert (KEY, RIP + 1, 80) not in operations.servers


def test_a_host_that_refuses_leaves_the_engine_alone(operations, story):
    operations.host.refusal = HostError("set is full")
    story.clear()

    with pytest.raises(HostError, match="set is full"):
        asyncio.run(operations.add_server(VIP, "192.168.20.2"))

    assert story == [("host", "add_server", KEY, RIP + 1, 80, NAT)]
    assert (KEY, RIP + 1, 80) not in operations.servers


def test_a_server_that_is_there_is_not_added_again(operations, story):
    story.clear()

    with pytest.raises(ServerExists, match=r"192\.168\.20\.1:80 .* already there"):
        asyncio.run(operations.add_server(VIP, "192.168.20.1"))
    assert story == []


def test_a_deleted_servers_set_entry_goes_with_its_last_connection(operations, story):
    story.clear()
    asyncio.run(operations.delete_server(VIP, "192.168.20.1"))
    asyncio.run(operations.tick())
    assert story == [("engine", "delete_server", KEY, RIP, 80), ("engine", "tick")]

    operations.process.answers["tick"] = [[list(KEY), RIP, 80]]
    asyncio.run(operations.tick())

    assert story[-1] == ("host", "remove_server", KEY, RIP, 80, NAT)


def test_a_server_that_comes_back_out_of_the_trash_is_still_in_the_set(operations, story):
    asyncio.run(operations.delete_server(VIP, "192.168.20.1"))
    story.clear()

    asyncio.run(operations.add_server(VIP, "192.168.20.1"))

    assert story == [("engine", "add_server", KEY, RIP, 80, 1, *PLAIN)]
    assert operations.trash == {}


def test_a_failed_return_from_the_trash_keeps_the_set_entry_for_its_connections(operations, story):
    asyncio.run(operations.delete_server(VIP, "192.168.20.1"))
    operations.process.answers["add_server"] = HostError("no room")
    story.clear()

    with pytest.raises(HostError):
        asyncio.run(operations.add_server(VIP, "192.168.20.1"))

    assert [who for who, *_ in story] == ["engine"]
    assert list(operations.trash) == [(KEY, RIP, 80)]


def test_a_server_that_is_not_there_is_not_deleted(operations, story):
    story.clear()

    with pytest.raises(NoSuchServer, match=r"192\.168\.20\.9:80 .* not there"):
        asyncio.run(operations.delete_server(VIP, "192.168.20.9"))
    assert story == []


def test_a_weight_concerns_the_engine_only(operations, story):
    story.clear()
    asyncio.run(operations.set_server(VIP, "192.168.20.1,weight=0"))

    assert story == [("engine", "set_server", KEY, RIP, 80, 0, *PLAIN)]


def test_another_mode_is_seen_by_the_host_before_the_engine_uses_it(operations, story):
    story.clear()
    said = asyncio.run(operations.set_server(VIP, "192.168.20.1,mode=tun,tunnel=gue,tunnel-port=6080"))

    assert story == [("host", "add_server", KEY, RIP, 80, TUN),
                     ("engine", "set_server", KEY, RIP, 80, 2, TUN, 0, 0, (GUE, 6080, 0)),
                     ("host", "remove_server", KEY, RIP, 80, NAT)]
    assert said == "server 192.168.20.1:80 of tcp:192.168.10.1:80 has mode tun, tunnel gue, tunnel-port 6080 now"


def test_an_edit_that_the_engine_refuses_changes_nothing(operations, story):
    operations.process.answers["set_server"] = HostError("the scheduler failed")
    before = dict(operations.servers)
    story.clear()

    with pytest.raises(HostError):
        asyncio.run(operations.set_server(VIP, "192.168.20.1,mode=dr"))

    assert [step[:2] for step in story] == [("host", "add_server"), ("engine", "set_server"), ("host", "remove_server")]
    assert story[0][2:] == story[2][2:] == (KEY, RIP, 80, DR)
    assert operations.servers == before


@pytest.mark.parametrize(("service", "server", "error"), [
    ("192.168.10.1:81", "192.168.20.1", NoSuchService),
    ("udp:192.168.10.1:80", "192.168.20.1", NoSuchService),
    ("nonsense", "192.168.20.1", ConfigError),
    (VIP, "192.168.10.1:80", ConfigError),
    (VIP, "web01", ConfigError),
])
def test_words_that_name_nothing_change_nothing(operations, story, service, server, error):
    story.clear()
    for change in (operations.add_server, operations.set_server, operations.delete_server):
        with pytest.raises(error):
            asyncio.run(change(service, server))
    assert story == []


def test_changes_of_two_clients_do_not_mix(operations, story):
    """Without the lock, both would be in the host's set before the engine had either."""
    story.clear()

    async def both():
        await asyncio.gather(operations.add_server(VIP, "192.168.20.2"),
                             operations.add_server(VIP, "192.168.20.3"))

    asyncio.run(both())

    assert [who for who, *_ in story] == ["host", "engine", "host", "engine"]


def test_connections_are_decoded_a_page_at_a_time(operations):
    record = RECORD.pack(1 << 24, 2 << 24, 3 << 24, 1000, 80, 8080, 6, 2, 0, 0x8000, 0, 0, 0, 90_000_000_000,
                         0, 0, 60, 7, 0, 0)
    operations.process.answers["list_connections"] = {"ok": 9, "count": 2, "now": 30_000_000_000}, record * 2

    page = asyncio.run(operations.connections(cursor=5, limit=10_000))

    assert operations.process.story[-1] == ("engine", "list_connections", 5, 256)
    assert page["next"] == 9
    assert len(page["connections"]) == 2
    assert page["connections"][0] | {"state": "", "flags": 0} == {
        "protocol": "tcp", "caddr": "1.0.0.0", "cport": 1000, "vaddr": "2.0.0.0", "vport": 80,
        "daddr": "3.0.0.0", "dport": 8080, "state": "", "flags": 0, "expires_seconds": 60, "packets_in": 7,
        "fwmark": 0}


def test_status_says_what_runs_and_how_full_it_is(operations):
    assert asyncio.run(operations.status()) == {"queue": 0, "version": "1", "connections": 3,
                                                "connections_max": 10}


def test_a_service_comes_with_its_settings_engine_first(operations, story):
    story.clear()
    said = asyncio.run(operations.add_service("fwmark:7", scheduler="sh", persistent=300, netmask="24",
                                              scheduler_flags=["sh-port"]))

    key = parse_service("fwmark:7")
    assert story == [("engine", "add_service", key, "sh", 1 | 0x10, 300, 0xFFFFFF00), ("host", "add_service", key)]
    assert said == "added service fwmark:7"


def test_a_host_that_refuses_a_service_takes_it_from_the_engine(operations, story):
    operations.host.refusal = HostError("no room")

    with pytest.raises(HostError):
        asyncio.run(operations.add_service("192.168.10.1:443"))

    assert story[-1] == ("engine", "delete_service", parse_service("192.168.10.1:443"))
    assert parse_service("192.168.10.1:443") not in operations.services


def test_setting_a_service_changes_what_is_named(operations, story):
    asyncio.run(operations.set_service(VIP, persistent=60))
    asyncio.run(operations.set_service(VIP, scheduler="rr"))

    assert story[-1] == ("engine", "set_service", KEY, "rr", 1, 60, 0xFFFFFFFF)


def test_setting_a_server_changes_what_is_named(operations, story):
    asyncio.run(operations.set_server(VIP, "192.168.20.1,upper=9,lower=3"))
    asyncio.run(operations.set_server(VIP, "192.168.20.1,weight=5"))

    assert story[-1] == ("engine", "set_server", KEY, RIP, 80, 5, NAT, 9, 3, (0, 0, 0))


def test_another_mode_moves_where_replies_are_seen(operations, story):
    story.clear()
    asyncio.run(operations.set_server(VIP, "192.168.20.1,mode=dr"))

    assert story == [("host", "add_server", KEY, RIP, 80, DR),
                     ("engine", "set_server", KEY, RIP, 80, 2, DR, 0, 0, (0, 0, 0)),
                     ("host", "remove_server", KEY, RIP, 80, NAT)]


@pytest.mark.parametrize(("server", "complaint"), [
    ("192.168.20.2:8080,mode=dr", "8080 is not the service's port 80"),
    ("192.168.20.2,lower=5", "lower=5 is above upper=0"),
    ("192.168.20.2,tunnel=gue", "needs tunnel-port"),
])
def test_settings_that_do_not_go_together_change_nothing(operations, story, server, complaint):
    story.clear()

    with pytest.raises(ConfigError, match=complaint):
        asyncio.run(operations.add_server(VIP, server))
    assert story == []


def test_a_deleted_services_servers_leave_the_host_when_the_engine_forgets_them(operations, story):
    asyncio.run(operations.delete_service(VIP))
    assert operations.members() == ([], [])
    operations.process.answers["tick"] = [[list(KEY), RIP, 80]]

    asyncio.run(operations.tick())

    assert story[-1] == ("host", "remove_server", KEY, RIP, 80, NAT)


def test_sysctls_are_all_looked_at_before_one_is_set(operations, story):
    operations.process.answers["sysctls"] = {"conn_reuse_mode": 0, "pmtu_disc": 1}
    assert asyncio.run(operations.sysctl(["conn_reuse_mode=0"])) == {"net.ipv4.vs.conn_reuse_mode": 0}
    story.clear()

    with pytest.raises(ConfigError, match="no sysctl"):
        asyncio.run(operations.sysctl(["conn_reuse_mode=1", "nonsense=1"]))
    assert story == []


@pytest.mark.parametrize(("settings", "complaint"), [
    ({"mode": "natt"}, "unknown mode 'natt'"), ({"persistent": -1}, "seconds from 0"),
    ({"persistent": True}, "seconds from 0"),
    ({"netmask": -1}, "netmask"), ({"netmask": "255.0.255.0"}, "row of ones"), ({"wieght": 1}, "no setting wieght"),
    ({"ops": 1}, "ops cannot be 1"), ({"scheduler_flags": ["sh-port"]}, "has no flag"),
])
def test_a_service_is_looked_at_before_anything_changes(operations, story, settings, complaint):
    """The control socket's peers need not be this program's own commands."""
    story.clear()
    for change, service in ((operations.add_service, "10.1.1.1:80"), (operations.set_service, VIP)):
        with pytest.raises(ConfigError, match=complaint):
            asyncio.run(change(service, **dict(settings)))
    assert story == []


def test_without_a_first_service_only_the_sysctls_are_set(story):
    operations = Operations(FakeProcess(story), FakeHost(story), {"queue": 0})
    asyncio.run(operations.begin(None, ServiceWords(), [], {"pmtu_disc": 0}))

    assert story == [("engine", "set_sysctl", "pmtu_disc", 0)]
    assert operations.members() == ([], [])
