"""The IP sets that the rules look into: which addresses and ports are virtual services and real servers.

A member is (protocol, address, port), or an address alone where every port matters.  A set holds addresses of one
family: ``lbq-vip`` those of IPv4, ``lbq6-vip`` those of IPv6.
Two services may share a real server, so members are counted:
the kernel's set loses one only when nobody needs it any more.  The ``ipset`` program is not needed.

Kernel: include/uapi/linux/netfilter/ipset/ip_set.h
"""
from __future__ import annotations

import errno
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lbq.errors import RulesNotApplied
from lbq.host.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NET_BYTEORDER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    address_bytes,
    address_of,
    ask,
    attribute,
    nested,
    netfilter,
    number,
    text,
    walk,
)
from lbq.model import AF_INET, AF_INET6

Member = tuple[int, int, int]       # protocol, address, port

SET_TYPE, REVISION = "hash:ip,port", 1      # every kernel since 2.6.39 has this revision
LARGEST = 1 << 20                           # members of one set; the kernel's own default is 65,536
NFNL_SUBSYS_IPSET = 6 << 8
CREATE, DESTROY, LIST, ADD, DELETE, TYPE = (NFNL_SUBSYS_IPSET | command for command in (2, 3, 7, 9, 10, 13))
PROTOCOL_VERSION = 6
PROTOCOL, SETNAME, TYPENAME, REVISION_OR_MINIMUM, FAMILY, DATA, ADT = 1, 2, 3, 4, 5, 7, 8
IP, PORT, PROTO, MAXELEM = 1, 4, 7, 19      # inside DATA
IPADDR = {AF_INET: 1, AF_INET6: 2}          # inside IP
IPSET_ERR_BUSY = 4100                       # a rule uses the set
IPSET_ERR_EXIST = 4103                      # the member is there already, or is not


def type_is_known(family: int) -> bool:
    """Return True when this kernel has sets of addresses of *family* with ports."""
    try:
        _ask(TYPE, text(TYPENAME, SET_TYPE), attribute(FAMILY, bytes([family])))
    except OSError:
        return False
    return True


class MemberSet:
    """One kernel set, and how many times each member is wanted in it."""

    set_type, revision = SET_TYPE, REVISION

    def __init__(self, name: str, family: int):
        self.name = name
        self.family = family
        self.wanted: Counter[Member] = Counter()

    def fill(self, members: Iterable[Member]) -> None:
        """Make the set hold *members* and nothing else, creating it or adopting one left by a crash."""
        self.wanted = Counter(members)
        with _explained(f"fill the set {self.name}"):
            left = self.members()
            if left is None:
                self._create()
                left = set()
            for member in left - set(self.wanted):
                self._ask_member(DELETE, member)
            for member in set(self.wanted) - left:
                self._ask_member(ADD, member)

    def add(self, member: Member) -> None:
        """Count *member* once more, and put it in when it is new."""
        if self.wanted[member] == 0:
            with _explained(f"add to the set {self.name}"):
                self._ask_member(ADD, member)
        self.wanted[member] += 1

    def remove(self, member: Member) -> None:
        """Count *member* once less, and take it out when nobody wants it any more."""
        self.wanted[member] -= 1
        if self.wanted[member] <= 0:
            del self.wanted[member]
            with _explained(f"delete from the set {self.name}"):
                self._ask_member(DELETE, member)

    def members(self) -> set[Member] | None:
        """Return what the kernel's set holds, or None when there is no such set."""
        try:
            bodies = _ask(LIST, text(SETNAME, self.name), flags=NLM_F_DUMP)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        found = set()
        for body in bodies:
            for _, entry in walk(dict(walk(body[4:])).get(ADT, b"")):
                found.add(self._read(dict(walk(entry))))
        return found

    def destroy(self) -> bool:
        """Remove the set; return False when a rule that is not ours uses it, and it is only emptied."""
        with _explained(f"remove the set {self.name}"):
            left = self.members()
            if left is None:
                return True
            try:
                _ask(DESTROY, text(SETNAME, self.name))
            except OSError as error:
                if error.errno != IPSET_ERR_BUSY:
                    raise
                for member in left:
                    self._ask_member(DELETE, member)
                return False
        return True

    def _create(self) -> None:
        _ask(CREATE, text(SETNAME, self.name), text(TYPENAME, self.set_type),
             attribute(REVISION_OR_MINIMUM, bytes([self.revision])), attribute(FAMILY, bytes([self.family])),
             nested(DATA, number(MAXELEM | NLA_F_NET_BYTEORDER, LARGEST)), flags=NLM_F_CREATE | NLM_F_EXCL)

    def _ask_member(self, command: int, member: Member) -> None:
        _ask(command, text(SETNAME, self.name), nested(DATA, *self._entry(member)))

    def _entry(self, member: Member) -> tuple[bytes, ...]:
        protocol, address, port = member
        return (self._address(address),
                attribute(PORT | NLA_F_NET_BYTEORDER, struct.pack(">H", port)), attribute(PROTO, bytes([protocol])))

    def _read(self, entry: dict[int, bytes]) -> Member:
        return entry[PROTO][0], self._read_address(entry), struct.unpack(">H", entry[PORT])[0]

    def _address(self, address: int) -> bytes:
        return nested(IP, attribute(IPADDR[self.family] | NLA_F_NET_BYTEORDER, address_bytes(address, self.family)))

    def _read_address(self, entry: dict[int, bytes]) -> int:
        return address_of(dict(walk(entry[IP]))[IPADDR[self.family]])


class AddressSet(MemberSet):
    """A kernel set of whole addresses."""

    set_type, revision = "hash:ip", 0

    def _entry(self, member: int) -> tuple[bytes, ...]:
        return (self._address(member),)

    def _read(self, entry: dict[int, bytes]) -> int:
        return self._read_address(entry)


def set_named(name: str, family: int) -> MemberSet:
    """Return our set *name*; those that end in -any hold whole addresses."""
    return AddressSet(name, family) if name.endswith("-any") else MemberSet(name, family)


def _ask(command: int, *attributes: bytes, flags: int = 0) -> list[bytes]:
    body = netfilter(AF_INET) + attribute(PROTOCOL, bytes([PROTOCOL_VERSION])) + b"".join(attributes)
    return ask(NETLINK_NETFILTER, command, body, flags)


@contextmanager
def _explained(attempt: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = os.strerror(error.errno) if error.errno < 4096 else f"ipset error {error.errno}"
        raise RulesNotApplied(f"cannot {attempt}: {said}; if a set of that name is not lbq's, "
                              f"rename or remove it (ipset destroy)") from error
