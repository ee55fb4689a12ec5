"""A director's services and connections as plain data, taken from a running one or a file, and made into an engine."""
from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable

from lbq.conntrack import STATE_NAMES, TEMPLATE_STATES, Connection, ends_of
from lbq.control.rows import key_of
from lbq.director import Director
from lbq.errors import ConfigError, LbqError
from lbq.explain.twin import Witness, of_rows
from lbq.model import AF_INET, AF_INET6, IP, MIXED, PERSISTENT, TEMPLATE, RealServer, VirtualService
from lbq.options import MAX_SECONDS, PROFILES
from lbq.services import template_place
from lbq.sysctls import PREFIX

FORMAT = 1
SECOND = 1_000_000_000
NOW = 1_000_000 * SECOND        # of the copy's clock
MOST = {"cport": 0xFFFF, "vport": 0xFFFF, "dport": 0xFFFF, "flags": 0xFFFF, "fwmark": 0xFFFF_FFFF,
        "packets_in": 0xFFFF_FFFF, "expires_seconds": 0xFFFF_FFFF}         # that a connection can have, from 0 on


def take(client, progress: Callable[[int], None]) -> dict:
    """Return all that the director which *client* speaks to has; *progress* hears how many connections there are."""
    table = {"lbq_table": FORMAT, "services": client.call("list"), "sysctls": client.call("sysctl", settings=[]),
             "timeouts": client.call("timeouts"), "profile": client.call("status")["profile"], "connections": []}
    for row in client.connections():
        table["connections"].append(row)
        if len(table["connections"]) % 10_000 == 0:
            progress(len(table["connections"]))
    return table


def read(path: str) -> dict:
    """Return what ``--save`` wrote into *path*."""
    try:
        with open(0 if path == "-" else path, closefd=path != "-") as file:
            table = json.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        table = None                    # no JSON, not even text
    if not isinstance(table, dict) or table.get("lbq_table") != FORMAT:
        raise ConfigError(f"{path} is no table that lbq whatif --save wrote")
    try:
        copy(table)
    except (LbqError, OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ConfigError(f"{path} is a damaged table ({type(error).__name__}: {error}); save it again") from error
    return table


def copy(table: dict) -> Witness:
    """Return an engine that has the services and connections of *table*."""
    if table["profile"] not in PROFILES:
        raise ValueError(f"profile {table['profile']!r}")
    for name, seconds in table["timeouts"].items():
        if type(seconds) is not int or not 1 <= seconds <= MAX_SECONDS:
            raise ValueError(f"timeout {name} {seconds!r}")
    sysctls = {name.removeprefix(PREFIX): value for name, value in table["sysctls"].items()}
    engine = of_rows(table["services"], sysctls, tuple(table["timeouts"][name] for name in ("tcp", "tcpfin", "udp")),
                     table["profile"])
    engine.connections.max_connections = len(table["connections"]) * 2 + 1024
    engine.limit_icmp(False)
    gone: dict[tuple, RealServer] = {}
    rows = sorted(table["connections"], key=lambda row: not row["flags"] & TEMPLATE)        # templates come first
    for row in rows:
        if wrong := [name for name, most in MOST.items() if type(row[name]) is not int or not 0 <= row[name] <= most]:
            raise ValueError(f"{wrong[0]} {row[wrong[0]]!r}")
        _enter(engine, row, gone)
    for row in table["services"]:
        service = engine.services.by_key[key_of(row)]
        for server, its in zip(service.servers, row["servers"], strict=True):
            overloaded = its.get("overloaded", False)
            if overloaded not in (True, False):
                raise ValueError(f"overloaded {overloaded!r}")
            server.overloaded = overloaded
    return engine


def _enter(engine: Director, row: dict, gone: dict[tuple, RealServer]) -> None:
    """Enter the connection or template in *row*."""
    protocol, client, cport, vip, vport, family = ends_of(row)
    address = ipaddress.ip_address(row["daddr"])
    place = int(address), row["dport"], AF_INET if address.version == 4 else AF_INET6
    is_template = row["flags"] & TEMPLATE != 0
    service = _service(engine, row, protocol, vip, vport, family)
    server = _server(service, place, row["vport"]) if service is not None else None
    if server is None:
        server = gone.setdefault(place, _deleted(place, engine))
    connection = Connection(protocol, client, cport, vip, vport, server, row["dport"], row["flags"] & TEMPLATE,
                            row["fwmark"], family)
    connection.flags = row["flags"] | connection.flags & MIXED         # which listings do not show
    connection.state = (TEMPLATE_STATES if is_template else STATE_NAMES[protocol]).index(row["state"])
    connection.packets_in = row["packets_in"]
    connection.timeout_seconds = max(row["expires_seconds"], 1)
    if not engine.connections.add(connection):
        raise ValueError("more connections than the table says")
    engine.connections.restart_timer(connection, NOW)
    if not is_template and service is not None and service.flags & PERSISTENT:
        protocol, client, vip, vport = template_place(service, family, protocol, client, vip, vport)
        template = engine.connections.find(family, protocol, client, 0, vip, vport, TEMPLATE)
        if template is not None:
            connection.control = template
            template.controlled += 1


def _service(engine: Director, row: dict, protocol: int, vip: int, vport: int, family: int) -> VirtualService | None:
    """Return the service that a connection or a template is of."""
    if protocol == IP:                  # the template of a mark: its address is the mark
        return engine.services.find_service(family, protocol, 0, 0, vip >> 96 if family == AF_INET6 else vip)
    return engine.services.find_service(family, protocol, vip, vport, row["fwmark"])


def _server(service: VirtualService, place: tuple[int, int, int], vport: int) -> RealServer | None:
    """Return the server of *service* that a connection to its *vport*, or a template, goes to."""
    address, port, family = place
    servers = [each for each in service.servers if (each.address, each.family) == (address, family)]
    found = next((each for each in servers if each.port in (0, port)), None)
    # A template has port 0; what is not for the service's own port keeps that when it is persistent, or FTP's data.
    keeps_port = port == 0 or (vport != service.key.port and (service.flags & PERSISTENT or not service.key.fwmark))
    return next(iter(servers), None) if found is None and keeps_port else found


def _deleted(place: tuple[int, int, int], engine: Director) -> RealServer:
    """Return a server that is in no service any more."""
    server = RealServer(*place[:2], family=place[2])
    server.available, server.slot = False, len(engine.slots)
    server.service = VirtualService(next(iter(engine.services.by_key), None) or (0, 0, 0, AF_INET, 0))
    engine.slots.append(server)
    return server
