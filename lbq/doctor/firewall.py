"""Other programs' rules: those that a packet meets before lbq's, and those that drop it after lbq has rewritten it.

firewalld, ufw, docker and kube-proxy put their rules into the same hooks.  What lbq rewrites passes FORWARD, untracked:
a rule for ESTABLISHED does not let it through.

    raw PREROUTING ─► LBQ-NOTRACK   a rule that accepts before it leaves the packet to conntrack
    mangle PREROUTING ─► LBQ-REQUEST   one that accepts or drops before it keeps the packet from the director
    filter FORWARD    the rewritten packet, and the answer
"""
from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from lbq.doctor import nft
from lbq.doctor.facts import DIRECTOR, LINKS, RULES, Facts, Server, Service
from lbq.doctor.finding import Finding, check
from lbq.doctor.host import has_nat
from lbq.doctor.rules import balances
from lbq.grammar import format_service
from lbq.host import firewall
from lbq.host.rules import NOTRACK, REQUEST
from lbq.model import PROTOCOL_NAMES

MANGLE_PRIORITY = -150
MOST_SERVERS = 1000     # whose packets are followed through FORWARD: one may take a millisecond
SIGNS = (("KUBE-", "kube-proxy"), ("DOCKER", "docker"), ("ufw-", "ufw"), ("ufw6-", "ufw"), ("firewalld", "firewalld"),
         ("_ZONES", "firewalld"), ("LIBVIRT_", "libvirt"), ("CNI-", "a container network (CNI)"))


@check(DIRECTOR, RULES, LINKS, concerns=balances)
def before_lbq(facts: Facts) -> Iterator[Finding]:
    """no rule decides about a service's packets before the director sees them"""
    for service in _addressed(facts):
        packet = facts.request(service)
        for ruleset in facts.rulesets:
            if ruleset.family != service.key.family:
                continue
            table = "mangle"
            why = firewall.decided_before(ruleset.tables, table, "PREROUTING", REQUEST, packet)
            if why is None:
                why = firewall.decided_before(ruleset.tables, "raw", "PREROUTING", NOTRACK, packet, firewall.DROP)
                table = "raw"
            if why is not None:
                command = f"{ruleset.command} -t {table}"
                yield Finding(f"{command} {why}{owner(why)} decides about packets to {service.name()} before "
                              f"lbq's rules", "the director does not see them",
                              _removal(command, why, service), service.name())
        why = nft.dropped_by(facts.nft, "prerouting", packet, before=MANGLE_PRIORITY)
        if why is not None:
            yield Finding(f"{why}{owner(why)} drops packets to {service.name()} before lbq's rules",
                          "the director does not see them",
                          "nft -a list ruleset; delete the rule, or accept the service's packets before it",
                          service.name())


@check(DIRECTOR, RULES, LINKS, concerns=balances)
def conntrack(facts: Facts) -> Iterator[Finding]:
    """conntrack is kept from packets that lbq rewrites"""
    for service in _addressed(facts):
        if service.data_path == "offload":
            continue
        for ruleset in facts.rulesets:
            if ruleset.family != service.key.family:
                continue
            why = firewall.decided_before(ruleset.tables, "raw", "PREROUTING", NOTRACK, facts.request(service),
                                          firewall.ACCEPT)
            if why is None:
                continue
            invalid = next(_drop_invalid(facts), None)
            worse = f", and this rule drops what is INVALID: {invalid}" if invalid else ""
            yield Finding(f"{ruleset.command} -t raw {why}{owner(why)} leaves packets to {service.name()} to "
                          f"conntrack{worse}", "conntrack sees half of each rewritten connection and calls it INVALID",
                          _removal(f"{ruleset.command} -t raw", why, service), service.name())


@check(DIRECTOR, RULES, LINKS, concerns=has_nat)
def forward(facts: Facts) -> Iterator[Finding]:
    """the firewall lets packets to real servers and their answers pass FORWARD"""
    for server in islice(facts.servers("nat"), MOST_SERVERS):
        yield from dropped_in_forward(facts, server)


def dropped_in_forward(facts: Facts, server: Server) -> Iterator[Finding]:
    """Give what drops packets between clients and a NAT *server* after lbq has rewritten them."""
    if server.device in (None, "lo") or server.service.fwmark or server.port == 0 or server.grown_out:
        return                  # some answers pass: a rule that nobody can judge by reading may let them
    place = server.service.protocol, server.address, server.port
    clients = facts.client_devices.get(server.family, set())
    is_tracked = facts.data_path(server.service) == "offload"
    packets = (firewall.request_to(server.family, place, clients, server.device, is_tracked),
               firewall.reply_from(server.family, place, clients, server.device, is_tracked))
    for ruleset in facts.rulesets:
        why = None
        if ruleset.family == server.family:
            why = next(filter(None, (firewall.dropped_by(ruleset.tables, packet) for packet in packets)), None)
        if why is not None:
            author = owner(why) or owner(" ".join(ruleset.tables.get("filter", [])))
            yield Finding(f"{ruleset.command} FORWARD drops packets between clients and {server.name()} "
                          f"({why}{author})", "the director rewrites them, and then the firewall drops them",
                          "start the director with --accept-forward; or: "
                          + firewall.rules_to_add(ruleset.command, server.family, place),
                          format_service(server.service))
    why = next(filter(None, (nft.dropped_by(facts.nft, "forward", packet) for packet in packets)), None)
    if why is not None:
        yield Finding(f"{why}{owner(why)}: drops packets between clients and {server.name()}",
                      "the director rewrites them, and then the firewall drops them",
                      _nft_cure(why, server), format_service(server.service))


@check(DIRECTOR, RULES, concerns=balances)
def input_rules(facts: Facts) -> Iterator[Finding]:
    """no rule in INPUT decides who may use a service, whose packets pass FORWARD"""
    for service in _addressed(facts):
        key = service.key
        for ruleset in facts.rulesets:
            if ruleset.family != key.family or not any(server.mode == "nat" for server in service.servers):
                continue
            for rule in firewall.input_rules_naming(ruleset.tables, key.family, (key.protocol, key.address, key.port)):
                if firewall.accepts_everybody(rule):
                    continue        # it is of no use, and what it wants happens all the same
                yield Finding(f"{ruleset.command} rule {rule} does not see packets to {service.name()}",
                              "they are rewritten before INPUT and pass FORWARD: what the rule allows or forbids does "
                              "not happen", "say it in FORWARD, of the real servers' address and port", service.name())


def _drop_invalid(facts: Facts) -> Iterator[str]:
    """Give the rules that drop what conntrack calls INVALID, but for lbq's own, which is for flows it carries."""
    for ruleset in facts.rulesets:
        for line in (line for lines in ruleset.tables.values() for line in lines):
            if "INVALID" in line and not line.startswith("-A LBQ-") and ("-j DROP" in line or "-j REJECT" in line):
                yield line


def owner(text: str) -> str:
    """Return whose rule it is, by the name of its chain, "" when nobody's is known."""
    found = next((name for sign, name in SIGNS if sign in text), None)
    return "" if found is None else f" (of {found})"


def _addressed(facts: Facts) -> Iterator[Service]:
    return (service for service in facts.services if service.key.address)


def _removal(command: str, why: str, service: Service) -> str:
    """Return how to take a rule away, or let the service's packets past it."""
    if not why.startswith("rule -A "):
        return f"{command} -P: let the policy be ACCEPT"
    return f"{command} -D {why.removeprefix('rule -A ')}; or have it leave out {service.name()}"


def _nft_cure(why: str, server: Server) -> str:
    if "firewalld" in why:
        return ("give firewalld a policy from the clients' zone to the servers' and one back, target ACCEPT: "
                "firewall-cmd --permanent --new-policy NAME (man firewalld.policies)")
    table, _, chain = why.removeprefix("nft table ").partition(", chain ")
    chain = chain.partition(":")[0].partition(",")[0]
    family = "ip6" if ":" in server.host() else "ip"
    name = PROTOCOL_NAMES[server.service.protocol]
    return " && ".join(f"nft insert rule {table} {chain} {family} {end} {server.host()} {name} {port} {server.port} "
                       "accept" for end, port in (("daddr", "dport"), ("saddr", "sport")))
