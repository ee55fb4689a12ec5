"""Machines for the tests of ``lbq.host``: one host alone or a line of three, and a picture of their state.

Every machine is dual-stack; a ``Place`` has what a test says in the words of one family.

Two pictures are equal when nothing that matters differs: rules of both iptables variants and both families, the
nf_tables ruleset, sets, addresses, and all of /proc/sys/net/ipv4 and ipv6.
"""
from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from lbq.host.setup import HostSetup
from lbq.lab.namespace import Namespace
from lbq.model import AF_INET, AF_INET6, NAT, TCP, ServiceKey
from lbq.queues import Queues

VARIANTS = ("nft", "legacy")


def number(address: str) -> int:
    """Return *address* as lbq counts it."""
    return int(ipaddress.ip_address(address))


class Place(NamedTuple):
    """The addresses of one family on the machines below, and the words that name it."""

    family: int
    bits: int                   # of an address
    prefix: int                 # of a network
    vip: str
    rip: str
    client: str
    other: str                  # one more host on the clients' link
    outside: str                # the director where the clients are, when the VIP is not there
    inside: str                 # the director where the servers are
    everybody: str              # what a program listens on
    iptables: str
    sets: str                   # how the names of lbq's sets begin
    forwarding: str             # the sysctl that lets a machine forward

    @property
    def service(self) -> ServiceKey:
        """Return a service of this family."""
        return ServiceKey(TCP, number(self.vip), 80, self.family)

    @property
    def server(self) -> tuple[ServiceKey, int, int, int]:
        """Return its real server, as the host is told of one."""
        return self.service, number(self.rip), 80, NAT

    def endpoint(self, address: str, port: int) -> str:
        """Return ``192.168.10.1:80`` or ``[2001:db8::1]:80``."""
        return f"[{address}]:{port}" if self.family == AF_INET6 else f"{address}:{port}"


IPV4 = Place(AF_INET, 32, 24, "192.168.10.1", "192.168.20.1", "192.168.10.2", "192.168.10.77", "192.168.10.254",
             "192.168.20.254", "0.0.0.0", "iptables", "lbq", "net.ipv4.ip_forward")
IPV6 = Place(AF_INET6, 128, 64, "2001:db8:10::1", "2001:db8:20::1", "2001:db8:10::2", "2001:db8:10::77",
             "2001:db8:10::fe", "2001:db8:20::fe", "::", "ip6tables", "lbq6", "net.ipv6.conf.all.forwarding")
PLACES = {"ipv4": IPV4, "ipv6": IPV6}
VIP, RIP, SERVICE, SERVER = IPV4.vip, IPV4.rip, IPV4.service, IPV4.server


def enable_ipv6(host: Namespace) -> None:
    """Let a namespace speak IPv6, at once: without asking first whether another has its addresses."""
    interfaces = host.call(os.listdir, "/proc/sys/net/ipv6/conf")       # "all" does not speak for those there are
    for interface in interfaces:
        for name in ("accept_dad", "dad_transmits", "router_solicitations"):
            host.sysctl(f"net.ipv6.conf.{interface}.{name}", 0)
    for interface in interfaces:
        host.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", 0)


@contextmanager
def machines(folder: Path, *names: str) -> Iterator[list[Namespace]]:
    """Make a namespace for each of *names* and take them down at the end."""
    with ExitStack() as stack:
        hosts = []
        for name in names:
            host = Namespace(f"lbqh-{os.getpid()}-{name}", "", folder)
            host.create()
            stack.callback(host.remove)
            enable_ipv6(host)
            hosts.append(host)
        yield hosts
        for host in hosts:
            for process in host.processes:
                process.stop()


@contextmanager
def lone_host(folder: Path) -> Iterator[Namespace]:
    """Make a director with clients on eth0 (192.168.10.0/24) and servers on eth1 (192.168.20.0/24)."""
    with machines(folder, "d") as (host,):
        for device, name in (("eth0", "outside"), ("eth1", "inside")):
            host.run(["ip", "link", "add", device, "type", "veth", "peer", "name", device + "p"])
            for place in PLACES.values():
                add_address(host, getattr(place, name), place, device)
            host.run(["ip", "link", "set", device, "up"])
            host.run(["ip", "link", "set", device + "p", "up"])
        yield host


@contextmanager
def line_of_three(folder: Path) -> Iterator[list[Namespace]]:
    """Make client (192.168.10.2), director (VIP on eth0) and server (RIP); the director is their gateway."""
    with machines(folder, "c", "d", "s") as hosts:
        client, director, server = hosts
        for device, other, theirs, ours in (("eth0", client, "client", "vip"), ("eth1", server, "rip", "inside")):
            director.run(["ip", "link", "add", device, "type", "veth",
                          "peer", "name", "eth0", "netns", other.name])
            director.run(["ip", "link", "set", device, "up"])
            other.run(["ip", "link", "set", "eth0", "up"])
            for place in PLACES.values():
                add_address(director, getattr(place, ours), place, device)
                add_address(other, getattr(place, theirs), place, "eth0")
                other.run(["ip", "route", "add", "default", "via", getattr(place, ours)])
        yield hosts


def add_address(host: Namespace, address: str, place: Place, device: str) -> None:
    """Give *device* an address with its network."""
    host.run(["ip", "address", "add", f"{address}/{place.prefix}", "dev", device])


def setup_for(host: Namespace, variant: str, **options) -> HostSetup:
    """Return a HostSetup that keeps its record in the folder of *host*."""
    return HostSetup(host.folder / "state", Queues(0), restore=f"iptables-{variant}-restore", **options)


def install(host: Namespace, variant: str, place: Place = IPV4, **options) -> HostSetup:
    """Prepare *host* for one service with one server, as a director does at start."""
    setup = setup_for(host, variant, **options)
    host.call(setup.install, [place.service], [place.server])
    return setup


def rules(host: Namespace, variant: str, place: Place = IPV4) -> list[str]:
    """Return all rules and chains of *host*, without counters and comments."""
    text = host.run([f"{place.iptables}-{variant}-save"]).stdout
    return [re.sub(r"\[\d+:\d+\]", "[0:0]", line) for line in text.splitlines() if not line.startswith("#")]


def counters(host: Namespace, variant: str, chain: str, place: Place = IPV4) -> list[tuple[int, int]]:
    """Return (packets, bytes) of each rule in *chain*."""
    text = host.run([f"{place.iptables}-{variant}-save", "-c"]).stdout
    return [(int(packets), int(size)) for packets, size in re.findall(rf"\[(\d+):(\d+)\] -A {chain} ", text)]


def picture(host: Namespace) -> dict[str, object]:
    """Return all that lbq must leave as it was.

    An empty table of iptables-legacy counts as none: once used, the kernel keeps it with the namespace.
    """
    legacy = "".join(line + "\n" for place in PLACES.values() for line in rules(host, "legacy", place))
    untouched = re.compile(r"^\*\w+\n(:\w+ ACCEPT \[0:0\]\n)+COMMIT\n", re.MULTILINE)
    ruleset = host.run(["nft", "list", "ruleset"]).stdout
    return {
        "nft": [line for place in PLACES.values() for line in rules(host, "nft", place)],
        "legacy": untouched.sub("", legacy),
        "ruleset": re.sub(r"packets \d+ bytes \d+", "", ruleset),
        "sets": host.run(["ipset", "save"]).stdout,
        "addresses": host.run(["ip", "-o", "address"]).stdout,
        "sysctls": host.call(_sysctls),
    }


def _sysctls() -> dict[str, str]:
    found = {}
    for family in ("ipv4", "ipv6"):
        for path in sorted(Path(f"/proc/sys/net/{family}").rglob("*")):
            if path.is_file() and path.stat().st_mode & stat.S_IRUSR:
                with suppress(OSError):         # stable_secret cannot be read before somebody has set it
                    found[str(path)] = path.read_text()
    return found
