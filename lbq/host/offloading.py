"""The nf_tables chains that let the kernel's conntrack carry offloaded services: DNAT, told by a number in the mark.

lbq sees the first packet of a flow and answers with a mark; from then on conntrack rewrites both directions by itself:

    prerouting, output      number -> RIP, number -> rport      become the flow's destination (``dnat``)
    closed, closed-output   flows of deleted servers            what their clients still send is dropped

The rules of the first two are asked once a flow, as those of every chain of type ``nat`` are.  There, too, the flow
gets the timeouts that IPVS has, where this kernel has ``ct timeout``; a set of them is an object named after its
numbers, so that flows keep theirs when the next director takes over.  The last two come with the first deleted server.

Kernel: include/uapi/linux/netfilter/nf_tables.h; nft_nat.c, nft_ct.c; nf_nat_core.c, nf_nat_inet_fn().
"""
from __future__ import annotations

import struct
from typing import NamedTuple

from lbq.host import nft
from lbq.host.netlink import address_bytes, attribute, nested, number, text, transact
from lbq.host.nftables import NFNL_SUBSYS_NFTABLES
from lbq.model import AF_INET, TCP, UDP
from lbq.netlink import MARK_MASK
from lbq.protocols import tcp, udp

ESTABLISHED, FIN_WAIT, DATAGRAMS = tcp.TIMEOUTS[tcp.ESTABLISHED], tcp.TIMEOUTS[tcp.FIN_WAIT], udp.TIMEOUTS[udp.NORMAL]
TABLE = "lbq-offload"
NAT_PRIORITY = -101         # before the user's own DNAT, whose is -100
CLOSED_PRIORITY = -145      # behind mangle, whose is -150

LARGEST = 65535             # numbers, and deleted servers
TIMEOUT_OBJECT = 7
TIMEOUT_FAMILY, TIMEOUT_PROTOCOL, TIMEOUT_VALUES = 1, 2, 3
# Conntrack's states of a connection, as attributes: SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK,
# TIME_WAIT, CLOSE, SYN_SENT2.
TCP_STATES = (1, 2, 3, 4, 5, 6, 7, 8, 9)
UDP_STATES = (1, 2)         # without a reply, and with one

CT_DIRECTION, CT_PROTO_SRC, CT_PROTO_DST = 1, 11, 12
CT_SRC_IP, CT_DST_IP, CT_SRC_IP6, CT_DST_IP6 = 19, 20, 21, 22
ORIGINAL, REPLY = 0, 1
DNAT = 1
NUMBER, ADDRESS, PORT, REST = 8, 9, 13, 14      # 32-bit registers; an IPv6 address takes four

RIP, RPORT, GONE = SETS = "rip", "rport", "gone"


class Target(NamedTuple):
    """A real server of an offloaded service, and that service's address."""

    protocol: int
    rip: int
    rport: int
    vip: int
    vport: int


class Timeouts(NamedTuple):
    """How many seconds a flow lasts without a packet: established and closing TCP, UDP (``lbq timeouts``)."""

    tcp: int = ESTABLISHED
    tcp_fin: int = FIN_WAIT
    udp: int = DATAGRAMS


class Offloading(nft.NumberedServers):
    """The chains, maps and timeouts of one family."""

    def __init__(self, family: int, mask: int = MARK_MASK):
        super().__init__(family, TABLE, mask, "offloaded", "nf_tables with maps and nat")
        self.timeouts = Timeouts()
        self.has_timeouts = True                        # until the kernel says that it has none
        self.has_closed = False                         # the chains for deleted servers are there
        self.closed: set[Target] = set()

    def probe(self) -> str:
        """Return what this kernel lacks, "" for nothing; all is made and removed again in one step.

        Only a chain in a hook can translate, so packets that wait in a queue of this namespace are lost with it.
        """
        if self.is_in:
            return ""
        table = nft.Table(self.family, TABLE + "-probe")
        return self.lacks([
            table.create(), *(self._set(table, name) for name in SETS), table.chain("probe"),
            table.rule("probe", self._drop_closed()), table.chain("nat", nft.PREROUTING, "nat", NAT_PRIORITY),
            table.rule("nat", self._translate(TCP, with_timeouts=False)), table.delete()])

    def put_in(self) -> None:
        """Make table, maps and chains; what a killed director has left there is taken over, but for numbers."""
        attempts = [self._take_over, self._begin_anew] if self.table.is_there() else [self._begin_anew]
        for attempt in attempts:
            for self.has_timeouts in (True, False):
                try:
                    transact(NFNL_SUBSYS_NFTABLES, attempt())
                except OSError as error:
                    failure = error
                else:
                    self.is_in, self.has_closed = True, False
                    self.closed = set()
                    return
        raise self.cannot("put in the rules for", failure) from failure

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Give flows that begin from now on other timeouts."""
        self.timeouts = timeouts
        if self.is_in and self.has_timeouts:
            self.transact("change the timeouts of", [
                *(self.table.delete_rules(name) for name in ("prerouting", "output")), *self._rules()])

    def add(self, steer: int, target: Target) -> None:
        """Let the kernel know the number *steer*."""
        self.transact("add a real server of", [
            self.table.add_element(name, self.key(steer), value) for name, value in (
                (RIP, address_bytes(target.rip, self.family)), (RPORT, struct.pack(">H", target.rport)))])

    def remove(self, steer: int, target: Target) -> None:
        """Let the kernel forget the number *steer*, which was *target*."""
        self.transact("remove a real server of", [self.table.delete_element(name, self.key(steer))
                                                   for name in (RIP, RPORT)])
        self.open(target)

    def close(self, target: Target) -> None:
        """Drop what clients still send in their flows to *target*, which was deleted."""
        if target in self.closed:
            return
        messages = []
        if not self.has_closed:
            for name, hook in (("closed", nft.PREROUTING), ("closed-output", nft.LOCAL_OUT)):
                messages += [self.table.chain(name, hook, "filter", CLOSED_PRIORITY),
                             self.table.rule(name, self._drop_closed())]
        messages.append(self.table.add_element(GONE, self._flows_to(target), flags=0))
        self.transact("close a real server of", messages)
        self.has_closed = True
        self.closed.add(target)

    def open(self, target: Target) -> None:
        """Let the flows to *target* go on."""
        if target in self.closed:
            self.transact("open a real server of", [self.table.delete_element(GONE, self._flows_to(target))])
            self.closed.discard(target)

    # ---- Rules --------------------------------------------------------------------------------------------

    def _begin_anew(self) -> list[nft.Message]:
        there = [self.table.delete()] if self.table.is_there() else []
        return [*there, self.table.create(), *self._sets(), *self._chains(), *self._rules()]

    def _take_over(self) -> list[nft.Message]:
        """Return what makes of a killed director's table ours: its flows refer to its timeouts, which stay."""
        return [*self._sets(), *self._chains(), self.table.delete_rules(),
                *(self.table.delete_elements(name) for name in SETS), *self._rules()]

    def _chains(self) -> list[nft.Message]:
        return [self.table.chain("prerouting", nft.PREROUTING, "nat", NAT_PRIORITY),
                self.table.chain("output", nft.LOCAL_OUT, "nat", NAT_PRIORITY)]

    def _rules(self) -> list[nft.Message]:
        """Return what makes the timeouts and the rules that translate."""
        objects = [self._timeouts(protocol) for protocol in (TCP, UDP)] if self.has_timeouts else []
        return [*objects, *(self.table.rule(name, self._translate(protocol, with_timeouts=self.has_timeouts))
                            for name in ("prerouting", "output") for protocol in (TCP, UDP))]

    def _translate(self, protocol: int, *, with_timeouts: bool) -> list[bytes]:
        """Return the expressions that make of a flow of *protocol* one to the server which its number says."""
        lasting = [nft.expression("objref", number(1, TIMEOUT_OBJECT), text(2, self._timeouts_name(protocol)))]
        return [nft.load_meta(NUMBER, nft.META_PROTOCOL), nft.only_if(NUMBER, bytes([protocol])),
                *nft.load_mark(NUMBER, self.mask), _look_up(RIP, ADDRESS), _look_up(RPORT, PORT),
                *(lasting if with_timeouts else []),
                *nft.load_mark(REST, ~self.mask & 0xFFFFFFFF), nft.store_mark(REST),
                nft.expression("nat", number(1, DNAT), number(2, self.family), number(3, ADDRESS), number(5, PORT))]

    def _drop_closed(self) -> list[bytes]:
        """Return the expressions that drop a client's packet of a flow to a deleted server."""
        source, destination = (CT_SRC_IP, CT_DST_IP) if self.family == AF_INET else (CT_SRC_IP6, CT_DST_IP6)
        vip = NUMBER + 1
        vport = vip + self.table.length // 4
        rip = vport + 1
        rport = rip + self.table.length // 4
        return [nft.expression("ct", number(1, NUMBER), number(2, CT_DIRECTION)),
                nft.only_if(NUMBER, bytes([ORIGINAL])), nft.load_meta(NUMBER, nft.META_PROTOCOL),
                *(nft.expression("ct", number(1, register), number(2, what), attribute(3, bytes([direction])))
                  for register, what, direction in ((vip, destination, ORIGINAL), (vport, CT_PROTO_DST, ORIGINAL),
                                                    (rip, source, REPLY), (rport, CT_PROTO_SRC, REPLY))),
                _look_up(GONE), nft.verdict(nft.NF_DROP)]

    # ---- Messages -----------------------------------------------------------------------------------------

    def _timeouts_name(self, protocol: int) -> str:
        timeouts = self.timeouts
        return f"tcp-{timeouts.tcp}-{timeouts.tcp_fin}" if protocol == TCP else f"udp-{timeouts.udp}"

    def _timeouts(self, protocol: int) -> nft.Message:
        """Return the message that makes the timeouts of *protocol*, those of IPVS in conntrack's words."""
        named = dict(zip(tcp.NAMES, tcp.TIMEOUTS, strict=True))
        opening, closing = named["SYN_RECV"], self.timeouts.tcp_fin
        values = dict(zip(UDP_STATES, [self.timeouts.udp] * 2, strict=True))
        if protocol == TCP:
            values = dict(zip(TCP_STATES, (opening, opening, self.timeouts.tcp, closing, closing, named["TIME_WAIT"],
                                           named["TIME_WAIT"], named["CLOSE"], opening), strict=True))
        policy = b"".join(number(state, seconds) for state, seconds in values.items())
        return self.table.object(self._timeouts_name(protocol), TIMEOUT_OBJECT,
                                 attribute(TIMEOUT_FAMILY, struct.pack(">H", self.family))
                                 + attribute(TIMEOUT_PROTOCOL, bytes([protocol])) + nested(TIMEOUT_VALUES, policy))

    def _sets(self) -> list[nft.Message]:
        return [self._set(self.table, name) for name in SETS]

    def _set(self, table: nft.Table, name: str) -> nft.Message:
        identity = SETS.index(name) + 1
        if name == GONE:
            parts = (nft.TYPE_PROTOCOL, table.address_type, nft.TYPE_SERVICE, table.address_type, nft.TYPE_SERVICE)
            return table.set(name, identity, parts, 12 + 2 * table.length, LARGEST)
        data = (nft.TYPE_SERVICE, 2) if name == RPORT else (table.address_type, table.length)
        return table.mark_map(name, identity, *data, LARGEST)

    def _flows_to(self, target: Target) -> bytes:
        """Return the member of the set *gone* that a deleted server is."""
        return (struct.pack("=B3x", target.protocol) + address_bytes(target.vip, self.family)
                + struct.pack(">H2x", target.vport) + address_bytes(target.rip, self.family)
                + struct.pack(">H2x", target.rport))


def _look_up(name: str, found: int | None = None) -> bytes:
    return nft.look_up(name, SETS.index(name) + 1, NUMBER, found)
