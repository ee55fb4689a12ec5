"""Changes as kernel IPVS makes them, for ``lbq-ipvsadm``: add and edit say everything, and what is odd is allowed.
And, for ``lbq import``, all services at once, or nothing.

``operations.py`` changes what is named and refuses what can only be a mistake; here an edit replaces all settings,
a netmask may have holes, port 0 need not be persistent, and what is refused is what the kernel refuses.

Kernel: ip_vs_ctl.c, ip_vs_genl_set_cmd(), ip_vs_add_service(), ip_vs_edit_service(), ip_vs_add_dest(),
ip_vs_edit_dest(), in their order of checks.
Differs from IPVS: a persistence engine is kept and listed, but persistence goes by the client's address.
"""
from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from lbq.control.operations import Membership, Operations, service_arguments
from lbq.control.rows import key_of, server_of, server_place, service_of
from lbq.errors import (
    ConfigError,
    LbqError,
    NoSuchServer,
    NoSuchService,
    NotUnicast,
    ServerExists,
    ServiceExists,
    ThresholdsReversed,
    UnknownScheduler,
)
from lbq.grammar import ServerWords, format_address, format_endpoint, format_service
from lbq.model import AF_INET, GUE, TUN, ServiceKey, is_link_local6, is_unicast6
from lbq.options import MAX_SECONDS, ServiceWords
from lbq.schedulers import BUILT_IN, names

ENGINES = ("", "sip")       # persistence engines

logger = logging.getLogger("lbq.control")


class Step(NamedTuple):
    """One change: what will have been done, and what does it."""

    sentence: str
    do: Callable[[], Awaitable]


class KernelCommands:
    """What the control socket offers to ipvsadm."""

    def __init__(self, operations: Operations):
        self.operations = operations

    def methods(self) -> dict:
        """Return the coroutines that the control socket offers, by name."""
        return {method.__name__: method for method in (self.kernel_service, self.kernel_server, self.replace)}

    async def kernel_service(self, do: str, service: dict) -> str:
        """Add, edit (all settings), delete or zero the service in the row *service*; return what was done."""
        key = key_of(service)
        name = format_service(key)
        async with self.operations.change:
            known = self.operations.services.get(key)
            if do == "add" and known is not None:
                raise ServiceExists(f"cannot add service {name}: it is already there")
            if do != "add" and known is None:
                raise NoSuchService(f"no service {name}")
            if do == "delete":
                await self.operations.drop_service(key)
                return self.operations.did(f"deleted service {name}")
            if do == "zero":
                await self.operations.process.call("zero", key)
                return self.operations.did(f"counters of {name} start from zero")
            if do not in ("add", "edit"):
                raise ConfigError(f"a service can be added, edited, deleted and zeroed; '{do}' is none of it")
            words = service_of(service)
            if known is not None:
                words = _with_what_only_lbq_has(words, known)
            if words.pe not in ENGINES:
                raise UnknownScheduler(f"no persistence engine {words.pe}; there is sip")
            if words.pe:
                logger.warning("service %s: the persistence engine %s is kept, but clients are told apart by their "
                               "addresses", name, words.pe)
            if do == "add":
                await self.operations.put_service(key, words)
                return self.operations.did(f"added service {name}")
            await self.operations.change_service(key, words)
            return self.operations.did(f"service {name} has other settings now")

    async def kernel_server(self, do: str, service: dict, server: dict) -> str:
        """Add, edit (all settings) or delete the real server in the row *server*; return what was done."""
        key = key_of(service)
        place = server_place(key, server)
        name = _name(place)
        async with self.operations.change:
            if key not in self.operations.services:
                raise NoSuchService(f"no service {format_service(key)}")
            if do == "delete":
                self._require(place, name)
                await self.operations.drop_server(place)
                return self.operations.did(f"deleted server {name}")
            if do not in ("add", "edit"):
                raise ConfigError(f"a server can be added, edited and deleted; '{do}' is none of it")
            words = server_of(server)
            _check(key, words)
            if do == "edit":
                self._require(place, name)
                await self.operations.change_server(place, words)
                return self.operations.did(f"server {name} has other settings now")
            if place in self.operations.servers:
                raise ServerExists(f"cannot add server {name}: it is already there")
            if place not in self.operations.trash:
                await self._require_unicast(words.family, words.address)
            await self.operations.put_server(place, words)
            return self.operations.did(f"added server {name}")

    async def replace(self, services: list, timeouts: dict, dry_run: bool = False) -> list:
        """Make the services be those in the rows *services*, all of it or nothing; return what was done.

        What is there already and shall be stays as it is, with its connections.  *timeouts* that are 0 or not named
        are kept.
        """
        wanted, servers = _read(services)
        seconds = [timeouts.get(name, 0) for name in ("tcp", "tcpfin", "udp")]
        if any(type(value) is not int or not 0 <= value <= MAX_SECONDS for value in seconds):
            raise ConfigError(f"timeouts are tcp, tcpfin and udp, from 0 to {MAX_SECONDS} seconds")
        async with self.operations.change:
            for place, words in servers.items():
                if place not in self.operations.servers:
                    await self._require_unicast(words.family, words.address)
            now = self.operations.services
            wanted = {key: _with_what_only_lbq_has(words, now[key]) if key in now else words
                      for key, words in wanted.items()}
            steps = self._plan(wanted, servers)
            if not dry_run:
                await self._carry_out(steps)
                await self.operations.process.call("set_timeouts", *seconds)
        return [step.sentence if dry_run else self.operations.did(step.sentence) for step in steps]

    async def _carry_out(self, steps: list[Step]) -> None:
        """Do all *steps*; when one fails, go back from wherever that led, and raise."""
        before = dict(self.operations.services), dict(self.operations.servers)
        try:
            for step in steps:
                await step.do()
        except BaseException:
            try:
                for step in self._plan(*before):
                    await step.do()
            except LbqError as error:
                logger.error("cannot take back what was done: %s", error)
            raise

    def _plan(self, wanted: dict[ServiceKey, ServiceWords], servers: dict[Membership, ServerWords]) -> list[Step]:
        """Return the steps from what there is to what is *wanted*; what goes, goes last."""
        now = self.operations
        steps = []
        for key, words in wanted.items():
            before = now.services.get(key)
            if before is None:
                steps.append(Step(f"added service {format_service(key)}", partial(now.put_service, key, words)))
            elif service_arguments(words) != service_arguments(before) or words.pe != before.pe:
                steps.append(Step(f"service {format_service(key)} has other settings now",
                                  partial(now.change_service, key, words)))
        for place, words in servers.items():
            if place not in now.servers:
                steps.append(Step(f"added server {_name(place)}", partial(now.put_server, place, words)))
            elif words != now.servers[place]:
                steps.append(Step(f"server {_name(place)} has other settings now",
                                  partial(now.change_server, place, words)))
        steps += [Step(f"deleted server {_name(place)}", partial(now.drop_server, place))
                  for place in now.servers if place not in servers and place[0] in wanted]
        return steps + [Step(f"deleted service {format_service(key)}", partial(now.drop_service, key))
                        for key in now.services if key not in wanted]

    def _require(self, place: Membership, name: str) -> None:
        if place not in self.operations.servers:
            raise NoSuchServer(f"no server {name}")

    async def _require_unicast(self, family: int, address: int) -> None:
        if not is_unicast(family, address) or await self.operations.host.call("is_broadcast", family, address):
            raise NotUnicast(f"{format_address(address, family)} is not the address of one host")


def _name(place: Membership) -> str:
    key, *server = place
    return f"{format_endpoint(*server)} of {format_service(key)}"


def _with_what_only_lbq_has(words: ServiceWords, before: ServiceWords) -> ServiceWords:
    """Return *words* with those settings of *before* that ipvsadm cannot say."""
    return dataclasses.replace(words, mode=before.mode, on_delete=before.on_delete, on_quiesce=before.on_quiesce,
                               ops_replies=before.ops_replies and words.ops, idle=before.idle)


def _read(services: list) -> tuple[dict[ServiceKey, ServiceWords], dict[Membership, ServerWords]]:
    """Return the services and servers in rows, each there once and possible by itself."""
    wanted: dict[ServiceKey, ServiceWords] = {}
    servers: dict[Membership, ServerWords] = {}
    for row in services:
        if not isinstance(row, dict) or not isinstance(row.get("servers"), list):
            raise ConfigError("services are rows of a listing, with their servers")
        key = key_of(row)
        if key in wanted:
            raise ConfigError(f"service {format_service(key)} is there twice")
        wanted[key] = service_of(row)
        if wanted[key].scheduler not in BUILT_IN and wanted[key].scheduler not in names():
            raise UnknownScheduler(f"service {format_service(key)}: no scheduler {wanted[key].scheduler}")
        for server in row["servers"]:
            if not isinstance(server, dict):
                raise ConfigError("servers are rows of a listing")
            place = server_place(key, server)
            if place in servers:
                raise ConfigError(f"server {_name(place)} is there twice")
            servers[place] = server_of(server)
            _check(key, servers[place])
    return wanted, servers


def _check(key: ServiceKey, words: ServerWords) -> None:
    if words.family != key.family and words.mode != TUN:
        raise ConfigError(f"{format_address(words.address, words.family)} is of another family than its service; only "
                          "a tunnel leads there")
    if words.lower > words.upper:
        raise ThresholdsReversed(f"lower threshold {words.lower} is above the upper one, {words.upper}")
    if words.mode == TUN and words.tunnel == GUE and not words.tunnel_port:
        raise ConfigError("a GUE tunnel needs a port")


def is_unicast(family: int, address: int) -> bool:
    """Return True for what may be one host's address, whatever the networks of this host are.

    Kernel: inet_addr_type() without the local table, ipv6_addr_type().
    """
    if family == AF_INET:
        return address not in (0, 0xFFFFFFFF) and address >> 28 != 0xE
    return is_unicast6(address) and not is_link_local6(address)
