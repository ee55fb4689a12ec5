"""IPv6 by tunnels, of one family in the other or in itself: IPv6 in IPv6, IPv6 in IPv4, IPv4 in IPv6."""
from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from lbq.lab.routed import RoutedLab
from lbq.realserver import tunnel_is_up
from tests.helpers.dual import path_forgotten, reals, service, url6, v6, with_ipv6
from tests.helpers.endpoints import digest_of
from tests.helpers.icmp import error_about, no_route_cache
from tests.helpers.routed import BULK, ECHO, LONG, SIZES, with_servers
from tests.helpers.topology import (
    curl,
    download,
    family_of,
    listing,
    new_lab,
    resets_suffered,
    tell,
    udp_socket,
    upload,
)
from tests.helpers.tunnels import TUNNELS, last_words, start_decap

TOO_BIG = 2                     # ICMPv6 type
FORBID_FRAGMENTS = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
PMTUDISC_DO = 2


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


    def __str__(self) -> str:
        return f"IPv{self.inside} in IPv{self.outside}"


WAYS = [Way(6, 6), Way(6, 4), Way(4, 6)]
# Every tunnel in every way on the fast engine; each at least once on the reference.
CASES = [("fast", way, tunnel) for way in WAYS for tunnel in TUNNELS] + [
    ("reference", way, tunnel) for way, tunnel in zip([*WAYS, WAYS[0], WAYS[1]], TUNNELS, strict=True)]
every_tunnel = pytest.mark.parametrize(("engine", "way", "tunnel"), CASES, ids=str)


@pytest.fixture(scope="module")
def network():
    """Return the network of TUN, dual-stack, with servers of every kind on both and IPIP ended by ``lbq decap``."""
    with new_lab(RoutedLab, "tun") as lab:
        for server in lab.servers:
            if server.call(tunnel_is_up) is not None:       # it ends IPIP over IPv4 alone
                start_decap(server, lab.vip, "ipip", over="ipv6")
        with_ipv6(lab)
        yield with_servers(with_servers(lab), ipv6=True)


@pytest.fixture
def lab(network, lend):
    """Lend the network to one test."""
    return lend(network)


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


@every_tunnel
def test_bulk_arrives_intact_by_every_kind_of_tunnel(lab, engine, way, tunnel):
    size = SIZES[engine] // 16
    with tunnelled(lab, engine, way, tunnel, BULK), no_route_cache(lab.client), path_forgotten(lab.client):
        assert upload(lab.client, way.url(lab), size) == digest_of(size)
        assert download(lab.client, f"{way.url(lab)}{size}") == digest_of(size)
        row, counters = listing(lab), tell(lab, "stats")["counters"]
    assert {server["mode"] for server in row["servers"]} == {"tun"}
    assert {server["family"] for server in row["servers"]} == {"inet6" if way.outside == 6 else "inet"}
    assert [server["stats"]["conns"] for server in row["servers"]] == [1, 1]
    assert row["stats"]["packets_out"] == counters["icmp_sent"]     # "too big", which the kernel counts, too
    assert resets_suffered(lab.client) == 0


@every_tunnel
def test_a_client_hears_how_much_a_tunnel_takes(lab, engine, way, tunnel):
    """To the byte: one more is too big, with what fits; so much arrives."""
    web01, _ = lab.servers
    fits = way.room(tunnel) - (48 if way.inside == 6 else 28)
    with (tunnelled(lab, engine, way, tunnel, ECHO, "--udp", servers=[web01]), no_route_cache(lab.client),
          path_forgotten(lab.client), udp_socket(lab.client, way.vip(lab), ECHO) as sock):
        sock.setsockopt(*FORBID_FRAGMENTS[family_of(way.vip(lab))], PMTUDISC_DO)
        for size in (0, fits):
            sock.send(bytes(size))
            assert sock.recv(65535) == b"web01 " + bytes(size)

        told = error_about(sock, bytes(fits + 1))

    expected = (TOO_BIG, 0) if way.inside == 6 else (3, 4)
    assert told == (*expected, way.room(tunnel), way.vip(lab))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_long_datagrams_arrive_in_fragments(lab, engine, way):
    """An IPv6 packet that came in fragments goes on in fragments, each in a tunnel's packet of its own."""
    web01, _ = lab.servers
    with (tunnelled(lab, engine, way, TUNNELS[0], ECHO, "--udp", servers=[web01]), no_route_cache(lab.client),
          path_forgotten(lab.client), udp_socket(lab.client, way.vip(lab), ECHO) as sock):
        sock.setsockopt(*FORBID_FRAGMENTS[family_of(way.vip(lab))], 0)
        for size in LONG[engine]:
            datagram = os.urandom(size)
            sock.send(datagram)
            assert sock.recv(65535) == b"web01 " + datagram, size


def test_servers_of_both_families_serve_one_vip(lab, engine):
    """One behind a tunnel of IPv6, one of IPv4; the listing tells them apart, and so do changes."""
    web01, web02 = lab.servers
    lab.start_director("--vip", service(lab), "--mode", "tun", "--scheduler", "rr", "--engine", engine,
                       "--real", f"[{v6(web01.address)}]", "--real", web02.address)

    assert [curl(lab.client, url6(lab)).strip() for _ in range(4)] == ["web02", "web01"] * 2
    assert lab.lbq("list").stdout.splitlines()[2:] == [
        f"TCP  {service(lab)} rr",
        f"  -> {web02.address + ':80':<28} Tunnel  1      0          2",
        f"  -> {f'[{v6(web01.address)}]:80':<28} Tunnel  1      0          2"]
    lab.lbq("set", "server", service(lab), f"{web02.address},weight=0")
    assert [curl(lab.client, url6(lab)).strip() for _ in range(2)] == ["web01"] * 2
    lab.lbq("del", "server", service(lab), web02.address)
    assert [server["address"] for server in listing(lab)["servers"]] == [v6(web01.address)]
