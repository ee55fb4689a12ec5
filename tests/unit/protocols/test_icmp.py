"""lbq.protocols.icmp: the refusal, and who still gets one."""
from __future__ import annotations

import dpkt
import pytest

from lbq.protocols import icmp
from tests.helpers import packets
from tests.helpers.packets import address

CLIENT = address("192.168.10.9")
MS = 1_000_000
SECOND = 1000 * MS


def refusal_of(packet: bytearray) -> bytes:
    """Return the ICMP packet for *packet*."""
    answer = bytearray(icmp.MAX_BYTES)
    length = icmp.port_unreachable(packet, len(packet), answer)
    return bytes(answer[:length])


def test_the_vip_tells_the_client_that_the_port_is_unreachable():
    syn = packets.tcp("192.168.10.9:40000", "192.168.10.1:80", "S", ttl=63)

    answer = dpkt.ip.IP(refusal_of(syn))

    assert (answer.src, answer.dst) == (bytes([192, 168, 10, 1]), bytes([192, 168, 10, 9]))
    assert (answer.ttl, answer.df, answer.p) == (64, 0, dpkt.ip.IP_PROTO_ICMP)
    assert (answer.icmp.type, answer.icmp.code) == (3, 3)


def test_the_packet_is_quoted_as_it_came():
    datagram = packets.udp("192.168.10.9:40000", "192.168.10.1:53", b"x" * 100, ttl=7, ip_options=b"\x01" * 4)

    assert refusal_of(datagram)[28:] == datagram


@pytest.mark.parametrize("payload", [0, 1, 519, 520, 521, 1400])
def test_both_checksums_are_right_and_the_whole_stays_within_576_bytes(payload):
    datagram = packets.udp("192.168.10.9:40000", "192.168.10.1:53", bytes(range(256)) * 6)[:28 + payload]
    answer = refusal_of(datagram)

    assert len(answer) == min(28 + len(datagram), 576)
    assert packets.ones_complement_sum(answer[:20]) == 0xFFFF
    assert packets.ones_complement_sum(answer[20:]) == 0xFFFF


@pytest.mark.parametrize(("theirs", "ours"), [(0x00, 0xC0), (0x10, 0xD0), (0xFF, 0xDE), (0x01, 0xC0)])
def test_the_type_of_service_follows_the_packets(theirs, ours):
    """(theirs & 0x1E) | 0xC0, as icmp_send() does."""
    assert refusal_of(packets.udp("192.168.10.9:1", "192.168.10.1:53", tos=theirs))[1] == ours


def test_a_client_gets_six_at_once_and_then_one_a_second():
    limit = icmp.RateLimit()

    assert [bool(limit.allow(CLIENT, SECOND)) for _ in range(8)] == [True] * 6 + [False] * 2
    assert not limit.allow(CLIENT, 2 * SECOND - 1)
    assert limit.allow(CLIENT, 2 * SECOND)
    assert not limit.allow(CLIENT, 2 * SECOND)
    assert [bool(limit.allow(CLIENT, 3600 * SECOND)) for _ in range(8)] == [True] * 6 + [False] * 2


def test_all_clients_together_get_fifty_at_once_and_then_one_a_millisecond():
    limit = icmp.RateLimit()

    at_once = [bool(limit.allow(CLIENT + i, SECOND)) for i in range(60)]
    later = [bool(limit.allow(CLIENT + 100 + i, SECOND + i * MS)) for i in range(1, 20)]

    assert at_once == [True] * 50 + [False] * 10
    assert all(later)
    assert not limit.allow(CLIENT + 200, SECOND + 19 * MS)


def test_a_refused_answer_costs_neither_bucket():
    """A client over its own limit must not use up what the others may get."""
    limit = icmp.RateLimit()
    for _ in range(1000):
        limit.allow(CLIENT, SECOND)

    assert [bool(limit.allow(CLIENT + 1 + i, SECOND)) for i in range(45)] == [True] * 44 + [False]


@pytest.mark.parametrize("nobody", ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "255.255.255.255"])
def test_an_address_that_no_host_can_have_is_never_answered(nobody):
    assert not icmp.RateLimit().allow(address(nobody), SECOND)


def test_the_memory_for_clients_is_bounded():
    """Far more clients than places: each is answered, and those that share a place start afresh."""
    limit = icmp.RateLimit()

    assert all(limit.allow(CLIENT + i, i * SECOND) for i in range(5000))
