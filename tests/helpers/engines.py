"""Both directors under test, and what every test asks of them.

The fast director must be there unless ``LBQ_PURE=1`` says that nothing is compiled: a build that lacks
it is a failure here, never a silently halved test run.
"""
from __future__ import annotations

import os

from lbq import conntrack
from lbq.director import Director
from lbq.model import AF_INET, AF_INET6, SCTP, TCP, UDP, ServiceKey
from lbq.services import join_pages
from tests.helpers.packets import endpoint, is_ipv6

PURE = os.environ.get("LBQ_PURE") == "1"
ENGINES = {"reference": Director}
if not PURE:
    from lbq._fastpath import FastDirector
    from tests.helpers.steered import Steered

    ENGINES["fast"] = FastDirector
    ENGINES["steered"] = Steered

PREROUTING, LOCAL_IN, FORWARD, LOCAL_OUT, POSTROUTING = range(5)
LOOPBACK = 1
NS = 1_000_000_000


def key(service: str) -> ServiceKey:
    """Return the key of ``tcp:192.168.10.1:80``, ``tcp:[2001:db8::1]:80`` or ``fwmark:1/6``."""
    protocol, _, where = service.partition(":")
    if protocol == "fwmark":
        mark, _, six = where.partition("/")
        return ServiceKey(TCP, 0, 0, AF_INET6 if six else AF_INET, int(mark))
    return ServiceKey({"tcp": TCP, "udp": UDP, "sctp": SCTP}[protocol], *endpoint(where), family_of(where))


def family_of(where: str) -> int:
    """Return the family of an endpoint."""
    return AF_INET6 if is_ipv6(where) else AF_INET


def add_service(engine, service: str, *servers: str, scheduler: str = "wlc") -> None:
    """Add *service* with *servers*, each ``RIP:rport`` or ``RIP:rport,weight``."""
    engine.add_service(key(service), scheduler)
    for server in servers:
        where, _, weight = server.partition(",")
        engine.add_server(key(service), *endpoint(where), int(weight or 1), family=family_of(where))


def connections(engine, now_ns: int = 0, limit: int = 256) -> list[dict]:
    """Return all connections, page by page, in words and in an order that does not depend on the engine."""
    found, cursor = [], 0
    while cursor is not None:
        page, cursor = engine.list_connections(cursor, limit)
        found += [conntrack.decode(record, now_ns) for record in conntrack.split(page)]
    return sorted(found, key=lambda connection: tuple(map(str, connection.values())))


def services(engine, limit: int = 16) -> list[dict]:
    """Return the rows of all services, page by page."""
    found, cursor = [], 0
    while cursor is not None:
        page, cursor = engine.list_services(cursor, limit)
        join_pages(found, page)
    return found


def forget_deleted(engine, start_ns: int = 10**15) -> list:
    """Let the minutes pass that deleted servers stay in the trash; return which were forgotten."""
    return [place for minute in range(6) for place in engine.tick(start_ns + minute * 60 * NS)]


def servers(engine, service: str) -> dict[str, dict]:
    """Return the rows of one service's servers by ``RIP:rport``."""
    protocol, _, where = service.partition(":")
    for row in services(engine):
        if (row["protocol"], _endpoint(row)) == (protocol, where):
            return {_endpoint(server): server for server in row["servers"]}
    raise AssertionError(f"no service {service}")


def _endpoint(row: dict) -> str:
    return f"[{row['address']}]:{row['port']}" if row["family"] == "inet6" else f"{row['address']}:{row['port']}"
