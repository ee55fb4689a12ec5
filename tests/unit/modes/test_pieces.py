"""lbq.modes.pieces: fragments that make the packet again, segments that make the stream again."""
from __future__ import annotations

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq.modes import pieces
from tests.helpers import packets

CLIENT, VIP = "192.168.10.9:40000", "192.168.10.1:80"
ROOM, MOST = 200_000, 10_000
COPIED, NOT_COPIED = b"\x94\x04\x00\x00", b"\x44\x04\x05\x00"       # router alert, an (empty) timestamp


def cut(function, packet: bytes, size: int, room: int = ROOM, most: int = MOST) -> list[bytes]:
    """Return the pieces; nothing may be written behind *room*."""
    out = bytearray(b"\xee" * (room + 64))
    count = function(bytearray(packet), len(packet), size, out, room, most)
    found, at = [], 0
    for _ in range(count):
        length = int.from_bytes(out[at + 2:at + 4], "big")
        if out[at] >> 4 == 6:
            length = 40 + int.from_bytes(out[at + 4:at + 6], "big")
        found.append(bytes(out[at:at + length]))
        at += length
    assert at <= room
    assert out[room:] == b"\xee" * 64
    return found


def header_of(packet: bytes) -> int:
    """Return how long the IPv4 header is."""
    return (packet[0] & 15) * 4


def offset_of(packet: bytes) -> int:
    """Return where in the original packet a fragment's bytes belong."""
    return (int.from_bytes(packet[6:8], "big") & 0x1FFF) * 8


def has_more(packet: bytes) -> bool:
    """Return True when the more-fragments bit is set."""
    return packet[6] & 0x20 != 0


# ---- Fragments -----------------------------------------------------------------------------------------


def test_a_packet_that_fits_stays_as_it_is():
    packet = packets.udp(CLIENT, VIP, b"x" * 100)

    assert cut(pieces.fragment, packet, 128) == [packet]


def test_a_packet_of_1600_bytes_is_cut_as_the_kernel_cuts_it():
    """1480 bytes behind the header of the first: the most that is a multiple of 8 and fits into 1500."""
    packet = packets.udp(CLIENT, VIP, bytes(1572), identification=77)

    first, last = cut(pieces.fragment, packet, 1500)

    assert (len(first), offset_of(first), has_more(first)) == (1500, 0, True)
    assert (len(last), offset_of(last), has_more(last)) == (120, 1480, False)
    assert first[4:6] == last[4:6] == packet[4:6]


def test_the_last_fragment_may_fill_what_multiples_of_8_leave_free():
    """ip_frag_next() rounds down only when more follows: 1499 - 20 = 1479 bytes are one last piece."""
    packet = packets.udp(CLIENT, VIP, bytes(1472 + 1479 - 8))

    assert [len(piece) for piece in cut(pieces.fragment, packet, 1499)] == [1492, 1499]


def test_dont_fragment_is_gone_from_the_pieces():
    for piece in cut(pieces.fragment, packets.udp(CLIENT, VIP, bytes(500), fragment=0x4000), 300):
        assert piece[6] & 0x40 == 0


def test_a_fragment_is_cut_further():
    """The offsets go on from its own, and its last piece still has more behind it."""
    middle = packets.udp(CLIENT, VIP, bytes(400), fragment=0x2000 | 100)

    found = cut(pieces.fragment, middle, 220)

    assert [(offset_of(piece), has_more(piece)) for piece in found] == [(800, True), (1000, True), (1200, True)]


def test_options_without_the_copied_flag_are_in_the_first_fragment_only():
    options = NOT_COPIED + COPIED + b"\x01\x44\x03\x04"

    first, second, third = cut(pieces.fragment, packets.udp(CLIENT, VIP, bytes(300), ip_options=options), 172)

    assert first[20:32] == options
    assert second[20:32] == third[20:32] == b"\x01" * 4 + COPIED + b"\x01" * 4


def test_options_of_a_later_fragment_are_left_alone():
    later = packets.udp(CLIENT, VIP, bytes(200), fragment=10, ip_options=NOT_COPIED)

    assert [piece[20:24] for piece in cut(pieces.fragment, later, 124)] == [NOT_COPIED] * 3


@pytest.mark.parametrize("options", [b"\x00\x44\x03\x01", b"\x01\x44\x00\x00", b"\x01\x44\x01\x05", b"\x01\x44\x04\x00",
                                     b"\x01\x01\x01\x44"])
def test_options_that_make_no_sense_are_left_alone(options):
    """Behind the end of the list, shorter than two bytes, longer than the header: the kernel stops there, too."""
    for piece in cut(pieces.fragment, packets.udp(CLIENT, VIP, bytes(200), ip_options=options), 124):
        assert piece[20:24] == options


@settings(deadline=None)
@given(st.integers(0, 4000), st.integers(68, 2000), st.integers(0, 10), st.sampled_from((0, 0x4000, 0x2000, 0x2005, 7)))
def test_fragments_make_the_packet_again(size, mtu, words, fragment):
    payload = bytes(range(251)) * 17
    packet = packets.ipv4(17, 1, 2, payload[:size], fragment=fragment, ip_options=COPIED * words)

    found = cut(pieces.fragment, packet, mtu)

    assert b"".join(piece[header_of(piece):] for piece in found) == payload[:size]
    if len(packet) > mtu:
        expected = (fragment & 0x1FFF) * 8
        for piece in found:
            assert offset_of(piece) == expected
            expected += len(piece) - header_of(piece)
        assert [has_more(piece) for piece in found] == [True] * (len(found) - 1) + [fragment & 0x2000 != 0]
    for piece in found:
        assert len(piece) <= mtu
        assert packets.ones_complement_sum(piece[:header_of(piece)]) == 0xFFFF
        assert piece[:2] + piece[4:6] + piece[8:10] + piece[12:header_of(piece)] == (
            packet[:2] + packet[4:6] + packet[8:10] + packet[12:header_of(packet)])


@pytest.mark.parametrize(("room", "most", "count"), [(640, 3, 3), (639, 3, 0), (640, 2, 0), (0, 3, 0)])
def test_fragments_that_find_no_room_are_none(room, most, count):
    packet = packets.ipv4(17, 1, 2, bytes(580))

    assert len(cut(pieces.fragment, packet, 220, room, most)) == count


@pytest.mark.parametrize(("room", "most", "count"), [(100, 1, 1), (99, 1, 0), (100, 0, 0)])
def test_a_packet_that_fits_needs_room_as_well(room, most, count):
    assert len(cut(pieces.fragment, packets.ipv4(17, 1, 2, bytes(80)), 1500, room, most)) == count


@pytest.mark.parametrize("mtu", [-1, 0, 20, 27])
def test_an_mtu_without_room_for_8_bytes_cuts_nothing(mtu):
    assert cut(pieces.fragment, packets.udp(CLIENT, VIP, bytes(100)), mtu) == []


def test_fragments_never_reach_beyond_the_end_of_ip():
    """The ping of death: an offset and a length that together make more than 65,535 bytes."""
    assert cut(pieces.fragment, packets.ipv4(17, 1, 2, bytes(600), fragment=0x1FFF), 300) == []
    assert len(cut(pieces.fragment, packets.ipv4(17, 1, 2, bytes(607), fragment=0x1FB4), 300)) == 3


# ---- Segments ------------------------------------------------------------------------------------------


def large(payload: bytes, flags: str = "PA", **fields) -> bytearray:
    """Return a large TCP packet as the kernel hands it over: its checksum is not finished."""
    return packets.tcp(CLIENT, VIP, flags, payload, checksum="pseudo", **fields)


def test_segments_go_on_where_the_one_before_ended():
    found = cut(pieces.segment, large(bytes(range(250)) * 12, sequence=0xFFFFFF00, identification=0xFFFF), 1448)
    parsed = [dpkt.ip.IP(piece) for piece in found]

    assert [one.tcp.seq for one in parsed] == [0xFFFFFF00, 0x4A8, 0xA50]
    assert [one.id for one in parsed] == [0xFFFF, 0, 1]
    assert [len(one.tcp.data) for one in parsed] == [1448, 1448, 104]


def test_what_ends_a_stretch_of_data_is_in_the_last_segment_only():
    packet = large(bytes(300), "FPAU")
    packet[33] |= 0xC0                                          # CWR and ECE

    flags = [piece[33] for piece in cut(pieces.segment, packet, 100)]

    assert flags == [0xF0, 0x70, 0x79]


def test_a_packet_that_needs_no_cut_gets_its_checksum():
    for payload in (b"", b"x" * 100):
        one, = cut(pieces.segment, large(payload), 100)

        assert one == packets.tcp(CLIENT, VIP, "PA", payload)


@settings(deadline=None)
@given(st.integers(0, 20000), st.integers(400, 9000), st.integers(0, 10), st.integers(0, 10))
def test_segments_make_the_stream_again(size, payload, words, ip_words):
    stream = (bytes(range(253)) * 80)[:size]
    packet = large(stream, options=b"\x01" * 4 * words, ip_options=b"\x01" * 4 * ip_words)

    found = cut(pieces.segment, packet, payload)
    headers = 40 + 4 * words + 4 * ip_words

    assert b"".join(piece[headers:] for piece in found) == stream
    assert len(found) == max(1, -(-size // payload))
    for piece in found:
        assert packets.with_right_checksums(piece) == piece
        assert piece[headers - 4 * words:headers] == b"\x01" * 4 * words


@pytest.mark.parametrize(("room", "most", "count"), [(420, 3, 3), (419, 3, 0), (420, 2, 0), (0, 3, 0)])
def test_segments_that_find_no_room_are_none(room, most, count):
    assert len(cut(pieces.segment, large(bytes(300)), 100, room, most)) == count


@pytest.mark.parametrize("payload", [0, -1])
def test_segments_without_payload_are_none(payload):
    assert cut(pieces.segment, large(bytes(300)), payload) == []


@pytest.mark.parametrize(("at", "value"), [(0, 0x44), (0, 0x65), (9, 17), (32, 0x40), (32, 0x00)])
def test_what_is_no_tcp_packet_is_not_cut(at, value):
    packet = large(bytes(300))
    packet[at] = value

    assert cut(pieces.segment, packet, 100) == []


@pytest.mark.parametrize("function", [pieces.fragment, pieces.segment])
def test_a_packet_whose_header_speaks_of_another_length_is_not_cut(function):
    packet = large(bytes(300))
    packet += b"padding"

    assert cut(function, packet, 1400) == []


@pytest.mark.parametrize("function", [pieces.fragment, pieces.segment])
@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=120), st.sampled_from((0x45, 0x46, 0x4F, None)), st.integers(-5, 140))
def test_no_bytes_make_it_read_or_write_outside(function, content, first, size):
    packet = bytearray(content)
    if first is not None and packet:
        packet[0] = first
        packet[2:4] = len(packet).to_bytes(2, "big")
        packet[9:10] = b"\x06"
    found = cut(function, packet, size, room=1000, most=30)

    for beyond in (b"\x00", b"\xff"):
        out = bytearray(1000)
        count = function(packet + beyond * 200, len(packet), size, out, 1000, 30)
        assert count == len(found)
        assert bytes(out).startswith(b"".join(found))


# ---- IPv6 ----------------------------------------------------------------------------------------------

CLIENT6, VIP6 = "[2001:db8::9]:40000", "[2001:db8::1]:80"
OPTIONS, HOP_BY_HOP = (60, bytes([0, 0, 1, 4, 0, 0, 0, 0])), (0, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
ROUTING = (43, bytes([0, 2, 2, 0, *bytes(20)]))


def cut6(packet: bytes, mtu: int, room: int = ROOM, most: int = MOST) -> list[bytes]:
    """Return the fragments of an IPv6 packet."""
    return cut(lambda *arguments: pieces.fragment6(*arguments, 0x01020304), packet, mtu, room, most)


def test_an_ipv6_packet_of_3048_bytes_is_cut_as_the_kernel_cuts_it():
    """A kernel put a reassembled datagram of 3048 bytes on a way of 1280: pieces of 1280, 1280 and 592 bytes."""
    packet = packets.udp(CLIENT6, VIP6, b"y" * 3000, tos=0xB8, ttl=9, flow_label=5)

    found = cut6(packet, 1280)

    assert [len(piece) for piece in found] == [1280, 1280, 592]
    assert [piece[40:48] for piece in found] == [
        bytes([17, 0, *field, 1, 2, 3, 4]) for field in (b"\x00\x01", b"\x04\xd1", b"\x09\xa0")]
    assert all((piece[:4], piece[6:40]) == (packet[:4], b"\x2c" + packet[7:40]) for piece in found)
    assert b"".join(piece[48:] for piece in found) == packet[40:]


@pytest.mark.parametrize(("chain", "repeated", "following"), [
    ([HOP_BY_HOP], 48, 17), ([HOP_BY_HOP, OPTIONS, ROUTING], 80, 17), ([OPTIONS], 48, 17),
    ([ROUTING, OPTIONS], 64, 60), ([HOP_BY_HOP, (51, bytes([0, 4, *bytes(22)]))], 48, 51)])
def test_every_fragment_repeats_what_routers_read(chain, repeated, following):
    packet = packets.udp(CLIENT6, VIP6, bytes(range(250)) * 8, extensions=chain)

    found = cut6(packet, 900)

    assert len(found) == 3 and all(len(piece) <= 900 for piece in found)
    for piece in found:
        assert piece[repeated] == following
        before = bytearray(piece[:repeated])
        where = last_next_header(packet, repeated)
        assert before[where] == 44
        before[where], before[4:6] = packet[where], packet[4:6]
        assert before == packet[:repeated]
    assert b"".join(piece[repeated + 8:] for piece in found) == packet[repeated:]


def last_next_header(packet: bytes, end: int) -> int:
    """Return where the headers up to *end* say what follows them."""
    field, at = 6, 40
    while at < end:
        field, at = at, at + 8 + packet[at + 1] * 8
    return field


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 4000), st.integers(57, 2000))
def test_fragments_of_ipv6_make_the_packet_again(size, mtu):
    packet = packets.udp(CLIENT6, VIP6, bytes(range(256)) * (size // 256 + 1))

    found = cut6(packet, mtu)

    assert all(len(piece) <= mtu for piece in found)
    assert [int.from_bytes(piece[42:44], "big") & 7 for piece in found] == [1] * (len(found) - 1) + [0]
    assert [int.from_bytes(piece[42:44], "big") & ~7 for piece in found] == [
        sum(len(piece) - 48 for piece in found[:number]) for number in range(len(found))]
    assert b"".join(piece[48:] for piece in found) == packet[40:]


@pytest.mark.parametrize(("room", "most"), [(1535, 2), (4000, 1)])
def test_fragments_that_do_not_fit_are_none(room, most):
    packet = packets.udp(CLIENT6, VIP6, bytes(1432))

    assert cut6(packet, 1280, 1536, 2) != []
    assert cut6(packet, 1280, room, most) == []


@pytest.mark.parametrize("packet", [
    b"", packets.udp(CLIENT, VIP, bytes(600)), packets.udp(CLIENT6, VIP6, bytes(600))[:-1],
    packets.udp(CLIENT6, VIP6, bytes(600)) + b"behind",
    packets.udp(CLIENT6, VIP6, bytes(600), extensions=[(0, bytes([0, 255, *bytes(6)]))])])
def test_what_is_no_whole_ipv6_packet_is_not_cut(packet):
    assert cut6(packet, 300) == []
    assert cut(pieces.segment, packet, 300) == []


@pytest.mark.parametrize("mtu", [-1, 0, 48, 55])
def test_a_way_without_room_for_eight_bytes_carries_no_fragment(mtu):
    assert cut6(packets.udp(CLIENT6, VIP6, bytes(600)), mtu) == []


@pytest.mark.parametrize("chain", [[], [HOP_BY_HOP], [OPTIONS, ROUTING]])
def test_segments_of_ipv6_make_the_stream_again(chain):
    stream = bytes(range(250)) * 12
    packet = packets.tcp(CLIENT6, VIP6, "FPA", stream, sequence=0xFFFFFF00, options=b"\x01" * 12, checksum="pseudo",
                         extensions=chain)
    header = packets.transport6(packet)[1]

    found = cut(pieces.segment, packet, 1000)

    assert [len(piece) - header - 32 for piece in found] == [1000, 1000, 1000]
    assert b"".join(piece[header + 32:] for piece in found) == stream
    assert [int.from_bytes(piece[header + 4:header + 8], "big") for piece in found] == [0xFFFFFF00, 0x2E8, 0x6D0]
    assert [packets.read(piece).flags for piece in found] == ["A", "A", "FPA"]
    assert all(packets.read(piece).checksums_right for piece in found)
    assert all(piece[:4] + piece[6:header] == packet[:4] + packet[6:header] for piece in found)


def test_a_fragment_and_what_is_not_tcp_has_no_segments():
    first = (44, bytes([0, 0, 0, 1, 0, 0, 0, 7]))

    assert cut(pieces.segment, packets.tcp(CLIENT6, VIP6, "A", bytes(600), extensions=[first]), 100) == []
    assert cut(pieces.segment, packets.udp(CLIENT6, VIP6, bytes(600)), 100) == []
