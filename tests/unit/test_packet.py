"""lbq.packet: big-endian access and the Internet checksum."""
from __future__ import annotations

import doctest
import random

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq import packet as pkt
from tests.helpers import packets

# The example of RFC 1071, section 3: 00 01 f2 03 f4 f5 f6 f7 adds up to ddf2.
RFC1071 = bytearray.fromhex("0001f203f4f5f6f7")
# A widely printed IPv4 header whose checksum is b861.
HEADER = bytearray.fromhex("450000730000400040110000c0a80001c0a800c7")


def test_doctests_hold():
    results = doctest.testmod(pkt)

    assert results.attempted > 0
    assert results.failed == 0


def test_numbers_are_big_endian():
    packet = bytearray(8)

    pkt.put16(packet, 1, 0xABCD)
    pkt.put32(packet, 4, 0xC0A80A01)

    assert packet == bytes.fromhex("00abcd00c0a80a01")
    assert pkt.get16(packet, 1) == 0xABCD
    assert pkt.get32(packet, 4) == 0xC0A80A01


def test_word_sum_of_the_rfc_1071_example():
    assert pkt.word_sum(RFC1071, 0, 8) == 0xDDF2


def test_word_sum_of_every_length_and_start():
    stream = random.Random(1071)
    data = bytearray(stream.randbytes(200))

    for start in (0, 1, 2, 7):
        for end in range(start, 200):
            assert pkt.word_sum(data, start, end) == packets.ones_complement_sum(data[start:end])


def test_word_sum_of_the_largest_packet_does_not_overflow():
    data = bytearray(b"\xff" * 65535)

    assert pkt.word_sum(data, 0, 65535) == packets.ones_complement_sum(data)


@pytest.mark.parametrize(("total", "folded"), [(0, 0), (0xFFFF, 0xFFFF), (0x10000, 1), (0x1FFFE, 0xFFFF),
                                               (0xFFFFFFFF, 0xFFFF)])
def test_fold_adds_every_carry_back(total, folded):
    assert pkt.fold(total) == folded


def test_adjust_gives_zero_where_rfc_1141_gave_ffff():
    """RFC 1624, section 4: HC = dd2f, m = 5555 -> m' = 3285 must give 0000."""
    assert pkt.adjust(0xDD2F, 0x5555, 0x3285) == 0x0000


def test_a_change_of_32_bits_agrees_with_summing_again():
    stream = random.Random(1624)
    for _ in range(2000):
        data = bytearray(stream.randbytes(20))
        before = ~pkt.word_sum(data, 0, 20) & 0xFFFF
        old, new = pkt.get32(data, 8), stream.getrandbits(32)
        pkt.put32(data, 8, new)

        moved = pkt.fold((~before & 0xFFFF) + pkt.change32(old, new))

        assert moved == pkt.word_sum(data, 0, 20)


def test_a_wrong_checksum_stays_wrong_by_as_much():
    right, wrong = 0x1234, 0x1233

    assert pkt.adjust(right, 80, 8080) - pkt.adjust(wrong, 80, 8080) == 1


def test_header_checksum_counts_its_own_field_as_zero():
    assert pkt.header_checksum(HEADER, 20) == 0xB861

    pkt.put16(HEADER, pkt.IP_CHECKSUM, 0xB861)

    assert pkt.header_checksum(HEADER, 20) == 0xB861


@pytest.mark.parametrize("payload", [b"", b"x", b"xy", b"odd", bytes(range(256)) * 5, b"\xff" * 1459])
@pytest.mark.parametrize("build", [packets.tcp, packets.udp])
def test_transport_checksum_is_what_dpkt_computes(build, payload):
    packet = build("192.168.10.9:40000", "192.168.10.1:80", payload=payload, ip_options=b"\x01" * 8)
    field = 28 + (16 if packet[9] == 6 else 6)
    expected = pkt.get16(packets.with_right_checksums(packet), field)

    assert pkt.transport_checksum(packet, packet[9], 28, len(packet), field) == expected


def test_a_udp_checksum_of_zero_is_written_as_ffff():
    """RFC 768: zero would mean that there is none."""
    packet = packets.udp("0.0.0.0:0", "0.0.0.0:0", b"\x00\x00")
    pkt.put16(packet, 28, 0xFFFF - packets.ones_complement_sum(packet[20:26] + b"\x00\x11\x00\x0a"))

    assert pkt.transport_checksum(packet, 17, 20, 30, 26) == 0xFFFF


def test_a_tcp_checksum_of_zero_stays_zero():
    packet = packets.tcp("0.0.0.0:0", "0.0.0.0:0", "A", b"\x00\x00", checksum=0)
    pkt.put16(packet, 40, 0xFFFF - packets.ones_complement_sum(packet[20:40] + b"\x00\x06\x00\x16"))

    assert pkt.transport_checksum(packet, 6, 20, 42, 36) == 0


@pytest.mark.parametrize("ttl", [255, 128, 64, 2, 1])
def test_one_hop_less_and_the_header_checksum_still_right(ttl):
    stream = random.Random(ttl)
    for _ in range(300):
        packet = packets.tcp("192.168.10.9:40000", "192.168.10.1:80", ttl=ttl, tos=stream.randrange(256),
                             identification=stream.randrange(65536))
        before = bytes(packet)
        pkt.decrement_ttl(packet)

        assert packet[8] == ttl - 1
        assert packets.ones_complement_sum(packet[:20]) == 0xFFFF
        assert packet[:8] + packet[9:10] + packet[12:] == before[:8] + before[9:10] + before[12:]


@pytest.mark.parametrize(("content", "crc"), [      # RFC 3720, B.4
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C)])
def test_crc32c_of_the_published_examples(content, crc):
    assert pkt.crc32c(bytearray(b"\xee" * 5 + content + b"\xee"), 5, 37) == crc


@pytest.mark.parametrize("length", [12, 13, 16, 100, 1480])
def test_an_sctp_checksum_is_what_dpkt_computes(length):
    segment = random.Random(length).randbytes(length)
    packet = packets.ipv4(132, 1, 2, segment, ip_options=b"\x01" * 4)
    blank = segment[:8] + bytes(4) + segment[12:]

    pkt.put_crc32c(packet, 24, len(packet))

    assert packet[32:36] == dpkt.crc32c.done(dpkt.crc32c.add(0xFFFFFFFF, blank)).to_bytes(4, "big")
    assert packet[24:32] + packet[36:] == segment[:8] + segment[12:]


@pytest.mark.parametrize("build", [packets.tcp, packets.udp])
def test_a_pseudo_sum_is_what_the_kernel_leaves_for_hardware(build):
    packet = build("192.168.10.9:40000", "192.168.10.1:80", payload=b"four", checksum="pseudo")
    field = 36 if packet[9] == 6 else 26

    assert pkt.pseudo_sum(packet, packet[9], 20, len(packet)) == pkt.get16(packet, field)


# ---- IPv6 ------------------------------------------------------------------------------------------------

SIX, OTHER_SIX = "[2001:db8::9]:40000", "[2001:db8::1]:80"
OPTIONS = (60, bytes([0, 0, 1, 4, 0, 0, 0, 0]))


def extension(number: int, units: int) -> tuple[int, bytes]:
    """Return an extension header that says it has *units* of 8 bytes more than its first 8."""
    return number, bytes([0, units, *bytes(6 + 8 * units)])


def fragment(offset: int, more: bool) -> tuple[int, bytes]:
    """Return a fragment header; *offset* is in bytes."""
    return 44, bytes([0, 0, *(offset | more).to_bytes(2, "big"), 0, 0, 0, 7])


def found(packet: bytes, at: int = 0) -> tuple[int, int, int] | None:
    """Return protocol, flags and start of what lies behind the extension headers."""
    number = pkt.find_transport(bytearray(packet), at, len(packet))
    if number == -1:
        return None
    return number & pkt.PROTOCOL_MASK, number & (pkt.IS_FRAGMENT | pkt.IS_LATER), number >> pkt.START_SHIFT


@pytest.mark.parametrize(("chain", "flags", "start"), [
    ([], 0, 40), ([OPTIONS], 0, 48), ([extension(0, 0), extension(43, 2), extension(60, 255)], 0, 48 + 24 + 2048),
    ([(51, bytes([0, 4, *bytes(22)]))], 0, 64), ([fragment(0, False)], pkt.IS_FRAGMENT, 48),
    ([extension(0, 1), fragment(0, True), OPTIONS], pkt.IS_FRAGMENT, 72)])
def test_extension_headers_are_stepped_over(chain, flags, start):
    packet = packets.tcp(SIX, OTHER_SIX, extensions=chain)

    assert found(packet) == (6, flags, start)
    assert found(b"quote" + packet, 5) == (6, flags, start + 5)


def test_a_later_fragment_says_only_what_its_first_began_with():
    later = pkt.IS_FRAGMENT | pkt.IS_LATER

    assert found(packets.udp(SIX, OTHER_SIX, extensions=[fragment(8, False)]))[:2] == (17, later)
    assert found(packets.udp(SIX, OTHER_SIX, extensions=[OPTIONS, fragment(65528, True)]))[:2] == (17, later)
    assert found(packets.udp(SIX, OTHER_SIX, extensions=[fragment(8, True), OPTIONS])) is None


@pytest.mark.parametrize("protocol", [1, 50, 58, 59, 135, 255])
def test_what_is_no_extension_header_ends_the_chain(protocol):
    assert found(packets.ipv6(protocol, 1, 2, bytes(40), extensions=[OPTIONS])) == (protocol, 0, 48)


def test_a_chain_that_leads_out_of_the_packet_leads_nowhere():
    packet = packets.tcp(SIX, OTHER_SIX, extensions=[OPTIONS, fragment(0, False)])

    assert [found(packet[:length]) for length in range(len(packet))] == (
        [None] * 52 + [(6, pkt.IS_FRAGMENT, 56)] * (len(packet) - 52))      # half a fragment header says enough
    assert found(packets.tcp(SIX, OTHER_SIX, extensions=[(60, bytes([0, 255, *bytes(6)]))])) == (6, 0, 40 + 2048)


@settings(deadline=None, max_examples=500)
@given(st.binary(min_size=0, max_size=120), st.sampled_from((0, 6, 43, 44, 51, 60)), st.data())
def test_no_chain_makes_it_read_outside(content, following, data):
    packet = bytearray(content)
    for at, value in ((0, 0x60), (6, following)):
        if at < len(packet):
            packet[at] = value
    if len(packet) > 42:
        packet[40], packet[41] = data.draw(st.sampled_from((0, 6, 43, 44, 51, 60))), data.draw(st.integers(0, 8))
    expected = pkt.find_transport(packet, 0, len(packet))

    for beyond in (b"\x00", b"\x2c", b"\xff"):
        assert pkt.find_transport(packet + beyond * 4096, 0, len(packet)) == expected


@pytest.mark.parametrize("build", [packets.tcp, packets.udp])
@pytest.mark.parametrize("chain", [[], [OPTIONS]])
def test_the_pseudo_header_of_ipv6(build, chain):
    packet = build(SIX, OTHER_SIX, payload=b"odd", extensions=chain)
    unfinished = build(SIX, OTHER_SIX, payload=b"odd", extensions=chain, checksum="pseudo")
    protocol, header = packets.transport6(packet)
    field = header + packets.CHECKSUM_AT[protocol]

    assert pkt.transport_checksum(packet, protocol, header, len(packet), field) == pkt.get16(packet, field)
    assert pkt.pseudo_sum(packet, protocol, header, len(packet)) == pkt.get16(unfinished, field)


def test_a_hop_of_ipv6_needs_no_checksum():
    packet = packets.tcp(SIX, OTHER_SIX, ttl=64)
    pkt.decrement_ttl(packet)

    assert packet == packets.tcp(SIX, OTHER_SIX, ttl=63)


def test_how_long_a_packet_says_it_is():
    assert pkt.whole_length(packets.tcp(SIX, OTHER_SIX, payload=b"12345") + b"behind") == 65
    assert pkt.whole_length(packets.tcp("1.2.3.4:1", "1.2.3.5:1", payload=b"12345") + b"behind") == 45
