"""IPv6 by DR and TUN, in and around IPv4, what is said when a packet cannot leave, ICMPv6 errors, and FTP.

What is expected is what kernels 6.1.176 and 6.1.192 did with the same packets, unless a row says otherwise.
"""
from __future__ import annotations

import struct

import pytest

from lbq.model import AF_INET, AF_INET6, CLASSIC, CSUM, DR, GRE, GUE, NAT, NEW, NOCSUM, REMCSUM, TUN, Verdict
from lbq.packet import CHECKSUM_NOT_READY, SEGMENTED_LATER
from tests.helpers import packets
from tests.helpers.cases import (
    CLIENT6,
    VIP6,
    WEB,
    WEB6,
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
    routes,
    routes6,
    sent_to,
    service,
    shows,
    sysctl,
    to,
    told,
    wait,
)
from tests.helpers.cases6 import (
    CIP,
    DIRECTOR,
    DNS6,
    OPTIONS,
    REAL,
    RIP,
    ROUTER,
    VIP,
    by,
    client6,
    fragment_header,
    server6,
)
from tests.helpers.engines import LOCAL_OUT, POSTROUTING
from tests.helpers.packets import address, endpoint

REAL4, RIP4, DIRECTOR4 = "192.168.20.1:80", "192.168.20.1", "192.168.20.254"
GO = sent_to(RIP)
LARGE = b"x" * 1400             # with headers 1460 bytes of IPv6
GSO = SEGMENTED_LATER | CHECKSUM_NOT_READY


def tos_of(packet):
    """Return the outer type of service for *packet*: congestion experienced becomes ECT(0)."""
    tos = (packet[0] & 15) << 4 | packet[1] >> 4 if packet[0] >> 4 == 6 else packet[1]
    return tos & 0xFC | 2 if tos & 3 == 3 else tos


def inside(six, next_header=None, head=lambda packet: b""):
    """Return what puts a packet into one of IPv6 (*six*) or IPv4, behind *head*."""
    def wrap(packet):
        hops = packet[7] if packet[0] >> 4 == 6 else packet[8]
        number = next_header or (41 if packet[0] >> 4 == 6 else 4)
        content = head(packet) + packet
        if six:
            return bytes(packets.ipv6(number, address(DIRECTOR), address(RIP), content, tos=tos_of(packet), ttl=hops))
        may_not = packet[0] >> 4 == 4 and packet[6] & 0x40
        return bytes(packets.ipv4(number, address(DIRECTOR4), address(RIP4), content, tos=tos_of(packet), ttl=hops,
                                  identification=0 if may_not else 1, fragment=0x4000 if may_not else 0))

    return wrap


def gre(checksum):
    """Return the GRE header of a packet."""
    def head(packet):
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
        start = struct.pack("!HH", 0x8000 if checksum else 0, kind)
        if not checksum:
            return start
        return start + struct.pack("!HH", ~packets.ones_complement_sum(start + bytes(4) + packet) & 0xFFFF, 0)

    return head


def gue(six, summed):
    """Expect the packet in UDP to port 6080 and four bytes of GUE, over IPv6 (*six*) or IPv4."""
    def check(result):
        ((next_hop, sent, segment, family),) = result.verdict.sent
        inner = packets.with_less_ttl(result.sent)
        at = 40 if six else 20
        assert (next_hop, segment, family) == (address(RIP if six else RIP4), 0, AF_INET6 if six else AF_INET)
        assert sent[6 if six else 9] == 17
        source_port, port, length, checksum = struct.unpack("!HHHH", sent[at:at + 8])
        assert (port, length) == (6080, len(sent) - at)
        assert 32768 <= source_port <= 60999
        assert sent[at + 8:] == bytes([0, 41 if inner[0] >> 4 == 6 else 4, 0, 0]) + inner
        if not summed:
            assert checksum == 0
        elif six:
            assert packets.sum6(sent) == 0xFFFF
        else:
            pseudo = sent[12:20] + struct.pack("!HH", 17, length)
            assert packets.ones_complement_sum(pseudo + sent[at:]) == 0xFFFF

    return check


def left(result):
    """Expect that something left."""
    assert result.verdict.sent and result.counted["forwarded"] == 1


def no_room(result):
    """Expect a drop in silence for its size."""
    assert (result.verdict.sent, result.verdict.answer, result.counted["dropped_too_big"]) == ((), None, 1)


def last_hop(result):
    """Expect a drop in silence for its hop limit."""
    assert (result.verdict.sent, result.verdict.answer, result.counted["dropped_ttl"]) == ((), None, 1)


def not_allowed(result):
    """Expect a drop by the boundary rule."""
    assert (result.verdict.sent, result.verdict.answer, result.counted["dropped_boundary"]) == ((), None, 1)


def delivered(result):
    """Expect the packet as it was."""
    assert result.verdict == Verdict(1)
    assert (result.came_out, result.counted["passed_local"]) == (result.sent, 1)


def summed(result):
    """Expect one packet with a right checksum."""
    (sent,) = result.verdict.sent
    assert packets.sum6(sent.packet) == 0xFFFF


def cut_outside(result):
    """Expect the packet in two fragments of an IPv6 one, the first as large as it can be."""
    first, second = (sent.packet for sent in result.verdict.sent)
    assert (len(first), first[6], first[40]) == (1496, 44, 4)
    assert first[48:] + second[48:] == packets.with_less_ttl(result.sent)


def says(payload, sequence):
    """Expect a rewritten segment with these words and this number, and a right checksum."""
    def check(result):
        assert result.verdict[:2] == (1, True), f"{result.verdict} {result.counted}"
        assert (result.came_out[60:], struct.unpack("!I", result.came_out[44:48])) == (payload, (sequence,))
        assert packets.sum6(result.came_out) == 0xFFFF
        assert int.from_bytes(result.came_out[4:6], "big") == len(result.came_out) - 40

    return check


DIRECT = [
    Case("DR sends the request as it is, one hop later",
         *by(DR), client6(tos=0xB7, flow_label=0x12345).syn() >> GO, client6().ack(b"GET /") >> GO,
         shows(WEB6, REAL, mode="dr", active=1, conns=1, packets_in=2, bytes_in=125)),
    Case("DR leaves extension headers alone", *by(DR), client6(extensions=[OPTIONS]).syn() >> GO),
    Case("a reply that passes here all the same is counted",
         *by(DR), client6().syn() >> GO, server6(VIP6).synack() >> passed("reply"),
         shows(WEB6, REAL, packets_out=1, bytes_out=60), server6(REAL).synack() >> passed("no_connection")),
    Case("an unfinished checksum is finished before the packet leaves",
         *by(DR, name=DNS6),
         client6(vip=f"[{VIP}]:53", extensions=[OPTIONS]).udp(b"odd", checksum="pseudo").with_form(CHECKSUM_NOT_READY)
         >> summed),
    Case("to the director itself", *by(DR), local_addresses(RIP, VIP), client6(ttl=1).syn() >> delivered),
    Case("to the director itself, but not for it", *by(TUN), local_addresses(RIP), client6().syn() >> not_allowed),
    Case("::1 does not leave the host", *by(DR), client6("[::1]:4000", hook=LOCAL_OUT).syn() >> not_allowed),
]
TUNNELS = [
    Case("6 in 6: hop limit and traffic class are the inner ones, but for congestion experienced",
         *by(TUN), routes6(s1=1500), client6(tos=0xB7, ttl=9, flow_label=0x12345).syn() >> sent_to(RIP, inside(True)),
         client6(tos=0xB6).ack() >> sent_to(RIP, inside(True))),
    Case("6 in 4: never DF", *by(TUN, real=REAL4), routes(s1=1500),
         client6(tos=0xB7, ttl=9).syn() >> sent_to(RIP4, inside(False))),
    Case("4 in 6", *by(TUN, name=WEB), routes6(s1=1500), client(tos=0xB7, ttl=9).syn() >> sent_to(RIP, inside(True)),
         client(fragment=0).ack() >> sent_to(RIP, inside(True))),
    *[Case(f"GRE, checksum {flags}, {'6 in' if name == WEB6 else '4 in'} {'6' if real == REAL else '4'}",
           *by(TUN, (GRE, 0, flags), name, real), routes(s1=1500), routes6(s1=1500),
           (client6() if name == WEB6 else client()).syn()
           >> sent_to(RIP if real == REAL else RIP4, inside(real == REAL, 47, gre(flags))))
      for flags in (NOCSUM, CSUM) for name, real in ((WEB6, REAL), (WEB6, REAL4), (WEB, REAL))],
    *[Case(f"GUE, checksum {flags}, {'6 in' if name == WEB6 else '4 in'} {'6' if real == REAL else '4'}",
           *by(TUN, (GUE, 6080, flags), name, real), routes(s1=1500), routes6(s1=1500),
           (client6() if name == WEB6 else client()).syn() >> gue(real == REAL, flags != NOCSUM))
      for flags in (NOCSUM, CSUM, REMCSUM) for name, real in ((WEB6, REAL), (WEB6, REAL4), (WEB, REAL))],
    Case("a connection to a server of the other family is listed with that one's address",
         *by(TUN, real=REAL4), *by(TUN, name=WEB), client6().syn() >> left, client().syn() >> left,
         connection(CLIENT6, caddr=CIP, vaddr=VIP, daddr=RIP4, flags=0x82),
         connection("192.168.10.9:40000", caddr="192.168.10.9", vaddr="192.168.10.1", daddr=RIP, flags=0x82)),
]

SERVERS = [("NAT", NAT, (), REAL, 0), ("DR", DR, (), REAL, 0), ("6 in 6", TUN, (), REAL, 40),
           ("6 in 4", TUN, (), REAL4, 20), ("GUE in 6", TUN, ((GUE, 6080, NOCSUM),), REAL, 52),
           ("GRE with checksum in 6", TUN, ((GRE, 0, CSUM),), REAL, 48),
           ("GUE in 4", TUN, ((GUE, 6080, NOCSUM),), REAL4, 32)]


def both(mtu):
    """Return the steps that give the ways to both real servers this MTU."""
    return routes(s1=mtu), routes6(s1=mtu)


def went(result):
    """Expect that the packet went to the real server, whichever way."""
    assert result.counted.get("forwarded", 0) + result.counted.get("rewritten", 0) == 1


CANNOT = [
    *[Case(f"{name}: without a route the client is told: address unreachable, with the packet as it came",
           *by(mode, *tunnel, real=real), *both(-1), client6().syn() >> told(1, 3, "no_route"), connections(1))
      for name, mode, tunnel, real, _ in SERVERS],
    *[Case(f"{name}: the last hop ends here",
           *by(mode, *tunnel, real=real), client6(ttl=1).syn() >> told(3, 0, "ttl"),
           client6(ttl=0).ack() >> told(3, 0, "ttl"),
           shows(WEB6, real, packets_in=2, packets_out=0 if mode == NAT else 2,
                 bytes_out=0 if mode == NAT else 2 * 108))
      for name, mode, tunnel, real, _ in SERVERS],
    *[Case(f"{name}: what is larger than the way is refused, and not what fits; pmtu_disc does not matter",
           *by(mode, *tunnel, real=real), *both(1460 + overhead), sysctl("pmtu_disc", 0), client6().syn() >> went,
           client6().ack(LARGE) >> went, client6().ack(LARGE + b"x") >> told(2, 0, "too_big", 1460, later=True))
      for name, mode, tunnel, real, overhead in SERVERS],
    Case("a tunnel over IPv6 that leaves less than 1280 bytes carries nothing",
         *by(TUN), routes6(s1=1319), client6().syn() >> no_room, routes6(s1=1320), client6().syn() >> left),
    Case("one over IPv4 may leave less", *by(TUN, real=REAL4), routes(s1=1200), client6().syn() >> left,
         client6().ack(b"x" * 1121) >> told(2, 0, "too_big", 1180, later=True),
         routes(s1=87), client6().ack() >> no_room),
    Case("4 in 6: too large", *by(TUN, name=WEB), routes6(s1=1500),
         client().syn() >> left, client().ack(b"x" * 1420) >> left,
         client().ack(b"x" * 1421) >> told(3, 4, "too_big", 1460, later=True)),
    Case("4 in 6: no route", *by(TUN, name=WEB), routes6(s1=-1), client().syn() >> told(3, 1, "no_route")),
    Case("too large for NAT, on this host: the host's business",
         *by(NAT), routes6(s1=1400), client6(f"[{VIP}]:4000", hook=LOCAL_OUT).syn() >> to(REAL),
         client6(f"[{VIP}]:4000", hook=LOCAL_OUT).ack(LARGE) >> to(REAL)),
    Case("packet too big is never limited, the others are",
         *by(DR), routes6(s1=1400), client6().syn() >> left,
         *[client6().ack(LARGE) >> told(2, 0, "too_big", 1400, later=True)] * 60,
         *[client6(ttl=1).ack() >> told(3, 0, "ttl")] * 6, client6(ttl=1).ack() >> last_hop),
]


# ---- What came in fragments --------------------------------------------------------------------------


def pieces(limit, unwrapped=lambda packet: packet):
    """Expect fragments of at most *limit* bytes, which together are what was sent, one hop later, and *unwrapped*."""
    def check(result):
        found = [sent.packet for sent in result.verdict.sent]
        assert len(found) > 1 and all(len(piece) <= limit for piece in found)
        if found[0][0] >> 4 == 6:
            start = 40 + (8 if result.sent[6] == 0 else 0)
            shorter = [piece[:start] + piece[start + 8:] for piece in found]
            offsets = [int.from_bytes(piece[start + 2:start + 4], "big") for piece in found]
            assert [each & 7 for each in offsets] == [1] * (len(found) - 1) + [0]
            assert len({piece[start + 4:start + 8] for piece in found}) == 1
            assert all(int.from_bytes(piece[4:6], "big") == len(piece) - 40 for piece in found)
            at = [each & ~7 for each in offsets]
        else:
            start = 20
            shorter = found
            at = [(int.from_bytes(piece[6:8], "big") & 0x1FFF) * 8 for piece in found]
        assert at == [sum(len(piece) - start for piece in shorter[:number]) for number in range(len(found))]
        whole = shorter[0][:start] + b"".join(piece[start:] for piece in shorter)
        inner = unwrapped(whole)
        expected = packets.with_less_ttl(result.sent)
        if inner is whole:              # the header says that there is a fragment, and how long it is
            number = 6 if start == 40 else 40
            assert whole[number] == 44 and found[0][start] == expected[number]
            assert (whole[start:], whole[7:40]) == (expected[start:], expected[7:40])
        else:
            assert inner == expected

    return check


def datagram(payload):
    """Return a datagram with so many bytes of payload."""
    return client6(vip=f"[{VIP}]:53").udp(b"y" * payload)


GATHERED = client6(vip=f"[{VIP}]:53").udp(b"y" * 3000)
REASSEMBLED = [
    Case("what is longer than any packet here came in fragments, and leaves in fragments",
         *by(DR, name=DNS6), routes6(s1=1500), GATHERED >> pieces(1500)),
    Case("behind the headers that every fragment repeats",
         *by(DR, name=DNS6), routes6(s1=1500),
         client6(vip=f"[{VIP}]:53", extensions=[(0, OPTIONS[1])]).udp(b"y" * 3000) >> pieces(1500)),
    Case("the outer packet of a tunnel is cut",
         *by(TUN, name=DNS6), routes6(s1=1500), GATHERED >> pieces(1500, lambda whole: whole[40:])),
    Case("also over IPv4",
         *by(TUN, name=DNS6, real=REAL4), routes(s1=1500), GATHERED >> pieces(1500, lambda whole: whole[20:])),
    Case("by NAT the host cuts it",
         service(DNS6, f"[{RIP}]:53"), routes6(s1=1500), GATHERED >> to(f"[{RIP}]:53")),
    Case("unless the host has devices for such packets",
         *by(DR, name=DNS6), routes6(s1=1500), call("set_largest_mtu", 4000),
         GATHERED >> told(2, 0, "too_big", 1500, later=True)),
    Case("where no MTU is known, too, nothing is longer than its header can say",
         *by(TUN, (GUE, 6080, CSUM), name=DNS6), datagram(65535 - 12 - 48) >> left,
         datagram(65535 - 12 - 47) >> no_room),
    Case("nor over IPv4",
         *by(TUN, name=DNS6, real=REAL4), datagram(65535 - 40 - 8 - 20) >> left,
         datagram(65535 - 40 - 8 - 19) >> no_room),
    Case("4 in 6: a packet that may be cut is cut outside",
         *by(TUN, name=WEB), routes6(s1=1500), client().syn() >> left,
         client(fragment=0).ack(b"x" * 1440) >> cut_outside, sysctl("pmtu_disc", 0),
         client().ack(b"x" * 1440) >> cut_outside),
]


# ---- ICMPv6 -----------------------------------------------------------------------------------------------


def error(about, kind=2, code=0, info=1400, source=ROUTER, destination=VIP, hook=0, **fields):
    """Return an ICMPv6 error about *about*."""
    segment = struct.pack("!BBHI", kind, code, 0, info) + about
    return Seen(bytes(packets.ipv6(58, address(source), address(destination), segment,
                                   fields.pop("checksum", "right"), **fields)), hook, out_device=2)


def about_reply(port=80, **fields):
    """Return a server's packet as a router on the way to the client saw it."""
    return bytes(packets.tcp(f"[{VIP}]:{port}", CLIENT6, "A", **fields))


def about_request(server=f"[{RIP}]:8080", **fields):
    """Return a client's packet as the real server saw it."""
    return bytes(packets.tcp(CLIENT6, server, "S", **fields))


def speaks_of(source, destination, inner_source, inner_destination, at=0):
    """Expect these addresses and endpoints outside and in the quote, whose headers are *at* bytes longer."""
    def check(result):
        assert result.verdict == Verdict(1, True), f"{result.verdict} {result.counted}"
        came, start = result.came_out, packets.transport6(result.came_out)[1]
        assert came[8:40] == b"".join(address(each).to_bytes(16, "big") for each in (source, destination))
        assert packets.sum6(came) == 0xFFFF
        quote = came[start + 8:]
        (saddr, sport), (daddr, dport) = endpoint(inner_source), endpoint(inner_destination)
        assert quote[8:40] == saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big")
        assert quote[40 + at:44 + at] == struct.pack("!HH", sport, dport)
        assert quote[44 + at:] == result.sent[start + 8 + 44 + at:]         # the quoted checksum stays as it is
        assert came[40:start + 2] == result.sent[40:start + 2]

    return check


NATTED = (service(WEB6, f"[{RIP}]:8080"), client6().syn() >> to(f"[{RIP}]:8080"))
TO_SERVER = speaks_of(ROUTER, RIP, f"[{RIP}]:8080", CLIENT6)
TO_CLIENT = speaks_of(VIP, CIP, CLIENT6, VIP6)
ERRORS = [
    *[Case(f"an error of type {kind} about a server's packet is addressed to the server, and speaks of it",
           *NATTED, error(about_reply(), kind, 1, 6) >> TO_SERVER,
           shows(WEB6, f"[{RIP}]:8080", packets_in=2, bytes_in=60 + 108), wait(30),
           connection(CLIENT6, expires_seconds=30)) for kind in (1, 2, 3, 4, 127)],
    Case("questions and answers are no errors", *NATTED, error(b"", 128) >> passed("icmp"),
         error(b"", 135) >> passed("icmp"), error(about_reply(), 128) >> passed("icmp")),
    Case("a wrong checksum is not made right", *NATTED,
         error(about_reply(), checksum=0x1234) >> dropped("icmp_checksum")),
    Case("the quote must reach to the ports",
         *NATTED, *[error(about_reply()[:size]) >> passed("icmp") for size in (0, 39, 40, 43)],
         error(about_reply()[:44]) >> TO_SERVER, sysctl("schedule_icmp", 1),
         error(about_reply()[:43]) >> dropped("malformed"), error(about_reply()[:39]) >> passed("icmp")),
    Case("extension headers in both", *NATTED, error(about_reply(), extensions=[OPTIONS]) >> TO_SERVER,
         error(about_reply(extensions=[OPTIONS])) >> speaks_of(ROUTER, RIP, f"[{RIP}]:8080", CLIENT6, 8),
         error(about_reply(extensions=[fragment_header(more=True)]))
         >> speaks_of(ROUTER, RIP, f"[{RIP}]:8080", CLIENT6, 8)),
    Case("an error about a later fragment is about nothing that has ports",
         *NATTED, error(about_reply(extensions=[fragment_header(1448)])) >> passed("icmp"), sysctl("schedule_icmp", 1),
         error(about_reply(extensions=[fragment_header(1448)])) >> passed("icmp")),
    Case("an error that says it is a fragment is dropped; a question may be one",
         *NATTED, error(about_reply(), extensions=[fragment_header()]) >> dropped("fragment"),
         error(about_reply(), extensions=[fragment_header(8)]) >> dropped("fragment"),
         error(b"", 128, extensions=[fragment_header(more=True)]) >> passed("icmp")),
    Case("less than an ICMPv6 header is dropped",
         *NATTED, error(b"").cut(47).shortened() >> dropped("malformed")),
    Case("an error about nobody's packet passes",
         *NATTED, error(about_reply(81)) >> passed("icmp"), error(b"\x45" + bytes(60)) >> passed("icmp")),
    *[Case(f"{'6 in 6' if mode == TUN else 'DR'} forwards an error as it is, even a wrong one, and counts it",
           *by(mode), routes6(s1=1500), client6().syn() >> left,
           error(about_reply(), checksum=0x1234) >> sent_to(RIP, inside(True) if mode == TUN else bytes),
           shows(WEB6, REAL, packets_in=2, bytes_in=168), connection(CLIENT6, packets_in=2),
           error(about_reply(), ttl=1) >> last_hop,
           routes6(s1=1400), error(about_reply() + bytes(1300)) >> no_room) for mode in (DR, TUN)],
    Case("6 in 4 does, too", *by(TUN, real=REAL4), routes(s1=1500), client6().syn() >> left,
         error(about_reply()) >> left),
    Case("an error about a client's packet comes from the VIP, and speaks of it, whoever sent it",
         *NATTED, error(about_request(), source=RIP, destination=CIP, hook=POSTROUTING) >> TO_CLIENT,
         error(about_request(), 1, 3, 0, "2001:db8:6::7", CIP, POSTROUTING) >> TO_CLIENT,
         error(about_request(), 4, 1, 6, "2001:db8:6::7", CIP, POSTROUTING, extensions=[OPTIONS]) >> TO_CLIENT,
         error(about_request(), source=RIP, destination=CIP, hook=POSTROUTING, checksum=1)
         >> dropped("icmp_checksum"),
         error(about_request()[:43], source=RIP, destination=CIP, hook=POSTROUTING) >> passed("icmp"),
         shows(WEB6, f"[{RIP}]:8080", packets_out=3, bytes_out=3 * 108 + 8)),
    Case("one about DR passes as it is, and is counted",
         *by(DR), client6().syn() >> left,
         error(about_request(VIP6), source=RIP, destination=CIP, hook=POSTROUTING) >> passed("reply"),
         shows(WEB6, REAL, packets_out=1, bytes_out=108)),
    Case("schedule_icmp makes a connection of an error, for three seconds",
         *NATTED[:1], sysctl("schedule_icmp", 1), error(about_reply()) >> TO_SERVER,
         connection(CLIENT6, state="NONE", expires_seconds=3), wait(4), connections(0)),
    Case("an error about a tunnel packet over IPv6 is not looked into: it belongs to the host",
         *by(TUN), routes6(s1=1500), local_addresses(DIRECTOR, VIP), client6().syn() >> left,
         error(inside(True)(packets.with_less_ttl(client6().syn().packet)), source=RIP, destination=DIRECTOR)
         >> passed("icmp")),
    Case("nor is one about a tunnel packet over IPv4 with an IPv6 packet in it",
         *by(TUN, (GUE, 6080, NOCSUM), real=REAL4), local_addresses(DIRECTOR4, VIP), client6().syn() >> left,
         *[Seen(packets.icmp_error("192.168.20.253", DIRECTOR4, 3, 4, content, 1300)) >> passed("no_service")
           for content in (inside(False, 41)(packets.with_less_ttl(client6().syn().packet)),)],
         service(WEB, "192.168.20.9:80"),
         *[Seen(packets.icmp_error("192.168.20.253", DIRECTOR4, 3, 4, content, 1300)) >> passed("icmp")
           for content in (inside(False, 41)(packets.with_less_ttl(client6().syn().packet)), bytes(packets.udp(
               f"{DIRECTOR4}:40000", f"{RIP4}:6080",
               bytes([0, 41, 0, 0]) + packets.with_less_ttl(client6().syn().packet))))]),
]


# ---- FTP ----------------------------------------------------------------------------------------------------

FTP, CONTROL, FTP_SERVER = f"tcp:[{VIP}]:21", f"[{VIP}]:21", f"[{RIP}]:21"
FTP_CLIENT = client6(vip=CONTROL)
OPEN = (service(FTP, FTP_SERVER), FTP_CLIENT.syn() >> to(FTP_SERVER), FTP_CLIENT.ack() >> to(FTP_SERVER))


def active(words, waits_at):
    """Return the row of a client that says where it waits, and what becomes of it."""
    there = (connection(waits_at, state="LISTEN", vport=20, dport=20),
             server6(f"[{RIP}]:20", waits_at).syn() >> comes_from(f"[{VIP}]:20")) if waits_at else (connections(1),)
    return Case(f"{words}: {waits_at or 'nobody waits'}", *OPEN, FTP_CLIENT.ack(words) >> to(FTP_SERVER), *there)


TALK = [
    *[Case(f"{words} announces a passive data connection",
           *OPEN, FTP_CLIENT.ack(words) >> to(FTP_SERVER),
           server6(FTP_SERVER).ack(b"229 Extended (|||50010|)\r\n") >> comes_from(CONTROL),
           connection(f"[{CIP}]:0", state="LISTEN", vport=50010, dport=50010, expires_seconds=120),
           client6(f"[{CIP}]:41000", f"[{VIP}]:50010").syn() >> to(f"[{RIP}]:50010"),
           connection(f"[{CIP}]:41000", state="SYN_RECV", flags=0),
           server6(f"[{RIP}]:50010", f"[{CIP}]:41000").synack() >> comes_from(f"[{VIP}]:50010"))
      for words in (b"EPSV\r\n", b"EPSV 2\r\n", b"epsv 2\r\n")],
    *[Case(f"{words} does not", *OPEN, FTP_CLIENT.ack(words) >> to(FTP_SERVER),
           server6(FTP_SERVER).ack(b"229 Extended (|||50010|)\r\n") >> comes_from(CONTROL),
           server6(FTP_SERVER).ack(b"227 Entering (1,2,3,4,5,6)\r\n") >> comes_from(CONTROL), connections(1))
      for words in (b"EPSV 1\r\n", b"PASV\r\n", b"NOOP\r\n")],
    active(b"EPRT |2|2001:db8:c:1::9|40077|\r\n", f"[{CIP}]:40077"),
    active(b"eprt |2|2001:db8:c:1::A|40079|\r\n", "[2001:db8:c:1::a]:40079"),
    active(b"EPRT |2|2001:0db8:000c:0001:0:0:1.2.3.4|40081|\r\n", "[2001:db8:c:1::102:304]:40081"),
    *[active(words, None) for words in (
        b"EPRT |1|1.2.3.4|40078|\r\n", b"EPRT |2|2001:db8:zz::9|40082|\r\n", b"EPRT |2|2001:db8:c:1::9|99999|\r\n",
        b"EPRT |2| 2001:db8:c:1::9|40083|\r\n", b"EPRT |2|2001:db8:c:1::9|40084\r\n",
        b"EPRT |2|2001:db8:c:1::9|0|\r\n", b"EPRT |2|1::2::3|40085|\r\n", b"PORT 1,2,3,4,5,7\r\n")],
    Case("a reply with another delimiter is written anew, and numbers behind it are shifted",
         *OPEN, FTP_CLIENT.ack(b"EPSV\r\n") >> to(FTP_SERVER),
         server6(FTP_SERVER).ack(b"229 Extended (!!!050010!)\r\n") >> says(b"229 Extended (|||50010|)\r\n", 1000),
         server6(FTP_SERVER).tcp("A", b"150 ok\r\n", sequence=1027) >> says(b"150 ok\r\n", 1026)),
]


# ---- Aggregates -----------------------------------------------------------------------------------------------


def one_large(result):
    """Expect one packet that the kernel is to cut at 1440 bytes, its checksum the pseudo-header's sum."""
    ((next_hop, sent, segment, family),) = result.verdict.sent
    expected = packets.with_less_ttl(result.sent)
    pseudo = packets.pseudo6(6, address(CIP), address(VIP), len(sent) - 40)
    assert (next_hop, segment, family) == (address(RIP), 1440, AF_INET6)
    assert sent[56:58] == packets.ones_complement_sum(pseudo).to_bytes(2, "big")
    assert sent[:56] + sent[58:] == expected[:56] + expected[58:]


def segments(at, payload, header=40):
    """Expect tunnel packets whose segments, *at* bytes inside, follow each other and have right checksums."""
    def check(result):
        inner = [sent.packet[at:] for sent in result.verdict.sent]
        content = result.sent[header + 20:]
        assert [len(each) - header - 20 for each in inner] == [
            min(payload, len(content) - start) for start in range(0, len(content), payload)]
        assert [struct.unpack("!I", each[header + 4:header + 8])[0] for each in inner] == [
            1000 + start for start in range(0, len(content), payload)]
        assert b"".join(each[header + 20:] for each in inner) == content
        assert all(packets.sum6(each) == 0xFFFF and each[7] == 63 for each in inner)
        assert all(int.from_bytes(each[4:6], "big") == len(each) - 40 for each in inner)

    return check


BULK = bytes(range(250)) * 20
AGGREGATES = [
    Case("a large aggregate leaves by DR in one piece", *by(DR), routes6(s1=1500), client6().syn() >> left,
         client6().tcp("A", BULK, checksum="pseudo").with_form(GSO) >> one_large),
    Case("a large aggregate leaves by TUN in segments", *by(TUN), routes6(s1=1500), client6().syn() >> left,
         client6().tcp("A", BULK, checksum="pseudo").with_form(GSO) >> segments(40, 1400),
         shows(WEB6, REAL, packets_in=2, bytes_in=120 + len(BULK))),
    Case("each behind its extension headers", *by(TUN), routes6(s1=1500), client6().syn() >> left,
         client6(extensions=[OPTIONS]).tcp("A", BULK, checksum="pseudo").with_form(GSO) >> segments(40, 1392, 48)),
    Case("over IPv4", *by(TUN, real=REAL4), routes(s1=1500), client6().syn() >> left,
         client6().tcp("A", BULK, checksum="pseudo").with_form(GSO) >> segments(20, 1420)),
]


@pytest.mark.parametrize("case", DIRECT + TUNNELS + CANNOT + REASSEMBLED + ERRORS + TALK + AGGREGATES, ids=str)
def test_ipv6(case, engine):
    case.play(engine)


def test_a_classic_kernel_takes_checksums_of_icmpv6_otherwise(new_engine):
    """It looks at none towards a server, and takes all towards a client for wrong."""
    Case("", *NATTED, error(about_reply(), checksum=0x1234) >> TO_SERVER,
         error(about_request(), source=RIP, destination=CIP, hook=POSTROUTING) >> dropped("icmp_checksum"),
         *by(DR, name=DNS6), client6(vip=f"[{VIP}]:53").udp() >> left,
         error(bytes(packets.udp(f"[{VIP}]:53", CLIENT6)), hook=LOCAL_OUT) >> passed("icmp"),
         error(bytes(packets.udp(f"[{VIP}]:53", CLIENT6))) >> left).play(new_engine(profile=CLASSIC))
    Case("", *by(DR, name=DNS6), client6(vip=f"[{VIP}]:53").udp() >> left,
         error(bytes(packets.udp(f"[{VIP}]:53", CLIENT6)), hook=LOCAL_OUT) >> left).play(new_engine(profile=NEW))


@pytest.mark.parametrize(("profile", "within"), [(CLASSIC, dropped("malformed")), (NEW, passed("icmp"))])
def test_a_new_kernel_does_not_ask_what_follows_an_extension_header_that_is_cut(new_engine, profile, within):
    """A classic one does, if the header's first bytes are quoted: two, or four of a fragment header."""
    options = about_reply(extensions=[OPTIONS])
    fragment = about_reply(extensions=[fragment_header(more=True)])
    Case("", *NATTED, sysctl("schedule_icmp", 1), error(options[:41]) >> passed("icmp"),
         *[error(options[:size]) >> within for size in (42, 47)],
         *[error(options[:size]) >> dropped("malformed") for size in (48, 51)],
         error(options[:52]) >> speaks_of(ROUTER, RIP, f"[{RIP}]:8080", CLIENT6, 8),
         error(fragment[:43]) >> passed("icmp"), *[error(fragment[:size]) >> within for size in (44, 47)],
         error(fragment[:48]) >> dropped("malformed")).play(new_engine(profile=profile))
