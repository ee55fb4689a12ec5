"""What can be changed in a running director, and in which order host and engine follow a change.

    add      the host's set first, then the engine: a connection never starts whose replies nobody rewrites
    delete   the engine first; the set's entry goes when the last connection of the server is gone
    settings the engine only, but for a server's mode, on which it depends where its replies are seen

The public coroutines of ``Operations`` are the methods of the control socket; words are parsed here, so that
every client speaks the language of the command line.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lbq import filters
from lbq.conntrack import ends_of
from lbq.control.channel import PacketProcess, to_its_end
from lbq.control.questions import Questions
from lbq.errors import ConfigError, HostError, NoSuchServer, NoSuchService, ServerExists, ServiceExists
from lbq.grammar import (
    DEFAULT_WEIGHT,
    MODES,
    SERVER_SETTINGS,
    ServerWords,
    check_server,
    format_address,
    format_endpoint,
    format_service,
    format_settings,
    parse_netmask,
    parse_server,
    parse_service,
    refuse_settings,
)
from lbq.host.stack import EVERY_PORT
from lbq.model import (
    AF_INET,
    AF_INET6,
    END_DELETED,
    FAMILY_NAMES,
    IPIP,
    MOVE_QUIESCED,
    NAT,
    NOCSUM,
    OFFLOAD,
    OPS,
    OPS_REPLIES,
    PERSISTENT,
    PROTOCOL_NAMES,
    TEMPLATE,
    ServiceKey,
)
from lbq.options import (
    BY_NUMBER,
    DATA_PATHS,
    MAX_SECONDS,
    ServiceWords,
    auto_refused,
    check_data_path,
    check_service,
    check_service_on_data_path,
    check_steered,
    data_path_of,
    largest_number,
    mode_of,
    on_delete_of,
    on_quiesce_of,
    parse_sysctl,
    steering_refused,
)
from lbq.schedulers import DEFAULT, flag_bits, flag_names
from lbq.services import FTP
from lbq.sysctls import PREFIX

ENDED_PAGE = 64         # connections to end; it leaves the packet process in under 200 µs
BY_KERNEL = {"steer": (True,), "offload": (False, True)}        # what the host is told of a service's data path

logger = logging.getLogger("lbq.control")
Membership = tuple[ServiceKey, int, int, int]       # service; address, port and family of the server
NEW_SERVER = ServerWords(0, 0, AF_INET, DEFAULT_WEIGHT, NAT, 0, 0, IPIP, 0, NOCSUM)
SETTING_TYPES = {"data_path": str, "scheduler": str, "persistent": int, "netmask": int, "ops": bool,
                 "scheduler_flags": list, "mode": str,
                 "on_delete": str, "on_quiesce": str, "ops_replies": bool, "idle": int, "pe": str}
SECONDS = ("persistent", "idle")
NETMASKS = {AF_INET: 0xFFFFFFFF, AF_INET6: 128}     # the whole address, which is the default


class Drain(NamedTuple):
    """A server that is being emptied: until when its connections may last, and whether it is deleted then."""

    ends_at: float | None       # of time.monotonic()
    delete: bool


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


class Operations(Questions):
    """The running director: its packet process and its host, changed together."""

    def __init__(self, process: PacketProcess, host: HostThread, facts: dict,
                 tell_way: Callable[[int, int], Awaitable[None]] | None = None):
        super().__init__(process, facts)
        self.host = host
        self.tell_way = tell_way                # to an address of a family, to the packet process
        self.places: dict[ServiceKey, set[Membership]] = defaultdict(set)   # the same by service
        self.trash: dict[Membership, ServerWords] = {}      # deleted, but the host still lets their replies through
        self.drains: dict[Membership, Drain] = {}
        self.steers: dict[Membership, int] = {}             # by which the kernel knows those it rewrites for
        self.free_steers: list[int] = []
        self.offloads: set[Membership] = set()              # of those, whose flows conntrack carries
        self.has_headers_queue = False
        self.change = asyncio.Lock()            # one change at a time, host and engine together

    def methods(self) -> dict:
        """Return the coroutines that the control socket offers, by name."""
        offered = (self.status, self.list, self.list_page, self.connections, self.stats, self.totals, self.add_service,
                   self.set_service, self.delete_service, self.clear, self.add_server, self.set_server,
                   self.delete_server, self.drain, self.end_connections, self.zero, self.sysctl, self.timeouts,
                   self.look, self.trace_start, self.trace_read, self.trace_stop)
        return {method.__name__: method for method in offered}

    async def begin(self, key: ServiceKey | None, settings: ServiceWords, servers: list[ServerWords],
                    sysctls: dict[str, int]) -> None:
        """Give the engine its first service, if there is one; the host is set up when all is in place."""
        for name, value in sysctls.items():
            await self.process.call("set_sysctl", name, value)
        if key is None:
            return
        settings = await self._resolved(key, _merged(self.new_service(key.family), settings))
        await self._prepare_data_path(key, settings)
        await self.process.call("add_service", key, *service_arguments(settings))
        self.services[key] = settings
        for server in servers:
            server = self._complete(key, server)
            place = key, *server.place()
            if server.family != key.family:
                await self.host.call("check_family", server.family)
            self._check_tracked(place, server.mode)
            steer = self._take_number(place)
            await self.process.call("add_server", *server_arguments(place, server, steer))
            self._has(place, server)

    def members(self) -> tuple[list[ServiceKey], list[tuple]]:
        """Return what the host is to know: services, and their real servers with mode, and number if it is steered."""
        return list(self.services), [(*place[:3], *self._way(place, server))
                                     for place, server in self.servers.items()]

    def steered(self) -> list[ServiceKey]:
        """Return the services whose packets the kernel rewrites."""
        return [key for key, words in self.services.items() if words.data_path == "steer"]

    def offloaded(self) -> list[ServiceKey]:
        """Return the services whose flows conntrack carries."""
        return [key for key in self.services if self._is_offloaded(key)]

    def _way(self, place: Membership, server: ServerWords) -> tuple[int, ...]:
        """Return what the host's part in a server depends on: its mode, the number it is told by, whether offloaded."""
        way = (server.mode, self.steers[place]) if place in self.steers else (server.mode,)
        return (*way, True) if place in self.offloads else way

    def new_service(self, family: int) -> ServiceWords:
        """Return the settings of a new service about which nothing is said."""
        return ServiceWords(DEFAULT, 0, NETMASKS[family], False, [], "nat", "keep", "keep", False, 0, "",
                            self.facts.get("data_path", DATA_PATHS[0]))

    def _is_by_number(self, key: ServiceKey) -> bool:
        return self.services[key].data_path in BY_NUMBER

    def _is_offloaded(self, key: ServiceKey) -> bool:
        return self.services[key].data_path == "offload"

    async def _resolved(self, key: ServiceKey, words: ServiceWords) -> ServiceWords:
        """Return *words* with a data path that *key* can have: the director's when none is said, one for ``auto``."""
        words = _merged(ServiceWords(data_path=self.facts.get("data_path", DATA_PATHS[0])), words)
        if words.data_path != "auto":
            check_service_on_data_path(key, words)
            return words
        reason = (steering_refused(key, ops=words.ops)
                  or auto_refused(words.mode, self.facts["engine"], self.queues))
        reason = reason or await self.host.call("steering_refused", key.family)
        self.did(f"data path of {format_service(key)}: " + (
            f"rewrite, because it cannot be steered: {reason}" if reason else
            "steer: the kernel rewrites its packets, and lbq sees only headers"))
        return _merged(words, ServiceWords(data_path="rewrite" if reason else "steer"))

    async def _prepare_data_path(self, key: ServiceKey, words: ServiceWords) -> None:
        """Have the queue bound that the packets of the service *key* with *words* go to, and conntrack listened to."""
        if words.data_path not in BY_NUMBER:
            return
        check_data_path(words.data_path, self.facts["engine"], self.queues)
        if words.data_path == "offload":
            reason = await self.host.call("offloading_refused", key.family)
            if reason:
                raise HostError(f"{format_service(key)} cannot be offloaded: {reason}; use --data-path rewrite")
        if not self.has_headers_queue:
            await self.process.call("open_headers_queue", self.queues.headers[0], self.facts["mark_mask"])
            self.has_headers_queue = True
        if words.data_path == "offload" and not self.hears_conntrack:
            await self.process.call("open_conntrack")
            await self.host.call("set_flow_timeouts", *await self.process.call("timeouts"))
            self.hears_conntrack = True

    def _take_number(self, place: Membership) -> int:
        """Return the number that the kernel is to know a new server by: 0 when it is not told any of its service.

        Nor has a server of port 0 one, which keeps the port that clients ask for.
        """
        if not self._is_by_number(place[0]) or place[2] == 0:
            return 0
        if not self.free_steers and len(self.steers) >= largest_number(self.facts["mark_mask"]):
            raise ConfigError(f"no room for one more steered server in the mark mask {self.facts['mark_mask']:#x}; "
                              "say a longer --mark-mask, or --data-path rewrite")
        self.steers[place] = self.free_steers.pop() if self.free_steers else len(self.steers) + 1
        if self._is_offloaded(place[0]):
            self.offloads.add(place)
        return self.steers[place]

    def _check_offloaded(self, key: ServiceKey, words: ServerWords) -> None:
        """Raise ConfigError for what conntrack cannot do, whoever asks: of a steered service lbq would do it itself."""
        if self._is_offloaded(key):
            check_steered("offload", words)

    def _check_tracked(self, place: Membership, mode: int) -> None:
        """Raise ConfigError when conntrack would have to track one service's packets of a server, and not another's."""
        key, address, port, family = place
        if self._is_offloaded(key):
            others = [other for other in (*self.servers, *self.trash) if other not in self.offloads]
        else:
            others = list(self.offloads)
        for other in others:
            its = self.servers.get(other) or self.trash.get(other)
            if (other[1], other[3]) != (address, family) or its is None or (its.mode, mode) != (NAT, NAT):
                continue
            if (other[0].protocol, other[2]) == (key.protocol, port) or _covers_ports(other[0]) or _covers_ports(key):
                raise ConfigError(
                    f"real server {format_endpoint(address, port, family)} is also one of {format_service(other[0])}, "
                    f"and only one of the two services is offloaded: conntrack sees its replies, or does not; give "
                    "both the same --data-path, or the server another port")

    def _give_number_back(self, number: int) -> None:
        if number:
            self.free_steers.append(number)

    def server_addresses(self, family: int) -> list[int]:
        """Return the addresses of all real servers of *family*, those in the trash too."""
        return sorted({address for _, address, _, its_family in (*self.servers, *self.trash) if its_family == family})

    def has_ipv6(self) -> bool:
        """Return True when a service, or a real server, is one of IPv6."""
        return any(AF_INET6 in (key.family, family) for key, _, _, family in (*self.servers, *self.trash)) or any(
            key.family == AF_INET6 for key in self.services)

    # ---- Connections, settings --------------------------------------------------------------------------------

    async def end_connections(self, service: str | None = None, server: str | None = None, client: str | None = None,
                              state: str | None = None) -> dict:
        """End the connections that match all of what is said; return how many ended."""
        if (service, server, client, state) == (None,) * 4:
            raise ConfigError("say which connections: of a service, a server, a client or a state")
        ended = await self._end(filters.chosen(service, server, client, state))
        self.did(f"ended connections: {ended}")
        return {"ended": ended}

    async def _end(self, wanted: filters.Wanted) -> int:
        """End connections; what may govern others (templates, FTP) last, for as long as it does it stays."""
        ended, cursor, later = 0, 0, []
        while cursor is not None:
            page = await self.connections(cursor)
            cursor = page["next"]
            found = [row for row in page["connections"] if wanted(row)]
            later += [ends_of(row) for row in found if _may_govern(row)]
            ended += await self._end_these([ends_of(row) for row in found if not _may_govern(row)])
        return ended + await self._end_these(later)

    async def _end_these(self, places: list) -> int:
        return sum([await self.process.call("end_connections", places[at:at + ENDED_PAGE])
                    for at in range(0, len(places), ENDED_PAGE)])

    async def sysctl(self, settings: list[str]) -> dict:
        """Set those of *settings* that say NAME=VALUE; return the values of all that are named, or of all there are."""
        words = [parse_sysctl(text) for text in settings]       # all are looked at before one is set
        for name, value in words:
            if value is not None:
                await self.process.call("set_sysctl", name, value)
                self.did(f"{PREFIX}{name} is {value} now")
        values = await self.process.call("sysctls")
        return {f"{PREFIX}{name}": value for name, value in values.items()
                if not words or name in dict(words)}

    async def timeouts(self, tcp: int = 0, tcpfin: int = 0, udp: int = 0) -> dict:
        """Set the timeouts that are not 0; return all three, in seconds."""
        if not all(0 <= seconds <= MAX_SECONDS for seconds in (tcp, tcpfin, udp)):
            raise ConfigError(f"a timeout is a number of seconds from 1 to {MAX_SECONDS}, or 0 to keep it")
        if any((tcp, tcpfin, udp)):
            await self.process.call("set_timeouts", tcp, tcpfin, udp)
            if self.hears_conntrack:
                await self.host.call("set_flow_timeouts", *await self.process.call("timeouts"))
            self.did(f"timeouts set: tcp {tcp}, tcpfin {tcpfin}, udp {udp} (0: as it was)")
        return dict(zip(("tcp", "tcpfin", "udp"), await self.process.call("timeouts"), strict=True))

    # ---- Services ----------------------------------------------------------------------------------------

    async def add_service(self, service: str, **settings) -> str:
        """Add a virtual service without servers; return what was done."""
        key = parse_service(service)
        words = _merged(self.new_service(key.family), _service_words(settings, key.family))
        check_service(key, words)
        async with self.change:
            if key in self.services:
                raise ServiceExists(f"cannot add service {format_service(key)}: it is already there; "
                                    "`lbq set service` changes it")
            await self.put_service(key, words)
        return self.did(f"added service {format_service(key)}")

    async def set_service(self, service: str, **settings) -> str:
        """Give a service other settings, those that are named; return what was done."""
        said = _service_words(settings, parse_service(service).family)
        if said == ServiceWords():
            raise ConfigError("nothing to set; lbq set service --help shows what there is")
        async with self.change:
            key = self._known(service)
            data_path = self.services[key].data_path
            if said.data_path not in (None, "auto", data_path):
                raise ConfigError(f"{format_service(key)} has the data path {data_path}, and that stays; delete the "
                                  "service and add it with another")
            words = _merged(_merged(self.services[key], said), ServiceWords(data_path=data_path))
            if said.ops is False and said.ops_replies is None:
                words.ops_replies = False
            if said.scheduler is not None and said.scheduler_flags is None:
                words.scheduler_flags = [flag for flag in words.scheduler_flags if flag in flag_names(said.scheduler)]
            check_service(key, words)
            await self.change_service(key, words)
        return self.did(f"service {format_service(key)} has other settings now")

    async def delete_service(self, service: str) -> str:
        """Delete a service with its servers; return what was done."""
        async with self.change:
            key = self._known(service)
            await self.drop_service(key)
        return self.did(f"deleted service {format_service(key)}")

    async def clear(self) -> str:
        """Delete all services; return what was done."""
        async with self.change:
            count = len(self.services)
            for key in list(self.services):
                await self.drop_service(key)
        return self.did(f"deleted all services: {count}")

    async def zero(self, service: str | None = None) -> str:
        """Start counters from zero; return what was done."""
        if service is None:
            await self.process.call("zero")
            return self.did("counters of all services start from zero")
        key = self._known(service)
        await self.process.call("zero", key)
        return self.did(f"counters of {format_service(key)} start from zero")

    # ---- Servers -----------------------------------------------------------------------------------------

    async def add_server(self, service: str, server: str) -> str:
        """Add a real server at the head of a service's list; return what was done."""
        async with self.change:
            key, words = self._parse(service, server)
            words = self._complete(key, words)
            place = key, *words.place()
            if place in self.servers:
                raise ServerExists(f"cannot add {_name(words)} to {format_service(key)}: "
                                   "it is already there; `lbq set server` changes it")
            back = await self.put_server(place, words)
        return self.did(f"added server {_name(words)} to {format_service(key)}"
                        + (f", back with the connections it had: {back}" if back else ""))

    async def set_server(self, service: str, server: str) -> str:
        """Change those settings of a real server that are named; return what was done."""
        async with self.change:
            key, said = self._parse(service, server)
            if not said.says_something():
                raise ConfigError(f"'{server}' says nothing to set; write {server},weight=N")
            place = key, *said.place()
            before = self._there(place)
            words = filled(said, before)
            check_server(words, key, words.mode)
            check_steered(self.services[key].data_path, words)
            await self.change_server(place, words)
        changed = ", ".join(f"{name} {value}" for name, value in format_settings(said))
        return self.did(f"server {_name(words)} of {format_service(key)} has {changed} now")

    async def delete_server(self, service: str, server: str) -> str:
        """Delete a real server: nothing new for it, its set entry goes when the engine forgets it."""
        async with self.change:
            key, words = self._parse(service, server)
            place = key, *words.place()
            if place not in self.servers:
                raise NoSuchServer(f"cannot delete {_name(words)} from {format_service(key)}: "
                                   "it is not there; `lbq list` shows those that are")
            return await self._delete_server(place)

    async def _delete_server(self, place: Membership) -> str:
        key, *server = place
        left = await self.drop_server(place)
        what = "" if not left else (f"; its connections start over: {left}" if self.services[key].on_delete == "end"
                                    else f"; its connections get no more packets: {left} (--on-delete end, lbq drain)")
        return self.did(f"deleted server {format_endpoint(*server)} from {format_service(key)}{what}")

    async def drain(self, service: str, server: str, end_after: int | None = None, delete: bool = False) -> str:
        """Give a server nothing new; end what it still has after so many seconds; delete it when it has none left."""
        async with self.change:
            key, said = self._parse(service, server)
            refuse_settings(said, server, "draining")
            if end_after is not None and not 0 <= end_after <= MAX_SECONDS:
                raise ConfigError(f"end_after is a number of seconds from 0 to {MAX_SECONDS}")
            place = key, *said.place()
            words = self._there(place)._replace(weight=0)
            await self.process.call("set_server", *server_arguments(place, words))
            self.servers[place] = words
            self.drains.pop(place, None)
            if end_after is not None or delete:
                self.drains[place] = Drain(None if end_after is None else time.monotonic() + end_after, delete)
        what = f"server {_name(words)} of {format_service(key)} has weight 0 now"
        if end_after is not None:
            what += f"; what it still has in {end_after} s ends"
        return self.did(what + ("; then it is deleted" if delete else ""))

    def _there(self, place: Membership) -> ServerWords:
        """Return the settings of the server *place*, or raise."""
        if place not in self.servers:
            raise NoSuchServer(f"service {format_service(place[0])} has no server {format_endpoint(*place[1:])}; "
                               "`lbq list` shows those it has")
        return self.servers[place]

    async def _drain_on(self) -> None:
        """End and delete what is due; a server that was given weight again, or deleted, drains no more."""
        for place in list(self.drains):
            if place not in self.servers or self.servers[place].weight:
                del self.drains[place]
        if not self.drains:
            return
        left = {(row["protocol"], row["family"], row["address"], row["port"], row["fwmark"], server["address"],
                 server["port"]): server["active"] + server["inactive"]
                for row in await self.list() for server in row["servers"]}
        for place, drain in list(self.drains.items()):
            count = left.get(_listed_as(place), 0)
            is_over = drain.ends_at is not None and time.monotonic() >= drain.ends_at
            if count and not is_over:
                continue
            del self.drains[place]
            key, *server = place
            name = f"server {format_endpoint(*server)} of {format_service(key)}"
            if count:
                ended = await self._end(_of_server(place))
                self.did(f"{name}: the time to drain is over; connections ended: {ended}")
            else:
                self.did(f"{name} is drained")
            async with self.change:
                if drain.delete and place in self.servers:
                    await self._delete_server(place)

    async def tick(self) -> None:
        """Let the engine do what is due once a second; take the deleted servers that it forgot off the host."""
        await self.end_stale_trace()
        async with self.change:
            failure = None
            for words, address, port, family in await self.process.call("tick"):
                key = ServiceKey(*words)
                place = key, address, port, family
                server = self.trash.pop(place, None)
                if server is not None:
                    way = self._way(place, server)
                    self._give_number_back(self.steers.pop(place, 0))
                    self.offloads.discard(place)
                    try:
                        await self.host.call("remove_server", key, address, port, *way)
                    except HostError as error:      # the others are forgotten as well
                        failure = error
        await self._drain_on()
        if failure is not None:
            raise failure

    # ---- Host and engine together; the caller holds ``change`` ----------------------------------------------

    async def put_service(self, key: ServiceKey, words: ServiceWords) -> None:
        """Add a service that is not there."""
        await self.host.call("check_service", key)
        words = await self._resolved(key, words)
        await self._prepare_data_path(key, words)
        await self.process.call("add_service", key, *service_arguments(words))
        try:
            await self.host.call("add_service", key, *BY_KERNEL.get(words.data_path, ()))
        except BaseException:
            await self.process.call("delete_service", key)
            raise
        self.services[key] = words

    async def change_service(self, key: ServiceKey, words: ServiceWords) -> None:
        """Give a service that is there other settings, all of them; its data path stays."""
        words = _merged(words, ServiceWords(data_path=self.services[key].data_path))
        await self.process.call("set_service", key, *service_arguments(words))
        self.services[key] = words

    async def drop_service(self, key: ServiceKey) -> None:
        """Delete a service that is there; its servers rest in the trash."""
        await self.process.call("delete_service", key)
        del self.services[key]
        dropped = self.places.pop(key, set())
        for place in dropped:
            self.trash[place] = self.servers.pop(place)
        await self.host.call("remove_service", key)
        for place in dropped:
            await self._close(place)

    async def put_server(self, place: Membership, words: ServerWords) -> int:
        """Add a server that is not there; return how many connections it has, if it comes out of the trash."""
        key, address, port, family = place
        if family != key.family:
            await self.host.call("check_family", family)
        former = self.trash.get(place)
        if (place in self.offloads) != self._is_offloaded(key) and former is not None:
            raise ConfigError(f"real server {format_endpoint(address, port, family)} has been deleted from "
                              f"{format_service(key)} when that had another data path, and is not forgotten yet; end "
                              "its connections (lbq end) and try again in some minutes")
        self._check_offloaded(key, words)
        self._check_tracked(place, words.mode)
        before = None if former is None else self._way(place, former)
        number = self.steers.pop(place, 0)
        if number and self._is_by_number(key):
            self.steers[place] = number
        else:
            self._take_number(place)
        way = self._way(place, words)
        try:
            if way != before:
                await self.host.call("add_server", key, address, port, *way)
            try:
                if self.tell_way is not None:
                    await self.tell_way(address, family)
                arguments = server_arguments(place, words, self.steers.get(place, 0))
                back = await self.process.call("add_server", *arguments)
            except BaseException:
                if way != before:
                    await self.host.call("remove_server", key, address, port, *way)
                raise
        except BaseException:
            if self.steers.get(place, 0) != number:
                self._give_number_back(self.steers.pop(place, 0))
                if number:
                    self.steers[place] = number
                else:
                    self.offloads.discard(place)
            raise
        self.trash.pop(place, None)
        self._has(place, words)
        if former is not None and place in self.offloads:
            await self.host.call("open_server", key, address, port)
        if before not in (None, way):
            await self.host.call("remove_server", key, address, port, *before)
            if number != self.steers.get(place, 0):
                self._give_number_back(number)
        return back

    async def change_server(self, place: Membership, words: ServerWords) -> None:
        """Give a server that is there other settings, all of them."""
        self._check_offloaded(place[0], words)
        before, way = self._way(place, self.servers[place]), self._way(place, words)
        if way != before:
            await self.host.call("add_server", *place[:3], *way)
        try:
            await self.process.call("set_server", *server_arguments(place, words))
        except BaseException:
            if way != before:
                await self.host.call("remove_server", *place[:3], *way)
            raise
        self.servers[place] = words
        if way != before:
            await self.host.call("remove_server", *place[:3], *before)

    async def drop_server(self, place: Membership) -> int:
        """Delete a server that is there; it rests in the trash; return how many connections it still has."""
        left = await self.process.call("delete_server", place[0], *_engine_place(place))
        self.trash[place] = self.servers.pop(place)
        self.places[place[0]].discard(place)
        await self._close(place)
        return left

    async def _close(self, place: Membership) -> None:
        """Have the kernel drop what clients still send to a deleted server, where lbq does not see it."""
        if place in self.offloads:
            await self.host.call("close_server", *place[:3])

    def _has(self, place: Membership, words: ServerWords) -> None:
        self.servers[place] = words
        self.places[place[0]].add(place)

    def _known(self, service: str) -> ServiceKey:
        key = parse_service(service)
        if key not in self.services:
            raise NoSuchService(f"no service {format_service(key)}; `lbq list` shows those there are")
        return key

    def _parse(self, service: str, server: str) -> tuple[ServiceKey, ServerWords]:
        key = self._known(service)
        return key, parse_server(server, key)

    def _complete(self, key: ServiceKey, said: ServerWords) -> ServerWords:
        """Return what was *said* about a new server with everything that was not."""
        words = filled(said, NEW_SERVER._replace(mode=MODES[self.services[key].mode]))
        check_server(words, key, words.mode)
        check_steered(self.services[key].data_path, words)
        return words

    def did(self, sentence: str) -> str:
        """Log *sentence* and return it."""
        logger.info(sentence)
        return sentence


def filled(said: ServerWords, before: ServerWords) -> ServerWords:
    """Return the settings of *before* with those that were *said*."""
    settings = {name: getattr(before, name) for name in SERVER_SETTINGS if getattr(said, name) is None}
    return said._replace(**settings)


def _merged(before: ServiceWords, said: ServiceWords) -> ServiceWords:
    """Return the settings of *before* with those that were *said*."""
    return ServiceWords(**{name: value if value is not None else getattr(before, name)
                           for name, value in vars(said).items()})


def _service_words(settings: dict, family: int) -> ServiceWords:
    """Return what the control socket was told about a service of *family*."""
    unknown = set(settings) - set(vars(ServiceWords()))
    if unknown:
        raise ConfigError(f"a service has no setting {', '.join(sorted(unknown))}")
    if isinstance(settings.get("netmask"), str):
        settings["netmask"] = parse_netmask(settings["netmask"], family)
    for name, value in settings.items():
        if value is not None and not isinstance(value, SETTING_TYPES[name]):
            raise ConfigError(f"a service's {name} cannot be {value!r}")
    if not all(isinstance(flag, str) for flag in settings.get("scheduler_flags") or []):
        raise ConfigError(f"a service's scheduler_flags are names, not {settings['scheduler_flags']!r}")
    for name in SECONDS:
        if isinstance(settings.get(name), bool) or not 0 <= (settings.get(name) or 0) <= MAX_SECONDS:
            raise ConfigError(f"a service's {name} is a number of seconds from 0 to {MAX_SECONDS}")
    if settings.get("netmask") is not None and not 1 <= settings["netmask"] <= NETMASKS[family]:
        raise ConfigError("a service's netmask is like 255.255.255.0, or a prefix length in quotes")
    if settings.get("mode") is not None:
        mode_of(settings["mode"])
    data_path_of(settings.get("data_path"))
    on_delete_of(settings.get("on_delete"))
    on_quiesce_of(settings.get("on_quiesce"))
    return ServiceWords(**settings)


def service_arguments(words: ServiceWords) -> tuple[str, int, int, int, int]:
    """Return a service's settings as the engine takes them."""
    flags = (PERSISTENT if words.persistent else 0) | (OPS if words.ops else 0)
    flags |= (END_DELETED if words.on_delete == "end" else 0) | (MOVE_QUIESCED if words.on_quiesce == "move" else 0)
    flags |= (OPS_REPLIES if words.ops_replies else 0) | (OFFLOAD if words.data_path == "offload" else 0)
    for flag in words.scheduler_flags:
        flags |= flag_bits(words.scheduler)[flag]
    return words.scheduler, flags, words.persistent, words.netmask, words.idle


def server_arguments(place: Membership, words: ServerWords, steer: int = 0) -> tuple:
    """Return a server with its settings as the engine takes them; its family only when it is not the service's."""
    address, port, *family = _engine_place(place)
    settings = (place[0], address, port, words.weight, words.mode, words.upper, words.lower,
                (words.tunnel, words.tunnel_port, words.tunnel_csum))
    return (*settings, None, steer) if steer else (*settings, *family)      # who is steered is of the service's family


def _engine_place(place: Membership) -> tuple:
    """Return what names a server to the engine: address, port, and the family when it is not the service's."""
    key, address, port, family = place
    return (address, port) if family == key.family else (address, port, family)


def _covers_ports(key: ServiceKey) -> bool:
    """Return True when every reply of a service's servers must be seen, whatever port it comes from."""
    return key.fwmark != 0 or key.port in EVERY_PORT


def _may_govern(row: dict) -> bool:
    return row["flags"] & TEMPLATE != 0 or row["vport"] == FTP


def _of_server(place: Membership) -> filters.Wanted:
    """Return the test for connections and templates of the server *place*."""
    key, address, port, family = place
    wanted, daddr = filters.chosen(service=format_service(key)), format_address(address, family)
    return lambda row: wanted(row) and row["daddr"] == daddr and (port == 0 or row["dport"] in (0, port))


def _listed_as(place: Membership) -> tuple:
    """Return what tells the server *place* from others in the rows of a listing."""
    key, address, port, family = place
    return (PROTOCOL_NAMES[key.protocol], FAMILY_NAMES[key.family], format_address(key.address, key.family), key.port,
            key.fwmark, format_address(address, family), port)


def _name(server: ServerWords) -> str:
    return format_endpoint(*server.place())
