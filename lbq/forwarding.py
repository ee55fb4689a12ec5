"""The ways out of the readable director: NAT in place, DR and TUN by itself, with the checks that come before.

    1  a real server on this host     NAT rewrites, DR and TUN let the packet be delivered
    2  no route to it                 ICMP host (IPv6: address) unreachable
    3  the TTL is used up             ICMP time exceeded
    4  too long for the way           ICMP fragmentation needed (IPv6: packet too big), or fragments when the packet
                                      allows it

An IPv6 packet never allows it, except that one which came in fragments and was put together leaves in fragments again.
It is known by being longer than any packet that can arrive here whole.

Kernel: ip_vs_xmit.c, __ip_vs_get_out_rt(), __ip_vs_get_out_rt_v6(), ip_vs_nat_xmit(), ip_vs_dr_xmit(),
ip_vs_tunnel_xmit(), and their _v6 twins.
Differs from IPVS: for a client on the director itself NAT leaves 3 and 4 to the host, which sends the rewritten packet
like any other of its own, in fragments if the sender allows them.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbq import packet as pkt
from lbq.model import (
    AF_INET,
    AF_INET6,
    LOCAL,
    NAT,
    ONE_PACKET,
    SCTP,
    TCP,
    TUN,
    UDP,
    RealServer,
    Sent,
    fold,
    packed,
)
from lbq.modes import dr, nat, pieces, tun
from lbq.protocols import icmp, icmpv6

if TYPE_CHECKING:
    from lbq.conntrack import Connection
    from lbq.parsing import Parsed

PREROUTING = 0
DONT_FRAGMENT = 0x40        # in byte 6 of the IPv4 header
LEAST_MTU = 68              # RFC 791
LEAST_MTU6 = 1280           # RFC 8200
USUAL_MTU = 1500            # where nothing is known
MOST_PIECES = 128           # of one packet
PATH_MTU_NS = 600 * 1_000_000_000       # how long a learnt path MTU holds: net.ipv4.route.mtu_expires
LOOPBACK6 = 1               # ::1


class Route(NamedTuple):
    """What the host knows of the way to a real server; *mtu* 0: nothing, -1: there is none."""

    address: int = 0
    mtu: int = 0
    source: int = 0
    device: int = 0
    mac: str = ""


class Forwarding:
    """The part of the director that sends packets on."""

    def __init__(self):
        super().__init__()
        self.limit = icmp.RateLimit()
        self.routes: dict[int, dict[int, Route]] = {AF_INET: {}, AF_INET6: {}}     # by family and address
        self.local: dict[int, set[int]] = {AF_INET: set(), AF_INET6: set()}
        self.largest_mtu = USUAL_MTU
        self.learnt: dict[RealServer, tuple[int, int]] = {}     # path MTU, until when
        self.identification = 0
        self.answer: bytes | None = None        # of the packet at hand
        self.sent: list[Sent] = []
        self.former: Connection | None = None   # what it ends: the kernel finds that a moment longer

    def limit_icmp(self, is_on: bool) -> None:
        """Say whether clients are answered only so often (the default)."""
        self.limit.is_on = is_on

    def set_routes(self, routes: list[tuple]) -> None:
        """Say what the host knows of the ways to IPv4 servers: (address, mtu, source, device, mac) each.

        What is not named stays as it was; an mtu of 0 says that nothing is known any more.
        """
        self.routes[AF_INET] |= {route[0]: Route(*route) for route in routes}

    def set_routes6(self, routes: list[tuple]) -> None:
        """Say what the host knows of the ways to IPv6 servers."""
        self.routes[AF_INET6] |= {route[0]: Route(*route) for route in routes}

    def set_local_addresses(self, addresses: list[int]) -> None:
        """Say which IPv4 addresses are the host's own: what goes there is delivered, not forwarded."""
        self.local[AF_INET] = set(addresses)

    def set_local_addresses6(self, addresses: list[int]) -> None:
        """Say which IPv6 addresses are the host's own."""
        self.local[AF_INET6] = set(addresses)

    def set_largest_mtu(self, mtu: int) -> None:
        """Say the largest MTU of the host's devices: an IPv6 packet that is longer came in fragments."""
        self.largest_mtu = mtu

    def forward(self, packet: bytearray, parsed: Parsed, connection: Connection, form: int, now_ns: int) -> str:
        """Send a client's packet, or an ICMP error for the server, on; return what became of it."""
        server, mode = connection.server, connection.mode()
        if server is None:
            return self._bypass(parsed)
        if server.address in self.local[server.family]:
            return self._forward_here(packet, parsed, connection, form)
        if mode == LOCAL:
            return "passed_local"
        route = self.routes[server.family].get(server.address, Route())
        if route.mtu < 0:
            self.refuse(packet, parsed, connection, icmp.NO_WAY, 0, now_ns)
            return "dropped_no_route"
        if _is_loopback(parsed.source, parsed.family):
            return "dropped_boundary"
        if _hops(packet) <= 1 and (mode != NAT or parsed.hook == PREROUTING):
            self.refuse(packet, parsed, connection, icmp.NO_HOPS, 0, now_ns)
            return "dropped_ttl"
        if mode != NAT:
            dr.to_real_server(packet)
        room = self._path_mtu(server, route, now_ns)
        if mode == TUN and room:
            room -= _overhead(server)
            if room < (LEAST_MTU6 if server.family == AF_INET6 else LEAST_MTU):
                return "dropped_too_big"
        large = form & pkt.SEGMENTED_LATER != 0
        if (room and parsed.length > room and not large and not self._may_be_cut(packet, parsed, mode)
                and (mode != NAT or parsed.hook == PREROUTING)):
            if mode == NAT:
                dr.to_real_server(packet)       # the kernel quotes the packet with the TTL it would have had
            self.refuse(packet, parsed, connection, icmp.NO_ROOM, room, now_ns)
            return "dropped_too_big"
        if mode == NAT:
            to_real_server(packet, parsed, connection, form, False)
            return "rewritten"
        return self._send(packet[:parsed.length], parsed, server, mode, form, route, room)

    def _bypass(self, parsed: Parsed) -> str:
        """Let a packet go where the client wanted (cache_bypass); IPv6's may be this host, which is not allowed."""
        here = parsed.family == AF_INET6 and parsed.destination in self.local[AF_INET6]
        return "dropped_boundary" if here else "passed_bypass"

    def _may_be_cut(self, packet: bytearray, parsed: Parsed, mode: int) -> bool:
        """Return True when a packet that is too long may leave in pieces."""
        if parsed.family == AF_INET6:
            return parsed.length > self.largest_mtu         # it came in pieces
        return (not packet[6] & DONT_FRAGMENT or parsed.related
                or (mode == TUN and not self.services.sysctls["pmtu_disc"]))

    def _forward_here(self, packet: bytearray, parsed: Parsed, connection: Connection, form: int) -> str:
        """Send a packet to a real server that is this host; only NAT may bring in what was not for this host."""
        if connection.mode() != NAT:
            return "passed_local" if parsed.destination in self.local[parsed.family] else "dropped_boundary"
        if _is_loopback(connection.daddr, parsed.family) and parsed.hook == PREROUTING:
            return "dropped_boundary"
        to_real_server(packet, parsed, connection, form, True)
        return "rewritten"

    def _send(self, packet: bytearray, parsed: Parsed, server: RealServer, mode: int, form: int, route: Route,
              room: int) -> str:
        """Send a packet by DR or TUN; *room* bytes of it fit on the way, 0 when that is not known."""
        if form & pkt.SEGMENTED_LATER:
            if parsed.protocol != TCP:
                return "dropped_unsegmentable"      # how long its segments are nobody tells us
            return self._send_large(packet, parsed, server, mode, route, room)
        if form & pkt.CHECKSUM_NOT_READY:
            _complete_checksum(packet, parsed)
        whole = self._wrap(packet, server, route) if mode == TUN else packet
        if pkt.whole_length(whole) != len(whole):
            return "dropped_too_big"            # longer than its header can say
        if room == 0 or parsed.length <= room:
            self.sent.append(Sent(server.address, bytes(whole), 0, server.family))
            return "forwarded"
        fragments = self._fragments(whole, room + len(whole) - len(packet))
        self.sent += [Sent(server.address, fragment, 0, server.family) for fragment in fragments]
        return "forwarded" if fragments else "dropped_too_big"

    def _send_large(self, packet: bytearray, parsed: Parsed, server: RealServer, mode: int, route: Route,
                    room: int) -> str:
        """Send an aggregate of TCP segments: by DR in one piece for the kernel to cut, by TUN cut here."""
        overhead = _overhead(server) if mode == TUN else 0
        payload = (room or USUAL_MTU - overhead) - parsed.header - (packet[parsed.header + 12] >> 4) * 4
        if payload <= 0:
            return "dropped_unsegmentable"
        if mode != TUN:
            pkt.put16(packet, parsed.header + pkt.TCP_CHECKSUM,
                      pkt.pseudo_sum(packet, TCP, parsed.header, parsed.length))
            self.sent.append(Sent(server.address, bytes(packet), payload, server.family))
            return "forwarded"
        segments = _cut(pieces.segment, packet, payload)
        self.sent += [Sent(server.address, bytes(self._wrap(bytearray(segment), server, route)), 0, server.family)
                      for segment in segments]
        return "forwarded" if segments else "dropped_unsegmentable"

    def _wrap(self, packet: bytearray, server: RealServer, route: Route) -> bytearray:
        head = bytearray(_overhead(server))
        if server.family == AF_INET6:
            tun.wrap6(packet, len(packet), head, packed(route.source, AF_INET6), packed(server.address, AF_INET6),
                      *server.tunnel, 0)
        else:
            tun.wrap(packet, len(packet), head, route.source, server.address, *server.tunnel,
                     self.services.sysctls["pmtu_disc"] != 0, self._next_identification() & 0xFFFF, 0)
        return head + packet

    def _fragments(self, packet: bytearray, mtu: int) -> list[bytes]:
        if packet[0] >> 4 == 6:
            return _cut(pieces.fragment6, packet, mtu, self._next_identification())
        return _cut(pieces.fragment, packet, mtu)

    def _next_identification(self) -> int:
        self.identification = (self.identification + 1) & 0xFFFFFFFF
        return self.identification

    def _path_mtu(self, server: RealServer, route: Route, now_ns: int) -> int:
        """Return the MTU towards *server*, 0 when nothing is known."""
        learnt, until_ns = self.learnt.get(server, (0, 0))
        if learnt and now_ns < until_ns and (route.mtu == 0 or learnt < route.mtu):
            return learnt
        return route.mtu

    def learn_path_mtu(self, server: RealServer, mtu: int, now_ns: int) -> None:
        """Remember for ten minutes what an ICMP error said of the way to *server*."""
        if mtu >= LEAST_MTU:
            self.learnt[server] = mtu, now_ns + PATH_MTU_NS

    def refuse(self, packet: bytearray, parsed: Parsed, connection: Connection | None, reason: int, mtu: int,
               now_ns: int, source: int | None = None) -> None:
        """Prepare the ICMP answer to a packet that goes nowhere, within the rate limits.

        It says *reason*, one of ``icmp.NO_SERVER`` ..., and comes from where the packet was going, or from *source*.
        What the host itself says about a packet of DR or TUN passes the kernel's reply hook there and is counted, for
        the connection before when the packet's own is none of those.
        """
        if parsed.related or self.answer is not None:
            return
        if not self._may_answer(parsed, reason, now_ns):
            self.counted["icmp_limited"] += 1
            return
        self.counted["icmp_sent"] += 1
        if parsed.family == AF_INET6:
            answer = bytearray(icmpv6.MAX_BYTES)
            size = icmpv6.error(reason >> 8 & 0xFF, reason & 0xFF, mtu, packet, parsed.length,
                                packed(source or parsed.destination, AF_INET6), answer)
            self.answer = bytes(answer[:size])
        else:
            self.answer = icmp_error(reason >> 24, reason >> 16 & 0xFF, mtu, packet, parsed.length, source)
        for each in (connection, self.former):
            if each is not None and each.mode() != NAT and not each.flags & ONE_PACKET:
                self.count_out(each, len(self.answer))
                return

    def _may_answer(self, parsed: Parsed, reason: int, now_ns: int) -> bool:
        if parsed.family == AF_INET6:
            if not icmpv6.is_somebody(packed(parsed.source, AF_INET6)):
                return False
            if reason == icmp.NO_ROOM:
                return True
        elif not icmp.is_somebody(parsed.source):
            return False
        return self.limit.allow(fold(parsed.source), now_ns)


def to_real_server(packet: bytearray, parsed: Parsed, connection: Connection, form: int, delivered_here: bool) -> None:
    """Address a client's packet to the real server of *connection* (NAT)."""
    if parsed.family == AF_INET6:
        nat.to_real_server6(packet, parsed.protocol, parsed.header, parsed.length,
                            packed(connection.daddr, AF_INET6), connection.dport, form, delivered_here)
    else:
        nat.to_real_server(packet, parsed.length, connection.daddr, connection.dport, form, delivered_here)


def to_client(packet: bytearray, parsed: Parsed, length: int, vip: int, vport: int, form: int,
              delivered_here: bool) -> None:
    """Make a real server's packet of *length* bytes come from the virtual service (NAT)."""
    if parsed.family == AF_INET6:
        nat.to_client6(packet, parsed.protocol, parsed.header, length, packed(vip, AF_INET6), vport, form,
                       delivered_here)
    else:
        nat.to_client(packet, length, vip, vport, form, delivered_here)


def icmp_error(kind: int, code: int, mtu: int, packet: bytearray, length: int, source: int | None = None) -> bytes:
    """Return an ICMP error about *packet*, from where it was going or from *source*."""
    answer = bytearray(icmp.MAX_BYTES)
    size = icmp.error(kind, code, mtu, packet, length, answer)
    if source is not None:
        icmp.come_from(answer, source)
    return bytes(answer[:size])


def _hops(packet: bytearray) -> int:
    """Return the TTL or hop limit of *packet*."""
    return packet[pkt.IP6_HOPS] if packet[0] >> 4 == 6 else packet[pkt.IP_TTL]


def _is_loopback(address: int, family: int) -> bool:
    return address == LOOPBACK6 if family == AF_INET6 else address >> 24 == 127


def _overhead(server: RealServer) -> int:
    return tun.overhead(server.tunnel.type, server.tunnel.flags, server.family == AF_INET6)


def _cut(function, packet: bytearray, size: int, *more: int) -> list[bytes]:
    """Return the pieces that a function of ``pieces`` cuts *packet* into; none when they don't fit."""
    room = bytearray(3 * 65536)
    count = function(packet, len(packet), size, room, len(room), MOST_PIECES, *more)
    found, at = [], 0
    for _ in range(count):
        length = pkt.whole_length(room[at:at + pkt.IP6_HEADER])
        found.append(bytes(room[at:at + length]))
        at += length
    return found


def _complete_checksum(packet: bytearray, parsed: Parsed) -> None:
    """Finish a checksum that the sender had left to its card."""
    if parsed.protocol == SCTP:
        pkt.put_crc32c(packet, parsed.header, parsed.length)
        return
    if parsed.protocol in (TCP, UDP):
        field = parsed.header + (pkt.TCP_CHECKSUM if parsed.protocol == TCP else pkt.UDP_CHECKSUM)
        pkt.put16(packet, field, pkt.transport_checksum(packet, parsed.protocol, parsed.header, parsed.length, field))
