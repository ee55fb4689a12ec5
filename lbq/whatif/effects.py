"""What becomes of every connection: its client's next packet, decided before and after a change.

    stays      goes where it went
    moves      goes to another server, as a new connection there: a datagram, or whoever may begin anew
    cut        belongs to nothing any more: the host answers with a reset, and the client notices
    stranded   is dropped, and nobody is told: the client waits until it gives up
"""
from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from lbq.conntrack import ends_of
from lbq.director import Director
from lbq.explain.packets import build
from lbq.forwarding import PREROUTING
from lbq.grammar import format_endpoint
from lbq.model import AF_INET, AF_INET6, IP, ONE_PACKET, PERSISTENT, PROTOCOL_NAMES, SCTP, TCP, TEMPLATE
from lbq.whatif.table import NOW, SECOND

FATES = ("stays", "moves", "cut", "stranded")
HASHING = ("sh", "mh", "dh")    # schedulers that look at addresses only
LAST_PORT = 65535
STEP = 1000                     # connections between two words of progress


class Fate(NamedTuple):
    """What becomes of one connection."""

    protocol: str
    client: str
    vip: str
    server: str                 # where it goes now
    fate: str
    then: str                   # where it would go, "" for nowhere


def of_connections(engine: Director, rows: list[dict], progress: Callable[[int], None]) -> Iterator[Fate]:
    """Yield the fate of each connection in *rows* once *engine*, which has them, was changed."""
    for number, row in enumerate(rows):
        if number % STEP == 0:
            progress(number)
        if row["flags"] & (TEMPLATE | ONE_PACKET) or row["cport"] == 0:
            continue
        protocol, client, cport, vip, vport, family = ends_of(row)
        server = format_endpoint(*_endpoint(row))
        flags = {TCP: "A", SCTP: "D"}.get(protocol, "")
        packet = build(protocol, (client, cport), (vip, vport), family, flags)
        engine.handle(packet, PREROUTING, now_ns=NOW + SECOND, mark=row["fwmark"])
        then = _server_of(engine, protocol, client, cport, vip, vport, family)
        if engine.outcome == "dropped_server_gone":
            fate, then = "stranded", ""
        elif engine.outcome.startswith("dropped_no_server"):
            fate, then = "cut", ""
        elif engine.outcome in ("rewritten", "forwarded", "passed_local", "passed_bypass"):
            fate = "stays" if then == server else "moves"
        else:
            fate, then = "cut", ""
        yield Fate(PROTOCOL_NAMES[protocol], format_endpoint(client, cport, family),
                   format_endpoint(vip, vport, family), server, fate, then)


def keeps_clients(services: list[dict]) -> bool:
    """Return True when any of *services*, rows of a listing, is one that ``of_clients`` asks."""
    return any("persistent" in row["flags"] or row["scheduler"] in HASHING for row in services)


def of_clients(before: Director, after: Director, rows: list[dict]) -> Counter:
    """Return how many clients' next connections go where they went (True), and elsewhere (False).

    Asked are services where that is no matter of turns or load: persistent ones, and those that hash clients.
    """
    found, seen = Counter(), set()
    for row in rows:
        protocol, client, _, vip, vport, family = ends_of(row)
        if protocol == IP or row["flags"] & TEMPLATE or (protocol, client, vip, vport) in seen:
            continue
        service = before.services.find_service(family, protocol, vip, vport, row["fwmark"])
        if service is None or not (service.flags & PERSISTENT or service.scheduler.name in HASHING):
            continue
        seen.add((protocol, client, vip, vport))
        went = [_new_connection(engine, row) for engine in (before, after)]
        found[went[0] == went[1]] += 1
    return found


def _new_connection(engine: Director, row: dict) -> str:
    """Return where a new connection of a client goes; its port is one that it does not use, if there is one."""
    protocol, client, cport, vip, vport, family = ends_of(row)
    port = next((port for port in chain(range(cport + 1, LAST_PORT + 1), range(1, cport))
                 if engine.connections.find(family, protocol, client, port, vip, vport) is None), cport)
    packet = build(protocol, (client, port), (vip, vport), family, {TCP: "S", SCTP: "I"}.get(protocol, ""))
    engine.handle(packet, PREROUTING, now_ns=NOW + SECOND, mark=row["fwmark"])
    return _server_of(engine, protocol, client, port, vip, vport, family)


def _server_of(engine: Director, protocol: int, client: int, cport: int, vip: int, vport: int, family: int) -> str:
    found = engine.connections.find(family, protocol, client, cport, vip, vport)
    if found is None or found.server is None:
        return ""
    return format_endpoint(found.daddr, found.dport, found.server.family)


def _endpoint(row: dict) -> tuple[int, int, int]:
    address = ipaddress.ip_address(row["daddr"])
    return int(address), row["dport"], AF_INET6 if address.version == 6 else AF_INET
