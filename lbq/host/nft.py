"""Messages to nf_tables: a table of ours with its chains, maps and rules, built by hand where ``nft`` may be missing.

A change is a list of messages that ``netlink.transact`` applies, all or none.  A rule is a list of expressions, small
steps over numbered 32-bit registers: load something, compare it, look it up, write it somewhere, end with a verdict.

Kernel: include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nf_tables_api.c.
"""
from __future__ import annotations

import errno
import os
import struct

from lbq.errors import HostError
from lbq.host.netlink import (
    BITS,
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
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

Message = tuple[int, int, bytes]        # kind, flags, body

(NEWTABLE, DELTABLE, NEWCHAIN, NEWRULE, DELRULE, NEWSET, GETSET, DELSET, NEWELEM, DELELEM, NEWOBJECT) = (
    NFNL_SUBSYS_NFTABLES << 8 | message for message in (0, 2, 3, 6, 8, 9, 10, 11, 12, 14, 18))
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
OBJECT_TABLE, OBJECT_NAME, OBJECT_TYPE, OBJECT_DATA = 1, 2, 3, 4
LIST_ITEM, DATA_VALUE, DATA_VERDICT, VERDICT_CODE = 1, 1, 2, 1
EXPRESSION_NAME, EXPRESSION_DATA = 1, 2

IS_MAP = 0x8
TYPE_PROTOCOL, TYPE_SERVICE, TYPE_MARK = 12, 13, 19     # nft's own numbers, which the kernel only keeps
TYPE_ADDRESS = {4: 7, 16: 8}                            # by length in bytes
META_MARK, META_PROTOCOL = 3, 16
EQUAL = 0
PREROUTING, LOCAL_IN, LOCAL_OUT, POSTROUTING = 0, 1, 3, 4
VERDICT_REGISTER = 0
NF_DROP, NF_ACCEPT = 0, 1


class Table:
    """A table of one family; its methods return the messages that make, change and remove what is in it."""

    def __init__(self, family: int, name: str):
        self.family = family
        self.name = name
        self.length = BITS[family] // 8         # of an address, bytes
        self.address_type = TYPE_ADDRESS[self.length]

    def __str__(self) -> str:
        return f"{NAMES[self.family]} {self.name}"      # as nft calls it

    def is_there(self) -> bool:
        """Return True when the kernel has it."""
        return self.name in tables(self.family)

    def create(self) -> Message:
        """Make the table, which is not there."""
        return self._message(NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, text(TABLE_NAME, self.name))

    def delete(self) -> Message:
        """Remove the table and all that is in it."""
        return self._message(DELTABLE, 0, text(TABLE_NAME, self.name))

    def empty(self) -> list[Message]:
        """Remove the rules, sets and maps that are in it now; chains stay in their hooks and do nothing."""
        bodies = ask(NETLINK_NETFILTER, GETSET, netfilter(self.family) + text(SET_TABLE, self.name), NLM_F_DUMP)
        names = [dict(walk(body[4:]))[SET_NAME].rstrip(b"\0").decode() for body in bodies]
        return [self.delete_rules(), *(self._message(DELSET, 0, self._of_set(name)) for name in names)]

    def chain(self, name: str, hook: int | None = None, kind: str = "filter", priority: int = 0) -> Message:
        """Make a chain, in a hook if one is said."""
        body = text(CHAIN_TABLE, self.name) + text(CHAIN_NAME, name)
        if hook is not None:
            body += nested(CHAIN_HOOK, number(HOOK_NUMBER, hook), number(HOOK_PRIORITY, priority & 0xFFFFFFFF))
            body += text(CHAIN_TYPE, kind)
        return self._message(NEWCHAIN, NLM_F_CREATE, body)

    def rule(self, chain: str, expressions: list[bytes]) -> Message:
        """Put a rule at the end of a chain."""
        return self._message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, text(RULE_TABLE, self.name)
                             + text(RULE_CHAIN, chain) + nested(RULE_EXPRESSIONS, *expressions))

    def delete_rules(self, chain: str | None = None) -> Message:
        """Remove the rules of a chain, or of all."""
        return self._message(DELRULE, 0, text(RULE_TABLE, self.name)
                             + (text(RULE_CHAIN, chain) if chain is not None else b""))

    def mark_map(self, name: str, identity: int, data_type: int, data_length: int, size: int) -> Message:
        """Make a map from marks to data; *identity* tells it from others in the same change."""
        return self._message(NEWSET, NLM_F_CREATE, self._of_set(name) + number(SET_FLAGS, IS_MAP)
                             + number(SET_KEY_TYPE, TYPE_MARK) + number(SET_KEY_LENGTH, 4)
                             + number(SET_DATA_TYPE, data_type) + number(SET_DATA_LENGTH, data_length)
                             + _size_and_identity(size, identity))

    def set(self, name: str, identity: int, key_types: tuple[int, ...], key_length: int, size: int) -> Message:
        """Make a set whose members consist of parts of *key_types*, *key_length* bytes with padding."""
        key_type = 0
        for kind in key_types:
            key_type = key_type << 6 | kind
        return self._message(NEWSET, NLM_F_CREATE, self._of_set(name) + number(SET_FLAGS, 0)
                             + number(SET_KEY_TYPE, key_type) + number(SET_KEY_LENGTH, key_length)
                             + _size_and_identity(size, identity))

    def add_element(self, name: str, key: bytes, value: bytes | None = None, flags: int = NLM_F_EXCL) -> Message:
        """Put a member into a set, or a key with its *value* into a map."""
        data = b"" if value is None else nested(ELEMENT_DATA, attribute(DATA_VALUE, value))
        return self._message(NEWELEM, NLM_F_CREATE | flags, self._elements(name, key, data))

    def delete_element(self, name: str, key: bytes) -> Message:
        """Take one member or key out."""
        return self._message(DELELEM, 0, self._elements(name, key, b""))

    def delete_elements(self, name: str) -> Message:
        """Take all of them out."""
        return self._message(DELELEM, 0, text(ELEMENTS_TABLE, self.name) + text(ELEMENTS_SET, name))

    def object(self, name: str, kind: int, data: bytes) -> Message:
        """Make an object that rules can refer to, if it is not there."""
        return self._message(NEWOBJECT, NLM_F_CREATE, text(OBJECT_TABLE, self.name) + text(OBJECT_NAME, name)
                             + number(OBJECT_TYPE, kind) + nested(OBJECT_DATA, data))

    def _of_set(self, name: str) -> bytes:
        return text(SET_TABLE, self.name) + text(SET_NAME, name)

    def _elements(self, name: str, key: bytes, data: bytes) -> bytes:
        element = nested(LIST_ITEM, nested(ELEMENT_KEY, attribute(DATA_VALUE, key)), data)
        return text(ELEMENTS_TABLE, self.name) + text(ELEMENTS_SET, name) + nested(ELEMENTS, element)

    def _message(self, kind: int, flags: int, body: bytes) -> Message:
        return kind, flags, netfilter(self.family) + body


class NumberedServers:
    """What the rules of steering and of offloading have in common: a table of ours that knows servers by a number.

    *name* is the table's, *mask* the bits of a mark that a number has, *what* the services whose packets it concerns,
    and *needs* what of nf_tables that takes, in words.
    """

    def __init__(self, family: int, name: str, mask: int, what: str, needs: str):
        self.family = family
        self.mask = mask
        self.table = Table(family, name)
        self.what, self.needs = what, needs
        self.shift = (mask & -mask).bit_length() - 1
        self.is_in = False

    def take_out(self) -> bool:
        """Remove everything; return False when there is nothing."""
        self.is_in = False
        if not self.table.is_there():
            return False
        self.transact("take out the rules for", [self.table.delete()])
        return True

    def empty(self) -> bool:
        """Take everything out of the chains, and the maps away; return False when there is nothing."""
        if not self.table.is_there():
            return False
        self.transact("empty the rules for", self.table.empty())
        return True

    def key(self, steer: int) -> bytes:
        """Return the mark that tells the number *steer*, as maps have it."""
        return struct.pack("=I", steer << self.shift)

    def transact(self, attempt: str, messages: list[Message]) -> None:
        """Apply *messages*, all or none; raises HostError that says what was attempted."""
        if not messages:
            return
        try:
            transact(NFNL_SUBSYS_NFTABLES, messages)
        except OSError as error:
            raise self.cannot(attempt, error) from error

    def cannot(self, attempt: str, error: OSError) -> HostError:
        """Return what says that *attempt* failed."""
        cure = (f"this kernel lacks what that needs ({self.needs})"
                if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL) else "nothing was changed")
        return HostError(f"cannot {attempt} {self.what} services ({self.table}): {os.strerror(error.errno)}; {cure}; "
                         "use --data-path rewrite")

    def lacks(self, messages: list[Message]) -> str:
        """Return why the kernel does not take *messages*, which leave nothing behind; "" when it does."""
        try:
            transact(NFNL_SUBSYS_NFTABLES, messages)
        except OSError as error:
            return f"this kernel's nf_tables cannot do it ({os.strerror(error.errno)})"
        return ""


def _size_and_identity(size: int, identity: int) -> bytes:
    return nested(SET_DESC, number(DESC_SIZE, size)) + number(SET_ID, identity)


# ---- Expressions --------------------------------------------------------------------------------------------


def expression(name: str, *attributes: bytes) -> bytes:
    """Return one step of a rule."""
    return nested(LIST_ITEM, text(EXPRESSION_NAME, name), nested(EXPRESSION_DATA, *attributes))


def load_mark(register: int, mask: int) -> list[bytes]:
    """Load the bits *mask* of the packet's mark."""
    return [load_meta(register, META_MARK),
            expression("bitwise", number(1, register), number(2, register), number(3, 4),
                       nested(4, attribute(DATA_VALUE, struct.pack("=I", mask))),
                       nested(5, attribute(DATA_VALUE, bytes(4))))]


def store_mark(register: int) -> bytes:
    """Give the packet the mark that is in *register*."""
    return expression("meta", number(3, register), number(2, META_MARK))


def load_meta(register: int, what: int) -> bytes:
    """Load something that is known of the packet."""
    return expression("meta", number(1, register), number(2, what))


def load_number(register: int, value: int) -> bytes:
    """Load 32 bits in the host's order, as a mark is."""
    return expression("immediate", number(1, register), nested(2, attribute(DATA_VALUE, struct.pack("=I", value))))


def only_if(register: int, value: bytes) -> bytes:
    """Go on only when *register* begins with *value*; else the packet meets the next rule."""
    return expression("cmp", number(1, register), number(2, EQUAL), nested(3, attribute(DATA_VALUE, value)))


def look_up(name: str, identity: int, key: int, found: int | None = None) -> bytes:
    """Look the register *key* up, in a map for the register *found*; what is not there meets the next rule."""
    data = () if found is None else (number(3, found),)
    return expression("lookup", text(1, name), number(2, key), *data, number(4, identity))


def verdict(code: int) -> bytes:
    """End the chain with netfilter's verdict *code*."""
    return expression("immediate", number(1, VERDICT_REGISTER),
                      nested(2, nested(DATA_VERDICT, number(VERDICT_CODE, code))))
