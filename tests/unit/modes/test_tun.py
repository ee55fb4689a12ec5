"""lbq.modes.tun: what goes in front of a packet, and finding the packet behind it again."""
from __future__ import annotations

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
    out = bytearray(tun.overhead(kind, flags))
    size = tun.wrap(packet, len(packet), out, DIRECTOR, SERVER, kind, port, flags, pmtu_disc, identification, flow_hash)
    assert size == len(out)
    return bytes(out + packet)


# 1500 bytes hold packets of 1480, 1468, 1476 and 1472 bytes, in this order, on running kernels.
@pytest.mark.parametrize(("kind", "flags", "size"), [
    (tun.IPIP, NOCSUM, 20), (tun.IPIP, CSUM, 20), (tun.GUE, NOCSUM, 32), (tun.GUE, CSUM, 32), (tun.GUE, REMCSUM, 32),
    (tun.GRE, NOCSUM, 24), (tun.GRE, CSUM, 28)])
def test_overhead(kind, flags, size):
    assert tun.overhead(kind, flags) == size


@pytest.mark.parametrize(("kind", "flags"), KINDS)
def test_the_outer_header_goes_from_the_director_to_the_server(kind, flags):
    outer = dpkt.ip.IP(wrapped(request(), kind, flags))

    assert (outer.src, outer.dst) == (DIRECTOR.to_bytes(4, "big"), SERVER.to_bytes(4, "big"))
    assert (outer.v, outer.hl, outer.ttl) == (4, 5, 63)
    assert outer.p == {tun.IPIP: 4, tun.GUE: 17, tun.GRE: 47}[kind] == tun.protocol_of(kind)
    assert outer.len == len(request()) + tun.overhead(kind, flags)
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
    least = tun.overhead(kind, flags) + 28

    found = [tun.inner_of(whole[:length], length) for length in range(len(whole) + 1)]

    known = {tun.IPIP: 20, tun.GUE: 32, tun.GRE: 24}[kind]         # bytes that tell a tunnel's packet from others
    assert found == [-1] * known + [0] * (least - known) + [least - 28] * (len(whole) + 1 - least)


@pytest.mark.parametrize(("at", "value", "kind"), [
    (0, 0x65, tun.IPIP), (0, 0x44, tun.IPIP), (7, 0x01, tun.IPIP), (9, 6, tun.IPIP), (9, 41, tun.IPIP),
    (20, 0x60, tun.IPIP), (20, 0x44, tun.IPIP), (28, 0x20, tun.GUE), (28, 0x40, tun.GUE), (29, 41, tun.GUE),
    (32, 0x60, tun.GUE), (20, 0x40, tun.GRE), (21, 0x01, tun.GRE), (22, 0x86, tun.GRE), (24, 0x60, tun.GRE)])
def test_what_is_no_tunnel_packet_of_ours(at, value, kind):
    """Other versions, short headers, later fragments, other protocols, GUE control, GRE routing, IPv6 inside."""
    whole = bytearray(wrapped(request(), kind))
    assert tun.inner_of(whole, len(whole)) > 0

    whole[at] = value

    within = (kind == tun.IPIP and at >= 20) or at in (24, 32)
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
