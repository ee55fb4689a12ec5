"""The control methods behind lbq-ipvsadm: what the kernel takes, and what nobody may send."""
from __future__ import annotations

import pytest

from lbq.errors import ConfigError, LbqError, NoSuchServer, NoSuchService, NotUnicast, ServiceError, UnknownScheduler
from tests.helpers import transcripts

SERVICE = {"protocol": "tcp", "address": "192.168.0.100", "port": 80, "fwmark": 0, "scheduler": "wlc", "flags": [],
           "timeout": 0, "netmask": "255.255.255.255", "pe": ""}
SERVER = {"address": "10.0.0.11", "port": 80, "mode": "nat", "weight": 1, "upper": 0, "lower": 0, "tunnel": "ipip",
          "tunnel_port": 0, "tunnel_flags": "nocsum"}


@pytest.fixture
def client(director):
    client = director.connect()
    client.call("kernel_service", do="add", service=SERVICE)
    client.call("kernel_server", do="add", service=SERVICE, server=SERVER)
    return client


def test_a_row_of_the_listing_is_what_can_be_asked_for(client):
    row = client.call("list")[0]
    client.call("clear")
    client.call("kernel_service", do="add", service=row)
    client.call("kernel_server", do="add", service=row, server=row["servers"][0])

    assert client.call("list") == [row]


@pytest.mark.parametrize("change", [
    {"address": None}, {"address": "web01"}, {"address": "192.168.0.100:80"}, {"address": 5}, {"port": "80"},
    {"port": 65536}, {"port": -1}, {"port": True}, {"protocol": "icmp"}, {"protocol": 6}, {"fwmark": 2**32},
    {"fwmark": None}, {"flags": "ops"}, {"flags": ["nosuch"]}, {"flags": [[]]}, {"flags": None}, {"scheduler": None},
    {"scheduler": "x" * 256}, {"netmask": "24"}, {"netmask": None}, {"netmask": "1.2.3"}, {"pe": 5},
    {"flags": ["persistent"], "timeout": 0}, {"flags": ["persistent"], "timeout": 2678401}, {"timeout": "x",
                                                                                            "flags": ["persistent"]},
    {"address": "::1", "netmask": "129"}, {"address": "::1", "netmask": "255.255.255.255"},
])
def test_a_service_nobody_can_mean_is_refused_and_nothing_changes(client, change):
    before = client.call("list")

    with pytest.raises(ConfigError) as refusal:
        client.call("kernel_service", do="add", service={**SERVICE, "port": 81, **change})
    assert "\n" not in str(refusal.value)
    assert client.call("list") == before


@pytest.mark.parametrize("change", [
    {"address": "rs1"}, {"port": 70000}, {"mode": "drr"}, {"mode": 0}, {"weight": -1}, {"weight": 2**31},
    {"weight": 1.5}, {"upper": None}, {"lower": "5"}, {"tunnel": "vxlan"}, {"tunnel_port": 65536},
    {"tunnel_flags": "yes"}, {"mode": "tun", "tunnel": "gue", "tunnel_port": 0}, {"address": "2001:db8::1"},
])
def test_a_server_nobody_can_mean_is_refused_and_nothing_changes(client, change):
    before = client.call("list")

    for do in ("add", "edit"):
        with pytest.raises(ConfigError):
            client.call("kernel_server", do=do, service=SERVICE, server={**SERVER, "port": 81, **change})
    assert client.call("list") == before


@pytest.mark.parametrize(("method", "params", "error"), [
    ("kernel_service", {"do": "nosuch", "service": SERVICE}, ConfigError),
    ("kernel_service", {"do": "edit", "service": {**SERVICE, "port": 81}}, NoSuchService),
    ("kernel_service", {"do": "edit", "service": {**SERVICE, "scheduler": "nosuch"}}, UnknownScheduler),
    ("kernel_service", {"do": "edit", "service": {**SERVICE, "pe": "nosuch"}}, UnknownScheduler),
    ("kernel_server", {"do": "nosuch", "service": SERVICE, "server": SERVER}, ConfigError),
    ("kernel_server", {"do": "edit", "service": SERVICE, "server": {**SERVER, "port": 81}}, NoSuchServer),
    ("kernel_server", {"do": "add", "service": SERVICE, "server": {**SERVER, "address": "224.0.0.1"}}, NotUnicast),
    ("kernel_server", {"do": "add", "service": SERVICE, "server": {**SERVER, "address": "127.255.255.255"}},
     NotUnicast),
    ("kernel_service", {"do": "add", "service": 5}, LbqError),
    ("kernel_service", {"do": "add", "service": {**SERVICE, "address": "::1", "netmask": float("inf")}}, ConfigError),
    ("replace", {"services": [5], "timeouts": {}}, ConfigError),
    ("replace", {"services": [SERVICE], "timeouts": {}}, ConfigError),
    ("replace", {"services": [{**SERVICE, "servers": [5]}], "timeouts": {}}, ConfigError),
    ("replace", {"services": [{**SERVICE, "servers": [SERVER, SERVER]}], "timeouts": {}}, ConfigError),
    ("replace", {"services": [{**SERVICE, "servers": []}] * 2, "timeouts": {}}, ConfigError),
    ("replace", {"services": [{**SERVICE, "servers": [{**SERVER, "lower": 5}]}], "timeouts": {}}, ServiceError),
    ("replace", {"services": [], "timeouts": {"tcp": -1}}, ConfigError),
    ("replace", {"services": [], "timeouts": {"udp": 2678401}}, ConfigError),
])
def test_what_cannot_be_done_is_refused_by_its_kind_and_nothing_changes(client, method, params, error):
    before = client.call("list")

    with pytest.raises(error):
        client.call(method, **params)
    assert client.call("list") == before


def test_an_edit_says_everything(client):
    client.call("kernel_service", do="edit", service={**SERVICE, "flags": ["persistent"], "timeout": 60})
    client.call("kernel_service", do="edit", service=SERVICE)
    client.call("kernel_server", do="edit", service=SERVICE, server={**SERVER, "upper": 9, "mode": "dr"})
    client.call("kernel_server", do="edit", service=SERVICE, server=SERVER)

    row = client.call("list")[0]
    assert {name: row[name] for name in SERVICE} == SERVICE
    assert {name: row["servers"][0][name] for name in SERVER} == SERVER


def test_native_changes_keep_what_ipvsadm_has_set(client):
    """A weight must not clear the flags, and flags without a name of their own are no mistake."""
    client.call("kernel_service", do="edit", service={**SERVICE, "flags": ["sched1", "sched3"], "pe": "sip"})
    client.call("set_service", service="192.168.0.100:80", persistent=60)

    row = client.call("list")[0]
    assert (row["flags"], row["timeout"], row["pe"]) == (["persistent", "sched1", "sched3"], 60, "sip")


def test_a_deleted_server_comes_back_with_its_connections_whatever_its_address(client, director):
    """The kernel looks at the address of a new one only."""
    broadcast = {**SERVER, "address": "10.0.0.255"}
    client.call("kernel_server", do="add", service=SERVICE, server=broadcast)
    client.call("kernel_server", do="delete", service=SERVICE, server=broadcast)
    director.operations.host.broadcasts.add(0x0A0000FF)

    client.call("kernel_server", do="add", service=SERVICE, server=broadcast)
    assert "10.0.0.255:80" in transcripts.run(director, ["ipvsadm", "-L", "-n"])[0]
