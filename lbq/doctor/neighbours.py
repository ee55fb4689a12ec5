"""Who says that the VIP is theirs: this host, another director, or a real server that must not.

Every host on the VIP's link is asked by ARP (IPv6: by a neighbour solicitation), and all answers are heard.
RFC 5227: an ARP probe, with 0.0.0.0 for its sender, changes nobody's table.
"""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, LINKS, PROBES, Facts, Vip
from lbq.doctor.finding import Finding, check
from lbq.doctor.host import spoken_mac
from lbq.host.addresses import RESOLVER
from lbq.host.netlink import BITS
from lbq.model import AF_INET


def has_vips(facts: Facts) -> bool:
    """Return True when a service has an address."""
    return bool(facts.vips)


@check(DIRECTOR, LINKS, concerns=has_vips)
def vip_address(facts: Facts) -> Iterator[Finding]:
    """every VIP is answered for here, or routed here from elsewhere"""
    for vip in facts.vips:
        if vip.unanswered is not None and not vip.answers:
            yield Finding(f"nobody answers {RESOLVER[vip.family]} for {vip.name()} on {vip.unanswered}",
                          "clients and routers on that link do not find the VIP",
                          f"ip addr add {vip.name()}/{BITS[vip.family]} dev {vip.unanswered}; or start the director "
                          f"with --add-vip {vip.unanswered}")
        if vip.gateway is not None:
            yield Finding(f"packets to {vip.name()} that are for no service leave again for {vip.gateway}",
                          "which may send them back, sixty times over: a loop that takes the link's bandwidth",
                          f"ip route add unreachable {vip.name()}")


@check(DIRECTOR, PROBES, concerns=has_vips)
def vip_answers(facts: Facts) -> Iterator[Finding]:
    """no other host answers for a VIP"""
    for vip in facts.vips:
        for mac, device in sorted(vip.answers.items()):
            server = facts.owner(mac)
            if server is None:
                yield Finding(
                    f"a host with the MAC {spoken_mac(mac)} answers {RESOLVER[vip.family]} for {vip.name()} on "
                    f"{device}",
                    "who on that link speaks to the VIP reaches this host or that one, as chance has it" if vip.is_local
                    else "the VIP is there and not here: right for a director that stands by, wrong for any other",
                    f"take the address off that host (ip neigh; find {spoken_mac(mac)} in the switch), or give the "
                    "services another")
            else:
                yield Finding(
                    f"real server {server.host()} ({spoken_mac(mac)}) answers {RESOLVER[vip.family]} for {vip.name()} "
                    f"on {device}", "clients and routers on that link may go to it, past the director",
                    _quiet(vip, server.mode, server.host()))


def _quiet(vip: Vip, mode: str, host: str) -> str:
    """Return what keeps a real server from answering for *vip*."""
    if mode == "nat":
        return f"on {host}: ip addr del {vip.name()}/{BITS[vip.family]} dev DEVICE; a NAT server does not have the VIP"
    command = f"on {host}: lbq realserver {mode} --vip {vip.name()}"
    if vip.family == AF_INET:
        return f"{command}; or: sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
    return f"{command}; the VIP must be on lo there, and on no other device"


@check(DIRECTOR, PROBES, concerns=has_vips)
def vip_announced(facts: Facts) -> Iterator[Finding]:
    """no other host asks for neighbours in the name of a VIP"""
    for vip in facts.vips:
        for mac, device in sorted(vip.announcers.items()):
            server = facts.owner(mac)
            if mac in vip.answers and server is None:
                continue        # that it has the VIP has been said
            who = f"real server {server.host()} ({spoken_mac(mac)})" if server else f"the host {spoken_mac(mac)}"
            yield Finding(f"{who} sends ARP requests on {device} in which it calls itself {vip.name()}",
                          "who hears one learns its MAC as the VIP's: routers send clients there, past the director",
                          f"on {server.host() if server else 'that host'}: sysctl -w net.ipv4.conf.all.arp_announce=2 "
                          "net.ipv4.conf.all.arp_ignore=1")
