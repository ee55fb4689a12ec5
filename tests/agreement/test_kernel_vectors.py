"""What running kernels did, both directors do: the histories of ``tests/vectors``."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lbq.director import ACCEPT, DROP
from tests.helpers import packets, sampled
from tests.helpers.engines import ENGINES, NS, POSTROUTING, PREROUTING, connections, key, services
from tests.helpers.packets import endpoint, read

HISTORIES = json.loads((Path(__file__).parents[1] / "vectors" / "kernel-ipvs.json").read_text())
FLAGS = {"SYN": "S", "ACK": "A", "FIN": "F", "RST": "R"}
PROTOCOLS = {"-t": "tcp", "-u": "udp"}


class Replay:
    """One director in the place of the kernel."""

    def __init__(self, engine):
        self.engine = engine
        self.now_ns = 1_000 * NS

    def observe(self, step: str) -> str:
        """Let *step* happen and say it in the words of the recording."""
        if step.startswith("ipvsadm -L"):
            return self.listing()
        if step.startswith("ipvsadm"):
            return self.ipvsadm(step)
        if step.startswith(("client ", "server ")):
            return self.segment(*step.split())
        return self.packet(step)

    def ipvsadm(self, line: str) -> str:
        """Carry out one ipvsadm command."""
        _, action, kind, vip, *rest = line.replace(" -m", "").split()
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        service = key(f"{PROTOCOLS[kind]}:{vip}")
        if action == "-A":
            self.engine.add_service(service, options["-s"])
            return "ok"
        server = (service, *endpoint(options["-r"]))
        if action == "-d":
            self.engine.delete_server(*server)
        else:
            {"-a": self.engine.add_server, "-e": self.engine.set_server}[action](*server, int(options["-w"]))
        return "ok"

    def listing(self) -> str:
        """Return ``A(active,inactive) B(…)``, by address."""
        servers = sorted((row["address"], row["active"], row["inactive"])
                         for service in services(self.engine) for row in service["servers"])
        return " ".join(f"{'ABCDE'[int(address[-1]) - 1]}({active},{inactive})"
                        for address, active, inactive in servers)

    def packet(self, step: str) -> str:
        """Send ``TCP SYN client > vip`` and say what came of it."""
        flags, source, destination = re.fullmatch(r"TCP (\S+) (\S+) > (\S+)", step).groups()
        packet = packets.tcp(source, destination, "".join(FLAGS[flag] for flag in flags.split("+")))
        verdict = self.engine.handle(packet, PREROUTING, 0, 0, self.now_ns)
        if verdict.action == DROP:
            return "ICMP port unreachable to the client" if verdict.answer else "nothing sent"
        if verdict.changed:
            return read(packet).destination
        # Passed to the host, which has no listener: it answers everything but a reset.
        return "nothing sent" if flags == "RST" else "RST from the host"

    def segment(self, sender: str, flags: str) -> str:
        """Send one segment of the one connection and return its state and its seconds."""
        flags = "" if flags == "none" else flags
        if sender == "client":
            packet, hook = packets.tcp("192.168.0.1:40001", "10.0.0.1:80", flags), PREROUTING
        else:
            packet, hook = packets.tcp("10.1.0.1:80", "192.168.0.1:40001", flags), POSTROUTING
        verdict = self.engine.handle(packet, hook, 0, 0, self.now_ns)
        assert verdict.action == ACCEPT
        found = connections(self.engine, self.now_ns)
        return f"{found[0]['state']} {found[0]['expires_seconds']}" if found else "no entry"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history["title"])
def test_a_kernels_history(history, engine):
    replay = Replay(ENGINES[engine]())
    for command in history["commands"]:
        replay.ipvsadm(command)

    for number, (step, observed) in enumerate(history["steps"]):
        assert replay.observe(step) == observed, f"step {number}: {step}"
        sampled.COUNTED["kernel histories: steps"] += 1
