"""One dual-stack segment: a director, servers of all three forwarding methods, a router between it and the clients.

    client ── router 172.16.10.254 ──┬── director 172.16.10.10, and the VIP 172.16.10.1
                                     ├── web01, web02   nat: their gateway is the director
                                     ├── web03, web04   dr: the VIP on lo, their gateway is the router
                                     └── web05, web06   tun: the same, and lbq decap

Each has an IPv6 address and route beside each of IPv4 (``tests/helpers/dual.py``).
"""
from __future__ import annotations

from lbq.lab.routed import DIRECTOR, RoutedLab
from lbq.lab.topology import lbq_command, this_lbq
from tests.helpers.dual import v6, with_ipv6
from tests.helpers.topology import start_endpoint
from tests.soak.clients import TCP_SERVICES, UDP_SERVICES, is_ipv6


class MixedLab(RoutedLab):
    """The network, up inside a ``with`` block and gone after it."""

    def __init__(self, prefix: str):
        super().__init__("dr", prefix, servers=6)
        self.by_mode = {"nat": self.servers[:2], "dr": self.servers[2:4], "tun": self.servers[4:]}

    def _build(self) -> None:
        super()._build()
        with_ipv6(self)
        self.vip6 = v6(self.vip)
        for server in self.by_mode["nat"]:
            server.run(lbq_command("realserver", "dr", "--undo"), env=this_lbq())
            server.run(["ip", "route", "replace", "default", "via", DIRECTOR])
            server.run(["ip", "-6", "route", "replace", "default", "via", v6(DIRECTOR)])
        for server in self.by_mode["tun"]:
            server.popen(lbq_command("decap", "--vip", self.vip, "--vip", self.vip6),
                         env=this_lbq()).wait_for("ready")
        for mode, servers in self.by_mode.items():
            for server in servers:
                for name, port in {**TCP_SERVICES, **UDP_SERVICES}.items():
                    if mode_of(name) == mode:
                        start_endpoint(server, "hold" if name in TCP_SERVICES else "echo", port, is_ipv6(name))


    def key(self, service: str) -> str:
        """Return how the commands name a service."""
        protocol, port = ("tcp", TCP_SERVICES[service]) if service in TCP_SERVICES else ("udp", UDP_SERVICES[service])
        return f"{protocol}:[{self.vip6}]:{port}" if is_ipv6(service) else f"{protocol}:{self.vip}:{port}"

    def reals(self, service: str) -> list[str]:
        """Return how they name its two servers."""
        port = self.key(service).rpartition(":")[2]
        by_ipv6 = service.endswith("in6") or (is_ipv6(service) and not service.endswith("in4"))
        return [f"[{v6(server.address)}]:{port}" if by_ipv6 else f"{server.address}:{port}"
                for server in self.by_mode[mode_of(service)]]


def mode_of(service: str) -> str:
    """Return how the packets of *service* are forwarded: its name says so, or it is NAT."""
    return next((mode for mode in ("dr", "tun") if service.startswith(mode)), "nat")
