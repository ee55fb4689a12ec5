"""IPv6 by NAT: who is told apart from whom, extension headers, fragments, persistence, schedulers.

What is expected is what kernels 6.1.176 and 6.1.192 did with the same packets, unless a row says otherwise.
"""
from __future__ import annotations

import pytest

from lbq.errors import ServiceError
from lbq.model import AF_INET6, DR, NAT, OPS, PERSISTENT, SCHED2, TUN, Verdict
from lbq.packet import CHECKSUM_NOT_READY, SEGMENTED_LATER
from tests.helpers import engines, packets
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
    persistent,
    refused,
    refused_silently,
    routes6,
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
    HOP_BY_HOP,
    OPTIONS,
    RIP,
    ROUTING,
    VIP,
    client6,
    fragment_header,
    server6,
)
from tests.helpers.engines import LOCAL_IN, LOCAL_OUT, POSTROUTING, key
from tests.helpers.packets import address, endpoint

REAL, OTHER = f"[{RIP}]:8080", "[2001:db8:5::2]:8080"
LARGE = b"x" * 1400


def between(source, destination):
    """Expect an SCTP packet between these two ends."""
    def check(result):
        (saddr, sport), (daddr, dport) = endpoint(source), endpoint(destination)
        assert result.verdict[:2] == (1, True)
        assert result.came_out[8:40] == saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big")
        assert result.came_out[40:44] == sport.to_bytes(2, "big") + dport.to_bytes(2, "big")

    return check


def not_allowed(result):
    """Expect a drop by the boundary rule, after the connection was made."""
    assert (result.verdict.sent, result.verdict.answer, result.counted["dropped_boundary"]) == ((), None, 1)


def bypassed(result):
    """Expect the packet untouched, its mark taken off."""
    assert result.verdict == Verdict(1, unmarked=True)
    assert (result.came_out, result.counted["passed_bypass"]) == (result.sent, 1)


def through(result):
    """Expect a rewritten packet, whatever its headers."""
    assert result.verdict[:2] == (1, True)
    assert result.came_out[24:40] == address(RIP).to_bytes(16, "big")


def sctp(source, destination, chunk, **at):
    """Return an SCTP packet with one chunk; nobody has looked at its checksum."""
    (saddr, sport), (daddr, dport) = endpoint(source), endpoint(destination)
    body = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + bytes(8) + bytes([chunk, 0, 0, 4])
    return Seen(bytes(packets.ipv6(132, saddr, daddr, body)), **at)


ADDRESSES = [
    Case("a request goes to the real server, the answer comes from the VIP",
         service(WEB6, REAL), client6().syn() >> to(REAL), server6(REAL).synack() >> comes_from(VIP6),
         client6().ack(b"GET /") >> to(REAL), server6(REAL).ack(LARGE) >> comes_from(VIP6),
         connection(CLIENT6, caddr=CIP, cport=40000, vaddr=VIP, vport=80, daddr=RIP, dport=8080, state="ESTABLISHED",
                    packets_in=2, flags=0),
         shows(WEB6, REAL, family="inet6", active=1, conns=1, packets_in=2, bytes_in=125, packets_out=2,
               bytes_out=1520)),
    Case("addresses that differ in any word are different clients and different services",
         service(WEB6, REAL),
         *[client6(f"[{where}]:40000").syn() >> to(REAL) for where in (
             "2001:db8:c:1::9", "2001:db9:c:1::9", "2001:db8:c:2::9", "2001:db8:c:1:1::9", "2001:db8:c:1::a")],
         connections(5),
         *[client6(vip=f"[{where}]:80").syn() >> passed("no_service") for where in (
             "2001:db8:1::2", "2001:db9:1::1", "2001:db8:1:1::1", "2001:db8:1:0:1::1")]),
    Case("clients whose words are equal when XORed are told apart",
         service(WEB6, REAL), client6("[1:2::3:4]:1").syn() >> to(REAL), client6("[3:4::1:2]:1").syn() >> to(REAL),
         connections(2), client6("[1:2::3:4]:1").ack() >> to(REAL),
         connection("[1:2::3:4]:1", packets_in=2), connection("[3:4::1:2]:1", packets_in=1),
         server6(REAL, "[3:4::1:2]:1").synack() >> comes_from(VIP6),
         server6(REAL, "[0:0:1:2::3:4]:1").synack() >> passed("no_connection")),
    Case("services whose words are equal when XORed are told apart",
         service("tcp:[1:2::3:4]:80", REAL), client6(vip="[1:2::3:4]:80").syn() >> to(REAL),
         client6(vip="[3:4::1:2]:80").syn() >> passed("no_service")),
    Case("an IPv4 address is another one than the IPv6 address with the same number",
         service(WEB, "192.168.20.1:80"), service("tcp:[::c0a8:a01]:80", REAL),
         client().syn() >> to("192.168.20.1:80"), client6("[::c0a8:a09]:40000", "[::c0a8:a01]:80").syn() >> to(REAL),
         connections(2), client().ack() >> to("192.168.20.1:80"),
         connection("192.168.10.9:40000", packets_in=2), connection("[::192.168.10.9]:40000", packets_in=1)),
    Case("without a service of its family a packet is nobody's",
         service(WEB, "192.168.20.1:80"), client6().syn() >> passed("no_service"),
         client6().ack() >> passed("no_service")),
    Case("after the last IPv6 service the replies of its connections pass as they are",
         service(WEB, "192.168.20.1:80"), service(WEB6, REAL), client6().syn() >> to(REAL),
         call("delete_service", key(WEB6)), server6(REAL).synack() >> passed("no_service"),
         client().syn() >> to("192.168.20.1:80")),
    Case("UDP",
         service(DNS6, f"[{RIP}]:53"), client6(vip=f"[{VIP}]:53").udp() >> to(f"[{RIP}]:53"),
         server6(f"[{RIP}]:53").udp(b"answer") >> comes_from(f"[{VIP}]:53"),
         connection(CLIENT6, state="UDP", expires_seconds=300)),
    Case("SCTP",
         service(f"sctp:[{VIP}]:9", f"[{RIP}]:99"),
         sctp(CLIENT6, f"[{VIP}]:9", 1) >> between(CLIENT6, f"[{RIP}]:99"), connection(CLIENT6, state="INIT1"),
         sctp(f"[{RIP}]:99", CLIENT6, 2, hook=POSTROUTING) >> between(f"[{VIP}]:9", CLIENT6),
         connection(CLIENT6, state="C-SENT")),
    Case("a UDP checksum of zero becomes a real one",
         service(DNS6, f"[{RIP}]:53"), client6(vip=f"[{VIP}]:53").udp(b"abc", checksum="none") >> to(f"[{RIP}]:53")),
    Case("a wrong checksum stays wrong",
         service(WEB6, REAL), client6().tcp("S", checksum=0x1234) >> to(REAL, checksums_right=False)),
    Case("an unfinished checksum is finished",
         service(WEB6, REAL), client6().tcp("S", checksum="pseudo").with_form(CHECKSUM_NOT_READY) >> to(REAL)),
    Case("a SYN in TIME_WAIT starts over",
         service(WEB6, REAL), client6().syn() >> to(REAL), server6(REAL).synack() >> comes_from(VIP6),
         client6().ack() >> to(REAL), client6().fin() >> to(REAL), server6(REAL).fin() >> comes_from(VIP6),
         connection(CLIENT6, state="TIME_WAIT"), client6().syn() >> to(REAL),
         connection(CLIENT6, state="SYN_RECV", packets_in=1)),
    Case("a connection ends by its timer",
         service(WEB6, REAL), client6().syn() >> to(REAL), wait(61), connections(0),
         server6(REAL).synack() >> passed("no_connection"), shows(WEB6, REAL, active=0, inactive=0)),
    Case("a deleted server's clients are dropped, its replies pass",
         service(WEB6, REAL), client6().syn() >> to(REAL), call("delete_server", key(WEB6), *endpoint(REAL)),
         client6().ack() >> dropped("server_gone"), server6(REAL).synack() >> comes_from(VIP6)),
    Case("a client that nobody can take is told: port unreachable",
         service(WEB6), client6().syn() >> refused, client6(tos=0xB8).tcp("S", LARGE) >> refused,
         client6("[::]:1").syn() >> refused_silently, client6("[ff02::5]:1").syn() >> refused_silently,
         client6("[fe80::9]:1").syn() >> refused),
    Case("a real server to which nobody listens is told so by the director itself",
         service(WEB6, REAL), sysctl("nat_icmp_send", 1), routes6(s1=1500),
         server6(REAL).ack() >> told(1, 4, "nat_icmp", by=DIRECTOR), server6(REAL).rst() >> passed("no_connection"),
         server6(OTHER).ack() >> passed("no_connection")),
    Case("a client on the director itself",
         service(WEB6, REAL), client6(f"[{VIP}]:4000", hook=LOCAL_OUT).syn() >> to(REAL),
         server6(REAL, f"[{VIP}]:4000", hook=LOCAL_IN).synack() >> comes_from(VIP6)),
    Case("a real server on the director itself serves a packet at its last hop",
         service(WEB6, REAL), local_addresses(RIP, VIP), client6(ttl=1).syn() >> to(REAL)),
    Case("nobody from outside gets to ::1",
         service(WEB6, "[::1]:80"), local_addresses("::1", VIP), client6().syn() >> not_allowed,
         client6(f"[{VIP}]:4000", hook=LOCAL_OUT).syn() >> to("[::1]:80")),
]


def checks(content):
    """Return a check that a packet came out NATed with exactly *content* as its headers before the transport's."""
    def check(result):
        to(REAL)(result)
        _, at = packets.transport6(result.came_out)
        assert result.came_out[40:at] == content

    return check


def headers(*extensions, protocol=6):
    """Return a chain of extension headers before *protocol*."""
    packet = packets.ipv6(protocol, 0, 0, b"", extensions=extensions)
    return bytes(packet[40:])


FIRST = client6(extensions=[fragment_header(more=True)])
EXTENSIONS = [
    *[Case(f"headers {[number for number, _ in chain]} are stepped over and stay",
           service(WEB6, REAL), client6(extensions=chain).syn() >> checks(headers(*chain)),
           connection(CLIENT6, state="SYN_RECV"),
           server6(REAL, extensions=chain).synack() >> comes_from(VIP6), client6(extensions=chain).ack() >> to(REAL),
           connection(CLIENT6, state="ESTABLISHED"))
      for chain in ([OPTIONS], [HOP_BY_HOP], [ROUTING], [HOP_BY_HOP, OPTIONS, ROUTING, OPTIONS],
                    [(60, bytes([0, 3, 1, 28, *bytes(28)]))], [fragment_header()])],
    Case("an authentication header counts its length in other units",
         service(WEB6, REAL), client6(extensions=[(51, bytes([0, 4, *bytes(22)]))]).syn() >> through),
    Case("UDP behind options, unfinished",
         service(DNS6, f"[{RIP}]:53"),
         client6(vip=f"[{VIP}]:53", extensions=[OPTIONS]).udp(b"odd", checksum="pseudo").with_form(CHECKSUM_NOT_READY)
         >> to(f"[{RIP}]:53")),
    Case("a chain that leads out of the packet is the host's business",
         service(WEB6, REAL), client6(extensions=[(60, bytes([0, 255, *bytes(6)]))]).syn() >> dropped("malformed"),
         client6(extensions=[OPTIONS]).syn().cut(41).shortened() >> passed("not_ours"),
         client6(extensions=[(44, bytes(8))]).syn().cut(43).shortened() >> passed("not_ours"),
         client6(extensions=[(44, bytes(8))]).syn().cut(47).shortened() >> dropped("malformed")),
    Case("a header that is not ours, or none, passes",
         service(WEB6, REAL), *[Seen(bytes(packets.ipv6(protocol, address(CIP), address(VIP), bytes(40))))
                                >> passed("not_ours") for protocol in (50, 59, 41, 47, 89)]),
    Case("less than its transport's header is dropped",
         service(WEB6, REAL), client6().syn().cut(59).shortened() >> dropped("malformed"),
         client6().syn().cut(40).shortened() >> dropped("malformed"),
         client6().syn().cut(39) >> dropped("malformed"), client6().syn().cut(59) >> dropped("truncated"),
         client6(vip=f"[{VIP}]:53").udp(b"").cut(47).shortened() >> dropped("malformed")),
    Case("what lies behind the packet's end does not count",
         service(WEB6, REAL), client6().syn().padded(6) >> to(REAL), shows(WEB6, REAL, bytes_in=60)),
    Case("a first fragment is a packet like any other, a later one is nobody's",
         service(WEB6, REAL), FIRST.syn() >> to(REAL, checksums_right=True), connections(1),
         client6(extensions=[fragment_header(8)]).syn() >> passed("later_fragment"),
         client6(extensions=[OPTIONS, fragment_header(1448, more=True)]).syn() >> passed("later_fragment"),
         Seen(bytes(packets.ipv6(60, address(CIP), address(VIP), bytes(40), extensions=[fragment_header(8)])))
         >> passed("not_ours"),
         connection(CLIENT6, packets_in=1)),
]


PERSISTENCE = [
    Case("clients of one prefix go to one server, as long as the prefix is",
         persistent(WEB6, REAL, OTHER, netmask="64"),
         client6("[2001:db8:c:1::9]:1").syn() >> to(OTHER), client6("[2001:db8:c:1:ffff::]:2").syn() >> to(OTHER),
         client6("[2001:db8:c:2::9]:3").syn() >> to(REAL), client6("[2001:db8:c:2::a]:4").syn() >> to(REAL),
         connection("[2001:db8:c:1::]:0", vaddr=VIP, vport=80, dport=8080, daddr="2001:db8:5::2", state="NONE",
                    expires_seconds=300)),
    *[Case(f"a prefix of {bits} bits",
           persistent(WEB6, REAL, OTHER, netmask=str(bits)), client6(f"[{one}]:1").syn() >> to(OTHER),
           client6(f"[{same}]:2").syn() >> to(OTHER), client6(f"[{another}]:3").syn() >> to(REAL))
      for bits, one, same, another in (
          (1, "2001::1", "7fff::2", "8000::1"), (31, "2001:db8::1", "2001:db9::1", "2001:dba::1"),
          (33, "2001:db8:8000::1", "2001:db8:ffff::1", "2001:db8:7fff::1"),
          (127, "2001:db8::2", "2001:db8::3", "2001:db8::4"), (128, "2001:db8::2", "2001:db8::2", "2001:db8::3"))],
    Case("without a netmask the whole address counts",
         call("add_service", key(WEB6), "rr", PERSISTENT, 300), call("add_server", key(WEB6), *endpoint(REAL)),
         client6().syn() >> to(REAL), connection(f"[{CIP}]:0", state="NONE")),
    Case("a firewall mark's template is found by the mark in the first word of the VIP's place",
         persistent("fwmark:5/6", f"[{RIP}]:0", "[2001:db8:5::2]:0", netmask="64", timeout=100),
         client6().syn().marked(5) >> to("[2001:db8:5::2]:80"),
         client6("[2001:db8:c:1::a]:7", f"[{VIP}]:53").udp().marked(5) >> to("[2001:db8:5::2]:53"),
         client6("[2001:db8:c:2::9]:7").syn().marked(5) >> to(f"[{RIP}]:80"),
         connection("[2001:db8:c:1::]:0", protocol="ip", vaddr="0:5::", vport=0, dport=0, expires_seconds=100)),
    Case("a mark has a service of each family",
         persistent("fwmark:5", "192.168.20.1:0", flags=0),
         persistent("fwmark:5/6", f"[{RIP}]:0", netmask="128", flags=0),
         client().syn().marked(5) >> to("192.168.20.1:80"), client6().syn().marked(5) >> to(f"[{RIP}]:80"),
         call("delete_service", key("fwmark:5/6")), client6().ack().marked(5) >> passed("no_service"),
         client("192.168.10.9:2").syn().marked(5) >> to("192.168.20.1:80")),
    Case("port 0 covers every port",
         persistent(f"tcp:[{VIP}]:0", f"[{RIP}]:0", netmask="128"), client6().syn() >> to(f"[{RIP}]:80"),
         client6(vip=f"[{VIP}]:443").syn() >> to(f"[{RIP}]:443"), connection(f"[{CIP}]:0", vport=0)),
    Case("a one-packet connection is gone with its packet",
         persistent(DNS6, f"[{RIP}]:53", netmask="128", flags=OPS),
         client6(vip=f"[{VIP}]:53").udp() >> to(f"[{RIP}]:53"),
         connections(0), server6(f"[{RIP}]:53").udp() >> passed("no_connection"),
         shows(DNS6, f"[{RIP}]:53", conns=1, packets_in=1, inactive=0)),
    Case("a drop_packet rate concerns both families",
         service(WEB6, REAL), sysctl("am_droprate", 2), sysctl("drop_packet", 3),
         client6().syn() >> dropped("defence"), client6().syn() >> to(REAL)),
]

CLIENTS = ("2001:db8:c:1::9", "2001:db8:c:1::a", "2001:db8:c:2::9", "fd00:1234:5678:9abc:def0:1111:2222:3333",
           "2001:db8::1", "2a00:1450:4001:81b::200e", "2600:1406:bc00:53::b81e:94ce", "2001:db8:c:1:ffff::1", "::2",
           "1::")
# What both kernels chose for these clients, ports 40001 on, servers A weight 3, B 2, C 1 added in this order.
CHOICES = [("sh", 0, "BAAAAAAAAB"), ("sh", SCHED2, "BABAAABBAC"), ("mh", 0, "AAABABABBB"), ("mh", SCHED2, "BABABAACBA")]


@pytest.mark.parametrize(("scheduler", "flags", "choices"), CHOICES)
def test_a_hashing_scheduler_folds_an_address_as_the_kernel_does(engine, scheduler, flags, choices):
    """The ports of the real servers are the services' own, 100 to 103, in the order of CHOICES."""
    port = 100 + [row[2] for row in CHOICES].index(choices)
    name = f"tcp:[{VIP}]:{port}"
    servers = {f"[2001:db8:5::{number}]:{port}": letter for number, letter in zip((1, 2, 3), "ABC", strict=True)}
    engine.add_service(key(name), scheduler, flags)
    for weight, each in zip((3, 2, 1), servers, strict=True):
        engine.add_server(key(name), *endpoint(each), weight)

    chosen = ""
    for number, each in enumerate(CLIENTS):
        packet = bytearray(client6(f"[{each}]:{40001 + number}", f"[{VIP}]:{port}").syn().packet)
        engine.handle(packet, 0)
        chosen += servers[packets.read(packet).destination]

    assert chosen == choices


def test_dh_folds_the_destination_as_the_kernel_does(engine):
    engine.add_service(key("fwmark:5/6"), "dh")
    for weight, number in zip((3, 2, 1), (1, 2, 3), strict=True):
        engine.add_server(key("fwmark:5/6"), address(f"2001:db8:5::{number}"), 0, weight)

    chosen = ""
    for number in range(1, 9):
        packet = bytearray(client6(vip=f"[2001:db8:1::{number}]:53").udp().packet)
        engine.handle(packet, 0, mark=5)
        chosen += "ABC"[packet[39] - 1]

    assert chosen == "BABCCACC"


def test_lblc_tells_destinations_apart_by_the_whole_address(engine):
    """Two destinations with one XOR are two entries: the second goes to the less loaded server."""
    engine.add_service(key("fwmark:5/6"), "lblc")
    for number in (1, 2):
        engine.add_server(key("fwmark:5/6"), address(f"2001:db8:5::{number}"), 0)

    chosen = []
    for cport, vip in enumerate(("1:2::3:4", "3:4::1:2", "1:2::3:4", "3:4::1:2"), 1):
        packet = bytearray(client6(f"[{CIP}]:{cport}", f"[{vip}]:53").udp().packet)
        engine.handle(packet, 0, mark=5)
        chosen.append(packet[39])

    assert chosen == [2, 1, 2, 1]


BYPASSED = [
    Case("cache_bypass lets a packet of a mark pass to where it was going",
         persistent("fwmark:6/6", netmask="128", flags=0), sysctl("cache_bypass", 1),
         client6(vip="[2001:db8:6::77]:80").syn().marked(6) >> bypassed,
         connection(CLIENT6, daddr="::", dport=0, state="SYN_RECV")),
    Case("but not to the director itself, though a connection is made",
         persistent("fwmark:6/6", netmask="128", flags=0), sysctl("cache_bypass", 1), local_addresses(VIP),
         client6().syn().marked(6) >> not_allowed, connection(CLIENT6, daddr="::", state="SYN_RECV")),
    *[Case(f"{where} is no single host", persistent("fwmark:6/6", netmask="128", flags=0), sysctl("cache_bypass", 1),
           client6(vip=f"[{where}]:80").syn().marked(6) >> refused) for where in ("ff0e::1", "::ffff:1.2.3.4", "::")],
    Case("without cache_bypass the client is told",
         persistent("fwmark:6/6", netmask="128", flags=0), client6().syn().marked(6) >> refused),
]


@pytest.mark.parametrize("case", ADDRESSES + EXTENSIONS + PERSISTENCE + BYPASSED, ids=str)
def test_ipv6(case, engine):
    case.play(engine)


def test_a_large_aggregate_is_left_for_the_kernel_to_finish(engine):
    """TCP's checksum field is not touched, but summed when the real server is the director itself."""
    Case("", service(WEB6, REAL), client6().syn() >> to(REAL)).play(engine)
    packet = bytearray(client6().tcp("A", LARGE * 3, checksum="pseudo").packet)
    before = bytes(packet)

    assert engine.handle(packet, 0, SEGMENTED_LATER | CHECKSUM_NOT_READY).changed
    assert (packet[24:40], packet[56:58]) == (address(RIP).to_bytes(16, "big"), before[56:58])
    engine.set_local_addresses6([address(RIP)])
    packet = bytearray(before)
    assert engine.handle(packet, 0, SEGMENTED_LATER | CHECKSUM_NOT_READY).changed
    assert packets.sum6(packet) == 0xFFFF


@pytest.mark.parametrize("mode", [NAT, DR])
def test_only_tun_carries_one_family_in_the_other(engine, mode):
    engine.add_service(key(WEB6), "rr")

    with pytest.raises(ServiceError, match=r"server 192\.168\.20\.1:80 is not of the address family"):
        engine.add_server(key(WEB6), *endpoint("192.168.20.1:80"), 1, mode, family=2)
    engine.add_server(key(WEB6), *endpoint("192.168.20.1:80"), 1, TUN, family=2)
    with pytest.raises(ServiceError, match="only tun"):
        engine.set_server(key(WEB6), *endpoint("192.168.20.1:80"), 1, mode, family=2)

    (row,), _ = engine.list_services()
    assert [(each["family"], each["address"], each["mode"]) for each in row["servers"]] == [
        ("inet", "192.168.20.1", "tun")]


@pytest.mark.parametrize("netmask", [0, 129, 0xFFFFFFFF])
def test_a_netmask_of_ipv6_is_the_length_of_a_prefix(engine, netmask):
    with pytest.raises(ServiceError, match="prefix length from 1 to 128"):
        engine.add_service(key(WEB6), "rr", PERSISTENT, 300, netmask)
    engine.add_service(key(WEB6), "rr", PERSISTENT, 300, 64)
    with pytest.raises(ServiceError, match="prefix length from 1 to 128"):
        engine.set_service(key(WEB6), "rr", PERSISTENT, 300, netmask)

    (row,), _ = engine.list_services()
    assert (row["family"], row["netmask"]) == ("inet6", "64")


def test_two_servers_with_one_number_are_two_servers(engine):
    """10.1.0.1 and ::a01:1 are the same number; each is found, changed, deleted and brought back by its family."""
    four, six = endpoint("10.1.0.1:80"), endpoint("[::a01:1]:80")
    engine.add_service(key(WEB6), "rr")
    engine.add_server(key(WEB6), *four, 1, TUN, family=2)
    engine.add_server(key(WEB6), *six, 2, TUN)
    engine.set_server(key(WEB6), *four, 5, TUN, family=2)
    engine.delete_server(key(WEB6), *six)

    (row,), _ = engine.list_services()
    assert [(each["address"], each["weight"]) for each in row["servers"]] == [("10.1.0.1", 5)]
    assert engines.forget_deleted(engine) == [(key(WEB6), *six, AF_INET6)]
