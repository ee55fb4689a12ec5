"""What is known of this host, its director and its neighbours: plain values, without a word of judgement.

``gather.py`` fills a ``Facts`` in, the checks read it.  A *topic* that could not be looked at is in ``missing`` with
the reason; a check says which topics it needs.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lbq.grammar import format_address, format_endpoint, format_service
from lbq.host.firewall import Packet
from lbq.host.iptables import Iptables
from lbq.host.rules import Saved
from lbq.model import AF_INET, AF_INET6, IPIP, NOCSUM, OPS, SERVICE_FLAGS, ServiceKey

# The topics.
DIRECTOR, RULES, LINKS, PROBES, QUEUES = "director", "rules", "links", "probes", "queues"
NO_DIRECTOR = "no director runs in this network namespace"
PASSIVE = "nothing is sent (--passive)"
LATELY_SECONDS = 600        # a loss that is longer ago may have been cured
OPEN, REFUSED, SILENT = "open", "refused", "silent"         # how a real server took an attempt to connect


@dataclass
class Server:
    """A real server of one service: what the director tells of it, and how it took to being looked at.

    None is what was not tried.
    """

    service: ServiceKey
    address: int
    port: int
    family: int = AF_INET
    mode: str = "nat"
    weight: int = 1
    tunnel: tuple[int, int, int] = (IPIP, 0, NOCSUM)    # kind, port, checksum
    overhead: int = 0                   # bytes that it takes
    packets_in: int = 0                 # at the end of the look
    packets_out: int = 0
    grown_in: int = 0                   # during the look
    grown_out: int = 0
    waiting: list[int] = field(default_factory=list)    # clients whose SYN was not answered during the look
    trying: list[int] = field(default_factory=list)     # … and who have sent another one during it
    device: str | None = None           # the way there: device, gateway, own address, MTU, MAC of the next hop
    gateway: str | None = None
    source: int = 0
    mtu: int = 0
    mac: str = ""
    echo: int | None = None             # the longest packet that came back of those sent, 0: none did
    vip_echo: bool | None = None        # whether it takes what is for the VIP (DR, TUN), answers the VIP (NAT)
    connect: str | None = None          # how it took a connection from this host's address on the way to it
    connect_from_vip: str | None = None

    def name(self) -> str:
        """Return its address and port in words."""
        return format_endpoint(self.address, self.port, self.family)

    def host(self) -> str:
        """Return its address in words."""
        return format_address(self.address, self.family)

    def is_on_link(self) -> bool:
        """Return True when no router is between it and this host."""
        return self.device is not None and self.gateway is None


@dataclass
class Service:
    """A virtual service."""

    key: ServiceKey
    servers: list[Server] = field(default_factory=list)
    data_path: str = "rewrite"
    flags: tuple[str, ...] = ()

    def name(self) -> str:
        """Return how people write it."""
        return format_service(self.key)

    def is_one_packet(self) -> bool:
        """Return True when every datagram is scheduled by itself."""
        return any(SERVICE_FLAGS[flag] == OPS for flag in self.flags)


@dataclass
class Vip:
    """A virtual address: where it is, and who says that it is theirs."""

    address: int
    family: int = AF_INET
    device: str | None = None                           # that has it
    is_local: bool = False
    links: list[str] = field(default_factory=list)      # devices on whose link it lies
    unanswered: str | None = None                       # the link where this host does not answer for it
    gateway: str | None = None                          # by which packets to it would leave again
    answers: dict[str, str] = field(default_factory=dict)       # MACs that are not ours, with the device
    announcers: dict[str, str] = field(default_factory=dict)    # … that asked for others in its name
    passing: dict[str, str] = field(default_factory=dict)       # … whose packets from it come by here

    def name(self) -> str:
        """Return it in words."""
        return format_address(self.address, self.family)


@dataclass
class Device:
    """A network device."""

    name: str
    mtu: int = 1500
    mac: str = ""
    is_up: bool = True
    is_ethernet: bool = True
    features: frozenset[str] = frozenset()      # those of ethtool that are on


@dataclass
class Ruleset:
    """What one iptables has: its command, the rules by table, and how many packets each of them has met.

    *read_by* reads those again that lbq's are among.  *grown* is what these have met during the look, nothing when one
    has begun to count anew.
    """

    family: int
    command: str
    tables: Saved = field(default_factory=dict)
    hits: dict[tuple[str, str], int] = field(default_factory=dict)      # by table and rule
    read_by: Iptables | None = None
    grown: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class NftChain:
    """A chain of nf_tables that is not one of iptables', with its rules as ``nft -j`` tells them."""

    family: str
    table: str
    name: str
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    rules: list[list] = field(default_factory=list)


@dataclass
class Facts:
    """All that the checks know."""

    missing: dict[str, str] = field(default_factory=dict)
    status: dict = field(default_factory=dict)          # of the director
    services: list[Service] = field(default_factory=list)
    refuses_strangers: bool = False                     # what real servers say outside of connections (nat_icmp_send)
    counters: dict[str, int] = field(default_factory=dict)      # the engine's and the queues', at the end
    grown: dict[str, int] = field(default_factory=dict)         # … during the look
    last_lost: dict[str, float] = field(default_factory=dict)   # how many seconds ago, at the end
    queues: list[int] = field(default_factory=list)             # that the director should hold
    bound: dict[int, int] = field(default_factory=dict)         # NFQUEUE number -> netlink port that holds it
    release: str = ""                                   # of the kernel
    unsupported: dict[int, str] = field(default_factory=dict)   # by family: what the kernel or host lacks
    backends: dict[int, str] = field(default_factory=dict)      # by family: the iptables that is used
    sysctls: dict[str, str] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    vips: list[Vip] = field(default_factory=list)
    client_devices: dict[int, set[str]] = field(default_factory=dict)   # by family: where clients come in
    # Of each client that waits, with its family: the device by which it would be answered.
    towards: dict[tuple[int, int], str | None] = field(default_factory=dict)
    reverse_path_drops: int = 0
    rulesets: list[Ruleset] = field(default_factory=list)
    members: dict[str, set] = field(default_factory=dict)       # of our sets; a set that is not there is no key
    wanted: list[tuple] = field(default_factory=list)           # (set, member, service) that should be in them
    nft: list[NftChain] = field(default_factory=list)
    seconds: float = 0.0                                # how long the look took
    left_out: list[str] = field(default_factory=list)   # what there was too much of

    def servers(self, *modes: str) -> Iterator[Server]:
        """Give the real servers of all services, or those of some *modes*."""
        for service in self.services:
            for server in service.servers:
                if not modes or server.mode in modes:
                    yield server

    def families(self) -> list[int]:
        """Return the families that have a service."""
        return [family for family in (AF_INET, AF_INET6) if any(one.key.family == family for one in self.services)]

    def own_macs(self) -> set[str]:
        """Return the MACs of this host's devices."""
        return {device.mac for device in self.devices.values()}

    def owner(self, mac: str) -> Server | None:
        """Return the real server on a link of ours that has this MAC."""
        return next((server for server in self.servers() if server.is_on_link() and server.mac == mac), None)

    def shared_devices(self, family: int) -> set[str]:
        """Return the devices behind which there are both clients and NAT servers."""
        towards = {server.device for server in self.servers("nat") if server.family == family and server.device}
        return towards & self.client_devices.get(family, set())

    def lost(self, reason: str) -> int:
        """Return how many packets the director and its queues have lost for a *reason*, 0 when that is long ago."""
        return self.counters.get(reason, 0) if self.last_lost.get(reason, 0) <= LATELY_SECONDS else 0

    def data_path(self, key: ServiceKey) -> str:
        """Return who rewrites the packets of the service *key*."""
        return next((service.data_path for service in self.services if service.key == key), "rewrite")

    def value(self, key: str) -> str | None:
        """Return a sysctl, by its path below /proc/sys."""
        return self.sysctls.get(key)

    def request(self, service: Service) -> Packet:
        """Return what is known of a client's packet to *service* before it is rewritten."""
        key = service.key
        return Packet(key.family, key.protocol, None, None, key.address, key.port,
                      frozenset(self.client_devices.get(key.family, ())), frozenset())
