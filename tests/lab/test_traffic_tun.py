"""Tunnelling with real clients and servers: two routed networks, and a tunnel's end on each server.

What ends a tunnel is this kernel where it knows the type (ipip, fou, ip_gre), and ``lbq decap`` where it does not.
"""
from __future__ import annotations

import os
import signal
import socket

import pytest

from lbq.lab.routed import CLIENT_GATEWAY, RoutedLab
from lbq.realserver import tunnel_is_up
from tests.helpers import icmp
from tests.helpers.endpoints import digest_of
from tests.helpers.routed import (
    BULK,
    DISCARD,
    ECHO,
    LONG,
    SIZES,
    start,
    with_servers,
)
from tests.helpers.topology import (
    download,
    features,
    new_lab,
    resets_suffered,
    route,
    udp_server,
    udp_socket,
    upload,
)
from tests.helpers.tunnels import TUNNELS, ending, kinds_for_decap, last_words, send_tunnelled, start_decap


def both_engines(fast, reference):
    """Run a test with some tunnels on the fast engine, and with fewer on the reference."""
    cases = [("fast", tunnel) for tunnel in fast] + [("reference", tunnel) for tunnel in reference]
    return pytest.mark.parametrize(("engine", "tunnel"), cases, ids=str)


@pytest.fixture(scope="module")
def network(record_testsuite_property):
    """Return the network of TUN."""
    with new_lab(RoutedLab, "tun") as lab:
        if lab.servers[0].call(tunnel_is_up) is None:
            record_testsuite_property("sampled", "tunnels ended by lbq decap only: this kernel has no ipip")
        yield with_servers(lab)


@pytest.fixture
def lab(network, lend):
    """Lend the network to one test."""
    return lend(network)


@both_engines(TUNNELS[1:], [TUNNELS[2], TUNNELS[4]])
def test_bulk_arrives_intact_by_every_kind_of_tunnel(lab, engine, tunnel):
    size = SIZES[engine] // 4
    with ending(lab, tunnel, lab.servers):
        start(lab, engine, BULK, settings=tunnel.settings())

        assert download(lab.client, f"http://{lab.vip}:{BULK}/{size}") == digest_of(size)
        assert upload(lab.client, f"http://{lab.vip}:{BULK}/", size) == digest_of(size)
    assert resets_suffered(lab.client) == 0


@both_engines([TUNNELS[0], TUNNELS[1], TUNNELS[4]], [TUNNELS[1]])
def test_clients_send_what_fits_the_path_behind_the_tunnel(lab, engine, tunnel, forgiven):
    """A router on that path takes 1400 bytes and tells the director; the director tells the client."""
    web01, _ = lab.servers
    size, fits = SIZES[engine] // 16, 1400 - tunnel.overhead
    # The router's, for what was too large; and web01's, for what was sent once more after that, and is older by then.
    forgiven |= {"IpFragFails", "TcpPAWSEstab"}
    with (ending(lab, tunnel, [web01]), route(lab.router, web01.address, "dev", "net1", "mtu", "1400"),
          icmp.no_route_cache(lab.client)):
        start(lab, engine, BULK, servers=[web01], settings=tunnel.settings())
        assert upload(lab.client, f"http://{lab.vip}:{BULK}/", size) == digest_of(size)
        lab.client.run(["ip", "route", "flush", "cache"])
        with features(lab.client, "tso off gso off"):
            assert upload(lab.client, f"http://{lab.vip}:{BULK}/", size) == digest_of(size)

        assert f"mtu {fits}" in lab.client.run(["ip", "route", "get", lab.vip]).stdout
    assert resets_suffered(lab.client) == 0


@both_engines(TUNNELS, [TUNNELS[2]])
def test_datagrams_of_every_size_pass(lab, engine, tunnel):
    """What may be cut leaves in fragments of the tunnel's own packet, whatever the tunnel takes."""
    web01, _ = lab.servers
    with (ending(lab, tunnel, [web01]), icmp.no_route_cache(lab.client),
          udp_socket(lab.client, lab.vip, ECHO) as sock):
        start(lab, engine, ECHO, "--udp", servers=[web01], settings=tunnel.settings())
        sock.setsockopt(socket.IPPROTO_IP, icmp.IP_MTU_DISCOVER, icmp.IP_PMTUDISC_DONT)
        whole = 1500 - tunnel.overhead - 28
        for size in (0, whole, whole + 1, 1472, *LONG[engine]):
            datagram = os.urandom(size)
            sock.send(datagram)
            assert sock.recv(65535) == b"web01 " + datagram, size


def test_a_client_hears_what_keeps_its_packets_from_a_server(lab, engine, forgiven):
    """Too many hops, before the tunnel and in it; nobody listens there; and how much fits."""
    web01, _ = lab.servers
    forgiven.add("IpInHdrErrors")       # the router's, for too many hops
    start(lab, engine, ECHO, "--udp", servers=[web01])
    lab.lbq("add", "service", f"udp:{lab.vip}:{DISCARD}", "--mode", "tun")
    lab.lbq("add", "server", f"udp:{lab.vip}:{DISCARD}", web01.address)
    with (udp_socket(lab.client, lab.vip, ECHO) as sock, udp_socket(lab.client, lab.vip, DISCARD) as nobody,
          icmp.no_route_cache(lab.client)):
        # The tunnel's packet inherits the hops that are left: the third ends on the router, within the tunnel.
        assert icmp.trace(sock, 3) == [CLIENT_GATEWAY, lab.vip, lab.vip]
        sock.send(b"how far?")
        assert sock.recv(100) == b"web01 how far?"

        assert icmp.error_about(nobody, b"hello?") == (3, 3, 0, lab.vip)

        sock.setsockopt(socket.IPPROTO_IP, icmp.IP_MTU_DISCOVER, icmp.IP_PMTUDISC_DO)
        assert icmp.error_about(sock, bytes(1472)) == (3, 4, 1480, lab.vip)


def test_the_way_to_a_new_server_is_known_before_its_first_packet(lab):
    """What is too long for its tunnel is answered, not lost, though the front, which reads routes, stands still."""
    web01, web02 = lab.servers
    director, service = start(lab, "fast", ECHO, "--udp", servers=[web01]), f"udp:{lab.vip}:{ECHO}"
    lab.lbq("set", "server", service, f"{web01.address},weight=0")
    lab.lbq("add", "server", service, web02.address)
    director.send_signal(signal.SIGSTOP)
    try:
        with udp_socket(lab.client, lab.vip, ECHO) as sock, icmp.no_route_cache(lab.client):
            sock.setsockopt(socket.IPPROTO_IP, icmp.IP_MTU_DISCOVER, icmp.IP_PMTUDISC_DO)
            assert icmp.error_about(sock, bytes(1472)) == (3, 4, 1480, lab.vip)
    finally:
        director.send_signal(signal.SIGCONT)


def test_decap_lets_in_what_is_for_the_vip_and_nothing_else(lab):
    """Anybody can send tunnel packets: those must not reach what else a server has."""
    web01, _ = lab.servers
    for kind in set(kinds_for_decap(web01)) - {"ipip"}:     # whose end the lab runs
        decap = start_decap(web01, lab.vip, kind)
        with (udp_server(web01, web01.address, DISCARD, timeout=0.3) as other,
              udp_server(web01, lab.vip, DISCARD) as vip):
            for destination in (web01.address, "127.0.0.1", lab.vip):
                send_tunnelled(lab.client, web01.address, kind, f"{destination}:{DISCARD}", destination.encode())

            assert vip.recv(100) == lab.vip.encode()
            with pytest.raises(TimeoutError):
                other.recv(100)
        assert last_words(decap) == "let in 1, not for a VIP 2"
