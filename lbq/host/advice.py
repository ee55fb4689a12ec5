"""What on this machine will keep a service's packets from their way, said at start with the cure.

lbq changes no firewall by itself and adds no address by itself; it says what it would take.
"""
from __future__ import annotations

from lbq.host import addresses, firewall, iptables, nftables, rules
from lbq.host.addresses import dotted
from lbq.host.sets import Member


def describe_vip(vip: int) -> str:
    """Return one line: is *vip* an address of this host, or must it be routed here?"""
    device = next((entry.device for entry in addresses.addresses() if entry.address == vip), None)
    if device is not None:
        return f"{dotted(vip)} is an address of this host ({device})"
    if addresses.is_local(vip):
        return f"{dotted(vip)} is delivered on this host by a local route"
    return f"{dotted(vip)} is not an address of this host; its packets must be routed here"


def warnings(services: set[Member], servers: set[Member], vips: list[int]) -> list[str]:
    """Return one line for each obstacle to the packets of *services* at *vips* and of *servers*."""
    lines = [line for vip in vips for line in (*_nobody_answers(vip), *_goes_back(vip))]
    for tables in iptables.installed():
        saved = rules.parse(tables.save())
        lines += _forward_drops(tables.command(), saved, vips, servers)
        lines += _input_rules(tables.command(), saved, services)
    for table in nftables.foreign_forward_drops():
        lines.append(f"nft table {table} drops forwarded packets unless a rule of it accepts them; "
                     f"see that it accepts those to and from the real servers")
    return lines


def _nobody_answers(vip: int) -> list[str]:
    device = addresses.unanswered_device(vip)
    if device is None:
        return []
    return [f"nobody answers ARP for {dotted(vip)} on {device}, so clients there do not reach it; "
            f"start with --add-vip {device}, or add it (ip addr add {dotted(vip)}/32 dev {device})"]


def _goes_back(vip: int) -> list[str]:
    """Warn of a loop: what is for *vip* and for no service would be routed to where it came from, again and again."""
    gateway = addresses.gateway_towards(vip)
    if gateway is None:
        return []
    return [f"packets to {dotted(vip)} that are for no service leave again for {gateway}, which may send them back, 60 "
            f"times over; end that with: ip route add unreachable {dotted(vip)}"]


def _forward_drops(command: str, saved: rules.Saved, vips: list[int], servers: set[Member]) -> list[str]:
    clients = addresses.client_devices(vips)
    blocked = []
    for server in sorted(servers):
        device = addresses.device_towards(server[1])
        why = (firewall.dropped_by(saved, firewall.request_to(server, clients, device))
               or firewall.dropped_by(saved, firewall.reply_from(server, clients, device)))
        if why is not None and device != "lo":
            blocked.append((server, why))
    if not blocked:
        return []
    (server, why), others = blocked[0], len(blocked) - 1
    more = f" (and the like for {others} more)" if others else ""
    endpoint = f"{dotted(server[1])}:{server[2]}"
    return [f"{command} FORWARD drops packets between clients and real server {endpoint} "
            f"({why}); start with --accept-forward, or: {firewall.rules_to_add(command, server)}{more}"]


def _input_rules(command: str, saved: rules.Saved, services: set[Member]) -> list[str]:
    return [f"{command} rule {rule} does not see packets to {dotted(service[1])}:{service[2]}: "
            f"they pass FORWARD instead; say there what it is meant to say"
            for service in sorted(services) for rule in firewall.input_rules_naming(saved, service)]
