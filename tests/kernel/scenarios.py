"""Makes scenarios: the same ones for the same seed, and every feature of IPVS in some of them.

A scenario is JSON: ``{"seed", "theme", "world", "steps"}``, each step one thing that happens.

    {"do": "ipvsadm", "line": "-A -t 10.0.0.1:80 -s wrr"}     a command; its complaint is compared, too
    {"do": "send", "id": 7, "proto": "tcp", …}                a packet (wire.py has the words)
    {"do": "sysctl", "name": "conn_reuse_mode", "value": 0}   net.ipv4.vs.conn_reuse_mode
    {"do": "wait", "seconds": 6}                              real seconds for the kernel, virtual ones for lbq
    {"do": "settle"}                                          a moment for what the kernel does "at once" with timers
    {"do": "show"}                                            services, servers and connections
    {"do": "stats", "listings": ["thresholds", …]}            what only ipvsadm shows

Nothing in a scenario depends on how anybody answers it.  Waits are six seconds long, so that they are clearly
longer or clearly shorter than every timeout: those that ``--set`` and ``-p`` shorten to 2 to 4 s, SCTP's 4 s,
10 s of CLOSE (two waits), and the minutes of all others.
"""
from __future__ import annotations

import random

from tests.kernel.flows import Flows
from tests.kernel.services import SCHEDULERS, Service, marked

WAIT_SECONDS = 6
SCTP_INIT = 1               # a chunk type
SNAPSHOT_SECONDS = 3        # the visible counters are up to two seconds old

# How often scenarios have a theme, and how often in it what happens.  Most decisions are new connections.
THEMES = {
    "rush": (50, {"open": 90, "finish": 7, "edit": 5, "remove": 2, "restore": 3, "reschedule": 1, "show": 1}),
    "limits": (12, {"open": 60, "finish": 24, "again": 6, "edit": 10, "remove": 2, "restore": 3, "show": 2,
                    "wait": 2.5}),
    "talk": (12, {"open": 10, "client": 24, "server": 18, "again": 3, "show": 10, "sysctl": 0.5, "edit": 0.5}),
    "states": (14, {"open": 5, "client": 14, "server": 10, "again": 1}),        # looked at after every packet
    "closing": (10, {"open": 30, "finish": 20, "again": 14, "server": 8, "wait": 1.2, "show": 6, "sysctl": 2,
                    "edit": 3}),
    "sticky": (10, {"open": 60, "client": 6, "server": 6, "finish": 4, "edit": 5, "remove": 2, "restore": 3,
                    "wait": 0.6, "show": 4, "sysctl": 0.5, "reschedule": 1}),
    "removal": (5, {"open": 40, "client": 14, "server": 10, "again": 6, "remove": 6, "restore": 6, "drop": 1,
                    "sysctl": 2, "show": 5, "edit": 3, "wait": 0.2}),
    "odd": (12, {"open": 30, "client": 8, "server": 8, "error": 24, "large": 10, "fragments": 8, "stranger": 6,
                 "show": 4, "sysctl": 2, "edit": 1}),
    # Not by chance: each 25th scenario.  Loads that are almost the same while there are few connections; with wrr,
    # weights whose common divisor changes.
    "weights": (0, {"open": 60, "finish": 45, "edit": 8, "remove": 2, "restore": 3, "show": 1}),
}
WEIGHTS_EVERY = 25
# What these schedulers do then hangs on what was chosen last: happens more often with them.
EMPHASIS = {("weights", "wrr"): {"edit": 6}, ("removal", "rr"): {"open": 2, "remove": 4, "restore": 6}}
SYSCTLS = {"conn_reuse_mode": (0, 1, 2, 3, 4), "expire_nodest_conn": (0, 1), "expire_quiescent_template": (0, 1),
           "sloppy_tcp": (0, 1), "sloppy_sctp": (0, 1), "secure_tcp": (0, 3), "drop_packet": (0, 3),
           "nat_icmp_send": (0, 1), "schedule_icmp": (0, 1), "pmtu_disc": (0, 1), "cache_bypass": (0, 1),
           "am_droprate": (1, 3, 10)}
ODD_SYSCTLS = ("schedule_icmp", "nat_icmp_send", "cache_bypass")      # without which odd packets are just passed on


def scenarios(seed: int, decisions: int, theme: str | None = None) -> list[dict]:
    """Return scenarios with about so many packets that open connections, all with one *theme* or with any."""
    result, sent = [], 0
    while sent < decisions:
        number = len(result)
        chosen = "weights" if theme is None and number % WEIGHTS_EVERY == WEIGHTS_EVERY - 1 else theme
        scenario = Author(seed * 1_000_000 + number, SCHEDULERS[number % len(SCHEDULERS)], SCHEDULERS, chosen).write()
        sent += scenario["opens"]
        result.append(scenario)
    return result


class Author:
    """Writes one scenario; knows what it has asked for, not what came of it."""

    def __init__(self, seed: int, scheduler: str, schedulers: tuple[str, ...], theme: str | None = None):
        self.seed = seed
        self.choose = random.Random(seed)
        by_chance = self.choose.choices(list(THEMES), [weight for weight, _ in THEMES.values()])[0]
        self.theme = theme or by_chance
        self.actions = THEMES[self.theme][1]
        self.scheduler = scheduler
        self.schedulers = schedulers
        self.steps: list[dict] = []
        self.world: dict = {}
        self.sysctls: dict[str, int] = {}
        self.services: list[Service] = []
        self.waits = 0
        self.stats_hold = True
        self.flows = Flows(self.choose, self.theme)

    def write(self) -> dict:
        """Return the scenario."""
        self._begin()
        names, weights = list(self.actions), list(self.actions.values())
        if (self.theme, self.scheduler) in EMPHASIS:
            for action, times in EMPHASIS[self.theme, self.scheduler].items():
                weights[names.index(action)] *= times
        for _ in range(self._length()):
            getattr(self, self.choose.choices(names, weights)[0])()
            if self.theme == "states":
                self.do("show")
        self._end()
        return {"seed": self.seed, "theme": self.theme, "opens": self.flows.opens, "world": self.world,
                "steps": self.steps}

    def _length(self) -> int:
        """Return how many things are to happen."""
        if self.theme == "rush":
            return self.choose.choice((20, 60, 120, 120))
        if self.theme == "weights":
            return 90 if self.scheduler == "wrr" else self.choose.randrange(8, 24)
        return self.choose.randrange(30, 90)

    def _begin(self) -> None:
        for number in range(1 if self.theme == "weights" else self.choose.choice((1, 1, 1, 2, 3))):
            scheduler = self.scheduler if number == 0 else self.choose.choice(self.schedulers)
            service = Service(self.choose, self.theme, number, scheduler, self.schedulers)
            if service.mark and number == 0 and self.choose.random() < 0.15:
                self.world["divert"] = service.mark
                self.stats_hold = False         # lbq answers where the kernel finds no source address, and counts it
                service.vips = [*service.vips[:1], "203.0.113.9"]
            self.services.append(service)
            self.world.setdefault("marks", []).extend(marked(service))
        if not self.world["marks"]:
            del self.world["marks"]
        if self.theme == "states" and self.choose.random() < 0.5:
            self.sysctl("secure_tcp", 3)
        if self.theme == "closing":
            self.sysctl("conn_reuse_mode")
        if self.theme == "limits":
            self.ipvsadm("--set 2 2 2")
        elif self.theme != "rush" and self.choose.random() < 0.4:
            self.ipvsadm("--set " + " ".join(str(self.choose.choice((0, 2, 3, 4))) for _ in range(3)))
        if self.theme == "odd":
            for name in ODD_SYSCTLS:
                if self.choose.random() < 0.5:
                    self.sysctl(name, 1)
        if (self.theme != "rush" and self.choose.random() < 0.5) or self.choose.random() < 0.1:
            for _ in range(self.choose.randrange(1, 4)):
                self.sysctl()
        for service in self.services:
            self.ipvsadm(service.line("-A"))
            for _ in range(self.choose.choice((2, 2, 3)) if self.theme == "weights" else
                           self.choose.choice((0, 1, 2, 3, 3, 4, 4, 5, 6, 8, 12)) if service.number else
                           self.choose.choice((1, 2, 3, 3, 4, 4, 5, 6, 8, 12))):
                self.restore(service)

    def _end(self) -> None:
        self.do("settle")
        self.do("show")
        listings = []
        if any(service.has_limits for service in self.services):
            listings.append("thresholds")
        if any(service.persistent for service in self.services):
            listings.append("persistent-conn")
        if listings:
            self.do("stats", listings=listings)
        if self.stats_hold:
            self.do("wait", seconds=SNAPSHOT_SECONDS)
            self.do("stats", listings=["stats --exact"])

    def do(self, kind: str, **words) -> None:
        self.steps.append({"do": kind, **words})

    def ipvsadm(self, line: str) -> None:
        self.do("ipvsadm", line=line)

    def send(self, packet: dict | None) -> None:
        if packet is not None:
            self.do("send", **packet)

    def _service(self) -> Service:
        return self.choose.choice([self.services[0], *self.services])

    # ---- What happens ------------------------------------------------------------------------------------

    def open(self) -> None:
        """A new client comes."""
        self.send(self.flows.open(self._service()))

    def finish(self) -> None:
        """A connection is opened further, closed or reset."""
        for packet in self.flows.finish():
            self.send(packet)

    def client(self) -> None:
        """A client says something on a connection."""
        packet = self.flows.client()
        self.send(packet)
        if packet and (opens(packet) or self.sysctls.get("expire_nodest_conn")):
            self.do("settle")

    def server(self) -> None:
        """A real server says something on a connection."""
        self.send(self.flows.server())

    def again(self) -> None:
        """A client opens a connection from a port it has used before."""
        if packet := self.flows.again():
            self.send(packet)
            self.do("settle")

    def error(self) -> None:
        """Somebody on the way reports an ICMP error."""
        self.send(self.flows.error())

    def large(self) -> None:
        """A packet that does not fit through the next network, or whose time to live is over."""
        self.send(self.flows.large(self._service()))

    def fragments(self) -> None:
        """A datagram comes in pieces."""
        self.send(self.flows.fragments(self._service()))

    def stranger(self) -> None:
        """A packet that opens nothing, for no service, or of a protocol that IPVS does not know."""
        self.send(self.flows.stranger(self._service()))

    def edit(self) -> None:
        """A server is edited: mostly its weight."""
        if line := self._service().edit_server():
            self.ipvsadm(line)

    def remove(self) -> None:
        """A server is deleted."""
        if line := self._service().delete_server():
            self.ipvsadm(line)
            self._settle_nodest()

    def restore(self, service: Service | None = None) -> None:
        """A server is added: a new one, or one that was deleted before."""
        if line := (service or self._service()).add_server():
            self.ipvsadm(line)

    def reschedule(self) -> None:
        """A service gets another scheduler or other flags."""
        self.ipvsadm(self._service().edit())

    def drop(self) -> None:
        """A service is deleted, and comes back."""
        service = self._service()
        self.ipvsadm(service.line("-D"))
        self._settle_nodest()
        if self.choose.random() < 0.5:
            self.send(self.flows.client())
            self.send(self.flows.server())
        self.ipvsadm(service.line("-A"))
        for server in service.servers:
            self.ipvsadm(service.server_line("-a", server))
        # What is counted between the last snapshot and the deletion may or may not be seen afterwards.
        self.stats_hold = False

    def sysctl(self, name: str | None = None, value: int | None = None) -> None:
        """A sysctl is written."""
        name = name or self.choose.choice(list(SYSCTLS))
        if name == "am_droprate" and self.sysctls.get("drop_packet"):
            return          # the kernel would notice within a second
        self.sysctls[name] = self.choose.choice(SYSCTLS[name]) if value is None else value
        self.do("sysctl", name=name, value=self.sysctls[name])

    def wait(self) -> None:
        """Time passes."""
        if self.waits < 3:
            self.waits += 1
            self.do("wait", seconds=WAIT_SECONDS)
            self.do("show")

    def show(self) -> None:
        """Somebody looks."""
        self.do("settle")
        self.do("show")

    def _settle_nodest(self) -> None:
        if self.sysctls.get("expire_nodest_conn"):
            self.do("settle")


def opens(packet: dict) -> bool:
    """Return whether *packet* may end a connection by opening another: what ended is gone a moment later."""
    return "S" in packet.get("flags", "") or packet.get("chunk") == SCTP_INIT
