"""What is different with IPv6: router advertisements, redirects, who answers for a VIP, tunnels of either family."""
from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys

import pytest

from lbq import realserver
from lbq.grammar import parse_address
from lbq.host import addresses
from lbq.host.routes import NO_ROUTE, Routes, largest_mtu
from lbq.model import AF_INET, AF_INET6, NAT, TUN
from tests.helpers.namespaces import (
    IPV4,
    IPV6,
    PLACES,
    counters,
    install,
    line_of_three,
    number,
    picture,
    setup_for,
)
from tests.helpers.packets import ones_complement_sum, udp
from tests.helpers.processes import wait_until

pytestmark = pytest.mark.lab

VIP6 = "2001:db8:20::100"       # on the link of director and server
VIP4 = "192.168.20.100"
SILENCE = 0.3                   # seconds in which nothing comes back
TIMEOUT = 5


@pytest.fixture
def hosts(tmp_path):
    """Client, director, server."""
    with line_of_three(tmp_path) as hosts:
        yield hosts


def received(host, counter):
    """Return how many ICMPv6 messages of a kind *host* has got."""
    return host.counters()[f"Icmp6In{counter}"]


def send_udp(host, address, port=7, payload=b"x"):
    """Send one datagram from *host*."""
    with host.call(socket.socket, AF_INET6 if ":" in address else AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(payload, (address, port))


def advertise():
    """Send a router advertisement to everybody on the link of eth0."""
    index = socket.if_nametoindex("eth0")
    with socket.socket(AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, index))


def default_route(host):
    """Return the default route that *host* has from an advertisement."""
    return host.run(["ip", "-6", "route", "show", "default", "proto", "ra"]).stdout


def test_a_machine_that_listens_to_router_advertisements_still_does(hosts):
    """Its default route may come from one: the kernel forgets that, and hears no more, once it forwards."""
    client, director, _ = hosts
    client.call(advertise)
    wait_until(lambda: default_route(director))
    before = picture(director)

    setup = install(director, "nft", IPV6)

    assert default_route(director)
    director.run(["ip", "-6", "route", "delete", "default"])
    client.call(advertise)
    wait_until(lambda: default_route(director))
    director.call(setup.undo)
    assert default_route(director)
    assert picture(director) == before


@pytest.mark.parametrize("protected", [True, False])
def test_no_redirect_reaches_a_real_server(hosts, variant, protected):
    """One-armed NAT: a server learnt the direct way to its client would answer past the director.

    Without the rule the kernel does send one: the test can fail.
    """
    client, director, _ = hosts                         # the client plays the server on the clients' link
    setup = setup_for(director, variant)
    server = (IPV6.service, number(IPV6.client), 80, NAT)
    director.call(setup.install, [IPV6.service], [server])
    client.run(["ip", "-6", "route", "add", f"{IPV6.other}/128", "via", IPV6.vip])
    if not protected:
        director.run([f"ip6tables-{variant}", "-t", "mangle", "-D", "LBQ-ERRORS", "1"])

    send_udp(client, IPV6.other)

    if protected:
        assert wait_until(lambda: counters(director, variant, "LBQ-ERRORS", IPV6)[0][0]) == 1
    else:
        assert wait_until(lambda: received(client, "Redirects")) == 1
    assert received(client, "Redirects") == (0 if protected else 1)
    director.call(setup.remove_server, *server)
    assert f"{IPV6.client}" not in director.run(["ipset", "save"]).stdout


def answers(host, address):
    """Return True when somebody on the link answers *host*'s neighbour solicitation for *address*."""
    send_udp(host, address)
    state = wait_until(lambda: _settled(host.run(["ip", "neighbour", "show", address]).stdout.split()))
    return state == "REACHABLE"


def _settled(words):
    return words[-1] if words and words[-1] in ("REACHABLE", "FAILED") else None


def test_a_real_server_takes_the_vip_and_answers_no_solicitation_for_it(hosts):
    _, director, server = hosts
    before = picture(server)
    director.sysctl("net.ipv6.neigh.eth1.retrans_time_ms", 50)      # three questions, and it has failed

    lines = server.call(realserver.prepare, "dr", [parse_address(VIP6)])

    assert lines == [f"{VIP6}/128 added to lo"]
    assert not answers(director, VIP6)
    assert "deprecated" in server.run(["ip", "-6", "address", "show", "dev", "lo", "to", VIP6]).stdout
    director.run(["ip", "-6", "route", "add", f"{VIP6}/128", "via", IPV6.rip])
    with server.call(socket.create_server, (VIP6, 80), family=AF_INET6):
        director.call(socket.create_connection, (VIP6, 80), TIMEOUT).close()

    assert server.call(realserver.prepare, "dr", [parse_address(VIP6)]) == [
        f"{VIP6} is an address of this host already"]
    assert server.call(realserver.undo) == [f"{VIP6}/128 removed from lo"]
    assert picture(server) == before


def test_an_address_of_the_link_is_answered_for_and_so_is_one_that_lbq_adds(hosts):
    """What the test before would see if the VIP were in the wrong place; and a new VIP needs no second to be ready."""
    _, director, server = hosts

    server.call(addresses.add, number(VIP6), AF_INET6, "eth0")

    assert answers(director, VIP6)


def test_a_dual_stack_real_server_is_prepared_at_once(hosts):
    _, _, server = hosts
    before = picture(server)

    server.call(realserver.prepare, "tun", [parse_address(VIP4), parse_address(VIP6)])

    assert server.sysctl("net.ipv4.conf.all.arp_ignore") == "1"
    assert f"{VIP4}/32" in picture(server)["addresses"] and f"{VIP6}/128" in picture(server)["addresses"]
    server.call(realserver.undo)
    assert picture(server) == before


def test_the_way_to_a_server_is_told_with_mtu_source_and_mac(hosts):
    _, director, server = hosts
    mac = re.search(r"link/ether (\S+)", server.run(["ip", "link", "show", "eth0"]).stdout)[1].replace(":", "")
    link_local = server.run(["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link"]).stdout.split()[3]
    gateway = link_local.partition("/")[0]
    director.run(["ip", "-6", "route", "add", "2001:db8:77::/64", "via", gateway, "dev", "eth1"])
    director.run(["ip", "-6", "route", "add", "unreachable", "2001:db8:78::/64"])
    director.sysctl("net.ipv6.conf.eth1.mtu", 1400)             # as a router's advertisement may say
    device = director.call(socket.if_nametoindex, "eth1")
    routes = director.call(Routes)
    targets = [number(address) for address in (IPV6.rip, "2001:db8:77::5", "2001:db8:78::5")]

    for address in (IPV6.rip, "2001:db8:77::5"):
        send_udp(director, address)
    wait_until(lambda: director.call(routes.read, targets, AF_INET6)[1][4])
    near, far, nowhere = director.call(routes.read, targets, AF_INET6)

    assert near == (targets[0], 1400, number(IPV6.inside), device, mac)
    assert far == (targets[1], 1400, number(IPV6.inside), device, mac)
    assert nowhere[1] == NO_ROUTE
    assert director.call(largest_mtu) == 1500
    director.run(["ip", "link", "set", "eth0", "mtu", "1700"])
    assert director.call(largest_mtu) == 1700
    assert director.call(routes.read, [number(IPV4.rip)], AF_INET)[0][:4] == (
        number(IPV4.rip), 1500, number(IPV4.inside), device)


@pytest.mark.parametrize(("place", "other"), [(IPV4, IPV6), (IPV6, IPV4)], ids=["4-in-6", "6-in-4"])
def test_a_tunnels_end_of_the_other_family_comes_and_goes_while_a_director_runs(hosts, place, other):
    _, director, _ = hosts
    setup = install(director, "nft", place)
    end = place.service, number(other.rip), 80, TUN

    director.call(setup.add_server, *end)
    director.call(setup.remove_server, *end)
    director.call(setup.undo)


def test_a_neighbour_that_has_long_been_silent_is_asked_again(hosts):
    """A packet socket does not tell the kernel that a MAC is in use, so it would stay stale for ever."""
    _, director, _ = hosts
    assert answers(director, IPV6.rip)
    director.run(["ip", "neighbour", "change", IPV6.rip, "dev", "eth1", "nud", "stale"])

    routes = director.call(Routes)
    director.call(routes.read, [number(IPV6.rip)], AF_INET6)

    assert wait_until(lambda: "REACHABLE" in director.run(["ip", "neighbour", "show", IPV6.rip]).stdout)


def udp_packet(source, destination, payload):
    """Return a UDP packet of either family."""
    if ":" not in source:
        return bytes(udp(f"{source}:7777", f"{destination}:7", payload))
    ends = b"".join(ipaddress.ip_address(address).packed for address in (source, destination))
    length = 8 + len(payload)
    datagram = struct.pack("!HHH", 7777, 7, length) + bytes(2) + payload
    total = ~ones_complement_sum(ends + struct.pack("!HH", 17, length) + datagram) & 0xFFFF
    header = struct.pack("!IHBB", 6 << 28, length, 17, 64)
    return header + ends + datagram[:6] + struct.pack("!H", total) + payload


@pytest.mark.parametrize("inner", PLACES.values(), ids=[f"{name} inside" for name in PLACES])
@pytest.mark.parametrize("outer", PLACES.values(), ids=[f"over {name}" for name in PLACES])
@pytest.mark.parametrize("kind", ["ipip", "gre", "gue"])
def test_a_tunnel_ends_whatever_is_in_it_and_around_it(hosts, kind, outer, inner):
    _, director, server = hosts
    vip = VIP6 if inner is IPV6 else VIP4
    protocol, ethertype = {IPV4: (4, 0x0800), IPV6: (41, 0x86DD)}[inner]
    server.call(realserver.prepare, "tun", [parse_address(vip)])
    decap = server.popen([sys.executable, "-m", "lbq", "decap", "--vip", vip, "--type", kind])
    decap.wait_for("ready")
    with server.call(socket.socket, inner.family, socket.SOCK_DGRAM) as listener:
        listener.bind((vip, 7))
        listener.settimeout(TIMEOUT)
        packet = udp_packet(inner.client, vip, b"through a tunnel")
        wrapped, number_of_kind = {"ipip": (packet, protocol), "gre": (struct.pack("!HH", 0, ethertype) + packet, 47),
                                   "gue": (struct.pack("!BBH", 0, protocol, 0) + packet, 0)}[kind]
        sort = (socket.SOCK_DGRAM, 0) if kind == "gue" else (socket.SOCK_RAW, number_of_kind)
        with director.call(socket.socket, outer.family, *sort) as tunnel:
            tunnel.sendto(wrapped, (outer.rip, 6080 if kind == "gue" else 0))

        assert listener.recvfrom(1500)[0] == b"through a tunnel"
    assert decap.stop() == 0
    server.call(realserver.undo)
