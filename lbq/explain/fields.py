"""A packet's header fields by name, what changed between two packets, and the arithmetic behind a new checksum."""
from __future__ import annotations

from lbq import packet as pkt
from lbq.grammar import format_address
from lbq.model import AF_INET, SCTP, TCP, UDP
from lbq.parsing import ICMP, addresses, family_of
from lbq.related import errors_of

TCP_FLAGS = ((0x02, "SYN"), (0x10, "ACK"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x20, "URG"))
NAMES = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP", 1: "ICMP", pkt.ICMPV6: "ICMPv6", 4: "IPIP", 41: "IPv6 in IP", 47: "GRE"}
CHECKSUM_AT = {TCP: pkt.TCP_CHECKSUM, UDP: pkt.UDP_CHECKSUM}


def fields(packet: bytes, *, is_quote: bool = False) -> dict[str, int | str]:
    """Return the header fields of an IP *packet* that a director, or a forwarding host, may change; and its length.

    Of an ICMP error also those of the packet that it quotes, but not of what a quote quotes.
    """
    if len(packet) < 20 or packet[0] >> 4 not in (4, 6) or (packet[0] >> 4 == 6 and len(packet) < pkt.IP6_HEADER):
        return {"length": len(packet)}
    family = family_of(packet)
    source, destination = addresses(packet, 0)
    found: dict[str, int | str] = {}
    if family == AF_INET:
        found |= {"TTL": packet[pkt.IP_TTL], "IP checksum": f"{pkt.get16(packet, pkt.IP_CHECKSUM):#06x}"}
    else:
        found["hop limit"] = packet[pkt.IP6_HOPS]
    found |= {"source": format_address(source, family), "destination": format_address(destination, family)}
    header, protocol = transport(packet)
    found["protocol"] = NAMES.get(protocol, protocol)
    if protocol in (TCP, UDP, SCTP) and len(packet) >= header + 8:
        found |= {"source port": pkt.get16(packet, header), "destination port": pkt.get16(packet, header + 2)}
        if protocol == TCP and len(packet) >= header + 20:
            found["flags"] = flag_names(packet[header + pkt.TCP_FLAGS])
        at = header + CHECKSUM_AT.get(protocol, 8)
        if protocol != SCTP and len(packet) >= at + 2:
            found[f"{NAMES[protocol]} checksum"] = f"{pkt.get16(packet, at):#06x}"
        elif protocol == SCTP and len(packet) >= at + 4:
            found["SCTP checksum"] = f"{pkt.get32(packet, at):#010x}"
    if protocol in (ICMP, pkt.ICMPV6) and len(packet) >= header + 8:
        found |= {"type": packet[header], "code": packet[header + 1],
                  f"{NAMES[protocol]} checksum": f"{pkt.get16(packet, header + 2):#06x}"}
        at = 0 if is_quote else errors_of(family).quoted(packet, len(packet))
        if at:
            found |= {f"quoted {name}": value for name, value in fields(packet[at:], is_quote=True).items()
                      if name != "length"}
    found["length"] = len(packet)
    return found


def transport(packet: bytes) -> tuple[int, int]:
    """Return where the transport header of *packet* starts, and its protocol."""
    if packet[0] >> 4 == 4:
        return (packet[0] & 15) * 4, packet[pkt.IP_PROTOCOL]
    found = pkt.find_transport(packet, 0, len(packet))
    return (found >> pkt.START_SHIFT, found & pkt.PROTOCOL_MASK) if found >= 0 else (len(packet), packet[6])


def flag_names(flags: int) -> str:
    """Return ``SYN,ACK`` for 0x12."""
    return ",".join(name for bit, name in TCP_FLAGS if flags & bit) or "none"


def changes(before: bytes, after: bytes) -> list[dict]:
    """Return which fields differ: ``{"field", "before", "after"}`` each."""
    old, new = fields(before), fields(after)
    return [{"field": name, "before": old.get(name), "after": new.get(name)}
            for name in {**old, **new} if old.get(name) != new.get(name)]


def arithmetic(before: bytes, after: bytes) -> list[dict]:
    """Return how the checksums of *after* come out of those of *before*, for each that follows from 16-bit words.

    HC' = ~(~HC + ~m + m'), RFC 1624 equation 3, over every word that changed and that the checksum covers.
    """
    if len(before) != len(after) or before[0] >> 4 != after[0] >> 4:
        return []
    found = []
    header, protocol = transport(before)
    pseudo = addresses_span(before)
    if before[0] >> 4 == 4:
        words = _changed(before, after, 0, header, {pkt.IP_CHECKSUM})
        found.append(_step("IP checksum", before, after, pkt.IP_CHECKSUM, words))
    at = header + CHECKSUM_AT.get(protocol, -header - 1)
    if at > header and len(before) >= at + 2 and not (protocol == UDP and pkt.get16(before, at) == 0):
        words = _changed(before, after, *pseudo, set()) + _changed(before, after, header, len(before), {at})
        found.append(_step(f"{NAMES[protocol]} checksum", before, after, at, words))
    return [step for step in found if step["words"] or step["before"] != step["after"]]


def addresses_span(packet: bytes) -> tuple[int, int]:
    """Return where the two addresses of *packet* begin and end: the part of the pseudo-header that may change."""
    return (pkt.IP_SOURCE, pkt.IP_SOURCE + 8) if packet[0] >> 4 == 4 else (pkt.IP6_SOURCE, pkt.IP6_HEADER)


def _changed(before: bytes, after: bytes, start: int, end: int, without: set[int]) -> list[tuple[int, int]]:
    """Return the 16-bit words from *start* to *end* that differ, as (old, new)."""
    pairs = []
    for at in range(start, end, 2):
        old, new = (int.from_bytes(packet[at:min(at + 2, end)].ljust(2, b"\0"), "big") for packet in (before, after))
        if old != new and at not in without:
            pairs.append((old, new))
    return pairs


def _step(name: str, before: bytes, after: bytes, at: int, words: list[tuple[int, int]]) -> dict:
    old, new = pkt.get16(before, at), pkt.get16(after, at)
    total = ~old & 0xFFFF
    for was, becomes in words:
        total += (~was & 0xFFFF) + becomes
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return {"field": name, "before": f"{old:#06x}", "after": f"{new:#06x}",
            "words": [[f"{was:#06x}", f"{becomes:#06x}"] for was, becomes in words],
            "computed": f"{~total & 0xFFFF:#06x}"}
