"""What NAT writes is what dpkt computes from nothing, for any packet and any form of checksum."""
from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbq import packet as pkt
from lbq.modes import nat
from tests.helpers import packets, sampled
from tests.helpers.packets import TCP, UDP, ipv4

FIELD = {TCP: 16, UDP: 6}
addresses = st.integers(0, 0xFFFFFFFF)
ports = st.integers(0, 0xFFFF)
sampling = settings(max_examples=max(200, sampled.STEPS // 400), deadline=None,
                    suppress_health_check=[HealthCheck.too_slow])


@st.composite
def segments(draw):
    """Return (protocol, TCP or UDP bytes with a zero checksum)."""
    protocol = draw(st.sampled_from((TCP, UDP)))
    payload = draw(st.binary(max_size=64) | st.integers(0, 3000).map(lambda size: b"\xff" * size))
    ends = draw(ports).to_bytes(2, "big") + draw(ports).to_bytes(2, "big")
    if protocol == TCP:
        options = b"\x01" * 4 * draw(st.integers(0, 10))
        head = draw(st.binary(min_size=8, max_size=8)) + bytes([(5 + len(options) // 4) << 4])
        flags_and_window = draw(st.binary(min_size=3, max_size=3))
        return TCP, ends + head + flags_and_window + bytes(4) + options + payload
    return UDP, ends + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload


@st.composite
def queued(draw, checksum):
    """Return an IPv4 packet whose TCP or UDP checksum field holds *checksum*."""
    protocol, segment = draw(segments())
    return ipv4(protocol, draw(addresses), draw(addresses), segment, FIELD[protocol], checksum,
                tos=draw(st.integers(0, 255)), ttl=draw(st.integers(1, 255)),
                ip_options=b"\x01" * 4 * draw(st.integers(0, 10)))


def rewrite(packet: bytearray, towards_server: bool, ip: int, port: int, form: int, delivered_here: bool):
    """Rewrite *packet* in one direction or the other."""
    sampled.COUNTED["checksums: packets rewritten"] += 1
    go = nat.to_real_server if towards_server else nat.to_client
    go(packet, len(packet), ip, port, form, delivered_here)


def by_hand(packet: bytes, towards_server: bool, ip: int, port: int) -> bytearray:
    """Return *packet* with the address and port replaced, nothing else."""
    packet = bytearray(packet)
    header = (packet[0] & 15) * 4
    at_address, at_port = (16, header + 2) if towards_server else (12, header)
    packet[at_address:at_address + 4] = ip.to_bytes(4, "big")
    packet[at_port:at_port + 2] = port.to_bytes(2, "big")
    return packet


def field_of(packet: bytes) -> slice:
    """Return where the TCP or UDP checksum is."""
    at = (packet[0] & 15) * 4 + FIELD[packet[9]]
    return slice(at, at + 2)


@sampling
@given(queued("right"), st.booleans(), addresses, ports, st.sampled_from((0, 4)), st.booleans())
def test_a_right_checksum_stays_right(packet, towards_server, ip, port, form, delivered_here):
    expected = bytearray(packets.with_right_checksums(by_hand(packet, towards_server, ip, port)))

    rewrite(packet, towards_server, ip, port, form, delivered_here)

    # 0 and ffff are the same number to a receiver, and incremental arithmetic may end in either.
    for part in (slice(10, 12), field_of(packet)):
        written, computed = (int.from_bytes(content[part], "big") for content in (packet, expected))
        assert written % 0xFFFF == computed % 0xFFFF
        packet[part] = expected[part] = bytes(2)
    assert packet == expected


@sampling
@given(queued("right"), st.booleans(), addresses, ports)
def test_a_udp_checksum_is_never_zero(packet, towards_server, ip, port):
    rewrite(packet, towards_server, ip, port, 0, False)

    assert packet[9] == TCP or packet[field_of(packet)] != bytes(2)


@sampling
@given(queued("pseudo"), st.booleans(), addresses, ports, st.booleans())
def test_an_unfinished_checksum_is_finished(packet, towards_server, ip, port, delivered_here):
    rewrite(packet, towards_server, ip, port, pkt.CHECKSUM_NOT_READY, delivered_here)

    assert packets.ones_complement_sum(packet[:(packet[0] & 15) * 4]) == 0xFFFF
    assert segment_sum(packet) == 0xFFFF


@sampling
@given(queued("none"), st.booleans(), addresses, ports)
def test_udp_without_a_checksum_gets_one(packet, towards_server, ip, port):
    rewrite(packet, towards_server, ip, port, 0, False)

    assert packet[9] == TCP or segment_sum(packet) == 0xFFFF


@sampling
@given(queued(0xBEEF) | queued("pseudo"), st.booleans(), addresses, ports, st.sampled_from((2, 3, 6, 7)))
def test_a_large_packet_that_leaves_is_ready_for_segmentation(packet, towards_server, ip, port, form):
    """TCP: the field is left alone.  UDP: it goes from one pseudo-header sum to the other."""
    before = bytes(packet)

    rewrite(packet, towards_server, ip, port, form, False)

    old, new = (int.from_bytes(content[field_of(packet)], "big") for content in (before, packet))
    if packet[9] == TCP:
        assert new == old
    else:
        moved = pseudo_sum(packet) - pseudo_sum(before)
        assert (new - old - moved) % 0xFFFF == 0
    assert packets.ones_complement_sum(packet[:(packet[0] & 15) * 4]) == 0xFFFF


@sampling
@given(queued("pseudo"), st.booleans(), addresses, ports, st.sampled_from((2, 3)))
def test_a_large_tcp_packet_that_stays_is_summed(packet, towards_server, ip, port, form):
    rewrite(packet, towards_server, ip, port, form, True)

    assert packet[9] == UDP or segment_sum(packet) == 0xFFFF


@sampling
@given(queued(0x1234), st.booleans(), addresses, ports)
def test_a_wrong_checksum_is_wrong_by_as_much_as_before(packet, towards_server, ip, port):
    before = segment_sum(packet)

    rewrite(packet, towards_server, ip, port, 0, False)

    assert (segment_sum(packet) - before) % 0xFFFF == 0


def pseudo_sum(packet: bytes) -> int:
    """Return the pseudo-header sum of *packet*."""
    return packets.ones_complement_sum(pseudo_header(packet))


def segment_sum(packet: bytes) -> int:
    """Return the sum a receiver computes; ffff means that the checksum is right."""
    return packets.ones_complement_sum(pseudo_header(packet) + bytes(packet[(packet[0] & 15) * 4:]))


def pseudo_header(packet: bytes) -> bytes:
    """Return what a transport checksum covers besides the segment."""
    length = len(packet) - (packet[0] & 15) * 4
    return bytes(packet[12:20]) + bytes([0, packet[9]]) + length.to_bytes(2, "big")
