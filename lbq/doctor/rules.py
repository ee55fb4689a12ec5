"""The rules and sets that bring packets to the director: are they there, complete, and met by packets."""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, RULES, Facts, Ruleset, Service
from lbq.doctor.finding import Finding, check
from lbq.grammar import format_address
from lbq.host import iptables, rules
from lbq.host.rules import CHAINS, JUMPS, NOTRACK, REPLY, REQUEST, SETS
from lbq.model import PROTOCOL_NAMES
from lbq.queues import Queues

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
        command = ruleset.command
        lacking = ", ".join(_lacking(facts, family, ruleset))
        if lacking:
            yield Finding(f"{command}: rules of lbq are gone: {lacking}", "packets of the services pass this host as "
                          "if no director ran, or conntrack is not kept from them: another program has flushed the "
                          "rules", RESTART)
            continue
        for table in ("raw", "mangle"):
            lines = ruleset.tables.get(table, [])
            for base, chain in JUMPS[table]:
                if f"-A {base} -j {chain}" not in lines:
                    yield Finding(f"{command}: the rule -t {table} -A {base} -j {chain} is gone",
                                  "it is one of those that bring packets to the director, or keep conntrack from them",
                                  f"{command} -t {table} -A {base} -j {chain}")


def _lacking(facts: Facts, family: int, ruleset: Ruleset) -> Iterator[str]:
    """Say which of lbq's chains have fewer rules than its services need; some may have more, of services before."""
    wanted = rules.parse(rules.install_text(
        family, Queues(facts.status.get("queue", 0), facts.status.get("workers", 1)), False, ruleset.tables,
        sorted({service.key.fwmark for service in facts.services if service.key.family == family} - {0}),
        **_needs(facts, family)))
    for table, lines in wanted.items():
        for chain in CHAINS[table]:
            there, needed = (sum(line.startswith(f"-A {chain} ") for line in some)
                             for some in (ruleset.tables.get(table, []), lines))
            if there < needed:
                yield f"-t {table} {chain} has {there} of {needed}"


def _needs(facts: Facts, family: int) -> dict[str, bool]:
    """Return for which pairs of sets there must be rules: those that have a member."""
    used = {name for name, _, service in facts.wanted if service.key.family == family}
    sets = SETS[family]
    steered, offloaded, every_port, whole = (not used.isdisjoint(pair) for pair in (
        (sets.steer_vip, sets.steer_rip), (sets.offload_vip, sets.offload_rip), (sets.any_vip, sets.any_rip),
        (sets.vip, sets.rip)))
    return {"whole": whole or not (steered or offloaded), "every_port": every_port, "steered": steered,
            "offloaded": offloaded}


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
    """the packets of services that the raw table saw during the look were queued by the mangle table"""
    for family in facts.families():
        ruleset = _ours(facts, family)
        if ruleset is None or any(_lacking(facts, family, ruleset)):
            continue            # that has been said
        sets = SETS[family]
        # Not those with every port: there ICMP, too, is seen by the raw table, and not queued.
        matches = [f"--match-set {name} dst," for name in (sets.vip, sets.steer_vip, sets.offload_vip)]
        seen, queued = (sum(count for (where, rule), count in ruleset.grown.items() if where == table
                            and rule.startswith(f"-A {chain} ") and any(match in rule for match in matches))
                        for table, chain in (("raw", NOTRACK), ("mangle", REQUEST)))
        if queued < seen // 2 or (seen > 1 and not queued):
            yield Finding(f"{ruleset.command}: in {facts.seconds:.1f} s {seen} packets of services came into the raw "
                          f"table, and {queued} to the rule that queues them",
                          "a rule between the two takes them; only its counter tells which",
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
