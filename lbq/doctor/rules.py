"""The rules and sets that bring packets to the director: are they there, complete, and met by packets."""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, RULES, Facts, Ruleset, Service
from lbq.doctor.finding import Finding, check
from lbq.grammar import format_address
from lbq.host.rules import JUMPS, REPLY, REQUEST
from lbq.model import PROTOCOL_NAMES

RESTART = "lbq save >FILE; lbq stop; start the director again; lbq import FILE"


def balances(facts: Facts) -> bool:
    """Return True when there is a service."""
    return bool(facts.services)


@check(DIRECTOR, RULES, concerns=balances)
def rules_present(facts: Facts) -> Iterator[Finding]:
    """the rules that bring packets to the director are in place"""
    for family in facts.families():
        command = facts.backends.get(family, "iptables")
        ruleset = _ours(facts, family)
        if ruleset is None:
            yield Finding(f"{command}: the rules of lbq are gone", "packets of the services pass this host as if no "
                          "director ran: another program has flushed the rules", RESTART)
            continue
        for table in ("raw", "mangle"):
            lines = ruleset.tables.get(table, [])
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
    """packets that the kernel hands over come in at the director"""
    seen = facts.counters.get("packets", 0)
    for family in facts.families():
        ruleset = _ours(facts, family)
        if ruleset is None:
            continue
        hit = sum(count for (table, rule), count in ruleset.hits.items() if table == "mangle"
                  and rule.startswith(("-A LBQ-REQUEST", "-A LBQ-REPLY")) and "-j NFQUEUE" in rule)
        if hit and not seen:
            yield Finding(f"{hit} packets met the rules that queue them, and none came to the director",
                          "they are dropped on the way between kernel and director", RESTART)


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
