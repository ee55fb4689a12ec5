"""The benchmark's network: one client, one server, and between them as many directors as columns.

    client ── 10.K.1.2 ─────── 10.K.1.1  director K  10.K.2.254 ─────── 10.K.2.1 and .2 ── server

The directors are alike but for what forwards in them.  They are all up at the same time, and each one that
is not being measured only waits; so a measurement can follow another column's within milliseconds, and
what disturbs the machine for a second disturbs neighbours alike.  The server has two addresses in each
network, so that a balancer has something to balance, and the director as its gateway to the clients.

Where a column forwards by DR or TUN, the servers have the VIP, too, by ``lbq realserver``, and their replies go around
the director over a link of their own, as is the point of these methods:

    server 10.K.3.1 ─────── 10.K.3.2 client
"""
from __future__ import annotations

import os
import shutil
from pathlib import Path

from lbq.errors import HostError
from lbq.lab.namespace import NETNS_FOLDER, Namespace, stop_pids, uninterrupted
from lbq.lab.topology import lbq_command, require_root, this_lbq

PREFIX = "lbqb-"
EVERY_PORT = "1024 65535"       # thousands of connections a second leave their ports waiting for a minute


class Director:
    """One column's director: its namespace, and the addresses on both sides of it."""

    def __init__(self, number: int, namespace: Namespace, server: Namespace):
        self.namespace = namespace
        self.server = server
        self.client = f"10.{number}.1.2"
        self.vip = f"10.{number}.1.1"
        self.real_servers = [f"10.{number}.2.1", f"10.{number}.2.2"]
        self.gateway = f"10.{number}.2.254"
        self.client_network = f"10.{number}.1.0/24"
        self.server_network = f"10.{number}.2.0/24"
        self.around = (f"10.{number}.3.1", f"10.{number}.3.2")      # server and client, when replies go around it
        self.spoofed_network = f"10.{number}.64.0/18"       # of nobody; what is sent there the client throws away
        self.number = number


class Network:
    """All namespaces, up inside a ``with`` block and gone after it; *methods* says how each column forwards."""

    def __init__(self, methods: dict[str, str]):
        self.methods = methods
        owner = os.getpid()
        self.folder = Path(f"/run/{PREFIX}{owner}")
        self.client = self._namespace("client")
        self.server = self._namespace("server")
        self.directors = {name: Director(number, self._namespace(name), self.server)
                          for number, name in enumerate(methods, start=1)}

    def _namespace(self, name: str) -> Namespace:
        return Namespace(f"{self.folder.name}-{name}", "", self.folder)

    def __enter__(self) -> Network:
        require_root()
        try:
            with uninterrupted():       # a namespace half made is one that nobody removes
                sweep()
                self._build()
        except OSError as error:
            self.down()
            raise HostError(f"cannot make network namespaces: {error.strerror or error}; run it as root, with all "
                            "capabilities") from error
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *error) -> None:
        self.down()

    def _build(self) -> None:
        self.folder.mkdir()
        for host in (self.client, self.server):
            host.create()
            host.sysctl("net.ipv4.ip_local_port_range", EVERY_PORT)
            for device in ("all", "default"):       # of DR and TUN, packets do not come from where replies go
                host.sysctl(f"net.ipv4.conf.{device}.rp_filter", 0)
        for name, director in self.directors.items():
            director.namespace.create()
            director.namespace.sysctl("net.ipv4.ip_forward", 1)
            director.namespace.sysctl("net.ipv4.ip_local_port_range", EVERY_PORT)
            _connect(director, "clients", [director.vip], self.client, [director.client])
            _connect(director, "servers", [director.gateway], self.server, director.real_servers)
            _add_route(self.client, director.server_network, director.vip)
            _add_route(self.server, director.spoofed_network, director.gateway)
            _add_route(director.namespace, director.spoofed_network, director.client)
            if self.methods[name] == "nat":
                _add_route(self.server, director.client_network, director.gateway)
            else:
                self._lead_around(director)
        for method in ("dr", "tun"):
            self._give_vips(method, [director for name, director in self.directors.items()
                                     if self.methods[name] == method])

    def _lead_around(self, director: Director) -> None:
        """Join server and client by a link of their own for the replies of *director*'s connections."""
        ours, theirs = director.around
        link = f"around{director.number}"
        with self.server.links() as links:
            links.link("add", ifname=link, kind="veth", peer={"ifname": link, "net_ns_fd": self.client.name})
            _bring_up(links, link, [ours])
        with self.client.links() as links:
            _bring_up(links, link, [theirs])
        _add_route(self.server, director.client_network, theirs)

    def _give_vips(self, method: str, directors: list[Director]) -> None:
        """Make the server a real server of *directors* that forward by *method*."""
        if directors:
            vips = [word for director in directors for word in ("--vip", director.vip)]
            self.server.run(lbq_command("realserver", method, *vips), env=this_lbq())

    def down(self) -> None:
        """End every program of the network and take the namespaces away; no signal stops that half way."""
        with uninterrupted():
            self._down()

    def _down(self) -> None:
        names = [self.client, self.server, *(director.namespace for director in self.directors.values())]
        for namespace in names:
            if namespace.exists():
                namespace.stop_processes()
        for namespace in names:
            if namespace.exists():
                _forget(namespace.name)
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep() -> None:
    """Take away what a benchmark left that was killed: namespaces named for a process that is no more."""
    for path in NETNS_FOLDER.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            stop_pids(Namespace(path.name, "", Path("/")).pids())
            _forget(path.name)
            shutil.rmtree(f"/run/{PREFIX}{owner}", ignore_errors=True)


def _forget(name: str) -> None:
    namespace = Namespace(name, "", Path("/"))
    # A director that was killed leaves its state; the kernel gives inode numbers out again.
    shutil.rmtree(f"/run/lbq/{namespace.inode}", ignore_errors=True)
    namespace.remove()


def _connect(director: Director, side: str, near: list[str], host: Namespace, far: list[str]) -> None:
    """Join the director's link named *side* to a link of *host*, with the addresses of both ends."""
    link_of_host = f"director{director.number}"
    with director.namespace.links() as links:
        links.link("add", ifname=side, kind="veth", peer={"ifname": link_of_host, "net_ns_fd": host.name})
        _bring_up(links, side, near)
    with host.links() as links:
        _bring_up(links, link_of_host, far)


def _bring_up(links, ifname: str, addresses: list[str]) -> None:
    index = links.link_lookup(ifname=ifname)[0]
    for address in addresses:
        links.addr("add", index=index, address=address, prefixlen=24)
    links.link("set", index=index, state="up")


def _add_route(host: Namespace, destination: str, gateway: str) -> None:
    with host.links() as links:
        links.route("add", dst=destination, gateway=gateway)
