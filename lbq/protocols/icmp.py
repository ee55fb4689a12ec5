"""ICMP port unreachable: what a client hears when no real server can take its connection.

IPVS never answers with a TCP reset; TCP and UDP clients alike get this packet, built as the kernel's
icmp_send() builds it:

    IP     source = the VIP, destination = the client, TTL 64, DF clear, TOS = (theirs & 0x1E) | 0xC0
    ICMP   type 3, code 3
    quote  the client's packet as it came, up to 576 bytes in all (RFC 1812, 4.3.2.3)

Answering everybody would make the director a mirror for floods, so two limits apply, the kernel's own:
1000 answers a second with bursts of 50 for all clients together (icmp_msgs_per_sec, icmp_msgs_burst), and
one a second with bursts of 6 for each (icmp_ratelimit).

Kernel: net/ipv4/icmp.c, icmp_send(), icmp_global_allow(); net/ipv4/inetpeer.c, inet_peer_xrlim_allow().
"""
from __future__ import annotations

import cython

from lbq import packet as pkt

ICMP = 1
MAX_BYTES = 576
HEADERS = 28                # IP and ICMP
TOS_PRECEDENCE = 0xC0       # internetwork control
TOS_KEPT = 0x1E
TTL = 64

GLOBAL_COST = 1_000_000     # ns of credit for one answer: 1000 a second
GLOBAL_BURST = 50
CLIENT_COST = 1_000_000_000
CLIENT_BURST = 6
CLIENTS = 1024              # remembered clients; a power of two
CLIENT_BITS = 10

if cython.compiled:         # numbers with a C type are invisible to Python code; this is its copy
    globals().update(MAX_BYTES=MAX_BYTES)


def port_unreachable(packet, length: int, answer) -> int:
    """Write into *answer* (576 bytes of room) the refusal of *packet*; return how long it is."""
    quoted = min(length, MAX_BYTES - HEADERS)
    total = HEADERS + quoted
    for i in range(HEADERS):
        answer[i] = 0
    answer[0] = 0x45
    answer[1] = (packet[1] & TOS_KEPT) | TOS_PRECEDENCE
    pkt.put16(answer, pkt.IP_LENGTH, total)
    answer[pkt.IP_TTL] = TTL
    answer[pkt.IP_PROTOCOL] = ICMP
    pkt.put32(answer, pkt.IP_SOURCE, pkt.get32(packet, pkt.IP_DESTINATION))
    pkt.put32(answer, pkt.IP_DESTINATION, pkt.get32(packet, pkt.IP_SOURCE))
    pkt.put16(answer, pkt.IP_CHECKSUM, pkt.header_checksum(answer, 20))
    answer[20] = 3
    answer[21] = 3
    for i in range(quoted):
        answer[HEADERS + i] = packet[i]
    pkt.put16(answer, 22, ~pkt.word_sum(answer, 20, total) & 0xFFFF)
    return total


class RateLimit:
    """Who may still be answered: a token bucket for everybody and one for each client.

    Tokens are kept as nanoseconds of credit.  Clients are remembered in a table of fixed size, each at
    one place only; two that share a place push each other out and start afresh.  That is generous to
    them, and the common bucket still holds.
    """

    def __init__(self):
        self.credit = GLOBAL_BURST * GLOBAL_COST
        self.stamp = 0
        if not cython.compiled:         # the compiled class has C arrays, declared in icmp.pxd
            self.clients = [0] * CLIENTS
            self.credits = [0] * CLIENTS
            self.stamps = [0] * CLIENTS

    def allow(self, client: int, now_ns: int) -> bool:
        """Return True when *client* may be answered at *now_ns*, and count the answer."""
        if client >> 24 == 0 or client >> 28 >= 0xE:
            return False                # 0.0.0.0/8, multicast, broadcast: nobody's own address
        place = (client ^ client >> CLIENT_BITS ^ client >> 2 * CLIENT_BITS) & (CLIENTS - 1)
        credit = CLIENT_BURST * CLIENT_COST
        if self.clients[place] == client:
            credit = min(credit, self.credits[place] + now_ns - self.stamps[place])
        self.clients[place] = client
        self.stamps[place] = now_ns
        self.credit = min(self.credit + now_ns - self.stamp, GLOBAL_BURST * GLOBAL_COST)
        self.stamp = now_ns
        allowed = credit >= CLIENT_COST and self.credit >= GLOBAL_COST
        if allowed:
            credit -= CLIENT_COST
            self.credit -= GLOBAL_COST
        self.credits[place] = credit
        return allowed
