"""Captures: both formats, every byte order and link type, damage; scapy writes the same again."""
from __future__ import annotations

import io
import struct

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.ppp import PPP, PPPoE
from scapy.utils import PcapNgWriter, PcapWriter

from lbq.errors import ConfigError
from lbq.replay import capture
from tests.helpers.captures import EPOCH, block, pcap, pcapng
from tests.helpers.packets import tcp

SYN = bytes(tcp("192.168.10.9:40000", "192.168.10.1:80", "S"))
SYN6 = bytes(tcp("[2001:db8::9]:40000", "[2001:db8::1]:80", "S"))


def read(content: bytes) -> list[tuple[int, int, bytes, int]]:
    """Return time, link type, bytes and length of each packet."""
    assert capture.is_capture(content)
    return [(time, link, data[at:end], length)
            for time, link, data, at, end, length in capture.records(capture.Pieces(io.BytesIO(content), "x.pcap"))]


def damage(content: bytes) -> str:
    """Return what is said about a damaged capture."""
    with pytest.raises(capture.Damaged) as caught:
        read(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_in_both_byte_orders_and_resolutions(order, nano):
    content = pcap([(0.25, SYN), (1.5, SYN6)], order=order, nano=nano)

    assert read(content) == [(EPOCH * 10**9 + 250_000_000, 101, SYN, len(SYN)),
                             (EPOCH * 10**9 + 1_500_000_000, 101, SYN6, len(SYN6))]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("option", "units"), [(b"", 10**6), ((9, 9), 10**9), ((9, 0x80 | 10), 1 << 10)])
def test_pcapng_in_both_byte_orders_and_any_resolution(order, option, units):
    options = struct.pack(f"{order}HHB3xHH", option[0], 1, option[1], 0, 0) if option else b""
    content = pcapng([(0.25, SYN), (1.5, SYN6)], order=order, options=options, units=units)

    assert [(time, data) for time, _, data, _ in read(content)] == [
        (EPOCH * 10**9 + 250_000_000, SYN), (EPOCH * 10**9 + 1_500_000_000, SYN6)]


def test_pcapng_with_a_time_offset_and_blocks_that_mean_nothing():
    options = struct.pack("<HHq", 14, 8, 100)
    content = pcapng([(0, SYN)], options=options) + block(4, b"names") + block(0x0BAD, b"custom")

    assert [time for time, *_ in read(content)] == [(EPOCH + 100) * 10**9]


def test_a_simple_packet_block_has_the_time_of_the_one_before():
    content = pcapng([(2, SYN)]) + block(3, struct.pack("<I", len(SYN6)) + SYN6)

    assert read(content)[1] == (EPOCH * 10**9 + 2 * 10**9, 101, SYN6, len(SYN6))


def test_a_second_section_has_interfaces_of_its_own():
    content = pcapng([(0, SYN)]) + pcapng([(1, SYN6)], order=">", link=1)

    assert [link for _, link, *_ in read(content)] == [101, 1]


def test_packets_across_the_pieces_of_a_file(monkeypatch):
    monkeypatch.setattr(capture, "PIECE", 100)
    packets = [(number, SYN) for number in range(50)]

    assert [data for _, _, data, _ in read(pcap(packets))] == [SYN] * 50
    assert [data for _, _, data, _ in read(pcapng(packets))] == [SYN] * 50


@pytest.mark.parametrize("writer", [PcapWriter, PcapNgWriter])
def test_what_scapy_writes(writer, tmp_path):
    frame = Ether() / IP(dst="192.168.10.1", src="192.168.10.9") / TCP(dport=80, flags="S")
    with writer(str(tmp_path / "x")) as file:
        for moment in (1.0, 2.0):
            frame.time = moment
            file.write(frame)

    assert [(time, data) for time, _, data, _ in read((tmp_path / "x").read_bytes())] == [
        (10**9, bytes(frame)), (2 * 10**9, bytes(frame))]


V4, V6 = IP(SYN), IPv6(SYN6)


@pytest.mark.parametrize(("link", "frame"), [
    (1, Ether() / V4), (1, Ether() / V6), (1, Ether() / Dot1Q(vlan=7) / V4),
    (1, Ether() / Dot1AD(vlan=7) / Dot1Q(vlan=8) / V6), (1, Ether() / PPPoE() / PPP(proto=0x21) / V4),
    (113, CookedLinux(proto=0x0800) / V4), (113, CookedLinux(proto=0x86DD) / V6),
    (276, CookedLinuxV2(proto=0x0800) / V4), (276, CookedLinuxV2(proto=0x86DD) / V6),
    (0, Loopback(type=2) / V4), (0, Loopback(type=10) / V6), (108, Loopback(type=2) / V4),
    (101, V4), (101, V6), (228, V4), (229, V6), (12, V4)], ids=lambda value: value if isinstance(value, int) else "")
def test_the_ip_packet_behind_every_link_header(link, frame):
    data = bytes(frame)
    packet = SYN if V4.src in repr(frame) else SYN6

    assert data[capture.LINKS[link](data, 0, len(data)):] == packet


@pytest.mark.parametrize("frame", [
    Ether(type=0x0806) / (b"arp" * 20), Ether(type=0x8100) / b"\0\7", Ether(type=0x8100)])
def test_a_frame_without_an_ip_packet(frame):
    data = bytes(frame)

    assert capture.ethernet(data, 0, len(data)) == -1


@pytest.mark.parametrize("length", [1, 15, 16 + 20])
def test_a_cut_off_pcap_names_the_packet(length):
    whole = pcap([(0, SYN), (1, SYN)])
    second = 24 + 16 + len(SYN)

    assert damage(whole[:second + length]) == (
        f"x.pcap is cut off in packet 2, at byte {second}: the capture did not end properly, or was not copied whole; "
        "--partial plays the packets before it")


def test_a_cut_off_header():
    assert "cut off in its first 24 bytes" in damage(pcap([])[:20])


def test_an_impossible_length_names_the_packet():
    content = bytearray(pcap([(0, SYN), (1, SYN)]))
    struct.pack_into("<I", content, 24 + 16 + len(SYN) + 8, 0xFFFFFFF0)

    assert damage(bytes(content)).startswith("x.pcap is damaged: packet 2, at byte 80, claims 4294967280 bytes;")


@pytest.mark.parametrize(("more", "said"), [
    (struct.pack("<II", 6, 7), "is cut off in packet 2"), (struct.pack("<III", 6, 8, 0), "claims 8 bytes"),
    (struct.pack("<III", 6, 1 << 30, 0), "claims 1073741824 bytes"),
    (block(6, struct.pack("<IIIII", 5, 0, 0, 4, 4) + b"abcd"), "names no interface"),
    (block(6, struct.pack("<IIIII", 0, 0, 0, 400, 400) + b"abcd"), "does not hold packet 2"),
    (block(6, b""), "does not hold packet 2"), (block(1, b""), "does not hold packet 2"),
    (block(0x0A0D0D0A, b"abcdefghijklmnop"), "says no byte order")])
def test_a_damaged_pcapng(more, said):
    assert said in damage(pcapng([(0, SYN)]) + more)


def test_damage_is_a_users_mistake():
    assert issubclass(capture.Damaged, ConfigError)
