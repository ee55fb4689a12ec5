"""The records of traced packets: their layout, what they say in words, and the filter that chooses them."""
from __future__ import annotations

import struct
from typing import NamedTuple

from lbq import packet as pkt
from lbq.conntrack import STATE_NAMES
from lbq.errors import ConfigError
from lbq.explain.fields import fields
from lbq.explain.words import MEANING
from lbq.filters import read_state
from lbq.grammar import (
    format_address,
    format_endpoint,
    parse_address,
    parse_port,
    parse_service,
    split_endpoint,
)
from lbq.model import AF_INET, AF_INET6, MODE_NAMES, packed
from lbq.parsing import family_of
from lbq.show.ipvs import numeric

SNAP = 192                  # these as in _trace.pxd
RECORD = struct.Struct("<QIIIHHH14B2x16s16s192s192s6x")
FIELDS = ("now_ns", "mark", "length", "steer", "before_length", "after_length", "rport", "outcome", "hook", "protocol",
          "is_ipv6", "state_before", "state_after", "has_entry", "had_entry", "is_new", "mode",
          "what_after", "sent", "server_is_ipv6", "has_server", "rip", "next_hop", "before", "after")
HOOKS = {0: "PREROUTING", 1: "INPUT", 3: "OUTPUT", 4: "POSTROUTING"}
NOTHING, CHANGED, SENT, ANSWER = range(4)
WHAT_AFTER = ("", "changed", "sent", "answer")      # the same for programs
STATES = tuple(dict.fromkeys(name for names in STATE_NAMES.values() for name in names))
MOST_EVERY = 1 << 31


class Traced(NamedTuple):
    """One packet and what was decided about it."""

    now_ns: int             # of CLOCK_MONOTONIC
    hook: str
    outcome: str
    is_new: bool            # a connection began with it
    state_before: str       # "" without one; of a connection that began, the one in whose place it did
    state_after: str
    server: str             # "" when none is known
    method: str             # nat, dr, tun … of its connection
    length: int             # of the whole packet
    mark: int
    steer: int              # the number that the kernel was told, which then rewrites
    before: bytes           # its first bytes; also of what follows:
    after: bytes            # the packet changed, what left in its place, or the ICMP answer
    what_after: int
    sent: int               # packets in its place
    next_hop: str

    def facts(self) -> dict:
        """Return it for a program."""
        return {**self._asdict(), "before": self.before.hex(), "after": self.after.hex(),
                "what_after": WHAT_AFTER[self.what_after], "fields": fields(self.before),
                "meaning": MEANING[self.outcome]}

    def length_after(self) -> int:
        """Return the length of the whole packet of which ``after`` is the beginning."""
        return max(len(self.after), pkt.whole_length(self.after)) if self.after else 0

    def is_dropped(self) -> bool:
        """Return True when the packet goes nowhere."""
        return self.outcome.startswith("dropped_")

    def line(self) -> str:
        """Return it on a line."""
        its = fields(self.before)
        ends = [numeric(str(its.get(end, "?")), its[port], "") if port in its else str(its.get(end, "?"))
                for end, port in (("source", "source port"), ("destination", "destination port"))]
        words = [f"{its.get('protocol', '?')}", str(its.get("flags", "")), f"{ends[0]} → {ends[1]}", f"{self.length} B"]
        if self.state_after:
            former = f"{self.state_before}, new" if self.is_new and self.state_before else self.state_before or "new"
            same = not self.is_new and self.state_before == self.state_after
            words.append(self.state_after if same else f"{former} → {self.state_after}")
        if self.server:
            words.append(f"{self.method} {self.server}" + (f" via {self.next_hop}" if self.next_hop else ""))
        if self.steer:
            words.append(f"the kernel rewrites it, told number {self.steer}")
        if self.what_after == ANSWER:
            told = fields(self.after).get("destination")
            words.append(f"ICMP to {'its sender' if told == its.get('source') else told}")
        if self.outcome not in ("rewritten", "forwarded", "passed_reply"):
            words.append(f"{'DROP ' if self.is_dropped() else ''}{self.outcome}: it {MEANING[self.outcome]}")
        return "  ".join(word for word in words if word)


def decode(records: bytes, names: list[str]) -> list[Traced]:
    """Return the *records* of a page, the oldest first; *names* are the engine's of outcomes, by number."""
    return [_traced(dict(zip(FIELDS, values, strict=True)), names) for values in RECORD.iter_unpack(records)]


def _traced(its: dict, names: list[str]) -> Traced:
    states = STATE_NAMES.get(its["protocol"])
    outcome = names[its["outcome"]]
    before, after = its["before"][:its["before_length"]], its["after"][:its["after_length"]]
    hop = _number(its["next_hop"], family_of(after)) if its["what_after"] == SENT else None
    server, method = "", MODE_NAMES.get(its["mode"], "") if its["has_entry"] or its["has_server"] else ""
    if its["has_server"]:
        address, family = _number(its["rip"], AF_INET6 if its["server_is_ipv6"] else AF_INET)
        server = format_endpoint(address, its["rport"], family)
    return Traced(
        its["now_ns"], HOOKS.get(its["hook"], str(its["hook"])), outcome,
        bool(its["is_new"]),
        states[its["state_before"]] if states and its["had_entry"] else "",
        states[its["state_after"]] if states and its["has_entry"] else "",
        server, method, its["length"], its["mark"], its["steer"], before, after, its["what_after"], its["sent"],
        format_address(*hop) if hop else "")


def _number(octets: bytes, family: int) -> tuple[int, int]:
    """Return the address in *octets*, of which IPv4 has four, and its family."""
    return int.from_bytes(octets if family == AF_INET6 else octets[:4], "big"), family


# ---- Which packets --------------------------------------------------------------------------------------------


def wanted(*, client: str | None = None, service: str | None = None, server: str | None = None,
           state: str | None = None, only_new: bool = False, only_drops: bool = False, every: int = 1) -> dict:
    """Return which packets are wanted as the packet process takes it; raise for the first word that is wrong."""
    if not 1 <= every <= MOST_EVERY:
        raise ConfigError(f"one packet in {every} cannot be shown; say a number from 1 to {MOST_EVERY}")
    found: dict = {"only_new": only_new, "only_drops": only_drops, "every": every}
    for name, text in (("client", client), ("server", server)):
        if text is not None:
            address, port = split_endpoint(text)
            number, family = parse_address(address)
            found |= {name: packed(number, family).hex(), f"{name}_port": 0 if port is None else parse_port(port)}
    if service is not None:
        key = parse_service(service)
        found |= {"fwmark": key.fwmark, "length": 16 if key.family == AF_INET6 else 4} if key.fwmark else {
            "vip": packed(key.address, key.family).hex(), "vip_port": key.port, "protocol": key.protocol}
    if state is not None:
        found["states"] = _states(read_state(state, STATES), found.get("protocol"))
    return found


def _states(state: str, protocol: int | None) -> list[tuple[int, int]]:
    """Return (protocol, number) of a *state* for each protocol that has it, or for that of the service only."""
    found = [(number, names.index(state)) for number, names in STATE_NAMES.items()
             if state in names and protocol in (None, number)]
    if not found:
        raise ConfigError(f"no packet of this service is ever in state {state}; its states are "
                          f"{', '.join(STATE_NAMES[protocol])}")
    return found
