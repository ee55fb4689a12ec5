"""lbq.packet: big-endian access and the Internet checksum."""
from __future__ import annotations

import doctest
import random

import dpkt
import pytest

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


def test_adjust_agrees_with_summing_again():
    stream = random.Random(1624)
    for _ in range(2000):
        data = bytearray(stream.randbytes(20))
        before = ~pkt.word_sum(data, 0, 20) & 0xFFFF
        old, new = pkt.get32(data, 8), stream.getrandbits(32)
        pkt.put32(data, 8, new)

        assert pkt.adjust32(before, old, new) == ~pkt.word_sum(data, 0, 20) & 0xFFFF


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

    assert pkt.transport_checksum(packet, 28, len(packet), field) == expected


def test_a_udp_checksum_of_zero_is_written_as_ffff():
    """RFC 768: zero would mean that there is none."""
    packet = packets.udp("0.0.0.0:0", "0.0.0.0:0", b"\x00\x00")
    pkt.put16(packet, 28, 0xFFFF - packets.ones_complement_sum(packet[20:26] + b"\x00\x11\x00\x0a"))

    assert pkt.transport_checksum(packet, 20, 30, 26) == 0xFFFF


def test_a_tcp_checksum_of_zero_stays_zero():
    packet = packets.tcp("0.0.0.0:0", "0.0.0.0:0", "A", b"\x00\x00", checksum=0)
    pkt.put16(packet, 40, 0xFFFF - packets.ones_complement_sum(packet[20:40] + b"\x00\x06\x00\x16"))

    assert pkt.transport_checksum(packet, 20, 42, 36) == 0


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

    assert pkt.pseudo_sum(packet, 20, len(packet)) == pkt.get16(packet, field)
