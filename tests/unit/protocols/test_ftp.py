"""lbq.protocols.ftp: what client and server say, what the client hears instead, and how the numbers shift."""
from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq.model import AF_INET, AF_INET6
from lbq.protocols import ftp
from tests.helpers import packets
from tests.helpers.packets import address

CLIENT, VIP, RIP = "192.168.10.9:40000", "192.168.10.1:21", "192.168.20.1:21"
SERVER = address("192.168.20.1")
CLIENT6, VIP6, RIP6 = "[2001:db8:a::9]:40000", "[2001:db8:a::1]:21", "[2001:db8:b::1]:21"
SERVER6 = address("2001:db8:b::1")
PASSIVE = b"227 Entering Passive Mode (192,168,20,1,156,64).\r\n"
EXTENDED = b"229 Entering Extended Passive Mode (|||40000|)\r\n"


# ---- What the client says ------------------------------------------------------------------------------


@pytest.mark.parametrize(("payload", "answer"), [
    (b"PASV\r\n", ftp.PASV), (b"pasv\r\n", ftp.PASV), (b"TYPE I\r\nPaSv\r\n", ftp.PASV), (b"xxPASV\r\n", ftp.PASV),
    (b"EPSV\r\n", ftp.EPSV), (b"EPSV 1\r\n", ftp.EPSV), (b"epsv 1\r\n", ftp.EPSV), (b"NOOP\r\nEPSV\r\n", ftp.EPSV),
    (b"PASV\n", None), (b"PASV", None), (b"PASV \r\n", None), (b"EPSV\r", None), (b"EPSV 2\r\n", None),
    (b"EPSV ALL\r\n", None), (b"EPSV\n\n", None), (b"EPSV 1", None), (b"", None), (b"USER me\r\n", None),
    (b"EPSV 2\r\nPASV\r\n", None), (b"PASV\r\nEPSV\r\n", ftp.PASV), (b"EPSV\r\nPASV\r\n", ftp.EPSV)])
def test_asking_for_a_passive_connection(payload, answer):
    assert ftp.asks_passive(payload, AF_INET) == answer


@pytest.mark.parametrize(("payload", "where"), [
    (b"PORT 192,168,10,9,4,1\r\n", ("192.168.10.9", 1025)),
    (b"port 192,168,10,9,4,1\r\n", ("192.168.10.9", 1025)),
    (b"PORT   1,2,3,4,255,255\n", ("1.2.3.4", 65535)),
    (b"PORT 1,2,3,4,5,6,7\r\n", ("1.2.3.4", 1286)),
    (b"PORT 1,2,3,4,,6\r\n", ("1.2.3.4", 6)),                       # the kernel reads no digits as 0
    (b"EPRT |1|192.168.10.9|1025|\r\n", ("192.168.10.9", 1025)),
    (b"eprt !1!1.2.3.4!65535!\r\n", ("1.2.3.4", 65535)),
    (b"PORT 1,2,3,4,5\r\n", None), (b"PORT 1,2,3,4,5,6", None), (b"PORT 256,2,3,4,5,6\r\n", None),
    (b"PORT 1,2,3,4,5,256\r\n", None), (b"PORT 1,2,3,4,5,99999999999999999999\r\n", None),
    (b"PORT a,2,3,4,5,6\r\n", None), (b"NOOP\r\nPORT 1,2,3,4,5,6\r\n", None), (b"", None),
    (b"EPRT |2|::1|1025|\r\n", None), (b"EPRT |1|1.2.3|1025|\r\n", None), (b"EPRT |1|1.2.3.256|1025|\r\n", None),
    (b"EPRT |1|1.2.3.4|65536|\r\n", None), (b"EPRT |1|1.2.3.4|0|\r\n", None), (b"EPRT |1|1.2.3.4|1025!\r\n", None),
    (b"EPRT |||1025|\r\n", None), (b"EPRT .1.1.2.3.4.5.\r\n", None), (b"EPRT|1|1.2.3.4|5|\r\n", None)])
def test_saying_where_an_active_connection_goes(payload, where):
    announced = ftp.announces_active(payload)

    assert announced == (where and ftp.Announced(address(where[0]), where[1]))


@pytest.mark.parametrize(("payload", "answer"), [
    (b"PASV\r\n", None), (b"EPSV\r\n", ftp.EPSV), (b"epsv 2\r\n", ftp.EPSV), (b"PASV\r\nEPSV\r\n", ftp.EPSV),
    (b"EPSV 1\r\n", None), (b"EPSV ALL\r\n", None), (b"EPSV\n\n", None), (b"EPSV", None), (b"", None)])
def test_asking_for_a_passive_connection_over_ipv6(payload, answer):
    assert ftp.asks_passive(payload, AF_INET6) == answer


@pytest.mark.parametrize(("payload", "where"), [
    (b"EPRT |2|2001:db8:a::9|1025|\r\n", ("2001:db8:a::9", 1025)),
    (b"eprt  !2!::ffff:1.2.3.4!65535!\r\n", ("::ffff:1.2.3.4", 65535)),
    (b"EPRT |1|192.168.10.9|1025|\r\n", None), (b"EPRT |2|192.168.10.9|1025|\r\n", None),
    (b"PORT 192,168,10,9,4,1\r\n", None), (b"EPRT |2|2001:db8:a:9|1025|\r\n", None), (b"EPRT |2||1025|\r\n", None),
    (b"EPRT |2|::1|0|\r\n", None), (b"EPRT |2|::1|65536|\r\n", None), (b"EPRT |2|::1|99999999999|\r\n", None),
    (b"EPRT :2:::1:1025:\r\n", None), (b"EPRT |2|::1|1025", None), (b"NOOP\r\nEPRT |2|::1|1025|\r\n", None)])
def test_saying_where_an_active_connection_goes_over_ipv6(payload, where):
    announced = ftp.announces_active(payload, AF_INET6)

    assert announced == (where and ftp.Announced(address(where[0]), where[1]))


# ---- What the server says ------------------------------------------------------------------------------


@pytest.mark.parametrize(("payload", "where", "words"), [
    (PASSIVE, ("192.168.20.1", 40000), b"192,168,20,1,156,64"),
    (b"227 Ok 10,0,0,1,1,0\r\n", ("10.0.0.1", 256), b"10,0,0,1,1,0"),
    (b"227 =10,0,0,1,1,0\r\n", ("10.0.0.1", 256), b"10,0,0,1,1,0"),
    (b"227 Ok (10,0,0,1,256,0)\r\n", None, b""), (b"227 Ok (10,0,0,256,1,0)\r\n", None, b""),
    (b"227 2nd (10,0,0,1,1,0)\r\n", None, b""), (b"227 Ok (10,0,0,1,1,0", None, b""), (b"228 (1,2,3,4,5,6)", None, b""),
    (b" 227 Ok (10,0,0,1,1,0)\r\n", None, b""), (EXTENDED, None, b"")])
def test_the_reply_to_pasv(payload, where, words):
    announced = ftp.announces_passive(payload, ftp.PASV, SERVER)

    assert announced is None if where is None else announced[:2] == (address(where[0]), where[1])
    assert announced is None or payload[announced.start:announced.end] == words


@pytest.mark.parametrize(("payload", "port", "words"), [
    (EXTENDED, 40000, b"|||40000|"), (b"229 (!!!1!)", 1, b"!!!1!"), (b"229 ((|||65535|)", 65535, b"|||65535|"),
    (b"229 Ok (|||65536|)\r\n", None, b""), (b"229 Ok (|||0|)\r\n", None, b""), (b"229 Ok (|||40000)\r\n", None, b""),
    (b"229 Ok (||40000|)\r\n", None, b""), (b"229 Ok |||40000|\r\n", None, b""), (b"229 (|||9999999999|)", None, b""),
    (b"229 Ok (11140001)\r\n", None, b""), (PASSIVE, None, b"")])
def test_the_reply_to_epsv(payload, port, words):
    announced = ftp.announces_passive(payload, ftp.EPSV, SERVER)

    assert announced is None if port is None else announced[:2] == (SERVER, port)
    assert announced is None or payload[announced.start:announced.end] == words


def test_what_the_client_hears_instead():
    assert ftp.words_for(ftp.PASV, address("192.168.10.1"), 40000) == b"192,168,10,1,156,64"
    assert ftp.words_for(ftp.EPSV, address("192.168.10.1"), 40000) == b"|||40000|"


@settings(deadline=None)
@given(st.integers(0, 0xFFFFFFFF), st.integers(1, 0xFFFF), st.sampled_from((ftp.PASV, ftp.EPSV)))
def test_what_the_client_hears_is_what_a_server_would_say(ip, port, mode):
    announced = ftp.announces_passive(mode.encode() + b"(" + ftp.words_for(mode, ip, port) + b")\r\n", mode, ip)

    assert announced[:2] == (ip, port)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from((b"", b"PASV", b"EPSV ", b"PORT ", b"EPRT |1|", b"227 (", b"229 (|||")),
       st.binary(max_size=40) | st.text("0123456789,.|()\r\n", max_size=40).map(str.encode))
def test_no_words_make_it_fail(start, rest):
    assert ftp.asks_passive(start + rest) in (None, ftp.PASV, ftp.EPSV)
    for announced in (ftp.announces_active(start + rest), ftp.announces_passive(start + rest, ftp.PASV, 0),
                      ftp.announces_passive(start + rest, ftp.EPSV, 0)):
        assert announced is None or max(announced.address >> 32, announced.port >> 16) == 0
    assert ftp.asks_passive(start + rest, AF_INET6) in (None, ftp.EPSV)
    announced = ftp.announces_active(start + rest, AF_INET6)
    assert announced is None or announced.port >> 16 == 0


@pytest.mark.timeout(10)
def test_long_words_are_read_in_no_time():
    """A segment of 64 KiB that almost is an announcement must not cost more than reading it."""
    for payload in (b"227 " + b"(" * 65000, b"PORT" + b" " * 65000, b"EPRT" + b" " * 65000, b"229 " + b"(" * 65000,
                    b"PORT " + b"1" * 65000, b"EPRT |1|" + b"1." * 32000, b"EPSV" * 16000, b"227 (" + b"1," * 32000,
                    b"EPRT |2|" + b"1:" * 32000, b"EPRT |2|::1|" + b"1" * 65000):
        for family in (AF_INET, AF_INET6):
            ftp.asks_passive(payload, family)
            ftp.announces_active(payload, family)
        ftp.announces_passive(payload, ftp.PASV, 0)
        ftp.announces_passive(payload, ftp.EPSV, 0)


# ---- The shift of sequence numbers ---------------------------------------------------------------------


def test_without_a_change_of_length_nothing_shifts():
    shift = ftp.SequenceShift()
    shift.add(1000, 0)

    assert not shift.is_needed()
    assert (shift.for_client(5000), shift.for_server(5000)) == (5000, 5000)


def test_what_is_sent_after_a_longer_reply_shifts():
    """The reply at 1000 grew from 50 to 53 bytes."""
    shift = ftp.SequenceShift()
    shift.add(1000, 3)

    assert [shift.for_client(number) for number in (900, 1000, 1001, 1050)] == [900, 1000, 1004, 1053]
    assert [shift.for_server(number) for number in (900, 1000, 1053, 1100)] == [900, 1000, 1050, 1097]


def test_a_reply_sent_again_shifts_once():
    shift = ftp.SequenceShift()
    for sequence in (1000, 1000, 900):
        shift.add(sequence, 3)

    assert shift.for_client(1050) == 1053


def test_two_changes_are_told_apart_and_a_third_forgets_the_first():
    shift = ftp.SequenceShift()
    shift.add(1000, 3)
    shift.add(2000, -1)

    assert [shift.for_client(number) for number in (1500, 2000, 2050)] == [1503, 2003, 2052]

    shift.add(3000, 5)

    assert [shift.for_client(number) for number in (2500, 3000, 3050)] == [2502, 3002, 3057]


def test_numbers_go_round():
    shift = ftp.SequenceShift()
    shift.add(0xFFFFFFF0, 3)

    assert shift.for_client(0xFFFFFFFE) == 1
    assert shift.for_server(1) == 0xFFFFFFFE


@settings(deadline=None)
@given(st.integers(0, 0xFFFFFFFF), st.lists(st.tuples(st.integers(40, 90), st.integers(-10, 10)), max_size=20))
def test_an_acknowledgement_comes_back_as_the_number_that_was_sent(sequence, replies):
    """The two sides' views of a stream in which every reply is acknowledged before the next."""
    shift, clients = ftp.SequenceShift(), sequence
    for length, difference in replies:
        shift.add(sequence, difference)
        assert shift.for_client(sequence) == clients
        sequence, clients = (sequence + length) & 0xFFFFFFFF, (clients + length + difference) & 0xFFFFFFFF

        assert shift.for_server(clients) == sequence
        assert shift.for_client(sequence) == clients


# ---- A control connection ------------------------------------------------------------------------------


def fields(packet: bytes) -> tuple[int, int]:
    """Return sequence and acknowledgement number."""
    return struct.unpack_from("!II", packet, (packet[0] & 15) * 4 + 4)


def payload_of(packet: bytes) -> bytes:
    """Return what a segment carries."""
    header = (packet[0] & 15) * 4
    return bytes(packet[header + (packet[header + 12] >> 4) * 4:])


def asked(command: bytes = b"PASV\r\n") -> ftp.Control:
    """Return a control connection whose client has said *command*."""
    control = ftp.Control()
    assert control.from_client(packets.tcp(CLIENT, VIP, "PA", command), True) is None
    return control


def answered(control: ftp.Control, packet: bytearray) -> ftp.Announced | None:
    """Let the server's segment through and return what it announced."""
    announced = control.from_server(packet, True, SERVER)
    control.answer_client(packet, announced, address("192.168.10.1"), announced.port if announced else 0)
    return announced


@pytest.mark.parametrize(("command", "reply", "heard"), [
    (b"PASV\r\n", PASSIVE, b"227 Entering Passive Mode (192,168,10,1,156,64).\r\n"),
    (b"EPSV\r\n", EXTENDED, EXTENDED)])
def test_the_client_hears_the_vip(command, reply, heard):
    packet = packets.tcp(RIP, CLIENT, "PA", reply, options=b"\x01" * 12, ip_options=b"\x01" * 4)

    announced = answered(asked(command), packet)

    assert announced[:2] == (SERVER, 40000)
    assert payload_of(packet) == heard
    assert packets.with_right_checksums(packet) == packet


@pytest.mark.parametrize("extensions", [[], [(60, b"\x3b\x00\x01\x04" + bytes(4))]])
def test_over_ipv6_behind_extension_headers_a_longer_reply_shifts_both_directions(extensions):
    """The client hears one byte more: the port is written with five digits."""
    control, reply = ftp.Control(), b"229 Ok (|||8080|)\r\n"
    control.from_client(packets.tcp(CLIENT6, VIP6, "PA", b"EPSV 2\r\n", extensions=extensions), True)
    packet = packets.tcp(RIP6, CLIENT6, "PA", reply, sequence=1000, extensions=extensions)

    announced = control.from_server(packet, True, SERVER6)
    control.answer_client(packet, announced, address("2001:db8:a::1"), 40000)
    answer = packets.tcp(CLIENT6, VIP6, "A", extensions=extensions)
    at = 40 + 8 * len(extensions)
    struct.pack_into("!I", answer, at + 8, 1000 + len(reply) + 1)
    control.from_client(answer, True)

    assert announced[:2] == (SERVER6, 8080)
    assert packet[at + 20:] == b"229 Ok (|||40000|)\r\n"
    assert struct.unpack_from("!H", packet, 4)[0] == len(packet) - 40
    assert struct.unpack_from("!I", answer, at + 8) == (1000 + len(reply),)
    assert [packets.sum6(content) for content in (packet, answer)] == [0xFFFF] * 2


def test_a_reply_that_nobody_asked_for_is_left_alone():
    before = packets.tcp(RIP, CLIENT, "PA", PASSIVE)
    for control in (ftp.Control(), asked(b"EPSV\r\n"), asked(b"NOOP\r\n")):
        packet = bytearray(before)

        assert answered(control, packet) is None
        assert packet == before


def test_only_the_first_reply_is_changed():
    control = asked()
    answered(control, packets.tcp(RIP, CLIENT, "PA", PASSIVE, sequence=1000))

    assert answered(control, packets.tcp(RIP, CLIENT, "PA", PASSIVE, sequence=2000)) is None


@pytest.mark.parametrize("asks_again", [False, True])
def test_a_reply_that_is_sent_again_says_the_same_again(asks_again):
    """The client may have lost the first one; where it has not, more bytes would be of the next reply."""
    control = asked()
    first, again = (packets.tcp(RIP, CLIENT, "PA", PASSIVE, sequence=1000) for _ in range(2))
    answered(control, first)
    if asks_again:
        control.from_client(packets.tcp(CLIENT, VIP, "PA", b"PASV\r\n"), True)

    assert answered(control, again) is None
    assert again == first
    later = packets.tcp(RIP, CLIENT, "PA", PASSIVE, sequence=2000)
    assert (answered(control, later) is not None) == asks_again


def test_nothing_is_read_before_the_connection_is_established():
    control = ftp.Control()

    assert control.from_client(packets.tcp(CLIENT, VIP, "PA", b"PORT 1,2,3,4,5,6\r\n"), False) is None
    assert control.from_client(packets.tcp(CLIENT, VIP, "PA", b"PASV\r\n"), False) is None
    assert control.from_server(packets.tcp(RIP, CLIENT, "PA", PASSIVE), True, SERVER) is None
    assert asked().from_server(packets.tcp(RIP, CLIENT, "PA", PASSIVE), False, SERVER) is None


def test_an_active_connection_ends_the_wait_for_a_passive_one():
    control = asked()

    announced = control.from_client(packets.tcp(CLIENT, VIP, "PA", b"PORT 192,168,10,9,4,1\r\n"), True)

    assert announced == ftp.Announced(address("192.168.10.9"), 1025)
    assert answered(control, packets.tcp(RIP, CLIENT, "PA", PASSIVE)) is None


def test_after_a_longer_reply_both_directions_are_renumbered():
    """Three bytes more: what the server sends next is later for the client, what the client acknowledges earlier."""
    reply = b"227 Ok (10,0,0,1,156,64)\r\n"
    control = asked()
    first = packets.tcp(RIP, CLIENT, "PA", reply, sequence=1000)
    answered(control, first)
    grown = len(payload_of(first)) - len(reply)
    assert (grown, fields(first)) == (4, (1000, 2000))

    following = packets.tcp(RIP, CLIENT, "PA", b"150 Here it comes\r\n", sequence=1000 + len(reply))
    answered(control, following)
    assert fields(following) == (1000 + len(payload_of(first)), 2000)

    sack = b"\x01\x01\x05\x12" + struct.pack("!4I", 1040, 1050, 900, 950)
    answer = packets.tcp(CLIENT, VIP, "A", options=sack)
    struct.pack_into("!I", answer, 28, 1000 + len(payload_of(first)))
    answer = bytearray(packets.with_right_checksums(answer))
    control.from_client(answer, True)

    assert fields(answer) == (1000, 1000 + len(reply))
    assert answer[44:60] == struct.pack("!4I", 1036, 1046, 900, 950)
    for packet in (first, following, answer):
        assert packets.with_right_checksums(packet) == packet


def test_a_segment_without_ack_keeps_that_field():
    control = asked()
    answered(control, packets.tcp(RIP, CLIENT, "PA", b"227 Ok (10,0,0,1,156,64)\r\n"))
    reset = packets.tcp(CLIENT, VIP, "R")

    control.from_client(reset, True)

    assert fields(reset) == (1000, 0)


@pytest.mark.parametrize("options", [b"\x05\x00\x01\x01", b"\x05\x01\x01\x01", b"\x05\x20\x01\x01", b"\x01\x01\x01\x05",
                                     b"\x00\x05\x0a\x00"])
def test_tcp_options_that_make_no_sense_are_left_alone(options):
    control = asked()
    answered(control, packets.tcp(RIP, CLIENT, "PA", b"227 Ok (10,0,0,1,156,64)\r\n"))
    packet = packets.tcp(CLIENT, VIP, "A", b"payload", options=options)

    control.from_client(packet, True)

    assert packet[40:] == options + b"payload"


def test_a_packet_that_would_outgrow_ip_is_refused():
    packet = packets.tcp(RIP, CLIENT, "PA", bytes(65495))

    with pytest.raises(ValueError, match="65535 bytes"):
        ftp.replace_payload(packet, 40, 41, b"xy")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 255), st.binary(max_size=60))
def test_no_tcp_header_makes_it_read_outside(offset, rest):
    """The engine has seen 20 bytes of TCP header; its offset field may say anything."""
    stream = random.Random(offset)
    packet = packets.ipv4(6, 1, 2, stream.randbytes(12) + bytes([offset]) + stream.randbytes(7) + rest)
    control = asked()
    control.shift.add(1, 3)

    control.from_client(packet, True)
    answered(control, packet)

    assert len(packet) >= 40
