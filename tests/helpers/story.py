"""Random histories of a director: packets, commands and clock jumps, the same for the same seed.

A story is a list of ``Step``.  Its world is small on purpose, so that clients come back, ports collide,
servers are deleted while they have connections, tables fill up, and every reason to drop or pass a packet
occurs.  Nothing in a story depends on how a director answers it.
"""
from __future__ import annotations

import hashlib
import random
from typing import NamedTuple

from lbq.errors import LbqError
from tests.helpers import packets
from tests.helpers.engines import (
    FORWARD,
    LOCAL_IN,
    LOCAL_OUT,
    LOOPBACK,
    NS,
    POSTROUTING,
    PREROUTING,
    connections,
    key,
    services,
)
from tests.helpers.packets import address, endpoint

CLIENTS = [f"192.168.10.{host}:{port}" for host in (9, 10) for port in (40000, 40001)]
STRANGERS = ["192.168.10.9:20", "224.0.0.5:4000", "0.0.0.0:68", "10.99.0.1:5353"]
SERVICES = ["tcp:192.168.10.1:80", "tcp:192.168.10.1:443", "tcp:192.168.10.2:80", "udp:192.168.10.1:80"]
NO_SERVICES = ["tcp:192.168.10.1:81", "udp:192.168.10.3:53"]
SERVERS = ["192.168.20.1:80", "192.168.20.1:8080", "192.168.20.2:80", "192.168.20.3:0"]
FLAGS = ["S"] * 10 + ["A"] * 6 + ["FA"] * 3 + ["SA", "R", "RA", "PA", "SF", "SR", "F", "", "P"]
FORMS = [(0, "right")] * 5 + [(4, "right"), (0, 0x1234), (0, "none"),
                              (1, "pseudo"), (2, "pseudo"), (3, "pseudo")]
IP_OPTIONS = [b"", b"", b"", b"\x01" * 4, b"\x01" * 40]
REQUEST_HOOKS = [PREROUTING] * 8 + [LOCAL_OUT] * 3 + [POSTROUTING, FORWARD]
REPLY_HOOKS = [POSTROUTING] * 6 + [LOCAL_IN] * 3 + [PREROUTING, FORWARD]
SCHEDULERS = ("rr", "wrr", "wlc")
COMMANDS = ["set_server"] * 2 + ["delete_server"] * 3 + ["add_service"] * 8 + [
    "delete_service", "set_local_addresses", "set_timeouts", "empty_trash"]
JUMPS = [0, NS // 10] * 12 + [3 * NS] * 6 + [11 * NS] * 3 + [61 * NS, 121 * NS, 301 * NS, 901 * NS]


class Step(NamedTuple):
    """One thing that happens: ``packet``, ``call`` (a command) or ``advance`` (the clock, in ns)."""

    kind: str
    arguments: tuple


def story(seed: int, length: int) -> list[Step]:
    """Return *length* steps."""
    choose = random.Random(seed)
    steps = [Step("call", ("add_service", key(service), choose.choice(SCHEDULERS))) for service in SERVICES]
    commands = COMMANDS + ["add_server"] * choose.choice((1, 10, 20))     # servers are scarce, or plenty
    steps += [_command(choose, "add_server") for _ in range(len(commands) - len(COMMANDS))]
    while len(steps) < length:
        steps.append(_step(choose, commands))
    return steps


def crowd(seed: int, length: int) -> list[Step]:
    """Return a story of thousands of connections that come, close in one way or another, and end."""
    choose = random.Random(seed)
    steps = [Step("call", ("add_service", key(service), "wlc")) for service in SERVICES]
    steps += [Step("call", ("add_server", key(service), *endpoint(server)))
              for service in SERVICES for server in SERVERS]
    while len(steps) < length:
        client = f"10.0.{choose.randrange(4)}.1:{choose.randrange(1024, 2024)}"
        protocol, _, vip = choose.choice(SERVICES).partition(":")
        server = choose.choice(SERVERS[:3])
        reply = choose.random() < 0.3
        source, destination = (server, client) if reply else (client, vip)
        build = packets.udp if protocol == "udp" else packets.tcp
        flags = {} if protocol == "udp" else {"flags": choose.choice(("S", "S", "A", "FA", "R"))}
        packet = bytes(build(source, destination, **flags))
        steps.append(Step("packet", (packet, POSTROUTING if reply else PREROUTING, 0, 2, False)))
        if choose.random() < 0.05:
            steps.append(Step("advance", (choose.randrange(NS),)))
    return steps[:length]


def _step(choose: random.Random, commands: list[str]) -> Step:
    kind = choose.random()
    if kind < 0.74:
        return _packet(choose)
    if kind < 0.78:
        return _broken_packet(choose)
    if kind < 0.88:
        return Step("advance", (choose.choice(JUMPS),))
    return _command(choose, choose.choice(commands))


def _packet(choose: random.Random) -> Step:
    """Return a packet of a client or of a server, mostly at a hook where such packets are seen."""
    form, checksum = choose.choice(FORMS)
    if choose.random() < 0.7:
        protocol, _, destination = choose.choice(SERVICES * 4 + NO_SERVICES).partition(":")
        source, hook = choose.choice(CLIENTS * 6 + STRANGERS), choose.choice(REQUEST_HOOKS)
    else:
        protocol = choose.choice(("tcp", "tcp", "udp"))
        source = choose.choice([*SERVERS, "192.168.20.3:80"])
        destination, hook = choose.choice(CLIENTS), choose.choice(REPLY_HOOKS)
    payload = choose.randbytes(choose.choice((0, 0, 1, 7, 64, 519, 3000)))
    options = {"payload": payload, "checksum": checksum, "ip_options": choose.choice(IP_OPTIONS),
               "tos": choose.choice((0, 0x10, 0xFF)), "ttl": choose.choice((1, 64))}
    if protocol == "tcp":
        packet = packets.tcp(source, destination, choose.choice(FLAGS), **options)
    else:
        packet = packets.udp(source, destination, **options)
    out_device, truncated = choose.choice((0, LOOPBACK, 2, 3)), choose.random() < 0.01
    return Step("packet", (bytes(packet), hook, form, out_device, truncated))


def _broken_packet(choose: random.Random) -> Step:
    """Return a packet with a field that lies, or that ends too early, or of a protocol that is not ours."""
    packet = bytearray(_packet(choose).arguments[0])
    damage = choose.randrange(8)
    if damage == 0:
        del packet[choose.randrange(len(packet)):]
    elif damage == 1:
        packet[choose.randrange(min(len(packet), 40))] ^= 1 << choose.randrange(8)
    elif damage == 2:
        packet[0] = choose.randrange(256)
    elif damage == 3:
        packet[2:4] = choose.randrange(80).to_bytes(2, "big")
    elif damage == 4:
        packet[6:8] = choose.choice((0x2000, 0x0001, 0x1FFF, 0x8000, 0xC000)).to_bytes(2, "big")
    elif damage == 5:
        packet[9] = choose.choice((0, 1, 2, 4, 47, 50, 132, 255))
    elif damage == 6:
        packet[(packet[0] & 15) * 4 + 12 if len(packet) > 72 else 0] = choose.randrange(256)
    else:
        packet += choose.randbytes(choose.randrange(1, 40))
    hook, form = choose.choice((PREROUTING, POSTROUTING)), choose.choice((0, 1, 2, 3))
    return Step("packet", (bytes(packet), hook, form, 2, choose.random() < 0.05))


def _command(choose: random.Random, name: str) -> Step:
    service = key(choose.choice(SERVICES))
    server = endpoint(choose.choice(SERVERS))
    arguments = {
        "add_service": (service, choose.choice((*SCHEDULERS, "wcl"))),
        "delete_service": (service,),
        "add_server": (service, *server, choose.choice((0, 1, 1, 2, 3, 10))),
        "set_server": (service, *server, choose.choice((0, 1, 2, 5))),
        "delete_server": (service, *server),
        "set_local_addresses": (choose.choice(([], [address("192.168.20.1")], [address("192.168.20.3")])),),
        "set_timeouts": (choose.choice((0, 0, 30, 900)), choose.choice((0, 0, 5)), choose.choice((0, 0, 20))),
        "empty_trash": (),
    }[name]
    return Step("call", (name, *arguments))


class Teller:
    """Tells a story to one director and keeps its clock."""

    def __init__(self, engine, start_ns: int = 1_000 * NS):
        self.engine = engine
        self.now_ns = start_ns

    def tell(self, step: Step):
        """Let *step* happen; return all that is seen of it."""
        if step.kind == "packet":
            content, *rest, truncated = step.arguments
            packet = bytearray(content)
            verdict = self.engine.handle(packet, *rest, self.now_ns, truncated)
            return verdict, bytes(packet)
        if step.kind == "advance":
            self.now_ns += step.arguments[0]
            return self.engine.expire(self.now_ns)
        name, *arguments = step.arguments
        try:
            return getattr(self.engine, name)(*arguments)
        except LbqError as error:
            return type(error).__name__, str(error)

    def state(self) -> dict:
        """Return what the listings show."""
        return {"services": services(self.engine, limit=2),
                "connections": connections(self.engine, self.now_ns, limit=7)}


def digest(seen) -> str:
    """Return a short fingerprint of *seen*, equal in another process."""
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
