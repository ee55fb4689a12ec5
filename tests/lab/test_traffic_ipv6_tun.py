"""IPv6 by direct routing and by tunnels: replies that bypass the director, and tunnels of one family in the other."""
from __future__ import annotations

import os
import socket
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

from lbq.lab.routed import DIRECTOR, RoutedLab, has_device
from lbq.realserver import TUNNEL
from tests.helpers.dual import reals, service, start, url6, v6, with_ipv6
from tests.helpers.endpoints import digest_of
from tests.helpers.icmp import error_about, no_route_cache
from tests.helpers.routed import BULK, DISCARD, ECHO, HOLD, LONG, SIZES, with_servers
from tests.helpers.topology import (
    curl,
    download,
    family_of,
    features,
    hold,
    listing,
    new_lab,
    resets_suffered,
    route,
    still_answers,
    udp_socket,
    upload,
)
from tests.helpers.tunnels import TUNNELS, last_words, start_decap

UNREACHABLE, TOO_BIG, TIME_EXCEEDED = 1, 2, 3           # ICMPv6 types
PORT_UNREACHABLE = 4
IPV6_UNICAST_HOPS = 16                                  # <linux/in6.h>
FORBID_FRAGMENTS = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
PMTUDISC_DO = 2


@pytest.fixture(scope="module")
def dr_network():
    """Return the network of DR, dual-stack, with servers of every kind on IPv6."""
    with new_lab(RoutedLab, "dr") as lab:
        yield with_servers(with_ipv6(lab), ipv6=True)


@pytest.fixture
def dr(dr_network, lend):
    """Lend the network of DR to one test."""
    return lend(dr_network)


@pytest.fixture(params=["vip-local", "vip-routed"])
def either_dr(dr, request):
    """Return the network of DR with the VIP on the director, and with the VIP only routed there."""
    with vip_routed(dr) if request.param == "vip-routed" else ExitStack():
        yield dr


@contextmanager
def vip_routed(lab):
    """Take the IPv6 VIP off the director; the router sends its packets there."""
    vip = f"{v6(lab.vip)}/128"
    lab.director.run(["ip", "address", "del", vip, "dev", "eth0"])
    try:
        with route(lab.router, vip, "via", v6(DIRECTOR)):
            yield
    finally:
        lab.director.run(["ip", "address", "add", vip, "dev", "eth0"])


def test_servers_answer_past_the_director(either_dr, engine):
    start(either_dr, engine)

    assert [curl(either_dr.client, url6(either_dr)).strip() for _ in range(6)] == ["web02", "web01"] * 3
    row = listing(either_dr)
    assert {server["mode"] for server in row["servers"]} == {"dr"}
    assert row["stats"]["packets_in"] > 6 * 4 and row["stats"]["packets_out"] == 0


def test_bulk_arrives_intact(dr, engine):
    size = SIZES[engine] // 4
    start(dr, engine, BULK)

    assert upload(dr.client, url6(dr, BULK), size) == digest_of(size)
    assert download(dr.client, f"{url6(dr, BULK)}{size}") == digest_of(size)
    with features(dr.client, "tso off gso off"):
        assert upload(dr.client, url6(dr, BULK), size // 4) == digest_of(size // 4)
    assert resets_suffered(dr.client) == 0


def test_datagrams_of_every_size_pass(dr, engine):
    """What is longer than a packet comes in fragments, and leaves in fragments."""
    start(dr, engine, ECHO, "--udp")

    for size in (0, 1452, 1453, *LONG[engine]):
        datagram, answers = os.urandom(size), []
        for _ in dr.servers:
            with udp_socket(dr.client, v6(dr.vip), ECHO) as sock:
                sock.send(datagram)
                answers.append(sock.recv(65535))
        assert sorted(answers) == [b"web01 " + datagram, b"web02 " + datagram], size


def test_flows_go_on_when_a_neighbour_is_forgotten(dr, engine):
    start(dr, engine, HOLD)
    held = dict(hold(dr.client, v6(dr.vip), HOLD) for _ in range(2))

    for _ in range(3):
        dr.director.run(["ip", "-6", "neighbour", "flush", "dev", "eth0"])
        assert still_answers(held["web01"])
        assert still_answers(held["web02"])


def test_a_client_hears_what_keeps_its_packets_from_a_server(dr, engine, forgiven):
    """Too many hops, nobody listens there, and how much fits."""
    web01, _ = dr.servers
    forgiven.add("Ip6InHdrErrors")      # the router's, for too many hops
    with route(dr.director, f"{v6(web01.address)}/128", "dev", "eth0", "mtu", "1300"), path_forgotten(dr.client):
        dr.start_director("--vip", service(dr, ECHO), "--udp", "--mode", "dr", "--engine", engine, *reals(dr, [web01]))
        for name in (f"udp:{service(dr, DISCARD)}", service(dr, BULK)):
            dr.lbq("add", "service", name, "--mode", "dr")
            dr.lbq("add", "server", name, f"[{v6(web01.address)}]")
        with (udp_socket(dr.client, v6(dr.vip), ECHO) as sock, udp_socket(dr.client, v6(dr.vip), DISCARD) as nobody):
            for hops, sender in ((1, "2001:db8:c0a8:a00::fe"), (2, v6(dr.vip))):
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops)
                assert error_about(sock, b"how far?") == (TIME_EXCEEDED, 0, 0, sender)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, 3)
            sock.send(b"how far?")
            assert sock.recv(100) == b"web01 how far?"
            assert error_about(nobody, b"hello?") == (UNREACHABLE, PORT_UNREACHABLE, 0, v6(dr.vip))

            sock.setsockopt(*FORBID_FRAGMENTS[sock.family], PMTUDISC_DO)
            assert error_about(sock, bytes(1400)) == (TOO_BIG, 0, 1300, v6(dr.vip))
        with features(dr.client, "tso off gso off"):
            size = SIZES[engine] // 16
            assert upload(dr.client, url6(dr, BULK), size) == digest_of(size)


@contextmanager
def path_forgotten(host):
    """Let *host* forget the path MTUs that it learns in a ``with`` block."""
    try:
        yield
    finally:
        host.run(["ip", "-6", "route", "flush", "cache"])


# ---- Tunnels -------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """A tunnel's families: of the VIP, which is inside, and of the real servers, which is outside."""

    inside: int
    outside: int

    def vip(self, lab: RoutedLab) -> str:
        """Return the VIP inside."""
        return v6(lab.vip) if self.inside == 6 else lab.vip

    def service(self, lab: RoutedLab, port: int) -> str:
        """Return what the director calls it."""
        return f"[{self.vip(lab)}]:{port}" if self.inside == 6 else f"{self.vip(lab)}:{port}"

    def url(self, lab: RoutedLab) -> str:
        """Return where its bulk servers are."""
        return f"http://{self.service(lab, BULK)}/"

    def room(self, tunnel) -> int:
        """Return how much of 1,500 bytes is left inside; the overhead of *tunnel* is said for IPv4 around it."""
        return 1500 - tunnel.overhead - (20 if self.outside == 6 else 0)


WAYS = [Way(6, 6), Way(6, 4), Way(4, 6)]


@pytest.fixture(scope="module")
def tun_network():
    """Return the network of TUN, dual-stack, with servers of every kind on both and IPIP ended by ``lbq decap``."""
    with new_lab(RoutedLab, "tun") as lab:
        for server in lab.servers:
            if has_device(server, TUNNEL):      # it would end IPIP in IPv4 alone
                server.run(["ip", "link", "set", TUNNEL, "down"])
                start_decap(server, lab.vip, "ipip")
        with_ipv6(lab)
        yield with_servers(with_servers(lab), ipv6=True)


@pytest.fixture
def tun(tun_network, lend):
    """Lend the network of TUN to one test."""
    return lend(tun_network)


@contextmanager
def tunnelled(lab, engine, way, tunnel, port, *options, servers=None):
    """Run a director whose servers are reached by *tunnel*, and the tunnel's ends, in a ``with`` block."""
    servers = lab.servers if servers is None else servers
    decaps = [] if tunnel.kind == "ipip" else [start_decap(server, way.vip(lab), tunnel.kind) for server in servers]
    words = (reals(lab, servers, settings=tunnel.settings()) if way.outside == 6 else
             [word for server in servers for word in ("--real", server.address + tunnel.settings())])
    lab.start_director("--vip", way.service(lab, port), "--mode", "tun", "--scheduler", "rr", "--engine", engine,
                       *words, *options)
    yield
    for decap in decaps:
        counted = last_words(decap)
        assert counted.startswith("let in ") and "," not in counted, counted


@pytest.mark.parametrize("tunnel", TUNNELS, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"IPv{way.inside} in IPv{way.outside}")
def test_bulk_arrives_intact_by_every_kind_of_tunnel(tun, engine, way, tunnel):
    size = SIZES[engine] // 16
    with tunnelled(tun, engine, way, tunnel, BULK), no_route_cache(tun.client), path_forgotten(tun.client):
        assert upload(tun.client, way.url(tun), size) == digest_of(size)
        assert download(tun.client, f"{way.url(tun)}{size}") == digest_of(size)
        row = listing(tun)
    assert {server["mode"] for server in row["servers"]} == {"tun"}
    assert {server["family"] for server in row["servers"]} == {"inet6" if way.outside == 6 else "inet"}
    assert [server["stats"]["conns"] for server in row["servers"]] == [1, 1]
    assert row["stats"]["packets_out"] == 0
    assert resets_suffered(tun.client) == 0


@pytest.mark.parametrize("tunnel", TUNNELS, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"IPv{way.inside} in IPv{way.outside}")
def test_a_client_hears_how_much_a_tunnel_takes(tun, engine, way, tunnel):
    """To the byte: one more is too big, with what fits; so much arrives."""
    web01, _ = tun.servers
    fits = way.room(tunnel) - (48 if way.inside == 6 else 28)
    with (tunnelled(tun, engine, way, tunnel, ECHO, "--udp", servers=[web01]), no_route_cache(tun.client),
          path_forgotten(tun.client), udp_socket(tun.client, way.vip(tun), ECHO) as sock):
        sock.setsockopt(*FORBID_FRAGMENTS[family_of(way.vip(tun))], PMTUDISC_DO)
        for size in (0, fits):
            sock.send(bytes(size))
            assert sock.recv(65535) == b"web01 " + bytes(size)

        told = error_about(sock, bytes(fits + 1))

    expected = (TOO_BIG, 0) if way.inside == 6 else (3, 4)
    assert told == (*expected, way.room(tunnel), way.vip(tun))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"IPv{way.inside} in IPv{way.outside}")
def test_long_datagrams_arrive_in_fragments(tun, engine, way):
    """An IPv6 packet that came in fragments goes on in fragments, each in a tunnel's packet of its own."""
    web01, _ = tun.servers
    with (tunnelled(tun, engine, way, TUNNELS[0], ECHO, "--udp", servers=[web01]), no_route_cache(tun.client),
          path_forgotten(tun.client), udp_socket(tun.client, way.vip(tun), ECHO) as sock):
        sock.setsockopt(*FORBID_FRAGMENTS[family_of(way.vip(tun))], 0)
        for size in LONG[engine]:
            datagram = os.urandom(size)
            sock.send(datagram)
            assert sock.recv(65535) == b"web01 " + datagram, size


def test_servers_of_both_families_serve_one_vip(tun, engine):
    """One behind a tunnel of IPv6, one of IPv4; the listing tells them apart, and so do changes."""
    web01, web02 = tun.servers
    tun.start_director("--vip", service(tun), "--mode", "tun", "--scheduler", "rr", "--engine", engine,
                       "--real", f"[{v6(web01.address)}]", "--real", web02.address)

    assert [curl(tun.client, url6(tun)).strip() for _ in range(4)] == ["web02", "web01"] * 2
    assert tun.lbq("list").stdout.splitlines()[2:] == [
        f"TCP  {service(tun)} rr",
        f"  -> {web02.address + ':80':<28} Tunnel  1      0          2",
        f"  -> {f'[{v6(web01.address)}]:80':<28} Tunnel  1      0          2"]
    tun.lbq("set", "server", service(tun), f"{web02.address},weight=0")
    assert [curl(tun.client, url6(tun)).strip() for _ in range(2)] == ["web01"] * 2
    tun.lbq("del", "server", service(tun), web02.address)
    assert [server["address"] for server in listing(tun)["servers"]] == [v6(web01.address)]
