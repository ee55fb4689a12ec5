"""The configured virtual services and their real servers: add, edit, delete, find.

Both directors, the readable and the fast one, keep their configuration here, so what an operator's
command means is written once.  Deleting a server that still has connections moves it to the *trash*:
it takes no packet from clients any more, its replies still pass, and adding the same server again
brings it back with its connections (ip_vs_ctl.c, ip_vs_trash_get_dest()).

Differs from IPVS: a deleted server without connections is forgotten at the next look into the trash, not
after two to four minutes.  It shows in one place: added again later, its traffic counters start at zero.
"""
from __future__ import annotations

from collections.abc import Callable

from lbq.errors import NoSuchServer, NoSuchService, ServerExists, ServiceExists
from lbq.grammar import format_address, format_endpoint, format_service
from lbq.model import CLASSIC, MODE_NAMES, NAT, NEW, PROTOCOL_NAMES, RealServer, ServiceKey, VirtualService
from lbq.schedulers import create


class ServiceTable:
    """Virtual services by key, and the deleted servers that connections still refer to."""

    def __init__(self, profile: str = NEW):
        self.active_cost = 256 if profile == CLASSIC else 257
        self.by_key: dict[ServiceKey, VirtualService] = {}
        self.trash: dict[tuple[ServiceKey, int, int], RealServer] = {}

    def add_service(self, key: ServiceKey, scheduler: str) -> VirtualService:
        """Add the service *key*, whose new connections *scheduler* (a name) distributes."""
        if key in self.by_key:
            raise ServiceExists(f"cannot add service {format_service(key)}: it is already there")
        service = VirtualService(key, create(scheduler))
        self.by_key[key] = service
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
        for server in list(service.servers):
            self._discard(service, server)
        del self.by_key[key]
        return service

    def find_server(self, key: ServiceKey, address: int, port: int) -> RealServer | None:
        """Return the server *address*:*port* of service *key*, or None."""
        for server in self.service(key).servers:
            if server.address == address and server.port == port:
                return server
        return None

    def server(self, key: ServiceKey, address: int, port: int) -> RealServer:
        """Return the server *address*:*port* of service *key*."""
        found = self.find_server(key, address, port)
        if found is None:
            raise NoSuchServer(f"service {format_service(key)} has no server "
                               f"{format_endpoint(address, port, key.family)}; `lbq list` shows those it has")
        return found

    def add_server(self, key: ServiceKey, address: int, port: int, weight: int = 1,
                   mode: int = NAT) -> RealServer:
        """Add a server at the head of the service's list, out of the trash where it is still there."""
        service = self.service(key)
        if self.find_server(key, address, port) is not None:
            raise ServerExists(f"cannot add server {format_endpoint(address, port, key.family)} to "
                               f"{format_service(key)}: it is already there; `lbq set server` changes it")
        server = self.trash.get((key, address, port)) or RealServer(address, port, weight, mode, self.active_cost)
        server.weight = weight
        server.mode = mode
        service.add(server)
        server.available = True
        self.trash.pop((key, address, port), None)
        return server

    def set_server(self, key: ServiceKey, address: int, port: int, weight: int) -> RealServer:
        """Give a server another weight; 0 quiesces it."""
        server = self.server(key, address, port)
        server.weight = weight
        self.service(key).changed(server)
        return server

    def delete_server(self, key: ServiceKey, address: int, port: int) -> RealServer:
        """Delete a server; it rests in the trash while connections refer to it."""
        server = self.server(key, address, port)
        self._discard(self.service(key), server)
        return server

    def empty_trash(self) -> list[tuple[ServiceKey, int, int]]:
        """Forget deleted servers without connections, and return which they were."""
        gone = [key for key, server in self.trash.items()
                if server.active_conns + server.inactive_conns == 0]
        for key in gone:
            del self.trash[key]
        return gone

    def _discard(self, service: VirtualService, server: RealServer) -> None:
        server.available = False
        self.trash[service.key, server.address, server.port] = server
        service.remove(server)          # last: it tells the scheduler, which may be a user's own and fail

    def page(self, cursor: int, limit: int, traffic: Callable) -> tuple[list[dict], int | None]:
        """Return up to *limit* lines of the listing from line *cursor* on, as rows, and the next cursor or None.

        A service is one line and each of its servers another, so a page takes the same short time whether
        there are many services or many servers in one; ``join_pages`` puts a divided service together.
        *traffic* returns the counters of a service or a server.
        """
        rows, start = [], 0
        for key, service in self.by_key.items():
            first, last = max(cursor - start, 0), min(cursor + limit - start, 1 + len(service.servers))
            if first < last:
                rows.append({
                    "protocol": PROTOCOL_NAMES[key.protocol], "address": format_address(key.address, key.family),
                    "port": key.port, "scheduler": service.scheduler.name, "stats": traffic(service),
                    "servers": [_server_row(key, server, traffic(server))
                                for server in service.servers[max(first - 1, 0):last - 1]]})
            start += 1 + len(service.servers)
            if start > cursor + limit:
                return rows, cursor + limit
        return rows, None


def join_pages(rows: list[dict], page: list[dict]) -> None:
    """Add the rows of the next *page* of a listing to *rows*."""
    for row in page:
        if rows and all(rows[-1][name] == row[name] for name in ("protocol", "address", "port")):
            rows[-1]["servers"] += row["servers"]
        else:
            rows.append(row)


def _server_row(key: ServiceKey, server: RealServer, stats: dict) -> dict:
    return {"address": format_address(server.address, key.family), "port": server.port,
            "mode": MODE_NAMES[server.mode], "weight": server.weight, "active": server.active_conns,
            "inactive": server.inactive_conns, "stats": stats}
