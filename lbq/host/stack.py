"""One family's half of a dual-stack host: its rules and sets, and what a service or a server puts into them.

The halves are alike and know nothing of each other.  Each is put in when the first service of its family comes, and
stays until the director stops: a machine that balances IPv4 alone does not begin to forward IPv6.
"""
from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack

from lbq.host import flows, iptables, rules
from lbq.host.offloading import Offloading
from lbq.host.offloading import Target as Offloaded
from lbq.host.sets import Member, MemberSet, set_named
from lbq.host.steering import Steering, Target
from lbq.model import AF_INET6, NAT, ServiceKey
from lbq.queues import Queues

EVERY_PORT = (0, 21)        # services that cover more ports than their own: all, and FTP with its data

Server = tuple          # service, RIP, rport, mode; the number that it is told by, if it is, and if it is offloaded


class Stack:
    """The rules and sets of one family."""

    def __init__(self, family: int, queues: Queues, accept_forward: bool, mark_mask: int, logger: logging.Logger):
        self.family = family
        self.logger = logger
        self.queues = queues
        self.accept_forward = accept_forward
        self.sets = [set_named(name, family) for name in rules.SETS[family]]
        (self.vips, self.rips, self.any_vips, self.any_rips, self.steer_vips, self.steer_rips, self.offload_vips,
         self.offload_rips) = self.sets
        self.steered: set[ServiceKey] = set()   # services whose packets the kernel rewrites
        self.steering = Steering(family, mark_mask)
        self.offloaded: set[ServiceKey] = set()     # services whose flows conntrack carries
        self.offloading = Offloading(family, mark_mask)
        self.marks: Counter[int] = Counter()    # firewall marks that have a service
        self.tables: iptables.Iptables | None = None        # once it is put in
        self.towards_servers: set[str | None] = set()       # devices, as they were when each address was added
        self.towards_clients: set[str] = set()

    def fill(self, services: Iterable[ServiceKey], servers: Iterable[Server], steered: Iterable[ServiceKey],
             offloaded: Iterable[ServiceKey] = ()) -> None:
        """Make the sets hold *services* and *servers* and nothing else.

        *steered* are those the kernel rewrites for, *offloaded* those whose flows conntrack carries.
        """
        services, servers = list(services), list(servers)
        self.steered = set(steered) & set(services)
        self.offloaded = set(offloaded) & set(services)
        if self.steered:
            self.steering.put_in()
        if self.offloaded:
            self.offloading.put_in()
        for server in servers:
            self._steer(*server)
        self.marks = Counter(key.fwmark for key in services if key.fwmark)
        members = [place for key in services for place in self.places_of_service(key)]
        members += [place for server in servers for place in self.places_of_server(*server)]
        for kernel_set in self.sets:
            kernel_set.fill(member for where, member in members if where is kernel_set)

    def put_rules_in(self) -> None:
        """Bring the rules up to date, whatever is there already."""
        present = rules.parse(self.tables.save())
        stale = {} if self.accept_forward else {"filter": present.get("filter", [])}
        wanted = rules.install_text(self.family, self.queues, self.accept_forward, present, sorted(self.marks),
                                    **self._needs())
        self.tables.restore(rules.removal_text(stale) + wanted)
        for mark in sorted(self.marks):
            if not rules.sets_mark(present, mark):
                command = self.tables.command()
                self.logger.warning("no rule of %s sets the mark %s yet; one that does must come before lbq's: "
                                    "%s -t raw -I PREROUTING … -j MARK --set-mark %s", command, mark, command, mark)

    def forget_flows(self, key: ServiceKey) -> int:
        """Have conntrack forget the flows to an offloaded service but those to real servers; return how many.

        A flow that began before the service did would go on past lbq.
        """
        place = key.protocol, key.address, key.port
        return flows.forget(self.family, lambda flow: (flow.protocol, flow.vip, flow.vport) == place and not (
            flow.is_translated and (flow.protocol, flow.rip, flow.rport) in self.offload_rips.wanted))

    def add_service(self, key: ServiceKey, undoing: ExitStack, *, steered: bool = False,
                    offloaded: bool = False) -> None:
        """Send the packets of one more service to the queue; *undoing* learns how to take that back."""
        if steered:
            if not self.steering.is_in:
                self.steering.put_in()
            self.steered.add(key)
            undoing.callback(self.steered.discard, key)
        if offloaded:
            if not self.offloading.is_in:
                self.offloading.put_in()
            self.offloaded.add(key)
            undoing.callback(self.offloaded.discard, key)
        lacks_rules = self._add(self.places_of_service(key), undoing)
        if key.fwmark:
            self.marks[key.fwmark] += 1
            undoing.callback(self._forget_mark, key.fwmark)
        if key.fwmark or lacks_rules:
            self.put_rules_in()
        if offloaded:
            self.forget_flows(key)

    def remove_service(self, key: ServiceKey) -> None:
        """Leave the packets of the service *key* alone from now on."""
        if key.fwmark:
            self._forget_mark(key.fwmark)
            self.put_rules_in()
        for where, member in self.places_of_service(key):
            where.remove(member)
        self.steered.discard(key)
        self.offloaded.discard(key)

    def add_server(self, key: ServiceKey, address: int, port: int, mode: int, steer: int, offloaded: bool,
                   undoing: ExitStack) -> None:
        """Send the replies of a real server to the queue; *undoing* learns how to take that back.

        Several services may add the same one.
        """
        if steer:
            self._steer(key, address, port, mode, steer, offloaded)
            undoing.callback(self._steer_no_more, key, address, port, mode, steer, offloaded)
        if self._add(self.places_of_server(key, address, port, mode, steer, offloaded), undoing):
            self.put_rules_in()

    def remove_server(self, key: ServiceKey, address: int, port: int, mode: int, steer: int, offloaded: bool) -> None:
        """Leave a real server's replies alone, once the last service that added it has removed it."""
        for where, member in self.places_of_server(key, address, port, mode, steer, offloaded):
            where.remove(member)
        if steer:
            self._steer_no_more(key, address, port, mode, steer, offloaded)

    def close_server(self, key: ServiceKey, address: int, port: int) -> None:
        """Drop what clients still send in the flows of an offloaded server, which was deleted."""
        self.offloading.close(Offloaded(key.protocol, address, port, key.address, key.port))

    def open_server(self, key: ServiceKey, address: int, port: int) -> None:
        """Let the flows of an offloaded server go on, which is back."""
        self.offloading.open(Offloaded(key.protocol, address, port, key.address, key.port))

    def _steer(self, key: ServiceKey, address: int, port: int, mode: int, steer: int = 0,
               offloaded: bool = False) -> None:
        """Let the kernel know which server is meant by the number *steer*."""
        if steer and offloaded:
            self.offloading.add(steer, Offloaded(key.protocol, address, port, key.address, key.port))
        elif steer:
            self.steering.add(steer, Target(address, port, key.address, key.port, mode))

    def _steer_no_more(self, key: ServiceKey, address: int, port: int, mode: int, steer: int, offloaded: bool) -> None:
        if offloaded:
            self.offloading.remove(steer, Offloaded(key.protocol, address, port, key.address, key.port))
        else:
            self.steering.remove(steer, Target(address, port, key.address, key.port, mode))

    def _add(self, places: Iterable[tuple[MemberSet, Member | int]], undoing: ExitStack) -> bool:
        """Put members into sets; return True when one is the first of its kind, for which there are no rules yet."""
        before = self._needs()
        for where, member in places:
            where.add(member)
            undoing.callback(where.remove, member)
        return any(needed and not before[what] for what, needed in self._needs().items())

    def _needs(self) -> dict[str, bool]:
        """Return for which pairs of sets there are rules to be; some that are there stay without need."""
        steered = bool(self.steer_vips.wanted or self.steer_rips.wanted)
        offloaded = bool(self.offload_vips.wanted or self.offload_rips.wanted)
        return {"whole": not (steered or offloaded) or bool(self.vips.wanted or self.rips.wanted),
                "every_port": bool(self.any_vips.wanted or self.any_rips.wanted), "steered": steered,
                "offloaded": offloaded}

    def _forget_mark(self, mark: int) -> None:
        self.marks -= Counter([mark])

    def vip_addresses(self) -> list[int]:
        """Return the addresses of all services."""
        return sorted({address for _, address, _ in (*self.vips.wanted, *self.steer_vips.wanted,
                                                     *self.offload_vips.wanted)} | set(self.any_vips.wanted))

    def server_addresses(self) -> set[int]:
        """Return the addresses that replies come from."""
        return {address for _, address, _ in (*self.rips.wanted, *self.steer_rips.wanted,
                                              *self.offload_rips.wanted)} | set(self.any_rips.wanted)

    def places_of_service(self, key: ServiceKey) -> list[tuple[MemberSet, Member | int]]:
        """Return which sets get what for a service."""
        if key.fwmark or key.address == 0:      # no packet is addressed to 0.0.0.0 or ::
            return []
        if key in self.steered or key in self.offloaded:
            vips = self.steer_vips if key in self.steered else self.offload_vips
            return [(vips, (key.protocol, key.address, key.port))]
        places = [(self.vips, (key.protocol, key.address, key.port))] if key.port else []
        return places + ([(self.any_vips, key.address)] if key.port in EVERY_PORT else [])

    def places_of_server(self, key: ServiceKey, address: int, port: int, mode: int, steer: int = 0,
                          offloaded: bool = False) -> list[tuple]:
        """Return which sets get what, so that the replies of a server of *key* are seen."""
        every_port = key.fwmark != 0 or key.port in EVERY_PORT
        rips = self.offload_rips if offloaded else self.steer_rips if steer else self.rips
        if mode != NAT:                         # they come from the VIP
            if key.fwmark:
                return []
            return [(self.any_rips, key.address) if every_port else (rips, (key.protocol, key.address, key.port))]
        places = [(self.rips, (rules.ICMPV6, address, rules.REDIRECT))] if self.family == AF_INET6 else []
        if every_port or port == 0:
            return [*places, (self.any_rips, address)]
        return [*places, (rips, (key.protocol, address, port))]
