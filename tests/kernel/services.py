"""The configuration side of scenarios: services and real servers as ``ipvsadm`` lines, edited at random."""
from __future__ import annotations

import random

from tests.kernel import topology

SCHEDULERS = ("wlc", "wrr", "rr", "lc", "sed", "nq", "fo", "ovf", "dh", "sh", "mh", "lblc", "lblcr")
SCHEDULER_FLAGS = {"sh": ("sh-port", "sh-fallback"), "mh": ("mh-port", "mh-fallback")}
PROTOCOL_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
WEIGHTS = [1] * 8 + [2, 2, 3, 3, 4, 5, 6, 7, 10, 0, 50, 100, 255, 1000, 65535]
# Other families: with a common divisor; quiesced often; where one active connection, 256 or 257 for the
# kernels' counters, is about as much as one inactive connection of a server with weight 1.
WEIGHT_FAMILIES = [WEIGHTS] * 5 + [[2, 4, 6, 8, 10], [3, 6, 9, 12, 0], [0, 0, 1, 2, 3, 5],
                                   [1, 1, 256, 257, 257, 512, 514]]
CLOSE_WEIGHTS = [[1, 256], [1, 257], [2, 512, 514]]
DIVISIBLE_WEIGHTS = [[1, 2, 3, 4, 6], [2, 3, 4, 6, 8], [3, 6, 8, 9, 12]]
HUGE_WEIGHT = 2**31 - 1     # not with wrr, whose levels the kernel walks one by one
PROTOCOLS = {"rush": (72, 28, 0), "states": (50, 5, 45), "weights": (100, 0, 0)}       # how often which, by theme
TUNNELS = ["-i", "-i --tun-type gre", "-i", "-i --tun-type gue --tun-port 6080", "-i --tun-type gre --tun-csum", "-i",
           "-i --tun-type gue --tun-port 6080 --tun-csum", "-i --tun-type gue --tun-port 6080 --tun-remcsum"]
ADDRESSES = [*topology.SEGMENT_SERVERS[:12], "10.2.0.1", "10.2.0.2"]


def tunnel_to(address: str) -> str:
    """Return the words for the tunnel to a machine: each ends tunnels of one type."""
    return TUNNELS[int(address.rpartition(".")[2]) % len(TUNNELS)]


def marked(service: Service) -> list[list]:
    """Return the marking rules that a fwmark service needs: [protocol, address, port, mark]."""
    return [["", vip, 0, service.mark] for vip in service.vips] if service.mark else []


class Service:
    """One virtual service and what has been asked about its servers so far."""

    def __init__(self, choose: random.Random, theme: str, number: int, scheduler: str,
                 schedulers: tuple[str, ...]):
        self.choose = choose
        self.number = number
        self.scheduler = scheduler
        self.schedulers = schedulers
        self.protocol = choose.choices(("tcp", "udp", "sctp"), PROTOCOLS.get(theme, (72, 23, 5)))[0]
        # The schedulers that look at the destination see more than one only behind a mark.
        by_destination = self.scheduler in ("dh", "lblc", "lblcr")
        self.mark = number + 1 if choose.random() < (0.7 if by_destination else 0.1) else 0
        self.persistent = choose.random() < {"sticky": 0.95, "rush": 0.03}.get(theme, 0.1)
        self.one_packet = choose.random() < 0.15 and (self.protocol == "udp" or bool(self.mark))
        self.has_limits = theme == "limits" or choose.random() < 0.08
        self.port = choose.choice((80, 80, 443, 8000, 21 if choose.random() < 0.2 else 80))
        if self.mark or (self.persistent and choose.random() < 0.25):
            self.port = 0
        first = number * 2
        self.vips = topology.VIPS[first:first + 2] if self.mark and not by_destination else \
            topology.VIPS if self.mark and number == 0 else [topology.VIPS[first]]
        self.weights = choose.choice(WEIGHT_FAMILIES if theme != "weights" else
                                     DIVISIBLE_WEIGHTS if scheduler == "wrr" else CLOSE_WEIGHTS)
        self.flags = self._flags()
        self.timeout = self._timeout()
        methods = choose.random()
        self.methods = ["-m"] if methods < 0.35 else ["-g"] if methods < 0.5 else \
            ["-i"] if methods < 0.65 else ["-m", "-g", "-i"]
        self.servers: list[dict] = []
        self.deleted: list[dict] = []
        self.method_of: dict[tuple[str, int], str] = {}      # by address and port: never between DR and another

    def _flags(self) -> list[str]:
        return [flag for flag in SCHEDULER_FLAGS.get(self.scheduler, ()) if self.choose.random() < 0.5]

    def _timeout(self) -> str:
        if not self.persistent:
            return ""
        mask = self.choose.choice(("", "", " -M 255.255.255.0", " -M 255.255.0.0", " -M 255.255.255.252"))
        return f" -p {self.choose.choice((2, 3, 4, 300, 300))}{mask}"

    def name(self) -> str:
        return f"-f {self.mark}" if self.mark else \
            f"{PROTOCOL_OPTIONS[self.protocol]} {self.vips[0]}:{self.port}"

    def line(self, command: str) -> str:
        """Return the line that adds (-A), edits (-E) or deletes (-D) the service."""
        if command == "-D":
            return f"-D {self.name()}"
        flags = f" -b {','.join(self.flags)}" if self.flags else ""
        one_packet = " -o" if self.one_packet else ""
        return f"{command} {self.name()} -s {self.scheduler}{self.timeout}{one_packet}{flags}"

    def server_line(self, command: str, server: dict) -> str:
        """Return the line that adds (-a), edits (-e) or deletes (-d) a *server*."""
        line = f"{command} {self.name()} -r {server['address']}:{server['port']}"
        if command == "-d":
            return line
        method = tunnel_to(server["address"]) if server["method"] == "-i" else server["method"]
        return f"{line} {method} -w {server['weight']}{server['limits']}"

    def add_server(self) -> str | None:
        """Add a new server, or one that was deleted before."""
        if self.deleted and self.choose.random() < 0.6:
            server = self.deleted.pop(self.choose.randrange(len(self.deleted)))
            if self.choose.random() < 0.5:
                server.update(weight=self._weight(), limits=self._limits())
        else:
            server = self._new_server()
        if all((server["address"], server["port"]) != (each["address"], each["port"]) for each in self.servers):
            self.servers.append(server)
        return self.server_line("-a", {**server, "port": server.pop("said", server["port"])})

    def _new_server(self) -> dict:
        """Return a server that nobody has heard of yet, or one under a name that has been here before."""
        address = self.choose.choice(ADDRESSES) if self.choose.random() > 0.01 else "10.9.0.1"
        said, wanted = self._port(), self.choose.choice(self.methods)
        # ipvsadm gives a server of DR or TUN the service's port, whatever was said.
        port = said if wanted == "-m" or self.mark else self.port
        # Not to or from DR, see compare.py; connections of a deleted server may be there still.
        method = self.method_of.setdefault((address, port), wanted)
        return {"address": address, "port": port, "said": said if method == wanted else port, "method": method,
                "weight": self._weight(), "limits": self._limits()}

    def edit_server(self) -> str | None:
        if not self.servers:
            return None
        server = self.choose.choice(self.servers)
        if self.choose.random() < 0.8 or not self.has_limits:
            server["weight"] = self._weight()
        if self.choose.random() < 0.4:
            server["limits"] = self._limits()
        others = [method for method in self.methods if method != "-g"]
        if self.choose.random() < 0.1 and server["method"] != "-g" and others:
            server["method"] = self.method_of[server["address"], server["port"]] = self.choose.choice(others)
        return self.server_line("-e", server)

    def delete_server(self) -> str | None:
        if not self.servers:
            return None
        server = self.servers.pop(self.choose.randrange(len(self.servers)))
        self.deleted.append(server)
        return self.server_line("-d", server)

    def edit(self) -> str:
        """Give the service another scheduler, or other flags."""
        if self.choose.random() < 0.5:
            self.scheduler = self.choose.choice(self.schedulers)
        self.flags = self._flags()
        if self.persistent:
            self.timeout = self._timeout()
        if self.scheduler == "wrr":
            for server in self.servers:
                if server["weight"] == HUGE_WEIGHT:
                    self.scheduler = "rr"
        return self.line("-E")

    def _weight(self) -> int:
        if self.scheduler != "wrr" and self.choose.random() < 0.01:
            return HUGE_WEIGHT
        return self.choose.choice(self.weights)

    def _port(self) -> int:
        if not self.mark and self.port and self.choose.random() < 0.6:
            return self.port
        return self.choose.choice((80, 8080, self.port, 0 if self.choose.random() < 0.3 else 8081))

    def _limits(self) -> str:
        if not self.has_limits or self.choose.random() < 0.2:
            return ""
        upper = self.choose.choice((1, 2, 3, 4, 4, 5, 8, 8, 0))
        return f" -x {upper} -y {self.choose.choice((0, 0, 1, 2, 3, 9))}"
