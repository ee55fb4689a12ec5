"""What a director reads in a packet, of either family: who talks to whom, and how far its headers reach.

An IPv6 packet may have extension headers before the transport's.  Like the kernel, a director steps over them and
leaves them as they are.

The queue gives us datagrams reassembled (a rule of ours switches defragmentation on), so a fragment is never normal.
An IPv4 one is dropped, as it would never reach kernel IPVS.  An IPv6 one is what the kernel makes of it: the first is
a packet like any other, a later one has no ports and belongs to nobody.  ICMPv6 errors are never fragments.

Kernel: ip_vs_core.c, ip_vs_in_hook(), ip_vs_in_icmp_v6(); include/net/ip_vs.h, ip_vs_fill_iph_skb().
Differs from IPVS: the flags of a TCP segment behind IPv6's extension headers are its own; the kernel takes a byte of
the first extension header for them.
"""
from __future__ import annotations

from typing import NamedTuple

from lbq import packet as pkt
from lbq.model import AF_INET, AF_INET6, SCTP, TCP, UDP
from lbq.protocols import icmpv6, sctp

ICMP = 1
LEAST_HEADER = {TCP: 20, UDP: 8, SCTP: 12}
ICMPV6_HEADER = 8


class Parsed(NamedTuple):
    """What the director reads in a packet."""

    protocol: int
    source: int
    source_port: int
    destination: int
    destination_port: int
    flags: int          # of the TCP header; SCTP's event; 0 for UDP
    length: int         # of the IP packet
    header: int         # where the transport's header starts
    hook: int = 0
    mark: int = 0
    related: bool = False       # not itself here: an ICMP error quotes it
    family: int = AF_INET

    def turned_round(self) -> Parsed:
        """Return the same packet as if the other end had sent it."""
        return self._replace(source=self.destination, source_port=self.destination_port,
                             destination=self.source, destination_port=self.source_port)


def parse(packet: bytearray, truncated: bool = False) -> Parsed | str:
    """Return what is in *packet*, or the reason why it cannot belong to a connection.

    A packet that is not here whole must not be sent back: the kernel would cut the real one to what we have.
    """
    if truncated:
        return "truncated"      # first: what is longer than 65,535 bytes cannot say so in its own header
    if len(packet) >= pkt.IP6_HEADER and packet[0] >> 4 == 6:
        return _parse6(packet)
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return "malformed"
    header = (packet[0] & 0x0F) * 4
    length = pkt.get16(packet, pkt.IP_LENGTH)
    if header < 20 or length < header:
        return "malformed"
    if len(packet) < length:
        return "truncated"
    if pkt.get16(packet, pkt.IP_FRAGMENT) & pkt.FRAGMENT_MASK:
        return "fragment"
    protocol = packet[pkt.IP_PROTOCOL]
    if protocol == ICMP:
        return "icmp"
    return _parse_transport(packet, AF_INET, protocol, header, length)


def _parse6(packet: bytearray) -> Parsed | str:
    length = pkt.whole_length(packet)
    if len(packet) < length:
        return "truncated"
    found = pkt.find_transport(packet, 0, length)
    if found < 0:
        return "not_ours"       # the host's own stack complains about such headers
    header, protocol = found >> pkt.START_SHIFT, found & pkt.PROTOCOL_MASK
    if protocol != pkt.ICMPV6:
        if found & pkt.IS_LATER:
            return "later_fragment"
        return _parse_transport(packet, AF_INET6, protocol, header, length)
    if found & pkt.IS_LATER:
        return "fragment"
    if length - header < ICMPV6_HEADER:
        return "malformed"
    return "fragment" if found & pkt.IS_FRAGMENT and packet[header] < icmpv6.FIRST_QUESTION else "icmp"


def _parse_transport(packet: bytearray, family: int, protocol: int, header: int, length: int) -> Parsed | str:
    if protocol not in LEAST_HEADER:
        return "not_ours"
    if length - header < LEAST_HEADER[protocol]:
        return "malformed"
    source, destination = addresses(packet, 0)
    return Parsed(
        protocol=protocol,
        source=source,
        source_port=pkt.get16(packet, header + pkt.PORT_SOURCE),
        destination=destination,
        destination_port=pkt.get16(packet, header + pkt.PORT_DESTINATION),
        flags=_flags(packet, protocol, header, length),
        length=length,
        header=header,
        family=family,
    )


def _flags(packet: bytearray, protocol: int, header: int, length: int) -> int:
    if protocol == TCP:
        return packet[header + pkt.TCP_FLAGS]
    return sctp.event(packet, header, length) if protocol == SCTP else 0


def family_of(packet: bytearray) -> int:
    """Return the address family of *packet*."""
    return AF_INET6 if packet[0] >> 4 == 6 else AF_INET


def addresses(packet: bytearray, at: int) -> tuple[int, int]:
    """Return source and destination of the packet that begins at *at*."""
    if packet[at] >> 4 == 6:
        return (int.from_bytes(packet[at + pkt.IP6_SOURCE:at + pkt.IP6_DESTINATION], "big"),
                int.from_bytes(packet[at + pkt.IP6_DESTINATION:at + pkt.IP6_HEADER], "big"))
    return pkt.get32(packet, at + pkt.IP_SOURCE), pkt.get32(packet, at + pkt.IP_DESTINATION)


def read_quote(packet: bytearray, at: int, length: int, hook: int, mark: int) -> Parsed | None:
    """Return the five-tuple of the packet quoted at *at*, or None when it has none that matters."""
    left = length - at
    if left >= pkt.IP6_HEADER and packet[at] >> 4 == 6:
        found = pkt.find_transport(packet, at, length)
        header = found >> pkt.START_SHIFT
        protocol = found & pkt.PROTOCOL_MASK
        if found < 0 or found & pkt.IS_LATER or protocol not in LEAST_HEADER or header + 4 > length:
            return None
        return _quoted(packet, at, AF_INET6, protocol, header - at, left, hook, mark)
    if left < 24 or packet[at] >> 4 != 4:
        return None
    header = (packet[at] & 15) * 4
    if header < 20 or left < header + 4 or not has_ports(packet[at:length]):
        return None
    return _quoted(packet, at, AF_INET, packet[at + pkt.IP_PROTOCOL], header, left, hook, mark)


def _quoted(packet: bytearray, at: int, family: int, protocol: int, header: int, left: int, hook: int,
            mark: int) -> Parsed:
    source, destination = addresses(packet, at)
    return Parsed(protocol, source, pkt.get16(packet, at + header), destination, pkt.get16(packet, at + header + 2), 0,
                  left, header, hook, mark, related=True, family=family)


def has_ports(quote: bytearray) -> bool:
    """Return True when the packet of which *quote* is the beginning has ports, here or further on."""
    if quote[0] >> 4 == 6:
        found = pkt.find_transport(quote, 0, len(quote))
        return found >= 0 and not found & pkt.IS_LATER and found & pkt.PROTOCOL_MASK in LEAST_HEADER
    return quote[pkt.IP_PROTOCOL] in LEAST_HEADER and not pkt.get16(quote, pkt.IP_FRAGMENT) & pkt.OFFSET_MASK


def is_cut(quote: bytearray) -> bool:
    """Return True when *quote*, the beginning of a packet, ends within IPv6's extension headers."""
    return quote[0] >> 4 == 6 and pkt.find_transport(quote, 0, len(quote)) >> pkt.START_SHIFT > len(quote)


def read_error(packet: bytearray, length: int, hook: int) -> Parsed:
    """Return an ICMP packet as something that can be forwarded."""
    source, destination = addresses(packet, 0)
    if packet[0] >> 4 == 6:
        header = pkt.find_transport(packet, 0, length) >> pkt.START_SHIFT
        return Parsed(pkt.ICMPV6, source, 0, destination, 0, 0, length, header, hook, related=True, family=AF_INET6)
    return Parsed(ICMP, source, 0, destination, 0, 0, length, (packet[0] & 15) * 4, hook, related=True)
