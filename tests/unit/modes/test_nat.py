"""lbq.modes.nat: what is rewritten, and what becomes of the checksums."""
from __future__ import annotations

import dpkt
import pytest

from lbq import packet as pkt
from lbq.modes import nat
from tests.helpers import packets
from tests.helpers.packets import address, endpoint, read

CLIENT, VIP, RIP = "192.168.10.9:40000", "192.168.10.1:80", "192.168.20.1:8080"
BUILDERS = [packets.tcp, packets.udp]


def request(packet: bytearray, form: int = 0, delivered_here: bool = False, server: str = RIP) -> bytearray:
    """Send *packet* to the server and return it."""
    nat.to_real_server(packet, len(packet), *endpoint(server), form, delivered_here)
    return packet


def checksum_of(packet: bytearray) -> int:
    """Return what stands in the TCP or UDP checksum field of a packet without IP options."""
    return pkt.get16(packet, 36 if packet[9] == 6 else 26)


@pytest.mark.parametrize("build", BUILDERS)
def test_a_request_is_addressed_to_the_real_server(build):
    packet = request(build(CLIENT, VIP, payload=b"GET /"))

    assert (read(packet).source, read(packet).destination) == (CLIENT, RIP)
    assert read(packet).checksums_right


@pytest.mark.parametrize("build", BUILDERS)
def test_a_reply_comes_from_the_virtual_service(build):
    packet = build(RIP, CLIENT, payload=b"200 OK")

    nat.to_client(packet, len(packet), *endpoint(VIP), 0, False)

    assert (read(packet).source, read(packet).destination) == (VIP, CLIENT)
    assert read(packet).checksums_right


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("options", [4, 40])
def test_ip_options_are_stepped_over(build, options):
    packet = request(build(CLIENT, VIP, payload=b"odd", ip_options=b"\x01" * options))

    assert read(packet).destination == RIP
    assert read(packet).checksums_right


def test_nothing_else_changes():
    before = packets.tcp(CLIENT, VIP, "PA", b"data", ttl=9, tos=0x10, options=b"\x01" * 12)
    after = request(bytearray(before))
    changed = {*range(10, 12), *range(16, 20), *range(22, 24), *range(36, 38)}

    assert {at for at in range(len(before)) if before[at] != after[at]} <= changed


def test_a_wrong_checksum_stays_wrong_by_as_much():
    right, wrong = packets.tcp(CLIENT, VIP, checksum=0x1235), packets.tcp(CLIENT, VIP, checksum=0x1234)

    assert checksum_of(request(right)) - checksum_of(request(wrong)) == 1


def test_bytes_behind_the_packet_do_not_count():
    """A queue may hand over link-layer padding; the IP length says where the packet ends."""
    packet = packets.udp(CLIENT, VIP, b"x", checksum="none")
    end = len(packet)
    packet += b"\xee" * 17

    nat.to_real_server(packet, end, *endpoint(RIP), 0, False)

    assert read(packet[:end]).checksums_right
    assert packet[end:] == b"\xee" * 17


# ---- UDP's zero --------------------------------------------------------------------------------------


def test_a_udp_datagram_without_checksum_gets_one():
    """As IPVS does: udp_dnat_handler() computes it in full."""
    packet = request(packets.udp(CLIENT, VIP, b"no checksum", checksum="none"))

    assert read(packet).checksums_right


def test_a_udp_checksum_that_becomes_zero_is_written_as_ffff():
    for last in range(256):
        rip = f"192.168.20.{last}:80"
        for payload in range(0, 65536, 251):
            packet = request(packets.udp(CLIENT, VIP, payload.to_bytes(2, "big")), server=rip)
            if checksum_of(packet) == 0xFFFF:
                assert read(packet).checksums_right
                return
    pytest.fail("no packet whose checksum becomes zero was made")


def test_a_tcp_checksum_may_be_zero():
    packet = packets.tcp(CLIENT, VIP, "A", b"\x00\x00")
    rewritten = request(bytearray(packet))
    pkt.put16(packet, 40, checksum_of(rewritten))           # the payload word that makes the new sum zero
    pkt.put16(packet, 36, checksum_of(packets.with_right_checksums(packet)))

    packet = request(packet)

    assert checksum_of(packet) == 0
    assert read(packet).checksums_right


# ---- What the kernel left unfinished -------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("delivered_here", [False, True])
def test_an_unfinished_checksum_is_computed_in_full(build, delivered_here):
    packet = build(CLIENT, VIP, payload=b"via veth", checksum="pseudo")

    request(packet, pkt.CHECKSUM_NOT_READY, delivered_here)

    assert read(packet).checksums_right


@pytest.mark.parametrize("form", [pkt.SEGMENTED_LATER, pkt.SEGMENTED_LATER | pkt.CHECKSUM_NOT_READY])
def test_a_large_tcp_packet_that_leaves_keeps_its_checksum_field(form):
    """The kernel writes the checksum into every segment; summing 64 KiB would be for nothing."""
    packet = request(packets.tcp(CLIENT, VIP, "A", bytes(20000), checksum=0xBEEF), form)

    assert checksum_of(packet) == 0xBEEF
    assert read(packet).destination == RIP


@pytest.mark.parametrize("form", [pkt.SEGMENTED_LATER, pkt.SEGMENTED_LATER | pkt.CHECKSUM_NOT_READY])
def test_a_large_tcp_packet_that_is_delivered_here_is_summed(form):
    packet = request(packets.tcp(CLIENT, VIP, "A", bytes(range(250)) * 80, checksum="pseudo"), form, True)

    assert read(packet).checksums_right


@pytest.mark.parametrize("form", [pkt.SEGMENTED_LATER, pkt.SEGMENTED_LATER | pkt.CHECKSUM_NOT_READY])
def test_a_large_udp_packet_keeps_a_pseudo_header_sum_of_the_new_address(form):
    payload = bytes(20000)
    packet = request(packets.udp(CLIENT, VIP, payload, checksum="pseudo"), form)

    assert checksum_of(packet) == checksum_of(packets.udp(CLIENT, RIP, payload, checksum="pseudo"))


def test_an_unverified_checksum_is_adjusted_not_repaired():
    packet = request(packets.tcp(CLIENT, VIP, checksum=0x1234), pkt.CHECKSUM_NOT_VERIFIED)

    assert not read(packet).checksums_right


def test_the_same_address_and_port_change_nothing():
    before = packets.tcp(CLIENT, RIP, "A", b"data")

    assert request(bytearray(before)) == before
    assert pkt.get32(before, pkt.IP_DESTINATION) == address("192.168.20.1")


# ---- SCTP ----------------------------------------------------------------------------------------------


def sctp(checksum: int | None = None) -> bytearray:
    """Return an INIT from the client to port 80 of the VIP, with the right checksum or with *checksum*."""
    segment = bytearray.fromhex("9c400050 00000000 00000000 01000014 00000001 0000ffff 00010001 00000001")
    segment[8:12] = crc_of(bytes(segment)) if checksum is None else checksum.to_bytes(4, "big")
    return packets.ipv4(132, address("192.168.10.9"), address("192.168.10.1"), segment)


def crc_of(segment: bytes) -> bytes:
    """Return the checksum of *segment*, in which that field is zero, as dpkt would send it."""
    return dpkt.crc32c.done(dpkt.crc32c.add(0xFFFFFFFF, segment)).to_bytes(4, "big")


def crc_is_right(packet: bytes) -> bool:
    """Return True when the SCTP checksum is what dpkt computes."""
    return packet[28:32] == crc_of(bytes(packet[20:28]) + bytes(4) + bytes(packet[32:]))


@pytest.mark.parametrize("checksum", [None, 0xBAD])
def test_an_sctp_checksum_does_not_care_for_addresses(checksum):
    before = sctp(checksum)

    packet = request(bytearray(before), server="192.168.20.1:80")

    assert packet[16:20] == bytes([192, 168, 20, 1])
    assert packet[20:] == before[20:]
    assert packets.ones_complement_sum(packet[:20]) == 0xFFFF


@pytest.mark.parametrize("checksum", [None, 0xBAD])
def test_an_sctp_checksum_is_computed_when_the_port_changes(checksum):
    """And so a wrong one becomes right, as in the kernel."""
    packet = request(sctp(checksum))

    assert pkt.get16(packet, 22) == 8080
    assert crc_is_right(packet)


def test_an_unfinished_sctp_checksum_is_computed():
    assert crc_is_right(request(sctp(0), pkt.CHECKSUM_NOT_READY, server="192.168.20.1:80"))


def test_a_large_sctp_packet_keeps_its_checksum_field():
    packet = request(sctp(0xBAD), pkt.SEGMENTED_LATER | pkt.CHECKSUM_NOT_READY)

    assert (pkt.get16(packet, 22), packet[28:32]) == (8080, (0xBAD).to_bytes(4, "big"))


def test_an_sctp_reply_comes_from_the_virtual_service():
    packet = sctp()

    nat.to_client(packet, len(packet), *endpoint("10.9.8.7:65535"), 0, False)

    assert (packet[12:16], pkt.get16(packet, 20)) == (bytes([10, 9, 8, 7]), 65535)
    assert crc_is_right(packet)
