"""Room in tunnels: what a packet may have in it that still goes through with a second header in front."""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor.facts import DIRECTOR, LINKS, Facts
from lbq.doctor.finding import Finding, check
from lbq.grammar import format_service
from lbq.losses import DROPPED
from lbq.model import AF_INET6

TCP_HEADERS = {False: 40, True: 60}     # IP and TCP, without options


def has_tunnels(facts: Facts) -> bool:
    """Return True when there is a TUN server."""
    return any(True for _ in facts.servers("tun"))


@check(DIRECTOR, LINKS, concerns=has_tunnels)
def tunnel_mtu(facts: Facts) -> Iterator[Finding]:
    """clients sent nothing lately that is too long for the tunnels"""
    lost = facts.lost("dropped_too_big")
    if not lost:
        return
    server = min(facts.servers("tun"), key=lambda one: (one.mtu if one.mtu > 0 else 1 << 16) - one.overhead)
    room = server.mtu - server.overhead
    segment = room - TCP_HEADERS[server.service.family == AF_INET6]
    yield Finding(f"{lost} packets of clients lost: {DROPPED['dropped_too_big']} (dropped_too_big); the tunnel to "
                  f"{server.host()} takes {room} bytes of {server.mtu}",
                  "lbq tells the client by ICMP, and where a firewall drops that, uploads hang for ever",
                  f"on {server.host()}: ip route change default via GATEWAY advmss {segment}; or an MTU of "
                  f"{1500 + server.overhead} on the way to it", format_service(server.service))
