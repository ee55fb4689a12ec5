"""What running kernels chose, lbq's schedulers choose: the histories of ``tests/vectors/kernel-schedulers.json``.

Only the scheduler is asked here.  Connections are counted as the kernel does until they end, and none ends: a SYN
makes one that is active, a datagram one that is not.
"""
from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from lbq import thresholds
from lbq.model import AF_INET, AF_INET6, CLASSIC, NEW, TCP, UDP, Flow, ServiceKey
from lbq.schedulers import flag_names
from lbq.services import ServiceTable, mark_key

HISTORIES = json.loads((Path(__file__).parents[2] / "vectors" / "kernel-schedulers.json").read_text())
PROTOCOLS = {"-t": TCP, "-u": UDP}


def endpoint(text: str) -> tuple[int, int]:
    """Return address and port of ``10.0.0.1:80`` or ``[fd00::1]:80``."""
    address, _, port = text.rpartition(":")
    family = AF_INET6 if "[" in address else AF_INET
    return int.from_bytes(socket.inet_pton(family, address.strip("[]"))), int(port)


class Replay:
    """One service in the place of the kernel."""

    def __init__(self, profile: str):
        self.table = ServiceTable(profile)

    @property
    def service(self):
        """Return the one service there is."""
        return next(iter(self.table.by_key.values()))

    def observe(self, step: str) -> str:
        """Let *step* happen and say it in the words of the recording."""
        if step.startswith("ipvsadm -L"):
            return self.listing()
        if step.startswith("ipvsadm"):
            return self.ipvsadm(step)
        if step.startswith("256 times"):
            chosen = {self.packet(f"UDP 192.168.0.1:{20000 + number} > 10.0.0.1:80") for number in range(256)}
            return f"all to {chosen.pop()}" if len(chosen) == 1 else f"to {chosen}"
        return self.packet(step)

    def ipvsadm(self, line: str) -> str:
        """Carry out one ipvsadm command."""
        _, action, kind, name, *rest = line.replace(" -m", "").split()
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        key = mark_key(int(name)) if kind == "-f" else ServiceKey(PROTOCOLS[kind], *endpoint(name))
        if action == "-A":
            flags = flag_names(options["-s"])[options["-b"]] if "-b" in options else 0
            self.table.add_service(key, options["-s"], flags)
        elif action == "-E":
            self.table.set_service(key, options["-s"], 0, 0, 0xFFFFFFFF)
        elif action == "-d":
            self.table.delete_server(key, *endpoint(options["-r"]))
        else:
            change = {"-a": self.table.add_server, "-e": self.table.set_server}[action]
            change(key, *endpoint(options["-r"]), int(options["-w"]), upper=int(options.get("-x", 0)))
        return "ok"

    def packet(self, step: str) -> str:
        """Open a connection and say who serves it."""
        protocol, client, vip = re.fullmatch(r"(TCP SYN|UDP) (\S+) > (\S+)", step).groups()
        flow = Flow(UDP if protocol == "UDP" else TCP, *endpoint(client), *endpoint(vip), now_ns=1)
        server = self.service.scheduler.schedule(self.service, flow)
        if server is None:
            return "ICMP port unreachable to the client"
        if flow.protocol == UDP:
            server.inactive_conns += 1
        else:
            server.active_conns += 1
        total = server.active_conns + server.inactive_conns
        server.overloaded = thresholds.after_bind(
            self.table.is_new, server.upper, server.lower, total, False, server.overloaded)
        if server.address >> 32:
            return f"[{socket.inet_ntop(AF_INET6, server.address.to_bytes(16))}]:{server.port}"
        return f"{socket.inet_ntop(AF_INET, server.address.to_bytes(4))}:{server.port}"

    def listing(self) -> str:
        """Return ``A(active,inactive) B(…)``, by address."""
        servers = sorted(self.service.servers, key=lambda server: server.address)
        return " ".join(f"{'ABCDE'[(server.address & 0xFF) - 1]}({server.active_conns},{server.inactive_conns})"
                        for server in servers)


def plays():
    """Return each history once for each kernel profile it was recorded on."""
    for history in HISTORIES:
        for profile, kernel in ((CLASSIC, "6.1.176"), (NEW, "6.1.192")):
            if kernel in history["kernel"]:
                yield pytest.param(profile, history, id=f"{profile}: {history['title']}")


@pytest.mark.parametrize(("profile", "history"), [*plays()])
def test_a_kernels_choices(profile, history):
    replay = Replay(profile)
    for command in history["commands"]:
        replay.ipvsadm(command)

    for number, (step, observed) in enumerate(history["steps"]):
        assert replay.observe(step) == observed, f"step {number}: {step}"
