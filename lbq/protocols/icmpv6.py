"""ICMPv6 errors: the director's own, and those of others that must be translated.  ``icmp.py`` has the story.

**Its own.**  What keeps a packet from a real server is said so: nobody takes the connection (type 1 code 4), no way
there (1/3), too many hops (3/0), too large for the way (2/0, with the MTU).  Each is built as the kernel's
icmp6_send() builds it:

    IP      source = the VIP, destination = the client, hop limit 64, traffic class 0
    ICMPv6  type, code, checksum over a pseudo-header, too; and for 2/0 the MTU
    quote   the client's packet as it is now, up to 1280 bytes in all (RFC 4443, 2.4)

The rate limits are those of ``icmp.py``.  "Too large" is never limited: without it nothing would get through.

**Of others.**  All errors (types below 128) about TCP, UDP and SCTP are translated, in both directions.  Any of the
headers may have extension headers behind it.  An error is never a fragment.

Kernel: net/ipv6/icmp.c, icmp6_send(), icmpv6_mask_allow(); netfilter/ipvs/ip_vs_core.c, ip_vs_in_icmp_v6(),
ip_vs_out_icmp_v6(), ip_vs_nat_icmp_v6().
"""
from __future__ import annotations

import cython

from lbq import packet as pkt

MAX_BYTES = 1280            # the least MTU of IPv6
ICMP_HEADER = 8
HEADERS = 48                # IPv6 and ICMPv6
HOPS = 64
TOO_BIG = 2
FIRST_QUESTION = 128        # types from here on are no errors

if cython.compiled:         # numbers with a C type are invisible to Python code; these are its copies
    globals().update(MAX_BYTES=MAX_BYTES, FIRST_QUESTION=FIRST_QUESTION, TOO_BIG=TOO_BIG)


def error(kind: int, code: int, mtu: int, packet, length: int, source, answer) -> int:
    """Write into *answer* (1280 bytes of room) an ICMPv6 error about *packet* for its sender; return its length.

    It comes from *source*, 16 bytes; *mtu* is that of the next hop, for type 2, and 0 otherwise.
    """
    quoted_bytes = min(length, MAX_BYTES - HEADERS)
    total = HEADERS + quoted_bytes
    for i in range(HEADERS):
        answer[i] = 0
    answer[0] = 0x60
    pkt.put16(answer, pkt.IP6_LENGTH, total - pkt.IP6_HEADER)
    answer[pkt.IP6_NEXT] = pkt.ICMPV6
    answer[pkt.IP6_HOPS] = HOPS
    pkt.put_address(answer, pkt.IP6_SOURCE, source)
    for i in range(16):
        answer[pkt.IP6_DESTINATION + i] = packet[pkt.IP6_SOURCE + i]
    answer[40] = kind
    answer[41] = code
    pkt.put32(answer, 44, mtu)
    for i in range(quoted_bytes):
        answer[HEADERS + i] = packet[i]
    _write_checksum(answer, pkt.IP6_HEADER, total)
    return total


def quoted(packet, length: int) -> int:
    """Return where in *packet* the one begins that an ICMPv6 error is about; 0: there is none that matters.

    Enough of it is here to say where its transport's header begins, perhaps no more.
    """
    header = _header(packet, length)
    if header == 0 or header + ICMP_HEADER > length or packet[header] >= FIRST_QUESTION:
        return 0
    return header + ICMP_HEADER if pkt.find_transport(packet, header + ICMP_HEADER, length) >= 0 else 0


def checksum_right(packet, length: int) -> bool:
    """Return True when the checksum of the ICMPv6 message in *packet* is right."""
    header = _header(packet, length)
    total = pkt.pseudo_sum(packet, pkt.ICMPV6, header, length) + pkt.word_sum(packet, header, length)
    return header != 0 and pkt.fold(total) == 0xFFFF


def to_real_server(packet, length: int, rip, rport: int) -> None:
    """NAT of an error about what a real server sent: it must speak of the real server's own address and port."""
    _translate(packet, length, pkt.IP6_DESTINATION, pkt.IP6_SOURCE, rip, pkt.PORT_SOURCE, rport)


def to_client(packet, length: int, vip, vport: int) -> None:
    """NAT of an error about what a client sent: it must come from, and speak of, the virtual service."""
    _translate(packet, length, pkt.IP6_SOURCE, pkt.IP6_DESTINATION, vip, pkt.PORT_DESTINATION, vport)


def is_somebody(client) -> bool:
    """Return True when *client*, 16 bytes, can be one host's own address: neither multicast nor unspecified."""
    return client[0] != 0xFF and pkt.word_sum(client, 0, 16) != 0


def _header(packet, length: int) -> int:
    """Return where the ICMPv6 header of *packet* is, or 0 when it is none, or part of a fragment."""
    found = pkt.find_transport(packet, 0, length)
    if found < 0 or found & (pkt.PROTOCOL_MASK | pkt.IS_FRAGMENT) != pkt.ICMPV6:
        return 0
    return found >> pkt.START_SHIFT


def _translate(packet, length: int, outer: int, inner: int, address, at_port: int, port: int) -> None:
    """Write *address* into both headers and *port* into the quoted packet; the message's checksum becomes right.

    The quoted TCP or UDP checksum covers more than is quoted, nobody can check it, and the kernel leaves it alone.
    """
    header = _header(packet, length)
    at = header + ICMP_HEADER
    found = pkt.find_transport(packet, at, length)
    ports = found >> pkt.START_SHIFT
    pkt.put_address(packet, outer, address)
    pkt.put_address(packet, at + inner, address)
    if not found & pkt.IS_LATER and ports + at_port + 2 <= length:
        pkt.put16(packet, ports + at_port, port)
    _write_checksum(packet, header, length)


def _write_checksum(packet, header: int, length: int) -> None:
    pkt.put16(packet, header + 2, 0)
    total = pkt.pseudo_sum(packet, pkt.ICMPV6, header, length) + pkt.word_sum(packet, header, length)
    pkt.put16(packet, header + 2, ~pkt.fold(total) & 0xFFFF)
