"""What is about other connections: FTP's data, errors about tunnels; and large aggregates by DR and TUN."""
from __future__ import annotations

import struct

import dpkt
import pytest

from lbq.model import CLASSIC, DR, GUE, NEW, NOCSUM, TUN, Verdict
from lbq.packet import CHECKSUM_NOT_READY, SEGMENTED_LATER
from tests.helpers import engines, packets
from tests.helpers.cases import (
    WEB,
    Case,
    Seen,
    call,
    client,
    comes_from,
    command,
    connection,
    connections,
    dropped,
    local_addresses,
    passed,
    routes,
    server,
    service,
    shows,
    to,
    wait,
)
from tests.helpers.packets import address, endpoint

FTP, CONTROL, RIP = "tcp:192.168.10.1:21", "192.168.10.1:21", "192.168.20.1:21"
GSO = SEGMENTED_LATER | CHECKSUM_NOT_READY
LARGE = bytes(range(250)) * 20
VIP = "192.168.10.1"


def by(mode, tunnel=(0, 0, NOCSUM)):
    """Return the steps that configure the web service with one server by *mode*."""
    return (service(WEB), call("add_server", engines.key(WEB), *endpoint("192.168.20.1:80"), 1, mode, 0, 0, tunnel),
            routes(s1=1500))


def left(result):
    """Expect that the packet left by DR or TUN."""
    assert len(result.verdict.sent) == result.counted["forwarded"] == 1


def said(payload, sequence, acknowledged=2000):
    """Expect a rewritten segment with these words and numbers, and right checksums."""
    def check(result):
        assert result.verdict[:2] == (1, True), f"{result.verdict} {result.counted}"
        segment = dpkt.ip.IP(result.came_out).data
        assert (bytes(segment.data), segment.seq, segment.ack) == (payload, sequence, acknowledged)
        assert packets.read(result.came_out).checksums_right

    return check


OPEN = (service(FTP, RIP), client(vip=CONTROL).syn() >> to(RIP), client(vip=CONTROL).ack() >> to(RIP))
PASSIVE = (*OPEN, client(vip=CONTROL).ack(b"PASV\r\n") >> to(RIP),
           server(RIP).ack(b"227 Entering Passive Mode (192,168,20,1,200,10).\r\n")
           >> said(b"227 Entering Passive Mode (192,168,10,1,200,10).\r\n", 1000))
TALK = [
    Case("a passive data connection is announced with the VIP, and comes from a port nobody knew",
         *PASSIVE, connections(2),
         client("192.168.10.9:41000", "192.168.10.1:51210").syn() >> to("192.168.20.1:51210"),
         connection("192.168.10.9:41000", state="SYN_RECV", vport=51210, dport=51210, flags=0),
         server("192.168.20.1:51210", "192.168.10.9:41000").synack() >> comes_from("192.168.10.1:51210")),
    Case("an announced data connection waits two minutes",
         *PASSIVE, connection("192.168.10.9:0", state="LISTEN", expires_seconds=120), wait(121), connections(1)),
    Case("nothing is announced to a client that did not ask",
         *OPEN, server(RIP).ack(b"227 Entering Passive Mode (192,168,20,1,200,10).\r\n") >> comes_from(CONTROL),
         connections(1)),
    Case("an active data connection comes from the VIP's port 20",
         *OPEN, client(vip=CONTROL).ack(b"PORT 192,168,10,9,156,66\r\n") >> to(RIP),
         connection("192.168.10.9:40002", state="LISTEN", vport=20, dport=20),
         server("192.168.20.1:20", "192.168.10.9:40002").syn() >> comes_from("192.168.10.1:20")),
    Case("an address of another length shifts the numbers of everything behind it",
         service(FTP, "192.168.20.100:21"), client(vip=CONTROL).syn() >> to("192.168.20.100:21"),
         client(vip=CONTROL).ack() >> to("192.168.20.100:21"),
         client(vip=CONTROL).ack(b"PASV\r\n") >> to("192.168.20.100:21"),
         server("192.168.20.100:21").ack(b"227 (192,168,20,100,200,10).\r\n")
         >> said(b"227 (192,168,10,1,200,10).\r\n", 1000),
         server("192.168.20.100:21").tcp("A", b"150 ok\r\n", sequence=1030) >> said(b"150 ok\r\n", 1028)),
    Case("an address that makes the packet too large for its verdict cannot be sent",
         service(FTP, "10.0.0.1:21"), client(vip=CONTROL).syn() >> to("10.0.0.1:21"),
         client(vip=CONTROL).ack() >> to("10.0.0.1:21"), client(vip=CONTROL).ack(b"PASV\r\n") >> to("10.0.0.1:21"),
         server("10.0.0.1:21").ack(b"227 (10,0,0,1,200,10)" + bytes(65531 - 40 - 21)) >> dropped("ftp")),
]


def tunnel_error(inner, mtu, outer_source="192.168.20.254"):
    """Return a router's answer that the tunnel packet around *inner* is too large."""
    outer = bytes(packets.ipv4(4, address(outer_source), address("192.168.20.1"), inner))
    return Seen(packets.icmp_error("192.168.30.1", outer_source, 3, 4, outer, mtu))


def client_told(mtu):
    """Expect the client to be told of *mtu* by the VIP, with what was left of its own packet."""
    def check(result):
        assert result.verdict[:2] == (0, False), f"{result.verdict} {result.counted}"
        quote = result.sent[48:]
        expected = packets.icmp_error(VIP, "192.168.10.9", 3, 4, quote, mtu)
        assert (result.verdict[2][20:], result.verdict[2][12:20]) == (expected[20:], expected[12:20])

    return check


def told_nothing(result):
    """Expect a drop in silence."""
    assert (result.verdict, result.counted["dropped_icmp_ours"]) == (Verdict(0), 1)


INNER = packets.with_less_ttl(packets.tcp("192.168.10.9:40000", "192.168.10.1:80", "A", b"x" * 1440))[:60]
MAY_CUT = packets.with_less_ttl(packets.tcp("192.168.10.9:40000", "192.168.10.1:80", "A", b"x" * 1440,
                                            fragment=0))[:60]
TUNNEL = (*by(TUN), local_addresses("192.168.20.254", "192.168.10.1"), client().syn() >> left)
ERRORS = [
    Case("an error about a tunnel packet becomes one for the client, and counts twice",
         *TUNNEL, tunnel_error(INNER, 1300) >> client_told(1280),
         shows(WEB, "192.168.20.1:80", packets_out=2, bytes_out=60 + 88)),
    Case("an error that quotes no more than the ports of what is in a tunnel is told with as much",
         *TUNNEL, tunnel_error(INNER[:24], 1300) >> client_told(1280)),
    Case("an error that quotes no ports of what is in a tunnel goes on to the host",
         *TUNNEL, tunnel_error(INNER[:23], 1300) >> passed("icmp")),
    Case("a client whose packets may be cut is not told",
         *TUNNEL, tunnel_error(MAY_CUT, 1300) >> told_nothing, shows(WEB, "192.168.20.1:80", packets_out=0)),
    Case("an error about a tunnel packet of no connection's goes on to the host",
         *by(TUN), local_addresses("192.168.20.254", "192.168.10.1"), tunnel_error(INNER, 1300) >> passed("icmp")),
    Case("an error about a tunnel to a deleted service's server goes on to the host",
         *TUNNEL, service(FTP), command("delete_service", WEB), tunnel_error(INNER, 1300) >> passed("icmp")),
]


def gue(result):
    """Expect the packet in UDP to port 6080 and four bytes of GUE."""
    ((next_hop, sent, segment, _),) = result.verdict.sent
    assert (next_hop, segment, sent[9], packets.ones_complement_sum(sent[:20])) == (
        address("192.168.20.1"), 0, 17, 0xFFFF)
    source_port, port, length, checksum = struct.unpack("!HHHH", sent[20:28])
    assert (port, length, checksum) == (6080, len(sent) - 20, 0)
    assert 32768 <= source_port <= 60999
    assert sent[28:] == bytes([0, 4, 0, 0]) + packets.with_less_ttl(result.sent)


def one_large(result):
    """Expect one packet that the kernel is to cut at 1460 bytes, its checksum the pseudo-header's sum."""
    ((_, sent, segment, _),) = result.verdict.sent
    pseudo = sent[12:20] + struct.pack("!HH", 6, len(sent) - 20)
    assert segment == 1460
    assert sent[36:38] == packets.ones_complement_sum(pseudo).to_bytes(2, "big")
    assert sent[40:] == LARGE


def segments(result):
    """Expect tunnel packets of at most 1500 bytes, whose segments follow each other and have right checksums."""
    inner = [each.packet[20:] for each in result.verdict.sent]
    parsed = [dpkt.ip.IP(each).data for each in inner]
    assert [len(segment.data) for segment in parsed] == [1440, 1440, 1440, 680]
    assert [segment.seq for segment in parsed] == [1000, 2440, 3880, 5320]
    assert b"".join(segment.data for segment in parsed) == LARGE
    assert all(packets.read(each).checksums_right for each in inner)


SENT = [
    Case("GUE", *by(TUN, (GUE, 6080, NOCSUM)), client().syn() >> gue),
    Case("a large aggregate leaves by DR in one piece",
         *by(DR), client().syn() >> left,
         client().tcp("A", LARGE, checksum="pseudo").with_form(GSO) >> one_large),
    Case("a large aggregate leaves by TUN in segments",
         *by(TUN), client().syn() >> left,
         client().tcp("A", LARGE, checksum="pseudo").with_form(GSO) >> segments,
         shows(WEB, "192.168.20.1:80", packets_in=2, bytes_in=80 + len(LARGE))),
]


@pytest.mark.parametrize("case", TALK + ERRORS + SENT, ids=str)
def test_related(case, engine):
    case.play(engine)


@pytest.mark.parametrize(("profile", "told"), [(CLASSIC, 1280), (NEW, 1268)])
def test_only_the_new_profile_counts_all_that_a_tunnel_adds(new_engine, profile, told):
    tunnel = (GUE, 6080, NOCSUM)
    outer = bytes(packets.udp("192.168.20.254:40000", "192.168.20.1:6080", bytes([0, 4, 0, 0]) + INNER))
    error = Seen(packets.icmp_error("192.168.30.1", "192.168.20.254", 3, 4, outer, 1300))

    def check(result):
        assert struct.unpack("!H", result.verdict[2][26:28]) == (told,)

    Case("", *by(TUN, tunnel), local_addresses("192.168.20.254", "192.168.10.1"), client().syn() >> gue,
         error >> check).play(new_engine(max_connections=100, profile=profile))
