"""Prepare this machine for a director, and put everything back: the one door to the rest of ``host/``.

    check()      can it work here?                     changes nothing
    install()    undo.json, sets, sysctls, rules       all or nothing
    add_…()      members of sets                       while the director runs
    undo()       everything as it was                  after a crash: cleanup()

``install()`` over the leavings of a killed director takes them over: the rules stay in place all the
while, so no packet of a service slips past, and undo.json keeps the values from before the *first* start.

IPv4 and IPv6 have each a ``Stack`` of their own, put in with the first service of its family: at the start, or by
``add_service()`` later, then likewise all or nothing.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from lbq.errors import HostError
from lbq.grammar import format_address
from lbq.host import addresses, advice, flows, iptables, nftables, probes, rules, sysctl, teardown, undo
from lbq.host.addresses import local_addresses
from lbq.host.netlink import BITS
from lbq.host.offloading import Timeouts
from lbq.host.stack import Server, Stack
from lbq.host.teardown import cleanup
from lbq.model import AF_INET, AF_INET6, FAMILY_NAMES, NAT, ServiceKey
from lbq.netlink import MARK_MASK
from lbq.queues import Queues

__all__ = ["HostSetup", "cleanup", "local_addresses", "state_directory"]

STATE = Path("/run/lbq")


def state_directory() -> Path:
    """Return the folder of this network namespace's director."""
    return STATE / str(os.stat("/proc/thread-self/ns/net").st_ino)


class HostSetup:
    """What one director needs from its machine."""

    def __init__(self, directory: Path, queues: Queues, *, accept_forward: bool = False,
                 add_vip: str | None = None, restore: str | None = None, mark_mask: int = MARK_MASK,
                 logger: logging.Logger | None = None):
        self.directory = directory
        self.queues = queues
        self.accept_forward = accept_forward
        self.add_vip = add_vip                  # the device that gets VIPs this host lacks
        self.restore = restore                  # an iptables-restore other than the host's own
        self.logger = logger or logging.getLogger("lbq.host")
        self.record: undo.UndoRecord | None = None
        self.stacks = {family: Stack(family, queues, accept_forward, mark_mask, self.logger)
                       for family in (AF_INET, AF_INET6)}

    def check(self, family: int = AF_INET) -> None:
        """Raise HostError, with the cure, for the first thing this machine lacks; change nothing."""
        probes.check_permission()
        self.check_family(family)
        probes.check(iptables.find(self.restore, family), rules.tables_for(self.accept_forward), family,
                     several_workers=self.queues.workers > 1)
        if self.add_vip is not None:
            addresses.check_device(self.add_vip)

    def check_service(self, key: ServiceKey) -> None:
        """Raise HostError, with the cure, for what this machine lacks when *key* is the first service of its family."""
        if self.stacks[key.family].tables is None:
            self.check(key.family)

    def steering_refused(self, family: int) -> str:
        """Return why this kernel cannot rewrite packets for us, "" when it can."""
        return self.stacks[family].steering.probe()

    def offloading_refused(self, family: int) -> str:
        """Return why conntrack cannot carry flows for us here, "" when it can."""
        stack = self.stacks[family]
        variant = iptables.find(self.restore, family).variant
        if not probes.extension_is_known(variant, probes.MATCH, "conntrack", family):
            return "this kernel's rules do not know conntrack (modprobe xt_conntrack)"
        return stack.offloading.probe() or flows.probe()

    def set_flow_timeouts(self, tcp: int, tcp_fin: int, udp: int) -> None:
        """Let flows that conntrack begins to carry from now on last so many seconds without a packet."""
        for stack in self.stacks.values():
            stack.offloading.set_timeouts(Timeouts(tcp, tcp_fin, udp))

    def check_family(self, family: int) -> None:
        """Raise HostError, with the cure, when this machine cannot send to addresses of *family*."""
        if family == AF_INET6:
            probes.check_ipv6()

    def install(self, services: Iterable[ServiceKey], servers: Iterable[Server],
                steered: Iterable[ServiceKey] = (), offloaded: Iterable[ServiceKey] = ()) -> list[str]:
        """Put sets, sysctls and rules in, all or nothing; *servers* are (service, RIP, rport, mode, steer, offloaded).

        *steered* are the services whose packets the kernel rewrites, *offloaded* those whose flows conntrack carries.
        Returns what was changed, one line each.
        """
        services, servers = list(services), list(servers)
        lines = self._begin()
        try:
            for family, stack in self.stacks.items():
                mine = [key for key in services if key.family == family]
                if mine:
                    lines += self._put_in(stack, mine, [server for server in servers if server[0].family == family],
                                           steered, offloaded)
                elif FAMILY_NAMES[family] in self.record.programs:      # a killed director's, of no use any more
                    lines += teardown.undo_family(self.record, family, self.queues.all)
            undo.save(self.directory, self.record)
        except BaseException as error:
            try:
                self.undo()
            except HostError as second:
                error.add_note(str(second))
            raise
        return lines

    def add_service(self, key: ServiceKey, steered: bool = False, offloaded: bool = False) -> None:
        """Send the packets of one more service to the queue, or change nothing and raise."""
        stack, queues = self.stacks[key.family], self._queues()
        if stack.tables is None:
            self._log(self._put_in_late(stack, key, steered, offloaded))
            self._log([advice.describe_vip(vip, key.family) for vip in stack.vip_addresses()])
            self._warn([*self._warnings(stack), *self._queue_warnings(queues)])
            return
        with ExitStack() as undoing:
            if offloaded:
                self._log(self._have_conntrack_tell())
            stack.add_service(key, undoing, steered=steered, offloaded=offloaded)
            vips = [key.address] if key.address else []
            self._log(self._add_missing_vips(stack, vips))
            self._log(self._stop_redirects(stack, vips))
            undoing.pop_all()
        self._warn(self._queue_warnings(queues))

    def remove_service(self, key: ServiceKey) -> None:
        """Leave the packets of the service *key* alone from now on."""
        self.stacks[key.family].remove_service(key)

    def add_server(self, key: ServiceKey, address: int, port: int, mode: int = NAT, steer: int = 0,
                   offloaded: bool = False) -> None:
        """Send the replies of a real server to the queue; several services may add the same one."""
        stack = self.stacks[key.family]
        with ExitStack() as undoing:
            stack.add_server(key, address, port, mode, steer, offloaded, undoing)
            self._log(self._stop_redirects(stack, servers=[address] if mode == NAT else []))
            undoing.pop_all()

    def remove_server(self, key: ServiceKey, address: int, port: int, mode: int = NAT, steer: int = 0,
                      offloaded: bool = False) -> None:
        """Leave a real server's replies alone, once the last service that added it has removed it."""
        self.stacks[key.family].remove_server(key, address, port, mode, steer, offloaded)

    def close_server(self, key: ServiceKey, address: int, port: int) -> None:
        """Drop what clients still send in the flows of an offloaded server, which was deleted."""
        self.stacks[key.family].close_server(key, address, port)

    def open_server(self, key: ServiceKey, address: int, port: int) -> None:
        """Let the flows of an offloaded server go on, which is back."""
        self.stacks[key.family].open_server(key, address, port)

    def undo(self) -> list[str]:
        """Put everything back; return what was done, one line each."""
        if self.record is None:
            return []
        lines = teardown.undo_all(self.record, self.queues.all)
        undo.discard(self.directory)
        self.record = None
        return lines

    def is_broadcast(self, family: int, address: int) -> bool:
        """Return True when *address* is that of a whole network here."""
        return family == AF_INET and addresses.is_broadcast(address)

    def describe_vips(self) -> list[str]:
        """Return one line for each VIP: whether it is an address of this host, or must be routed here."""
        return [advice.describe_vip(vip, stack.family) for stack in self._active() for vip in stack.vip_addresses()]

    def warnings(self) -> list[str]:
        """Return what on this machine will keep packets from their way, one line each with the cure."""
        return [line for stack in self._active() for line in self._warnings(stack)] + self._queue_warnings(1)

    def _warnings(self, stack: Stack) -> list[str]:
        return advice.warnings(stack.family, {*stack.vips.wanted, *stack.steer_vips.wanted, *stack.offload_vips.wanted},
                               {*stack.rips.wanted, *stack.steer_rips.wanted, *stack.offload_rips.wanted},
                               stack.vip_addresses())

    def _queue_warnings(self, before: int) -> list[str]:
        """Return what is to be said of the number of queues, when there were only *before* so far."""
        queues = self._queues()
        return advice.queue_warnings(queues) if queues > before else []

    def _queues(self) -> int:
        """Return how many queues packets go to: what the kernel rewrites or carries has another of each worker's."""
        return self.queues.workers * (1 + any(stack.steered or stack.offloaded for stack in self.stacks.values()))

    def _active(self) -> list[Stack]:
        return [stack for stack in self.stacks.values() if stack.tables is not None]

    def _begin(self) -> list[str]:
        """Write the record before anything is changed, or take over the one of a killed director."""
        record = undo.load(self.directory)
        lines = [] if record is None else ["a killed director left its rules; taking them over"]
        self.record = record or undo.begin(self.queues.first, {FAMILY_NAMES[family]: nftables.snapshot(family)
                                                        for family in self.stacks})
        self.record.queue = self.queues.first
        undo.save(self.directory, self.record)
        return lines

    def _put_in(self, stack: Stack, services: list[ServiceKey], servers: list[Server],
                steered: Iterable[ServiceKey], offloaded: Iterable[ServiceKey]) -> list[str]:
        """Put the rules and sets of one family in, with what its packets need of the machine."""
        stack.tables = iptables.find(self.restore, stack.family)
        lines = self._remember(stack)
        stack.fill(services, servers, steered, offloaded)
        if stack.offloaded:
            lines += self._have_conntrack_tell()
        lines += self._add_missing_vips(stack, stack.vip_addresses())
        lines += self._forward(stack.family)
        lines += self._stop_redirects(stack, stack.vip_addresses(), stack.server_addresses())
        stack.put_rules_in()
        for key in stack.offloaded:
            stack.forget_flows(key)
        return lines

    def _put_in_late(self, stack: Stack, key: ServiceKey, steered: bool, offloaded: bool) -> list[str]:
        """Put the rules and sets of a family in while the director runs; if that fails, the other family stays."""
        try:
            return self._put_in(stack, [key], [], [key] if steered else [], [key] if offloaded else [])
        except BaseException as error:
            stack.tables = None
            try:
                # Empty tables stay for now: to remove one drops what waits in the queue.
                teardown.undo_family(self.record, stack.family, range(0))
                undo.save(self.directory, self.record)
            except HostError as second:
                error.add_note(str(second))
            raise

    def _remember(self, stack: Stack) -> list[str]:
        """Write down which program makes the rules; take out those that a killed director made with another."""
        name, program = FAMILY_NAMES[stack.family], stack.tables.restore_program
        lines = []
        if self.record.programs.get(name, program) != program:
            lines = teardown.leave_variant(self.record, stack.family, self.queues.all)
        self.record.programs[name] = program
        undo.save(self.directory, self.record)
        return lines

    def _forward(self, family: int) -> list[str]:
        """Let this machine forward packets of *family*."""
        if family == AF_INET:
            return self._set({sysctl.IP_FORWARD: "1"}, sysctl.forwarding_values())
        before = sysctl.forwarding6_values()
        return self._set(sysctl.wanted_forwarding6(before), before)

    def _set(self, values: sysctl.Values, before: sysctl.Values) -> list[str]:
        """Set *values*, once undo.json holds *before*: what they, and all that change with them, are now."""
        if all(sysctl.read(key) in (None, value) for key, value in values.items()):
            return []
        for key, value in before.items():
            self.record.sysctls.setdefault(key, value)
        undo.save(self.directory, self.record)
        return sysctl.write_all(values)

    def _have_conntrack_tell(self) -> list[str]:
        """Have conntrack count packets, and tell of its connections."""
        values = {flows.ACCOUNTING: "1"}
        if sysctl.read(flows.TELLING) == "0":
            values[flows.TELLING] = "1"
        return self._set(values, sysctl.read_all(list(values)))

    def _stop_redirects(self, stack: Stack, vips: Iterable[int] = (), servers: Iterable[int] = ()) -> list[str]:
        """Keep ICMP redirects off the devices that lead to real servers and to clients alike, now *vips* and *servers*.

        With one-armed NAT such a redirect would teach a real server the direct way to the client, and its
        replies would reach the client without the VIP as their source.  For IPv6 there are no such settings, but
        a rule (``rules.py``).
        """
        if stack.family == AF_INET6:
            return []
        stack.towards_servers |= {addresses.device_towards(address, AF_INET) for address in servers}
        if vips:
            stack.towards_clients |= addresses.client_devices(list(vips), AF_INET)
        shared = sorted(stack.towards_servers & stack.towards_clients)
        before = sysctl.read_all(sysctl.redirect_keys(shared))
        return self._set(dict.fromkeys(before, "0"), before)

    def _add_missing_vips(self, stack: Stack, vips: Iterable[int]) -> list[str]:
        """Add those of the *vips* that are not delivered, or not answered for, here to the device of --add-vip."""
        if self.add_vip is None:
            return []
        family = stack.family
        missing = [vip for vip in vips if not addresses.is_local(vip, family)
                   or addresses.unanswered_device(vip, family) == self.add_vip]
        for vip in missing:
            self.record.addresses.append([format_address(vip, family), self.add_vip])
            undo.save(self.directory, self.record)
            addresses.add(vip, family, self.add_vip)
        return [f"{format_address(vip, family)}/{BITS[family]} added to {self.add_vip}" for vip in missing]

    def _warn(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.logger.warning(line)

    def _log(self, lines: list[str]) -> None:
        for line in lines:
            self.logger.info(line)
