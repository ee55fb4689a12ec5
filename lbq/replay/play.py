"""The player: a capture's packets through one scheduler and a real director, in virtual time.

The director is the one that balances live packets, connection table, states, timers and all; it is only told another
time.  A client's packet is given to it as it was captured, headers only.  Whose answer a captured reply would be
depends on whom the scheduler chose, so that is written anew: from that real server, to the client.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from lbq.model import AF_INET6, NAT, SCTP, TCP, UDP, ServiceKey, Tunnel, packed
from lbq.replay.measure import Measured, Meter
from lbq.replay.traffic import LAST, REPLY, SECOND, Endpoint, Traffic

PREROUTING, POSTROUTING = 0, 4
DEVICE = 2                          # any but loopback's
BEGIN = 1 << 40                     # the director's time when the first packet comes
WHEEL_BITS = 28                     # of a director's time that its timers do not look at
MOST_TICKS = 60                     # after a pause
ROUND = 1 << 14                     # packets between two looks at the progress
TCP_REST = bytes.fromhex("0000000000000000 50 00 ffff 0000 0000")     # from the sequence number on; a flow has none
UDP_REST = bytes.fromhex("0008 0000")
UDP6_REST = bytes.fromhex("0008 00ff")      # in IPv6 a checksum of 0 is wrong; nobody compares this one
SCTP_REST = bytes.fromhex("00000001 00000000 00 00 0004")
RESTS = {TCP: TCP_REST, UDP: UDP_REST, SCTP: SCTP_REST}
KIND_AT = {TCP: 13, UDP: 6, SCTP: 12}       # where a packet's kind is written; UDP's are 0


class Server(NamedTuple):
    """A real server that is there from the beginning, or will be added: its name, and what the engine is told."""

    name: str
    address: int
    port: int
    weight: int
    mode: int
    upper: int
    lower: int
    family: int
    present: bool = True

    def settings(self) -> tuple:
        """Return weight, mode, thresholds, tunnel and IP version as the engine takes them."""
        return self.weight, self.mode, self.upper, self.lower, Tunnel(), self.family


class Change(NamedTuple):
    """Something that an operator does at a time: weight, add or del, to the server of this number."""

    time_ns: int
    what: str
    server: int
    weight: int
    text: str


class Setup(NamedTuple):
    """What is played with: the service and its settings, the servers, the changes, the slices' ends."""

    key: ServiceKey
    flags: int
    timeout: int
    netmask: int | None
    idle: int
    servers: list[Server]
    changes: list[Change]
    slices: int
    seed: int = 1


def new_director(connections: int):
    """Return a director with room for so many connections: the fast one wherever lbq is compiled."""
    try:
        from lbq._fastpath import FastDirector
    except ImportError:
        from lbq.director import Director

        return Director(connections)
    return FastDirector(connections)


class Player:
    """One play: a director of its own, a scheduler, and what is measured."""

    def __init__(self, traffic: Traffic, setup: Setup, scheduler: str):
        self.traffic = traffic
        self.setup = setup
        self.director = new_director(2 * len(traffic.clients) + 1024)      # a template beside each
        self.director.add_service(setup.key, scheduler, setup.flags, setup.timeout, setup.netmask, setup.idle)
        for server in setup.servers:
            if server.present:
                self._add(server)
        chooser = self.director.services.service(setup.key).scheduler
        if hasattr(chooser, "random"):
            chooser.random.seed(setup.seed)         # the same luck every time
        self.weights = [server.weight if server.present else 0 for server in setup.servers]
        self.gone = {number for number, server in enumerate(setup.servers) if not server.present}
        self.meter = Meter(len(setup.servers))
        self.measured = Measured(scheduler, self.meter.flows, [0] * len(setup.servers), [0] * len(setup.servers),
                                 self.meter.peak, [], self.meter.slices, chosen=[-1] * len(traffic.clients))
        self.at = [-1] * len(traffic.clients)       # the server that each flow is in progress at
        self.moved: set[int] = set()                # flows, as in Measured
        self.cut: set[int] = set()
        self.forgotten: set[int] = set()
        self._six = setup.key.family == AF_INET6
        self._numbers: dict[bytes | tuple[int, int], int] = {
            self._place(server) if server.mode == NAT else (server.family, server.address): number
            for number, server in enumerate(setup.servers)}
        begin, end = traffic.span()
        self._origin, self._end = begin, end - begin
        self._changes = list(setup.changes)
        self._cuts = [self._end * number // setup.slices for number in range(1, setup.slices)]
        self._next_tick = SECOND

    # ---- The way of the packets ----------------------------------------------------------------------------

    def play(self, tell: Callable[[int], None]) -> Measured:
        """Play all packets; *tell* is called now and then with how many more have been."""
        started = time.perf_counter()
        traffic, origin, flows = self.traffic, self._origin, len(self.traffic.clients)
        handle = self.director.handle
        requests: list[bytes | None] = [None] * flows
        replies: list[bytes | None] = [None] * flows
        expected: list = [None] * flows
        place = slice(24, 44) if self._six else slice(16, 24)      # in a packet: where to, and both ports
        kind_at = (40 if self._six else 20) + KIND_AT[self.setup.key.protocol]
        due, todo = 0, ROUND
        for moment, number, kind in zip(traffic.times, traffic.numbers, traffic.kinds, strict=True):
            now = moment - origin
            if now >= due:
                due = self._let_time_pass(now)
            if kind & REPLY:
                reply = replies[number]
                if reply is not None:
                    packet = bytearray(reply)
                    packet[kind_at] = kind & 0xFF
                    handle(packet, POSTROUTING, 0, DEVICE, BEGIN + now)
            else:
                request = requests[number]
                if request is None:
                    request = requests[number] = self._request(number)
                packet = bytearray(request)
                packet[kind_at] = kind & 0xFF
                verdict = handle(packet, PREROUTING, 0, 0, BEGIN + now)
                if verdict.changed:
                    went = packet[place]
                elif verdict.sent:
                    sent = verdict.sent[0]
                    went = sent.family, sent.next_hop
                else:
                    went = None
                if went != expected[number]:
                    expected[number] = went
                    server = -1 if went is None else self._number(went)
                    replies[number] = self._reply(number, server)
                    self._goes(number, server, now)
            if kind & LAST:
                requests[number] = replies[number] = expected[number] = None
                self._ends(number, now)
            todo -= 1
            if not todo:
                todo = ROUND
                tell(ROUND)
        tell(ROUND - todo)
        self._let_time_pass(self._end)
        self.meter.cut(self._end, self.weights)
        measured = self.measured
        measured.moved, measured.cut, measured.forgotten = len(self.moved), len(self.cut), len(self.forgotten)
        measured.p99 = self.meter.p99()
        measured.seconds = time.perf_counter() - started
        return measured

    def _goes(self, number: int, server: int, now: int) -> None:
        """Note that a flow's packet went to another *server* than the one before, -1 for none."""
        former, measured = self.at[number], self.measured
        if measured.chosen[number] < 0:
            if server >= 0:
                measured.chosen[number] = server
                measured.packets[server] += self.traffic.packets[number]
                measured.octets[server] += self.traffic.octets[number]
                self.meter.begin(server, now)
        else:
            if former >= 0:
                self.meter.leave(former, now)
            if server >= 0:
                self.meter.enter(server, now)
                if server != measured.chosen[number]:
                    self.moved.add(number)
            elif former in self.gone:
                self.cut.add(number)
            else:
                self.forgotten.add(number)
        self.at[number] = server

    def _ends(self, number: int, now: int) -> None:
        """Note that this was a flow's last packet."""
        if self.at[number] >= 0:
            self.meter.leave(self.at[number], now)
        elif self.measured.chosen[number] < 0:
            self.measured.refused += 1

    # ---- Time ----------------------------------------------------------------------------------------------

    def _let_time_pass(self, now: int) -> int:
        """Do all that is due until *now*; return when something is due again."""
        if now - self._next_tick > MOST_TICKS * SECOND:
            self._next_tick = now - MOST_TICKS * SECOND
        while True:
            change = self._changes[0].time_ns if self._changes else now + SECOND
            cut = self._cuts[0] if self._cuts else now + SECOND
            then = min(change, cut, self._next_tick)
            if then > now:
                break
            self.director.expire(BEGIN + then)
            if then == change:
                self.meter.cut(then, self.weights)
                self._change(self._changes.pop(0))
            elif then == cut:
                self.meter.cut(then, self.weights)
                self._cuts.pop(0)
            else:
                self.director.tick(BEGIN + then)
                self._next_tick += SECOND
        self.director.expire(BEGIN + now)
        return min(then, (now >> WHEEL_BITS) + 1 << WHEEL_BITS)

    def _change(self, change: Change) -> None:
        """Do to a server what the operator does."""
        server = self.setup.servers[change.server]
        key = self.setup.key
        if change.what == "add":
            self._add(server)
            self.gone.discard(change.server)
        elif change.what == "del":
            self.director.delete_server(key, server.address, server.port, server.family)
            self.gone.add(change.server)
        else:
            self.director.set_server(key, server.address, server.port, change.weight, *server.settings()[1:])
        self.weights[change.server] = change.weight

    def _add(self, server: Server) -> None:
        self.director.add_server(self.setup.key, server.address, server.port, *server.settings())

    # ---- Packets -------------------------------------------------------------------------------------------

    def _request(self, number: int) -> bytes:
        """Return a packet of a flow's client to the service; its kind is still to be written."""
        client, where = self._ends_of(number)
        return self._packet(client[:-2], where.address, client[-2:], where.port)

    def _reply(self, number: int, server: int) -> bytes | None:
        """Return a packet of *server* to a flow's client, None when that does not come by the director."""
        if server < 0 or self.setup.servers[server].mode != NAT:
            return None
        client, where = self._ends_of(number)
        place = self._place(self.setup.servers[server])
        return self._packet(place[:-2], client[:-2], place[-2:] if self.setup.key.port else where.port, client[-2:])

    def _ends_of(self, number: int) -> tuple[bytes, Endpoint]:
        """Return a flow's client, by address and port, and where it goes to."""
        return self.traffic.clients[number], self.traffic.endpoints[self.traffic.places[number]]

    def _packet(self, source: bytes, destination: bytes, sport: bytes, dport: bytes) -> bytes:
        protocol = self.setup.key.protocol
        if self._six:
            rest = sport + dport + (UDP6_REST if protocol == UDP else RESTS[protocol])
            return (b"\x60\0\0\0" + len(rest).to_bytes(2) + bytes([protocol, 64]) + source + destination + rest)
        rest = sport + dport + RESTS[protocol]
        return (b"\x45\0" + (20 + len(rest)).to_bytes(2) + b"\0\x01\x40\0\x40" + bytes([protocol]) + b"\0\0" +
                source + destination + rest)

    def _place(self, server: Server) -> bytes:
        """Return a server's address and port as they are in a packet; the port is 0 where each flow keeps its own."""
        return packed(server.address, server.family) + (self.setup.key.port and server.port).to_bytes(2)

    def _number(self, went: bytearray | tuple[int, int]) -> int:
        """Return the server that a packet went to: NAT's by what it was addressed to, else by the next hop."""
        if isinstance(went, tuple):
            return self._numbers[went]
        return self._numbers[bytes(went[:-4] + (went[-2:] if self.setup.key.port else bytes(2)))]
