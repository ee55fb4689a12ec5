"""lbq.modes.tun: what goes in front of a packet, and finding the packet behind it again."""
from __future__ import annotations

import struct

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq.modes import tun
from tests.helpers import packets
from tests.helpers.packets import address

DIRECTOR, SERVER = address("192.168.20.10"), address("172.31.0.5")
NOCSUM, CSUM, REMCSUM = 0, 1, 2
KINDS = [(tun.IPIP, NOCSUM), (tun.GUE, NOCSUM), (tun.GUE, CSUM), (tun.GUE, REMCSUM), (tun.GRE, NOCSUM), (tun.GRE, CSUM)]


def request(payload: bytes = b"GET /", **ip_fields) -> bytearray:
    """Return a client's segment to the VIP, one hop behind it already."""
    return packets.tcp("192.168.10.9:40000", "192.168.10.1:80", "PA", payload, **{"ttl": 63, **ip_fields})


def wrapped(packet: bytearray, kind: int = tun.IPIP, flags: int = NOCSUM, *, port: int = 6080, pmtu_disc: bool = True,
            identification: int = 0xABCD, flow_hash: int = 0x12345678) -> bytes:
    """Return the tunnel packet; the room for the outer headers is not a byte too large."""
    out = bytearray(tun.overhead(kind, flags, False))
    size = tun.wrap(packet, len(packet), out, DIRECTOR, SERVER, kind, port, flags, pmtu_disc, identification, flow_hash)
    assert size == len(out)
    return bytes(out + packet)


# 1500 bytes hold packets of 1480, 1468, 1476 and 1472 bytes, in this order, on running kernels.
@pytest.mark.parametrize(("kind", "flags", "size"), [
    (tun.IPIP, NOCSUM, 20), (tun.IPIP, CSUM, 20), (tun.GUE, NOCSUM, 32), (tun.GUE, CSUM, 32), (tun.GUE, REMCSUM, 32),
    (tun.GRE, NOCSUM, 24), (tun.GRE, CSUM, 28)])
def test_overhead(kind, flags, size):
    assert tun.overhead(kind, flags, False) == size


@pytest.mark.parametrize(("kind", "flags"), KINDS)
def test_the_outer_header_goes_from_the_director_to_the_server(kind, flags):
    outer = dpkt.ip.IP(wrapped(request(), kind, flags))

    assert (outer.src, outer.dst) == (DIRECTOR.to_bytes(4, "big"), SERVER.to_bytes(4, "big"))
    assert (outer.v, outer.hl, outer.ttl) == (4, 5, 63)
    assert outer.p == {tun.IPIP: 4, tun.GUE: 17, tun.GRE: 47}[kind] == tun.protocol_of(kind, False)
    assert outer.len == len(request()) + tun.overhead(kind, flags, False)
    assert packets.ones_complement_sum(bytes(outer)[:20]) == 0xFFFF


@pytest.mark.parametrize(("inner", "outer"), [(0x00, 0x00), (0xB8, 0xB8), (0xB9, 0xB9), (0xBA, 0xBA), (0xBB, 0xBA)])
def test_the_type_of_service_is_copied_but_congestion_experienced_is_not(inner, outer):
    """CE becomes ECT(0): RFC 6040, and the inner header still has the mark."""
    assert wrapped(request(tos=inner))[1] == outer


@pytest.mark.parametrize(("fragment", "pmtu_disc", "expected"), [
    (0x4000, True, (0, 0x4000)), (0x4000, False, (0xABCD, 0)), (0, True, (0xABCD, 0)), (0, False, (0xABCD, 0))])
def test_fragments_are_forbidden_when_the_inner_header_does_and_pmtu_disc_is_on(fragment, pmtu_disc, expected):
    outer = wrapped(request(fragment=fragment), pmtu_disc=pmtu_disc)

    assert (int.from_bytes(outer[4:6], "big"), int.from_bytes(outer[6:8], "big")) == expected


def test_gue_is_udp_to_the_tunnels_port_and_four_bytes():
    outer = dpkt.ip.IP(wrapped(request(), tun.GUE))

    assert (outer.udp.dport, outer.udp.sum, outer.udp.ulen) == (6080, 0, 12 + len(request()))
    assert outer.udp.data == bytes([0, 4, 0, 0]) + request()


@pytest.mark.parametrize("flags", [CSUM, REMCSUM])
@pytest.mark.parametrize("payload", [b"", b"x", b"odd", b"\xff" * 1400])
def test_gues_udp_checksum_covers_the_inner_packet(flags, payload):
    whole = wrapped(request(payload), tun.GUE, flags)

    assert packets.with_right_checksums(whole) == whole
    assert whole[26:28] != bytes(2)


def test_a_gue_checksum_of_zero_is_written_as_ffff():
    packet = request(b"\x00\x00")
    packet[-2:] = wrapped(packet, tun.GUE, CSUM)[26:28]       # the word that completes the sum

    assert wrapped(packet, tun.GUE, CSUM)[26:28] == b"\xff\xff"


def test_gre_without_a_checksum_has_four_bytes():
    whole = wrapped(request(), tun.GRE)

    assert whole[20:24] == bytes.fromhex("00000800")
    assert whole[24:] == request()


@pytest.mark.parametrize("payload", [b"", b"x", b"odd", b"\xff" * 1400])
def test_gres_checksum_covers_its_header_and_the_inner_packet(payload):
    whole = wrapped(request(payload), tun.GRE, CSUM)

    assert (whole[20:24], whole[26:28]) == (bytes.fromhex("80000800"), bytes(2))
    assert packets.ones_complement_sum(whole[20:]) == 0xFFFF


# By hand: ((h ^ h << 16) mod 2^32) * (60999 - 32768) >> 32, from 32768 on.
@pytest.mark.parametrize(("flow_hash", "port"), [(0, 32768), (0x00000001, 32768), (0x0000FFFF, 60998),
                                                 (0x80000000, 46883), (0xFFFFFFFF, 32768), (0x12345678, 40299)])
def test_a_flows_source_port_comes_out_of_its_hash(flow_hash, port):
    assert tun.gue_port(flow_hash) == port
    assert wrapped(request(), tun.GUE, flow_hash=flow_hash)[20:22] == port.to_bytes(2, "big")


@settings(deadline=None)
@given(st.integers(0, 0xFFFFFFFF))
def test_source_ports_stay_in_the_local_range(flow_hash):
    assert 32768 <= tun.gue_port(flow_hash) < 60999


# ---- And back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "flags"), KINDS)
@pytest.mark.parametrize("options", [0, 40])
def test_the_inner_packet_is_found_again(kind, flags, options):
    packet = request(ip_options=b"\x01" * options)
    whole = wrapped(packet, kind, flags)

    assert whole[tun.inner_of(bytearray(whole), len(whole)):] == packet


@pytest.mark.parametrize(("kind", "flags"), KINDS)
def test_a_quote_is_enough_once_it_holds_the_inner_header(kind, flags):
    whole = bytearray(wrapped(request(ip_options=b"\x01" * 8), kind, flags))
    least = tun.overhead(kind, flags, False) + 28

    found = [tun.inner_of(whole[:length], length) for length in range(len(whole) + 1)]

    known = {tun.IPIP: 20, tun.GUE: 32, tun.GRE: 24}[kind]         # bytes that tell a tunnel's packet from others
    assert found == [-1] * known + [0] * (least - known) + [least - 28] * (len(whole) + 1 - least)


@pytest.mark.parametrize(("at", "value", "kind"), [
    (0, 0x65, tun.IPIP), (0, 0x44, tun.IPIP), (7, 0x01, tun.IPIP), (9, 6, tun.IPIP), (9, 41, tun.IPIP),
    (20, 0x60, tun.IPIP), (20, 0x44, tun.IPIP), (28, 0x20, tun.GUE), (28, 0x40, tun.GUE), (29, 41, tun.GUE),
    (29, 6, tun.GUE), (32, 0x60, tun.GUE), (20, 0x40, tun.GRE), (21, 0x01, tun.GRE), (22, 0x86, tun.GRE),
    (24, 0x60, tun.GRE)])
def test_what_is_no_tunnel_packet_of_ours(at, value, kind):
    """Other versions, short headers, later fragments, other protocols, GUE control, GRE routing, another promise."""
    whole = bytearray(wrapped(request(), kind))
    assert tun.inner_of(whole, len(whole)) > 0

    whole[at] = value

    within = (kind == tun.IPIP and at >= 20) or at in (24, 32) or value == 41
    assert tun.inner_of(whole, len(whole)) == (0 if within else -1)


def test_optional_words_of_gue_and_gre_are_stepped_over():
    gue, gre, packet = wrapped(request(), tun.GUE), wrapped(request(), tun.GRE), request()
    gue_with_words = bytearray(gue[:28] + b"\x02" + gue[29:32] + b"\xee" * 8 + packet)
    gre_with_key_and_sequence = bytearray(gre[:20] + b"\x30" + gre[21:24] + b"\xee" * 8 + packet)

    assert tun.inner_of(gue_with_words, len(gue_with_words)) == 40
    assert tun.inner_of(gre_with_key_and_sequence, len(gre_with_key_and_sequence)) == 32


@settings(deadline=None, max_examples=400)
@given(st.sampled_from((4, 17, 47)), st.binary(max_size=80), st.data())
def test_no_bytes_make_it_read_outside(protocol, content, data):
    """What lies behind the packet must not matter, and in interpreted form there is nothing to read."""
    packet = bytearray(content)
    for at, value in ((0, data.draw(st.sampled_from((0x45, 0x46, 0x4F)))), (9, protocol), (6, 0), (7, 0)):
        if at < len(packet):
            packet[at] = value
    inner = tun.inner_of(packet, len(packet))

    assert inner in (-1, 0) or 20 <= inner <= len(packet) - 20
    for beyond in (b"\x00", b"\x45", b"\xff"):
        assert tun.inner_of(packet + beyond * 128, len(packet)) == inner


# ---- IPv6 ----------------------------------------------------------------------------------------------

DIRECTOR6, SERVER6 = (packets.address(text).to_bytes(16, "big") for text in ("2001:db8:5::fe", "2001:db8:5::1"))


def request6(payload: bytes = b"GET /", **ip_fields) -> bytearray:
    """Return a client's IPv6 packet, one hop on its way."""
    return packets.tcp("[2001:db8::9]:40000", "[2001:db8::1]:80", "PA", payload, **{"ttl": 63, **ip_fields})


def wrapped6(packet: bytearray, kind: int = tun.IPIP, flags: int = NOCSUM) -> bytes:
    """Return the tunnel packet over IPv6; the room for the outer headers is not a byte too large."""
    out = bytearray(tun.overhead(kind, flags, True))
    size = tun.wrap6(packet, len(packet), out, DIRECTOR6, SERVER6, kind, 6080, flags, 0x12345678)
    assert size == len(out)
    return bytes(out + packet)


# 1500 bytes hold packets of 1460, 1448, 1456 and 1452 bytes, in this order, on running kernels.
@pytest.mark.parametrize(("kind", "flags", "size"), [
    (tun.IPIP, NOCSUM, 40), (tun.IPIP, CSUM, 40), (tun.GUE, NOCSUM, 52), (tun.GUE, REMCSUM, 52), (tun.GRE, NOCSUM, 44),
    (tun.GRE, CSUM, 48)])
def test_overhead_over_ipv6(kind, flags, size):
    assert tun.overhead(kind, flags, True) == size


@pytest.mark.parametrize(("kind", "flags"), KINDS)
@pytest.mark.parametrize("inner", [request(), request6()], ids=["4 in 6", "6 in 6"])
def test_the_outer_ipv6_header_goes_from_the_director_to_the_server(kind, flags, inner):
    six = inner[0] >> 4 == 6
    outer = wrapped6(inner, kind, flags)

    assert outer[:4] == b"\x60\x00\x00\x00"
    assert int.from_bytes(outer[4:6], "big") == len(outer) - 40
    assert outer[6] == {tun.IPIP: 41 if six else 4, tun.GUE: 17, tun.GRE: 47}[kind] == tun.protocol_of(kind, six)
    assert (outer[7], outer[8:24], outer[24:40]) == (63, DIRECTOR6, SERVER6)
    assert outer[-len(inner):] == inner


@pytest.mark.parametrize(("inner", "outer"), [(0x00, 0x00), (0xB8, 0xB8), (0xB9, 0xB9), (0xBA, 0xBA), (0xBB, 0xBA)])
def test_the_traffic_class_is_copied_but_congestion_experienced_is_not(inner, outer):
    for packet in (request(tos=inner), request6(tos=inner, flow_label=0xFFFFF)):
        assert int.from_bytes(wrapped6(packet)[:4], "big") == 6 << 28 | outer << 20
    assert wrapped(request6(tos=inner))[1] == outer


def test_an_ipv4_packet_around_ipv6_may_always_be_cut():
    outer = wrapped(request6())

    assert (outer[4:6], outer[6:8], outer[8], outer[9]) == (b"\xab\xcd", bytes(2), 63, 41)
    assert packets.ones_complement_sum(outer[:20]) == 0xFFFF


@pytest.mark.parametrize("flags", [NOCSUM, CSUM, REMCSUM])
@pytest.mark.parametrize("inner", [request(b"odd"), request6(b"odd")], ids=["4 in 6", "6 in 6"])
def test_gue_over_ipv6(inner, flags):
    outer = wrapped6(inner, tun.GUE, flags)

    assert struct.unpack("!HHH", outer[40:46]) == (tun.gue_port(0x12345678), 6080, len(outer) - 40)
    assert outer[48:52] == bytes([0, 41 if inner[0] >> 4 == 6 else 4, 0, 0])
    if flags == NOCSUM:
        assert outer[46:48] == bytes(2)
    else:
        assert packets.sum6(outer) == 0xFFFF


@pytest.mark.parametrize("flags", [NOCSUM, CSUM])
def test_gre_over_ipv6(flags):
    outer = wrapped6(request6(b"odd"), tun.GRE, flags)

    assert outer[40:44] == bytes([0x80 if flags else 0, 0, 0x86, 0xDD])
    if flags:
        assert packets.ones_complement_sum(outer[40:]) == 0xFFFF


@pytest.mark.parametrize(("kind", "flags"), KINDS)
@pytest.mark.parametrize("packet", [request(), request6()], ids=["4", "6"])
def test_the_inner_packet_is_found_again_over_ipv6(kind, flags, packet):
    for whole in (wrapped6(packet, kind, flags), wrapped(packet, kind, flags)):
        inner = tun.inner_of(bytearray(whole), len(whole))

        assert whole[inner:] == packet
        assert [tun.inner_of(bytearray(whole[:length]), length) > 0 for length in range(len(whole) + 1)] == (
            [length >= inner + (40 if packet[0] >> 4 == 6 else 20) for length in range(len(whole) + 1)])


def test_extension_headers_before_the_tunnel_are_stepped_over():
    whole = bytearray(packets.ipv6(41, 1, 2, request6(), extensions=[(60, bytes([0, 0, 4, 1, 4, 1, 0, 0]))]))
    assert tun.inner_of(whole, len(whole)) == 48

    whole[6] = 44                       # a fragment is none

    assert tun.inner_of(whole, len(whole)) == -1
