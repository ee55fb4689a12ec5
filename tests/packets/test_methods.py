"""DR and TUN: what leaves in a request's place, and what is said when it cannot leave."""
from __future__ import annotations

import struct

import pytest

from lbq.model import CSUM, DR, GRE, GUE, IPIP, NAT, NOCSUM, TUN, Verdict
from lbq.packet import CHECKSUM_NOT_READY, SEGMENTED_LATER
from tests.helpers import engines, packets
from tests.helpers.cases import (
    DNS,
    WEB,
    Case,
    Seen,
    call,
    client,
    comes_from,
    connection,
    connections,
    dropped,
    local_addresses,
    passed,
    refused,
    routes,
    sent_to,
    server,
    service,
    shows,
    sysctl,
    to,
    told,
    wait,
)
from tests.helpers.packets import address, endpoint

RIP, VIP = "192.168.20.1:80", "192.168.10.1:80"
ROUTER = "192.168.20.254"
GO = sent_to("192.168.20.1")
LARGE = b"x" * 1400         # with headers 1440 bytes


def by(mode, *tunnel, name=WEB):
    """Return the steps that configure *name* with one server by *mode*."""
    return (service(name), call("add_server", engines.key(name), *endpoint(RIP), 1, mode, 0, 0, *tunnel))


def ipip(dont_fragment=True):
    """Return what IPIP puts around a packet from the director."""
    return lambda packet: bytes(packets.ipv4(
        4, address(ROUTER), address("192.168.20.1"), packet, tos=packet[1], ttl=packet[8],
        identification=0 if dont_fragment else 1, fragment=0x4000 if dont_fragment else 0))


def gre(checksum):
    """Return what GRE puts around a packet from the director."""
    def wrap(packet):
        head = struct.pack("!HH", 0x8000 if checksum else 0, 0x0800)
        if checksum:
            total = ~packets.ones_complement_sum(head + bytes(4) + packet) & 0xFFFF
            head += struct.pack("!HH", total, 0)
        return bytes(packets.ipv4(47, address(ROUTER), address("192.168.20.1"), head + packet, ttl=packet[8],
                                  identification=0))

    return wrap


def finished(result):
    """Expect the datagram with the checksum that dpkt computes."""
    (sent,) = result.verdict.sent
    assert packets.with_right_checksums(sent.packet) == sent.packet


def unsegmentable(result):
    """Expect a drop after the connection was made."""
    assert result.verdict == Verdict(0)
    assert result.counted["dropped_unsegmentable"] == 1


def one_left(result):
    """Expect that one packet left."""
    assert len(result.verdict.sent) == result.counted["forwarded"] == 1


def no_room(result):
    """Expect a drop in silence."""
    assert (result.verdict.sent, result.verdict.answer, result.counted["dropped_too_big"]) == ((), None, 1)


def not_allowed(result):
    """Expect a drop by the boundary rule."""
    assert (result.verdict.sent, result.verdict.answer, result.counted["dropped_boundary"]) == ((), None, 1)


def fragments(result):
    """Expect fragments whose contents together are what was sent, one hop later."""
    pieces = [sent.packet for sent in result.verdict.sent]
    assert len(pieces) > 1 and all(len(piece) <= 576 and packets.ones_complement_sum(piece[:20]) == 0xFFFF
                                   for piece in pieces)
    at = [(int.from_bytes(piece[6:8], "big") & 0x1FFF) * 8 for piece in pieces]
    assert at == [sum(len(piece) - 20 for piece in pieces[:number]) for number in range(len(pieces))]
    assert [piece[6] >> 5 & 1 for piece in pieces] == [1] * (len(pieces) - 1) + [0]
    assert b"".join(piece[20:] for piece in pieces) == result.sent[20:]
    assert {piece[8] for piece in pieces} == {63}


def delivered(result):
    """Expect the packet as it was."""
    assert result.verdict == Verdict(1)
    assert (result.came_out, result.counted["passed_local"]) == (result.sent, 1)


def translated(end, ip, quoted_end, port_at, port):
    """Expect *ip* at *end* of the error and *quoted_end* of its quote, whose port at *port_at* is *port*."""
    def check(result):
        assert result.verdict == Verdict(1, True), f"{result.verdict} {result.counted}"
        expected, quote, came_out = bytearray(result.sent), bytearray(result.sent[28:]), result.came_out
        expected[end:end + 4] = quote[quoted_end:quoted_end + 4] = address(ip).to_bytes(4, "big")
        quote[port_at:port_at + 2] = port.to_bytes(2, "big")
        assert came_out[12:20] == expected[12:20]
        assert came_out[28:38] + came_out[40:] == quote[:10] + quote[12:]
        for summed in (came_out[:20], came_out[20:], came_out[28:48]):
            assert packets.ones_complement_sum(summed) == 0xFFFF

    return check


DIRECT = [
    Case("DR sends the request as it is, one hop later",
         *by(DR), client().syn() >> GO, client().ack(b"GET /") >> GO,
         shows(WEB, RIP, mode="dr", active=1, conns=1, packets_in=2, bytes_in=85)),
    Case("DR never changes a port",
         service(WEB), call("add_server", engines.key(WEB), *endpoint("192.168.20.1:8080"), 1, DR),
         client().syn() >> GO),
    Case("DR leaves options and type of service alone",
         *by(DR), client(ip_options=b"\x01" * 8, tos=0xB8).syn() >> GO),
    Case("a client that closes first is seen in FIN_WAIT: the director knows only its side",
         *by(DR), client().syn() >> GO, client().ack() >> GO, connection(state="ESTABLISHED"),
         client().fin() >> GO, connection(state="FIN_WAIT", expires_seconds=120)),
    Case("a reply that passes here all the same is counted, and its side is known from then on",
         *by(DR), client().syn() >> GO, server(VIP).synack() >> passed("reply"), client().ack() >> GO,
         shows(WEB, RIP, packets_out=1, bytes_out=40),
         client().fin() >> GO, connection(state="CLOSE_WAIT")),
    Case("a reply from the server's own address belongs to nothing",
         *by(DR), client().syn() >> GO, server(RIP).synack() >> passed("no_connection")),
    Case("a SYN in FIN_WAIT starts over only in conn_reuse_mode 2, and without replies seen",
         *by(DR), client().syn() >> GO, client().ack() >> GO, client().fin() >> GO,
         client().syn() >> GO, connection(state="SYN_RECV", packets_in=4),
         client().ack() >> GO, client().fin() >> GO, sysctl("conn_reuse_mode", 2),
         client().syn() >> GO, connection(state="SYN_RECV", packets_in=1)),
    Case("an unfinished checksum is finished before the packet leaves",
         *by(DR, name=DNS),
         Seen(bytes(packets.udp("192.168.10.9:40000", "192.168.10.1:53", b"odd", checksum="pseudo")))
         .with_form(CHECKSUM_NOT_READY) >> finished),
    Case("a large datagram that nobody can cut is dropped",
         *by(DR, name=DNS),
         client(vip="192.168.10.1:53").udp(LARGE * 3).with_form(SEGMENTED_LATER) >> unsegmentable),
]


TUNNELS = [
    Case("IPIP", *by(TUN), routes(s1=1500), client().syn() >> sent_to("192.168.20.1", ipip())),
    Case("the outer header has the inner TTL and type of service",
         *by(TUN), routes(s1=1500), client(tos=0x28, ttl=7).syn() >> sent_to("192.168.20.1", ipip())),
    Case("a packet that may be fragmented makes an outer one that may, with an identification",
         *by(TUN), routes(s1=1500), client(fragment=0).syn() >> sent_to("192.168.20.1", ipip(False))),
    Case("pmtu_disc=0 lets every outer packet be fragmented",
         *by(TUN), routes(s1=1500), sysctl("pmtu_disc", 0),
         client().syn() >> sent_to("192.168.20.1", ipip(False))),
    Case("GRE", *by(TUN, (GRE, 0, NOCSUM)), routes(s1=1500), client().syn() >> sent_to("192.168.20.1", gre(False))),
    Case("GRE with a checksum",
         *by(TUN, (GRE, 0, CSUM)), routes(s1=1500), client().syn() >> sent_to("192.168.20.1", gre(True))),
]
BOTH = [(DR, "DR", 0, ()), (TUN, "IPIP", 20, ((IPIP, 0, NOCSUM),)), (TUN, "GUE", 32, ((GUE, 6080, NOCSUM),)),
        (TUN, "GRE with checksum", 28, ((GRE, 0, CSUM),))]
CANNOT = [
    *[Case(f"{name}: without a route the client is told, with the packet as it came",
           *by(mode, *tunnel), routes(s1=-1), client().syn() >> told(3, 1, "no_route"), connections(1))
      for mode, name, _, tunnel in BOTH],
    *[Case(f"{name}: the last hop ends here; the packet counts, and so does the answer",
           *by(mode, *tunnel), client(ttl=1).syn() >> told(11, 0, "ttl"), connection(state="SYN_RECV"),
           shows(WEB, RIP, packets_in=1, packets_out=1, bytes_out=68))
      for mode, name, _, tunnel in BOTH],
    *[Case(f"{name}: being told that nobody takes it any more counts as a reply of the connection before",
           *by(mode, *tunnel), client().syn() >> one_left, client().fin() >> one_left,
           call("set_server", engines.key(WEB), *endpoint(RIP), 0, mode, 0, 0, *tunnel),
           client().syn() >> refused, shows(WEB, RIP, packets_out=1, bytes_out=68), connections(0))
      for mode, name, _, tunnel in BOTH],
    Case("what NAT says of a client who starts over counts as a reply of the connection by DR before",
         *by(DR), client().syn() >> GO, client().fin() >> GO,
         call("add_server", engines.key(WEB), *endpoint("192.168.20.2:80"), 1, NAT),
         call("set_server", engines.key(WEB), *endpoint(RIP), 0, DR),
         client(ttl=1).syn() >> told(11, 0, "ttl"), shows(WEB, RIP, packets_out=1, bytes_out=68),
         shows(WEB, "192.168.20.2:80", packets_out=0)),
    *[Case(f"{name}: a packet that must not be cut is refused beyond the MTU, and not at it",
           *by(mode, *tunnel), routes(s1=1440 + overhead),
           client().syn() >> one_left, client().ack(LARGE) >> one_left,
           client().ack(LARGE + b"x") >> told(3, 4, "too_big", 1440, later=True))
      for mode, name, overhead, tunnel in BOTH],
    Case("NAT: without a route", service(WEB, RIP), routes(s1=-1), client().syn() >> told(3, 1, "no_route")),
    Case("NAT: the last hop", service(WEB, RIP), client(ttl=1).syn() >> told(11, 0, "ttl"),
         shows(WEB, RIP, packets_in=1, packets_out=0)),
    Case("NAT: too large", service(WEB, RIP), routes(s1=1440), client().syn() >> to(RIP),
         client().ack(LARGE) >> to(RIP), client().ack(LARGE + b"x") >> told(3, 4, "too_big", 1440, later=True)),
    Case("NAT: what may be cut is cut later, by the host",
         service(WEB, RIP), routes(s1=576), client().syn() >> to(RIP), client(fragment=0).ack(LARGE) >> to(RIP)),
    Case("a tunnel that leaves no room for a header carries nothing, and nobody is told",
         *by(TUN), routes(s1=87), client().syn() >> no_room),
    Case("loopback addresses do not leave the host",
         *by(DR), client("127.0.0.1:4000").syn() >> not_allowed),
]


HERE = [
    Case(f"{name} to the director itself lets the packet in, untouched, at its last hop, too",
         *by(mode), local_addresses("192.168.20.1", "192.168.10.1"),
         client(ttl=1).syn() >> delivered,
         client().ack() >> passed("local"))
    for mode, name in [(DR, "DR"), (TUN, "TUN")]]


def without_ports(protocol):
    """Return an error about a packet of *protocol*, of which it quotes the IP header only."""
    about = packets.ipv4(protocol, address("192.168.10.1"), address("192.168.10.9"), bytes(20))
    return Seen(packets.icmp_error("192.168.10.254", "192.168.10.1", 3, 4, bytes(about)[:20]))


ERRORS = [
    Case("an error about a server's packet is addressed to the server, and speaks of it",
         service(WEB, "192.168.20.1:8080"), client().syn() >> to("192.168.20.1:8080"),
         Seen(packets.icmp_error("192.168.10.254", "192.168.10.1", 3, 4, bytes(
             packets.tcp("192.168.10.1:80", "192.168.10.9:40000", "A"))[:28], 1400))
         >> translated(16, "192.168.20.1", 12, 20, 8080),
         wait(30), connection(expires_seconds=30)),
    Case("an error about a client's packet comes from the VIP, and speaks of it",
         service(WEB, "192.168.20.1:8080"), client().syn() >> to("192.168.20.1:8080"),
         Seen(packets.icmp_error("192.168.20.253", "192.168.10.9", 11, 0, bytes(
             packets.tcp("192.168.10.9:40000", "192.168.20.1:8080", "S"))[:28]), engines.POSTROUTING, out_device=2)
         >> translated(12, "192.168.10.1", 16, 22, 80),
         shows(WEB, "192.168.20.1:8080", packets_out=1, bytes_out=56)),
    Case("redirects and parameter problems are left alone",
         service(WEB, RIP), client().syn() >> to(RIP),
         *[Seen(packets.icmp_error("192.168.10.254", "192.168.10.1", kind, 0, bytes(
             packets.tcp("192.168.10.1:80", "192.168.10.9:40000", "A"))[:28])) >> passed("icmp") for kind in (5, 12)]),
    Case("an error with a wrong checksum is not translated",
         service(WEB, RIP), client().syn() >> to(RIP),
         Seen(packets.icmp_error("192.168.10.254", "192.168.10.1", 3, 4, bytes(
             packets.tcp("192.168.10.1:80", "192.168.10.9:40000", "A"))[:28])).with_byte(23, 1)
         >> dropped("icmp_checksum")),
    Case("DR forwards an error to the server as it is",
         *by(DR), client().syn() >> GO,
         Seen(packets.icmp_error("192.168.10.254", "192.168.10.1", 3, 4, bytes(
             packets.tcp("192.168.10.1:80", "192.168.10.9:40000", "A"))[:28])) >> GO),
    Case("schedule_icmp makes a connection of an error, for three seconds",
         service(WEB, RIP), sysctl("schedule_icmp", 1),
         Seen(packets.icmp_error("192.168.10.254", "192.168.10.1", 3, 4, bytes(
             packets.tcp("192.168.10.1:80", "192.168.10.9:40000", "A"))[:28]))
         >> translated(16, "192.168.20.1", 12, 20, 80),
         connection(state="NONE", expires_seconds=3), wait(4), connections(0)),
    Case("schedule_icmp drops an error that quotes no ports; otherwise that is the host's",
         service(WEB, RIP), without_ports(6) >> passed("icmp"), sysctl("schedule_icmp", 1),
         without_ports(6) >> dropped("malformed"), without_ports(47) >> passed("icmp")),
    Case("nat_icmp_send answers a server to which nobody listens",
         service(WEB, RIP), sysctl("nat_icmp_send", 1),
         routes(s1=1500),
         server().ack() >> told(3, 3, "nat_icmp", by="192.168.20.254"), server().rst() >> passed("no_connection"),
         client().syn() >> to(RIP), server().synack() >> comes_from(VIP)),
]


def test_what_may_be_cut_leaves_in_fragments(engine):
    Case("", *by(DR), routes(s1=576), client().syn() >> GO,
         client(fragment=0).ack(LARGE) >> fragments).play(engine)


@pytest.mark.parametrize("case", DIRECT + TUNNELS + CANNOT + HERE + ERRORS, ids=str)
def test_methods(case, engine):
    case.play(engine)
