"""What on this machine will keep a service's packets from their way, said at start with the cure.

lbq changes no firewall by itself and adds no address by itself; it says what it would take.
"""
from __future__ import annotations

import os

from lbq.grammar import format_address, format_endpoint
from lbq.host import addresses, firewall, iptables, nftables, probes, rules
from lbq.host.netlink import BITS
from lbq.host.sets import Member


def describe_vip(vip: int, family: int) -> str:
    """Return one line: is *vip* an address of this host, or must it be routed here?"""
    name = format_address(vip, family)
    device = next((entry.device for entry in addresses.addresses(family) if entry.address == vip), None)
    if device is not None:
        return f"{name} is an address of this host ({device})"
    if addresses.is_local(vip, family):
        return f"{name} is delivered on this host by a local route"
    return f"{name} is not an address of this host; its packets must be routed here"


def warnings(family: int, services: set[Member], servers: set[Member], vips: list[int]) -> list[str]:
    """Return one line for each obstacle to the packets of *services* at *vips* and of *servers*."""
    servers = {server for server in servers if server[0] != rules.ICMPV6}
    lines = [line for vip in vips for line in (*_nobody_answers(vip, family), *_goes_back(vip, family))]
    for tables in iptables.installed(family):
        saved = rules.parse(tables.save())
        lines += _forward_drops(tables.command(), family, saved, vips, servers)
        lines += _input_rules(tables.command(), family, saved, services)
    for table in nftables.foreign_forward_drops(family):
        lines.append(f"nft table {table} drops forwarded packets unless a rule of it accepts them; "
                     f"see that it accepts those to and from the real servers")
    return lines


def queue_warnings(queues: int, release: str = "") -> list[str]:
    """Return a line when the kernel *release*, this host's unless said, is not safe with as many *queues*."""
    release = release or os.uname().release
    if queues < 2 or not probes.verdicts_race(release):
        return []
    branch = tuple(map(int, release.split(".")[:2]))
    cured = f"{branch[0]}.{branch[1]}.{probes.RACING_VERDICTS[branch][1]}"
    return [f"kernel {release} may crash when several queues are in use (CVE-2026-43084), and {queues} are; "
            f"use {cured} or newer, or one queue (--workers 1, --data-path rewrite)"]


def _nobody_answers(vip: int, family: int) -> list[str]:
    device = addresses.unanswered_device(vip, family)
    if device is None:
        return []
    name = format_address(vip, family)
    return [f"nobody answers {addresses.RESOLVER[family]} for {name} on {device}, so clients there do not reach it; "
            f"start with --add-vip {device}, or add it (ip addr add {name}/{BITS[family]} dev {device})"]


def _goes_back(vip: int, family: int) -> list[str]:
    """Warn of a loop: what is for *vip* and for no service would be routed to where it came from, again and again."""
    gateway, name = addresses.gateway_towards(vip, family), format_address(vip, family)
    if gateway is None:
        return []
    return [f"packets to {name} that are for no service leave again for {gateway}, which may send them back, 60 "
            f"times over; end that with: ip route add unreachable {name}"]


def _forward_drops(command: str, family: int, saved: rules.Saved, vips: list[int], servers: set[Member]) -> list[str]:
    clients = addresses.client_devices(vips, family)
    blocked = []
    for server in sorted(servers):
        device = addresses.device_towards(server[1], family)
        why = (firewall.dropped_by(saved, firewall.request_to(family, server, clients, device))
               or firewall.dropped_by(saved, firewall.reply_from(family, server, clients, device)))
        if why is not None and device != "lo":
            blocked.append((server, why))
    if not blocked:
        return []
    (server, why), others = blocked[0], len(blocked) - 1
    more = f" (and the like for {others} more)" if others else ""
    return [f"{command} FORWARD drops packets between clients and real server "
            f"{format_endpoint(*server[1:], family)} ({why}); start with --accept-forward, or: "
            f"{firewall.rules_to_add(command, family, server)}{more}"]


def _input_rules(command: str, family: int, saved: rules.Saved, services: set[Member]) -> list[str]:
    return [f"{command} rule {rule} does not see packets to {format_endpoint(*service[1:], family)}: "
            f"they pass FORWARD instead; say there what it is meant to say"
            for service in sorted(services) for rule in firewall.input_rules_naming(saved, family, service)]
