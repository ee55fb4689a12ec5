"""Questions on the wire and the filter that lets their answers in, without a wire."""
from __future__ import annotations

import dpkt
import pytest

from lbq.doctor import probing
from lbq.model import AF_INET, AF_INET6

VIP, RIP, DIP = 0xC0A80A01, 0xC0A81401, 0xC0A814FE
VIP6 = 0x20010DB8000000000000000000000001
SENDER = ("eth0", 0, probing.PACKET_HOST, 1, bytes.fromhex("020000000009"))


@pytest.fixture
def ears():
    """Return ears without sockets, that know one VIP of each family."""
    ears = probing.Ears.__new__(probing.Ears)
    ears.vips = {AF_INET: {VIP}, AF_INET6: {VIP6}}
    ears.number, ears.echoes, ears.answered = 0x1234, [], []
    ears.answers, ears.announcers, ears.passing = {}, {}, {}
    return ears


def run(program, packet: bytes) -> int:
    """Return what a classic BPF *program* returns for *packet*."""
    accumulator, at = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == probing.RETURN:
            return operand
        if code == probing.LD_BYTE:
            accumulator = packet[operand]
        elif code == probing.LD_WORD:
            accumulator = int.from_bytes(packet[operand:operand + 4])
        else:
            at += yes if accumulator == operand else no


@pytest.mark.parametrize("vips", [set(), {VIP}, set(range(1, 300)) | {0}])
def test_the_filter_lets_in_icmp_and_what_comes_from_a_vip(vips):
    program = probing._filter4(vips)
    wanted = sorted(vips)[:probing.MOST_VIPS]
    assert max(step[1] for step in program) < 256

    def packet(protocol: int, source: int) -> bytes:
        return bytes(9) + bytes([protocol]) + bytes(2) + source.to_bytes(4) + bytes(4)

    assert run(program, packet(1, 77)) == probing.WHOLE
    assert all(run(program, packet(6, vip)) == probing.WHOLE for vip in wanted)
    assert run(program, packet(6, 0xFFFFFFFF)) == probing.NOTHING


@pytest.mark.parametrize("protocol", [58, 6])
def test_of_ipv6_only_icmp_is_let_in(protocol):
    packet = bytes(6) + bytes([protocol]) + bytes(33)

    assert run(probing._filter6(), packet) == (probing.WHOLE if protocol == 58 else probing.NOTHING)


def test_an_echo_request_for_the_vip_is_a_right_packet(ears):
    packet = dpkt.ip.IP(ears.echo_packet("web01", VIP, DIP, AF_INET))

    assert (int.from_bytes(packet.src), int.from_bytes(packet.dst), len(packet)) == (DIP, VIP, probing.SMALLEST)
    assert (packet.data.type, packet.data.data.id, packet.data.data.seq) == (8, 0x1234, 0)
    assert probing.checksum(bytes(packet)[:20]) == probing.checksum(bytes(packet)[20:]) == 0


def test_one_of_ipv6_as_well(ears):
    packet = ears.echo_packet("web01", VIP6, VIP6 + 1, AF_INET6)
    pseudo = packet[8:40] + len(packet[40:]).to_bytes(4) + (58).to_bytes(4)

    assert dpkt.ip6.IP6(packet).data.type == 128
    assert probing.checksum(pseudo + packet[40:]) == 0


def test_our_echoes_are_known_by_their_number(ears):
    ears.echo_packet("web01", VIP, DIP, AF_INET)
    answer = probing.ICMP_HEADER.pack(0, 0, 0, ears.number, 0)

    for stranger in (probing.ICMP_HEADER.pack(0, 0, 0, 0x4321, 0), probing.ICMP_HEADER.pack(0, 0, 0, ears.number, 9),
                     probing.ICMP_HEADER.pack(8, 0, 0, ears.number, 0), answer[:-1], b""):
        ears._hear_echo(stranger, AF_INET)
    assert ears.answered == []
    ears._hear_echo(answer, AF_INET)
    assert ears.answered == [probing.Echo("web01", probing.SMALLEST)]


def arp(operation: int, source: int, target: int = 0) -> bytes:
    """Return an ARP message of the host 02:…:09."""
    return probing.ARP.pack(1, 0x0800, 6, 4, operation, SENDER[4], source.to_bytes(4), bytes(6), target.to_bytes(4))


def test_arp_tells_who_has_the_vip_and_who_pretends(ears):
    heard = probing.Heard("eth0", "020000000009")

    ears._hear_arp(arp(2, RIP), SENDER)
    ears._hear_arp(arp(1, RIP, VIP), SENDER)
    ears._hear_arp(arp(2, VIP)[:-1], SENDER)
    assert (ears.answers, ears.announcers) == ({}, {})
    ears._hear_arp(arp(1, VIP, RIP), SENDER)
    assert (ears.answers, ears.announcers) == ({}, {(AF_INET, VIP): {heard}})
    ears._hear_arp(arp(1, VIP, VIP), SENDER)        # a gratuitous one says that it has it
    assert ears.answers == {(AF_INET, VIP): {heard}}


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x4f" + bytes(30), bytes(20), b"\xff" * 200])
def test_broken_packets_are_no_trouble(ears, packet):
    ears._hear_ip(packet, SENDER)
    ears._hear_ipv6(packet, SENDER)
    ears._hear_arp(packet, SENDER)

    assert ears.answered == [] and ears.answers == {}


def test_packets_from_the_vip_that_come_by_are_noted(ears):
    packet = bytes([0x45]) + bytes(8) + bytes([6]) + bytes(2) + VIP.to_bytes(4) + RIP.to_bytes(4)

    ears._hear_ip(packet, SENDER)
    ears._hear_ip(packet, ("eth0", 0, 3, 1, SENDER[4]))         # to another host: the switch lets it be seen

    assert ears.passing == {(AF_INET, VIP): {(probing.Heard("eth0", "020000000009"), RIP)}}
