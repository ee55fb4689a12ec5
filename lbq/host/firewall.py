"""Would this host's firewall drop a rewritten packet?  A reading of iptables-save or ip6tables-save, for warnings.

Differs from IPVS: the kernel's balancer takes a request in INPUT, so a firewall meets it there.  lbq
rewrites it in PREROUTING; it then passes FORWARD like any routed packet, and so does the reply.  Both are
untracked, so ``--ctstate ESTABLISHED`` does not let them through.

The reading follows one packet of each direction through the FORWARD chain.  What it cannot know (the
client's address, a rate limit, another program's set) counts as "does not match": a rule for some clients
neither saves nor condemns the service.
"""
from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

from lbq.grammar import format_address
from lbq.host.rules import SETS, Saved
from lbq.model import PROTOCOL_NAMES

ACCEPT, DROP = "ACCEPT", "DROP"
FINAL = {"ACCEPT": ACCEPT, "DROP": DROP, "REJECT": DROP, "NFQUEUE": ACCEPT, "QUEUE": ACCEPT, "TPROXY": ACCEPT}
PORT_OPTIONS = {"--dport", "--dports"}
OF_NOBODY = {*PORT_OPTIONS, "-p", "-d", "-m", "--comment", "--ctstate", "--state", "--syn"}   # say nothing of a client
UNTRACKED = frozenset({"UNTRACKED"})
DEEPEST = 32        # chains within chains; iptables itself refuses loops


@dataclass(frozen=True)
class Packet:
    """What is known of a packet in FORWARD; a request knows its destination, a reply its source."""

    family: int
    protocol: int
    source: int | None
    source_port: int | None
    destination: int | None
    destination_port: int | None
    in_devices: frozenset[str]
    out_devices: frozenset[str]
    states: frozenset[str] = UNTRACKED      # those of conntrack's that it has


def request_to(family: int, server: tuple[int, int, int], client_devices: set[str], device: str | None,
               is_tracked: bool = False) -> Packet:
    """Return a request on its way to *server* (protocol, address, port) behind *device*."""
    protocol, address, port = server
    return Packet(family, protocol, None, None, address, port, frozenset(client_devices), _known(device),
                  frozenset({"NEW", "DNAT"}) if is_tracked else UNTRACKED)


def reply_from(family: int, server: tuple[int, int, int], client_devices: set[str], device: str | None,
               is_tracked: bool = False) -> Packet:
    """Return a reply of *server* on its way to a client."""
    protocol, address, port = server
    return Packet(family, protocol, address, port, None, None, _known(device), frozenset(client_devices),
                  frozenset({"ESTABLISHED", "DNAT"}) if is_tracked else UNTRACKED)


def dropped_by(saved: Saved, packet: Packet, chain: str = "FORWARD") -> str | None:
    """Return the rule or policy of *chain* that drops *packet*, or None when it passes."""
    lines = saved.get("filter", [])
    verdict, why = _walk(lines, chain, packet, DEEPEST)
    if verdict is None and any(line.startswith(f":{chain} DROP") for line in lines):
        return "policy DROP"
    return why if verdict == DROP else None


def decided_before(saved: Saved, table: str, chain: str, ours: str, packet: Packet,
                   only: str | None = None) -> str | None:
    """Return the rule of *chain* that decides about *packet* before the jump to *ours*, or None; *only* one verdict."""
    lines = saved.get(table, [])
    own = next((at for at, line in enumerate(lines) if line == f"-A {chain} -j {ours}"), None)
    if own is None:
        return None
    first = [line for at, line in enumerate(lines) if at < own or not line.startswith(f"-A {chain} ")]
    verdict, why = _walk(first, chain, packet, DEEPEST)
    return why if verdict is not None and verdict == (only or verdict) else None


def rules_to_add(command: str, family: int, server: tuple[int, int, int]) -> str:
    """Return the two shell commands that let requests to *server* and its replies pass."""
    protocol, address, port = server
    name, rip = PROTOCOL_NAMES[protocol], format_address(address, family)
    return (f"{command} -I FORWARD -p {name} -d {rip} --dport {port} -j ACCEPT; "
            f"{command} -I FORWARD -p {name} -s {rip} --sport {port} -j ACCEPT")


def input_rules_naming(saved: Saved, family: int, service: tuple[int, int, int]) -> list[str]:
    """Return the rules of INPUT for the port of *service* (protocol, VIP, port), which they no longer meet.

    Also those in chains that INPUT leads to, as firewalls have them.
    """
    protocol, vip, port = service
    packet = Packet(family, protocol, None, None, vip, port, frozenset(), frozenset())
    lines = saved.get("filter", [])
    starts = tuple(f"-A {chain} " for chain in _reached_from("INPUT", lines))
    return [line for line in lines if line.startswith(starts) and PORT_OPTIONS & set(line.split())
            and _matches(line, packet, only=PORT_OPTIONS | {"-p", "-d"})]


def accepts_everybody(line: str) -> bool:
    """Return True for a rule that accepts whatever is for its port, whoever the client is."""
    return _target(line)[1] == ACCEPT and all(option in OF_NOBODY for _, option, _ in _conditions(line))


def _reached_from(chain: str, lines: list[str]) -> set[str]:
    """Return *chain* and the chains that its rules may lead to."""
    declared = {line[1:].split()[0] for line in lines if line.startswith(":")}
    reached, ahead = {chain}, [chain]
    while ahead:
        start = f"-A {ahead.pop()} "
        further = {_target(line)[1] for line in lines if line.startswith(start)} & declared - reached
        reached |= further
        ahead += further
    return reached


def _walk(lines: list[str], chain: str, packet: Packet, depth: int) -> tuple[str | None, str]:
    """Return ACCEPT, DROP or None (left the chain), and the rule that decided."""
    for line in lines:
        if not line.startswith(f"-A {chain} ") or not _matches(line, packet):
            continue
        goes, target = _target(line)
        if target in FINAL:
            return FINAL[target], f"rule {line}"
        if target == "RETURN":
            return None, ""
        if target is not None and depth and any(other.startswith(f":{target} ") for other in lines):
            verdict, why = _walk(lines, target, packet, depth - 1)
            if verdict is not None or goes:
                return verdict, why
    return None, ""


def _target(line: str) -> tuple[bool, str | None]:
    words = shlex.split(line)
    for word, target in pairwise(words):
        if word in ("-j", "-g"):
            return word == "-g", target
    return False, None


def _matches(line: str, packet: Packet, only: set[str] | None = None) -> bool:
    """Return True when every condition of the rule (of those in *only*) is known to hold."""
    return all(_holds(option, argument, packet) is (not negated)
               for negated, option, argument in _conditions(line) if only is None or option in only)


def _conditions(line: str) -> list[tuple[bool, str, str]]:
    """Return the conditions of a rule as (negated, option, first argument)."""
    words = shlex.split(line)[2:]
    found = []
    negated = False
    position = 0
    while position < len(words) and words[position] not in ("-j", "-g"):
        word = words[position]
        if word.startswith("-"):
            following = words[position + 1] if position + 1 < len(words) else ""
            found.append((negated, word, following))
            position += word == "--comment"     # whose text may look like anything
        negated = word == "!"
        position += 1
    return found


def _holds(option: str, argument: str, packet: Packet) -> bool | None:
    """Return whether one condition of a rule holds for *packet*; None when that cannot be known."""
    match option:
        case "-m" | "--comment":
            return True
        case "-p":
            return argument in ("all", PROTOCOL_NAMES[packet.protocol], str(packet.protocol))
        case "-s":
            return _inside(packet.source, argument)
        case "-d":
            return _inside(packet.destination, argument)
        case "-i":
            return _any_named(packet.in_devices, argument)
        case "-o":
            return _any_named(packet.out_devices, argument)
        case "--sport" | "--sports":
            return _listed(packet.source_port, argument)
        case "--dport" | "--dports":
            return _listed(packet.destination_port, argument)
        case "--ctstate" | "--state":
            return not packet.states.isdisjoint(argument.split(","))
        case "--match-set":
            return True if argument == SETS[packet.family].rip else None
        case _:
            return None


def _inside(address: int | None, network: str) -> bool | None:
    text, _, mask = network.partition("/")
    wanted = ipaddress.ip_address(text)
    if not mask:
        bits = (1 << wanted.max_prefixlen) - 1
    elif mask.isdigit():
        bits = int(ipaddress.ip_network(f"{text}/{mask}", strict=False).netmask)
    else:
        bits = int(ipaddress.ip_address(mask))      # iptables takes one with holes, too
    if bits == 0:
        return True
    return None if address is None else int(wanted) & bits == address & bits


def _any_named(devices: frozenset[str], pattern: str) -> bool | None:
    if not devices:
        return None
    wildcard = pattern[:-1] + "*" if pattern.endswith("+") else pattern
    return any(fnmatchcase(device, wildcard) for device in devices)


def _listed(port: int | None, ports: str) -> bool | None:
    if port is None:
        return None
    for item in ports.split(","):
        first, _, last = item.partition(":")
        if int(first) <= port <= int(last or first):
            return True
    return False


def _known(device: str | None) -> frozenset[str]:
    return frozenset() if device is None else frozenset([device])
