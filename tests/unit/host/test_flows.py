"""What conntrack says of a connection, read where it need not be fast."""
from __future__ import annotations

import pytest

from lbq import ctnetlink
from lbq.host import flows
from lbq.model import AF_INET, AF_INET6
from tests.helpers.conntrack import CONFIRMED, DST_NAT, told
from tests.helpers.packets import address


@pytest.mark.parametrize(("client", "service", "server", "family"), [
    ("192.168.10.9:40000", "tcp:192.168.10.1:80", "192.168.20.1:8080", AF_INET),
    ("[2001:db8::9]:40000", "udp:[2001:db8::1]:53", "[2001:db8:5::1]:5353", AF_INET6)])
def test_a_translated_connection(client, service, server, family):
    message = told(client, service, server, number=0xABCDEF01)
    flow = flows.read(message[16:], family)

    protocol, _, vip = service.partition(":")
    vip, _, vport = vip.rpartition(":")
    rip, _, rport = server.rpartition(":")
    assert flow[:-1] == ({"tcp": 6, "udp": 17}[protocol], address(vip.strip("[]")), int(vport),
                         address(rip.strip("[]")), int(rport), True)
    assert message[20:].startswith(flow.place[:-8]) and flow.place[-8:] == bytes.fromhex("08000c00abcdef01")


def test_one_that_is_not_translated():
    message = told("192.168.10.9:40000", "tcp:192.168.10.1:80", "192.168.10.1:80", status=CONFIRMED)
    assert not flows.read(message[16:], AF_INET).is_translated


def test_one_of_another_zone_or_without_ports_is_none():
    message = told("192.168.10.9:40000", "tcp:192.168.10.1:80", "192.168.20.1:80")[16:]
    assert flows.read(message + bytes.fromhex("0600120000010000"), AF_INET) is None
    assert flows.read(message, AF_INET6) is None
    for length in range(0, len(message) - 40, 4):
        flow = flows.read(message[:length], AF_INET)
        assert flow is None or not flow.is_translated


def test_a_list_is_asked_for_by_status():
    request = ctnetlink.list_request()
    assert request[:8] == bytes.fromhex("2400000001010103")
    assert request[20:] == bytes.fromhex("0800030000000020" "08001a0000000020")
    assert DST_NAT == ctnetlink.IPS_DST_NAT
