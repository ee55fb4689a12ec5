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

import errno
import os
import struct
from typing import NamedTuple

from lbq.errors import HostError
from lbq.host.netlink import (
    BITS,
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    address_bytes,
    ask,
    attribute,
    nested,
    netfilter,
    number,
    text,
    transact,
    walk,
)
from lbq.host.nftables import NAMES, NFNL_SUBSYS_NFTABLES, tables
from lbq.host.steering import (
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_TABLE,
    CHAIN_TYPE,
    DATA_VALUE,
    DATA_VERDICT,
    DELELEM,
    DELRULE,
    DELSET,
    DELTABLE,
    DESC_SIZE,
    ELEMENT_DATA,
    ELEMENT_KEY,
    ELEMENTS,
    ELEMENTS_SET,
    ELEMENTS_TABLE,
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    GETSET,
    HOOK_NUMBER,
    HOOK_PRIORITY,
    IS_MAP,
    LARGEST,
    LIST_ITEM,
    LOCAL_OUT,
    META_MARK,
    NEWCHAIN,
    NEWELEM,
    NEWRULE,
    NEWSET,
    NEWTABLE,
    NF_DROP,
    NLM_F_APPEND,
    PREROUTING,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_TABLE,
    SET_DATA_LENGTH,
    SET_DATA_TYPE,
    SET_DESC,
    SET_FLAGS,
    SET_ID,
    SET_KEY_LENGTH,
    SET_KEY_TYPE,
    SET_NAME,
    SET_TABLE,
    TABLE_NAME,
    TYPE_ADDRESS,
    TYPE_MARK,
    TYPE_SERVICE,
    VERDICT_CODE,
    VERDICT_REGISTER,
)
from lbq.model import AF_INET, TCP, UDP
from lbq.netlink import MARK_MASK
from lbq.protocols import tcp, udp

ESTABLISHED, FIN_WAIT, DATAGRAMS = tcp.TIMEOUTS[tcp.ESTABLISHED], tcp.TIMEOUTS[tcp.FIN_WAIT], udp.TIMEOUTS[udp.NORMAL]
TABLE = "lbq-offload"
NAT_PRIORITY = -101         # before the user's own DNAT, whose is -100
CLOSED_PRIORITY = -145      # behind mangle, whose is -150

NEWOBJECT = NFNL_SUBSYS_NFTABLES << 8 | 18
OBJECT_TABLE, OBJECT_NAME, OBJECT_TYPE, OBJECT_DATA = 1, 2, 3, 4
TIMEOUT_OBJECT = 7
TIMEOUT_FAMILY, TIMEOUT_PROTOCOL, TIMEOUT_VALUES = 1, 2, 3
# Conntrack's states of a connection, as attributes: SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK,
# TIME_WAIT, CLOSE, SYN_SENT2.
TCP_STATES = (1, 2, 3, 4, 5, 6, 7, 8, 9)
UDP_STATES = (1, 2)         # without a reply, and with one

META_PROTOCOL = 16
CT_DIRECTION, CT_PROTO_SRC, CT_PROTO_DST = 1, 11, 12
CT_SRC_IP, CT_DST_IP, CT_SRC_IP6, CT_DST_IP6 = 19, 20, 21, 22
ORIGINAL, REPLY = 0, 1
EQUAL = 0
DNAT = 1
TYPE_PROTOCOL = 12
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


class Offloading:
    """The chains, maps and timeouts of one family."""

    def __init__(self, family: int, mask: int = MARK_MASK):
        self.family = family
        self.mask = mask
        self.length = BITS[family] // 8                 # of an address, bytes
        self.shift = (mask & -mask).bit_length() - 1
        self.timeouts = Timeouts()
        self.is_in = False
        self.has_timeouts = True                        # until the kernel says that it has none
        self.has_closed = False                         # the chains for deleted servers are there
        self.closed: set[Target] = set()

    def probe(self) -> str:
        """Return what this kernel lacks, "" for nothing; all is made and removed again in one step, in no hook."""
        if self.is_in:
            return ""
        table = TABLE + "-probe"
        chain = text(CHAIN_TABLE, table) + text(CHAIN_NAME, "probe")
        nat = nested(CHAIN_HOOK, number(HOOK_NUMBER, PREROUTING), number(HOOK_PRIORITY, NAT_PRIORITY & 0xFFFFFFFF))
        try:
            transact(NFNL_SUBSYS_NFTABLES, [
                self._message(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, text(TABLE_NAME, table)),
                *(self._set(name, table) for name in SETS),
                self._message(NEWCHAIN, NLM_F_CREATE, chain),
                self._rule("probe", self._drop_closed(), table),
                self._message(NEWCHAIN, NLM_F_CREATE, text(CHAIN_TABLE, table) + text(CHAIN_NAME, "nat") + nat
                              + text(CHAIN_TYPE, "nat")),
                self._rule("nat", self._translate(TCP, with_timeouts=False), table),
                self._message(DELTABLE, 0, text(TABLE_NAME, table))])
        except OSError as error:
            return f"this kernel's nf_tables cannot do it ({os.strerror(error.errno)})"
        return ""

    def put_in(self) -> None:
        """Make table, maps and chains; what a killed director has left there is taken over, but for numbers."""
        attempts = [self._take_over, self._begin_anew] if TABLE in tables(self.family) else [self._begin_anew]
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
        raise self._cannot("put in the rules of", failure) from failure

    def take_out(self) -> bool:
        """Remove everything; return False when there is nothing."""
        self.is_in = False
        if TABLE not in tables(self.family):
            return False
        self._transact("take out the rules of", [self._message(DELTABLE, 0, text(TABLE_NAME, TABLE))])
        return True

    @property
    def name(self) -> str:
        """Return what ``nft`` calls the table."""
        return f"{NAMES[self.family]} {TABLE}"

    def empty(self) -> bool:
        """Take everything out of the chains, and the maps away; return False when there is nothing."""
        if TABLE not in tables(self.family):
            return False
        bodies = ask(NETLINK_NETFILTER, GETSET, netfilter(self.family) + text(SET_TABLE, TABLE), NLM_F_DUMP)
        names = [dict(walk(body[4:]))[SET_NAME].rstrip(b"\0").decode() for body in bodies]
        self._transact("empty the rules of", [
            self._message(DELRULE, 0, text(RULE_TABLE, TABLE)),
            *(self._message(DELSET, 0, text(SET_TABLE, TABLE) + text(SET_NAME, name)) for name in names)])
        return True

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Give flows that begin from now on other timeouts."""
        self.timeouts = timeouts
        if self.is_in and self.has_timeouts:
            self._transact("change the timeouts of", [
                *(self._message(DELRULE, 0, text(RULE_TABLE, TABLE) + text(RULE_CHAIN, name))
                  for name in ("prerouting", "output")), *self._rules()])

    def add(self, steer: int, target: Target) -> None:
        """Let the kernel know the number *steer*."""
        self._transact("add a real server of", [
            self._numbered(NEWELEM, NLM_F_CREATE | NLM_F_EXCL, name, steer, value) for name, value in (
                (RIP, address_bytes(target.rip, self.family)), (RPORT, struct.pack(">H", target.rport)))])

    def remove(self, steer: int, target: Target) -> None:
        """Let the kernel forget the number *steer*, which was *target*."""
        self._transact("remove a real server of", [self._numbered(DELELEM, 0, name, steer, None)
                                                   for name in (RIP, RPORT)])
        self.open(target)

    def close(self, target: Target) -> None:
        """Drop what clients still send in their flows to *target*, which was deleted."""
        if target in self.closed:
            return
        messages = []
        if not self.has_closed:
            for name, hook in (("closed", PREROUTING), ("closed-output", LOCAL_OUT)):
                messages += [self._chain(name, hook, "filter", CLOSED_PRIORITY), self._rule(name, self._drop_closed())]
        self._transact("close a real server of", [*messages, self._gone(NEWELEM, NLM_F_CREATE, target)])
        self.has_closed = True
        self.closed.add(target)

    def open(self, target: Target) -> None:
        """Let the flows to *target* go on."""
        if target in self.closed:
            self._transact("open a real server of", [self._gone(DELELEM, 0, target)])
            self.closed.discard(target)

    # ---- Rules --------------------------------------------------------------------------------------------

    def _begin_anew(self) -> list[tuple]:
        there = TABLE in tables(self.family)
        return [*([self._message(DELTABLE, 0, text(TABLE_NAME, TABLE))] if there else []),
                self._message(NEWTABLE, NLM_F_CREATE, text(TABLE_NAME, TABLE)), *map(self._set, SETS),
                *self._chains(), *self._rules()]

    def _take_over(self) -> list[tuple]:
        """Return what makes of a killed director's table ours: its flows refer to its timeouts, which stay."""
        return [*map(self._set, SETS), *self._chains(),
                self._message(DELRULE, 0, text(RULE_TABLE, TABLE)),
                *(self._message(DELELEM, 0, text(ELEMENTS_TABLE, TABLE) + text(ELEMENTS_SET, name)) for name in SETS),
                *self._rules()]

    def _chains(self) -> list[tuple]:
        return [self._chain("prerouting", PREROUTING, "nat", NAT_PRIORITY),
                self._chain("output", LOCAL_OUT, "nat", NAT_PRIORITY)]

    def _rules(self) -> list[tuple]:
        """Return what makes the timeouts and the rules that translate."""
        objects = [self._timeouts(protocol) for protocol in (TCP, UDP)] if self.has_timeouts else []
        return [*objects, *(self._rule(name, self._translate(protocol, with_timeouts=self.has_timeouts))
                            for name in ("prerouting", "output") for protocol in (TCP, UDP))]

    def _translate(self, protocol: int, *, with_timeouts: bool) -> list[bytes]:
        """Return the expressions that make of a flow of *protocol* one to the server which its number says."""
        lasting = [_expression("objref", number(1, TIMEOUT_OBJECT), text(2, self._timeouts_name(protocol)))]
        return [*_is_protocol(protocol), *self._mask(NUMBER, self.mask),
                _look_up(RIP, NUMBER, ADDRESS), _look_up(RPORT, NUMBER, PORT),
                *(lasting if with_timeouts else []),
                *self._mask(REST, ~self.mask & 0xFFFFFFFF),
                _expression("meta", number(3, REST), number(2, META_MARK)),
                _expression("nat", number(1, DNAT), number(2, self.family), number(3, ADDRESS), number(5, PORT))]

    def _drop_closed(self) -> list[bytes]:
        """Return the expressions that drop a client's packet of a flow to a deleted server."""
        source, destination = (CT_SRC_IP, CT_DST_IP) if self.family == AF_INET else (CT_SRC_IP6, CT_DST_IP6)
        vip = NUMBER + 1
        vport = vip + self.length // 4
        rip = vport + 1
        rport = rip + self.length // 4
        return [_expression("ct", number(1, NUMBER), number(2, CT_DIRECTION)),
                _expression("cmp", number(1, NUMBER), number(2, EQUAL), nested(3, attribute(1, bytes([ORIGINAL])))),
                _expression("meta", number(1, NUMBER), number(2, META_PROTOCOL)),
                *(_expression("ct", number(1, register), number(2, what), attribute(3, bytes([direction])))
                  for register, what, direction in ((vip, destination, ORIGINAL), (vport, CT_PROTO_DST, ORIGINAL),
                                                    (rip, source, REPLY), (rport, CT_PROTO_SRC, REPLY))),
                _expression("lookup", text(1, GONE), number(2, NUMBER), number(4, SETS.index(GONE) + 1)),
                _expression("immediate", number(1, VERDICT_REGISTER),
                            nested(2, nested(DATA_VERDICT, number(VERDICT_CODE, NF_DROP))))]

    def _mask(self, register: int, mask: int) -> list[bytes]:
        """Return the expressions that take the bits *mask* out of the packet's mark."""
        return [_expression("meta", number(1, register), number(2, META_MARK)),
                _expression("bitwise", number(1, register), number(2, register), number(3, 4),
                            nested(4, attribute(DATA_VALUE, struct.pack("=I", mask))),
                            nested(5, attribute(DATA_VALUE, bytes(4))))]

    # ---- Messages -----------------------------------------------------------------------------------------

    def _timeouts_name(self, protocol: int) -> str:
        timeouts = self.timeouts
        return f"tcp-{timeouts.tcp}-{timeouts.tcp_fin}" if protocol == TCP else f"udp-{timeouts.udp}"

    def _timeouts(self, protocol: int) -> tuple:
        """Return the message that makes the timeouts of *protocol*, those of IPVS in conntrack's words."""
        named = dict(zip(tcp.NAMES, tcp.TIMEOUTS, strict=True))
        opening, closing = named["SYN_RECV"], self.timeouts.tcp_fin
        values = dict(zip(UDP_STATES, [self.timeouts.udp] * 2, strict=True))
        if protocol == TCP:
            values = dict(zip(TCP_STATES, (opening, opening, self.timeouts.tcp, closing, closing, named["TIME_WAIT"],
                                           named["TIME_WAIT"], named["CLOSE"], opening), strict=True))
        policy = b"".join(number(state, seconds) for state, seconds in values.items())
        return self._message(NEWOBJECT, NLM_F_CREATE, text(OBJECT_TABLE, TABLE)
                             + text(OBJECT_NAME, self._timeouts_name(protocol)) + number(OBJECT_TYPE, TIMEOUT_OBJECT)
                             + nested(OBJECT_DATA, attribute(TIMEOUT_FAMILY, struct.pack(">H", self.family)),
                                      attribute(TIMEOUT_PROTOCOL, bytes([protocol])), nested(TIMEOUT_VALUES, policy)))

    def _set(self, name: str, table: str = TABLE) -> tuple:
        address = TYPE_ADDRESS[self.length]
        named = text(SET_TABLE, table) + text(SET_NAME, name)
        if name == GONE:
            kinds = TYPE_PROTOCOL, address, TYPE_SERVICE, address, TYPE_SERVICE
            key_type = 0
            for kind in kinds:
                key_type = key_type << 6 | kind         # nft's way to say what a key consists of
            named += (number(SET_FLAGS, 0) + number(SET_KEY_TYPE, key_type)
                      + number(SET_KEY_LENGTH, 12 + 2 * self.length))
        else:
            data_type, data_length = (TYPE_SERVICE, 2) if name == RPORT else (address, self.length)
            named += (number(SET_FLAGS, IS_MAP) + number(SET_KEY_TYPE, TYPE_MARK) + number(SET_KEY_LENGTH, 4)
                      + number(SET_DATA_TYPE, data_type) + number(SET_DATA_LENGTH, data_length))
        return self._message(NEWSET, NLM_F_CREATE, named + nested(SET_DESC, number(DESC_SIZE, LARGEST))
                             + number(SET_ID, SETS.index(name) + 1))

    def _chain(self, name: str, hook: int, kind: str, priority: int) -> tuple:
        place = nested(CHAIN_HOOK, number(HOOK_NUMBER, hook), number(HOOK_PRIORITY, priority & 0xFFFFFFFF))
        return self._message(NEWCHAIN, NLM_F_CREATE, text(CHAIN_TABLE, TABLE) + text(CHAIN_NAME, name) + place
                             + text(CHAIN_TYPE, kind))

    def _rule(self, chain: str, expressions: list[bytes], table: str = TABLE) -> tuple:
        return self._message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, text(RULE_TABLE, table) + text(RULE_CHAIN, chain)
                             + nested(RULE_EXPRESSIONS, *expressions))

    def _numbered(self, message: int, flags: int, name: str, steer: int, value: bytes | None) -> tuple:
        """Return the message about what a map has for a number."""
        data = b"" if value is None else nested(ELEMENT_DATA, attribute(DATA_VALUE, value))
        return self._element(message, flags, name, struct.pack("=I", steer << self.shift), data)

    def _gone(self, message: int, flags: int, target: Target) -> tuple:
        """Return the message about a deleted server."""
        key = (struct.pack("=B3x", target.protocol) + address_bytes(target.vip, self.family)
               + struct.pack(">H2x", target.vport) + address_bytes(target.rip, self.family)
               + struct.pack(">H2x", target.rport))
        return self._element(message, flags, GONE, key, b"")

    def _element(self, message: int, flags: int, name: str, key: bytes, data: bytes) -> tuple:
        return self._message(message, flags, text(ELEMENTS_TABLE, TABLE) + text(ELEMENTS_SET, name)
                             + nested(ELEMENTS, nested(LIST_ITEM, nested(ELEMENT_KEY, attribute(DATA_VALUE, key)),
                                                       data)))

    def _message(self, kind: int, flags: int, body: bytes) -> tuple:
        return kind, flags, netfilter(self.family) + body

    def _transact(self, attempt: str, messages: list[tuple]) -> None:
        try:
            transact(NFNL_SUBSYS_NFTABLES, messages)
        except OSError as error:
            raise self._cannot(attempt, error) from error

    def _cannot(self, attempt: str, error: OSError) -> HostError:
        cure = ("this kernel lacks what that needs (nf_tables with maps and nat)"
                if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL) else "nothing was changed")
        return HostError(f"cannot {attempt} offloaded services ({NAMES[self.family]}): {os.strerror(error.errno)}; "
                         f"{cure}; use --data-path rewrite")


def _is_protocol(protocol: int) -> list[bytes]:
    """Return the expressions that let only packets of *protocol* pass."""
    return [_expression("meta", number(1, NUMBER), number(2, META_PROTOCOL)),
            _expression("cmp", number(1, NUMBER), number(2, EQUAL), nested(3, attribute(1, bytes([protocol]))))]


def _look_up(name: str, key: int, found: int) -> bytes:
    """Return the expression that looks a number up; a packet whose number is not in the map meets the next rule."""
    return _expression("lookup", text(1, name), number(2, key), number(3, found), number(4, SETS.index(name) + 1))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(LIST_ITEM, text(EXPRESSION_NAME, name), nested(EXPRESSION_DATA, *attributes))
