"""Brings what a kernel did and what lbq did into one form, and says where they differ.

Everything that is not compared is named here, with the reason.

Packets (``outputs``):
  - The IP header's checksum is checked, then left out.
  - Fragments are compared as the datagram they make: where the host cuts is the host's business.
  - ``id`` of a tunnel's header without DF, and of ICMP packets of the director's own: the kernel's generators.
  - GUE's UDP source port, and the checksum that covers it (which is checked): the kernel's flow hash.
  - Both also where an ICMP error quotes them; an ICMP error's own checksum is checked, then left out.
  - What the director's host answers to a packet it was given (RST, port unreachable, echo reply): not IPVS.
  - The MTU that the director names when it answers an ICMP error about a tunnel's packet: the kernel names the
    old one until the next client's packet has renewed its route; lbq the new one at once.
  - ICMP about an address that is not the director's own (a VIP that is only diverted to it): the kernel finds no
    source for it and sends nothing, or in IPv6 takes another of the director's addresses; lbq answers from the VIP.
  - A connection by DR after its server was given another method, or the other way round: the kernel's cached route
    lacks a flag then, asks ARP for the VIP, and the packet is lost.  No scenario does that.
  - An error about a tunnel to a machine with servers of more than one tunnel type: the kernel knows the newest
    only.  Each machine has one type here.
  - IPv6: what neighbours and groups say to multicast addresses; flow label and extension headers of what the director's
    host is given, which a raw socket does not tell; the flow label of ICMPv6 of the director's own, by default a hash:
    guests have auto_flowlabels 0.
  - IPv6: a datagram in fragments that is larger than the way to its server but not than the client's device: the kernel
    knows from the largest fragment that it fits; a queue does not tell, so lbq takes it for a packet that does not.
    Likewise an only fragment that is too large with its fragment header, and not without: the kernel says so, lbq sees
    it without.
  - IPv6: destination options or a routing header before a fragment header: put together, the host misreads them.
  - IPv6, classic: TCP and SCTP behind extension headers: that kernel takes their states from the bytes where TCP would
    be without them, lbq from where it is.  New kernels do as lbq does, and are compared.
  - IPv6, classic: an ICMPv6 error about what NAT brought a server: that kernel takes its checksum for wrong, and drops
    it, unless conntrack has seen it, which a service on FTP's port switches on.  No scenario has both.
Connections (``connections``):
  - ``expires`` may differ by two seconds: the clock is read a little later, and shown in whole seconds.
  - The order, which is that of a hash with a random seed.
  - A template whose time and that of its last connection end within a timer's tick of each other: the one that ends
    first decides whether the template lives on for a minute (``is_matter_of_ticks``).
Counters: none is left out; the visible ones are read when they cannot change any more.

lbq sees a client's packet before the host decrements its TTL, the kernel's IPVS decrements it itself: the
player applies what the host does (``player.py``), so both are compared as they leave.
"""
from __future__ import annotations

import struct

from tests.kernel import ip, topology
from tests.kernel.fragments import reassembled
from tests.kernel.ip import GRE, HEADER, IPIP, IPV6, UDP, Parsed, checksum, destination, hops, parse, source
from tests.kernel.wire import GUE_PORT

EXPIRES_TOLERANCE = 2
POSTPONED = 60              # seconds that a template lives on while it governs a connection
ICMP_ERRORS = {4: (3, 4, 5, 11, 12), 6: range(128)}
TOO_BIG = {4: b"\3\4", 6: b"\2\0"}
ETHERTYPES = (b"\x08\x00", b"\x86\xdd")
HZ = {"classic": 100, "new": 250}        # /proc/net/ip_vs has the persistence timeout in ticks
METHODS = {"Masq": "nat", "Route": "dr", "Tunnel": "tun", "Local": "local"}


# ---- Packets ---------------------------------------------------------------------------------------------


def outputs(step: dict, frames: list[tuple[str, str, bytes]]) -> list[str]:
    """Return what came out, as sorted lines ``where mac packet``; *frames* are (where, MAC or "", IP packet)."""
    if any(where == "host" for where, _, _ in frames):
        frames = [frame for frame in frames if frame[0] == "host"]
    lines = []
    for where, mac, packet in reassembled(frames):
        if is_unsaid(where, packet):
            continue
        text, at = masked(packet), parse(packet).header
        if "icmp" in step and is_answer(packet) and text[at:at + 2] == TOO_BIG[packet[0] >> 4]:
            text = text[:at + 6] + b"\0\0" + text[at + 8:]
        lines.append(f"{where} {mac} {text.hex()}")
    return sorted(lines)


def is_unsaid(where: str, packet: bytes) -> bool:
    """Return whether *packet* is an answer to a client about what is not the director's own address."""
    return where == "c" and is_answer(packet) and destination(packet[parse(packet).header + 8:]) not in topology.LOCAL


def is_answer(packet: bytes) -> bool:
    """Return whether *packet* is an ICMP error of the director's own: time to live 64, about what its source got.

    IPv6's may come from another address of the director when it is about one that it does not have.
    """
    parsed = parse(packet)
    quoted = packet[parsed.header + 8:]
    if not is_error(packet, parsed) or hops(packet) != 64 or not has_header(quoted):
        return False
    about = parse(quoted).destination
    return parsed.source == about or (parsed.version == 6 and source(packet) in topology.LOCAL)


def is_error(packet: bytes, parsed: Parsed) -> bool:
    """Return whether *packet* is an ICMP error, or the beginning of one."""
    at = parsed.header
    return parsed.is_icmp() and len(packet) >= at + 4 and packet[at] in ICMP_ERRORS[parsed.version]


def frames_of(result: list[list[str]]) -> list[tuple[str, str, bytes]]:
    """Return the kernel's *result* of a send step as (where, MAC or "", IP packet)."""
    frames = []
    for where, text in result:
        data = bytes.fromhex(text)
        if where == "host":
            frames.append((where, "", data))
        elif data[12:14] in ETHERTYPES and not data[0] & 1:
            frames.append((where, text[:12], data[14:]))
    return frames


def came_out(frames: list[tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
    """Return what later steps may refer to, as (side, packet); what the host answers is nobody's concern."""
    if any(where == "host" for where, _, _ in frames):
        return []
    return [(where, packet) for where, _, packet in reassembled(frames) if not is_unsaid(where, packet)]


def masked(packet: bytes) -> bytes:
    """Return *packet*, or as much of it as an ICMP error quotes, without what cannot be compared."""
    result, parsed = bytearray(packet), parse(packet)
    header, is_ipv4 = parsed.header, parsed.version == 4
    own = source(packet) in topology.LOCAL
    has_own_id = own and is_ipv4 and not packet[6] & 0x40
    if is_ipv4 and checksum(packet[:header]) == 0:
        result[10:12] = b"\0\0"
    if len(packet) < header + 4:
        if has_own_id:
            result[4:6] = b"\0\0"
        return bytes(result)
    if is_error(packet, parsed):
        if own and is_ipv4:
            result[4:6] = b"\0\0"
        if has_right_checksum(packet, parsed):
            result[header + 2:header + 4] = b"\0\0"
        if has_header(packet[header + 8:]):
            result[header + 8:] = masked(packet[header + 8:])
    is_gue = parsed.protocol == UDP and packet[header + 2:header + 4] == struct.pack("!H", GUE_PORT)
    if has_own_id and (parsed.protocol in (IPIP, IPV6, GRE) or is_gue):
        result[4:6] = b"\0\0"
    if own and is_gue:
        result[header:header + 2] = b"\0\0"
        if result[header + 6:header + 8] > b"\0\0" and (
                len(packet) != length_of(packet) or has_right_checksum(packet, parsed)):
            result[header + 6:header + 8] = b"\xff\xff"
    return bytes(result)


def has_header(quote: bytes) -> bool:
    """Return whether an ICMP error's *quote* has a whole IP header."""
    return len(quote) >= HEADER[4] and len(quote) >= HEADER[6 if quote[0] >> 4 == 6 else 4]


def length_of(packet: bytes) -> int:
    """Return how long *packet* says it is; an ICMP error may quote less of it."""
    if packet[0] >> 4 == 6:
        return 40 + struct.unpack_from("!H", packet, 4)[0]
    return struct.unpack_from("!H", packet, 2)[0]


def has_right_checksum(packet: bytes, parsed: Parsed) -> bool:
    """Return whether the checksum of a UDP or ICMP packet is right."""
    segment = packet[parsed.header:]
    return checksum(parsed.pseudo(len(segment)) + segment) == 0


# ---- Listings --------------------------------------------------------------------------------------------


def services_of(text: str, kind: str) -> dict:
    """Return /proc/net/ip_vs as {service: [scheduler and flags, [server, method, weight, active, inactive] …]}."""
    result, rows = {}, []
    for line in text.splitlines()[3:]:
        words = line.split()
        if words[0] == "->":
            rows.append([endpoint_of(words[1]), METHODS[words[2]], *map(int, words[3:6])])
        else:
            name = f"FWM {int(words[1], 16)}" if words[0] == "FWM" else f"{words[0]} {endpoint_of(words[1])}"
            if "persistent" in words:
                words[-2] = str(int(words[-2]) // HZ[kind])
            rows = result[name] = [" ".join(words[2:])]
    return result


def connections_of(text: str) -> dict:
    """Return /proc/net/ip_vs_conn as {"TCP client vip server": [[state, seconds left], …]}."""
    result: dict = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        # A template of a firewall mark has that, not an address.
        vip = words[3].replace(":", "")[:8] if words[0] == "IP" else address_of(words[3])
        name = (f"{words[0]} {place(address_of(words[1]), int(words[2], 16))} {place(vip, int(words[4], 16))}"
                f" {place(address_of(words[5]), int(words[6], 16))}")
        result.setdefault(name, []).append([words[7], int(words[8])])
    return result


def listing_of(kind: str, text: str) -> dict:
    """Return a table of ``ipvsadm -L -n --KIND`` as {service or "service server": numbers}."""
    result, service = {}, ""
    for line in text.splitlines()[3:]:
        words = line.replace(" IPv6", "").split()           # said of a mark's service
        if words[0] == "->":
            result[f"{service} {words[1]}"] = numbers_of(kind, words[2:])
        else:
            service = f"{words[0]} {words[1]}"
            if kind == "stats --exact":
                result[service] = numbers_of(kind, words[2:])
    return result


def numbers_of(kind: str, words: list[str]) -> list[int]:
    """Return what is compared of a row: the connections beside thresholds and templates are in ``show`` already."""
    numbers = [int(word) for word in words]
    return {"stats --exact": numbers, "thresholds": numbers[:2], "persistent-conn": numbers[1:2]}[kind]


def address_of(text: str) -> str:
    """Return an address as /proc has it: eight hex digits, or IPv6 in full, perhaps in brackets."""
    return ip.text(topology.packed(text.strip("[]")) if ":" in text else bytes.fromhex(text))


def endpoint_of(text: str) -> str:
    address, _, port = text.rpartition(":")
    return place(address_of(address), int(port, 16))


def place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# ---- Differences -----------------------------------------------------------------------------------------


def common(step: dict, result, kind: str) -> object:
    """Return the raw *result* of *step* in a guest of this *kind* in the form that players of lbq's engines return."""
    if step["do"] == "send":
        return None if result is None else outputs(step, frames_of(result))
    if step["do"] == "show":
        return {"services": services_of(result["services"], kind), "connections": connections_of(result["connections"])}
    if step["do"] == "stats":
        return {kind: listing_of(kind, text) for kind, text in zip(step["listings"], result, strict=True)}
    return result


def difference(step: dict, kernel, lbq) -> str | None:
    """Return in one line how *lbq* differs from the *kernel* (both in the common form), or None."""
    if step["do"] == "show":
        return (differing("service", kernel["services"], lbq["services"])
                or differing_connections(kernel["connections"], lbq["connections"]))
    if step["do"] == "stats":
        for kind in step["listings"]:
            if found := differing(kind, kernel[kind], lbq[kind]):
                return found
        return None
    if kernel == lbq:
        return None
    if step["do"] == "send" and kernel and lbq:
        return differing_packets(kernel, lbq)
    return f"kernel {kernel} lbq {lbq}"


def is_matter_of_ticks(step: dict, kernel, lbq) -> bool:
    """Return whether all that differs are templates that one side let live on for a minute and the other did not."""
    if step["do"] != "show" or kernel["services"] != lbq["services"]:
        return False
    for name in {*kernel["connections"], *lbq["connections"]}:
        both = [side["connections"].get(name, []) for side in (kernel, lbq)]
        postponed = ":0 " in name and [] in both and all(left <= POSTPONED for _, left in [*both[0], *both[1]])
        if not postponed and differing_connections(*({name: side} for side in both)):
            return False
    return True


def differing_packets(kernel: list[str], lbq: list[str]) -> str:
    """Return which packets are not the same, long ones shortened after their first difference."""
    if len(kernel) == len(lbq) == 1:
        same = next((at for at, pair in enumerate(zip(*kernel, *lbq, strict=False)) if pair[0] != pair[1]), 0)
        end = max(same + 40, 120)
        return f"kernel {kernel[0][:end]} lbq {lbq[0][:end]} (lengths {len(kernel[0])}, {len(lbq[0])}; from {same})"
    return f"kernel {len(kernel)} packets {kernel} lbq {len(lbq)} {lbq}"


def differing(what: str, kernel: dict, lbq: dict) -> str | None:
    """Return the first entry that is not the same."""
    for name in sorted({*kernel, *lbq}):
        if kernel.get(name) != lbq.get(name):
            return f"{what} {name}: kernel {kernel.get(name)} lbq {lbq.get(name)}"
    return None


def differing_connections(kernel: dict, lbq: dict) -> str | None:
    """Return the first connection whose state, or whose time left, is not the same."""
    for name in sorted({*kernel, *lbq}):
        ours, theirs = sorted(lbq.get(name, [])), sorted(kernel.get(name, []))
        same = len(ours) == len(theirs) and all(
            a[0] == b[0] and abs(a[1] - b[1]) <= EXPIRES_TOLERANCE for a, b in zip(ours, theirs, strict=True))
        if not same:
            return f"connection {name}: kernel {theirs} lbq {ours}"
    return None
