"""The real servers as seen from here: are they there, do they take what is for the VIP, do large packets arrive."""
from __future__ import annotations

from collections.abc import Iterator

from lbq.doctor import nft
from lbq.doctor.facts import DIRECTOR, LINKS, OPEN, PROBES, REFUSED, SILENT, Facts, Server
from lbq.doctor.finding import Finding, Unsure, check
from lbq.doctor.firewall import dropped_in_forward
from lbq.doctor.host import has_direct, has_nat, has_servers, unforwarded
from lbq.grammar import format_address, format_service
from lbq.host import firewall, sysctl

MOST_CLIENTS = 3        # that are named


@check(DIRECTOR, PROBES, concerns=has_servers)
def server_reachable(facts: Facts) -> Iterator[Finding]:
    """every real server has a route, and one on this host's links a MAC"""
    for server in _each_host(facts):
        if not server.weight:
            continue            # nothing new goes there, perhaps because of this
        if server.mtu < 0:
            yield Finding(f"this host has no route to real server {server.host()}", "nothing reaches it",
                          f"ip route add {server.host()} via GATEWAY", format_service(server.service))
        elif (_needs_mac(facts, server) and server.echo == 0 and not server.mac
              and server.connect not in (OPEN, REFUSED)):
            yield Finding(f"real server {server.host()} does not answer on {server.device}: nobody there has its "
                          "address", "it is down, or on another link; new connections are given to it all the same",
                          f"lbq set server {format_service(server.service)} {server.name()},weight=0 until it is back",
                          format_service(server.service))


def _needs_mac(facts: Facts, server: Server) -> bool:
    """Return True for a server on a link where hosts are found by their MAC; at the end of a tunnel nobody has one."""
    device = facts.devices.get(server.device or "")
    return server.is_on_link() and device is not None and device.is_ethernet


@check(DIRECTOR, PROBES, concerns=has_nat)
def server_listens(facts: Facts) -> Iterator[Finding]:
    """every NAT server takes connections from this host"""
    for server in facts.servers("nat"):
        if not server.weight:
            continue
        connect, from_vip = _connected(facts, server)
        if connect == REFUSED:
            yield Finding(f"real server {server.name()} refuses connections", "nothing listens on that port there, "
                          "and clients that are sent to it are refused",
                          f"start the program on {server.host()} that should listen on port {server.port}",
                          format_service(server.service))
        elif connect == SILENT and from_vip != OPEN and server.echo and not server.grown_out:
            # (When answers come by all the same, it answers clients, and not this host.)
            yield Finding(f"real server {server.name()} answers echo requests, and no SYN from this host",
                          "a firewall on it, or on the way, drops connections to that port",
                          f"let {format_address(server.source, server.family)} and clients through on {server.host()}",
                          format_service(server.service))


def _connected(facts: Facts, server: Server) -> tuple[str | None, str | None]:
    """Return how *server* took connections from this host and from the VIP, None where that cannot be told.

    Its answers to this host are untracked: a firewall here that lets in what is ESTABLISHED drops them, while those to
    clients, which lbq rewrites, pass FORWARD.
    """
    place = server.service.protocol, server.address, server.port
    answer = firewall.reply_from(server.family, place, set(), server.device,
                                 facts.data_path(server.service) == "offload")
    is_dropped = nft.dropped_by(facts.nft, "input", answer) or any(
        firewall.dropped_by(ruleset.tables, answer, "INPUT")
        for ruleset in facts.rulesets if ruleset.family == server.family)
    return tuple(None if is_dropped and outcome == SILENT else outcome
                 for outcome in (server.connect, server.connect_from_vip))


@check(DIRECTOR, LINKS, concerns=has_nat)
def return_path(facts: Facts) -> Iterator[Finding | Unsure]:
    """the answers of NAT servers come back through this host"""
    for server in facts.servers("nat"):
        seen = _unanswered(facts, server)
        if seen and (stopped := _stopped_here(facts, server)):
            yield Unsure(f"that clients wait tells nothing while {stopped}")
            seen = ""
        connect, from_vip = _connected(facts, server)
        # Where nothing but an echo request asked from the VIP, real answers that came by tell more.
        reached = connect in (OPEN, REFUSED) or (connect is None and server.echo and not server.grown_out)
        elsewhere = reached and from_vip in (SILENT, None) and server.vip_echo is False
        if not elsewhere and not (seen and connect in (OPEN, None) and server.echo != 0):
            continue            # what does not answer at all is another check's
        gateway = format_address(server.source, server.family)
        towards = "" if server.is_on_link() else f"; and {server.gateway}, on the way, must send its answers here, too"
        what = seen or "asked from an address on the way to it, it answers this host; asked from the VIP, it does not"
        yield Finding(f"answers of real server {server.name()} do not come back through this host: {what}",
                      "with NAT they must, to get the VIP for their source again; a client drops those that come from "
                      "the real server's address",
                      f"{_way_back(facts, server)} via {gateway}{towards}",
                      format_service(server.service))


def _stopped_here(facts: Facts, server: Server) -> str:
    """Return what on this host keeps packets of clients or their answers from passing, "" when nothing does."""
    for key, _ in unforwarded(facts, server.family):
        return f"{sysctl.spoken(key)} is 0"
    return "the firewall's FORWARD drops them" if any(dropped_in_forward(facts, server)) else ""


def _way_back(facts: Facts, server: Server) -> str:
    """Return what makes *server* send its answers to the gateway that is named next.

    A client on the server's own link is answered directly, whatever the default gateway; nor is that one wrong when
    the VIP is answered.
    """
    near = [client for client in server.trying if server.is_on_link()
            and facts.towards.get((client, server.service.family)) == server.device]
    astray = near or (server.trying if server.connect_from_vip == OPEN else [])
    target = format_address(astray[0], server.service.family) if astray else "default"
    return f"on {server.host()}: ip route replace {target}"


def _unanswered(facts: Facts, server: Server) -> str:
    """Return what traffic says about answers that do not come, "" when it says nothing.

    Clients whose last SYN came before the look may have been waiting for something that has been mended since.  One
    that this host would not answer where clients are may wait for another reason.  Of datagrams nothing is said: there
    are services that never answer.
    """
    devices = facts.client_devices.get(server.service.family, set())
    if server.grown_out or not any(facts.towards.get((client, server.service.family)) in devices
                                   for client in server.trying):
        return ""
    return f"SYNs go there, and no SYN-ACK comes back{_clients(server, server.trying)}"


def _clients(server: Server, waiting: list[int]) -> str:
    names = sorted({format_address(client, server.service.family) for client in waiting})
    more = f" and {len(names) - MOST_CLIENTS} more" if len(names) > MOST_CLIENTS else ""
    return f" (waiting: {', '.join(names[:MOST_CLIENTS])}{more})"


@check(DIRECTOR, PROBES, concerns=has_direct)
def vip_on_server(facts: Facts) -> Iterator[Finding]:
    """the DR and TUN servers take packets that are for the VIP"""
    for server in facts.servers("dr", "tun"):
        announced = any(server.mac in vip.announcers for vip in facts.vips)     # our kernel does not answer who says so
        if server.vip_echo is not False or not server.echo or announced:
            continue
        vip = format_address(server.service.address, server.service.family)
        what = "what is for the VIP" if server.mode == "dr" else "what is for the VIP out of its tunnel"
        seen = "; clients wait for it" + _clients(server, server.waiting) if server.waiting else ""
        yield Finding(f"real server {server.host()} does not take {what} {vip}: it answers echo requests to its own "
                      f"address and not those{seen}",
                      "it does not have the VIP" + (", or no tunnel ends there, or rp_filter drops what comes out of it"
                                                    if server.mode == "tun" else ""),
                      f"on {server.host()}: lbq realserver {server.mode} --vip {vip}" + (
                          f" (and lbq decap --vip {vip} where its kernel has no tunnel device)"
                          if server.mode == "tun" else ""), format_service(server.service))


@check(DIRECTOR, PROBES, concerns=has_servers)
def path_mtu(facts: Facts) -> Iterator[Finding]:
    """packets as long as the way to a real server should take arrive there"""
    for server in _each_host(facts):
        if server.echo and server.mtu > server.echo:
            yield Finding(f"packets of {server.mtu} bytes do not reach real server {server.host()}, those of "
                          f"{server.echo} do", "small requests work and large ones hang: somewhere on the way there "
                          "is a smaller MTU, and nobody says so",
                          f"ip route replace {server.host()} {_way(server)} mtu {server.echo}; or mend the MTU on the "
                          "way", format_service(server.service))


def _way(server: Server) -> str:
    return f"via {server.gateway} dev {server.device}" if server.gateway else f"dev {server.device}"


def _each_host(facts: Facts) -> Iterator[Server]:
    """Give one server of each address."""
    seen = set()
    for server in facts.servers():
        if (server.address, server.family) not in seen:
            seen.add((server.address, server.family))
            yield server
