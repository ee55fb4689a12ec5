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
from collections.abc import Iterable
from pathlib import Path

from lbq.errors import HostError
from lbq.host import addresses, advice, iptables, nftables, probes, rules, sysctl, teardown, undo
from lbq.host.addresses import dotted, local_addresses
from lbq.host.sets import Member, MemberSet
from lbq.host.teardown import cleanup
from lbq.model import ServiceKey

__all__ = ["HostSetup", "cleanup", "local_addresses", "state_directory"]

STATE = Path("/run/lbq")


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
        self.vips = MemberSet(rules.VIP_SET)
        self.rips = MemberSet(rules.RIP_SET)

    def check(self) -> None:
        """Raise HostError, with the cure, for the first thing this machine lacks; change nothing."""
        probes.check_permission()
        probes.check(iptables.find(self.restore), rules.tables_for(self.accept_forward))
        if self.add_vip is not None:
            addresses.check_device(self.add_vip)

    def install(self, services: Iterable[ServiceKey], servers: Iterable[Member]) -> list[str]:
        """Put sets, sysctls and rules in, all or nothing; *servers* are (protocol, RIP, rport).

        Returns what was changed, one line each.
        """
        tables = iptables.find(self.restore)
        lines = self._begin(tables)
        try:
            self.vips.fill(_member(key) for key in services)
            self.rips.fill(servers)
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
        """Send the packets of one more service to the queue."""
        self.vips.add(_member(key))
        self._log(self._add_missing_vips())
        self._log(self._stop_redirects())

    def remove_service(self, key: ServiceKey) -> None:
        """Leave the packets of the service *key* alone from now on."""
        self.vips.remove(_member(key))

    def add_server(self, protocol: int, address: int, port: int) -> None:
        """Send the replies of a real server to the queue; several services may add the same one."""
        self.rips.add((protocol, address, port))
        self._log(self._stop_redirects())

    def remove_server(self, protocol: int, address: int, port: int) -> None:
        """Leave a real server's replies alone, once the last service that added it has removed it."""
        self.rips.remove((protocol, address, port))

    def undo(self) -> list[str]:
        """Put everything back; return what was done, one line each."""
        if self.record is None:
            return []
        lines = teardown.undo_all(self.record, self.queue)
        undo.discard(self.directory)
        self.record = None
        return lines

    def describe_vips(self) -> list[str]:
        """Return one line for each VIP: whether it is an address of this host, or must be routed here."""
        return [advice.describe_vip(vip) for vip in self._vip_addresses()]

    def warnings(self) -> list[str]:
        """Return what on this machine will keep packets from their way, one line each with the cure."""
        return advice.warnings(set(self.vips.wanted), set(self.rips.wanted))

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
        wanted = rules.install_text(self.queue, self.accept_forward, present)
        tables.restore(rules.removal_text(stale) + wanted)

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
        towards_servers = {addresses.device_towards(address) for _, address, _ in self.rips.wanted}
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
        return sorted({address for _, address, _ in self.vips.wanted})

    def _log(self, lines: list[str]) -> None:
        for line in lines:
            self.logger.info(line)


def _member(key: ServiceKey) -> Member:
    return key.protocol, key.address, key.port
