"""One decision, whole: the notes of a twin, the bytes before and after, the verdict, and what the kernel does next."""
from __future__ import annotations

from collections.abc import Iterable

from lbq import packet as pkt
from lbq.director import LOCAL_IN, LOCAL_OUT, POSTROUTING
from lbq.errors import ConfigError
from lbq.explain import fields
from lbq.explain.twin import Witness, of_picture, of_rows, quote_in
from lbq.explain.words import MEANING
from lbq.forwarding import PREROUTING, Route
from lbq.grammar import format_address, format_endpoint
from lbq.host import routes as host_routes
from lbq.host.addresses import gateway_towards, local_addresses
from lbq.model import AF_INET, AF_INET6, FAMILY_NAMES, PROTOCOL_NAMES, TCP
from lbq.modes import tun
from lbq.parsing import Parsed, addresses, family_of, parse
from lbq.protocols import tcp, udp
from lbq.sysctls import defaults

HOOKS = {PREROUTING: "PREROUTING", LOCAL_IN: "INPUT", LOCAL_OUT: "OUTPUT", POSTROUTING: "POSTROUTING"}
LIMITS = ("a client is sent one ICMP error a second, six at once, and all together 1000; whether this one has had its "
          "share is not known")
TIMEOUTS = (tcp.TIMEOUTS[tcp.ESTABLISHED], tcp.TIMEOUTS[tcp.FIN_WAIT], udp.TIMEOUTS[0])


def read(packet: bytearray) -> Parsed:
    """Return the ends of *packet*, or raise for one that cannot belong to a connection.

    Of an ICMP error those of the packet that answers the one which it quotes, as of a client's.
    """
    parsed = parse(packet)
    if parsed == "icmp":
        quote = quote_in(packet)
        if quote is None:
            raise ConfigError("there is nothing to decide: the packet is ICMP, and no error about a packet with ports "
                              "(one about a tunnel's packet is not explained)")
        return quote.turned_round()
    if not isinstance(parsed, Parsed):
        meaning = MEANING.get(f"passed_{parsed}", MEANING.get(f"dropped_{parsed}", parsed))
        raise ConfigError(f"there is nothing to decide: the packet {meaning}")
    return parsed


def by_director(client, packet: bytearray, mark: int) -> dict:
    """Return the decision of the running director about *packet*, out of what it knows now; nothing changes."""
    parsed = read(packet)
    picture = client.call("look", protocol=PROTOCOL_NAMES[parsed.protocol], fwmark=mark,
                          source=format_endpoint(parsed.source, parsed.source_port, parsed.family),
                          destination=format_endpoint(parsed.destination, parsed.destination_port, parsed.family))
    twin = of_picture(picture, picture["row"])
    ways = _tell_host(twin)
    return decide(twin, packet, mark, picture["now"], ways)


def by_configuration(rows: list[dict], timeouts: dict[str, int], packet: bytearray, mark: int, profile: str) -> dict:
    """Return the decision of a director that has just begun with the services in *rows*, servers in order of birth."""
    read(packet)
    rows = [{**row, "servers": row["servers"][::-1]} for row in rows]       # the newest first, as in a listing
    seconds = tuple(timeouts.get(name, usual) for name, usual in zip(("tcp", "tcpfin", "udp"), TIMEOUTS, strict=True))
    return decide(of_rows(rows, defaults(), seconds, profile), packet, mark, 1, None)


def decide(twin: Witness, packet: bytearray, mark: int, now_ns: int, ways: dict | None) -> dict:
    """Return what *twin* decides about *packet*, and why; *ways* are the host's routes by address, if known."""
    parsed = read(packet)._replace(mark=mark)
    hook = hook_of(twin, parsed, addresses(packet, 0))
    form = _join(twin, packet, parsed) if ways is not None and len(packet) > twin.largest_mtu else 0
    before = bytes(packet)
    verdict = twin.handle(packet, hook, form, now_ns=now_ns, mark=mark)
    after = bytes(packet)
    if verdict.answer and ways is not None and (twin.outcome != "dropped_too_big" or parsed.family == AF_INET):
        twin.caveats.append(LIMITS)         # which the kernel has for all of ICMPv6 but packet too big
    sent = [{"next_hop": format_address(each.next_hop, each.family), **_sent(before, each.packet, form)}
            for each in verdict.sent]
    decision = {
        "packet": {"fields": fields.fields(before), "hook": HOOKS[hook], "mark": mark, "bytes": before.hex(),
                   "family": FAMILY_NAMES[parsed.family]},
        "steps": [{"step": note.step, "text": note.text, **note.facts} for note in twin.notes],
        "caveats": twin.caveats, "outcome": twin.outcome, "meaning": MEANING[twin.outcome],
        "verdict": "ACCEPT" if verdict.action else "DROP",
        "changes": fields.changes(before, after) if verdict.changed else [],
        "checksums": _arithmetic(before, after, form) if verdict.changed else [],
        "after": after.hex() if verdict.changed else None, "sent": sent,
        "answer": {"fields": fields.fields(verdict.answer), "packet": verdict.answer.hex()} if verdict.answer else None,
    }
    decision["next"], decision["ways"] = _next(decision, verdict, after, twin, ways)
    return decision


def _sent(before: bytes, packet: bytes, form: int) -> dict:
    """Return what is to be known of a *packet* that leaves in place of *before*, or with it inside, in a tunnel."""
    at = 0 if addresses(packet, 0) == addresses(before, 0) else max(tun.inner_of(packet, len(packet)), 0)
    inner = packet[at:]
    return {"packet": packet.hex(), "fields": fields.fields(packet), "inner": fields.fields(inner) if at else None,
            "changes": fields.changes(before, inner), "checksums": _arithmetic(before, inner, form)}


def _join(twin: Witness, packet: bytearray, parsed: Parsed) -> int:
    """Say what the kernel says of a packet that is longer than any that can arrive: it has joined several of TCP's.

    Of such a one only the sum over the addresses is in the checksum's place.
    """
    if parsed.protocol != TCP or parsed.related:
        return 0
    pkt.put16(packet, parsed.header + pkt.TCP_CHECKSUM, pkt.pseudo_sum(packet, TCP, parsed.header, parsed.length))
    twin.caveats.append(f"longer than the {twin.largest_mtu} bytes that can arrive here: several segments that the "
                        "kernel has joined, and takes apart again, each with a checksum of its own")
    return pkt.SEGMENTED_LATER


def _arithmetic(before: bytes, after: bytes, form: int) -> list[dict]:
    """Return the arithmetic of checksums; those of joined segments are made when they are taken apart."""
    return [step for step in fields.arithmetic(before, after) if not form or step["field"] == "IP checksum"]


def hook_of(twin: Witness, parsed: Parsed, way: tuple[int, int]) -> int:
    """Return the hook at which this host sees such a packet: a client's in PREROUTING, a reply in POSTROUTING.

    A client of its own is seen in OUTPUT, and what is for it in INPUT.  *way* is from where to where it goes itself:
    an ICMP error is parsed as what it is about, and may come from anybody.
    """
    ends = parsed.family, parsed.protocol
    there = parsed.destination, parsed.destination_port
    here = parsed.source, parsed.source_port
    is_reply = (twin.connections.find(*ends, *here, *there) is None
                and twin.services.find_service(*ends, *there, parsed.mark) is None
                and (twin.connections.find_reply(*ends, *there, *here) is not None
                     or (not parsed.related and twin.is_servers(parsed))))
    source, destination = way
    if is_reply:
        return LOCAL_IN if destination in twin.local[parsed.family] else POSTROUTING
    return LOCAL_OUT if source in twin.local[parsed.family] else PREROUTING


def _tell_host(twin: Witness) -> dict:
    """Give *twin* this host's addresses and its ways to the real servers; return those by (family, address)."""
    ways = {}
    for family, set_local, set_routes in ((AF_INET, twin.set_local_addresses, twin.set_routes),
                                          (AF_INET6, twin.set_local_addresses6, twin.set_routes6)):
        set_local(local_addresses(family))
        wanted = {server.address for service in twin.services.by_key.values() for server in service.servers
                  if server.family == family}
        wanted |= {each.daddr for each in twin.connections.numbered if each is not None and each.server is not None
                   and each.server.family == family}
        if wanted:
            near = host_routes.neighbours(family)
            found = [host_routes.look(address, family, near) for address in sorted(wanted)]
            set_routes(found)
            ways |= {(family, route[0]): Route(*route) for route in found}
    twin.set_largest_mtu(host_routes.largest_mtu())
    return ways


def _next(decision: dict, verdict, after: bytes, twin: Witness, ways: dict | None) -> tuple[list[str], list[dict]]:
    """Return what happens to the packet once the decision is made, and the ways that are taken then."""
    hook = decision["packet"]["hook"]
    if verdict.sent:
        return _on_the_way(ways, {(each.family, each.next_hop): None for each in verdict.sent},
                           "lbq sends it, past the host's FORWARD rules,")
    if verdict.answer:
        return [f"the packet ends here; lbq sends ICMP to {decision['answer']['fields']['destination']}"], []
    if not verdict.action:
        return ["the packet ends here, and nobody is told"], []
    if hook == "POSTROUTING":
        to = fields.fields(after)["destination"]
        return [f"the host sends it to {to}; routing has chosen the way before lbq saw it"], []
    if hook == "INPUT":
        return ["it is delivered on this host, to the program that waits for it"], []
    if decision["outcome"] != "rewritten":
        return ["the host goes on with it as if lbq were not there: rules, routing, and sockets if it is for this "
                "host"], []
    family, address = family_of(after), addresses(after, 0)[1]
    if address in twin.local[family]:
        return ["the host delivers it: INPUT rules, then the program that listens here"], []
    rules = "FORWARD rules, then" if hook == "PREROUTING" else "no FORWARD rules, as it is this host's own, then"
    return _on_the_way(ways, [(family, address)], f"the host routes it again: {rules}")


def _on_the_way(ways: dict | None, hops: Iterable[tuple[int, int]], what: str) -> tuple[list[str], list[dict]]:
    """Return how *what* goes on to each of the *hops*, in words and as data."""
    said, known = [], []
    for family, address in hops:
        name = format_address(address, family)
        route = None if ways is None else ways.get((family, address))
        if ways is None:
            said.append(f"{what} on its way to {name}; which way that is, only a running director's host knows")
        elif route is None or route.mtu < 0:
            said.append(f"{what} nowhere: this host has no route to {name}")
        else:
            way = {"to": name, "device": host_routes.device_name(route.device),
                   "gateway": gateway_towards(address, family), "mtu": route.mtu,
                   "mac": ":".join(route.mac[at:at + 2] for at in range(0, 12, 2)) if route.mac else None}
            through = f" through {way['gateway']}" if way["gateway"] else ""
            said.append(f"{what} out of {way['device']} to {name}{through}, MAC of the next hop "
                        f"{way['mac'] or 'not resolved yet'}, MTU {way['mtu']}")
            known.append(way)
    return said, known
