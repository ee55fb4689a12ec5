"""Long packets of which only headers come: the number that the kernel rewrites them by, and what must be seen whole.

What is decided about them is held against the other directors by every other case: ``tests/helpers/steered.py``.
"""
from __future__ import annotations

import pytest

from lbq.model import DR, NAT, OPS, OPS_REPLIES, TUN, Tunnel
from lbq.outcomes import ACCEPT, DROP, QUEUE
from tests.helpers import engines
from tests.helpers.cases import client, local_client, server
from tests.helpers.engines import key
from tests.helpers.packets import address, endpoint

WEB, WEB6, DNS = "tcp:192.168.10.1:80", "tcp:[2001:db8:1::1]:80", "udp:192.168.10.1:53"
HEADERS = 128
DONT_FRAGMENT = 0x40
NUMBER = 7
PAYLOAD = bytes(range(256)) * 4


@pytest.fixture
def director():
    """A director with a steered server of each kind."""
    from lbq._fastpath import FastDirector

    return FastDirector(max_connections=100)


def serve(director, service, real_server, mode=NAT, steer=NUMBER, flags=0):
    director.add_service(key(service), "rr", flags)
    director.add_server(key(service), *endpoint(real_server), 1, mode, 0, 0, Tunnel(), None, steer)


def opened(director, seen, headers=HEADERS):
    """Have a connection opened by a short packet, which is here and so rewritten as ever."""
    assert director.handle(bytearray(seen.packet), seen.hook, out_device=seen.out_device, headers=headers).steer == 0
    assert director.statistics()["conns"] == 1


def handled(director, seen, headers=HEADERS):
    """Return the verdict on a packet that is longer than what is seen of it, and so must not have been touched."""
    assert len(seen.packet) > headers
    packet = bytearray(seen.packet)
    verdict = director.handle(packet, seen.hook, out_device=seen.out_device, headers=headers)
    assert packet == seen.packet
    return verdict


@pytest.mark.parametrize(("service", "real_server", "cip"), [
    (WEB, "192.168.20.1:8080", "192.168.10.9:40000"), (WEB6, "[2001:db8:5::1]:8080", "[2001:db8:c:1::9]:40000")])
def test_request_and_reply_are_answered_with_the_servers_number(director, service, real_server, cip):
    serve(director, service, real_server)
    vip = service.removeprefix("tcp:")

    opened(director, client(cip, vip).syn())
    for seen in (client(cip, vip).ack(PAYLOAD), server(real_server, cip).ack(PAYLOAD)):
        before = director.statistics()
        verdict = handled(director, seen)
        after = director.statistics()
        assert (verdict.action, verdict.changed, verdict.steer) == (ACCEPT, False, NUMBER)
        assert after["bytes"] - before["bytes"] == len(seen.packet)
    counted = engines.servers(director, service)[real_server]["stats"]
    assert counted["bytes_in"] - counted["bytes_out"] == len(client(cip, vip).syn().packet)


def test_what_is_here_whole_is_rewritten_here(director):
    serve(director, WEB, "192.168.20.1:8080")
    syn, synack = client().syn(), server("192.168.20.1:8080").synack()

    for seen in (syn, synack):
        packet = bytearray(seen.packet)
        verdict = director.handle(packet, seen.hook, headers=HEADERS)
        assert (verdict.changed, verdict.steer) == (True, 0)
        assert packet != seen.packet
    assert director.statistics()["passed_whole"] == 0


def test_a_server_without_a_number_is_served_whole_and_counts_once(director):
    serve(director, WEB, "192.168.20.1:8080", steer=0)
    opened(director, client().syn())
    seen = client().ack(PAYLOAD)

    assert handled(director, seen).action == QUEUE
    assert director.handle(bytearray(seen.packet), seen.hook).changed
    assert handled(director, server("192.168.20.1:8080").ack(PAYLOAD)).action == QUEUE
    counted = director.statistics()
    assert (counted["passed_whole"], counted["conns"]) == (2, 1)
    assert engines.servers(director, WEB)["192.168.20.1:8080"]["stats"]["packets_in"] == 2


def test_what_begins_a_connection_is_seen_whole_before_anything_is_decided(director):
    serve(director, WEB, "192.168.20.1:80")
    before = engines.servers(director, WEB)

    assert handled(director, client().tcp("S", PAYLOAD)).action == QUEUE
    assert (engines.servers(director, WEB), director.statistics()["conns"]) == (before, 0)


def test_a_packet_whose_headers_are_too_long_is_asked_for_whole(director):
    serve(director, WEB6, "[2001:db8:5::1]:80")
    options = (60, bytes([6, 15]) + bytes(126))     # destination options of 128 bytes
    long = client("[2001:db8:c:1::9]:40000", "[2001:db8:1::1]:80", extensions=[options]).ack(PAYLOAD)
    opened(director, client("[2001:db8:c:1::9]:40000", "[2001:db8:1::1]:80").syn())

    assert handled(director, long).action == QUEUE
    assert handled(director, long, headers=200).steer == NUMBER


@pytest.mark.parametrize("length", range(20, 40))
def test_no_byte_is_read_that_is_not_there(director, length):
    serve(director, WEB, "192.168.20.1:80")

    assert handled(director, client().syn(), headers=length).action == QUEUE


def test_a_broken_packet_that_is_here_is_dropped(director):
    serve(director, WEB, "192.168.20.1:80")

    short = client().syn().cut(30).with_byte(3, 30)
    assert director.handle(bytearray(short.packet), short.hook, headers=HEADERS).action == DROP
    assert director.statistics()["dropped_malformed"] == 1


def test_icmp_is_seen_whole(director):
    serve(director, WEB, "192.168.20.1:80")
    packet = bytearray(bytes.fromhex("450000c8000000004001") + bytes(190))

    assert director.handle(packet, 0, headers=HEADERS).action == QUEUE


def test_dr_steers_what_the_kernels_copy_leaves_as_it_is(director):
    """That copy has DF set, and of the host's own packets no lower TTL (nf_dup_ipv4.c)."""
    serve(director, WEB, "192.168.20.1:80", DR)
    opened(director, client().syn())
    seen = client().ack(PAYLOAD)

    assert handled(director, seen.with_byte(6, 0)).action == QUEUE
    verdict = handled(director, seen.with_byte(6, DONT_FRAGMENT))
    assert (verdict.action, verdict.steer, verdict.sent) == (ACCEPT, NUMBER, ())
    assert director.statistics()["forwarded"] == 2
    assert handled(director, local_client().ack(PAYLOAD).with_byte(6, DONT_FRAGMENT)).action == QUEUE


def test_a_tunnel_is_seen_whole(director):
    serve(director, WEB, "192.168.20.1:80", TUN)
    opened(director, client().syn())

    assert handled(director, client().ack(PAYLOAD)).action == QUEUE


@pytest.mark.parametrize(("mtu", "ttl"), [(600, 64), (-1, 64), (1500, 1)])
def test_what_is_answered_with_an_error_that_quotes_it_is_seen_whole(director, mtu, ttl):
    serve(director, WEB, "192.168.20.1:80")
    opened(director, client().syn())
    director.set_routes([(address("192.168.20.1"), mtu, address("192.168.20.254"), 2, "")])
    before = engines.servers(director, WEB)["192.168.20.1:80"]["stats"]

    assert handled(director, client(ttl=ttl).ack(PAYLOAD)).action == QUEUE
    assert engines.servers(director, WEB)["192.168.20.1:80"]["stats"] == before


def test_what_no_server_can_take_is_seen_whole_unless_all_of_it_is_here(director):
    director.add_service(key(WEB), "rr")

    assert handled(director, client().tcp("S", PAYLOAD)).action == QUEUE
    assert director.handle(bytearray(client().syn().packet), 0, headers=HEADERS).answer is not None


def test_one_packet_scheduling_sees_every_datagram_whole_and_schedules_it_once(director):
    serve(director, DNS, "192.168.20.1:53", flags=OPS | OPS_REPLIES)
    question = client(vip="192.168.10.1:53").udp(PAYLOAD)

    assert handled(director, question).action == QUEUE
    assert director.handle(bytearray(question.packet), question.hook).changed
    assert handled(director, server("192.168.20.1:53").udp(PAYLOAD)).action == QUEUE
    assert (engines.connections(director), director.statistics()["conns"]) == ([], 1)


def test_a_server_that_comes_back_may_have_another_number(director):
    serve(director, WEB, "192.168.20.1:80")
    opened(director, client().syn())
    director.delete_server(key(WEB), *endpoint("192.168.20.1:80"))
    director.add_server(key(WEB), *endpoint("192.168.20.1:80"), 1, NAT, 0, 0, Tunnel(), None, 9)

    assert handled(director, client().ack(PAYLOAD)).steer == 9
