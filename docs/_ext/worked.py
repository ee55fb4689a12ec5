"""The same eight connections through every scheduler, with the reasons of each choice."""
from __future__ import annotations

from random import Random
from typing import NamedTuple

from lbq.explain.reasons import Reasons, question
from lbq.grammar import format_address
from lbq.model import AF_INET, TCP, Flow, RealServer, ServiceKey, VirtualService
from lbq.schedulers import create

SERVERS = {"A": 3, "B": 1, "C": 2, "D": 0}      # weights, in the order they are added in
FIRST_SERVER = 0xC0A81401                       # A is 192.168.20.1
VIPS = 0xC0A80A01, 0xC0A80A02                   # 192.168.10.1 and .2, one service by a firewall mark
CLIENTS = 9, 10, 11, 9, 12, 10, 9, 13           # 192.168.10.9, .10 …
NETWORK = 0xC0A80A00
SEED = 1                                        # of twos, the only one with luck
SAID = """\
Four servers, added in the order A (192.168.20.1) to D, so that D comes first in the list: weights A 3, B 1, C 2, and
D 0, which is quiesced.  Eight clients connect to two addresses of one service (a firewall mark) in turn.  Every second
connection has ended when the next one comes and counts as inactive from then on; the others stay active."""


class Step(NamedTuple):
    """One connection: who comes, where to, whom it is given, and why."""

    client: str
    destination: str
    chosen: str         # a letter, or "nobody"
    reasons: Reasons


def steps(scheduler: str) -> list[Step]:
    """Return what *scheduler* makes of the eight connections."""
    service = VirtualService(ServiceKey(0, 0, 0, AF_INET, 7), create(scheduler))
    if scheduler == "twos":
        service.scheduler.random = Random(SEED)
    for number, weight in enumerate(SERVERS.values()):
        service.add(RealServer(FIRST_SERVER + number, 80, weight))
    told = []
    for number, client in enumerate(CLIENTS):
        flow = Flow(TCP, NETWORK + client, 40000 + number, VIPS[number % len(VIPS)], 80, now_ns=number + 1)
        asked = question(service, flow)
        server = service.scheduler.schedule(service, flow)
        told.append(Step(format_address(flow.caddr, AF_INET), format_address(flow.vaddr, AF_INET), letter(server),
                         asked.answer(server)))
        if server is not None:
            if number % 2:
                server.inactive_conns += 1
            else:
                server.active_conns += 1
    return told


def letter(server: RealServer | None) -> str:
    """Return the name of *server* in this example."""
    return "nobody" if server is None else list(SERVERS)[server.address - FIRST_SERVER]
