"""The network of the LVS article in namespaces: clients, a director, web servers behind it.

    clients 192.168.10.0/24                director                   servers 192.168.20.0/24
    {prefix}client   .100 ─────── clients: 192.168.10.1, the VIP
    {prefix}client2  .101 ───┘    servers: 192.168.20.254 ──────┬── .1  {prefix}web01
                                                                └── .2  {prefix}web02

The servers' default gateway is the director, so their replies come back through it: what NAT needs.
One machine on a side hangs on the director by a plain veth; several by a bridge.  With ``vip_local=False``
the director has 192.168.10.254 instead, and the clients have a route to the VIP through it.

    with Lab(prefix="demo-", servers=2) as lab:
        lab.director.run(["ip", "address"])
        lab.start_web_servers()
        lab.start_director("--mode", "nat", "--scheduler", "rr")
        with lab.client.inside():
            urllib.request.urlopen(f"http://{lab.vip}/")
"""
from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import lbq
from lbq.errors import HostError, PermissionMissing
from lbq.lab.namespace import Namespace, Process, uninterrupted

VIP = "192.168.10.1"
DIRECTOR_IF_VIP_IS_ROUTED = "192.168.10.254"
GATEWAY = "192.168.20.254"
RUN_FOLDER = Path("/run/lbq")       # a director's state: one folder a namespace, named by its inode


def _client_name(number: int) -> str:
    return f"client{number + 1}" if number else "client"


def _client_address(number: int) -> str:
    return f"192.168.10.{100 + number}"


def _server_address(number: int) -> str:
    return f"192.168.20.{1 + number}"


class Lab:
    """The whole network, up inside a ``with`` block and gone after it, whatever happens in between."""

    def __init__(self, prefix: str = "lbq-", clients: int = 1, servers: int = 2, vip_local: bool = True,
                 keep: bool = False, bare: bool = False, say=lambda line: None):
        self.vip = VIP
        self.vip_local = vip_local
        self.keep = keep            # programs outlive this process, and leaving the block takes nothing down
        self.bare = bare            # machines and cables only: what a balancer needs is left to who learns it
        self.say = say              # called with one line a step
        self.owned = False          # down() touches nothing that up() did not make
        self.folder = Path(f"/run/{prefix}lab")
        self.director = self._namespace(f"{prefix}director", VIP if vip_local else DIRECTOR_IF_VIP_IS_ROUTED)
        self.clients = [self._namespace(prefix + _client_name(number), _client_address(number))
                        for number in range(clients)]
        self.servers = [self._namespace(f"{prefix}web{number + 1:02}", _server_address(number))
                        for number in range(servers)]
        self.client = self.clients[0]
        self.namespaces = [*self.clients, self.director, *self.servers]

    def _namespace(self, name: str, address: str) -> Namespace:
        return Namespace(name, address, self.folder, detached=self.keep)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None or not self.keep:
            self.down()

    def up(self) -> None:
        """Build the network; refuse when something of its name is there, and leave nothing when it fails."""
        require_root()
        if taken := self.existing():
            raise HostError(f"cannot build the lab: network namespace {', '.join(map(str, taken))} exists "
                            "already; take that lab down first")
        self.owned = True
        try:
            with uninterrupted():       # a namespace half made is one that nobody removes
                self._build()
        except BaseException:
            self.down()
            raise

    def existing(self) -> list[Namespace]:
        """Return those of the lab's namespaces that exist, whoever made them."""
        return [namespace for namespace in self.namespaces if namespace.exists()]

    def adopt(self) -> None:
        """Make what bears the lab's names ours, so that down() ends a lab that another process left up."""
        require_root()
        self.owned = True

    def down(self) -> None:
        """Take down what is ours: programs, namespaces, files.  Once more does no harm."""
        if not self.owned:
            return
        with uninterrupted():
            existing = self.existing()
            for namespace in existing:
                namespace.stop_processes()
            for namespace in existing:
                # A director that was killed leaves its state; the kernel gives inode numbers out again.
                shutil.rmtree(RUN_FOLDER / str(namespace.inode), ignore_errors=True)
                namespace.remove()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.say(f"namespaces    {', '.join(namespace.name for namespace in self.namespaces)}")
        for namespace in self.namespaces:
            namespace.create()
        where = "the VIP" if self.vip_local else f"the VIP {self.vip} is routed to it"
        self.say(f"client side   {_names(self.clients)}; director {self.director.address} ({where})")
        self._connect("clients", self.director.address, self.clients)
        if not self.vip_local:
            for client in self.clients:
                _add_route(client, f"{self.vip}/32", self.director.address)
        what = "which they do not know yet" if self.bare else "their default gateway"
        self.say(f"server side   {_names(self.servers)}; director {GATEWAY} ({what})")
        self._connect("servers", GATEWAY, self.servers, is_default=not self.bare)

    def _connect(self, side: str, gateway: str, hosts: list[Namespace], is_default: bool = True) -> None:
        """Give the director a link named *side* with address *gateway*, and connect *hosts* to it."""
        with self.director.links() as links:
            if len(hosts) == 1:
                _add_veth(links, side, hosts[0])
            else:
                # The bridge is a switch and no more: iptables must not see a packet twice.
                with suppress(FileNotFoundError):       # a kernel without br_netfilter: it does not
                    self.director.sysctl("net.bridge.bridge-nf-call-iptables", 0)
                links.link("add", ifname=side, kind="bridge", br_mcast_snooping=0)    # nor say IGMP
                bridge = links.link_lookup(ifname=side)[0]
                for host in hosts:
                    port = _add_veth(links, _port_name(host), host)
                    links.link("set", index=port, master=bridge, state="up")
            _bring_up(links, side, gateway)
        for host in hosts:
            with host.links() as links:
                _bring_up(links, "eth0", host.address)
            if is_default:
                _add_route(host, "default", gateway)

    def start_director(self, *options: str, timeout: float = 15.0) -> Process:
        """Run ``lbq OPTIONS`` (``--vip VIP:80`` unless they name one, or serve) until it says that it is ready."""
        if not {"--vip", "serve"} & set(options):
            options = ("--vip", f"{self.vip}:80", *options)
        director = self.director.popen(lbq_command(*options), env=this_lbq())
        director.wait_for("ready", timeout)
        return director

    def lbq(self, *words: str, timeout: float = 15.0, check: bool = True):
        """Run ``lbq WORDS`` (list, stats, add server, …) beside the director."""
        return self.director.run(lbq_command(*words), timeout=timeout, check=check, env=this_lbq())

    def start_web_servers(self, port: int = 80) -> None:
        """Run on each server a web server that answers with the server's name."""
        web_servers = [server.popen([sys.executable, "-P", "-m", "lbq.lab.web", host_name(server), port],
                                    env=this_lbq())
                       for server in self.servers]
        for web_server in web_servers:
            web_server.wait_for("ready")


def require_root() -> None:
    """Raise unless we may make namespaces."""
    if os.geteuid() != 0:
        raise PermissionMissing("cannot make network namespaces: not root; run it with sudo")


def lbq_command(*words: str) -> list[str]:
    """Return the command line of ``lbq WORDS`` with this very Python.

    -P: in a checkout, the plain ``lbq/`` of the current folder must not hide the compiled, installed one.
    """
    return [sys.executable, "-P", "-m", "lbq", *words]


def this_lbq() -> dict[str, str]:
    """Return an environment in which Python finds the very lbq that is running now."""
    home = str(Path(lbq.__file__).resolve().parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}


def host_name(namespace: Namespace) -> str:
    """Return ``web01`` for the namespace ``lbq-web01``."""
    return namespace.name.rpartition("-")[2]


def _port_name(host: Namespace) -> str:
    return f"to-{host_name(host)}"


def _names(hosts: list[Namespace]) -> str:
    return ", ".join(f"{host_name(host)} {host.address}" for host in hosts)


def _add_veth(links, ifname: str, host: Namespace) -> int:
    """Make a veth pair from *ifname* here to eth0 in *host*; return the index of the near end."""
    links.link("add", ifname=ifname, kind="veth", peer={"ifname": "eth0", "net_ns_fd": host.name})
    return links.link_lookup(ifname=ifname)[0]


def _bring_up(links, ifname: str, address: str) -> None:
    index = links.link_lookup(ifname=ifname)[0]
    links.addr("add", index=index, address=address, prefixlen=24)
    links.link("set", index=index, state="up")


def _add_route(host: Namespace, destination: str, gateway: str) -> None:
    with host.links() as links:
        links.route("add", dst=destination, gateway=gateway)
