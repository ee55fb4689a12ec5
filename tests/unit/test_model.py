"""lbq.model: the nouns."""
from __future__ import annotations

import pytest

from lbq.model import (
    AF_INET,
    AF_INET6,
    CLASSIC,
    DR,
    NAT,
    NEW,
    TCP,
    RealServer,
    ServiceKey,
    VirtualService,
    fold,
    is_link_local6,
    is_unicast6,
)
from lbq.services import ServiceTable
from tests.helpers.packets import address


class Notices:
    """A scheduler that writes down what it is told."""

    def __init__(self):
        self.told = []

    def bind(self, service):
        self.told.append(("bind", len(service.servers)))

    def server_added(self, service, server):
        self.told.append(("added", server.address, server.position))

    def server_removed(self, service, server):
        self.told.append(("removed", server.address, server.position))

    def server_changed(self, service, server):
        self.told.append(("changed", server.address, server.position))


def service_with(*addresses: int) -> VirtualService:
    """Return a service with a server for each of *addresses*, added in this order."""
    service = VirtualService(ServiceKey(TCP, 1, 80), Notices())
    for number in addresses:
        service.add(RealServer(number, 80))
    return service


def test_the_newest_server_comes_first():
    service = service_with(1, 2, 3)

    assert [server.address for server in service.servers] == [3, 2, 1]
    assert [server.position for server in service.servers] == [0, 1, 2]


def test_a_removed_server_leaves_the_others_in_order():
    service = service_with(1, 2, 3)
    middle = service.servers[1]

    service.remove(middle)

    assert [(server.address, server.position) for server in service.servers] == [(3, 0), (1, 1)]
    assert middle.position == -1


def test_the_scheduler_hears_of_every_change():
    service = service_with(1, 2)

    service.changed(service.servers[1])
    service.remove(service.servers[1])

    assert service.scheduler.told == [("bind", 0), ("added", 1, 0), ("added", 2, 0), ("changed", 1, 1),
                                      ("removed", 1, 1)]


def test_a_server_knows_its_service():
    service = service_with(1)

    assert service.servers[0].service is service


@pytest.mark.parametrize(("weight", "overloaded", "answer"), [(1, False, True), (0, False, False),
                                                              (1, True, False), (0, True, False)])
def test_quiesced_and_overloaded_servers_get_nothing_new(weight, overloaded, answer):
    server = RealServer(1, 80, weight)
    server.overloaded = overloaded

    assert server.can_schedule() is answer


@pytest.mark.parametrize(("profile", "overhead"), [(CLASSIC, 3 * 256 + 5), (NEW, 3 * 257 + 5)])
def test_overhead_counts_an_active_connection_as_the_kernel_does(profile, overhead):
    """ip_vs_dest_conn_overhead(): 256·active + inactive (classic), 256·active + total (new)."""
    table = ServiceTable(profile)
    key = ServiceKey(TCP, 1, 80)
    table.add_service(key, "wlc")
    server = table.add_server(key, 2, 80)
    server.active_conns, server.inactive_conns = 3, 5

    assert server.overhead() == overhead


def test_overhead_of_sixteen_million_connections_does_not_wrap():
    server = RealServer(1, 80)
    server.active_conns = 16_000_000

    assert server.overhead() == 16_000_000 * 257


def test_a_service_key_leaves_room_for_marks_and_ipv6():
    assert ServiceKey(TCP, 1, 80) != ServiceKey(TCP, 1, 80, fwmark=7)
    assert ServiceKey(TCP, 1, 80) != ServiceKey(TCP, 1, 80, family=10)
    assert (NAT, DR) == (0, 3)      # the kernel's numbers, which travel in connection flags


@pytest.mark.parametrize(("text", "folded"), [
    ("192.168.10.9", 0xC0A80A09), ("255.255.255.255", 0xFFFFFFFF), ("::", 0), ("::1", 1), ("::1.2.3.4", 0x01020304),
    ("2001:db8::9", 0x20010DB1), ("1:2:3:4:5:6:7:8", 0x1_0002 ^ 0x3_0004 ^ 0x5_0006 ^ 0x7_0008),
    ("ffff:ffff:ffff:ffff::", 0), ("ffff:ffff::", 0xFFFFFFFF)])
def test_an_address_folds_into_the_xor_of_its_words(text, folded):
    assert fold(address(text)) == folded


@pytest.mark.parametrize(("family", "netmask", "client", "remembered"), [
    (AF_INET, None, "192.168.10.9", "192.168.10.9"), (AF_INET, 0xFFFFFF00, "192.168.10.9", "192.168.10.0"),
    (AF_INET, 0xFF0000FF, "192.168.10.9", "192.0.0.9"), (AF_INET6, None, "2001:db8::9", "2001:db8::9"),
    (AF_INET6, 128, "2001:db8::9", "2001:db8::9"), (AF_INET6, 64, "2001:db8::1:0:0:9", "2001:db8::"),
    (AF_INET6, 33, "2001:db8:ffff::9", "2001:db8:8000::"), (AF_INET6, 1, "ffff::9", "8000::")])
def test_what_persistence_remembers_of_a_client(family, netmask, client, remembered):
    service = VirtualService(ServiceKey(TCP, 1, 80, family), Notices(), netmask=netmask)

    assert service.client(address(client)) == address(remembered)


@pytest.mark.parametrize(("text", "one_hosts"), [
    ("::", False), ("ff02::1", False), ("ff0e::1", False), ("::ffff:192.168.10.9", False), ("::1", True),
    ("2001:db8::1", True), ("fe80::1", True), ("fd00::1", True), ("::192.168.10.9", True)])
def test_which_ipv6_addresses_are_one_hosts(text, one_hosts):
    assert is_unicast6(address(text)) == one_hosts


@pytest.mark.parametrize(("text", "on_every_link"), [
    ("fe80::1", True), ("febf::1", True), ("fec0::1", False), ("fe7f::1", False), ("::1", False)])
def test_which_ipv6_addresses_there_are_on_every_link(text, on_every_link):
    assert is_link_local6(address(text)) == on_every_link
