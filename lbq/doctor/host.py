"""Settings of this host that drop packets without a word, and what they must be on a director.

Kernel: Documentation/networking/ip-sysctl.rst; fib_validate_source() in net/ipv4/fib_frontend.c
"""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, LINKS, PROBES, Facts
from lbq.doctor.finding import Finding, check
from lbq.grammar import format_address
from lbq.host import sysctl
from lbq.model import AF_INET, AF_INET6

STRICT = 1


def has_nat(facts: Facts) -> bool:
    """Return True when a server's packets are forwarded here in both directions."""
    return any(True for _ in facts.servers("nat"))


def has_direct(facts: Facts) -> bool:
    """Return True when servers answer clients themselves."""
    return any(True for _ in facts.servers("dr", "tun"))


def has_servers(facts: Facts) -> bool:
    """Return True when there is a real server."""
    return any(True for _ in facts.servers())


@check(DIRECTOR, LINKS, concerns=has_nat)
def ip_forward(facts: Facts) -> Iterator[Finding]:
    """this host forwards packets between clients and NAT servers"""
    why = "lbq rewrites a packet and the kernel forwards it: without forwarding it is dropped after that"
    for family in sorted({server.family for server in facts.servers("nat")}):
        for key, device in unforwarded(facts, family):
            if device:
                yield Finding(f"{sysctl.spoken(key)} is 0", f"packets that come in by {device} are not forwarded",
                              f"sysctl -w {sysctl.spoken(key)}=1")
            else:
                yield Finding(f"{sysctl.spoken(key)} is 0; it was 1 when the director began", why,
                              f"sysctl -w {sysctl.spoken(key)}=1; look in /etc/sysctl.d for what set it")


def unforwarded(facts: Facts, family: int) -> Iterator[tuple[str, str]]:
    """Give the settings by which packets of NAT are not forwarded, with the device that each is for, "" for all."""
    key = sysctl.IP_FORWARD if family == AF_INET else sysctl.FORWARDING6
    if facts.value(key) == "0":
        yield key, ""
    elif family == AF_INET:     # with IPv6 a device's own setting says whether it is a router's, and stops no packet
        towards = {server.device for server in facts.servers("nat") if server.family == family and server.device}
        for device in sorted(towards | facts.client_devices.get(family, set())):
            key = f"{sysctl.INTERFACES}/{device}/forwarding"
            if facts.value(key) == "0":
                yield key, device


@check(DIRECTOR, LINKS)
def rp_filter(facts: Facts) -> Iterator[Finding]:
    """no client is refused because the way back to it is another"""
    if not facts.reverse_path_drops:
        return
    for (client, family), device in sorted(facts.towards.items()):
        if family != AF_INET:
            continue
        strict = [name for name in sorted(facts.client_devices.get(AF_INET, ())) if name != device
                  and reverse_path(facts, name) == STRICT]
        for name in strict[:1]:
            way = f"leaves by {device}" if device else "is not there"
            yield Finding(
                f"rp_filter is strict on {name}, the way back to the client {format_address(client)} {way}, and "
                f"{facts.reverse_path_drops} packets were dropped for such a reason",
                "the kernel drops a packet that comes in by a device by which its source would not be answered",
                f"sysctl -w net.ipv4.conf.{name}.rp_filter=2 net.ipv4.conf.all.rp_filter=2; or a route: "
                f"ip route add {format_address(client)} dev {name}")


@check(DIRECTOR, LINKS)
def client_route(facts: Facts) -> Iterator[Finding]:
    """this host has a route to every client that waits for an answer"""
    for (client, family), device in sorted(facts.towards.items()):
        if device is None:
            name = format_address(client, family)
            yield Finding(f"the client {name} waits, and this host has no route to it",
                          "with NAT the answers go through this host, which has nowhere to send them",
                          f"ip route add {name} via GATEWAY; or a default route")


def reverse_path(facts: Facts, device: str) -> int:
    """Return how strict the kernel is about sources on *device*: the larger of the two settings holds."""
    return max(_number(facts.value(f"{sysctl.INTERFACES}/{name}/rp_filter")) for name in ("all", device))


@check(DIRECTOR, LINKS, concerns=has_nat)
def send_redirects(facts: Facts) -> Iterator[Finding]:
    """no real server is told a way to clients that is not through this host"""
    for device in sorted(facts.shared_devices(AF_INET)):
        keys = [key for key in sysctl.redirect_keys([device]) if facts.value(key) not in (None, "0")]
        if keys:
            settings = " ".join(f"{sysctl.spoken(key)}=0" for key in keys)
            yield Finding(f"clients and real servers are both behind {device}, and this host sends redirects there",
                          "a redirect teaches a real server the direct way to its client, whose answers then reach it "
                          "from the real server's address instead of the VIP", f"sysctl -w {settings}")


@check(DIRECTOR, PROBES, concerns=has_direct)
def accept_local(facts: Facts) -> Iterator[Finding]:
    """answers of DR and TUN servers do not come through this host, or are let through"""
    for vip in facts.vips:
        for mac, device in sorted(vip.passing.items()):
            if not vip.is_local or _accepts_local(facts, device) or vip.family == AF_INET6:
                continue
            server = facts.owner(mac)
            who = f"real server {server.host()}" if server else f"a host with the MAC {spoken_mac(mac)}"
            yield Finding(
                f"{who} sends its answers from {vip.name()} through this host, which has that address itself",
                "the kernel drops a packet that comes in with an address of its own for a source",
                f"give it a default gateway that is not the director; or here: sysctl -w "
                f"net.ipv4.conf.{device}.accept_local=1")


def _accepts_local(facts: Facts, device: str) -> bool:
    return any(facts.value(f"{sysctl.INTERFACES}/{name}/accept_local") == "1" for name in ("all", device))


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def spoken_mac(mac: str) -> str:
    """Return a MAC with colons."""
    return ":".join(mac[at:at + 2] for at in range(0, len(mac), 2))
