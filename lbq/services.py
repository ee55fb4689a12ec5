"""The configured virtual services and their real servers: add, edit, delete, find.

Both directors, the readable and the fast one, keep their configuration here, so what an operator's
command means is written once.  Deleting a server that still has connections moves it to the *trash*:
it takes no packet from clients any more, its replies still pass, and adding the same server again
brings it back with its connections (ip_vs_ctl.c, ip_vs_trash_get_dest()).
It stays there, as in the kernel, for two to four minutes after its last connection.
"""
from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator

from lbq import sysctls, thresholds
from lbq.errors import NoSuchServer, NoSuchService, ServerExists, ServiceError, ServiceExists, ThresholdsReversed
from lbq.grammar import format_address, format_endpoint, format_service
from lbq.model import (
    AF_INET,
    AF_INET6,
    CLASSIC,
    END_DELETED,
    FAMILY_NAMES,
    MODE_NAMES,
    NAT,
    NEW,
    PROTOCOL_NAMES,
    SERVICE_FLAGS,
    TCP,
    TUN,
    TUNNEL_FLAG_NAMES,
    TUNNEL_NAMES,
    RealServer,
    ServiceKey,
    Tunnel,
    VirtualService,
    whole_mask,
)
from lbq.schedulers import create
from lbq.schedulers.base import Scheduler

SECOND = 1_000_000_000
TRASH_ROUND = 60 * SECOND           # IP_VS_DEST_TRASH_PERIOD / 2
TRASH_IDLE = 120 * SECOND
TRASH_PIECE = 200                   # deleted servers that one call looks at: packets wait meanwhile
FTP = 21
FTP_DATA = 20
MOST_LINES = 1 << 17        # of one service in a listing; no engine has room for so many servers
FIRST_UNPRIVILEGED = 1024           # net.ipv4.ip_unprivileged_port_start
CONFIGURED = ("weight", "last_weight", "mode", "tunnel", "upper", "lower", "overloaded")    # what an edit may change

Place = tuple[ServiceKey, int, int, int]        # of a server: its service, address, port and family


class ServiceTable:
    """Virtual services by key, the sysctls, and the deleted servers that may come back."""

    def __init__(self, profile: str = NEW):
        self.profile = profile
        self.is_new = profile != CLASSIC
        self.active_cost = 257 if self.is_new else 256
        self.sysctls = sysctls.defaults()
        self.by_key: dict[ServiceKey, VirtualService] = {}
        self.serves: Counter = Counter()            # services by family
        self.listed: list[VirtualService] = []      # in the order of by_key
        self.ageing: dict[ServiceKey, VirtualService] = {}      # those whose scheduler has something to do in a tick
        self.asked: dict[ServiceKey, str] = {}      # the scheduler as it was asked for; its own name may differ
        self.trash: dict[Place, RealServer] = {}
        self.idle_since: dict[Place, int] = {}      # of what is in the trash, as seen by its rounds
        self.next_round = 0
        self.due: deque[Place] = deque()            # what the present round has not looked at yet
        self.begun: OrderedDict[VirtualService, tuple[Scheduler, Iterator]] = OrderedDict()    # done step by step
        self.scheduler_errors = 0       # notices that a user's own scheduler did not take

    # ---- Services ------------------------------------------------------------------------------------

    def add_service(self, key: ServiceKey, scheduler: str, flags: int = 0, timeout: int = 0,
                    netmask: int | None = None, idle: int = 0) -> VirtualService:
        """Add the service *key*, whose new connections *scheduler* (a name) distributes."""
        if key in self.by_key:
            raise ServiceExists(f"cannot add service {format_service(key)}: it is already there")
        _check_netmask(key, netmask)
        service = VirtualService(key, self._create(scheduler), flags, timeout, netmask, idle)
        self.by_key[key] = service
        self.listed.append(service)
        self.serves[key.family] += 1
        self._asked(service, scheduler)
        return service

    def set_service(self, key: ServiceKey, scheduler: str, flags: int, timeout: int,
                    netmask: int | None = None, idle: int = 0) -> VirtualService:
        """Give a service other settings; another scheduler starts with the servers as they are now."""
        service = self.service(key)
        _check_netmask(key, netmask)
        if scheduler != self.asked[key]:
            successor = self._create(scheduler)
            successor.bind(service)
            service.scheduler = successor
            self._asked(service, scheduler)
        service.flags, service.timeout, service.idle = flags, timeout, idle
        service.netmask = whole_mask(key.family) if netmask is None else netmask
        return service

    def service(self, key: ServiceKey) -> VirtualService:
        """Return the service *key*."""
        try:
            return self.by_key[key]
        except KeyError:
            raise NoSuchService(f"no service {format_service(key)}; "
                                "`lbq list` shows those there are") from None

    def delete_service(self, key: ServiceKey) -> VirtualService:
        """Delete the service *key*; its servers go to the trash."""
        service = self.service(key)
        service.scheduler = None        # it goes too, and is not told of each server (__ip_vs_del_service())
        for server in service.remove_all():
            self._discard(service, server)
        del self.by_key[key], self.asked[key]
        self.listed.remove(service)
        self.ageing.pop(key, None)
        self.serves[key.family] -= 1
        return service

    def find_service(self, family: int, protocol: int, address: int, port: int,
                     fwmark: int = 0) -> VirtualService | None:
        """Return the service that a packet to *address*:*port* with mark *fwmark* is for, or None.

        Kernel: ip_vs_ctl.c, ip_vs_service_find(): the mark, then the exact port, FTP's data ports, any port.
        """
        found = self.by_key.get(mark_key(fwmark, family)) if fwmark else None
        if found is None:
            found = self.by_key.get(ServiceKey(protocol, address, port, family))
        if found is None and protocol == TCP and (port == FTP_DATA or port >= FIRST_UNPRIVILEGED):
            found = self.by_key.get(ServiceKey(protocol, address, FTP, family))
        if found is None:
            found = self.by_key.get(ServiceKey(protocol, address, 0, family))
        return found

    def set_sysctl(self, name: str, value: int) -> None:
        """Set one sysctl, named without ``net.ipv4.vs.``."""
        sysctls.check(name, value)
        self.sysctls[name] = value
        for service in self.by_key.values():
            self._set_expiration(service.scheduler)

    def _asked(self, service: VirtualService, name: str) -> None:
        """Note which scheduler was asked for, and whether it wants to be told of ticks."""
        self.asked[service.key] = name
        self.ageing.pop(service.key, None)
        if getattr(type(service.scheduler), "tick", Scheduler.tick) is not Scheduler.tick:
            self.ageing[service.key] = service

    def _create(self, name: str):
        scheduler = create(name)
        self._set_expiration(scheduler)
        return scheduler

    def _set_expiration(self, scheduler) -> None:
        seconds = self.sysctls.get(f"{scheduler.name}_expiration")
        if seconds is not None:
            scheduler.expiration_seconds = seconds

    # ---- Servers -------------------------------------------------------------------------------------

    def find_server(self, key: ServiceKey, address: int, port: int, family: int | None = None) -> RealServer | None:
        """Return the server *address*:*port* of service *key*, or None; *family* None is the service's."""
        wanted = address, port, family or key.family
        for server in self.service(key).servers:
            if (server.address, server.port, server.family) == wanted:
                return server
        return None

    def server(self, key: ServiceKey, address: int, port: int, family: int | None = None) -> RealServer:
        """Return the server *address*:*port* of service *key*."""
        found = self.find_server(key, address, port, family)
        if found is None:
            raise NoSuchServer(f"service {format_service(key)} has no server "
                               f"{format_endpoint(address, port, family or key.family)}; `lbq list` shows those it has")
        return found

    def add_server(self, key: ServiceKey, address: int, port: int, weight: int = 1, mode: int = NAT,
                   upper: int = 0, lower: int = 0, tunnel: tuple = Tunnel(), family: int | None = None) -> RealServer:
        """Add a server at the head of the service's list, out of the trash where it is still there."""
        service = self.service(key)
        family = family or key.family
        _check_thresholds(upper, lower)             # before anything is looked for, as the kernel does
        _check_family(key, address, port, family, mode)
        if self.find_server(key, address, port, family) is not None:
            raise ServerExists(f"cannot add server {format_endpoint(address, port, family)} to "
                               f"{format_service(key)}: it is already there; `lbq set server` changes it")
        place = key, address, port, family
        server = self.trash.get(place) or RealServer(address, port, weight, mode, self.active_cost, family)
        self._configure(server, weight, mode, upper, lower, tunnel)
        server.last_weight = weight     # even 0, unlike an edit
        service.add(server)
        server.available, server.ends = True, False
        self.trash.pop(place, None)
        self.idle_since.pop(place, None)
        return server

    def set_server(self, key: ServiceKey, address: int, port: int, weight: int, mode: int = NAT,
                   upper: int = 0, lower: int = 0, tunnel: tuple = Tunnel(), family: int | None = None) -> RealServer:
        """Give a server other settings, all of them; weight 0 quiesces it.  Its connections keep their mode."""
        self.service(key)
        _check_thresholds(upper, lower)
        _check_family(key, address, port, family or key.family, mode)
        server = self.server(key, address, port, family)
        before = {name: getattr(server, name) for name in CONFIGURED}
        self._configure(server, weight, mode, upper, lower, tunnel)
        try:
            self.service(key).changed(server)
        except BaseException:           # a user's own scheduler fails: nothing is changed
            for name, value in before.items():
                setattr(server, name, value)
            raise
        return server

    def delete_server(self, key: ServiceKey, address: int, port: int, family: int | None = None) -> RealServer:
        """Delete a server; it rests in the trash while connections refer to it, and two to four minutes more."""
        service, server = self.service(key), self.server(key, address, port, family)
        self._discard(service, server)
        self.scheduler_errors += not service.remove(server)
        return server

    def tick(self, now_ns: int) -> None:
        """Tell every scheduler that ages that about a second has passed; ``go_on`` does what takes them several steps.

        One that has not finished what it began is not told.
        """
        for service in self.ageing.values():
            if self.begun.get(service, (None,))[0] is service.scheduler:
                continue
            try:
                steps = service.scheduler.tick(service, now_ns)
                if steps is not None:
                    self.begun[service] = service.scheduler, iter(steps)
            except (Exception, SystemExit):     # a user's own
                self.scheduler_errors += 1

    def go_on(self) -> bool:
        """Take the next step of what schedulers began in a tick, by turns; return False when nothing is left to do."""
        while self.begun:
            service, (scheduler, steps) = self.begun.popitem(last=False)
            if service.scheduler is not scheduler:
                continue                        # it has gone, and what it began goes with it
            try:
                next(steps)
            except StopIteration:
                continue
            except (Exception, SystemExit):     # a user's own
                self.scheduler_errors += 1
                continue
            self.begun[service] = scheduler, steps
            return True
        return False

    def empty_trash(self, now_ns: int) -> dict[Place, RealServer]:
        """Forget deleted servers that have been without connections long enough; return them.

        Kernel: ip_vs_ctl.c, ip_vs_dest_trash_expire(), every minute while anything is in the trash.
        """
        if not self.trash:
            self.next_round, self.due = 0, deque()
        elif self.next_round == 0:
            self.next_round = now_ns + TRASH_ROUND
        elif now_ns >= self.next_round and not self.due:        # a large one takes longer than a minute
            self.next_round, self.due = now_ns + TRASH_ROUND, deque(self.trash)
        gone = {}
        for _ in range(min(TRASH_PIECE, len(self.due))):
            place = self.due.popleft()
            server = self.trash.get(place)
            if server is None or server.is_referenced():
                continue
            if now_ns >= self.idle_since.setdefault(place, now_ns) + TRASH_IDLE:
                gone[place] = self.trash.pop(place)
                del self.idle_since[place]
        return gone

    def _configure(self, server: RealServer, weight: int, mode: int, upper: int, lower: int, tunnel: tuple) -> None:
        server.weight = weight
        if weight:
            server.last_weight = weight
        server.mode = mode
        server.tunnel = Tunnel(*tunnel)
        server.overloaded = thresholds.after_edit(
            self.is_new, upper, lower, server.upper, server.lower, server.active_conns + server.inactive_conns,
            server.overloaded)
        server.upper, server.lower = upper, lower

    def _discard(self, service: VirtualService, server: RealServer) -> None:
        server.available, server.ends = False, service.flags & END_DELETED != 0
        self.trash[service.key, server.address, server.port, server.family] = server

    # ---- Listings ------------------------------------------------------------------------------------

    def page(self, cursor: int, limit: int, traffic: Callable) -> tuple[list[dict], int | None]:
        """Return up to *limit* lines of the listing from *cursor* on, as rows, and the next cursor or None.

        A service is one line and each of its servers another, so a page takes the same short time whether
        there are many services or many servers in one; ``join_pages`` puts a divided service together.
        *traffic* returns what is counted for a service or a server: ``stats``, ``shown`` and ``rates``.
        A cursor says how many services, and how many lines of the next one, were shown before.
        """
        rows = []
        ordinal, first = divmod(cursor, MOST_LINES)
        while ordinal < len(self.listed) and limit > 0:
            service = self.listed[ordinal]
            last = min(first + limit, 1 + len(service.servers))
            if first < last:
                rows.append({**_service_row(service.key, service), **traffic(service), "servers": [
                    {**_server_row(server), **traffic(server)}
                    for server in service.servers[max(first - 1, 0):last - 1]]})
                limit -= last - first
            ordinal, first = (ordinal, last) if last <= len(service.servers) else (ordinal + 1, 0)
        return rows, ordinal * MOST_LINES + first if ordinal < len(self.listed) else None


def join_pages(rows: list[dict], page: list[dict]) -> None:
    """Add the rows of the next *page* of a listing to *rows*."""
    for row in page:
        if rows and all(rows[-1][name] == row[name] for name in ("family", "protocol", "address", "port", "fwmark")):
            rows[-1]["servers"] += row["servers"]
        else:
            rows.append(row)


def mark_key(fwmark: int, family: int = AF_INET) -> ServiceKey:
    """Return the key of the service for packets with a firewall mark; the kernel, too, calls its protocol TCP."""
    return ServiceKey(TCP, 0, 0, family, fwmark)


def template_place(service: VirtualService, family: int, protocol: int, client: int, vip: int,
                   vport: int) -> tuple[int, int, int, int]:
    """Return protocol, client, address and port that a persistent client's template is found under.

    They depend on what the service covers: one port, one port of FTP with its data, any port, or whatever carries a
    mark.
    """
    port = service.key.port
    if vport == port:
        return protocol, service.client(client), vip, 0 if port == FTP else port
    if service.key.fwmark:
        first_word = service.key.fwmark << (96 if family == AF_INET6 else 0)
        return 0, service.client(client), first_word, 0
    return protocol, service.client(client), vip, 0


def _check_thresholds(upper: int, lower: int) -> None:
    if lower > upper:
        raise ThresholdsReversed(f"lower threshold {lower} is above the upper one, {upper}; a server that is full at "
                                 f"{upper} connections can only be free again below that")


def _check_family(key: ServiceKey, address: int, port: int, family: int, mode: int) -> None:
    if family != key.family and mode != TUN:
        raise ServiceError(f"server {format_endpoint(address, port, family)} is not of the address family of service "
                           f"{format_service(key)}; only tun carries one in the other")


def _check_netmask(key: ServiceKey, netmask: int | None) -> None:
    if key.family == AF_INET6 and netmask is not None and not 1 <= netmask <= 128:
        raise ServiceError(f"netmask {netmask} of service {format_service(key)} is not a prefix length from 1 to 128")


def _service_row(key: ServiceKey, service: VirtualService) -> dict:
    return {"family": FAMILY_NAMES[key.family], "protocol": PROTOCOL_NAMES[key.protocol],
            "address": format_address(key.address, key.family), "port": key.port, "fwmark": key.fwmark,
            "scheduler": service.scheduler.name,
            "flags": [name for name, bit in SERVICE_FLAGS.items() if service.flags & bit], "timeout": service.timeout,
            "netmask": str(service.netmask) if key.family == AF_INET6 else format_address(service.netmask),
            "idle": service.idle}


def _server_row(server: RealServer) -> dict:
    return {"family": FAMILY_NAMES[server.family], "address": format_address(server.address, server.family),
            "port": server.port, "mode": MODE_NAMES[server.mode], "weight": server.weight, "upper": server.upper,
            "lower": server.lower, "overloaded": bool(server.overloaded),
            "tunnel": TUNNEL_NAMES[server.tunnel.type], "tunnel_port": server.tunnel.port,
            "tunnel_flags": TUNNEL_FLAG_NAMES[server.tunnel.flags],
            "active": server.active_conns, "inactive": server.inactive_conns, "persistent": server.persistent_conns}
