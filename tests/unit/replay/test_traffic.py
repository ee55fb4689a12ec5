"""Flows out of captured packets: who is the client, where one ends and the next begins, what does not count."""
from __future__ import annotations

import io
import os

import pytest

from lbq.errors import ConfigError
from lbq.grammar import parse_service
from lbq.model import SCTP, TCP, UDP
from lbq.replay import capture
from lbq.replay import traffic as traffic_module
from lbq.replay.traffic import ACK, LAST, REPLY, SYN, Endpoint, Reader, Traffic, endpoint
from tests.helpers.captures import connection, in_order, pcap, question, sctp
from tests.helpers.packets import address, ipv4, ipv6, tcp, udp

VIP, CLIENT = "192.168.10.1:80", "192.168.10.9:40000"
WEB = endpoint(parse_service(VIP))


def read(packets, wanted: Endpoint | None = None, link: int = 101, ops: bool = False) -> Traffic:
    """Return the flows in a capture of *packets*."""
    traffic = Traffic()
    Reader(traffic, wanted, ops).read(capture.Pieces(io.BytesIO(pcap(packets, link)), "x.pcap"), lambda _: None)
    return traffic


def test_a_connection_is_a_flow_with_all_its_packets():
    traffic = read(connection(CLIENT, VIP, 1, 4, data=2))

    assert traffic.endpoints == [WEB] and traffic.endpoints[0].key() == parse_service(VIP)
    assert traffic.clients == [bytes([192, 168, 10, 9]) + (40000).to_bytes(2)]
    assert list(traffic.kinds)[:3] == [SYN, REPLY | SYN | ACK, ACK] and len(traffic.kinds) == 8
    assert traffic.times[0] == 0 and list(traffic.last) == [3 * 10**9]
    assert list(traffic.packets) == [8] and list(traffic.octets) == [8 * 40 + 2 * 10]


def test_a_syn_after_the_end_begins_another_flow_and_a_repeated_one_does_not():
    again = [(8, tcp(CLIENT, VIP, "S")), (9, tcp(CLIENT, VIP, "S"))]
    traffic = read(in_order(connection(CLIENT, VIP, 0, 2), again))

    assert list(traffic.numbers) == [0] * 6 + [1] * 2


def test_a_syn_after_a_long_silence_begins_another_flow():
    traffic = read([(0, tcp(CLIENT, VIP, "S")), (119, tcp(CLIENT, VIP, "S")), (300, tcp(CLIENT, VIP, "S"))])

    assert list(traffic.numbers) == [0, 0, 1]


def test_datagrams_are_one_flow_until_lbq_would_have_forgotten_it():
    dns = "192.168.10.1:53"
    traffic = read([*question(CLIENT, dns, 0, 1), *question(CLIENT, dns, 300, 301), *question(CLIENT, dns, 601, 605)])

    assert list(traffic.numbers) == [0, 0, 0, 0, 1, 1]
    assert [bool(kind & REPLY) for kind in traffic.kinds] == [False, True] * 3


def test_each_datagram_of_a_client_is_a_flow_where_they_are_scheduled_one_by_one():
    asked = in_order(question(CLIENT, "192.168.10.1:53", 0, 1), question(CLIENT, "192.168.10.1:53", 2, 3),
                     connection("192.168.10.9:40001", VIP, 0, 4))
    traffic = read(asked, ops=True)

    assert [number for number, kind in zip(traffic.numbers, traffic.kinds, strict=True)
            if traffic.endpoints[traffic.places[number]].protocol == UDP] == [0, 0, 2, 2]
    assert len(traffic.clients) == 3


def test_a_connection_that_had_begun_before_does_not_count():
    traffic = read([(0, tcp(CLIENT, VIP, "A")), (1, tcp(VIP, CLIENT, "PA")), (2, tcp(VIP, CLIENT, "SA"))])

    assert traffic.clients == [] and traffic.ignored["before"] == 3


def test_only_what_was_wanted_counts():
    other = connection("192.168.10.9:40001", "192.168.10.2:80", 0, 1)
    traffic = read(in_order(connection(CLIENT, VIP, 0, 2), other), WEB)

    assert len(traffic.clients) == 1 and traffic.ignored["elsewhere"] == 6


def test_an_answer_whose_question_was_not_captured_is_no_flow_to_its_client():
    dns = "192.168.10.1:53"
    traffic = read([(0, udp(dns, CLIENT, b"!"))], endpoint(parse_service(f"udp:{dns}")))

    assert traffic.clients == [] and traffic.ignored["before"] == 1


def test_the_busiest_has_most_flows_not_most_packets():
    chatty = connection("192.168.10.9:40001", "192.168.10.2:80", 0, 1, data=50)
    traffic = read(in_order(chatty, connection(CLIENT, VIP, 0, 2), connection("192.168.10.8:1", VIP, 0, 2)))

    assert traffic.busiest() == WEB
    traffic.only(WEB)
    assert len(traffic.clients) == 2 == len(traffic.first) and set(traffic.numbers) == {0, 1}
    assert len(traffic.times) == len(traffic.kinds) == 12 and traffic.ignored["elsewhere"] == 56


def test_the_last_packet_of_each_flow_is_marked():
    traffic = read(in_order(connection(CLIENT, VIP, 0, 2), connection("192.168.10.8:1", VIP, 1, 3)))
    traffic.mark_ends()

    marked = [number for number, kind in zip(traffic.numbers, traffic.kinds, strict=True) if kind & LAST]
    assert marked == [0, 1] and traffic.kinds[-1] & LAST


def test_ipv6_behind_extension_headers_and_in_fragments():
    client, vip = "[2001:db8::9]:40000", "[2001:db8::1]:80"
    syn = tcp(client, vip, "S")
    extended = [(60, bytes(8)), (44, bytes([0, 0, 0, 1, 0, 0, 0, 7]))]
    later = ipv6(TCP, address("2001:db8::9"), address("2001:db8::1"), bytes(40),
                 extensions=[(44, bytes([0, 0, 0, 8, 0, 0, 0, 7]))])
    traffic = read([(0, syn), (1, tcp(client, vip, "A", extensions=extended)), (2, later)])

    assert list(traffic.numbers) == [0, 0] and list(traffic.kinds) == [SYN, ACK]
    assert traffic.ignored["fragments"] == 1
    assert traffic.endpoints[0].key() == parse_service(vip)


def test_ipv4_options_and_fragments():
    traffic = read([(0, tcp(CLIENT, VIP, "S", ip_options=bytes(8))), (1, tcp(CLIENT, VIP, "A", fragment=0x2000)),
                    (2, tcp(CLIENT, VIP, "A", fragment=0x0002))])

    assert list(traffic.kinds) == [SYN, ACK] and traffic.ignored["fragments"] == 1


def test_sctp_kinds_are_chunk_types_and_an_abort_behind_a_cookie_is_one():
    traffic = read([(0, sctp(CLIENT, VIP, 1)), (1, sctp(VIP, CLIENT, 2)), (2, sctp(CLIENT, VIP, 10, 6)),
                    (3, sctp(CLIENT, VIP, 1)), (4, sctp(CLIENT, VIP))])

    assert traffic.endpoints[0].protocol == SCTP
    assert list(traffic.kinds) == [1, REPLY | 2, 6, 1, 0] and list(traffic.numbers) == [0, 0, 0, 1, 1]


def test_what_is_not_played_is_counted():
    icmp = ipv4(1, address("192.168.10.9"), address("192.168.10.1"), bytes(8))
    traffic = read([(0, icmp), (1, b"\x45"), (2, b"\xff" * 60), (3, bytes(tcp(CLIENT, VIP, "S"))[:30]),
                    (4, b"\x41" + bytes(39)), (5, bytes(udp(CLIENT, VIP, b""))[:24])])

    assert traffic.clients == []
    assert traffic.ignored == {"other": 1, "not_ip": 3, "short": 2}


def test_clients_on_loopback_get_an_address_that_a_director_takes():
    traffic = read([(0, tcp("127.0.0.9:1", "127.0.0.1:80", "S")), (1, tcp("[::1]:1", "[::1]:80", "S")),
                    (2, tcp("127.0.0.1:80", "127.0.0.9:1", "SA"))])

    assert traffic.clients == [bytes([10, 0, 0, 9, 0, 1]), b"\x0a" + bytes(14) + b"\x01\0\1"] and traffic.loopback == 2
    assert list(traffic.numbers) == [0, 1, 0]


def test_what_goes_to_many_hosts_is_no_flow():
    traffic = read([(0, udp(CLIENT, "224.0.0.251:5353", b"?")), (1, udp(CLIENT, "255.255.255.255:67", b"?")),
                    (2, udp("[2001:db8::9]:1", "[ff02::fb]:5353", b"?"))])

    assert traffic.clients == [] and traffic.ignored["many"] == 3


def test_what_goes_to_port_0_is_for_no_service():
    traffic = read([(0, udp(CLIENT, "192.168.10.1:0", b"?")), (1, tcp(CLIENT, "192.168.10.1:0", "S"))])

    assert traffic.clients == [] and traffic.ignored["port"] == 2


def test_time_never_goes_back():
    packets = connection(CLIENT, VIP, 5, 6)
    traffic = read([*packets, (0, udp(CLIENT, VIP, b"late"))])

    assert list(traffic.times) == sorted(traffic.times)
    assert traffic.endpoints[1].protocol == UDP


def test_a_capture_that_would_fill_the_memory_is_refused(monkeypatch):
    packets = [(number, tcp(f"10.0.0.{number}:1", VIP, "S")) for number in range(8)]
    monkeypatch.setattr(traffic_module, "ROUND", 4)
    monkeypatch.setattr(traffic_module, "MEMORY", 4 * (traffic_module.FLOW_BYTES + traffic_module.PACKET_BYTES))
    assert len(read(packets[:4]).clients) == 4

    with pytest.raises(ConfigError, match=r"x\.pcap does not fit into this machine's memory: 7 packets of 7 flows"):
        read(packets)


@pytest.mark.parametrize(("limit", "expected"), [
    ("4096\n", 4096), ("max\n", None), (f"{1 << 62}\n", None), (None, None)])
def test_a_container_may_have_less_memory_than_its_machine(tmp_path, limit, expected):
    whole = traffic_module.memory(tmp_path / "nothing")
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert traffic_module.memory(tmp_path / "memory.max") == (expected or whole)
