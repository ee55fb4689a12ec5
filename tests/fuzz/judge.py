"""What must hold whatever comes: written from the specification, not from the engines.

* a packet that says nothing understandable is dropped, wherever it is seen
* a packet passes a director untouched only for a reason that its own bytes, or the configuration, show
* what is rewritten goes to a real server or comes from a virtual service, its checksums are right if they were before,
  and nothing else in it is changed
* what is sent goes to a real server and is the packet a hop later, perhaps in a tunnel, perhaps in pieces; what a
  tunnel packet holds, ``lbq decap`` lets in
* the counters add up, and servers count as many connections as the table has
"""
from __future__ import annotations

from collections import Counter

from lbq import conntrack, decap
from lbq.conntrack import NO_SERVER, RECORD, VALID
from lbq.model import AF_INET, AF_INET6, INACTIVE, LOCAL, SCTP, TCP, TEMPLATE, UDP, Sent, Verdict
from lbq.outcomes import ACCEPT, DROP, DROPPED, PASSED
from tests.fuzz import families
from tests.fuzz.family import IN_GRE, IN_IP, IN_IPV6, Family
from tests.fuzz.ipv6 import FRAGMENT
from tests.helpers.engines import LOCAL_IN, LOCAL_OUT, LOOPBACK, POSTROUTING
from tests.helpers.story import Step

SYN, RST = 2, 4
NOT_READY, SEGMENTED = 1, 2     # forms: CHECKSUM_NOT_READY, SEGMENTED_LATER
FTP = 21
CHECKSUM = {TCP: (16, 2), UDP: (6, 2), SCTP: (8, 4)}     # where in the transport's header, and its size
SCTP_INIT, SCTP_ABORT = 1, 6
FTP_DATA = 20
FIELDS = conntrack.FIELDS
OUTCOMES = ("rewritten", "forwarded", *(f"passed_{reason}" for reason in PASSED if reason != "whole"),
            *(f"dropped_{reason}" for reason in DROPPED))
NOT_UNDERSTOOD = ("dropped_truncated", "dropped_malformed", "dropped_fragment")


class Judge:
    """Looks at both engines; the readable one says which outcome it was, and how it is configured."""

    def __init__(self, reference, fast):
        self.reference = reference
        self.fast = fast
        self.counted: dict[str, int] = {}

    def before(self) -> None:
        """Note the counters before a step."""
        self.counted = dict(self.reference.counted)

    def after(self, step: Step, verdict: Verdict | None, came_out: bytes | None) -> str:
        """Judge what a step led to; return its outcome, or its kind when it was no packet."""
        if step.kind != "packet":
            return step.kind
        now = self.reference.counted
        [outcome] = [name for name in OUTCOMES if now[name] != self.counted[name]]
        assert now["packets"] == self.counted["packets"] + 1
        self._verdict(step, outcome, verdict, came_out)
        return outcome

    def _verdict(self, step: Step, outcome: str, verdict: Verdict, came_out: bytes | None) -> None:
        content, hook, form, out_device, truncated, mark = step.arguments
        family = families.of_packet(content)
        means = family.meaning(content)
        dropped = outcome.startswith("dropped") or outcome == "forwarded"
        assert verdict.action == (DROP if dropped else ACCEPT), outcome
        assert verdict.changed == (outcome == "rewritten")
        understood = outcome not in NOT_UNDERSTOOD or self._is_quote_without_ports(outcome, family, means)
        assert understood == (not truncated and means.protocol is not None), (outcome, means)
        assert (verdict.sent != ()) == (outcome == "forwarded")
        if outcome.startswith("passed"):
            assert came_out == content
            reason = outcome.removeprefix("passed_")
            assert self._may_pass(reason, family, means, hook, mark), (outcome, means)
        if outcome == "rewritten":
            delivered = hook == LOCAL_IN or out_device == LOOPBACK
            self._rewritten(family, content, came_out, hook in (LOCAL_IN, POSTROUTING), form, delivered)
        if verdict.sent:
            self._sent(verdict.sent, family, content, form)
        if verdict.answer is not None:
            assert dropped
            answer = verdict.answer
            assert families.of_packet(answer).meaning(answer).protocol is not None, answer.hex()
            assert families.of_packet(answer).is_right_answer(answer), answer.hex()

    def _is_quote_without_ports(self, outcome: str, family: Family, means) -> bool:
        """Return True for an ICMP error that might have made a connection, had it quoted ports (schedule_icmp)."""
        return (outcome == "dropped_malformed" and means.protocol == family.icmp
                and self.reference.services.sysctls["schedule_icmp"] != 0)

    def _may_pass(self, reason: str, family: Family, means, hook: int, mark: int) -> bool:
        """Return True when a packet that says *means* may go on untouched for *reason*."""
        services, sysctls = self.reference.services, self.reference.services.sysctls
        reply = hook in (LOCAL_IN, POSTROUTING)
        opening = (means.flags & SYN and not means.flags & RST if means.protocol == TCP
                   else means.first_chunk == SCTP_INIT if means.protocol == SCTP else True)
        found = services.find_service(family.number, means.protocol, means.destination, means.destination_port, mark)
        is_served = any(key.family == family.number for key in services.by_key)
        return {
            "not_ours": means.protocol not in (TCP, UDP, SCTP, family.icmp),
            "later_fragment": family.number == AF_INET6 and means.is_later,
            "icmp": means.protocol == family.icmp,
            "no_service": not is_served or (not reply and found is None),
            "not_opening": not reply and not opening,
            "no_connection": reply,
            "ftp_data": not reply and (means.source_port == FTP_DATA or hook == LOCAL_OUT or (
                found is not None and found.key.port == FTP and means.destination_port != FTP)),
            "local": not reply and (any(self.reference.local.values()) or any(
                server.mode == LOCAL for service in services.by_key.values() for server in service.servers)),
            "reply": reply,
            "bypass": sysctls["cache_bypass"] or any(
                connection is not None and connection.server is None
                for connection in self.reference.connections.numbered),
        }[reason]

    # ---- What NAT rewrites -----------------------------------------------------------------------------------

    def _rewritten(self, family: Family, before: bytes, after: bytes, to_client: bool, form: int,
                   delivered_here: bool) -> None:
        """Expect a packet that has another address and port, and is right if it was."""
        source, destination = family.addresses(after)
        at = source if to_client else destination
        size = destination - source
        address = int.from_bytes(after[at:at + size], "big")
        assert address in (self._vips(family) if to_client else self._rips(family)), hex(address)
        assert families.of_packet(after) is family and family.meaning(after).protocol is not None
        protocol, header = family.transport(before)
        changeable = [(at, size), *((place, 1) for place in family.header_sum)]
        if protocol == family.icmp:
            changeable += [(header + 2, 2), *self._changeable_in_quote(family, before, header + 8, size, to_client)]
            assert family.checksum_is_right(after[:family.length(after)]) and family.header_sum_is_right(after)
        else:
            changeable += [(header + (0 if to_client else 2), 2),
                           (header + CHECKSUM[protocol][0], CHECKSUM[protocol][1])]
            self._sums(family, before, after, protocol, header, form, to_client and delivered_here)
        if protocol != TCP or not self._is_ftp(before, after, header):
            assert blanked(before, changeable) == blanked(after, changeable)

    def _changeable_in_quote(self, family: Family, packet: bytes, at: int, size: int,
                             to_client: bool) -> list[tuple[int, int]]:
        """Return where the quote at *at* may be changed: the address and port of who was the other end."""
        protocol, header = family.transport(packet[:family.length(packet)], at)
        source, destination = family.addresses(packet, at)
        assert protocol in CHECKSUM
        return [(destination if to_client else source, size), (header + (2 if to_client else 0), 2),
                *((at + place, 1) for place in family.header_sum)]

    def _sums(self, family: Family, before: bytes, after: bytes, protocol: int, header: int, form: int,
              delivered_here: bool) -> None:
        """Expect right checksums where they were right, or are to be made right; those that were wrong stay so."""
        was_right, is_right = family.header_sum_is_right(before), family.header_sum_is_right(after)
        assert was_right == is_right or (is_right and self._is_ftp(before, after, header))
        before, after = before[:family.length(before)], after[:family.length(after)]
        place, size = CHECKSUM[protocol]
        if form & SEGMENTED:                    # the kernel writes those of the segments, where there will be some
            assert not (protocol == TCP and delivered_here) or family.checksum_is_right(after)
        elif form & NOT_READY or is_without_sum(protocol, before, header) or family.checksum_is_right(before):
            assert family.checksum_is_right(after)
        elif protocol != SCTP and not self._is_ftp(before, after, header):
            assert not family.checksum_is_right(after)
        elif protocol == SCTP:                  # a CRC is computed anew, or left alone
            assert family.checksum_is_right(after) or (
                before[header + place:header + place + size] == after[header + place:header + place + size])

    def _is_ftp(self, before: bytes, after: bytes, header: int) -> bool:
        """Return True for a TCP packet of an FTP control connection: its words are rewritten, too."""
        return FTP in (int.from_bytes(packet[at:at + 2], "big") for packet in (before, after)
                       for at in (header, header + 2))

    def _rips(self, family: Family) -> set[int]:
        return {server.address for server in self.reference.slots if server is not None
                and server.family == family.number}

    def _vips(self, family: Family) -> set[int]:
        """Return the addresses that somebody may have asked a service at."""
        return ({key.address for key in self.reference.services.by_key if key.family == family.number}
                | {connection.vaddr for connection in self.reference.connections.numbered
                   if connection is not None and connection.family == family.number})

    # ---- What DR and TUN send --------------------------------------------------------------------------------

    def _sent(self, sent: tuple[Sent, ...], family: Family, content: bytes, form: int) -> None:
        """Expect *content*, a hop later, on its way to a real server, whole or in pieces."""
        for each in sent:
            outer = families.of_packet(each.packet)
            assert outer.number == each.family
            assert outer.length(each.packet) == len(each.packet)
            assert any((server.address, server.family) == (each.next_hop, each.family)
                       for server in self.reference.slots if server is not None)
        if form & SEGMENTED:
            return
        whole = put_together([each.packet for each in sent])
        outer = families.of_packet(whole)
        inner = whole
        if is_tunnel(outer, whole, sent[0].next_hop):
            assert all(outer.header_sum_is_right(each.packet) for each in sent)
            inner = unwrapped(outer, whole)
            source, destination = family.addresses(content)
            vip = int.from_bytes(content[destination:2 * destination - source], "big")
            assert decap.why_not(inner, {(vip, family.number)}) is None
        assert families.of_packet(inner) is family
        expected = content[:family.length(content)]
        assert inner[family.hops_at] == expected[family.hops_at] - 1
        changeable = [(family.hops_at, 1), *((place, 1) for place in family.header_sum)]
        protocol, header = family.transport(expected)
        if form & NOT_READY and protocol in CHECKSUM:
            changeable.append((header + CHECKSUM[protocol][0], CHECKSUM[protocol][1]))
            assert family.checksum_is_right(inner)
        if len(sent) == 1:                      # of pieces the flags and the options may have changed
            assert family.header_sum_is_right(inner) == family.header_sum_is_right(expected)
            assert blanked(inner, changeable) == blanked(expected, changeable)
        else:
            assert blanked(inner, changeable)[header:] == blanked(expected, changeable)[header:]

    # ---- Now and then ------------------------------------------------------------------------------------

    def listings(self, seen: dict, expected: dict) -> None:
        """Compare all that both engines list, and look whether it adds up."""
        assert seen == expected, difference(seen, expected)
        assert self.fast.statistics() == self.reference.statistics()
        for engine in (self.reference, self.fast):
            adds_up(engine)


def adds_up(engine) -> None:
    """Expect that the counters of *engine* add up, and that every server counts the connections that are its own."""
    statistics, records = engine.statistics(), list(_records(engine))
    assert statistics["packets"] == sum(statistics[name] for name in OUTCOMES)
    assert statistics["connections"] == len(records) <= statistics["connections_max"]
    active, inactive, persistent = Counter(), Counter(), Counter()
    for record in records:
        assert record["flags"] & VALID
        kind = persistent if record["flags"] & TEMPLATE else inactive if record["flags"] & INACTIVE else active
        kind[record["server"]] += record["server"] != NO_SERVER
    servers = [server for service in engine.services.by_key.values() for server in service.servers]
    for server in (*servers, *engine.services.trash.values()):
        assert (server.active_conns, server.inactive_conns, server.persistent_conns) == (
            active.pop(server.slot, 0), inactive.pop(server.slot, 0), persistent.pop(server.slot, 0))
    assert not +active and not +inactive and not +persistent, "connections of a server that nobody knows"
    controlled = Counter(record["control"] for record in records if record["control"])
    assert sum(controlled.values()) == sum(record["controlled"] for record in records)


def _records(engine):
    """Give the connections of *engine* as dicts, a page at a time."""
    cursor = 0
    while cursor is not None:
        page, cursor = engine.list_connections(cursor, 256)
        for record in conntrack.split(page):
            yield dict(zip(FIELDS, RECORD.unpack_from(record), strict=True))


def difference(seen: dict, expected: dict) -> str:
    """Return which rows of two states only one of them has."""
    lines = []
    for name, rows in seen.items():
        lines += [f"fast only: {row}" for row in rows if row not in expected[name]]
        lines += [f"reference only: {row}" for row in expected[name] if row not in rows]
    return "\n".join(lines)


def blanked(packet: bytes, places: list[tuple[int, int]]) -> bytes:
    """Return *packet* with zeros in *places*, each an offset and a size."""
    packet = bytearray(packet)
    for at, size in places:
        packet[at:at + size] = bytes(len(packet[at:at + size]))
    return bytes(packet)


def is_without_sum(protocol: int, packet: bytes, header: int) -> bool:
    """Return True for a datagram without a checksum."""
    return protocol == UDP and packet[header + 6:header + 8] == b"\0\0"


def is_tunnel(outer: Family, packet: bytes, next_hop: int) -> bool:
    """Return True for a packet that is itself addressed to its *next_hop*: that of DR goes to the VIP."""
    source, destination = outer.addresses(packet)
    return int.from_bytes(packet[destination:2 * destination - source], "big") == next_hop


def unwrapped(outer: Family, packet: bytes) -> bytes:
    """Return what ``lbq decap`` takes out of a tunnel packet."""
    protocol, header = outer.transport(packet)
    if protocol == UDP:
        assert packet[header + 6:header + 8] == b"\0\0" or outer.checksum_is_right(packet)
        return decap.read_inner(packet[header + 8:], "gue", outer.number)
    kind = {IN_IP: "ipip", IN_IPV6: "ipip", IN_GRE: "gre"}[protocol]
    return decap.read_inner(packet if outer.number == AF_INET else packet[header:], kind, outer.number)


def put_together(packets: list[bytes]) -> bytes:
    """Return the packet of which *packets* are the pieces, in their order."""
    if len(packets) == 1:
        return packets[0]
    if packets[0][0] >> 4 == 4:
        header = (packets[0][0] & 15) * 4
        whole = bytearray(packets[0][:header])
        for packet in packets:
            word = int.from_bytes(packet[6:8], "big")
            start = (packet[0] & 15) * 4
            assert (word & 0x1FFF) * 8 == len(whole) - header and (word >> 13 & 1) == (packet is not packets[-1])
            whole += packet[start:]
        whole[2:4], whole[6:8] = len(whole).to_bytes(2, "big"), bytes(2)
        return bytes(whole)
    at, field = _fragment_header(packets[0])
    whole = bytearray(packets[0][:at])
    for packet in packets:
        word = int.from_bytes(packet[at + 2:at + 4], "big")
        assert packet[at + 4:at + 8] == packets[0][at + 4:at + 8] and packet[:4] == packets[0][:4]
        assert word & 0xFFF8 == len(whole) - at and word & 1 == (packet is not packets[-1])
        whole += packet[at + 8:]
    whole[field] = packets[0][at]
    whole[4:6] = (len(whole) - 40).to_bytes(2, "big")
    return bytes(whole)


def _fragment_header(packet: bytes) -> tuple[int, int]:
    """Return where the first fragment header of an IPv6 packet is, and where the one before names it."""
    field, at = 6, 40
    while packet[field] != FRAGMENT:
        field, at = at, at + (packet[at + 1] + 1) * 8
    return at, field
