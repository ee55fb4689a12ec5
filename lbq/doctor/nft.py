"""Would a chain of nf_tables drop a packet?  A reading of ``nft -j list ruleset``, like that of ``host/firewall.py``.

A rule is a list of conditions and a verdict.  What cannot be known of the packet (its client, a rate limit, a map)
counts as "does not match".  An accepted packet still meets the other chains of the hook, so only a drop decides.
"""
from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from lbq.doctor.facts import NftChain
from lbq.host.firewall import DEEPEST, Packet
from lbq.host.netlink import address_bytes
from lbq.model import AF_INET, PROTOCOL_NAMES

FAMILIES = {AF_INET: ("ip", "inet"), 10: ("ip6", "inet")}
VERDICTS = {"accept": "accept", "drop": "drop", "reject": "drop", "queue": "accept"}
ADDRESSES = {("ip", "saddr"): "source", ("ip", "daddr"): "destination", ("ip6", "saddr"): "source",
             ("ip6", "daddr"): "destination"}
PORTS = {"sport": "source_port", "dport": "destination_port"}


def dropped_by(chains: list[NftChain], hook: str, packet: Packet, before: int | None = None) -> str | None:
    """Return the rule or policy that drops *packet* in one of the *chains* at *hook*, or None when it passes.

    Only chains of a priority *before* that one are looked at, if it is said.
    """
    for chain in chains:
        if chain.hook != hook or chain.family not in FAMILIES[packet.family]:
            continue
        if before is not None and chain.priority >= before:
            continue
        verdict, why = _walk(chains, chain, packet, DEEPEST)
        if verdict == "drop":
            return why
        if verdict is None and chain.policy == "drop":
            return f"nft table {chain.family} {chain.table}, chain {chain.name}: policy drop"
    return None


def chains_of(ruleset: dict) -> Iterator[NftChain]:
    """Give the chains in what ``nft -j list ruleset`` says, without those of iptables."""
    found: dict[tuple, NftChain] = {}
    for entry in ruleset.get("nftables", []):
        if "chain" in entry:
            said = entry["chain"]
            place = said["family"], said["table"], said["name"]
            found[place] = NftChain(*place, said.get("hook", ""), int(said.get("prio", 0)),
                                    said.get("policy", "accept"))
        elif "rule" in entry:
            said = entry["rule"]
            chain = found.get((said["family"], said["table"], said["chain"]))
            if chain is not None:
                chain.rules.append(said["expr"])
    yield from found.values()


def _walk(chains: list[NftChain], chain: NftChain, packet: Packet, depth: int) -> tuple[str | None, str]:
    """Return accept, drop or None (left the chain), and the rule that decided."""
    for number, rule in enumerate(chain.rules, 1):
        words = {word: value for step in rule for word, value in step.items()}
        if not all(_holds(step, packet) for step in rule):
            continue
        for word, verdict in VERDICTS.items():
            if word in words:
                return verdict, f"nft table {chain.family} {chain.table}, chain {chain.name}, rule {number}: {word}"
        if "return" in words:
            return None, ""
        for word in ("jump", "goto"):
            if word in words and depth:
                target = next((other for other in chains if (other.family, other.table, other.name)
                               == (chain.family, chain.table, words[word]["target"])), None)
                verdict, why = (None, "") if target is None else _walk(chains, target, packet, depth - 1)
                if verdict is not None or word == "goto":
                    return verdict, why
    return None, ""


def _holds(step: dict, packet: Packet) -> bool:
    """Return True when a step of a rule is no condition, or one that is known to hold."""
    if "match" not in step:
        return not {"limit", "xt", "vmap", "lookup", "quota", "connlimit"} & set(step)
    match = step["match"]
    held = _compare(match["left"], _options(match["right"]), packet)
    return held is not None and held is (match["op"] in ("==", "in"))


def _compare(left: dict, options: list, packet: Packet) -> bool | None:
    """Return whether one of the *options* is what *left* names of the packet; None when that cannot be known."""
    if not isinstance(left, dict):
        return None
    if "ct" in left:
        if left["ct"].get("key") not in ("state", "status"):
            return None
        return not {state.lower() for state in packet.states}.isdisjoint(map(str, options))
    if "meta" in left:
        return _compare_meta(left["meta"]["key"], options, packet)
    if "payload" not in left or "field" not in left["payload"]:
        return None
    protocol, name = left["payload"].get("protocol"), left["payload"]["field"]
    if (protocol, name) in ADDRESSES:
        address = getattr(packet, ADDRESSES[protocol, name])
        return None if address is None else _inside(packet.family, address, options)
    if name in PORTS and protocol in ("th", PROTOCOL_NAMES[packet.protocol]):
        port = getattr(packet, PORTS[name])
        return None if port is None else any(_in_range(port, option) for option in options)
    if name in PORTS and protocol in PROTOCOL_NAMES.values():
        return False            # it is of another protocol
    if name in ("protocol", "nexthdr"):
        return _named(packet, options)
    return None


def _compare_meta(key: str, options: list, packet: Packet) -> bool | None:
    match key:
        case "iifname" | "iif":
            return _device(packet.in_devices, options)
        case "oifname" | "oif":
            return _device(packet.out_devices, options)
        case "l4proto":
            return _named(packet, options)
        case "nfproto" | "protocol":
            return bool({"ipv4", "ip"} & set(map(str, options))) is (packet.family == AF_INET)
        case _:
            return None


def _named(packet: Packet, options: list) -> bool:
    return bool({PROTOCOL_NAMES[packet.protocol], str(packet.protocol)} & set(map(str, options)))


def _device(devices: Iterable[str], options: list) -> bool | None:
    return any(fnmatchcase(device, str(option)) for device in devices for option in options) if devices else None


def _options(right) -> list:
    """Return what the right side of a comparison allows."""
    if isinstance(right, dict) and "set" in right:
        return list(right["set"])
    return right if isinstance(right, list) else [right]


def _inside(family: int, address: int, options: list) -> bool | None:
    own = ipaddress.ip_address(address_bytes(address, family))
    for option in options:
        if isinstance(option, str) and option.startswith("@"):
            return None
        if isinstance(option, dict) and "prefix" in option:
            network = ipaddress.ip_network((option["prefix"]["addr"], option["prefix"]["len"]), strict=False)
            if own in network:
                return True
        elif isinstance(option, dict) and "range" in option:
            first, last = map(ipaddress.ip_address, option["range"])
            if first <= own <= last:
                return True
        elif isinstance(option, str) and own == ipaddress.ip_address(option):
            return True
    return False


def _in_range(port: int, option) -> bool:
    if isinstance(option, dict) and "range" in option:
        first, last = option["range"]
        return isinstance(first, int) and first <= port <= last
    return port == option
