"""The nf_tables chains that rewrite packets of steered services, told by a number in their mark.

lbq sees only the headers of such a packet and answers with a mark; the kernel looks the number up and does the rest:

    prerouting, output      number -> RIP, number -> rport      become destination address and port (NAT)
                            number -> RIP                       the packet goes there as it is (DR: ``dup``, then drop)
    postrouting, input      number -> VIP, number -> vport      become source address and port (replies, NAT)

Four chains, whatever the number of servers, right behind the hooks of mangle where the packets are queued.  Everything
in them can be said with, and is listed by, the ``nft`` program.  With NAT the bits of the number are taken out of the
mark again, so that routing rules and the user's own see the mark that was there.

Kernel: include/uapi/linux/netfilter/nf_tables.h; nft_payload.c, nft_payload_set_eval(); nf_dup_ipv4.c.
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
from lbq.model import AF_INET, NAT, TUN
from lbq.netlink import MARK_MASK, OWN_MARK

TABLE = "lbq-steer"
PRIORITY = -145             # behind mangle, whose is -150
LARGEST = 65535             # numbers

NEWTABLE, DELTABLE, NEWCHAIN, NEWRULE, DELRULE, NEWSET, GETSET, DELSET, NEWELEM, DELELEM = (
    NFNL_SUBSYS_NFTABLES << 8 | message for message in (0, 2, 3, 6, 8, 9, 10, 11, 12, 14))
NLM_F_APPEND = 0x800

# Attributes, by what they are of.
TABLE_NAME = 1
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_TYPE = 1, 3, 4, 7
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS = 1, 2, 4
SET_TABLE, SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH, SET_DATA_TYPE, SET_DATA_LENGTH, SET_DESC, SET_ID = (
    1, 2, 3, 4, 5, 6, 7, 9, 10)
DESC_SIZE = 1
ELEMENTS_TABLE, ELEMENTS_SET, ELEMENTS = 1, 2, 3
ELEMENT_KEY, ELEMENT_DATA = 1, 2
LIST_ITEM, DATA_VALUE, DATA_VERDICT, VERDICT_CODE = 1, 1, 2, 1
EXPRESSION_NAME, EXPRESSION_DATA = 1, 2

IS_MAP = 0x8
TYPE_MARK, TYPE_SERVICE = 19, 13    # nft's own numbers, which the kernel only keeps
TYPE_ADDRESS = {4: 7, 16: 8}                        # by length in bytes
META_MARK = 3
VERDICT_REGISTER = 0
NUMBER, FOUND = 8, 9        # 32-bit registers: the number, and what is looked up by it
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
INET_CHECKSUM, FOLLOW_CHECKSUM = 1, 1               # the IP header's own; and that of TCP or UDP, too
ADDRESS_AT = {True: {4: 16, 16: 24}, False: {4: 12, 16: 8}}     # is it the destination's? by length
PORT_AT = {True: 2, False: 0}
PREROUTING, LOCAL_IN, LOCAL_OUT, POSTROUTING = 0, 1, 3, 4
NF_DROP, NF_ACCEPT = 0, 1
EQUAL = 0

RIP, RPORT, DIRECT, VIP, VPORT = MAPS = "rip", "rport", "direct", "vip", "vport"


class Target(NamedTuple):
    """What the kernel is to know of one number: a real server, and the virtual service it answers for."""

    rip: int
    rport: int
    vip: int
    vport: int
    mode: int


class Steering:
    """The chains and maps of one family."""

    def __init__(self, family: int, mask: int = MARK_MASK):
        self.family = family
        self.mask = mask
        self.length = BITS[family] // 8                 # of an address, bytes
        self.shift = (mask & -mask).bit_length() - 1
        self.is_in = False

    def probe(self) -> str:
        """Return what this kernel lacks, "" for nothing; all is made and removed again in one step, in no hook."""
        if self.is_in:
            return ""
        table = TABLE + "-probe"
        try:
            transact(NFNL_SUBSYS_NFTABLES, [
                self._message(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, text(TABLE_NAME, table)),
                *(self._map(name, table) for name in MAPS),
                self._message(NEWCHAIN, NLM_F_CREATE, text(CHAIN_TABLE, table) + text(CHAIN_NAME, "probe")),
                *(self._rule("probe", rule, table) for rule in (*self._requests(), *self._replies())),
                self._message(DELTABLE, 0, text(TABLE_NAME, table))])
        except OSError as error:
            return f"this kernel's nf_tables cannot do it ({os.strerror(error.errno)})"
        return ""

    def put_in(self) -> None:
        """Make table, maps and chains; those of a killed director go, as nothing is told by their numbers any more."""
        there = TABLE in tables(self.family)
        messages = [self._message(DELTABLE, 0, text(TABLE_NAME, TABLE))] if there else []
        messages += [self._message(NEWTABLE, NLM_F_CREATE, text(TABLE_NAME, TABLE)), *map(self._map, MAPS)]
        requests, replies = self._requests(), self._replies()
        for name, hook, kind, rules in (("prerouting", PREROUTING, "filter", requests),
                                        ("output", LOCAL_OUT, "route", requests),
                                        ("input", LOCAL_IN, "filter", replies),
                                        ("postrouting", POSTROUTING, "filter", replies)):
            messages.append(self._chain(name, hook, kind))
            messages += [self._rule(name, rule) for rule in rules]
        self._transact("put in the rules that rewrite for", messages)
        self.is_in = True

    def take_out(self) -> bool:
        """Remove everything; return False when there is nothing."""
        self.is_in = False
        if TABLE not in tables(self.family):
            return False
        self._transact("take out the rules that rewrite for", [self._message(DELTABLE, 0, text(TABLE_NAME, TABLE))])
        return True

    @property
    def name(self) -> str:
        """Return what ``nft`` calls the table."""
        return f"{NAMES[self.family]} {TABLE}"

    def empty(self) -> bool:
        """Take everything out of the chains, and the maps away; return False when there is nothing."""
        if TABLE not in tables(self.family):
            return False
        self._transact("empty the rules that rewrite for", [
            self._message(DELRULE, 0, text(RULE_TABLE, TABLE)),
            *(self._message(DELSET, 0, text(SET_TABLE, TABLE) + text(SET_NAME, name)) for name in self._maps())])
        return True

    def add(self, steer: int, target: Target) -> None:
        """Let the kernel know the number *steer*."""
        self._transact("add a real server of", [self._elements(NEWELEM, NLM_F_CREATE | NLM_F_EXCL, name, steer, value)
                                                for name, value in self._values(target)])

    def remove(self, steer: int, target: Target) -> None:
        """Let the kernel forget the number *steer*, which was *target*."""
        self._transact("remove a real server of", [self._elements(DELELEM, 0, name, steer, None)
                                                   for name, _ in self._values(target)])

    def _maps(self) -> list[str]:
        """Return the names of the table's maps."""
        bodies = ask(NETLINK_NETFILTER, GETSET, netfilter(self.family) + text(SET_TABLE, TABLE), NLM_F_DUMP)
        return [dict(walk(body[4:]))[SET_NAME].rstrip(b"\0").decode() for body in bodies]

    def _values(self, target: Target) -> list[tuple[str, bytes]]:
        """Return which map has what for a number."""
        if target.mode == TUN:
            return []               # lbq asks for the whole packet then
        if target.mode != NAT:
            return [(DIRECT, address_bytes(target.rip, self.family))]
        return [(RIP, address_bytes(target.rip, self.family)), (RPORT, struct.pack(">H", target.rport)),
                (VIP, address_bytes(target.vip, self.family)), (VPORT, struct.pack(">H", target.vport))]

    # ---- Rules --------------------------------------------------------------------------------------------

    def _requests(self) -> list[list[bytes]]:
        return [self._others(), self._rewrite(RIP, RPORT, is_request=True), self._send_direct()]

    def _replies(self) -> list[list[bytes]]:
        return [self._others(), self._rewrite(VIP, VPORT, is_request=False)]

    def _others(self) -> list[bytes]:
        """Return the expressions that let a packet go on which has no number: most packets of most hosts."""
        return [*self._number(),
                _expression("cmp", number(1, NUMBER), number(2, EQUAL), nested(3, attribute(DATA_VALUE, bytes(4)))),
                _verdict(NF_ACCEPT)]

    def _rewrite(self, address_map: str, port_map: str, *, is_request: bool) -> list[bytes]:
        """Return the expressions that write the address and port which the maps have for the packet's number."""
        checksum = (number(6, INET_CHECKSUM), number(7, 10)) if self.family == AF_INET else ()
        return [*self._number(), _look_up(address_map),
                _expression("payload", number(5, FOUND), number(2, NETWORK_HEADER),
                            number(3, ADDRESS_AT[is_request][self.length]), number(4, self.length), *checksum,
                            number(8, FOLLOW_CHECKSUM)),
                _look_up(port_map),
                _expression("payload", number(5, FOUND), number(2, TRANSPORT_HEADER), number(3, PORT_AT[is_request]),
                            number(4, 2), number(8, FOLLOW_CHECKSUM)),
                *self._give_mark_back()]

    def _send_direct(self) -> list[bytes]:
        """Return the expressions that send the packet to the machine which the map has for its number."""
        own = nested(2, attribute(DATA_VALUE, struct.pack("=I", OWN_MARK)))     # the copy meets the rules of OUTPUT
        return [*self._number(), _look_up(DIRECT),
                _expression("immediate", number(1, NUMBER), own),
                _expression("meta", number(3, NUMBER), number(2, META_MARK)),
                _expression("dup", number(1, FOUND)), _verdict(NF_DROP)]

    def _number(self) -> list[bytes]:
        """Return the expressions that take the packet's number out of its mark."""
        return [_expression("meta", number(1, NUMBER), number(2, META_MARK)), self._mask(self.mask)]

    def _give_mark_back(self) -> list[bytes]:
        return [_expression("meta", number(1, NUMBER), number(2, META_MARK)), self._mask(~self.mask & 0xFFFFFFFF),
                _expression("meta", number(3, NUMBER), number(2, META_MARK))]

    def _mask(self, mask: int) -> bytes:
        return _expression("bitwise", number(1, NUMBER), number(2, NUMBER), number(3, 4),
                           nested(4, attribute(DATA_VALUE, struct.pack("=I", mask))),
                           nested(5, attribute(DATA_VALUE, bytes(4))))

    # ---- Messages -----------------------------------------------------------------------------------------

    def _map(self, name: str, table: str = TABLE) -> tuple:
        data_type, data_length = ((TYPE_SERVICE, 2) if name in (RPORT, VPORT)
                                  else (TYPE_ADDRESS[self.length], self.length))
        return self._message(NEWSET, NLM_F_CREATE, text(SET_TABLE, table) + text(SET_NAME, name)
                             + number(SET_FLAGS, IS_MAP) + number(SET_KEY_TYPE, TYPE_MARK) + number(SET_KEY_LENGTH, 4)
                             + number(SET_DATA_TYPE, data_type) + number(SET_DATA_LENGTH, data_length)
                             + nested(SET_DESC, number(DESC_SIZE, LARGEST)) + number(SET_ID, MAPS.index(name) + 1))

    def _chain(self, name: str, hook: int, kind: str) -> tuple:
        place = nested(CHAIN_HOOK, number(HOOK_NUMBER, hook), number(HOOK_PRIORITY, PRIORITY & 0xFFFFFFFF))
        return self._message(NEWCHAIN, NLM_F_CREATE, text(CHAIN_TABLE, TABLE) + text(CHAIN_NAME, name) + place
                             + text(CHAIN_TYPE, kind))

    def _rule(self, chain: str, expressions: list[bytes], table: str = TABLE) -> tuple:
        return self._message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, text(RULE_TABLE, table) + text(RULE_CHAIN, chain)
                             + nested(RULE_EXPRESSIONS, *expressions))

    def _elements(self, message: int, flags: int, name: str, steer: int, value: bytes | None) -> tuple:
        key = nested(ELEMENT_KEY, attribute(DATA_VALUE, struct.pack("=I", steer << self.shift)))
        data = b"" if value is None else nested(ELEMENT_DATA, attribute(DATA_VALUE, value))
        return self._message(message, flags, text(ELEMENTS_TABLE, TABLE) + text(ELEMENTS_SET, name)
                             + nested(ELEMENTS, nested(LIST_ITEM, key, data)))

    def _message(self, kind: int, flags: int, body: bytes) -> tuple:
        return kind, flags, netfilter(self.family) + body

    def _transact(self, attempt: str, messages: list[tuple]) -> None:
        if not messages:
            return
        try:
            transact(NFNL_SUBSYS_NFTABLES, messages)
        except OSError as error:
            cure = ("this kernel lacks what that needs (nf_tables with maps, and nft_dup for DR)"
                    if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL) else "nothing was changed")
            raise HostError(f"cannot {attempt} steered services ({NAMES[self.family]}): {os.strerror(error.errno)}; "
                            f"{cure}; use --data-path rewrite") from error


def _look_up(name: str) -> bytes:
    """Return the expression that looks the number up; a packet whose number is not in the map meets the next rule."""
    return _expression("lookup", text(1, name), number(2, NUMBER), number(3, FOUND), number(4, MAPS.index(name) + 1))


def _verdict(code: int) -> bytes:
    """Return the expression that ends the chain with netfilter's verdict *code*."""
    return _expression("immediate", number(1, VERDICT_REGISTER),
                       nested(2, nested(DATA_VERDICT, number(VERDICT_CODE, code))))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(LIST_ITEM, text(EXPRESSION_NAME, name), nested(EXPRESSION_DATA, *attributes))
