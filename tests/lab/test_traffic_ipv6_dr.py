"""IPv6 by direct routing: replies that bypass the director."""
from __future__ import annotations

import os
import socket
from contextlib import ExitStack, contextmanager

import pytest

from lbq.lab.routed import DIRECTOR, RoutedLab
from tests.helpers.dual import path_forgotten, reals, service, start, url6, v6, with_ipv6
from tests.helpers.endpoints import digest_of
from tests.helpers.icmp import error_about
from tests.helpers.routed import BULK, DISCARD, ECHO, HOLD, LONG, SIZES, with_servers
from tests.helpers.topology import (
    curl,
    download,
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

UNREACHABLE, TOO_BIG, TIME_EXCEEDED = 1, 2, 3           # ICMPv6 types
PORT_UNREACHABLE = 4
IPV6_UNICAST_HOPS, IPV6_MTU_DISCOVER = 16, 23           # <linux/in6.h>
PMTUDISC_DO = 2


@pytest.fixture(scope="module")
def network():
    """Return the network of DR, dual-stack, with servers of every kind on IPv6."""
    with new_lab(RoutedLab, "dr") as lab:
        yield with_servers(with_ipv6(lab), ipv6=True)


@pytest.fixture
def lab(network, lend):
    """Lend the network to one test."""
    return lend(network)


@pytest.fixture(params=["vip-local", "vip-routed"])
def either_lab(lab, request):
    """Return the network of DR with the VIP on the director, and with the VIP only routed there."""
    with vip_routed(lab) if request.param == "vip-routed" else ExitStack():
        yield lab


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


def test_servers_answer_past_the_director(either_lab, engine):
    start(either_lab, engine)

    assert [curl(either_lab.client, url6(either_lab)).strip() for _ in range(6)] == ["web02", "web01"] * 3
    row = listing(either_lab)
    assert {server["mode"] for server in row["servers"]} == {"dr"}
    assert row["stats"]["packets_in"] > 6 * 4 and row["stats"]["packets_out"] == 0


def test_bulk_arrives_intact(lab, engine):
    size = SIZES[engine] // 4
    start(lab, engine, BULK)

    assert upload(lab.client, url6(lab, BULK), size) == digest_of(size)
    assert download(lab.client, f"{url6(lab, BULK)}{size}") == digest_of(size)
    with features(lab.client, "tso off gso off"):
        assert upload(lab.client, url6(lab, BULK), size // 4) == digest_of(size // 4)
    assert resets_suffered(lab.client) == 0


def test_datagrams_of_every_size_pass(lab, engine):
    """What is longer than a packet comes in fragments, and leaves in fragments."""
    start(lab, engine, ECHO, "--udp")

    with ExitStack() as stack:      # closed at the end, so that no port comes twice
        for size in (0, 1452, 1453, *LONG[engine]):
            datagram, answers = os.urandom(size), []
            for _ in lab.servers:
                sock = stack.enter_context(udp_socket(lab.client, v6(lab.vip), ECHO))
                sock.send(datagram)
                answers.append(sock.recv(65535))
            assert sorted(answers) == [b"web01 " + datagram, b"web02 " + datagram], size


def test_a_server_hears_which_packets_the_way_to_its_client_takes(lab, engine, forgiven):
    """The router there writes to the VIP, so to the director, which knows whom it means."""
    web02, size = lab.servers[1], SIZES[engine] // 16
    forgiven.add("Ip6FragFails")        # the router's, for what was too large
    client = v6(lab.client.address)
    with route(lab.router, f"{client}/128", "dev", "clients", "mtu", "lock", "1300"), path_forgotten(web02):
        start(lab, engine, BULK)
        assert download(lab.client, f"{url6(lab, BULK)}{size}") == digest_of(size)
        assert "mtu 1300" in web02.run(["ip", "-6", "route", "get", client]).stdout


def test_flows_go_on_when_a_neighbour_is_forgotten(lab, engine):
    start(lab, engine, HOLD)
    held = dict(hold(lab.client, v6(lab.vip), HOLD) for _ in range(2))

    for _ in range(3):
        lab.director.run(["ip", "-6", "neighbour", "flush", "dev", "eth0"])
        assert still_answers(held["web01"])
        assert still_answers(held["web02"])


def test_a_client_hears_what_keeps_its_packets_from_a_server(lab, engine, forgiven):
    """Too many hops, nobody listens there, and how much fits."""
    web01, _ = lab.servers
    forgiven.add("Ip6InHdrErrors")      # the router's, for too many hops
    with route(lab.director, f"{v6(web01.address)}/128", "dev", "eth0", "mtu", "1300"), path_forgotten(lab.client):
        lab.start_director("--vip", service(lab, ECHO), "--udp", "--mode", "dr", "--engine", engine,
                           *reals(lab, [web01]))
        for name in (f"udp:{service(lab, DISCARD)}", service(lab, BULK)):
            lab.lbq("add", "service", name, "--mode", "dr")
            lab.lbq("add", "server", name, f"[{v6(web01.address)}]")
        with (udp_socket(lab.client, v6(lab.vip), ECHO) as sock,
              udp_socket(lab.client, v6(lab.vip), DISCARD) as nobody):
            for hops, sender in ((1, "2001:db8:c0a8:a00::fe"), (2, v6(lab.vip))):
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops)
                assert error_about(sock, b"how far?") == (TIME_EXCEEDED, 0, 0, sender)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, 3)
            sock.send(b"how far?")
            assert sock.recv(100) == b"web01 how far?"
            assert error_about(nobody, b"hello?") == (UNREACHABLE, PORT_UNREACHABLE, 0, v6(lab.vip))

            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
            assert error_about(sock, bytes(1400)) == (TOO_BIG, 0, 1300, v6(lab.vip))
        with features(lab.client, "tso off gso off"):
            size = SIZES[engine] // 16
            assert upload(lab.client, url6(lab, BULK), size) == digest_of(size)
