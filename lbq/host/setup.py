"""Prepare this machine for a director, and put everything back: the one door to the rest of ``host/``.

    check()      can it work here?                     changes nothing
    install()    undo.json, sets, sysctls, rules       all or nothing
    add_…()      members of sets                       while the director runs
    undo()       everything as it was                  after a crash: cleanup()

``install()`` over the leavings of a killed director takes them over: the rules stay in place all the
while, so no packet of a service slips past, and undo.json keeps the values from before the *first* start.
"""
from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from lbq.errors import HostError
from lbq.host import addresses, advice, iptables, nftables, probes, rules, sysctl, teardown, undo
from lbq.host.addresses import dotted, local_addresses
from lbq.host.sets import Member, MemberSet, set_named
from lbq.host.teardown import cleanup
from lbq.model import AF_INET, NAT, ServiceKey

__all__ = ["HostSetup", "cleanup", "local_addresses", "state_directory"]

STATE = Path("/run/lbq")
EVERY_PORT = (0, 21)        # services that cover more ports than their own: all, and FTP with its data

Server = tuple[ServiceKey, int, int, int]       # service, RIP, rport, mode


def state_directory() -> Path:
    """Return the folder of this network namespace's director."""
    return STATE / str(os.stat("/proc/thread-self/ns/net").st_ino)


class HostSetup:
    """What one director needs from its machine."""

    def __init__(self, directory: Path, queue: int, *, accept_forward: bool = False,
                 add_vip: str | None = None, restore: str | None = None,
                 logger: logging.Logger | None = None):
        self.directory = directory
        self.queue = queue
        self.accept_forward = accept_forward
        self.add_vip = add_vip                  # the device that gets VIPs this host lacks
        self.restore = restore                  # an iptables-restore other than the host's own
        self.logger = logger or logging.getLogger("lbq.host")
        self.record: undo.UndoRecord | None = None
        self.vips, self.rips, self.any_vips, self.any_rips = map(set_named, rules.SETS)
        self.marks: Counter[int] = Counter()    # firewall marks that have a service
        self.tables: iptables.Iptables | None = None

    def check(self) -> None:
        """Raise HostError, with the cure, for the first thing this machine lacks; change nothing."""
        probes.check_permission()
        probes.check(iptables.find(self.restore), rules.tables_for(self.accept_forward))
        if self.add_vip is not None:
            addresses.check_device(self.add_vip)

    def install(self, services: Iterable[ServiceKey], servers: Iterable[Server]) -> list[str]:
        """Put sets, sysctls and rules in, all or nothing; *servers* are (service, RIP, rport, mode).

        Returns what was changed, one line each.
        """
        tables = self.tables = iptables.find(self.restore)
        lines = self._begin(tables)
        try:
            services = list(services)
            self.marks = Counter(key.fwmark for key in services if key.fwmark)
            members = [place for key in services for place in self._places_of_service(key)]
            members += [place for server in servers for place in self._places_of_server(*server)]
            for kernel_set in (self.vips, self.rips, self.any_vips, self.any_rips):
                kernel_set.fill(member for where, member in members if where is kernel_set)
            lines += self._add_missing_vips()
            lines += self._set({sysctl.IP_FORWARD: "1"}, sysctl.forwarding_values())
            lines += self._stop_redirects()
            self._put_rules_in(tables)
        except BaseException as error:
            try:
                self.undo()
            except HostError as second:
                error.add_note(str(second))
            raise
        return lines

    def add_service(self, key: ServiceKey) -> None:
        """Send the packets of one more service to the queue, or change nothing and raise."""
        with ExitStack() as undoing:
            for where, member in self._places_of_service(key):
                where.add(member)
                undoing.callback(where.remove, member)
            if key.fwmark:
                self.marks[key.fwmark] += 1
                undoing.callback(self._forget_mark, key.fwmark)
                self._put_rules_in(self.tables)
            self._log(self._add_missing_vips())
            self._log(self._stop_redirects())
            undoing.pop_all()

    def remove_service(self, key: ServiceKey) -> None:
        """Leave the packets of the service *key* alone from now on."""
        if key.fwmark:
            self._forget_mark(key.fwmark)
            self._put_rules_in(self.tables)
        for where, member in self._places_of_service(key):
            where.remove(member)

    def add_server(self, key: ServiceKey, address: int, port: int, mode: int = NAT) -> None:
        """Send the replies of a real server to the queue; several services may add the same one."""
        with ExitStack() as undoing:
            for where, member in self._places_of_server(key, address, port, mode):
                where.add(member)
                undoing.callback(where.remove, member)
            self._log(self._stop_redirects())
            undoing.pop_all()

    def remove_server(self, key: ServiceKey, address: int, port: int, mode: int = NAT) -> None:
        """Leave a real server's replies alone, once the last service that added it has removed it."""
        for where, member in self._places_of_server(key, address, port, mode):
            where.remove(member)

    def _places_of_service(self, key: ServiceKey) -> list[tuple[MemberSet, Member | int]]:
        """Return which sets get what for a service."""
        if key.fwmark or key.address == 0:      # no packet is addressed to 0.0.0.0
            return []
        places = [(self.vips, (key.protocol, key.address, key.port))] if key.port else []
        return places + ([(self.any_vips, key.address)] if key.port in EVERY_PORT else [])

    def _places_of_server(self, key: ServiceKey, address: int, port: int, mode: int) -> list[tuple]:
        """Return which sets get what, so that the replies of a server of *key* are seen."""
        every_port = key.fwmark != 0 or key.port in EVERY_PORT
        if mode != NAT:                         # they come from the VIP
            if key.fwmark:
                return []
            return [(self.any_rips, key.address) if every_port else (self.rips, (key.protocol, key.address, key.port))]
        if every_port or port == 0:
            return [(self.any_rips, address)]
        return [(self.rips, (key.protocol, address, port))]

    def undo(self) -> list[str]:
        """Put everything back; return what was done, one line each."""
        if self.record is None:
            return []
        lines = teardown.undo_all(self.record, self.queue)
        undo.discard(self.directory)
        self.record = None
        return lines

    def is_broadcast(self, family: int, address: int) -> bool:
        """Return True when *address* is that of a whole network here."""
        return family == AF_INET and addresses.is_broadcast(address)

    def describe_vips(self) -> list[str]:
        """Return one line for each VIP: whether it is an address of this host, or must be routed here."""
        return [advice.describe_vip(vip) for vip in self._vip_addresses()]

    def warnings(self) -> list[str]:
        """Return what on this machine will keep packets from their way, one line each with the cure."""
        return advice.warnings(set(self.vips.wanted), set(self.rips.wanted), self._vip_addresses())

    def _begin(self, tables: iptables.Iptables) -> list[str]:
        """Write the record before anything is changed, or take over the one of a killed director."""
        lines = []
        record = undo.load(self.directory)
        if record is None:
            record = undo.begin(self.queue, tables.restore_program, nftables.snapshot())
        else:
            lines.append("a killed director left its rules; taking them over")
            if record.iptables_restore != tables.restore_program:
                lines += teardown.leave_variant(record, self.queue)
                record.iptables_restore = tables.restore_program
            record.queue = self.queue
        self.record = record
        undo.save(self.directory, record)
        return lines

    def _put_rules_in(self, tables: iptables.Iptables) -> None:
        present = rules.parse(tables.save())
        stale = {} if self.accept_forward else {"filter": present.get("filter", [])}
        wanted = rules.install_text(self.queue, self.accept_forward, present, sorted(self.marks))
        tables.restore(rules.removal_text(stale) + wanted)
        for mark in sorted(self.marks):
            if not rules.sets_mark(present, mark):
                self.logger.warning("no rule of iptables sets the mark %s yet; one that does must come before lbq's: "
                                    "iptables -t raw -I PREROUTING … -j MARK --set-mark %s", mark, mark)

    def _forget_mark(self, mark: int) -> None:
        self.marks -= Counter([mark])

    def _set(self, values: sysctl.Values, before: sysctl.Values) -> list[str]:
        """Set *values*, once undo.json holds *before*: what they, and all that change with them, are now."""
        if all(sysctl.read(key) in (None, value) for key, value in values.items()):
            return []
        for key, value in before.items():
            self.record.sysctls.setdefault(key, value)
        undo.save(self.directory, self.record)
        return sysctl.write_all(values)

    def _stop_redirects(self) -> list[str]:
        """Keep ICMP redirects off the devices that lead to real servers and to clients alike.

        With one-armed NAT such a redirect would teach a real server the direct way to the client, and its
        replies would reach the client without the VIP as their source.
        """
        towards_servers = {addresses.device_towards(address) for address in self._server_addresses()}
        shared = sorted(towards_servers & addresses.client_devices(self._vip_addresses()))
        before = sysctl.read_all(sysctl.redirect_keys(shared))
        return self._set(dict.fromkeys(before, "0"), before)

    def _add_missing_vips(self) -> list[str]:
        """Add the VIPs that are not delivered here to the device of --add-vip."""
        if self.add_vip is None:
            return []
        missing = [vip for vip in self._vip_addresses() if not addresses.is_local(vip)]
        for vip in missing:
            self.record.addresses.append([dotted(vip), self.add_vip])
            undo.save(self.directory, self.record)
            addresses.add(vip, self.add_vip)
        return [f"{dotted(vip)}/32 added to {self.add_vip}" for vip in missing]

    def _vip_addresses(self) -> list[int]:
        return sorted({address for _, address, _ in self.vips.wanted} | set(self.any_vips.wanted))

    def _server_addresses(self) -> set[int]:
        return {address for _, address, _ in self.rips.wanted} | set(self.any_rips.wanted)

    def _log(self, lines: list[str]) -> None:
        for line in lines:
            self.logger.info(line)

