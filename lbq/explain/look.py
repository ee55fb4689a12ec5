"""What a running director knows of one packet, asked in its packet process: a short answer, and nothing changes.

It is all that a twin (twin.py) needs to decide as the director would: which service, what the scheduler remembers,
which connections and templates.  A service's servers are listed separately, in pages (``list_services``).
"""
from __future__ import annotations

from random import Random

from lbq.conntrack import FIELDS, RECORD
from lbq.model import PERSISTENT, RealServer, ServiceKey, VirtualService, fold
from lbq.schedulers.hashing import hash32
from lbq.schedulers.locality import LocalityBased
from lbq.schedulers.twos import PowerOfTwoChoices
from lbq.services import MOST_LINES, template_place

CONTROL = FIELDS.index("control")


def look(engine, family: int, protocol: int, source: int, source_port: int, destination: int, destination_port: int,
         fwmark: int, server_of: list | None = None) -> dict:
    """Return what *engine* knows of a packet with these ends and this firewall mark.

    *server_of* is a service of which the sender is a real server: what is said of it decides about a packet that
    belongs to no connection and is for no service.
    """
    numbers = [engine.number_at(protocol, source, source_port, destination, destination_port, family),
               engine.number_at(protocol, source, 0, destination, destination_port, family),
               engine.number_at(protocol, destination, destination_port, source, source_port, family, True)]
    service = engine.services.find_service(family, protocol, destination, destination_port, fwmark)
    if service is not None and service.flags & PERSISTENT:
        place = template_place(service, family, protocol, source, destination, destination_port)
        numbers.append(engine.number_at(place[0], place[1], 0, place[2], place[3], family))
    entries = {}
    while numbers:
        number = numbers.pop(0)
        record, server = engine.record(number)
        if record and number not in entries:
            entries[number] = {"record": record.hex(), "server": server and place_of(server)}
            numbers.append(RECORD.unpack_from(record)[CONTROL])
            if service is None and server is not None:
                service = engine.services.by_key.get(server.service.key)
                service = service if service is server.service else None        # it may be another of that name
    if service is None and server_of is not None and not entries:
        service = engine.services.by_key.get(ServiceKey(*server_of))
    counted = engine.statistics()
    return {"profile": engine.services.profile, "sysctls": engine.sysctls(), "timeouts": engine.timeouts(),
            "room": counted["connections_max"] - counted["connections"],
            "serves": sorted(engine.services.serves.elements()), "entries": entries,
            "service": service and _service(engine, service, destination)}


def place_of(server: RealServer) -> dict:
    """Return what names a server, and what decides about its connections' packets when it is deleted or quiesced."""
    key = server.service.key
    return {"key": key, "address": server.address, "port": server.port, "family": server.family, "mode": server.mode,
            "weight": server.weight, "available": server.available, "ends": server.ends, "tunnel": server.tunnel,
            "flags": server.service.flags, "idle": server.service.idle}


def _service(engine, service: VirtualService, destination: int) -> dict:
    services = engine.services
    return {"cursor": services.listed.index(service) * MOST_LINES, "key": service.key,
            "asked": services.asked[service.key], "state": state_of(service, destination),
            "last_weights": [(server.position, server.last_weight) for server in service.servers if not server.weight]}


def state_of(service: VirtualService, destination: int) -> dict:
    """Return what the scheduler of *service* remembers that its next choice depends on, servers as positions."""
    scheduler, state = service.scheduler, {}
    for name in ("last", "level"):
        value = getattr(scheduler, name, None)      # of a user's own class it may be anything
        if isinstance(value, (RealServer, int)):
            state[name] = value if isinstance(value, int) else value.position
    if isinstance(scheduler, PowerOfTwoChoices):
        state["drawn"] = next_draws(service, scheduler.random)
    if isinstance(scheduler, LocalityBased):
        entry = remembered(scheduler, destination)
        state["remembered"] = None if entry is None else {
            "address": destination, "servers": [server.position for server in servers_of(entry)],
            "last_use": entry.last_use, "last_change": getattr(entry, "last_change", 0)}
    return state


def next_draws(service: VirtualService, luck: Random) -> list[int]:
    """Return the two numbers that twos draws next; they stay to be drawn."""
    total = sum(server.weight for server in service.servers if server.can_schedule())
    same = Random()
    same.setstate(luck.getstate())
    return [same.randint(0, total) for _ in range(2)]


def remembered(scheduler, destination: int):
    """Return what lblc or lblcr remembers of *destination*, without using it; None for nothing."""
    buckets = scheduler.memory.buckets
    return buckets[hash32(fold(destination), len(buckets).bit_length() - 1)].get(destination)


def servers_of(entry) -> list[RealServer]:
    """Return the servers that an entry of lblc or lblcr leads to, those that are gone left out."""
    servers = entry.servers if hasattr(entry, "servers") else [entry.server]
    return [server for server in servers if server.position >= 0]
