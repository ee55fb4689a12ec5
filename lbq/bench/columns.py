"""The columns of the benchmark: who forwards, how it is started for a service, where clients then connect.

Every column's director sits in the same place of the same network.  The *floor* is plain forwarding with
a queue at the hooks lbq uses: requests in mangle PREROUTING, replies in mangle POSTROUTING, every packet
queued once on its way, accepted and returned whole.  It has no NAT, no conntrack and no set look-ups: it is
what NFQUEUE costs and nothing else, so it flatters nobody.
"""
from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import ClassVar, NamedTuple

from lbq.bench.machine import Missing, Tools
from lbq.bench.network import Director
from lbq.errors import HostError
from lbq.host.iptables import ENVIRONMENT
from lbq.lab.namespace import Process
from lbq.lab.topology import lbq_command, this_lbq
from lbq.realserver import TUNNEL, tunnel_is_up

READY_SECONDS = 60       # under emulation, Python takes its time
IPTABLES = {"iptables": "iptables"}


class Service(NamedTuple):
    """What clients ask for; *protocol* is ``tcp`` or ``udp``; lbq has room for *most* connections, 0: as usual."""

    protocol: str
    port: int
    most: int = 0


class Column:
    """One way of forwarding: plain forwarding, when nothing is overridden."""

    title = "plain forwarding"
    about = "the kernel's routing, nothing else; the client talks to the server's address"
    programs: ClassVar[dict[str, str]] = {}     # what it needs: program, and its Debian package
    method = "nat"      # of dr and tun, the real servers have the VIP, and replies go around the director

    def __init__(self, director: Director, tools: Tools):
        self.director = director
        self.tools = tools
        self.process: Process | None = None

    def target(self) -> str:
        """Return the address clients connect to."""
        return self.director.real_servers[0]

    def start(self, service: Service) -> None:
        """Begin to forward *service*; return when packets may come.

        Raises Missing or LbqError when this machine cannot do it.
        """

    def stop(self) -> None:
        """End; the director forwards plainly again."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def check(self) -> None:
        """Raise Missing when the forwarder has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            said = self.process.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Missing(f"{self.title} ended with status {self.process.returncode}: {' '.join(said)}")

    def _wait_for_listener(self, port: int) -> None:
        listening = f"until ss -Hlntu | grep -q ':{port} '; do sleep 0.01; done"
        self.director.namespace.run(["timeout", str(READY_SECONDS), "sh", "-c", listening])

    def _iptables(self, *words: str) -> None:
        """Change rules with the variant of iptables that lbq is told to use, too."""
        program = os.environ.get(ENVIRONMENT, "iptables-restore").removesuffix("-restore")
        self.director.namespace.run([program, "-w", *words])

    def _require_tunnel(self) -> None:
        """Raise Missing when this column's method needs the kernel's ends of tunnels, and there are none."""
        if self.method == "tun" and not self.director.server.call(tunnel_is_up):
            raise Missing(f"this kernel has no ipip: the real servers have no {TUNNEL}")


class Dnat(Column):
    """The kernel's own NAT; it spreads clients over the servers by hash of their address."""

    title = "iptables DNAT"
    about = "one iptables DNAT rule, with conntrack"
    programs = IPTABLES

    def target(self) -> str:
        return self.director.vip

    def start(self, service: Service) -> None:
        first, last = self.director.real_servers
        self._iptables("-t", "nat", "-A", "PREROUTING", "-d", self.director.vip, "-p", service.protocol,
                       "--dport", str(service.port), "-j", "DNAT", "--to-destination", f"{first}-{last}")

    def stop(self) -> None:
        self._iptables("-t", "nat", "-F", "PREROUTING")


class NftDnat(Column):
    """The same by nft: one rule, the servers in a map, taking turns."""

    title = "nft DNAT map"
    about = "one nft rule, dnat to numgen inc mod N map, with conntrack"
    programs: ClassVar = {"nft": "nftables"}
    table = "lbqbench"

    def target(self) -> str:
        return self.director.vip

    def start(self, service: Service) -> None:
        servers = ", ".join(f"{number} : {address}" for number, address in enumerate(self.director.real_servers))
        rule = (f"ip daddr {self.director.vip} {service.protocol} dport {service.port} "
                f"dnat to numgen inc mod {len(self.director.real_servers)} map {{ {servers} }}")
        done = self.director.namespace.run(["nft", "-f", "-"], check=False, input=f"""table ip {self.table} {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    {rule}
  }}
}}
""")
        if done.returncode:
            raise Missing(f"nft said: {done.stderr.strip().splitlines()[0]}")

    def stop(self) -> None:
        self.director.namespace.run(["nft", "delete", "table", "ip", self.table], check=False)


class Ipvs(Column):
    """The kernel's own layer-4 balancer, as ipvsadm sets it up; conntrack stays out of it, as is its default."""

    title = "kernel IPVS NAT"
    about = "kernel IPVS set up with ipvsadm, scheduler wlc"
    programs: ClassVar = {"ipvsadm": "ipvsadm"}
    option = "-m"

    def target(self) -> str:
        return self.director.vip

    def start(self, service: Service) -> None:
        self._require_tunnel()
        endpoint = ["-u" if service.protocol == "udp" else "-t", f"{self.director.vip}:{service.port}"]
        self._ipvsadm("-A", *endpoint, "-s", "wlc")
        for address in self.director.real_servers:
            self._ipvsadm("-a", *endpoint, "-r", f"{address}:{service.port}", self.option)

    def stop(self) -> None:
        self.director.namespace.run(["ipvsadm", "-C"], check=False)

    def _ipvsadm(self, *words: str) -> None:
        done = self.director.namespace.run(["ipvsadm", *words], check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise Missing("ipvsadm said: " + next((line for line in said if "ipvs:" in line), said[0]))


class IpvsDr(Ipvs):
    """The same, direct routing."""

    title = "kernel IPVS DR"
    about = "the same by direct routing"
    method = "dr"
    option = "-g"


class IpvsTun(Ipvs):
    """The same, through IPIP tunnels."""

    title = "kernel IPVS TUN"
    about = "the same through IPIP tunnels"
    method = "tun"
    option = "-i"


class Floor(Column):
    """A queue that accepts every packet and returns it whole."""

    title = "floor"
    about = "plain forwarding, and every packet goes through a queue that decides nothing"
    programs = IPTABLES
    queue = 100

    def start(self, service: Service) -> None:
        self.process = self.director.namespace.popen(self._command())
        self._wait()
        for chain, side, port in (("PREROUTING", "-d", "--dport"), ("POSTROUTING", "-s", "--sport")):
            self._iptables("-t", "mangle", "-A", chain, side, self.target(), "-p", service.protocol,
                           port, str(service.port), "-j", "NFQUEUE", "--queue-num", str(self.queue))

    def stop(self) -> None:
        for chain in ("PREROUTING", "POSTROUTING"):
            self._iptables("-t", "mangle", "-F", chain)
        super().stop()

    def _command(self) -> list:
        return [self.tools.path("floor"), "--queue", self.queue]

    def _wait(self) -> None:
        self.process.wait_for("ready", READY_SECONDS)


class FloorAgain(Floor):
    """The same once more: how far two columns may differ that do not differ."""

    title = "floor again"
    about = "the same once more: how far columns differ that do not differ"


class FloorHeaders(Floor):
    """A queue that sees the first 128 bytes of every packet and returns a verdict only."""

    title = "floor, headers only"
    about = "the same, but 128 bytes of each packet come up and only a verdict goes back"

    def _command(self) -> list:
        return [*super()._command(), "--headers"]


class FloorHeadersAgain(FloorHeaders):
    """The same once more."""

    title = "floor, headers only, again"
    about = "the same once more"


class Prototype(Floor):
    """Another program with the floor's task: ``PATH QUEUE RANGE WITH_PAYLOAD MANY_VERDICTS_A_SEND GSO``."""

    title = "prototype"
    about = "with --prototype PROGRAM: another program with the floor's task"
    path: Path

    def _command(self) -> list:
        return [self.path, self.queue, 65531, 1, 1, 1]

    def _wait(self) -> None:
        """It says nothing: it is ready when the kernel lists its queue."""
        waited = "until grep -q ' *100 ' /proc/net/netfilter/nfnetlink_queue; do sleep 0.01; done"
        self.director.namespace.run(["timeout", str(READY_SECONDS), "sh", "-c", waited])


class Haproxy(Column):
    """HAProxy in TCP mode, with Debian's defaults for threads and buffers."""

    title = "HAProxy TCP"
    about = "HAProxy in TCP mode, round robin, Debian's defaults"
    programs: ClassVar = {"haproxy": "haproxy"}

    def target(self) -> str:
        return self.director.vip

    def start(self, service: Service) -> None:
        if service.protocol == "udp":
            raise Missing("HAProxy has no UDP")
        config = self.director.namespace.folder / "haproxy.cfg"
        config.write_text(self._config(service.port))
        self.process = self.director.namespace.popen(["haproxy", "-db", "-f", config])
        self._wait_for_listener(service.port)

    def _config(self, port: int) -> str:
        servers = "\n".join(f"  server web{number} {address}:{port}"
                            for number, address in enumerate(self.director.real_servers, start=1))
        return f"""global
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen bench
  bind {self.director.vip}:{port}
  balance roundrobin
{servers}
"""


class NginxStream(Column):
    """nginx as a TCP and UDP proxy, one worker a processor."""

    title = "nginx stream"
    about = "nginx's stream module, one worker a processor"
    programs: ClassVar = {"nginx": "nginx-light"}
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

    def target(self) -> str:
        return self.director.vip

    def start(self, service: Service) -> None:
        if not self.module.exists():
            raise Missing("nginx's stream module is not installed (apt install libnginx-mod-stream)")
        config = self.director.namespace.folder / "nginx-stream.conf"
        config.write_text(self._config(service))
        self.process = self.director.namespace.popen(["nginx", "-e", "stderr", "-c", config])
        self._wait_for_listener(service.port)

    def _config(self, service: Service) -> str:
        servers = "\n".join(f"    server {address}:{service.port};" for address in self.director.real_servers)
        udp, answers = (" udp", "proxy_responses 0;") if service.protocol == "udp" else ("", "")
        return f"""load_module {self.module};
daemon off;
pid {self.director.namespace.folder}/nginx-stream.pid;
worker_processes auto;
worker_rlimit_nofile 32768;
events {{ worker_connections 8192; }}
stream {{
  upstream bench {{
{servers}
  }}
  server {{
    listen {self.director.vip}:{service.port}{udp} reuseport;
    proxy_pass bench;
    {answers}
  }}
}}
"""


class Lbq(Column):
    """lbq as a user starts it."""

    title = "lbq rewrite"
    about = "lbq --mode nat: lbq rewrites the packets"
    programs = IPTABLES
    engine = "fast"
    data_path = "rewrite"
    workers = 1

    def target(self) -> str:
        return self.director.vip

    def start(self, service: Service) -> None:
        self._require_tunnel()
        options = ["--vip", f"{self.director.vip}:{service.port}", "--mode", self.method, "--engine", self.engine,
                   "--data-path", self.data_path, "--workers", str(self.workers)]
        options += ["--udp"] if service.protocol == "udp" else []
        options += ["--max-connections", str(service.most)] if service.most else []
        for address in self.director.real_servers:
            options += ["--real", f"{address}:{service.port}"]
        self.process = self.director.namespace.popen(lbq_command(*options), env=this_lbq())
        try:
            self.process.wait_for("ready", READY_SECONDS)
        except HostError:
            self.check()        # its last line alone is the reason
            raise


class LbqWorkers(Lbq):
    """lbq whose packets two threads share."""

    title = "lbq rewrite, 2 workers"
    about = "lbq --workers 2"
    workers = 2


class LbqSteer(Lbq):
    """lbq that sees headers, and leaves the rewriting to the kernel."""

    title = "lbq steer"
    about = "lbq --data-path steer: lbq sees headers, the kernel rewrites"
    data_path = "steer"


class LbqDr(Lbq):
    """lbq by direct routing."""

    title = "lbq rewrite DR"
    about = "lbq --mode dr"
    method = "dr"


class LbqTun(Lbq):
    """lbq through IPIP tunnels."""

    title = "lbq rewrite TUN"
    about = "lbq --mode tun"
    method = "tun"


class LbqSteerDr(LbqSteer):
    """lbq that sees headers, and has the kernel send packets on."""

    title = "lbq steer DR"
    about = "lbq --mode dr --data-path steer"
    method = "dr"


class LbqSteerTun(LbqSteer):
    """What lbq refuses, with the reason."""

    title = "lbq steer TUN"
    about = "lbq --mode tun --data-path steer"
    method = "tun"


class LbqOffload(Lbq):
    """lbq that sees the first packet of a flow, and leaves the others to the kernel's conntrack."""

    title = "lbq offload"
    about = "lbq --data-path offload: lbq sees a flow's first packet"
    data_path = "offload"


class LbqReference(Lbq):
    """lbq's readable engine over the NetfilterQueue package."""

    title = "lbq reference"
    about = "lbq --engine reference: the readable engine"
    engine = "reference"

    def start(self, service: Service) -> None:
        if importlib.util.find_spec("netfilterqueue") is None:
            raise Missing("NetfilterQueue is not installed (pip install lbq[reference])")
        super().start(service)


COLUMNS: dict[str, type[Column]] = {
    "plain": Column,
    "dnat": Dnat,
    "nft": NftDnat,
    "haproxy": Haproxy,
    "nginx": NginxStream,
    "lbq": Lbq,
    "workers": LbqWorkers,
    "steer": LbqSteer,
    "offload": LbqOffload,
    "reference": LbqReference,
    "floor": Floor,
    "floor-again": FloorAgain,
    "floor-headers": FloorHeaders,
    "floor-headers-again": FloorHeadersAgain,
    "ipvs": Ipvs,
    "ipvs-dr": IpvsDr,
    "ipvs-tun": IpvsTun,
    "lbq-dr": LbqDr,
    "lbq-tun": LbqTun,
    "steer-dr": LbqSteerDr,
    "steer-tun": LbqSteerTun,
    "prototype": Prototype,
}
ON_DEMAND = ("ipvs", "ipvs-dr", "ipvs-tun", "lbq-dr", "lbq-tun", "steer-dr", "steer-tun", "prototype")   # if named
