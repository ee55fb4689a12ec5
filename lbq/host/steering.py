"""The nf_tables chains that rewrite packets of steered services, told by a number in their mark.

lbq sees only the headers of such a packet and answers with a mark; the kernel looks the number up and does the rest:

    prerouting, output      number -> RIP, number -> rport      become destination address and port (NAT)
                            number -> RIP                       the packet goes there as it is (DR: ``dup``, then drop)
    postrouting, input      number -> VIP, number -> vport      become source address and port (replies, NAT)

Four chains, whatever the number of servers, right behind the hooks of mangle where the packets are queued.  Everything
in them can be said with, and is listed by, the ``nft`` program.  With NAT the bits of the number are taken out of the
mark again, so that routing rules and the user's own see the mark that was there.

Kernel: nft_payload.c, nft_payload_set_eval(); nf_dup_ipv4.c, nf_dup_ipv6.c.
"""
from __future__ import annotations

import struct
from typing import NamedTuple

from lbq.host import nft
from lbq.host.netlink import address_bytes, number
from lbq.model import AF_INET, NAT, TUN
from lbq.netlink import MARK_MASK, OWN_MARK

TABLE = "lbq-steer"
PRIORITY = -145             # behind mangle, whose is -150
LARGEST = 65535             # numbers

NUMBER, FOUND = 8, 9        # 32-bit registers: the number, and what is looked up by it
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
INET_CHECKSUM, FOLLOW_CHECKSUM = 1, 1               # the IP header's own; and that of TCP or UDP, too
ADDRESS_AT = {True: {4: 16, 16: 24}, False: {4: 12, 16: 8}}     # is it the destination's? by length
PORT_AT = {True: 2, False: 0}
RIP, RPORT, DIRECT, VIP, VPORT = MAPS = "rip", "rport", "direct", "vip", "vport"


class Target(NamedTuple):
    """What the kernel is to know of one number: a real server, and the virtual service it answers for."""

    rip: int
    rport: int
    vip: int
    vport: int
    mode: int


class Steering(nft.NumberedServers):
    """The chains and maps of one family."""

    def __init__(self, family: int, mask: int = MARK_MASK):
        super().__init__(family, TABLE, mask, "steered", "nf_tables with maps, and nft_dup for DR")

    def probe(self) -> str:
        """Return what this kernel lacks, "" for nothing; all is made and removed again in one step, in no hook."""
        if self.is_in:
            return ""
        table = nft.Table(self.family, TABLE + "-probe")
        return self.lacks([
            table.create(), *(self._map(table, name) for name in MAPS), table.chain("probe"),
            *(table.rule("probe", rule) for rule in (*self._requests(), *self._replies())), table.delete()])

    def put_in(self) -> None:
        """Make table, maps and chains; those of a killed director go, as nothing is told by their numbers any more."""
        messages = [self.table.delete()] if self.table.is_there() else []
        messages += [self.table.create(), *(self._map(self.table, name) for name in MAPS)]
        requests, replies = self._requests(), self._replies()
        for name, hook, kind, rules in (("prerouting", nft.PREROUTING, "filter", requests),
                                        ("output", nft.LOCAL_OUT, "route", requests),
                                        ("input", nft.LOCAL_IN, "filter", replies),
                                        ("postrouting", nft.POSTROUTING, "filter", replies)):
            messages.append(self.table.chain(name, hook, kind, PRIORITY))
            messages += [self.table.rule(name, rule) for rule in rules]
        self.transact("put in the rules for", messages)
        self.is_in = True

    def add(self, steer: int, target: Target) -> None:
        """Let the kernel know the number *steer*."""
        self.transact("add a real server of", [self.table.add_element(name, self.key(steer), value)
                                                for name, value in self._values(target)])

    def remove(self, steer: int, target: Target) -> None:
        """Let the kernel forget the number *steer*, which was *target*."""
        self.transact("remove a real server of", [self.table.delete_element(name, self.key(steer))
                                                   for name, _ in self._values(target)])

    def _values(self, target: Target) -> list[tuple[str, bytes]]:
        """Return which map has what for a number."""
        if target.mode == TUN:
            return []               # lbq asks for the whole packet then
        rip, vip = address_bytes(target.rip, self.family), address_bytes(target.vip, self.family)
        if target.mode != NAT:
            return [(DIRECT, rip)]
        return [(RIP, rip), (RPORT, struct.pack(">H", target.rport)),
                (VIP, vip), (VPORT, struct.pack(">H", target.vport))]

    def _map(self, table: nft.Table, name: str) -> nft.Message:
        data = (nft.TYPE_SERVICE, 2) if name in (RPORT, VPORT) else (table.address_type, table.length)
        return table.mark_map(name, MAPS.index(name) + 1, *data, LARGEST)

    # ---- Rules --------------------------------------------------------------------------------------------

    def _requests(self) -> list[list[bytes]]:
        return [self._others(), self._rewrite(RIP, RPORT, is_request=True), self._send_direct()]

    def _replies(self) -> list[list[bytes]]:
        return [self._others(), self._rewrite(VIP, VPORT, is_request=False)]

    def _others(self) -> list[bytes]:
        """Return the expressions that let a packet go on which has no number: most packets of most hosts."""
        return [*nft.load_mark(NUMBER, self.mask), nft.only_if(NUMBER, bytes(4)), nft.verdict(nft.NF_ACCEPT)]

    def _rewrite(self, address_map: str, port_map: str, *, is_request: bool) -> list[bytes]:
        """Return the expressions that write the address and port which the maps have for the packet's number."""
        length = self.table.length
        checksum = (number(6, INET_CHECKSUM), number(7, 10)) if self.family == AF_INET else ()
        return [*nft.load_mark(NUMBER, self.mask), _look_up(address_map),
                nft.expression("payload", number(5, FOUND), number(2, NETWORK_HEADER),
                               number(3, ADDRESS_AT[is_request][length]), number(4, length), *checksum,
                               number(8, FOLLOW_CHECKSUM)),
                _look_up(port_map),
                nft.expression("payload", number(5, FOUND), number(2, TRANSPORT_HEADER),
                               number(3, PORT_AT[is_request]), number(4, 2), number(8, FOLLOW_CHECKSUM)),
                *nft.load_mark(NUMBER, ~self.mask & 0xFFFFFFFF), nft.store_mark(NUMBER)]

    def _send_direct(self) -> list[bytes]:
        """Return the expressions that send the packet to the machine which the map has for its number.

        The copy meets the rules of OUTPUT, and must not be queued there once more.
        """
        return [*nft.load_mark(NUMBER, self.mask), _look_up(DIRECT), nft.load_number(NUMBER, OWN_MARK),
                nft.store_mark(NUMBER), nft.expression("dup", number(1, FOUND)), nft.verdict(nft.NF_DROP)]


def _look_up(name: str) -> bytes:
    return nft.look_up(name, MAPS.index(name) + 1, NUMBER, FOUND)
