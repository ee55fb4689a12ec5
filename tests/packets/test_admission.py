"""Which packets open a connection, which are passed, which are dropped, and who is told."""
from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers import packets
from tests.helpers.cases import (
    DNS,
    WEB,
    Case,
    Seen,
    client,
    command,
    connection,
    connections,
    dropped,
    local_client,
    passed,
    refused,
    refused_silently,
    server,
    service,
    shows,
    to,
    wait,
)

SYN = client().syn()
UNSEEN = [
    Case(f"{name} without a connection goes on to the host",
         service(WEB, "192.168.20.1:80"),
         client().tcp(flags) >> passed("not_opening"),
         connections(0))
    for name, flags in [("an ACK", "A"), ("a FIN", "FA"), ("a reset", "R"), ("a SYN with reset", "SR"),
                        ("a segment without flags", "")]
]
OPENING = [
    Case(f"{name} opens a connection",
         service(WEB, "192.168.20.1:80"),
         client().tcp(flags) >> to("192.168.20.1:80"),
         connection(state="SYN_RECV"))
    for name, flags in [("a SYN", "S"), ("a SYN with ACK", "SA"), ("a SYN with FIN", "SF"),
                        ("a SYN with PSH", "SP")]
]
PASSED = [
    Case("a packet to another port of the VIP is not ours",
         service(WEB, "192.168.20.1:80"),
         client(vip="192.168.10.1:81").syn() >> passed("no_service")),
    Case("a datagram to a TCP service is not ours",
         service(WEB, "192.168.20.1:80"),
         client().udp() >> passed("no_service")),
    Case("what comes from port 20 is never scheduled, TCP or UDP",
         service(WEB, "192.168.20.1:80"),
         service(DNS, "192.168.20.1:53"),
         client("192.168.10.9:20").syn() >> passed("ftp_data"),
         client("192.168.10.9:20", "192.168.10.1:53").udp() >> passed("ftp_data")),
    Case("a server's packet that belongs to no connection goes on",
         service(WEB, "192.168.20.1:80"),
         server().synack() >> passed("no_connection")),
    Case("a reply from another port of the server goes on",
         service(WEB, "192.168.20.1:80"),
         client().syn() >> to("192.168.20.1:80"),
         server("192.168.20.1:81").synack() >> passed("no_connection")),
    Case("ICMP goes on",
         service(WEB), Seen(bytes(packets.ipv4(1, 1, 2, bytes(16)))) >> passed("icmp")),
    Case("IP in IP goes on, however short",
         Seen(bytes(packets.ipv4(4, 1, 2, b""))) >> passed("not_ours")),
    Case("a missing service is not asked for port 20",
         client("192.168.10.9:20").syn() >> passed("no_service")),
]
REFUSED = [
    Case("a service without servers refuses with ICMP, TCP and UDP alike",
         service(WEB),
         service(DNS),
         client().syn() >> refused,
         client(vip="192.168.10.1:53").udp() >> refused,
         connections(0)),
    Case("a client on the director is refused, too",
         service(WEB),
         local_client().syn() >> refused),
    Case("quiesced servers take nobody new",
         service(WEB, "192.168.20.1:80,0"),
         client().syn() >> refused),
    Case("quiesced servers finish what they have",
         service(WEB, "192.168.20.1:80"),
         client().syn() >> to("192.168.20.1:80"),
         command("set_server", WEB, "192.168.20.1:80", 0),
         client().ack(b"GET /") >> to("192.168.20.1:80"),
         client("192.168.10.9:40001").syn() >> refused),
    Case("a long packet is quoted up to 576 bytes in all",
         service(DNS),
         client(vip="192.168.10.1:53").udp(bytes(1400)) >> refused),
    Case("one client is told six times at once, then once a second",
         service(WEB),
         *[client(f"192.168.10.9:{port}").syn() >> refused for port in range(40000, 40006)],
         client().syn() >> refused_silently,
         client("192.168.10.10:40000").syn() >> refused,
         wait(1),
         client().syn() >> refused,
         client().syn() >> refused_silently),
    Case("a client that can have no such address is not told",
         service(DNS),
         client("224.0.0.1:40000", "192.168.10.1:53").udp() >> refused_silently,
         client("0.0.0.0:68", "192.168.10.1:53").udp() >> refused_silently,
         client("255.255.255.255:1", "192.168.10.1:53").udp() >> refused_silently),
]
BROKEN = [
    Case("a packet that is not here whole is dropped: it must not be sent back",
         service(WEB, "192.168.20.1:80"),
         client().ack(b"x" * 100).cut(139) >> dropped("truncated"),
         Seen(SYN.packet, truncated=True) >> dropped("truncated"),
         SYN.cut(39) >> dropped("truncated"),
         connections(0)),
    Case("a packet too large for its own length field is truncated, not malformed",
         replace(SYN.with_byte(3, 0), truncated=True) >> dropped("truncated")),
    Case("less than an IP header is dropped",
         *[SYN.cut(length) >> dropped("malformed") for length in (0, 1, 19)]),
    Case("another IP version is dropped",
         SYN.with_byte(0, 0x55) >> dropped("malformed"),
         SYN.with_byte(0, 0x05) >> dropped("malformed")),
    Case("a header length below five words is dropped",
         SYN.with_byte(0, 0x44) >> dropped("malformed"),
         SYN.with_byte(0, 0x40) >> dropped("malformed")),
    Case("a packet shorter than its own header is dropped",
         SYN.with_byte(3, 19) >> dropped("malformed"),
         SYN.with_byte(3, 0) >> dropped("malformed"),
         SYN.with_byte(0, 0x4F) >> dropped("malformed"),
         Seen(bytes(packets.ipv4(1, 1, 2, bytes(16)))).with_byte(3, 19) >> dropped("malformed")),
    Case("a TCP header that ends too early is dropped",
         service(WEB, "192.168.20.1:80"),
         SYN.with_byte(3, 39) >> dropped("malformed"),
         SYN.with_byte(3, 20) >> dropped("malformed")),
    Case("a UDP header that ends too early is dropped",
         service(DNS, "192.168.20.1:53"),
         client(vip="192.168.10.1:53").udp(b"").with_byte(3, 27) >> dropped("malformed")),
    Case("a UDP header is enough",
         service(DNS, "192.168.20.1:53"),
         client(vip="192.168.10.1:53").udp(b"") >> to("192.168.20.1:53")),
    Case("a fragment is dropped, first, middle or last: they come reassembled",
         service(WEB, "192.168.20.1:80"),
         *[client(fragment=bits).syn() >> dropped("fragment") for bits in (0x2000, 0x2001, 0x0001, 0x1FFF)]),
    Case("don't-fragment and the reserved bit are no fragments",
         service(WEB, "192.168.20.1:80"),
         client(fragment=0xC000).syn() >> to("192.168.20.1:80")),
]
BOUNDED = Case("a full table takes no new connection, and those in it go on",
               service(WEB, "192.168.20.1:80"),
               client("192.168.10.9:1").syn() >> to("192.168.20.1:80"),
               client("192.168.10.9:2").syn() >> to("192.168.20.1:80"),
               client("192.168.10.9:3").syn() >> dropped("table_full"),
               shows(WEB, "192.168.20.1:80", conns=2, active=2, inactive=0, packets_in=2),
               client("192.168.10.9:2").ack() >> to("192.168.20.1:80"),
               client("192.168.10.9:2").rst() >> to("192.168.20.1:80"),
               wait(11),
               client("192.168.10.9:3").syn() >> to("192.168.20.1:80"),
               connections(2))


@pytest.mark.parametrize("case", UNSEEN + OPENING + PASSED + REFUSED + BROKEN, ids=str)
def test_admission(case, engine):
    case.play(engine)


def test_the_table_is_bounded(new_engine):
    BOUNDED.play(new_engine(max_connections=2))
