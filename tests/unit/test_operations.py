"""In which order host and engine follow a change, and what happens when one of them refuses."""
from __future__ import annotations

import asyncio

import pytest

from lbq.conntrack import RECORD
from lbq.control.operations import Operations
from lbq.errors import ConfigError, HostError, NoSuchServer, NoSuchService, ServerExists
from lbq.grammar import parse_server, parse_service
from lbq.model import (
    AF_INET,
    AF_INET6,
    DR,
    END_DELETED,
    GUE,
    MOVE_QUIESCED,
    NAT,
    OPS,
    OPS_REPLIES,
    TEMPLATE,
    TUN,
    UDP,
)
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
        self.refusals = {}

    async def call(self, name, *args):
        self.story.append(("host", name, *args))
        await asyncio.sleep(0)
        if name in self.refusals:
            raise self.refusals[name]


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
                     ("engine", "add_service", KEY, "wlc", 0, 0, 0xFFFFFFFF, 0),
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
    assert (KEY, RIP + 1, 80, AF_INET) not in operations.servers


def test_a_host_that_refuses_leaves_the_engine_alone(operations, story):
    operations.host.refusals["add_server"] = HostError("set is full")
    story.clear()

    with pytest.raises(HostError, match="set is full"):
        asyncio.run(operations.add_server(VIP, "192.168.20.2"))

    assert story == [("host", "add_server", KEY, RIP + 1, 80, NAT)]
    assert (KEY, RIP + 1, 80, AF_INET) not in operations.servers


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

    operations.process.answers["tick"] = [[list(KEY), RIP, 80, 2]]
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
    assert list(operations.trash) == [(KEY, RIP, 80, AF_INET)]


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
    assert asyncio.run(operations.status()) == {"queue": 0, "version": "1", "services": 1, "connections": 3,
                                                "connections_max": 10, "traced": False}


def test_a_service_comes_with_its_settings_engine_first(operations, story):
    story.clear()
    said = asyncio.run(operations.add_service("fwmark:7", scheduler="sh", persistent=300, netmask="24",
                                              scheduler_flags=["sh-port"]))

    key = parse_service("fwmark:7")
    assert story == [("host", "check_service", key),
                     ("engine", "add_service", key, "sh", 1 | 0x10, 300, 0xFFFFFF00, 0), ("host", "add_service", key)]
    assert said == "added service fwmark:7"


def test_a_host_that_refuses_a_service_takes_it_from_the_engine(operations, story):
    operations.host.refusals["add_service"] = HostError("no room")

    with pytest.raises(HostError):
        asyncio.run(operations.add_service("192.168.10.1:443"))

    assert story[-1] == ("engine", "delete_service", parse_service("192.168.10.1:443"))
    assert parse_service("192.168.10.1:443") not in operations.services


def test_a_host_that_cannot_take_a_service_is_asked_before_the_engine_has_it(operations, story):
    operations.host.refusals["check_service"] = HostError("no ip6tables")
    story.clear()

    with pytest.raises(HostError, match="no ip6tables"):
        asyncio.run(operations.add_service("[2001:db8::1]:80"))

    assert story == [("host", "check_service", parse_service("[2001:db8::1]:80"))]


def test_setting_a_service_changes_what_is_named(operations, story):
    asyncio.run(operations.set_service(VIP, persistent=60))
    asyncio.run(operations.set_service(VIP, scheduler="rr"))

    assert story[-1] == ("engine", "set_service", KEY, "rr", 1, 60, 0xFFFFFFFF, 0)


@pytest.mark.parametrize("seconds", [{"tcp": -1}, {"tcp": 60, "udp": -5}, {"tcp": 60, "tcpfin": 1 << 31}])
def test_no_timeout_is_set_when_one_is_wrong(operations, story, seconds):
    story.clear()

    with pytest.raises(ConfigError, match="is a number of seconds"):
        asyncio.run(operations.timeouts(**seconds))

    assert story == []


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
    operations.process.answers["tick"] = [[list(KEY), RIP, 80, 2]]

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
    ({"scheduler_flags": [["sh-port"]]}, "scheduler_flags are names"), ({"scheduler_flags": [None]}, "are names"),
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


# ---- What lbq does better than the kernel where a service asks for it ---------------------------------


def test_a_services_own_behaviour_is_flags_to_the_engine(operations, story):
    asyncio.run(operations.add_service("udp:192.168.10.1:53", ops=True, ops_replies=True, on_delete="end",
                                       on_quiesce="move", idle=30))
    key = parse_service("udp:192.168.10.1:53")
    assert story[-2] == ("engine", "add_service", key, "wlc", OPS | OPS_REPLIES | END_DELETED | MOVE_QUIESCED, 0,
                         0xFFFFFFFF, 30)

    asyncio.run(operations.set_service("udp:192.168.10.1:53", ops=False, on_delete="keep"))
    assert story[-1] == ("engine", "set_service", key, "wlc", MOVE_QUIESCED, 0, 0xFFFFFFFF, 30)


@pytest.mark.parametrize("settings", [
    {"on_delete": "restart"}, {"on_quiesce": 1}, {"ops_replies": True}, {"idle": -1}, {"idle": True}, {"idle": 1 << 40},
])
def test_a_behaviour_that_does_not_exist_changes_nothing(operations, story, settings):
    before, story[:] = dict(operations.services), []

    with pytest.raises(ConfigError):
        asyncio.run(operations.set_service(VIP, **settings))

    assert (story, operations.services) == ([], before)


def test_adding_and_deleting_tell_of_connections(operations):
    operations.process.answers.update(add_server=2, delete_server=3)

    assert asyncio.run(operations.add_server(VIP, "192.168.20.2")) == (
        "added server 192.168.20.2:80 to tcp:192.168.10.1:80, back with the connections it had: 2")
    assert "; its connections get no more packets: 3" in asyncio.run(operations.delete_server(VIP, "192.168.20.2"))
    asyncio.run(operations.set_service(VIP, on_delete="end"))
    assert "; its connections start over: 3" in asyncio.run(operations.delete_server(VIP, "192.168.20.1"))


def record(caddr: int, cport: int, server: str = "192.168.20.1", flags: int = 0) -> bytes:
    """Return a record of a TCP connection to the service of these tests."""
    return RECORD.pack(caddr, KEY.address, parse_server(server, KEY).address, cport, 80, 80, 6, 2, 0, 0x8000 | flags, 0,
                       0, 0, 90_000_000_000, 0, 0, 60, 7, 0, 0)


def ended(story: list) -> list:
    """Return what the engine was asked to end."""
    return [place[1:3] for step in story if step[1] == "end_connections" for place in step[2]]


@pytest.fixture
def busy(operations):
    """Operations with a listing of four connections and a template, and an engine that ends what it is asked to."""
    records = (record(1, 0, flags=TEMPLATE) + record(1, 1000) + record(1, 2000) + record(2, 1000)
               + record(3, 1, "192.168.20.2"))
    operations.process.answers.update(list_connections=({"ok": None, "count": 5, "now": 0}, records), end_connections=1)
    return operations


@pytest.mark.parametrize(("words", "whom"), [
    ({"client": "0.0.0.1"}, None),
    ({"client": "1.0.0.1"}, []),
    ({"server": "192.168.20.1"}, [(1, 1000), (1, 2000), (2, 1000), (1, 0)]),
    ({"server": "192.168.20.2"}, [(3, 1)]),
    ({"service": VIP, "state": "none"}, [(1, 1000), (1, 2000), (2, 1000), (3, 1), (1, 0)]),
])
def test_connections_that_fit_are_ended_templates_last(busy, story, words, whom):
    if whom is None:
        with pytest.raises(ConfigError):
            asyncio.run(busy.end_connections(**words))
        return
    asyncio.run(busy.end_connections(**words))

    assert ended(story) == whom


def test_not_every_connection_is_ended_by_accident(busy, story):
    with pytest.raises(ConfigError, match="say which connections"):
        asyncio.run(busy.end_connections())
    assert ended(story) == []


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    class Clock:
        now = 100.0

    monkeypatch.setattr("lbq.control.operations.time.monotonic", lambda: Clock.now)
    return Clock


def listing(active: int, server: str = "192.168.20.1"):
    """Return the engine's answer with one server that has *active* connections."""
    return [{"family": "inet", "protocol": "tcp", "address": "192.168.10.1", "port": 80, "fwmark": 0,
             "servers": [{"address": server, "port": 80, "active": active, "inactive": 0}]}], None


def test_draining_is_weight_0_and_nothing_else_when_nothing_else_is_said(operations, story):
    story.clear()
    said = asyncio.run(operations.drain(VIP, "192.168.20.1"))
    asyncio.run(operations.tick())

    assert story == [("engine", "set_server", KEY, RIP, 80, 0, *PLAIN), ("engine", "tick")]
    assert said == "server 192.168.20.1:80 of tcp:192.168.10.1:80 has weight 0 now"


def test_what_a_drained_server_still_has_ends_when_its_time_is_over(busy, story, clock):
    busy.process.answers["list_services"] = listing(3)
    said = asyncio.run(busy.drain(VIP, "192.168.20.1", end_after=60, delete=True))
    asyncio.run(busy.tick())
    assert said.endswith("has weight 0 now; what it still has in 60 s ends; then it is deleted")
    assert ended(story) == [] and (KEY, RIP, 80, AF_INET) in busy.servers

    clock.now += 60
    asyncio.run(busy.tick())

    assert ended(story) == [(1, 1000), (1, 2000), (2, 1000), (1, 0)]
    assert story[-1] == ("engine", "delete_server", KEY, RIP, 80)
    assert list(busy.trash) == [(KEY, RIP, 80, AF_INET)]


def test_a_server_that_has_nothing_left_is_deleted_before_its_time(busy, story, clock):
    busy.process.answers["list_services"] = listing(0)
    asyncio.run(busy.drain(VIP, "192.168.20.1", end_after=60, delete=True))
    asyncio.run(busy.tick())

    assert ended(story) == []
    assert story[-1] == ("engine", "delete_server", KEY, RIP, 80)


def test_a_drained_server_without_delete_stays(busy, story, clock):
    busy.process.answers["list_services"] = listing(3)
    asyncio.run(busy.drain(VIP, "192.168.20.1", end_after=0))
    asyncio.run(busy.tick())
    asyncio.run(busy.tick())

    assert len(ended(story)) == 4
    assert list(busy.servers) == [(KEY, RIP, 80, AF_INET)] and busy.drains == {}


@pytest.mark.parametrize("change", [
    lambda operations: operations.set_server(VIP, "192.168.20.1,weight=1"),
    lambda operations: operations.delete_server(VIP, "192.168.20.1"),
    lambda operations: operations.delete_service(VIP),
], ids=["weight", "deleted", "service deleted"])
def test_a_server_that_is_wanted_again_or_gone_drains_no_more(busy, story, clock, change):
    busy.process.answers["list_services"] = listing(3)
    asyncio.run(busy.drain(VIP, "192.168.20.1", end_after=0, delete=True))
    asyncio.run(change(busy))
    story.clear()

    asyncio.run(busy.tick())

    assert story == [("engine", "tick")] and busy.drains == {}


@pytest.mark.parametrize(("server", "options", "error"), [
    ("192.168.20.9", {}, NoSuchServer), ("192.168.20.1,weight=1", {}, ConfigError),
    ("192.168.20.1", {"end_after": -1}, ConfigError), ("192.168.20.1", {"end_after": 1 << 40}, ConfigError),
])
def test_a_drain_that_cannot_be_changes_nothing(operations, story, server, options, error):
    story.clear()

    with pytest.raises(error):
        asyncio.run(operations.drain(VIP, server, **options))

    assert (story, operations.drains) == ([], {})


def test_a_server_that_comes_back_with_another_mode_is_known_even_if_the_host_fails_after_it(operations, story):
    class Failing:
        async def call(self, name, *args):
            if name == "remove_server":
                raise HostError("ipset said no")

    asyncio.run(operations.delete_server(VIP, "192.168.20.1"))
    operations.host = Failing()

    with pytest.raises(HostError):
        asyncio.run(operations.add_server(VIP, "192.168.20.1,mode=dr"))

    assert operations.servers[KEY, RIP, 80, AF_INET].mode == DR
    assert operations.trash == {}


def test_one_server_that_the_host_cannot_take_out_does_not_keep_the_others_in(operations, story):
    asyncio.run(operations.add_server(VIP, "192.168.20.2"))
    for server in ("192.168.20.1", "192.168.20.2"):
        asyncio.run(operations.delete_server(VIP, server))
    operations.process.answers["tick"] = [[list(KEY), RIP, 80, 2], [list(KEY), RIP + 1, 80, 2]]
    operations.host.refusals["remove_server"] = HostError("ipset said no")

    with pytest.raises(HostError):
        asyncio.run(operations.tick())

    assert operations.trash == {}
    assert story[-1] == ("host", "remove_server", KEY, RIP + 1, 80, NAT)


@pytest.mark.parametrize("ask", [
    lambda operations: operations.connections(cursor=1 << 32), lambda operations: operations.connections(cursor=-1),
    lambda operations: operations.connections(limit=0), lambda operations: operations.timeouts(tcp=1 << 63),
    lambda operations: operations.timeouts(udp=-1)])
def test_numbers_that_no_engine_takes_do_not_reach_it(operations, story, ask):
    story.clear()

    with pytest.raises(ConfigError):
        asyncio.run(ask(operations))

    assert story == []


VIP6 = "[2001:db8::1]:80"
KEY6 = parse_service(VIP6)
RIP6 = parse_server("[2001:db8:20::1]", KEY6).address


@pytest.fixture
def operations6(story):
    """A director with a service of IPv6 beside that of IPv4."""
    operations = Operations(FakeProcess(story), FakeHost(story), {"queue": 0})
    asyncio.run(operations.begin(KEY, ServiceWords(), [], {}))
    asyncio.run(operations.add_service(VIP6, persistent=60, netmask="64"))
    return operations


def test_an_ipv6_service_has_a_prefix_length_for_its_netmask(operations6, story):
    assert story[-2:] == [("engine", "add_service", KEY6, "wlc", 1, 60, 64, 0), ("host", "add_service", KEY6)]

    asyncio.run(operations6.add_service("fwmark:7/6"))

    assert story[-2] == ("engine", "add_service", parse_service("fwmark:7/6"), "wlc", 0, 0, 128, 0)


@pytest.mark.parametrize("netmask", ["255.255.255.0", "129", 129, 0, 0xFFFFFFFF])
def test_another_netmask_for_an_ipv6_service_changes_nothing(operations6, story, netmask):
    story.clear()
    for change in (operations6.add_service, operations6.set_service):
        with pytest.raises(ConfigError, match="netmask"):
            asyncio.run(change(VIP6, netmask=netmask))
    assert story == []


def test_a_server_of_the_services_family_needs_no_word_about_it(operations6, story):
    story.clear()
    said = asyncio.run(operations6.add_server(VIP6, "[2001:db8:20::1]:8080"))

    assert story == [("host", "add_server", KEY6, RIP6, 8080, NAT),
                     ("engine", "add_server", KEY6, RIP6, 8080, 1, *PLAIN)]
    assert said == "added server [2001:db8:20::1]:8080 to tcp:[2001:db8::1]:80"


def test_a_server_of_the_other_family_is_told_apart_to_the_engine(operations6, story):
    """It may even be the same number: ::c0a8:1401 and 192.168.20.1."""
    story.clear()
    asyncio.run(operations6.add_server(VIP6, "192.168.20.1,mode=tun"))
    asyncio.run(operations6.add_server(VIP6, "[::192.168.20.1],mode=tun"))

    tunnel = (TUN, 0, 0, (0, 0, 0))
    assert story == [("host", "check_family", AF_INET),
                     ("host", "add_server", KEY6, RIP, 80, TUN),
                     ("engine", "add_server", KEY6, RIP, 80, 1, *tunnel, AF_INET),
                     ("host", "add_server", KEY6, RIP, 80, TUN),
                     ("engine", "add_server", KEY6, RIP, 80, 1, *tunnel)]
    asyncio.run(operations6.set_server(VIP6, "192.168.20.1,weight=5"))
    asyncio.run(operations6.delete_server(VIP6, "192.168.20.1"))
    assert story[-2:] == [("engine", "set_server", KEY6, RIP, 80, 5, *tunnel, AF_INET),
                          ("engine", "delete_server", KEY6, RIP, 80, AF_INET)]
    assert list(operations6.trash) == [(KEY6, RIP, 80, AF_INET)]
    assert list(operations6.servers) == [(KEY6, RIP, 80, AF_INET6)]
    assert (operations6.server_addresses(AF_INET), operations6.server_addresses(AF_INET6)) == ([RIP], [RIP])


def test_an_engine_that_forgets_a_server_says_its_family_when_it_is_another(operations6, story):
    for server in ("192.168.20.1", "[::192.168.20.1]"):
        asyncio.run(operations6.add_server(VIP6, f"{server},mode=tun"))
        asyncio.run(operations6.delete_server(VIP6, server))

    operations6.process.answers["tick"] = [[list(KEY6), RIP, 80, AF_INET]]
    asyncio.run(operations6.tick())

    assert list(operations6.trash) == [(KEY6, RIP, 80, AF_INET6)]


@pytest.mark.parametrize(("service", "server"), [(VIP6, "192.168.20.1"), (VIP, "[2001:db8:20::1]")])
def test_only_a_tunnel_leads_to_the_other_family(operations6, story, service, server):
    story.clear()
    with pytest.raises(ConfigError, match="not of the service's IP version"):
        asyncio.run(operations6.add_server(service, server))
    assert story == []


def test_ipv6_is_there_with_a_service_or_a_server_of_it(operations, story):
    assert not operations.has_ipv6()
    asyncio.run(operations.add_server(VIP, "[2001:db8:20::1],mode=tun"))
    assert operations.has_ipv6()
    asyncio.run(operations.delete_server(VIP, "[2001:db8:20::1]"))
    assert operations.has_ipv6()                    # its connections may go on
    operations.process.answers["tick"] = [[list(KEY), RIP6, 80, AF_INET6]]
    asyncio.run(operations.tick())
    assert not operations.has_ipv6()
    asyncio.run(operations.add_service(VIP6))
    assert operations.has_ipv6()


def test_records_of_ipv6_are_longer(operations, monkeypatch):
    """112 bytes: what they say is for another module, but where the next begins is this one's business."""
    monkeypatch.setattr("lbq.control.questions.decode", lambda record, now: len(record))
    record4 = RECORD.pack(1, 2, 3, 1000, 80, 80, 6, AF_INET, *[0] * 12)
    record6 = RECORD.pack(1, 2, 3, 1000, 80, 80, 6, AF_INET6, *[0] * 12) + bytes(48)
    operations.process.answers["list_connections"] = {"ok": None, "now": 0}, record6 + record4 + record6

    assert asyncio.run(operations.connections())["connections"] == [112, 64, 112]


def test_a_drained_server_of_ipv6_is_the_one_that_is_meant(operations6, story, clock):
    """Its service has a namesake in IPv4, and it one in a tunnel."""
    for server in ("192.168.20.1,mode=tun", "[::192.168.20.1],mode=tun"):
        asyncio.run(operations6.add_server(VIP6, server))
    servers = [{"address": address, "port": 80, "active": active, "inactive": 0}
               for address, active in (("192.168.20.1", 0), ("::192.168.20.1", 1))]
    row = {"family": "inet6", "protocol": "tcp", "address": "2001:db8::1", "port": 80, "fwmark": 0, "servers": servers}
    operations6.process.answers.update(
        list_services=([row], None), end_connections=1, delete_server=0,
        list_connections=({"ok": None, "now": 0}, b"".join(
            RECORD.pack(1, 2, 3, cport, 80, 80, 6, AF_INET, *[0] * 12) for cport in (1000, 2000))))
    rows = iter([{"caddr": "2001:db8::9", "vaddr": "2001:db8::1", "daddr": daddr, "cport": cport}
                 for cport, daddr in ((1000, "192.168.20.1"), (2000, "::192.168.20.1"))])
    common = {"protocol": "tcp", "vport": 80, "dport": 80, "state": "NONE", "flags": 0, "fwmark": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lbq.control.questions.decode", lambda record, now: {**common, **next(rows)})
        asyncio.run(operations6.drain(VIP6, "[::192.168.20.1]", end_after=0, delete=True))
        asyncio.run(operations6.tick())

    assert ended(story) == [(0x20010DB8 << 96 | 9, 2000)]
    assert list(operations6.servers) == [(KEY6, RIP, 80, AF_INET)]


# ---- Steered services ------------------------------------------------------------------------------------

STEERED = "192.168.10.1:81"
STEERED_KEY = parse_service(STEERED)
PLACE = (STEERED_KEY, RIP, 81)


@pytest.fixture
def steered(story):
    """A director with a steered service and one server, which is number 1."""
    operations = Operations(FakeProcess(story), FakeHost(story), {"queue": 5, "engine": "fast", "mark_mask": 0x300})
    asyncio.run(operations.add_service(STEERED, data_path="steer"))
    asyncio.run(operations.add_server(STEERED, "192.168.20.1"))
    return operations


def test_the_queue_of_headers_is_bound_before_the_first_steered_service_has_rules(steered, story):
    assert story == [("host", "check_service", STEERED_KEY),
                     ("engine", "open_headers_queue", 6, 0x300),
                     ("engine", "add_service", STEERED_KEY, "wlc", 0, 0, 0xFFFFFFFF, 0),
                     ("host", "add_service", STEERED_KEY, True),
                     ("host", "add_server", *PLACE, NAT, 1),
                     ("engine", "add_server", *PLACE, 1, *PLAIN, None, 1)]
    asyncio.run(steered.add_service("192.168.10.1:82", data_path="steer"))
    assert [line[1] for line in story].count("open_headers_queue") == 1


def test_a_director_that_starts_with_a_steered_service(story):
    operations = Operations(FakeProcess(story), FakeHost(story), {"queue": 5, "engine": "fast", "mark_mask": 0x300})
    asyncio.run(operations.begin(STEERED_KEY, ServiceWords(scheduler="wlc", mode="nat", data_path="steer"),
                                 [parse_server("192.168.20.1", STEERED_KEY)], {}))

    assert story[0] == ("engine", "open_headers_queue", 6, 0x300)
    assert operations.members() == ([STEERED_KEY], [(*PLACE, NAT, 1)])
    assert operations.steered() == [STEERED_KEY]


def test_another_mode_keeps_the_number(steered, story):
    story.clear()
    asyncio.run(steered.set_server(STEERED, "192.168.20.1,mode=dr"))

    assert story == [("host", "add_server", *PLACE, DR, 1), ("engine", "set_server", *PLACE, 1, DR, 0, 0, (0, 0, 0)),
                     ("host", "remove_server", *PLACE, NAT, 1)]


def test_a_number_is_free_once_the_server_is_forgotten(steered, story):
    asyncio.run(steered.delete_server(STEERED, "192.168.20.1"))
    asyncio.run(steered.add_server(STEERED, "192.168.20.2"))
    assert story[-1][-1] == 2
    steered.process.answers["tick"] = [(list(STEERED_KEY), RIP, 81, AF_INET)]
    asyncio.run(steered.tick())
    assert story[-1] == ("host", "remove_server", *PLACE, NAT, 1)
    asyncio.run(steered.add_server(STEERED, "192.168.20.3"))
    assert story[-1][-1] == 1


def test_a_server_that_is_back_has_the_number_it_had(steered, story):
    asyncio.run(steered.delete_server(STEERED, "192.168.20.1"))
    story.clear()
    asyncio.run(steered.add_server(STEERED, "192.168.20.1"))

    assert story == [("engine", "add_server", *PLACE, 1, *PLAIN, None, 1)]


def test_a_server_that_is_back_in_a_service_that_is_steered_no_more(steered, story):
    asyncio.run(steered.delete_service(STEERED))
    asyncio.run(steered.add_service(STEERED))
    story.clear()
    asyncio.run(steered.add_server(STEERED, "192.168.20.1"))

    assert story == [("host", "add_server", *PLACE, NAT), ("engine", "add_server", *PLACE, 1, *PLAIN),
                     ("host", "remove_server", *PLACE, NAT, 1)]
    assert (steered.steers, steered.free_steers) == ({}, [1])


@pytest.mark.parametrize("refuses", ["host", "engine"])
def test_what_is_refused_leaves_no_number_taken(steered, story, refuses):
    asyncio.run(steered.delete_server(STEERED, "192.168.20.1"))
    for address, number in (("192.168.20.1", 1), ("192.168.20.2", None)):
        if refuses == "host":
            steered.host.refusals["add_server"] = HostError("no")
        else:
            steered.process.answers["add_server"] = HostError("no")
        if number and refuses == "host":
            continue        # it has its number, and the host is not asked
        with pytest.raises(HostError, match="no"):
            asyncio.run(steered.add_server(STEERED, address))
    assert list(steered.steers.values()) == [1] and steered.free_steers == [2]


def test_more_servers_than_numbers(steered):
    for number in (2, 3):
        asyncio.run(steered.add_server(STEERED, f"192.168.20.{number}"))

    with pytest.raises(ConfigError, match=r"no room for one more steered server in the mark mask 0x300; say a longer"):
        asyncio.run(steered.add_server(STEERED, "192.168.20.4"))
    asyncio.run(steered.add_service(VIP))
    asyncio.run(steered.add_server(VIP, "192.168.20.4"))


def test_the_data_path_of_a_service_stays(steered):
    with pytest.raises(ConfigError, match="has the data path steer, and that stays; delete the service"):
        asyncio.run(steered.set_service(STEERED, data_path="rewrite"))
    with pytest.raises(ConfigError, match="cannot be steered: there is no rule"):
        asyncio.run(steered.set_server(STEERED, "192.168.20.1,mode=tun"))
    asyncio.run(steered.set_service(STEERED, data_path="steer", scheduler="rr"))


def test_the_reference_engine_steers_nothing(story):
    facts = {"queue": 0, "engine": "reference", "mark_mask": 0x300}
    operations = Operations(FakeProcess(story), FakeHost(story), facts)
    with pytest.raises(ConfigError, match="--engine reference rewrites every packet itself"):
        asyncio.run(operations.add_service(STEERED, data_path="steer"))
    assert operations.services == {}


def with_default(story, data_path) -> Operations:
    """Return a director with LBQ_DATA_PATH set."""
    facts = {"queue": 5, "engine": "fast", "mark_mask": 0x300, "data_path": data_path}
    return Operations(FakeProcess(story), FakeHost(story), facts)


@pytest.mark.parametrize("data_path", ["steer", "offload"])
def test_a_data_path_by_default_is_refused_like_one_that_is_said(story, data_path):
    """Also to ipvsadm, which says nothing about it, and to a director that starts."""
    operations = with_default(story, data_path)
    key = parse_service("sctp:192.168.10.1:80")
    words = operations.new_service(AF_INET)
    words.data_path = None

    with pytest.raises(ConfigError, match=r"sctp:192\.168\.10\.1:80 cannot be (steered|offloaded): the kernel"):
        asyncio.run(operations.put_service(key, words))
    with pytest.raises(ConfigError, match="cannot be"):
        asyncio.run(operations.begin(key, ServiceWords(scheduler="wlc", mode="nat"), [], {}))
    assert operations.services == {} and not [line for line in story if line[0] == "engine"]


def test_ipvsadm_adds_no_server_that_conntrack_cannot_serve(story):
    operations = with_default(story, "offload")
    operations.process.answers["timeouts"] = 900, 120, 300
    asyncio.run(operations.add_service(STEERED))
    server = parse_server("192.168.20.1,mode=nat", STEERED_KEY)
    words = server._replace(weight=1, upper=0, lower=0, tunnel=0, tunnel_port=0, tunnel_csum=0)
    asyncio.run(operations.put_server((*PLACE, AF_INET), words))
    story.clear()

    for change in (operations.put_server, operations.change_server):
        with pytest.raises(ConfigError, match="cannot be offloaded: conntrack rewrites"):
            asyncio.run(change((*PLACE, AF_INET), words._replace(mode=DR)))
    assert story == [] and operations.servers[(*PLACE, AF_INET)] == words


def look(operations, source: str, destination: str, protocol: str = "tcp") -> dict:
    return asyncio.run(operations.look(protocol, source, destination))


def test_a_packet_is_looked_at_whoever_sends_it(operations, story):
    operations.process.answers["look"] = {"service": None}

    assert look(operations, "0.0.0.0:68", "255.255.255.255:67", "udp")["row"] is None
    assert story[-1] == ("engine", "look", AF_INET, UDP, 0, 68, 0xFFFFFFFF, 67, 0, None)
    look(operations, "[fe80::1]:0", "[ff02::fb]:5353", "udp")
    assert story[-1][2] == AF_INET6
    for end in ("192.168.10.1", "192.168.10.1:65536", "192.168.10.1:", "nobody:80", "[192.168.10.1]:80", "[::1]:8", ""):
        with pytest.raises(ConfigError):
            look(operations, end, "192.168.10.1:80")


def test_of_whom_a_sender_is_a_real_server_is_found_by_the_front(operations, story):
    """One that wants answers to datagrams to come from the VIP goes before others, but not when there are two."""
    operations.process.answers["look"] = {"service": None}

    def service_of(source: str, protocol: str):
        look(operations, source, "192.168.10.9:40000", protocol)
        return story[-1][-1]

    assert service_of("192.168.20.1:80", "tcp") == KEY
    assert service_of("192.168.20.1:81", "tcp") is service_of("192.168.20.1:80", "udp") is None
    asyncio.run(operations.add_service("udp:192.168.10.1:53"))
    asyncio.run(operations.add_service("udp:192.168.10.2:53", ops=True, ops_replies=True))
    for name in ("udp:192.168.10.1:53", "udp:192.168.10.2:53"):
        asyncio.run(operations.add_server(name, "192.168.20.1"))
    assert service_of("192.168.20.1:53", "udp") == parse_service("udp:192.168.10.2:53")
    asyncio.run(operations.add_service("udp:192.168.10.3:53", ops=True, ops_replies=True))
    asyncio.run(operations.add_server("udp:192.168.10.3:53", "192.168.20.1"))
    assert service_of("192.168.20.1:53", "udp") == parse_service("udp:192.168.10.1:53")
    asyncio.run(operations.set_server(VIP, "192.168.20.1,mode=dr"))
    assert service_of("192.168.20.1:80", "tcp") is None


def test_a_service_that_goes_while_it_is_looked_at_is_no_bug(operations):
    row = {"family": "inet", "protocol": "tcp", "address": "192.168.10.1", "port": 80, "fwmark": 0, "servers": []}
    operations.process.answers |= {"look": {"service": {"cursor": 0, "key": KEY}}, "list_services": ([row], None)}
    del operations.services[KEY]

    assert look(operations, "192.168.10.9:40000", "192.168.10.1:80")["row"]["data_path"] == "rewrite"


def test_a_trace_that_was_ended_does_not_read_or_end_the_next_one(operations, story):
    operations.facts["engine"] = "fast"
    operations.process.answers["trace_start"] = ["rewritten"]
    first = asyncio.run(operations.trace_start())
    with pytest.raises(HostError, match="somebody is tracing already"):
        asyncio.run(operations.trace_start())
    operations.traced_at -= 60                      # nobody reads it
    asyncio.run(operations.end_stale_trace())
    second = asyncio.run(operations.trace_start(client="192.168.10.9"))
    story.clear()

    with pytest.raises(HostError, match="nobody read it"):
        asyncio.run(operations.trace_read(first["trace"]))
    asyncio.run(operations.trace_stop(first["trace"]))
    assert story == []
    asyncio.run(operations.trace_read(second["trace"], 1000))
    asyncio.run(operations.trace_stop(second["trace"]))
    assert story == [("engine", "trace_read", 64), ("engine", "trace_stop")]


def test_an_engine_that_cannot_trace_is_not_taken_for_one_that_does(operations):
    operations.facts["engine"] = "fast"
    operations.process.answers["trace_start"] = HostError("out of memory")
    with pytest.raises(HostError, match="out of memory"):
        asyncio.run(operations.trace_start())
    operations.process.answers["trace_start"] = ["rewritten"]
    assert asyncio.run(operations.trace_start())["outcomes"] == ["rewritten"]
