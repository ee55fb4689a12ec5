"""A director with services of TCP, UDP and IPv6 and 36 connections, and its table as `lbq whatif --save` writes it."""
from __future__ import annotations

import json

from lbq.model import DR, TUN
from tests.helpers.engines import NS, PREROUTING, add_service, connections, endpoint, family_of, key, services
from tests.helpers.packets import tcp, udp

VIP, DNS, SIX = "192.168.10.1:80", "192.168.10.1:53", "[2001:db8::1]:80"
WEB = [f"192.168.20.{number}:80" for number in (1, 2, 3)]


def filled(engine, scheduler="rr", flags=0, timeout=0, sysctls=()):
    """Return *engine* with services of TCP, UDP and IPv6, and connections in several states."""
    for name, value in sysctls:
        engine.set_sysctl(name, value)
    engine.limit_icmp(False)
    engine.add_service(key(f"tcp:{VIP}"), scheduler, flags, timeout)
    for server in WEB:
        engine.add_server(key(f"tcp:{VIP}"), *endpoint(server))
    add_service(engine, f"udp:{DNS}", "192.168.20.1:53", "192.168.20.2:53", scheduler="rr")
    engine.add_service(key(f"tcp:{SIX}"), "wlc")
    for number, mode in ((1, DR), (2, TUN)):
        where = f"[2001:db8:1::{number}]:80"
        engine.add_server(key(f"tcp:{SIX}"), *endpoint(where), mode=mode, family=family_of(where))
    for number in range(12):
        port = 40000 + number
        engine.handle(tcp(f"192.168.10.{100 + number}:{port}", VIP, "S"), PREROUTING, now_ns=NS)
        if number % 3:
            engine.handle(tcp(f"192.168.10.{100 + number}:{port}", VIP, "A"), PREROUTING, now_ns=NS)
        engine.handle(udp(f"192.168.10.{100 + number}:{port}", DNS, b"?"), PREROUTING, now_ns=NS)
        engine.handle(tcp(f"[2001:db8::9]:{port}", SIX, "S"), PREROUTING, now_ns=NS)
    return engine


def taken(engine) -> dict:
    """Return the table that would be taken, through JSON."""
    return json.loads(json.dumps({
        "lbq_table": 1, "services": services(engine), "connections": connections(engine, NS),
        "sysctls": {f"net.ipv4.vs.{name}": value for name, value in engine.sysctls().items()},
        "timeouts": dict(zip(("tcp", "tcpfin", "udp"), engine.timeouts(), strict=True)),
        "profile": engine.services.profile}))
