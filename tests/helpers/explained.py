"""An engine whose every decision is explained first, and the explanation held against what it then does.

With the scenarios of ``tests/kernel/player.py`` this makes the property: what `lbq explain` says is what the packet
path does.
"""
from __future__ import annotations

import json
import struct
from collections import Counter

from lbq import conntrack
from lbq.control.questions import Questions
from lbq.director import Director
from lbq.explain.decision import hook_of
from lbq.explain.look import look
from lbq.explain.twin import of_picture, quote_in
from lbq.model import AF_INET, AF_INET6, OPS_REPLIES, UDP
from lbq.options import ServiceWords
from lbq.parsing import Parsed, addresses, parse
from lbq.services import join_pages
from tests.kernel import wire

SEEN: Counter = Counter()
FRAGMENT = 44
GUE_PORT = struct.pack("!H", wire.GUE_PORT)
LIKE = {0: (0, 3), 4: (4, 1)}           # PREROUTING and POSTROUTING, OUTPUT and INPUT: nobody says whose host is meant
MAY_PASS_OVER = ("lblc", "lblcr")       # a server that is less loaded than the chosen one
UNEXPLAINED = "what explain does not know: "


class Explained:
    """One engine, asked ``look`` before each packet."""

    def __init__(self, *args, engine=Director, **options):
        self.engine = engine(*args, **options)
        self.local: dict[int, list[int]] = {AF_INET: [], AF_INET6: []}
        self.routes: dict[int, dict] = {AF_INET: {}, AF_INET6: {}}
        self.largest_mtu = 1500

    def __getattr__(self, name: str):
        return getattr(self.engine, name)

    def set_local_addresses(self, addresses) -> None:
        """Remember what the host would be asked."""
        self.local[AF_INET] = list(addresses)
        self.engine.set_local_addresses(addresses)

    def set_local_addresses6(self, addresses) -> None:
        """Likewise."""
        self.local[AF_INET6] = list(addresses)
        self.engine.set_local_addresses6(addresses)

    def set_routes(self, routes) -> None:
        """Likewise."""
        self.routes[AF_INET] |= {route[0]: route for route in routes}
        self.engine.set_routes(routes)

    def set_routes6(self, routes) -> None:
        """Likewise."""
        self.routes[AF_INET6] |= {route[0]: route for route in routes}
        self.engine.set_routes6(routes)

    def set_largest_mtu(self, mtu: int) -> None:
        """Likewise."""
        self.largest_mtu = mtu
        self.engine.set_largest_mtu(mtu)

    def handle(self, packet: bytearray, hook: int, form: int = 0, out_device: int = 0, now_ns: int = 0,
               truncated: bool = False, mark: int = 0):
        """Explain, decide, compare."""
        parsed = parse(packet, truncated)
        if parsed == "icmp":
            quote = quote_in(packet)
            parsed = quote and quote.turned_round()
        if not isinstance(parsed, Parsed):
            return self.engine.handle(packet, hook, form, out_device, now_ns, truncated, mark)
        parsed = parsed._replace(mark=mark)
        twin = self.twin(parsed)
        believed = hook_of(twin, parsed, addresses(packet, 0)) if twin.services.serves[parsed.family] else hook
        foreseen_packet, before = bytearray(packet), self.engine.statistics()
        foreseen = twin.handle(foreseen_packet, hook, form, out_device, now_ns, truncated, mark)
        verdict = self.engine.handle(packet, hook, form, out_device, now_ns, truncated, mark)
        after = self.engine.statistics()
        outcome = next(name for name in after if name.startswith(("passed_", "dropped_", "rewritten", "forwarded"))
                       and after[name] != before[name])
        reason = self.not_foreseeable(twin, before, after)
        SEEN[reason or "explained"] += 1
        if reason is None:
            told = " | ".join(f"{note.step}: {note.text}" for note in twin.notes)
            assert (twin.outcome, foreseen.action, foreseen.changed) == (outcome, verdict.action, verdict.changed), told
            assert foreseen_packet == packet, told
            assert foreseen.answer == verdict.answer, told
            assert [masked(each) for each in foreseen.sent] == [masked(each) for each in verdict.sent], told
            for note in twin.notes:
                for candidate in note.facts.get("candidates", ()):
                    assert candidate["chosen"] == (candidate["why"] == ""), told
                    assert "less, but" not in candidate["why"] or note.facts["scheduler"] in MAY_PASS_OVER, candidate
            if "connections" in after:
                assert self.entry(twin, parsed, now_ns) == self.entry(self.engine, parsed, now_ns), told
            if outcome in ("rewritten", "forwarded", "dropped_nat_icmp") and hook in LIKE:
                assert believed in LIKE[hook], told
            SEEN["errors"] += parsed.related
        return verdict

    def twin(self, parsed: Parsed):
        """Return what ``lbq explain`` would ask."""
        front = Questions(None, {"queue": 0})       # it knows the services and servers, the engine their state
        for key, service in self.engine.services.by_key.items():
            front.services[key] = ServiceWords(ops_replies=service.flags & OPS_REPLIES != 0)
            front.servers |= {(key, server.address, server.port, server.family): server for server in service.servers}
        server_of = front.service_of(parsed.protocol, parsed.source, parsed.source_port, parsed.family)
        picture = json.loads(json.dumps(look(self.engine, parsed.family, parsed.protocol, parsed.source,
                                             parsed.source_port, parsed.destination, parsed.destination_port,
                                             parsed.mark, server_of)))
        rows, cursor = [], picture["service"] and picture["service"]["cursor"]
        while cursor is not None and len(rows) < 2:
            page, cursor = self.engine.list_services(cursor, 8)
            join_pages(rows, page)
        twin = of_picture(picture, json.loads(json.dumps(rows[0])) if rows else None)
        twin.set_local_addresses(self.local[AF_INET])
        twin.set_local_addresses6(self.local[AF_INET6])
        twin.set_routes(list(self.routes[AF_INET].values()))
        twin.set_routes6(list(self.routes[AF_INET6].values()))
        twin.set_largest_mtu(self.largest_mtu)
        twin.limit_icmp(False)
        return twin

    def not_foreseeable(self, twin, before: dict, after: dict) -> str | None:
        """Return why this decision could not be explained beforehand, None when it should have been."""
        if after["icmp_limited"] != before["icmp_limited"]:
            return UNEXPLAINED + "how many ICMP errors the client has had"
        if after["dropped_defence"] != before["dropped_defence"]:
            return UNEXPLAINED + "which packet the defence takes next"
        return UNEXPLAINED + twin.caveats[0] if twin.caveats else None

    def entry(self, engine, parsed: Parsed, now_ns: int) -> list:
        """Return what *engine* has about the packet's connection now."""
        found = []
        for is_reply, ends in ((False, (parsed.source, parsed.source_port, parsed.destination,
                                        parsed.destination_port)),
                               (True, (parsed.destination, parsed.destination_port, parsed.source,
                                       parsed.source_port))):
            record, server = engine.record(engine.number_at(parsed.protocol, *ends, parsed.family, is_reply))
            found.append((conntrack.decode(record, now_ns), server and (server.address, server.port)) if record
                         else None)
        return found


def masked(sent) -> tuple:
    """Return what was sent, without identifications (tunnel headers, fragments) and the hash in GUE's source port."""
    packet = bytearray(sent.packet)
    header = 20
    if packet[0] >> 4 == 4 and packet[9] in (4, 41, 47, 17):
        packet[4:6] = packet[10:12] = b"\0\0"
    elif packet[0] >> 4 == 6:
        header = 40
        if packet[6] == FRAGMENT:
            packet[44:48] = bytes(4)
    if packet[6 if header == 40 else 9] == UDP and packet[header + 2:header + 4] == GUE_PORT:
        packet[header:header + 2] = packet[header + 6:header + 8] = b"\0\0"
    return sent.next_hop, bytes(packet), sent.segment, sent.family
