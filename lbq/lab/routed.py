"""The networks of DR and TUN in namespaces: a router between clients and servers, replies that bypass the director.

    dr    director and web servers on one segment 172.16.10.0/24, the VIP 172.16.10.1 among them
    tun   the director there, each web server in a routed network of its own, 10.20.N.0/24

The web servers get the VIP by ``lbq realserver``, as real ones would; with tun, ``lbq decap`` ends the tunnel where the
kernel has no ipip.
"""
from __future__ import annotations

import ipaddress
import shutil
import socket
from collections import Counter

from lbq.lab.topology import Lab, _add_route, _add_veth, _bring_up, _names, host_name, lbq_command, this_lbq
from lbq.realserver import tunnel_is_up

VIP = "172.16.10.1"
DIRECTOR = "172.16.10.10"
SEGMENT_GATEWAY = "172.16.10.254"
CLIENT_GATEWAY = "192.168.10.254"
ETH_P_ALL = 0x0003
IPIP = 4


class RoutedLab(Lab):
    """The network of DR or TUN, up inside a ``with`` block and gone after it."""

    def __init__(self, mode: str, prefix: str = "lbq-", servers: int = 2, keep: bool = False, bare: bool = False,
                 say=lambda line: None):
        super().__init__(prefix, servers=servers, keep=keep, bare=bare, say=say)
        self.mode = mode
        self.vip = VIP
        self.director.address = DIRECTOR
        self.router = self._namespace(f"{prefix}router", SEGMENT_GATEWAY)
        for number, server in enumerate(self.servers, 1):
            server.address = f"172.16.10.{10 + number}" if mode == "dr" else f"10.20.{number}.1"
        self.namespaces = [self.client, self.router, self.director, *self.servers]

    def _build(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.say(f"namespaces    {', '.join(namespace.name for namespace in self.namespaces)}")
        for namespace in self.namespaces:
            namespace.create()
        self.router.sysctl("net.ipv4.ip_forward", 1)
        self.say(f"router        clients {CLIENT_GATEWAY}, segment {SEGMENT_GATEWAY}")
        self._connect_to(self.router, "clients", CLIENT_GATEWAY, [self.client])
        together = [self.director, *(self.servers if self.mode == "dr" else [])]
        self._connect_to(self.router, "segment", SEGMENT_GATEWAY, together)
        for device in ("all", "default", "segment"):        # the way past the router is not for clients' packets
            self.router.sysctl(f"net.ipv4.conf.{device}.send_redirects", 0)
        if self.mode == "tun":
            for number, server in enumerate(self.servers, 1):
                self._connect_to(self.router, f"net{number}", f"10.20.{number}.254", [server])
        if self.bare:
            self.say(f"director      {DIRECTOR}")
            self.say(f"servers       {_names(self.servers)}")
        else:
            self._give_vip()

    def _give_vip(self) -> None:
        """Give the director and the web servers the VIP, and let these end tunnels if the mode is tun."""
        with self.director.links() as links:
            links.addr("add", index=links.link_lookup(ifname="eth0")[0], address=VIP, prefixlen=32)
        self.say(f"director      {DIRECTOR}, and the VIP {VIP}")
        self.say(f"servers       {_names(self.servers)}, each with the VIP on lo by:")
        self.say(f"                lbq realserver {self.mode} --vip {VIP}")
        for server in self.servers:
            server.run(lbq_command("realserver", self.mode, "--vip", VIP), env=this_lbq(), timeout=15, check=True)
        if self.mode == "tun" and not self.servers[0].call(tunnel_is_up):
            self.say(f"                lbq decap --vip {VIP}       (this kernel has no ipip: it ends the tunnel)")
            for server in self.servers:
                server.popen(lbq_command("decap", "--vip", VIP), env=this_lbq()).wait_for("ready")

    def _connect_to(self, middle, side: str, gateway: str, hosts: list) -> None:
        """Give *middle* a bridge named *side* with address *gateway*, and connect *hosts* to it."""
        with middle.links() as links:
            links.link("add", ifname=side, kind="bridge", br_mcast_snooping=0)
            bridge = links.link_lookup(ifname=side)[0]
            for host in hosts:
                port = _add_veth(links, f"to-{host_name(host)}", host)
                links.link("set", index=port, master=bridge, state="up")
            _bring_up(links, side, gateway)
        for host in hosts:
            with host.links() as links:
                _bring_up(links, "eth0", host.address)
            _add_route(host, "default", gateway)

    def watch(self) -> Watch:
        """Return a look at the packets that pass the director and the router from now on."""
        return Watch(self)


class Watch:
    """Counts, on the wire, the packets from the VIP to clients, and keeps the first tunnel packet."""

    def __init__(self, lab: RoutedLab):
        self.lab = lab
        self.places = {}
        for name, namespace, device in (("director", lab.director, "eth0"), ("router", lab.router, "clients")):
            with namespace.inside():
                sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
                sniffer.bind((device, ETH_P_ALL))
            sniffer.setblocking(False)
            self.places[name] = sniffer

    def count(self) -> tuple[Counter, bytes | None]:
        """Return how many were seen at each place, and the first tunnel packet of the director; watch no longer."""
        counted: Counter = Counter()
        tunnelled = None
        vip = ipaddress.IPv4Address(self.lab.vip).packed
        for name, sniffer in self.places.items():
            for packet in _packets(sniffer):
                counted[name] += packet[12:16] == vip
                if tunnelled is None and packet[9] == IPIP and name == "director":
                    tunnelled = packet
            sniffer.close()
        return counted, tunnelled

    def report(self) -> list[str]:
        """Return what was seen, one line each."""
        counted, tunnelled = self.count()
        lines = [f"seen on the director's device  {counted['director']:4}   (0: replies bypassed it)",
                 f"seen on the router             {counted['router']:4}"]
        if tunnelled is not None:
            lines.append("one packet on its way from the director: " + _outer(tunnelled))
        return lines


def _packets(sniffer: socket.socket):
    """Give the IPv4 packets that wait in *sniffer*."""
    while True:
        try:
            packet = sniffer.recv(65535)
        except BlockingIOError:
            return
        if len(packet) >= 20 and packet[0] >> 4 == 4:
            yield packet


def _outer(packet: bytes) -> str:
    """Return the outer header of a tunnel packet in words."""
    source, destination = (ipaddress.IPv4Address(packet[at:at + 4]) for at in (12, 16))
    dont_fragment = "DF" if packet[6] & 0x40 else "no DF"
    return (f"{source} → {destination}, protocol {packet[9]} (IPIP), TTL {packet[8]}, {dont_fragment}, "
            f"id {int.from_bytes(packet[4:6])}, {int.from_bytes(packet[2:4])} bytes")
