"""What can be asked of a running director, and in which order host and engine follow a change.

    add      the host's set first, then the engine: a connection never starts whose replies nobody rewrites
    delete   the engine first; the set's entry goes when the last connection of the server is gone
    weight   the engine only

The public coroutines of ``Operations`` are the methods of the control socket; words are parsed here, so that
every client speaks the language of the command line.
"""
from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from lbq.conntrack import RECORD, decode
from lbq.control.channel import PacketProcess, to_its_end
from lbq.errors import ConfigError, NoSuchServer, NoSuchService, ServerExists
from lbq.grammar import (
    DEFAULT_WEIGHT,
    ServerWords,
    format_endpoint,
    format_service,
    parse_server,
    parse_service,
)
from lbq.losses import queue_counters
from lbq.model import NAT, ServiceKey
from lbq.services import join_pages

PAGE = 256              # connections; a page leaves the packet process in under 200 µs
LINES_PAGE = 16         # services and servers; likewise

logger = logging.getLogger("lbq.control")
Membership = tuple[ServiceKey, int, int]


class HostThread:
    """Calls to a HostSetup, one after the other in a thread of their own.

    They run programs and may wait for the xtables lock; the front answers meanwhile.  *mask* is a function
    that the thread starts with.
    """

    def __init__(self, setup, mask=None):
        self.setup = setup
        self._thread = ThreadPoolExecutor(1, "lbq-host", initializer=mask)

    async def call(self, name: str, *args):
        """Return what the HostSetup's method *name* returns; it is finished even when the caller is not."""
        return await self.run(getattr(self.setup, name), *args)

    async def run(self, function, *args):
        """Return what *function* returns, called in the same thread."""
        return await to_its_end(asyncio.get_running_loop().run_in_executor(self._thread, function, *args))


class Operations:
    """The running director: its packet process and its host, changed together."""

    def __init__(self, process: PacketProcess, host: HostThread, facts: dict):
        self.process = process
        self.host = host
        self.facts = facts                      # what `status` tells and never changes
        self.services: set[ServiceKey] = set()
        self.servers: set[Membership] = set()
        self.trash: set[Membership] = set()     # deleted, but the host still lets their replies through
        self._change = asyncio.Lock()           # one change at a time, host and engine together

    def methods(self) -> dict:
        """Return the coroutines that the control socket offers, by name."""
        offered = (self.status, self.list, self.connections, self.stats,
                   self.add_server, self.set_server, self.delete_server)
        return {method.__name__: method for method in offered}

    async def begin(self, key: ServiceKey, scheduler: str, servers: list[ServerWords]) -> None:
        """Give the engine its first service; the host is set up when all is in place."""
        await self.process.call("add_service", key, scheduler)
        self.services.add(key)
        for server in servers:
            await self._engine_add(key, server)
            self.servers.add((key, server.address, server.port))

    def members(self) -> tuple[list[ServiceKey], list[tuple[int, int, int]]]:
        """Return what the host is to know: services, and real servers by protocol, address and port."""
        return list(self.services), [(key.protocol, address, port) for key, address, port in self.servers]

    async def status(self) -> dict:
        """Return what this director is."""
        counters = await self.process.call("statistics")
        return {**self.facts, **{name: counters[name] for name in ("connections", "connections_max")}}

    async def list(self) -> list:
        """Return a row for every service, with its servers, newest first."""
        rows, cursor = [], 0
        while cursor is not None:
            page, cursor = await self.process.call("list_services", cursor, LINES_PAGE)
            join_pages(rows, page)
        return rows

    async def stats(self) -> dict:
        """Return the services' rows, the engine's counters and the kernel's for the queue."""
        counted = queue_counters(self.facts["queue"])
        return {"services": await self.list(), "counters": await self.process.call("statistics"),
                "queue": counted._asdict() if counted else None}

    async def connections(self, cursor: int = 0, limit: int = PAGE) -> dict:
        """Return a page of connections and the cursor of the next one, or None after the last."""
        if cursor < 0 or limit < 1:
            raise ConfigError("a page has a cursor from 0 and a limit from 1")
        page, records = await self.process.call("list_connections", cursor, min(limit, PAGE))
        rows = [decode(records[at:at + RECORD.size], page["now"])
                for at in range(0, len(records), RECORD.size)]
        return {"connections": rows, "next": page["ok"]}

    async def add_server(self, service: str, server: str) -> str:
        """Add a real server at the head of a service's list; return what was done."""
        key, words = self._parse(service, server)
        membership = key, words.address, words.port
        async with self._change:
            if membership in self.servers:
                raise ServerExists(f"cannot add {_name(words)} to {format_service(key)}: "
                                   "it is already there; `lbq set server` changes it")
            if membership not in self.trash:
                await self.host.call("add_server", key.protocol, words.address, words.port)
            try:
                await self._engine_add(key, words)
            except BaseException:
                if membership not in self.trash:
                    await self.host.call("remove_server", key.protocol, words.address, words.port)
                raise
            self.trash.discard(membership)
            self.servers.add(membership)
        return self._did(f"added server {_name(words)} to {format_service(key)}")

    async def set_server(self, service: str, server: str) -> str:
        """Give a real server another weight; return what was done."""
        key, words = self._parse(service, server)
        if words.weight is None:
            raise ConfigError(f"'{server}' says nothing to set; write {server},weight=N")
        async with self._change:
            await self.process.call("set_server", key, words.address, words.port, words.weight)
        return self._did(f"server {_name(words)} of {format_service(key)} has weight {words.weight} now")

    async def delete_server(self, service: str, server: str) -> str:
        """Delete a real server: nothing new for it, its set entry goes with its last connection."""
        key, words = self._parse(service, server)
        membership = key, words.address, words.port
        async with self._change:
            if membership not in self.servers:
                raise NoSuchServer(f"cannot delete {_name(words)} from {format_service(key)}: "
                                   "it is not there; `lbq list` shows those that are")
            await self.process.call("delete_server", *membership)
            self.servers.discard(membership)
            self.trash.add(membership)
        return self._did(f"deleted server {_name(words)} from {format_service(key)}")

    async def tick(self) -> None:
        """Let the engine do what is due once a second; take the deleted servers that it forgot off the host."""
        async with self._change:
            for key, address, port in await self.process.call("tick"):
                membership = ServiceKey(*key), address, port
                self.trash.discard(membership)
                await self.host.call("remove_server", membership[0].protocol, address, port)

    async def _engine_add(self, key: ServiceKey, server: ServerWords) -> None:
        weight = DEFAULT_WEIGHT if server.weight is None else server.weight
        await self.process.call("add_server", key, server.address, server.port, weight, NAT)

    def _parse(self, service: str, server: str) -> tuple[ServiceKey, ServerWords]:
        key = parse_service(service)
        if key not in self.services:
            raise NoSuchService(f"no service {format_service(key)}; `lbq list` shows those there are")
        return key, parse_server(server, key)

    def _did(self, sentence: str) -> str:
        logger.info(sentence)
        return sentence


def _name(server: ServerWords) -> str:
    return format_endpoint(server.address, server.port)
