"""The rules and sets that bring packets to the director: are they there, complete, and met by packets."""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, RULES, Facts, Ruleset, Service
from lbq.doctor.finding import Finding, check
from lbq.grammar import format_address
from lbq.host import iptables
from lbq.host.rules import JUMPS, NOTRACK, REPLY, REQUEST, SETS
from lbq.model import PROTOCOL_NAMES

RESTART = "lbq save >FILE; lbq stop; start the director again; lbq import FILE"


def balances(facts: Facts) -> bool:
    """Return True when there is a service."""
    return bool(facts.services)


@check(DIRECTOR, RULES, concerns=balances)
def rules_present(facts: Facts) -> Iterator[Finding]:
    """the rules that bring packets to the director are in place"""
    for family in facts.families():
        command = iptables.NAMES[family]
        ruleset = _ours(facts, family)
        if ruleset is None:
            yield Finding(f"{command}: the rules of lbq are gone", "packets of the services pass this host as if no "
                          "director ran: another program has flushed the rules", RESTART)
            continue
        for table in ("raw", "mangle"):
            lines = ruleset.tables.get(table, [])
            command = ruleset.command
            for base, chain in JUMPS[table]:
                if f"-A {base} -j {chain}" not in lines:
                    yield Finding(f"{command}: the rule -t {table} -A {base} -j {chain} is gone",
                                  "it is one of those that bring packets to the director, or keep conntrack from them",
                                  f"{command} -t {table} -A {base} -j {chain}")


@check(DIRECTOR, RULES, concerns=balances)
def set_members(facts: Facts) -> Iterator[Finding]:
    """the sets that the rules look into hold every service and every real server"""
    for name, member, service in facts.wanted:
        if member not in facts.members.get(name, set()):
            entry = _entry(member, service)
            yield Finding(f"the set {name} lacks {entry}", "the rules do not see its packets, which pass the director",
                          f"ipset add {name} {entry}", service.name())


@check(DIRECTOR, RULES, concerns=balances)
def rules_hit(facts: Facts) -> Iterator[Finding]:
    """the packets of services that the raw table has seen are queued by the mangle table"""
    for family in facts.families():
        ruleset = _ours(facts, family)
        if ruleset is None:
            continue
        match = f"--match-set {SETS[family].vip} dst,dst"
        seen, queued = (sum(count for (where, rule), count in ruleset.hits.items()
                            if where == table and rule.startswith(f"-A {chain} ") and match in rule)
                        for table, chain in (("raw", NOTRACK), ("mangle", REQUEST)))
        if queued < seen // 2 or (seen and not queued):
            yield Finding(f"{ruleset.command}: {seen} packets of services came into the raw table, and {queued} to the "
                          "rule that queues them", "a rule between the two takes them; only its counter tells which",
                          f"{ruleset.command}-save -c: look in raw and mangle PREROUTING for what counts them")


def _ours(facts: Facts, family: int) -> Ruleset | None:
    """Return the ruleset in which the chains of lbq are."""
    return next((ruleset for ruleset in facts.rulesets if ruleset.family == family
                 and any(line.startswith((f":{REQUEST} ", f":{REPLY} "))
                         for line in ruleset.tables.get("mangle", []))), None)


def _entry(member: tuple | int, service: Service) -> str:
    """Return a member of a set as ipset writes it."""
    if isinstance(member, int):
        return format_address(member, service.key.family)
    protocol, address, port = member
    return f"{format_address(address, service.key.family)},{PROTOCOL_NAMES.get(protocol, protocol)}:{port}"
