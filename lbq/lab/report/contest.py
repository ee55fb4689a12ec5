"""All schedulers and the same hundred connections: who gets which, step by step.

The schedulers are the real ones; so are the numbers of connections they look at.  Only the clients are made up: at each
step one of twelve begins a connection, which lasts for a number of steps, and some last long.  Nothing is left to
chance, but for ``twos``, which draws; its luck is always the same here.
"""
from __future__ import annotations

from random import Random
from typing import NamedTuple

from lbq.explain.reasons import question
from lbq.grammar import format_address, parse_address
from lbq.model import TCP, Flow, RealServer, ServiceKey, VirtualService
from lbq.schedulers import BUILT_IN, create
from lbq.schedulers.base import Scheduler

CONNECTIONS = 100
WEIGHTS = {"A": 3, "B": 2, "C": 1}
CLIENTS = 12
SEED = 1998             # the year of LVS
LASTS = (2, 3, 4, 4, 5, 6, 8, 10, 14, 30)      # steps, one as likely as another
VIP, FIRST_CLIENT, FIRST_SERVER = "192.168.10.1", "192.168.10.100", "192.168.20.1"


class Visit(NamedTuple):
    """One client's connection, which begins at the step of its number."""

    client: int
    port: int
    lasts: int


def run(schedulers: tuple[str, ...] = tuple(BUILT_IN)) -> dict:
    """Return for each of *schedulers* what became of each connection, and the open ones of each server at each step."""
    chance = Random(SEED)
    first = _number(FIRST_CLIENT)
    visits = [Visit(first + chance.randrange(CLIENTS), 40000 + number, chance.choice(LASTS))
              for number in range(CONNECTIONS)]
    return {"servers": [{"name": name, "weight": weight} for name, weight in WEIGHTS.items()],
            "visits": [{"client": format_address(visit.client), "lasts": visit.lasts} for visit in visits],
            "schedulers": [_run(name, visits) for name in schedulers]}


def _run(name: str, visits: list[Visit]) -> dict:
    """Return what scheduler *name* does; servers are numbers, None is a client that nobody was found for."""
    service = VirtualService(ServiceKey(TCP, _number(VIP), 80), create(name))
    if hasattr(service.scheduler, "random"):
        service.scheduler.random = Random(SEED)
    servers = [RealServer(_number(FIRST_SERVER) + number, 80, weight) for number, weight in enumerate(WEIGHTS.values())]
    for server in servers:
        service.add(server)
    chosen: list[int | None] = []
    scores = []
    for now, visit in enumerate(visits):
        for server, begun in zip(chosen, visits, strict=False):         # those that end now
            if server is not None and begun.port - 40000 + begun.lasts == now:
                servers[server].active_conns -= 1
        flow = Flow(TCP, visit.client, visit.port, service.key.address, 80, now_ns=now * 1_000_000_000)
        asked = question(service, flow)
        server = service.scheduler.schedule(service, flow)
        answer = asked.answer(server)
        by_name = {candidate.server: candidate.score for candidate in answer.candidates}
        scores.append([by_name[f"{format_address(each.address)}:80"] for each in servers])
        chosen.append(None if server is None else servers.index(server))
        if server is not None:
            server.active_conns += 1
    return {"name": name, "title": _about(service.scheduler), "chosen": chosen,
            "scores": scores}


def _about(scheduler: Scheduler) -> str:
    """Return what a scheduler says of itself; compiled, its signature comes before."""
    return (type(scheduler).__doc__ or "").rpartition("\n\n")[2].strip()


def _number(address: str) -> int:
    return parse_address(address)[0]
