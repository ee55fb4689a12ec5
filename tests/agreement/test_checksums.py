"""What NAT writes sums up to what a receiver expects, for any packet of either family and any form of checksum."""
from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbq import packet as pkt
from lbq.modes import nat
from tests.helpers import packets, sampled
from tests.helpers.packets import CHECKSUM_AT, TCP, UDP

addresses = st.integers(0, 2**128 - 1)      # for IPv4 the last four bytes of one
extensions = st.lists(st.integers(0, 3).map(lambda units: (60, bytes([0, units, *bytes(6 + 8 * units)]))), max_size=2)
ports = st.integers(0, 0xFFFF)
sampling = settings(max_examples=max(200, sampled.STEPS // 400), deadline=None, derandomize=not sampled.IS_FULL,
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
    """Return an IPv4 or IPv6 packet whose TCP or UDP checksum field holds *checksum*."""
    protocol, segment = draw(segments())
    six = draw(st.booleans())
    ends = [draw(addresses) >> (0 if six else 96) for _ in range(2)]
    options = {"extensions": draw(extensions)} if six else {"ip_options": b"\x01" * 4 * draw(st.integers(0, 10))}
    return packets.ip(six, protocol, *ends, segment, checksum, tos=draw(st.integers(0, 255)),
                      ttl=draw(st.integers(1, 255)), **options)


def rewrite(packet: bytearray, towards_server: bool, ip: int, port: int, form: int, delivered_here: bool):
    """Rewrite *packet* in one direction or the other."""
    sampled.COUNTED["checksums: packets rewritten"] += 1
    if is_ipv6(packet):
        go = nat.to_real_server6 if towards_server else nat.to_client6
        go(packet, *packets.transport6(packet), len(packet), ip.to_bytes(16, "big"), port, form, delivered_here)
    else:
        go = nat.to_real_server if towards_server else nat.to_client
        go(packet, len(packet), ip >> 96, port, form, delivered_here)


def by_hand(packet: bytes, towards_server: bool, ip: int, port: int) -> bytearray:
    """Return *packet* with the address and port replaced, nothing else."""
    packet = bytearray(packet)
    first, size = (8, 16) if is_ipv6(packet) else (12, 4)
    at_address, at_port = first + towards_server * size, transport_of(packet)[1] + towards_server * 2
    packet[at_address:at_address + size] = ip.to_bytes(16, "big")[:size]
    packet[at_port:at_port + 2] = port.to_bytes(2, "big")
    return packet


def is_ipv6(packet: bytes) -> bool:
    """Return True when this is an IPv6 packet."""
    return packet[0] >> 4 == 6


def transport_of(packet: bytes) -> tuple[int, int]:
    """Return the protocol in *packet* and where its header starts."""
    return packets.transport6(packet) if is_ipv6(packet) else (packet[9], (packet[0] & 15) * 4)


def field_of(packet: bytes) -> slice:
    """Return where the TCP or UDP checksum is."""
    protocol, header = transport_of(packet)
    return slice(header + CHECKSUM_AT[protocol], header + CHECKSUM_AT[protocol] + 2)


@sampling
@given(queued("right"), st.booleans(), addresses, ports, st.sampled_from((0, 4)), st.booleans())
def test_a_right_checksum_stays_right(packet, towards_server, ip, port, form, delivered_here):
    expected = by_hand(packet, towards_server, ip, port)
    fields = [field_of(packet)] if is_ipv6(packet) else [slice(10, 12), field_of(packet)]

    rewrite(packet, towards_server, ip, port, form, delivered_here)

    assert sums_of(packet) == [0xFFFF] * len(fields)
    for part in fields:
        packet[part] = expected[part] = bytes(2)
    assert packet == expected


@sampling
@given(queued("right"), st.booleans(), addresses, ports)
def test_a_udp_checksum_is_never_zero(packet, towards_server, ip, port):
    rewrite(packet, towards_server, ip, port, 0, False)

    assert transport_of(packet)[0] == TCP or packet[field_of(packet)] != bytes(2)


@sampling
@given(queued("pseudo"), st.booleans(), addresses, ports, st.booleans())
def test_an_unfinished_checksum_is_finished(packet, towards_server, ip, port, delivered_here):
    rewrite(packet, towards_server, ip, port, pkt.CHECKSUM_NOT_READY, delivered_here)

    assert set(sums_of(packet)) == {0xFFFF}


@sampling
@given(queued("none"), st.booleans(), addresses, ports)
def test_udp_without_a_checksum_gets_one(packet, towards_server, ip, port):
    rewrite(packet, towards_server, ip, port, 0, False)

    assert transport_of(packet)[0] == TCP or segment_sum(packet) == 0xFFFF


@sampling
@given(queued(0xBEEF) | queued("pseudo"), st.booleans(), addresses, ports, st.sampled_from((2, 3, 6, 7)))
def test_a_large_packet_that_leaves_is_ready_for_segmentation(packet, towards_server, ip, port, form):
    """TCP: the field is left alone.  UDP: it goes from one pseudo-header sum to the other."""
    before = bytes(packet)

    rewrite(packet, towards_server, ip, port, form, False)

    old, new = (int.from_bytes(content[field_of(packet)], "big") for content in (before, packet))
    if transport_of(packet)[0] == TCP:
        assert new == old
    else:
        moved = packets.ones_complement_sum(pseudo_header(packet)) - packets.ones_complement_sum(pseudo_header(before))
        assert (new - old - moved) % 0xFFFF == 0
    assert set(sums_of(packet)[1:]) <= {0xFFFF}


@sampling
@given(queued("pseudo"), st.booleans(), addresses, ports, st.sampled_from((2, 3)))
def test_a_large_tcp_packet_that_stays_is_summed(packet, towards_server, ip, port, form):
    rewrite(packet, towards_server, ip, port, form, True)

    assert transport_of(packet)[0] == UDP or segment_sum(packet) == 0xFFFF


@sampling
@given(queued(0x1234), st.booleans(), addresses, ports)
def test_a_wrong_checksum_is_wrong_by_as_much_as_before(packet, towards_server, ip, port):
    before = segment_sum(packet)

    rewrite(packet, towards_server, ip, port, 0, False)

    assert (segment_sum(packet) - before) % 0xFFFF == 0


def sums_of(packet: bytes) -> list[int]:
    """Return the sum over the segment, and for IPv4 that over the IP header; ffff means that the checksum is right."""
    return [segment_sum(packet)] + ([] if is_ipv6(packet) else [
        packets.ones_complement_sum(packet[:(packet[0] & 15) * 4])])


def segment_sum(packet: bytes) -> int:
    """Return the sum a receiver computes."""
    return packets.ones_complement_sum(pseudo_header(packet) + bytes(packet[transport_of(packet)[1]:]))


def pseudo_header(packet: bytes) -> bytes:
    """Return what a transport checksum covers besides the segment."""
    protocol, header = transport_of(packet)
    length = len(packet) - header
    if is_ipv6(packet):
        return bytes(packet[8:40]) + length.to_bytes(4, "big") + protocol.to_bytes(4, "big")
    return bytes(packet[12:20]) + bytes([0, protocol]) + length.to_bytes(2, "big")
