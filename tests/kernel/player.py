"""Plays scenarios on lbq's engines, and is the host around them: routing, TTL, fragments, the clock.

An engine decides about packets; what the host does before and after it is here, as Linux does it: fragments
are put together first, a packet that is passed on loses one of its time to live, what is addressed to the
director is given to its host.
"""
from __future__ import annotations

import shlex
import socket

from lbq.errors import (
    LbqError,
    NoSuchServer,
    NoSuchService,
    ServerExists,
    ServiceError,
    ServiceExists,
    UnknownScheduler,
)
from lbq.model import (
    AF_INET,
    AF_INET6,
    CSUM,
    DR,
    GRE,
    GUE,
    IPIP,
    NAT,
    NOCSUM,
    REMCSUM,
    SCTP,
    SERVICE_FLAGS,
    TCP,
    TUN,
    UDP,
    ServiceKey,
    Verdict,
)
from tests.kernel import compare, topology, wire
from tests.kernel.compare import place
from tests.kernel.fragments import reassembled, with_length6
from tests.kernel.ip import AUTHENTICATION, EXTENSIONS, destination, extension_size, hops, with_hops

NS = 1_000_000_000
START_NS = 1_000_000 * NS
PREROUTING, POSTROUTING = 0, 4
DROP, ACCEPT = 0, 1
PASSED = Verdict(ACCEPT)
NOWHERE = "nowhere"         # no route: the host drops it
INTERFACES = {"c": 2, "s": 3}
COMPLAINTS = ((ServiceExists, "Service already exists"), (NoSuchService, "No such service"),
              (ServerExists, "Destination already exists"), (NoSuchServer, "No such destination"),
              (UnknownScheduler, "Scheduler or persistence engine not found"),
              (ServiceError, "Numerical result out of range"))
PROTOCOLS = {"-t": TCP, "-u": UDP, "--sctp-service": SCTP}
METHODS = {"-m": NAT, "-g": DR, "-i": TUN}
TUNNEL_TYPES = {"ipip": IPIP, "gue": GUE, "gre": GRE}
TUNNEL_FLAGS = {"--tun-nocsum": NOCSUM, "--tun-csum": CSUM, "--tun-remcsum": REMCSUM}
SERVICE_NAME = ("family", "protocol", "address", "port", "fwmark")
FLAG_BITS = {"sh-fallback": "sched1", "mh-fallback": "sched1", "sh-port": "sched2", "mh-port": "sched2"}


class Player:
    """One engine with its host, from the first step of a scenario on."""

    def __init__(self, engine, world: dict):
        self.engine = engine
        self.world = world
        self.now_ns = START_NS
        self.outputs: dict[int, list] = {}
        engine.limit_icmp(False)            # as in the guests
        engine.set_local_addresses([number(address) for address in topology.LOCAL if ":" not in address])
        engine.set_routes(routes(world, str))
        if world.get("family") == 6:
            engine.set_local_addresses6([number(address) for address in topology.LOCAL if ":" in address])
            engine.set_routes6(routes(world, topology.as_ipv6))
            engine.set_largest_mtu(max(topology.mtu(world, side) for side in topology.MTU))

    def play(self, step: dict, at: float):
        """Let *step* happen *at* seconds after the beginning; return what is seen of it, in the common form."""
        self._advance(START_NS + int(at * NS))
        act = getattr(self, "_" + step["do"], None)
        return act(step) if act else None

    def _advance(self, until_ns: int) -> None:
        """Let time pass as a running director does: timers often, the rest once a second."""
        while self.now_ns + NS // 4 < until_ns:
            self._tick(self.now_ns + NS // 4)
        self.now_ns = max(self.now_ns, until_ns)
        self.engine.expire(self.now_ns)

    def _tick(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.engine.expire(now_ns)
        self.engine.tick(now_ns)

    # ---- Commands ----------------------------------------------------------------------------------------

    def _ipvsadm(self, step: dict) -> str:
        command = Command(step["line"])
        try:
            command.run(self.engine)
        except LbqError as error:
            if isinstance(error, NoSuchService) and command.action in ("-a", "-e", "-d"):
                return "Service not defined"
            return next((text for kind, text in COMPLAINTS if isinstance(error, kind)), str(error))
        return ""

    def _settle(self, step: dict) -> None:
        self.engine.tick(self.now_ns)       # the kernel flushes deleted servers' connections a timer tick later

    def _sysctl(self, step: dict) -> None:
        self.engine.set_sysctl(step["name"], step["value"])

    # ---- Packets -----------------------------------------------------------------------------------------

    def _send(self, step: dict) -> list[str] | None:
        packets = wire.build(step, self.outputs)
        if packets is None:
            return None
        came_out = []
        for _, _, packet in reassembled([("", "", packet) for packet in packets], keep=False):
            came_out += self._arrive(step.get("side", "c"), packet)
        if "id" in step:
            self.outputs[step["id"]] = compare.came_out(came_out)
        return compare.outputs(step, came_out)

    def _arrive(self, side: str, packet: bytes) -> list[tuple[str, str, bytes]]:
        """Let the host route a *packet* from *side*, with the engine where lbq's rules queue it."""
        mark = self._mark(packet) if side == "c" else 0
        local = destination(packet) in topology.LOCAL or (mark and mark == self.world.get("divert"))
        if local or side == "c":
            return self._handle(packet, PREROUTING, mark, local)
        if hops(packet) <= 1:
            return []
        return self._handle(with_hops(packet, hops(packet) - 1), POSTROUTING, 0, False)

    def _mark(self, packet: bytes) -> int:
        """Return the mark that the user's own rules give *packet*."""
        mark = 0
        for _, address, _, value in self.world.get("marks", ()):
            if destination(packet) == address:      # MARK goes on to the next rule: the last one counts
                mark = value
        return mark

    def _handle(self, packet: bytes, hook: int, mark: int, local: bool) -> list[tuple[str, str, bytes]]:
        buffer = bytearray(packet)
        side = topology.next_hop(destination(packet))
        device = INTERFACES[side[0]] if hook == POSTROUTING and side else 0
        verdict = PASSED            # without a service nothing is queued; the kernel's hooks are gone then, too
        if self.engine.list_services(0, 1)[0]:
            verdict = self.engine.handle(buffer, hook, 0, device, self.now_ns, False, mark)
        result = [frame(bytes(sent.packet), text(sent.next_hop, sent.packet[0] >> 4)) for sent in verdict.sent]
        if verdict.answer is not None:
            result.append(frame(bytes(verdict.answer), destination(verdict.answer)))
        if verdict.action != DROP:
            content = bytes(buffer)
            if hook == POSTROUTING:
                result.append(frame(content, destination(content)))
            elif destination(content) in topology.LOCAL or (local and not verdict.changed and not verdict.unmarked):
                result.append(("host", "", as_delivered(content)))
            elif hops(content) > 1:
                result.append(frame(with_hops(content, hops(content) - 1), destination(content)))
        return [each for each in result if each[0] != NOWHERE]

    # ---- Listings ----------------------------------------------------------------------------------------

    def rows(self) -> list[dict]:
        """Return all services of the engine with their servers."""
        rows, cursor = [], 0
        while cursor is not None:
            page, cursor = self.engine.list_services(cursor, 64)
            for row in page:
                if rows and all(rows[-1].get(key) == row.get(key) for key in SERVICE_NAME):
                    rows[-1]["servers"] += row["servers"]
                else:
                    rows.append(row)
        return rows

    def _show(self, step: dict) -> dict:
        services = {}
        for row in self.rows():
            services[service_name(row)] = [flags_text(row), *(
                [place(each["address"], each["port"]), each["mode"], each["weight"], each["active"], each["inactive"]]
                for each in row["servers"])]
        return {"services": services, "connections": self._connections()}

    def _connections(self) -> dict:
        from lbq import conntrack

        result: dict = {}
        cursor = 0
        while cursor is not None:
            data, cursor = self.engine.list_connections(cursor, 256)
            for record in conntrack.split(data):
                row = conntrack.decode(record, self.now_ns)
                is_mark = row["protocol"] == "ip"
                vip = topology.packed(row["vaddr"])[:4].hex().upper() if is_mark else row["vaddr"]
                name = (f"{row['protocol'].upper()} {place(row['caddr'], row['cport'])} {place(vip, row['vport'])}"
                        f" {place(row['daddr'], row['dport'])}")
                result.setdefault(name, []).append([row["state"], int(row["expires_seconds"])])
        return result

    def _stats(self, step: dict) -> dict:
        result: dict = {kind: {} for kind in step["listings"]}
        for row in self.rows():
            name = service_name(row)
            if "stats --exact" in result:
                result["stats --exact"][name] = shown(row)
            for each in row["servers"]:
                server = f"{name} {place(each['address'], each['port'])}"
                values = {"stats --exact": shown(each), "thresholds": [each["upper"], each["lower"]],
                          "persistent-conn": [each["persistent"]]}
                for kind in step["listings"]:
                    result[kind][server] = values[kind]
        return result


class Command:
    """One ``ipvsadm`` line, as far as scenarios use its words."""

    def __init__(self, line: str):
        self.words = shlex.split(line)
        self.action = self.words.pop(0)
        self.key = None
        self.options: dict[str, str] = {}
        self.method = DR
        self.tunnel_flags = NOCSUM
        if self.action == "--set":
            return
        while self.words:
            self._take(self.words.pop(0))

    def _take(self, word: str) -> None:
        if word in PROTOCOLS:
            *where, family = endpoint(self.words.pop(0))
            self.key = ServiceKey(PROTOCOLS[word], *where, family)
        elif word == "-f":
            self.key = ServiceKey(TCP, 0, 0, fwmark=int(self.words.pop(0)))
        elif word == "-6":
            self.key = self.key._replace(family=AF_INET6)
        elif word in METHODS:
            self.method = METHODS[word]
        elif word in TUNNEL_FLAGS:
            self.tunnel_flags = TUNNEL_FLAGS[word]
        elif word == "-o":
            self.options[word] = ""
        else:
            self.options[word] = self.words.pop(0)

    def run(self, engine) -> None:
        """Ask *engine* for what the line asks the kernel for."""
        if self.action == "--set":
            engine.set_timeouts(*map(int, self.words))
        elif self.action in ("-A", "-E"):
            change = engine.add_service if self.action == "-A" else engine.set_service
            change(self.key, self.options["-s"], self._flags(), int(self.options.get("-p", 0)), self._netmask())
        elif self.action == "-D":
            engine.delete_service(self.key)
        elif self.action == "-Z":
            engine.zero(self.key)
        elif self.action == "-d":
            engine.delete_server(self.key, *endpoint(self.options["-r"]))
        else:
            change = engine.add_server if self.action == "-a" else engine.set_server
            change(self.key, *self._server())

    def _flags(self) -> int:
        names = [FLAG_BITS[flag] for flag in self.options.get("-b", "").split(",") if flag]
        names += ["persistent"] * ("-p" in self.options) + ["ops"] * ("-o" in self.options)
        return sum(SERVICE_FLAGS[name] for name in set(names))

    def _netmask(self) -> int:
        """Return the netmask, of IPv6 the length of the prefix."""
        if self.key.family == AF_INET6:
            return int(self.options.get("-M", 128))
        return number(self.options.get("-M", "255.255.255.255"))

    def _server(self) -> tuple:
        address, port, family = endpoint(self.options["-r"])
        if self.method != NAT and not self.key.fwmark:
            port = self.key.port        # ipvsadm gives the service's: these methods change no port
        tunnel = (TUNNEL_TYPES[self.options.get("--tun-type", "ipip")], int(self.options.get("--tun-port", 0)),
                  self.tunnel_flags)
        return (address, port, int(self.options.get("-w", 1)), self.method, int(self.options.get("-x", 0)),
                int(self.options.get("-y", 0)), tunnel, family)


def routes(world: dict, machine) -> list[tuple]:
    """Return what the host knows of the ways to real servers, as ``engine.set_routes`` takes it.

    *machine* gives the address in a family of the machine with an IPv4 address.
    """
    result = []
    for address in (*topology.SEGMENT_SERVERS, "10.2.0.1", "10.2.0.2"):
        side, mac = topology.next_hop(address)
        result.append((number(machine(address)), topology.mtu(world, side), number(machine(topology.DIRECTOR[side])),
                       INTERFACES[side], mac))
    result.append((number(machine("10.9.0.1")), -1, 0, 0, ""))
    return result


def frame(packet: bytes, next_hop: str) -> tuple[str, str, bytes]:
    """Return (side, MAC, packet) for a *packet* that the host sends on to *next_hop*."""
    hop = topology.next_hop(next_hop)
    return (*hop, packet) if hop else (NOWHERE, "", packet)


def as_delivered(packet: bytes) -> bytes:
    """Return *packet* as a raw socket of the host shows it: flow label and extension headers of IPv6 are not seen."""
    if packet[0] >> 4 == 4:
        return packet
    kind, at = packet[6], 40
    while kind in EXTENSIONS and kind != AUTHENTICATION:        # which the host cannot check
        kind, at = packet[at], at + extension_size(packet, kind, at)
    return with_length6(bytes((packet[0], packet[1] & 0xF0, 0, 0, 0, 0, kind)) + packet[7:40] + packet[at:])


def service_name(row: dict) -> str:
    if row["fwmark"]:
        return f"FWM {row['fwmark']}"
    return f"{row['protocol'].upper()} {place(row['address'], row['port'])}"


def flags_text(row: dict) -> str:
    """Return scheduler and flags as /proc/net/ip_vs has them."""
    words = [row["scheduler"]]
    if "ops" in row["flags"] and (row["fwmark"] or ":" not in row["address"]):      # not said of an IPv6 address
        words.append("ops")
    if "persistent" in row["flags"]:
        words.append(f"persistent {row['timeout']} {mask_text(row['netmask'])}")
    return " ".join(words)


def mask_text(netmask: str) -> str:
    """Return a netmask as /proc has it; the length of an IPv6 prefix is shown as if it were in network order."""
    if "." in netmask:
        return f"{number(netmask):08X}"
    return int(netmask).to_bytes(4, "little").hex().upper()


def shown(row: dict) -> list[int]:
    return [row["shown"][name] for name in ("conns", "packets_in", "packets_out", "bytes_in", "bytes_out")]


def number(address: str) -> int:
    return int.from_bytes(topology.packed(address))


def text(address: int, version: int) -> str:
    return socket.inet_ntop(*((AF_INET6, address.to_bytes(16)) if version == 6 else (AF_INET, address.to_bytes(4))))


def endpoint(text: str) -> tuple[int, int, int]:
    """Return ``10.0.0.1:80`` or ``[2001:db8::1]:80`` as (address, port, family)."""
    address, port = wire.endpoint(text)
    return int.from_bytes(address), port, AF_INET if len(address) == 4 else AF_INET6
