"""lbq.protocols.icmpv6: the director's own errors, who still gets one, and the translation of others'."""
from __future__ import annotations

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq.protocols import icmpv6
from tests.helpers import packets
from tests.helpers.packets import address

CLIENT, VIP, RIP, ROUTER = "2001:db8:a::9", "2001:db8:a::1", "2001:db8:b::1", "2001:db8:c::1"
REPLY = packets.tcp(f"[{VIP}]:80", f"[{CLIENT}]:40000", "A", b"x" * 40)             # as the client's side saw it
REQUEST = packets.tcp(f"[{CLIENT}]:40000", f"[{RIP}]:8080", "A", b"x" * 40)         # as the server saw it
HOP_BY_HOP, DESTINATION, FRAGMENT = 0, 60, 44
OPTIONS = b"\x3b\x00\x01\x04" + bytes(4)        # padding
FIRST, LATER = b"\x00\x00\x00\x01\x00\x00\x00\x07", b"\x00\x00\x05\x00\x00\x00\x00\x07"


def number(text: str) -> bytes:
    """Return an address as it stands in a packet."""
    return address(text).to_bytes(16, "big")


def refusal_of(packet: bytearray, kind: int = 1, code: int = 4, mtu: int = 0, source: str = VIP) -> bytes:
    """Return the ICMPv6 error about *packet*."""
    answer = bytearray(b"\xee" * icmpv6.MAX_BYTES)
    length = icmpv6.error(kind, code, mtu, packet, len(packet), number(source), answer)
    return bytes(answer[:length])


def about(packet: bytes, kind: int = 2, code: int = 0, mtu: int = 1400, *, to: str = VIP, extensions=()) -> bytearray:
    """Return a router's error about *packet*."""
    message = bytes([kind, code, 0, 0]) + mtu.to_bytes(4, "big") + packet
    return packets.ipv6(packets.ICMPV6, address(ROUTER), address(to), message, "right", extensions=extensions)


# ---- The director's own --------------------------------------------------------------------------------


def test_the_vip_tells_the_client_that_the_port_is_unreachable():
    answer = dpkt.ip6.IP6(refusal_of(packets.tcp(f"[{CLIENT}]:40000", f"[{VIP}]:80", "S", ttl=63, tos=0xFF)))

    assert (answer.src, answer.dst) == (number(VIP), number(CLIENT))
    assert (answer.hlim, answer.fc, answer.flow, answer.nxt) == (64, 0, 0, 58)
    assert (answer.data.type, answer.data.code) == (1, 4)


def test_an_answer_may_come_from_another_address_of_this_host():
    answer = dpkt.ip6.IP6(refusal_of(packets.tcp(f"[{CLIENT}]:40000", f"[{VIP}]:80", "S"), source=ROUTER))

    assert (answer.src, answer.dst) == (number(ROUTER), number(CLIENT))


@pytest.mark.parametrize(("kind", "code", "mtu"), [(1, 4, 0), (1, 3, 0), (2, 0, 0x12345), (3, 0, 0)])
def test_every_error_says_what_happened(kind, code, mtu):
    answer = refusal_of(packets.tcp(f"[{CLIENT}]:40000", f"[{VIP}]:80", "S"), kind, code, mtu)

    assert answer[40:42] == bytes([kind, code])
    assert answer[44:48] == mtu.to_bytes(4, "big")
    assert packets.sum6(answer) == 0xFFFF


@pytest.mark.parametrize("payload", [0, 1, 1183, 1184, 1185, 1400])
def test_the_packet_is_quoted_as_it_came_within_1280_bytes(payload):
    datagram = packets.udp(f"[{CLIENT}]:40000", f"[{VIP}]:53", bytes(payload), ttl=7)
    answer = refusal_of(datagram)

    assert answer[48:] == datagram[:1232]
    assert len(answer) == min(48 + len(datagram), 1280)
    assert packets.sum6(answer) == 0xFFFF


@pytest.mark.parametrize(("client", "can_be_one"), [
    ("::", False), ("ff02::1", False), ("ff0e::1", False), ("::1", True), ("fe80::1", True), ("2001:db8::1", True)])
def test_an_address_that_no_host_can_have_is_never_answered(client, can_be_one):
    assert icmpv6.is_somebody(number(client)) == can_be_one


# ---- Errors of others ----------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [
    [], [(DESTINATION, OPTIONS)], [(HOP_BY_HOP, OPTIONS), (DESTINATION, OPTIONS), (DESTINATION, OPTIONS)]])
def test_the_quoted_packet_is_found_behind_extension_headers(extensions):
    error = about(REPLY, extensions=extensions)

    assert icmpv6.quoted(error, len(error)) == 48 + 8 * len(extensions)


def test_all_errors_are_translated_and_nothing_else():
    errors = [about(REPLY, kind) for kind in range(256)]

    assert [kind for kind, error in enumerate(errors) if icmpv6.quoted(error, len(error))] == list(range(128))


@pytest.mark.parametrize(("extensions", "least"), [([], 40), ([(DESTINATION, OPTIONS)], 42), ([(FRAGMENT, FIRST)], 44)])
def test_a_quote_holds_as_much_as_says_where_the_transport_begins(extensions, least):
    error = about(packets.tcp(f"[{VIP}]:80", f"[{CLIENT}]:40000", "A", extensions=extensions))

    found = [icmpv6.quoted(error[:length], length) for length in range(len(error) + 1)]

    assert found == [0] * (48 + least) + [48] * (len(error) + 1 - 48 - least)


@pytest.mark.parametrize(("at", "value"), [(0, 0x45), (6, 6), (6, 1), (48, 0x45)])
def test_what_quotes_no_ipv6_packet(at, value):
    error = about(REPLY)
    error[at] = value

    assert icmpv6.quoted(error, len(error)) == 0


@pytest.mark.parametrize("fragment", [FIRST, LATER])
def test_a_fragment_is_no_error(fragment):
    error = about(REPLY, extensions=[(FRAGMENT, fragment)])

    assert icmpv6.quoted(error, len(error)) == 0


def test_a_message_is_checked_whole():
    error = about(REPLY, extensions=[(DESTINATION, OPTIONS)])
    assert icmpv6.checksum_right(error, len(error))

    error[-1] ^= 1

    assert not icmpv6.checksum_right(error, len(error))
    assert icmpv6.checksum_right(about(REPLY[:-1]) + b"\xee", len(REPLY) + 47)      # odd, and padding behind it


def test_the_checksum_covers_the_addresses():
    error = about(REPLY)
    error[8:24] = number(CLIENT)

    assert not icmpv6.checksum_right(error, len(error))


def test_an_error_about_a_reply_goes_to_the_server_and_speaks_of_it():
    error = about(REPLY)

    icmpv6.to_real_server(error, len(error), number(RIP), 8080)

    assert packets.read(error[48:]).source == f"[{RIP}]:8080"
    assert packets.read(error[48:]).destination == f"[{CLIENT}]:40000"
    assert (error[8:24], error[24:40]) == (number(ROUTER), number(RIP))
    assert packets.sum6(error) == 0xFFFF


def test_an_error_about_a_request_comes_from_the_vip_and_speaks_of_it():
    error = about(REQUEST, to=CLIENT)

    icmpv6.to_client(error, len(error), number(VIP), 80)

    assert packets.read(error[48:]).source == f"[{CLIENT}]:40000"
    assert packets.read(error[48:]).destination == f"[{VIP}]:80"
    assert (error[8:24], error[24:40]) == (number(VIP), number(CLIENT))
    assert packets.sum6(error) == 0xFFFF


@pytest.mark.parametrize(("translate", "packet", "changed"), [
    (icmpv6.to_real_server, REPLY, {*range(24, 40), 42, 43, *range(56, 72), 88, 89}),
    (icmpv6.to_client, REQUEST, {*range(8, 24), 42, 43, *range(72, 88), 90, 91})])
def test_the_quoted_checksum_is_left_stale_and_nothing_else_changes(translate, packet, changed):
    before = about(packet)
    after = bytearray(before)

    translate(after, len(after), bytes(range(16)), 0x0102)

    assert {at for at in range(len(before)) if before[at] != after[at]} <= changed


def test_a_later_fragment_has_no_port_to_change():
    quote = packets.ipv6(6, address(VIP), address(CLIENT), b"\x12\x34" * 6, extensions=[(FRAGMENT, LATER)])
    error = about(quote)

    icmpv6.to_real_server(error, len(error), number(RIP), 8080)

    assert error[56:72] == number(RIP)
    assert error[96:] == quote[48:]
    assert packets.sum6(error) == 0xFFFF


EXTENSION_LISTS = st.lists(st.sampled_from([(DESTINATION, OPTIONS), (HOP_BY_HOP, OPTIONS)]), max_size=4)


@settings(deadline=None, max_examples=300)
@given(EXTENSION_LISTS, EXTENSION_LISTS, st.integers(8, 600), st.binary(min_size=16, max_size=16),
       st.integers(0, 0xFFFF), st.booleans())
def test_every_translation_sums_up(outer, inner, quote, ip, port, towards_server):
    packet = packets.udp(f"[{VIP}]:80", f"[{CLIENT}]:40000", bytes(range(200)) * 3, extensions=inner)
    error = about(packet[:40 + 8 * len(inner) + quote], extensions=outer)

    (icmpv6.to_real_server if towards_server else icmpv6.to_client)(error, len(error), ip, port)

    assert packets.sum6(error) == 0xFFFF


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=180), st.sampled_from([58, HOP_BY_HOP, FRAGMENT]),
       st.sampled_from([6, DESTINATION, FRAGMENT]), st.booleans())
def test_no_bytes_make_it_read_or_write_outside(content, protocol, inner, quotes):
    packet = bytearray(content)
    for at, value in ((0, 0x60), (6, protocol), (40, 58 if protocol != 58 else 1), (48, 0x60), (54, inner)):
        if at < len(packet) and (quotes or at < 48):
            packet[at] = value
    found = icmpv6.quoted(packet, len(packet))

    for beyond in (b"\x3c\x00", b"\xff\xff"):
        longer = packet + beyond * 200
        assert icmpv6.quoted(longer, len(packet)) == found
        if found:
            icmpv6.to_real_server(longer, len(packet), bytes(range(16)), 80)
            assert longer[len(packet):] == beyond * 200
    if found:
        icmpv6.to_client(packet, len(packet), bytes(range(16)), 80)
