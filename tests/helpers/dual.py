"""IPv6 on top of a lab: every address and route that its machines have in IPv4, once more in IPv6.

    192.168.10.1/24  ->  2001:db8:c0a8:a00::1/64        172.16.10.1/32  ->  2001:db8:ac10:a00::1/128
"""
from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lbq.lab.namespace import Namespace, Process
from lbq.lab.topology import Lab, lbq_command, this_lbq
from tests.helpers.namespaces import enable_ipv6

LENGTHS = {24: 64, 32: 128}


def v6(address: str) -> str:
    """Return the IPv6 address that a machine of a dual-stack lab has beside *address*."""
    octets = ipaddress.IPv4Address(address).packed
    return str(ipaddress.IPv6Address(b"\x20\x01\x0d\xb8" + octets[:3] + bytes(8) + octets[3:]))


def url6(lab: Lab, port: int = 80) -> str:
    """Return the URL of the IPv6 VIP."""
    return f"http://[{v6(lab.vip)}]:{port}/"


def with_ipv6(lab: Lab) -> Lab:
    """Give the machines of *lab* their IPv6 addresses and routes, and real servers the VIP; return the lab.

    The director is a router before lbq makes it one: what a server still says to a client of the test before would be
    counted as broken where nobody forwards it.
    """
    for host in lab.namespaces:
        enable_ipv6(host)
        is_router = host is lab.director or host.sysctl("net.ipv4.ip_forward") == "1"
        host.sysctl("net.ipv6.conf.all.forwarding", int(is_router))
        with suppress(FileNotFoundError):       # a kernel without br_netfilter
            host.sysctl("net.bridge.bridge-nf-call-ip6tables", 0)
        _mirror_addresses(host)
    for host in lab.namespaces:
        _mirror_routes(host)
    mode = getattr(lab, "mode", "nat")
    for server in lab.servers if mode != "nat" else []:
        server.run(lbq_command("realserver", mode, "--vip", v6(lab.vip)), env=this_lbq())
        if mode == "tun":
            server.popen(lbq_command("decap", "--vip", v6(lab.vip)), env=this_lbq()).wait_for("ready")
    return lab


def _mirror_addresses(host: Namespace) -> None:
    for link in json.loads(host.run(["ip", "-json", "-4", "address"]).stdout):
        for entry in link["addr_info"] if link["ifname"] != "lo" else []:
            host.run(["ip", "address", "add", f"{v6(entry['local'])}/{LENGTHS[entry['prefixlen']]}",
                      "dev", link["ifname"]])


def _mirror_routes(host: Namespace) -> None:
    for entry in json.loads(host.run(["ip", "-json", "-4", "route"]).stdout):
        if "gateway" in entry:
            target = entry["dst"] if entry["dst"] == "default" else f"{v6(entry['dst'])}/128"
            host.run(["ip", "-6", "route", "add", target, "via", v6(entry["gateway"])])


def service(lab: Lab, port: int = 80) -> str:
    """Return what the director calls the IPv6 VIP with *port*."""
    return f"[{v6(lab.vip)}]:{port}"


def reals(lab: Lab, servers: list[Namespace] | None = None, port: int | None = None, settings: str = "") -> list[str]:
    """Return the options that name the IPv6 addresses of *servers*, all of them when none are said."""
    suffix = ("" if port is None else f":{port}") + settings
    return [word for server in (lab.servers if servers is None else servers)
            for word in ("--real", f"[{v6(server.address)}]{suffix}")]


def start(lab: Lab, engine: str, port: int = 80, *options: str) -> Process:
    """Run a director with all servers of *lab* behind the IPv6 VIP."""
    return lab.start_director("--vip", service(lab, port), "--mode", getattr(lab, "mode", "nat"), "--scheduler", "rr",
                              "--engine", engine, *reals(lab), *options)


@contextmanager
def path_forgotten(host: Namespace) -> Iterator[None]:
    """Let *host* forget the path MTUs that it learns in a ``with`` block."""
    try:
        yield
    finally:
        host.run(["ip", "-6", "route", "flush", "cache"])
