"""What must hold whatever comes: written from the specification, not from the engines.

* a packet that says nothing understandable is dropped, wherever it is seen
* a packet passes a director untouched only for a reason that its own bytes, or the configuration, show
* what is rewritten or sent is a whole packet; what a tunnel packet holds, ``lbq decap`` lets in
* the counters add up, and servers count as many connections as the table has
"""
from __future__ import annotations

from collections import Counter

from lbq import conntrack
from lbq.conntrack import NO_SERVER, RECORD, VALID
from lbq.model import INACTIVE, LOCAL, TEMPLATE
from lbq.outcomes import ACCEPT, DROP, DROPPED, PASSED
from tests.helpers.engines import LOCAL_IN, LOCAL_OUT, POSTROUTING
from tests.helpers.story import Step

TCP, UDP, ICMP, SCTP = 6, 17, 1, 132
SYN, RST = 2, 4
SCTP_INIT, SCTP_ABORT = 1, 6
FTP_DATA = 20
FIELDS = conntrack.FIELDS
OUTCOMES = ("rewritten", "forwarded", *(f"passed_{reason}" for reason in PASSED),
            *(f"dropped_{reason}" for reason in DROPPED))
NOT_UNDERSTOOD = ("dropped_truncated", "dropped_malformed", "dropped_fragment")


class Judge:
    """Looks at both engines; the readable one says which outcome it was, and how it is configured."""

    def __init__(self, family, reference, fast):
        self.family = family
        self.reference = reference
        self.fast = fast
        self.counted: dict[str, int] = {}

    def before(self) -> None:
        """Note the counters before a step."""
        self.counted = dict(self.reference.counted)

    def after(self, step: Step, seen) -> str:
        """Judge what a step led to; return its outcome, or its kind when it was no packet."""
        if step.kind != "packet":
            return step.kind
        now = self.reference.counted
        [outcome] = [name for name in OUTCOMES if now[name] != self.counted[name]]
        assert now["packets"] == self.counted["packets"] + 1
        verdict, came_out = (seen, None) if not isinstance(seen[-1], bytes) else seen
        self._verdict(step, outcome, verdict, came_out)
        return outcome

    def _verdict(self, step: Step, outcome: str, verdict, came_out: bytes | None) -> None:
        content, hook, _, _, truncated, mark = step.arguments
        means = self.family.meaning(content)
        dropped = outcome.startswith("dropped") or outcome == "forwarded"
        assert verdict.action == (DROP if dropped else ACCEPT), outcome
        assert verdict.changed == (outcome == "rewritten")
        understood = outcome not in NOT_UNDERSTOOD or self._is_quote_without_ports(outcome, means)
        assert understood == (not truncated and means.protocol is not None), (outcome, means)
        assert (verdict.sent != ()) == (outcome == "forwarded")
        if outcome.startswith("passed"):
            assert came_out == content
            assert self._may_pass(outcome.removeprefix("passed_"), means, hook, mark), (outcome, means)
        if outcome == "rewritten":
            self._whole(came_out[:self.family.length(came_out)])
        for sent in verdict.sent:
            assert any(server.address == sent.next_hop for server in self.reference.slots if server is not None)
            assert self.family.length(sent.packet) == len(sent.packet)
            assert self.family.can_be_taken(sent, content)
        if verdict.answer is not None:
            assert dropped
            self._whole(verdict.answer)
            assert self.family.is_right_answer(verdict.answer)

    def _is_quote_without_ports(self, outcome: str, means) -> bool:
        """Return True for an ICMP error that might have made a connection, had it quoted ports (schedule_icmp)."""
        return (outcome == "dropped_malformed" and means.protocol == ICMP
                and self.reference.services.sysctls["schedule_icmp"] != 0)

    def _may_pass(self, reason: str, means, hook: int, mark: int) -> bool:
        """Return True when a packet that says *means* may go on untouched for *reason*."""
        services, sysctls = self.reference.services, self.reference.services.sysctls
        reply = hook in (LOCAL_IN, POSTROUTING)
        opening = (means.flags & SYN and not means.flags & RST if means.protocol == TCP
                   else means.first_chunk == SCTP_INIT if means.protocol == SCTP else True)
        found = services.find_service(means.protocol, means.destination, means.destination_port, mark)
        return {
            "not_ours": means.protocol not in (TCP, UDP, SCTP, ICMP),
            "icmp": means.protocol == ICMP,
            "no_service": not services.by_key or (not reply and found is None),
            "not_opening": not reply and not opening,
            "no_connection": reply,
            "ftp_data": not reply and (means.source_port == FTP_DATA or hook == LOCAL_OUT or (
                found is not None and found.key.port == 21 and means.destination_port != 21)),
            "local": not reply and (self.reference.local_addresses != set() or any(
                server.mode == LOCAL for service in services.by_key.values() for server in service.servers)),
            "reply": reply,
            "bypass": sysctls["cache_bypass"] or any(
                connection is not None and connection.server is None
                for connection in self.reference.connections.numbered),
        }[reason]

    def _whole(self, packet: bytes) -> None:
        """Expect a packet that can be understood."""
        assert self.family.meaning(packet).protocol is not None, packet.hex()

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
        for at in range(0, len(page), RECORD.size):
            yield dict(zip(FIELDS, RECORD.unpack_from(page, at), strict=True))


def difference(seen: dict, expected: dict) -> str:
    """Return which rows of two states only one of them has."""
    lines = []
    for name, rows in seen.items():
        lines += [f"fast only: {row}" for row in rows if row not in expected[name]]
        lines += [f"reference only: {row}" for row in expected[name] if row not in rows]
    return "\n".join(lines)
