"""Machines for the tests of ``lbq.host``: one host alone or a line of three, and a picture of their state.

Two pictures are equal when nothing that matters differs: rules of both iptables variants, the nf_tables
ruleset, sets, addresses, and all of /proc/sys/net/ipv4.
"""
from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lbq.host.setup import HostSetup
from lbq.lab.namespace import Namespace
from lbq.model import NAT, TCP, ServiceKey

VIP, RIP = "192.168.10.1", "192.168.20.1"
SERVICE = ServiceKey(TCP, int(ipaddress.IPv4Address(VIP)), 80)
SERVER = (SERVICE, int(ipaddress.IPv4Address(RIP)), 80, NAT)
VARIANTS = ("nft", "legacy")


def number(address: str) -> int:
    """Return *address* as lbq counts it."""
    return int(ipaddress.IPv4Address(address))


@contextmanager
def machines(folder: Path, *names: str) -> Iterator[list[Namespace]]:
    """Make a namespace for each of *names* and take them down at the end."""
    with ExitStack() as stack:
        hosts = []
        for name in names:
            host = Namespace(f"lbqh-{os.getpid()}-{name}", "", folder)
            host.create()
            stack.callback(host.remove)
            hosts.append(host)
        yield hosts
        for host in hosts:
            for process in host.processes:
                process.stop()


@contextmanager
def lone_host(folder: Path) -> Iterator[Namespace]:
    """Make a director with clients on eth0 (192.168.10.0/24) and servers on eth1 (192.168.20.0/24)."""
    with machines(folder, "d") as (host,):
        for device, address in (("eth0", "192.168.10.254/24"), ("eth1", "192.168.20.254/24")):
            host.run(["ip", "link", "add", device, "type", "veth", "peer", "name", device + "p"])
            host.run(["ip", "address", "add", address, "dev", device])
            host.run(["ip", "link", "set", device, "up"])
            host.run(["ip", "link", "set", device + "p", "up"])
        yield host


@contextmanager
def line_of_three(folder: Path) -> Iterator[list[Namespace]]:
    """Make client (192.168.10.2), director (VIP on eth0) and server (RIP); the director is their gateway."""
    with machines(folder, "c", "d", "s") as hosts:
        client, director, server = hosts
        for device, other, address, inner in (("eth0", client, "192.168.10.2", f"{VIP}/24"),
                                              ("eth1", server, RIP, "192.168.20.254/24")):
            director.run(["ip", "link", "add", device, "type", "veth",
                          "peer", "name", "eth0", "netns", other.name])
            director.run(["ip", "address", "add", inner, "dev", device])
            director.run(["ip", "link", "set", device, "up"])
            other.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
            other.run(["ip", "link", "set", "eth0", "up"])
            other.run(["ip", "route", "add", "default", "via", inner.partition("/")[0]])
        yield hosts


def setup_for(host: Namespace, variant: str, **options) -> HostSetup:
    """Return a HostSetup that keeps its record in the folder of *host*."""
    return HostSetup(host.folder / "state", 0, restore=f"iptables-{variant}-restore", **options)


def install(host: Namespace, variant: str, **options) -> HostSetup:
    """Prepare *host* for one service with one server, as a director does at start."""
    setup = setup_for(host, variant, **options)
    host.call(setup.install, [SERVICE], [SERVER])
    return setup


def rules(host: Namespace, variant: str) -> list[str]:
    """Return all rules and chains of *host*, without counters and comments."""
    text = host.run([f"iptables-{variant}-save"]).stdout
    return [re.sub(r"\[\d+:\d+\]", "[0:0]", line) for line in text.splitlines() if not line.startswith("#")]


def counters(host: Namespace, variant: str, chain: str) -> list[tuple[int, int]]:
    """Return (packets, bytes) of each rule in *chain*."""
    text = host.run([f"iptables-{variant}-save", "-c"]).stdout
    return [(int(packets), int(size)) for packets, size in re.findall(rf"\[(\d+):(\d+)\] -A {chain} ", text)]


def picture(host: Namespace) -> dict[str, object]:
    """Return all that lbq must leave as it was.

    An empty table of iptables-legacy counts as none: once used, the kernel keeps it with the namespace.
    """
    legacy = "".join(line + "\n" for line in rules(host, "legacy"))
    untouched = re.compile(r"^\*\w+\n(:\w+ ACCEPT \[0:0\]\n)+COMMIT\n", re.MULTILINE)
    ruleset = host.run(["nft", "list", "ruleset"]).stdout
    with host.inside():
        sysctls = {str(path): path.read_text() for path in sorted(Path("/proc/sys/net/ipv4").rglob("*"))
                   if path.is_file() and path.stat().st_mode & stat.S_IRUSR}
    return {
        "nft": rules(host, "nft"),
        "legacy": untouched.sub("", legacy),
        "ruleset": re.sub(r"packets \d+ bytes \d+", "", ruleset),
        "sets": host.run(["ipset", "save"]).stdout,
        "addresses": host.run(["ip", "-o", "-4", "address"]).stdout,
        "sysctls": sysctls,
    }
