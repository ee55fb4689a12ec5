"""The ways out of the readable director: NAT in place, DR and TUN by itself, with the checks that come before.

    1  a real server on this host     NAT rewrites, DR and TUN let the packet be delivered
    2  no route to it                 ICMP host unreachable
    3  the TTL is used up             ICMP time exceeded
    4  too long for the way           ICMP fragmentation needed, or fragments when the packet allows it

Kernel: ip_vs_xmit.c, __ip_vs_get_out_rt(), ip_vs_nat_xmit(), ip_vs_dr_xmit(), ip_vs_tunnel_xmit().
Differs from IPVS: for a client on the director itself NAT leaves 3 and 4 to the host, which sends the rewritten packet
like any other of its own, in fragments if the sender allows them.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbq import packet as pkt
from lbq.model import LOCAL, NAT, ONE_PACKET, SCTP, TCP, TUN, RealServer, Sent
from lbq.modes import dr, nat, pieces, tun
from lbq.protocols import icmp

if TYPE_CHECKING:
    from lbq.conntrack import Connection
    from lbq.director import Parsed

PREROUTING = 0
DONT_FRAGMENT = 0x40        # in byte 6 of the IPv4 header
LEAST_MTU = 68              # RFC 791
USUAL_MTU = 1500            # where nothing is known
MOST_PIECES = 128           # of one packet
PATH_MTU_NS = 600 * 1_000_000_000       # how long a learnt path MTU holds: net.ipv4.route.mtu_expires
UNREACHABLE, HOST, FRAGMENTATION_NEEDED = 3, 1, 4
TIME_EXCEEDED = 11


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
        self.routes: dict[int, Route] = {}
        self.learnt: dict[RealServer, tuple[int, int]] = {}     # path MTU, until when
        self.identification = 0
        self.answer: bytes | None = None        # of the packet at hand
        self.sent: list[Sent] = []
        self.former: Connection | None = None   # what it ends: the kernel finds that a moment longer

    def limit_icmp(self, is_on: bool) -> None:
        """Say whether clients are answered only so often (the default)."""
        self.limit.is_on = is_on

    def set_routes(self, routes: list[tuple]) -> None:
        """Say what the host knows of the ways to servers: (address, mtu, source, device, mac) each."""
        self.routes = {route[0]: Route(*route) for route in routes}

    def forward(self, packet: bytearray, parsed: Parsed, connection: Connection, form: int, now_ns: int) -> str:
        """Send a client's packet, or an ICMP error for the server, on; return what became of it."""
        server, mode = connection.server, connection.mode()
        if server is None:
            return "passed_bypass"
        if server.address in self.local_addresses:
            return self._forward_here(packet, parsed, connection, form)
        if mode == LOCAL:
            return "passed_local"
        route = self.routes.get(server.address, Route())
        if route.mtu < 0:
            self.refuse(packet, parsed, connection, UNREACHABLE, HOST, 0, now_ns)
            return "dropped_no_route"
        if parsed.source >> 24 == 127:
            return "dropped_boundary"
        if packet[pkt.IP_TTL] <= 1 and (mode != NAT or parsed.hook == PREROUTING):
            self.refuse(packet, parsed, connection, TIME_EXCEEDED, 0, 0, now_ns)
            return "dropped_ttl"
        if mode != NAT:
            dr.to_real_server(packet)
        room = self._path_mtu(server, route, now_ns)
        if mode == TUN and room:
            room -= tun.overhead(server.tunnel.type, server.tunnel.flags)
            if room < LEAST_MTU:
                return "dropped_too_big"
        large = form & pkt.SEGMENTED_LATER != 0
        if (room and parsed.length > room and packet[6] & DONT_FRAGMENT and not large and not parsed.related
                and (mode != TUN or self.services.sysctls["pmtu_disc"])
                and (mode != NAT or parsed.hook == PREROUTING)):
            if mode == NAT:
                dr.to_real_server(packet)       # the kernel quotes the packet with the TTL it would have had
            self.refuse(packet, parsed, connection, UNREACHABLE, FRAGMENTATION_NEEDED, room, now_ns)
            return "dropped_too_big"
        if mode == NAT:
            nat.to_real_server(packet, parsed.length, connection.daddr, connection.dport, form, False)
            return "rewritten"
        return self._send(packet[:parsed.length], parsed, server, mode, form, route, room)

    def _forward_here(self, packet: bytearray, parsed: Parsed, connection: Connection, form: int) -> str:
        """Send a packet to a real server that is this host; only NAT may bring in what was not for this host."""
        if connection.mode() != NAT:
            return "passed_local" if parsed.destination in self.local_addresses else "dropped_boundary"
        if connection.server.address >> 24 == 127 and parsed.hook == PREROUTING:
            return "dropped_boundary"
        nat.to_real_server(packet, parsed.length, connection.daddr, connection.dport, form, True)
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
        if room == 0 or parsed.length <= room:
            self.sent.append(Sent(server.address, bytes(whole)))
            return "forwarded"
        fragments = _cut(pieces.fragment, whole, room + len(whole) - len(packet))
        self.sent += [Sent(server.address, fragment) for fragment in fragments]
        return "forwarded" if fragments else "dropped_too_big"

    def _send_large(self, packet: bytearray, parsed: Parsed, server: RealServer, mode: int, route: Route,
                    room: int) -> str:
        """Send an aggregate of TCP segments: by DR in one piece for the kernel to cut, by TUN cut here."""
        overhead = tun.overhead(server.tunnel.type, server.tunnel.flags) if mode == TUN else 0
        payload = (room or USUAL_MTU - overhead) - parsed.header - (packet[parsed.header + 12] >> 4) * 4
        if payload <= 0:
            return "dropped_unsegmentable"
        if mode != TUN:
            pkt.put16(packet, parsed.header + pkt.TCP_CHECKSUM, pkt.pseudo_sum(packet, parsed.header, parsed.length))
            self.sent.append(Sent(server.address, bytes(packet), payload))
            return "forwarded"
        segments = _cut(pieces.segment, packet, payload)
        self.sent += [Sent(server.address, bytes(self._wrap(bytearray(segment), server, route)))
                      for segment in segments]
        return "forwarded" if segments else "dropped_unsegmentable"

    def _wrap(self, packet: bytearray, server: RealServer, route: Route) -> bytearray:
        self.identification = (self.identification + 1) & 0xFFFF
        head = bytearray(tun.overhead(server.tunnel.type, server.tunnel.flags))
        tun.wrap(packet, len(packet), head, route.source, server.address, *server.tunnel,
                 self.services.sysctls["pmtu_disc"] != 0, self.identification, 0)
        return head + packet

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

    def refuse(self, packet: bytearray, parsed: Parsed, connection: Connection | None, kind: int, code: int, mtu: int,
               now_ns: int) -> None:
        """Prepare the ICMP answer to a packet that goes nowhere, within the rate limits.

        What the host itself says about a packet of DR or TUN passes the kernel's reply hook there and is counted, for
        the connection before when the packet's own is none of those.
        """
        if parsed.related or self.answer is not None:
            return
        if not self.limit.allow(parsed.source, now_ns):
            self.counted["icmp_limited"] += 1
            return
        self.counted["icmp_sent"] += 1
        self.answer = icmp_error(kind, code, mtu, packet, parsed.length)
        for each in (connection, self.former):
            if each is not None and each.mode() != NAT and not each.flags & ONE_PACKET:
                self.count_out(each, len(self.answer))
                return


def icmp_error(kind: int, code: int, mtu: int, packet: bytearray, length: int) -> bytes:
    """Return an ICMP error about *packet*."""
    answer = bytearray(icmp.MAX_BYTES)
    return bytes(answer[:icmp.error(kind, code, mtu, packet, length, answer)])


def _cut(function, packet: bytearray, size: int) -> list[bytes]:
    """Return the pieces that ``pieces.fragment`` or ``pieces.segment`` cuts *packet* into; none when they don't fit."""
    room = bytearray(3 * 65536)
    count = function(packet, len(packet), size, room, len(room), MOST_PIECES)
    found, at = [], 0
    for _ in range(count):
        length = pkt.get16(room[at:at + 4], pkt.IP_LENGTH)
        found.append(bytes(room[at:at + length]))
        at += length
    return found


def _complete_checksum(packet: bytearray, parsed: Parsed) -> None:
    """Finish a checksum that the sender had left to its card."""
    if parsed.protocol == SCTP:
        pkt.put_crc32c(packet, parsed.header, parsed.length)
        return
    if parsed.protocol in (TCP, 17):
        field = parsed.header + (pkt.TCP_CHECKSUM if parsed.protocol == TCP else pkt.UDP_CHECKSUM)
        pkt.put16(packet, field, pkt.transport_checksum(packet, parsed.header, parsed.length, field))
