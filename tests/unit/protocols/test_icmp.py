"""lbq.protocols.icmp: the director's own errors, who still gets one, and the translation of others'."""
from __future__ import annotations

import struct

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq import packet as pkt
from lbq.protocols import icmp
from tests.helpers import packets
from tests.helpers.packets import address

CLIENT = address("192.168.10.9")
MS = 1_000_000
SECOND = 1000 * MS


def refusal_of(packet: bytearray, kind: int = 3, code: int = 3, mtu: int = 0) -> bytes:
    """Return the ICMP error about *packet*."""
    answer = bytearray(b"\xee" * icmp.MAX_BYTES)
    length = icmp.error(kind, code, mtu, packet, len(packet), answer)
    return bytes(answer[:length])


def test_the_vip_tells_the_client_that_the_port_is_unreachable():
    syn = packets.tcp("192.168.10.9:40000", "192.168.10.1:80", "S", ttl=63)

    answer = dpkt.ip.IP(refusal_of(syn))

    assert (answer.src, answer.dst) == (bytes([192, 168, 10, 1]), bytes([192, 168, 10, 9]))
    assert (answer.ttl, answer.df, answer.p) == (64, 0, dpkt.ip.IP_PROTO_ICMP)
    assert (answer.icmp.type, answer.icmp.code) == (3, 3)


@pytest.mark.parametrize(("kind", "code", "mtu"), [(3, 3, 0), (3, 1, 0), (3, 4, 1480), (11, 0, 0)])
def test_every_error_says_what_happened(kind, code, mtu):
    answer = refusal_of(packets.tcp("192.168.10.9:40000", "192.168.10.1:80", "S"), kind, code, mtu)

    assert answer[20:22] == bytes([kind, code])
    assert answer[24:28] == struct.pack("!HH", 0, mtu)      # the MTU's place of RFC 1191
    assert packets.ones_complement_sum(answer[20:]) == 0xFFFF


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
    assert not icmp.is_somebody(address(nobody))


def test_the_memory_for_clients_is_bounded():
    """Far more clients than places: each is answered, and those that share a place start afresh."""
    limit = icmp.RateLimit()

    assert all(limit.allow(CLIENT + i, i * SECOND) for i in range(5000))


# ---- Errors of others ----------------------------------------------------------------------------------


ROUTER, VIP, RIP = "10.0.0.1", "192.168.10.1", "192.168.20.1"
REPLY = packets.tcp(f"{VIP}:80", "192.168.10.9:40000", "A", b"x" * 40)             # as the client's side saw it
REQUEST = packets.tcp("192.168.10.9:40000", f"{RIP}:8080", "A", b"x" * 40)         # as the server saw it


def about(packet: bytes, kind: int = 3, code: int = 4, mtu: int = 1400, *, to: str = VIP,
          ip_options: bytes = b"") -> bytearray:
    """Return a router's error about *packet*."""
    message = bytearray(struct.pack("!BBHHH", kind, code, 0, 0, mtu) + packet)
    struct.pack_into("!H", message, 2, ~packets.ones_complement_sum(message) & 0xFFFF)
    return packets.ipv4(1, address(ROUTER), address(to), message, ip_options=ip_options)


def checksums_are_right(packet: bytes, header: int = 20) -> bool:
    """Return True when both IP headers and the message sum up."""
    quoted = packet[header + 8:]
    return all(packets.ones_complement_sum(part) == 0xFFFF for part in (
        packet[:header], packet[header:], quoted[:(quoted[0] & 15) * 4]))


@pytest.mark.parametrize("options", [0, 4, 40])
def test_the_quoted_packet_is_found_behind_options(options):
    error = about(REPLY, ip_options=b"\x01" * options)

    assert icmp.quoted(error, len(error)) == 28 + options


def test_types_3_4_and_11_are_translated():
    errors = [about(REPLY, kind) for kind in range(256)]

    assert [kind for kind, error in enumerate(errors) if icmp.quoted(error, len(error))] == [3, 4, 11]


@pytest.mark.parametrize("options", [0, 8])
def test_a_quote_holds_a_whole_header(options):
    error = about(packets.tcp(f"{VIP}:80", "192.168.10.9:40000", "A", ip_options=b"\x01" * options))
    least = 28 + 20 + options

    found = [icmp.quoted(error[:length], length) for length in range(len(error) + 1)]

    assert found == [0] * least + [28] * (len(error) + 1 - least)


@pytest.mark.parametrize(("at", "value"), [(0, 0x44), (0, 0x65), (9, 6), (28, 0x44), (28, 0x65), (28, 0x4F)])
def test_what_quotes_no_ipv4_packet(at, value):
    error = about(REPLY[:28])
    error[at] = value

    assert icmp.quoted(error, len(error)) == 0


def test_a_message_is_checked_whole():
    error = about(REPLY, ip_options=b"\x01" * 4)
    assert icmp.checksum_right(error, len(error))

    error[-1] ^= 1

    assert not icmp.checksum_right(error, len(error))
    assert icmp.checksum_right(about(REPLY[:-1]) + b"\xee", len(REPLY) + 27)       # odd, and padding behind it


def test_an_error_about_a_reply_goes_to_the_server_and_speaks_of_it():
    error = about(REPLY)

    icmp.to_real_server(error, len(error), address(RIP), 8080)
    outer, quoted = dpkt.ip.IP(bytes(error)), dpkt.ip.IP(bytes(error[28:]))

    assert (outer.src, outer.dst) == (bytes([10, 0, 0, 1]), bytes([192, 168, 20, 1]))
    assert (quoted.src, quoted.dst) == (bytes([192, 168, 20, 1]), bytes([192, 168, 10, 9]))
    assert (quoted.tcp.sport, quoted.tcp.dport) == (8080, 40000)
    assert checksums_are_right(error)


def test_an_error_about_a_request_comes_from_the_vip_and_speaks_of_it():
    error = about(REQUEST, to="192.168.10.9")

    icmp.to_client(error, len(error), address(VIP), 80)
    outer, quoted = dpkt.ip.IP(bytes(error)), dpkt.ip.IP(bytes(error[28:]))

    assert (outer.src, outer.dst) == (bytes([192, 168, 10, 1]), bytes([192, 168, 10, 9]))
    assert (quoted.src, quoted.dst) == (bytes([192, 168, 10, 9]), bytes([192, 168, 10, 1]))
    assert (quoted.tcp.sport, quoted.tcp.dport) == (40000, 80)
    assert checksums_are_right(error)


@pytest.mark.parametrize(("translate", "packet", "changed"), [
    (icmp.to_real_server, REPLY, {10, 11, *range(16, 20), 22, 23, 38, 39, *range(40, 44), 48, 49}),
    (icmp.to_client, REQUEST, {10, 11, *range(12, 16), 22, 23, 38, 39, *range(44, 48), 50, 51})])
def test_the_quoted_checksum_is_left_stale_and_nothing_else_changes(translate, packet, changed):
    before = about(packet)
    after = bytearray(before)

    translate(after, len(after), 0x01010101, 0x0102)

    assert {at for at in range(len(before)) if before[at] != after[at]} <= changed


def test_a_wrong_quoted_header_checksum_becomes_right():
    """The kernel computes it from nothing: ip_send_check()."""
    reply = bytearray(REPLY)
    reply[10] ^= 0xFF
    error = about(reply)

    icmp.to_real_server(error, len(error), address(RIP), 8080)

    assert checksums_are_right(error)


@pytest.mark.parametrize(("protocol", "port"), [(6, 8080), (17, 8080), (132, 8080), (50, 0x1234)])
def test_only_what_has_ports_gets_another(protocol, port):
    error = about(packets.ipv4(protocol, address(VIP), address("192.168.10.9"), b"\x12\x34" * 6))

    icmp.to_real_server(error, len(error), address(RIP), 8080)

    assert pkt.get16(error, 48) == port
    assert checksums_are_right(error)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10), st.integers(0, 10), st.integers(8, 600), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF),
       st.booleans())
def test_every_translation_sums_up(outer_words, inner_words, quote, ip, port, towards_server):
    packet = packets.udp(f"{VIP}:80", "192.168.10.9:40000", bytes(range(200)) * 3, ip_options=b"\x01" * 4 * inner_words)
    error = about(packet[:20 + 4 * inner_words + quote], ip_options=b"\x01" * 4 * outer_words)

    (icmp.to_real_server if towards_server else icmp.to_client)(error, len(error), ip, port)

    assert checksums_are_right(error, 20 + 4 * outer_words)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=130), st.sampled_from((0x45, 0x46, 0x4F)), st.sampled_from((3, 4, 11)), st.booleans())
def test_no_bytes_make_it_read_or_write_outside(content, first, kind, quotes):
    packet = bytearray(content)
    header = (first & 15) * 4
    for at, value in ((0, first), (9, 1), (header, kind), (header + 8, first if quotes else 0)):
        if at < len(packet):
            packet[at] = value
    found = icmp.quoted(packet, len(packet))

    for beyond in (b"\x45", b"\xff"):
        longer = packet + beyond * 200
        assert icmp.quoted(longer, len(packet)) == found
        if found:
            icmp.to_real_server(longer, len(packet), 0x01020304, 80)
            assert longer[len(packet):] == beyond * 200
    if found:
        icmp.to_client(packet, len(packet), 0x01020304, 80)
