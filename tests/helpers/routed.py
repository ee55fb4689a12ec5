"""The networks of DR and TUN under test: servers of every kind, a director, and the VIP that is not its own."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lbq.lab.namespace import Process
from lbq.lab.routed import DIRECTOR, RoutedLab
from lbq.lab.topology import Lab
from tests.helpers.topology import FULL, route, start_endpoints, start_nginx

HOLD, DISCARD, BULK, ECHO = 7, 9, 8080, 5300       # what answers there; nothing on DISCARD
MIB = 1 << 20
SIZES = {"fast": (1024 if FULL else 64) * MIB, "reference": (64 if FULL else 4) * MIB}
LONG = {"fast": (4000, 60_000), "reference": (3900,)}       # NetfilterQueue reads 4 KB of a packet


def with_servers(lab: Lab, ipv6: bool = False) -> Lab:
    """Run servers of every kind on the machines of *lab*, and return it."""
    start_nginx(lab, ipv6=ipv6)
    for kind, port in (("hold", HOLD), ("bulk", BULK), ("echo", ECHO)):
        start_endpoints(lab, kind, port, ipv6)
    return lab


def start(lab: RoutedLab, engine: str, port: int = 80, *options: str, servers=None, settings: str = "") -> Process:
    """Run a director with *servers*, all of them when none are said, each with *settings*, behind VIP:port."""
    reals = [word for server in lab.servers if servers is None or server in servers
             for word in ("--real", server.address + settings)]
    return lab.start_director("--vip", f"{lab.vip}:{port}", "--mode", lab.mode, "--scheduler", "rr",
                              "--engine", engine, *reals, *options)


@contextmanager
def vip_routed(lab: RoutedLab) -> Iterator[None]:
    """Take the VIP off the director; the router sends its packets there."""
    lab.director.run(["ip", "address", "del", f"{lab.vip}/32", "dev", "eth0"])
    try:
        with route(lab.router, f"{lab.vip}/32", "via", DIRECTOR):
            yield
    finally:
        lab.director.run(["ip", "address", "add", f"{lab.vip}/32", "dev", "eth0"])
