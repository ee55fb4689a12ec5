"""ICMP errors through NAT: whoever on the way to a real server sends one, its client hears of it from the VIP.

    client ── director ── web01 ── 10.30.0.0/24 ── web02
"""
from __future__ import annotations

import pytest

from lbq.lab.topology import Lab
from tests.helpers import icmp
from tests.helpers.routed import (
    BULK,
    DISCARD,
    ECHO,
)
from tests.helpers.topology import (
    new_lab,
    resets_suffered,
    route,
    start_endpoint,
    tell,
    udp_socket,
)

NEAR, FAR, NOWHERE = "10.30.0.1", "10.30.0.2", "10.30.0.77"
SIZE = 2 << 20


@pytest.fixture(scope="module")
def network():
    """Return the article's network with a second one behind web01, and web02's servers there."""
    with new_lab(Lab) as lab:
        web01, web02 = lab.servers
        web01.run(["ip", "link", "add", "behind", "type", "veth", "peer", "name", "behind", "netns", web02.name])
        for server, address in ((web01, NEAR), (web02, FAR)):
            server.sysctl("net.ipv4.icmp_ratelimit", 0)     # one error a second, else
            server.run(["ip", "address", "add", f"{address}/24", "dev", "behind"])
            server.run(["ip", "link", "set", "behind", "up"])
        web01.sysctl("net.ipv4.ip_forward", 1)
        web01.run(["ip", "route", "add", "unreachable", NOWHERE])
        web02.run(["ip", "route", "replace", "default", "via", NEAR])
        lab.director.run(["ip", "route", "add", "10.30.0.0/24", "via", web01.address])
        start_endpoint(web02, "echo", ECHO)
        start_endpoint(web02, "bulk", BULK)
        yield lab


@pytest.fixture
def lab(network, lend, engine):
    """Lend the network to one test, with a director of web02's far address."""
    lab = lend(network)
    lab.start_director("serve", "--engine", engine)
    for service, server in ((f"udp:{lab.vip}:{ECHO}", FAR), (f"udp:{lab.vip}:{DISCARD}", FAR),
                            (f"udp:{lab.vip}:7", NOWHERE), (f"{lab.vip}:{BULK}", FAR)):
        tell(lab, "add_service", service=service, scheduler="rr")
        tell(lab, "add_server", service=service, server=server)
    return lab


@pytest.mark.parametrize("where", ["client", "director"])
def test_port_unreachable_comes_from_the_vip(lab, where):
    with udp_socket(getattr(lab, where), lab.vip, DISCARD) as sock:
        assert icmp.error_about(sock, b"hello?") == (3, 3, 0, lab.vip)


def test_host_unreachable_comes_from_the_vip(lab):
    with udp_socket(lab.client, lab.vip, 7) as sock:
        assert icmp.error_about(sock, b"hello?") == (3, 1, 0, lab.vip)


def test_each_hop_of_a_traceroute_is_the_vip(lab, forgiven):
    forgiven.add("IpInHdrErrors")       # the routers', for too many hops
    with udp_socket(lab.client, lab.vip, ECHO) as sock:
        assert icmp.trace(sock, 2) == [lab.vip] * 2
        sock.send(b"how far?")
        assert sock.recv(100) == b"web02 how far?"


def test_a_client_learns_what_fits_the_path_to_the_server(lab, forgiven):
    web01, _ = lab.servers
    forgiven.add("IpFragFails")         # the router's, for what was too large
    with route(web01, FAR, "dev", "behind", "mtu", "1300"):
        icmp.assert_client_learns_what_fits(lab, 1300, ECHO, f"http://{lab.vip}:{BULK}/", SIZE)
    assert resets_suffered(lab.client) == 0


def test_a_server_hears_that_its_client_is_gone(lab):
    tell(lab, "add_service", service=f"udp:{lab.vip}:4000", scheduler="rr")
    tell(lab, "add_server", service=f"udp:{lab.vip}:4000", server=FAR)
    icmp.assert_server_hears_that_its_client_is_gone(lab, lab.servers[1], FAR, 4000)
