"""What an address family of the fuzz suite is: services of every kind, and packets that reach all of a director.

``ipv4.py`` and ``ipv6.py`` each say what is theirs: addresses, how a packet is built around a segment, and how one is
read, however broken it is.  What is the same in both is here.  What a packet says is read by the RFCs, without lbq's
own code: the judge (``judge.py``) believes that and not the engines.
"""
from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import NamedTuple

from lbq.model import (
    AF_INET,
    AF_INET6,
    DR,
    GRE,
    GUE,
    IPIP,
    MIXED,
    MODE_MASK,
    NAT,
    OPS,
    PERSISTENT,
    SCHED1,
    SCHED2,
    SCTP,
    TCP,
    TUN,
    UDP,
    ServiceKey,
)
from lbq.protocols import tcp
from tests.fuzz import segments
from tests.fuzz.segments import Meaning
from tests.helpers.engines import key
from tests.helpers.packets import endpoint, ones_complement_sum
from tests.helpers.sctp import crc32c
from tests.helpers.story import GUE_PORT, SCHEDULERS, SYSCTLS, Step

NASTY = f"{Path(__file__).with_name('nasty.py')}:Nasty"
IN_IP, IN_IPV6, IN_GRE = 4, 41, 47          # IP protocol numbers
INSIDE = {AF_INET: IN_IP, AF_INET6: IN_IPV6}
ETHER_TYPE = {AF_INET: 0x0800, AF_INET6: 0x86DD}


class Services(NamedTuple):
    """A service of every kind."""

    web: ServiceKey
    ftp: ServiceKey
    secure: ServiceKey
    any_port: ServiceKey
    dns: ServiceKey
    game: ServiceKey
    signals: ServiceKey
    marked: ServiceKey
    marked_too: ServiceKey

    def flags(self, service: ServiceKey) -> int:
        """Return what a service is always configured with."""
        return {self.secure: PERSISTENT, self.any_port: PERSISTENT, self.dns: OPS, self.marked: PERSISTENT,
                self.marked_too: PERSISTENT | OPS}.get(service, 0)


def services(vip: str, other_vip: str, family: int) -> Services:
    """Return the services of two VIPs."""
    return Services(*(key(f"{protocol}:{where}") for protocol, where in (
        ("tcp", f"{vip}:80"), ("tcp", f"{vip}:21"), ("tcp", f"{vip}:443"), ("tcp", f"{other_vip}:0"),
        ("udp", f"{vip}:53"), ("udp", f"{vip}:80"), ("sctp", f"{vip}:80"))),
        *(ServiceKey(TCP, 0, 0, family, mark) for mark in (1, 2)))


class Family:
    """One address family; a subclass has its addresses and its packets."""

    number: int             # AF_INET …
    icmp: int               # the protocol number
    hops_at: int            # where the TTL, or hop limit, is
    header_sum: tuple       # and the checksum of the header
    vip: int
    own: int                # the director's own address
    router: int
    loopback: int
    clients: tuple          # address and port
    strangers: tuple
    elsewhere: tuple
    services: Services
    netmasks: tuple
    mtus: tuple
    errors: tuple           # ICMP types and codes
    quoted: tuple           # how much of a packet an error quotes
    other: Family           # the other family (families.py)

    # ---- What a subclass says ------------------------------------------------------------------------------

    def server_address(self, number: int, is_ftp: bool) -> int:
        """Return the address of a server; of FTP they are shorter and longer than the VIP, in words."""
        raise NotImplementedError

    def packet_of(self, choose: random.Random, protocol: int, source: int, destination: int, segment: bytes) -> bytes:
        """Return a valid packet around *segment*, with whatever its IP header may have."""
        raise NotImplementedError

    def plain(self, protocol: int, source: int, destination: int, segment: bytes) -> bytes:
        """Return the plainest packet around *segment*."""
        raise NotImplementedError

    def fields(self, packet: bytes, at: int) -> tuple[list[tuple[int, int]], int | None]:
        """Return (offset, size) of the numbers in the packet at *at*, and where one begins that it holds, perhaps."""
        raise NotImplementedError

    def repair(self, packet: bytearray) -> None:
        """Make lengths and checksums right, as far as the packet lets itself be read."""
        raise NotImplementedError

    def meaning(self, packet: bytes) -> Meaning:
        """Return what *packet* is to a director that makes no mistake."""
        raise NotImplementedError

    def length(self, packet: bytes) -> int:
        """Return how long *packet* says it is."""
        raise NotImplementedError

    def transport(self, packet: bytes, at: int = 0) -> tuple[int, int]:
        """Return protocol and place of the transport's header of a packet that can be understood."""
        raise NotImplementedError

    def addresses(self, packet: bytes, at: int = 0) -> tuple[int, int]:
        """Return where the source and the destination address are in the packet at *at*."""
        raise NotImplementedError

    def pseudo_header(self, packet: bytes, protocol: int, size: int) -> bytes:
        """Return the pseudo-header of a segment of *size* bytes in *packet*."""
        raise NotImplementedError

    def header_sum_is_right(self, packet: bytes, at: int = 0) -> bool:
        """Return True when the checksum of the IP header at *at* is right, if it has any."""
        raise NotImplementedError

    def is_right_answer(self, packet: bytes) -> bool:
        """Return True when the director's own ICMP packet is one."""
        raise NotImplementedError

    # ---- The director ---------------------------------------------------------------------------------------

    def world(self, choose: random.Random) -> list[Step]:
        """Return the commands that configure every kind of service, with servers reached in every way."""
        commands = [("add_service", service, *self._settings(choose, service)) for service in self.services]
        for service in self.services:
            commands += [("add_server", service, *self._server(choose, service, number))
                         for number in range(1, choose.choice((1, 2, 7) if service.fwmark else (2, 4, 7)))]
            if choose.random() < 0.3:
                commands.append(("add_server", service, self.loopback, service.port or 80, 1, NAT))
        commands += [self._routes(choose), self.other._routes(choose), self._own_addresses(choose)]
        commands += [("set_sysctl", name, 1) for name in ("schedule_icmp", "cache_bypass") if choose.random() < 0.4]
        return [Step("call", command) for command in commands]

    def command(self, choose: random.Random) -> Step:
        """Return a command, legal as a rule; what is deleted comes back soon."""
        service = choose.choice(self.services)
        server, settings = self._server(choose, service, choose.randrange(1, 7)), self._settings(choose, service)
        place, family = server[:2], server[-1]
        name = choose.choice(list(SYSCTLS))
        what = choose.random()
        if what < 0.25:
            return Step("call", ("add_server", service, *server))
        if what < 0.50:
            return Step("call", ("set_sysctl", name, choose.choice(SYSCTLS[name])))
        if what < 0.60:
            return Step("call", ("add_service", service, *settings))
        if what < 0.63:
            return Step("call", ("delete_service", service))
        if what < 0.635:
            return Step("call", ("flush",))
        return Step("call", choose.choice((
            ("set_server", service, *server), ("set_server", service, *place, 0, *server[3:]),
            ("delete_server", service, *place, family), ("set_service", service, *settings),
            ("set_timeouts", choose.choice((0, 30)), choose.choice((0, 5)), choose.choice((0, 20))),
            self._routes(choose), self._own_addresses(choose), ("zero", service),
            ("set_memory", choose.choice((10, 100000))), ("set_largest_mtu", choose.choice((1500, 1500, 9000, 100))),
            ("end_connections", [(service.protocol, *choose.choice(self.clients), service.address, service.port,
                                  self.number)]))))

    def _settings(self, choose: random.Random, service: ServiceKey) -> tuple:
        """Return scheduler, flags, timeout and netmask."""
        flags = self.services.flags(service) | choose.choice((0, 0, SCHED1, SCHED2))
        return choose.choice((*SCHEDULERS, NASTY)), flags, 300, choose.choice(self.netmasks)

    def _server(self, choose: random.Random, service: ServiceKey, number: int) -> tuple:
        """Return address, port, weight, mode, thresholds, tunnel and family of server *number* of *service*."""
        is_ftp = service == self.services.ftp
        mode = NAT if is_ftp else choose.choice((NAT, NAT, DR, TUN, TUN))
        port = (service.port if mode != NAT or number % 2 else 8080) or 80
        upper = choose.choice((0, 0, 0, 2))
        family = self.other if mode == TUN and choose.random() < 0.3 else self
        return (family.server_address(number, is_ftp), port, choose.choice((1, 1, 2, 0)), mode, upper, upper // 2,
                (choose.randrange(3), GUE_PORT, choose.randrange(3)), family.number)

    def _routes(self, choose: random.Random) -> tuple:
        return self._name("set_routes"), [
            (self.server_address(number, False), choose.choice(self.mtus), self.own, 3,
             choose.choice(("", "020000000001"))) for number in range(1, 6)]

    def _own_addresses(self, choose: random.Random) -> tuple:
        more = choose.choice(([], [self.vip], [self.server_address(2, False), self.vip]))
        return self._name("set_local_addresses"), [self.own, self.loopback, *more]

    def _name(self, command: str) -> str:
        return command + "6" if self.number == AF_INET6 else command

    # ---- Valid packets --------------------------------------------------------------------------------------

    def packet(self, choose: random.Random, live: list) -> tuple[bytes, bool]:
        """Return a valid packet, mostly about one of the connections in *live*, and whether it goes to a client.

        It is a client's, a server's, an error about either, or a tunnel's.
        """
        kind = choose.random()
        live = [connection for connection in live if connection.family == self.number]
        if not live or kind < 0.25:
            return self._request(choose), False
        controls = [connection for connection in live if connection.helper]
        connection = choose.choice(controls if controls and choose.random() < 0.3 else live)
        if kind < 0.55:
            return self._of_client(choose, connection), False
        if kind < 0.75:
            return self._of_server(choose, connection), True
        if kind < 0.97:
            return self._error(choose, connection)
        return self._tunnelled(choose, self._of_client(choose, connection)), False

    def _request(self, choose: random.Random) -> bytes:
        """Return a packet to a service, or next to one."""
        service = choose.choice(self.services)
        destination, port = self.elsewhere if service.fwmark else (service.address, service.port)
        if port == 0 or choose.random() < 0.05:
            port = choose.choice((0, 20, 21, 80, 1024, 51210, 65535))
        source, source_port = choose.choice(self.clients * 4 + self.strangers)
        flags = "S" if choose.random() < 0.8 else ""
        return self._whole(choose, service.protocol, source, source_port, destination, port, flags)

    def _of_client(self, choose: random.Random, connection) -> bytes:
        source_port = connection.cport or choose.choice((0, 41000))
        return self._whole(choose, connection.protocol or TCP, connection.caddr, source_port, connection.vaddr,
                           connection.vport, "A" if connection.helper and choose.random() < 0.8 else "")

    def _of_server(self, choose: random.Random, connection) -> bytes:
        here = not connection.flags & MIXED and (connection.flags & MODE_MASK == NAT or choose.random() < 0.1)
        source, port = (connection.daddr, connection.dport) if here else (connection.vaddr, connection.vport)
        talks = connection.helper and connection.state == tcp.ESTABLISHED and choose.random() < 0.8
        return self._whole(choose, connection.protocol or TCP, source, port, connection.caddr, connection.cport,
                           "A" if talks else "")

    def _whole(self, choose: random.Random, protocol: int, source: int, source_port: int, destination: int,
               destination_port: int, flags: str = "") -> bytes:
        """Return a TCP, UDP or SCTP packet from one end to another."""
        segment = segments.segment(choose, self.number, protocol, source_port, destination_port, flags)
        return self.packet_of(choose, protocol, source, destination, segment)

    def _error(self, choose: random.Random, connection) -> tuple[bytes, bool]:
        """Return an ICMP error about a packet of *connection*'s, as its server, its client or a router sends it."""
        client, vip = (connection.caddr, connection.cport), (connection.vaddr, connection.vport)
        if connection.flags & MODE_MASK == TUN and choose.random() < 0.7:
            outer = self.other if connection.flags & MIXED else self
            quoted = self._tunnelled(choose, self._of_client(choose, connection), outer, connection.daddr)
            return outer.about(choose, quoted, outer.router, outer.own), choose.random() < 0.5
        is_nat = connection.flags & MODE_MASK == NAT
        server = (connection.daddr, connection.dport) if is_nat else vip
        if choose.random() < 0.5:
            quoted = self._whole(choose, connection.protocol or TCP, *client, *server)
            return self.about(choose, quoted, server[0], client[0]), True
        quoted = self._whole(choose, connection.protocol or TCP, *vip, *client)
        return self.about(choose, quoted, client[0], vip[0]), False

    def about(self, choose: random.Random, quoted: bytes, source: int, destination: int) -> bytes:
        """Return an ICMP error about the packet *quoted*."""
        quoted = quoted[:choose.choice(self.quoted)]
        if choose.random() < 0.05:                      # an error about an error
            quoted = self.about(choose, quoted, destination, source)[:548]
        kind, code = choose.choice(self.errors)
        rest = struct.pack("!HH", choose.choice((0, 0, 1, 0xFFFF)), choose.choice((0, 68, 69, 576, 1280, 1400, 0xFFFF)))
        return self.packet_of(choose, self.icmp, source, destination, bytes([kind, code, 0, 0]) + rest + quoted)

    def _tunnelled(self, choose: random.Random, inner: bytes, outer: Family | None = None,
                   target: int | None = None) -> bytes:
        """Return *inner* in a tunnel packet of any kind, of the family *outer*, to a server or else to the VIP."""
        outer = outer or choose.choice((self, self.other))
        inside = self.number if choose.random() < 0.9 else self.other.number
        kind = choose.choice((IPIP, GUE, GRE))
        protocol, between = INSIDE[inside], b""
        if kind == GUE:
            words = choose.choice((0, 0, 0, 1, 31))
            gue = bytes([words, INSIDE[inside], 0, 0]) + bytes(4 * words)
            protocol, between = UDP, struct.pack("!HHHH", 40000, GUE_PORT, min(12 + len(inner), 0xFFFF), 0) + gue
        elif kind == GRE:
            flags = choose.choice((0, 0, 0x8000, 0x2000, 0x1000, 0xB000, 0x4000, 1))
            words = (flags & 0x8000 != 0) + (flags & 0x2000 != 0) + (flags & 0x1000 != 0)
            protocol, between = IN_GRE, struct.pack("!HH", flags, ETHER_TYPE[inside]) + bytes(4 * words)
        return outer.plain(protocol, outer.own, outer.vip if target is None else target, (between + inner)[:65515])

    # ---- Reading --------------------------------------------------------------------------------------------

    def checksum_is_right(self, packet: bytes) -> bool:
        """Return True for a packet that can be understood and whose TCP, UDP, SCTP or ICMP checksum is right."""
        protocol, header = self.transport(packet)
        segment = packet[header:self.length(packet)]
        if protocol == SCTP:
            return crc32c(segment[:8] + bytes(4) + segment[12:]).to_bytes(4, "little") == segment[8:12]
        return ones_complement_sum(self.pseudo_header(packet, protocol, len(segment)) + segment) == 0xFFFF


def write_sum(packet: bytearray, at: int, covered: bytes) -> None:
    """Write at *at* the Internet checksum of *covered*."""
    struct.pack_into("!H", packet, at, ~ones_complement_sum(covered) & 0xFFFF)


def endpoints(*texts: str) -> tuple[tuple[int, int], ...]:
    """Return addresses and ports."""
    return tuple(endpoint(text) for text in texts)
