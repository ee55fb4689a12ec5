"""The connection table, in plain Python: which client talks to which real server.

A *connection* is one conversation the director remembers.  It is found from both sides:

    by the client's packet     CIP:cport -> VIP:vport     the client key
    by the server's packet     RIP:rport -> CIP:cport     the reply key

The client key is unique as a rule.  The reply key need not be: one client port may talk to two virtual services
that share a real server.  Then the *newest* connection gets the replies, as in the kernel, whose hash
buckets are searched from the newest entry on; when it ends, the older one is found again.  Of two with one client
key, which a connection that governs others and cannot end makes possible, the newest is found, too.

    replies of DR and TUN      VIP:vport -> CIP:cport     when they pass here at all, their source is the VIP

A *template* is no connection: it says where a client with persistence goes, under (masked client, port 0, VIP:vport),
and governs the connections made by it.  While it governs any it cannot expire: its timer starts again with a minute.

Every packet moves its connection's deadline.  Moving an entry inside a heap for each packet would be
waste, so the heap keeps the deadline it was told first, and looks again when that one comes.  Only a
deadline brought *forward* (ESTABLISHED 900 s -> CLOSE 10 s) gets a new place at once.

Time comes in as nanoseconds of CLOCK_MONOTONIC.  Deadlines are served a tick of 0.27 s at a time:
nothing ends early, and at most one tick late, which is finer than the kernel's timer wheel.

The fast path has the same table in C (``_flowtable.pxd``); ``RECORD`` is the layout of its entries, and
what listings send over the wire from either of them.  The record of an IPv6 connection holds each address's four words
XORed, and the addresses themselves follow it (``ADDRESSES``); so they do when only the real server is IPv6.

Kernel: ip_vs_conn.c; struct ip_vs_conn in include/net/ip_vs.h.
"""
from __future__ import annotations

import heapq
import socket
import struct
from collections.abc import Iterator

from lbq import thresholds
from lbq.grammar import format_address
from lbq.model import (
    AF_INET,
    AF_INET6,
    BYPASS,
    INACTIVE,
    MIXED,
    MODE_MASK,
    NAT,
    NO_CPORT,
    NO_OUTPUT,
    OFFLOADED,
    ONE_PACKET,
    PROTOCOL_NAMES,
    SCTP,
    TCP,
    TEMPLATE,
    UDP,
    RealServer,
    fold,
    packed,
)
from lbq.protocols import sctp, tcp, udp

RECORD = struct.Struct("<IIIHHHBBIHBBIQIIIIII")
FIELDS = ("caddr", "vaddr", "daddr", "cport", "vport", "dport", "protocol", "family", "fwmark", "flags",
          "state", "helper", "server", "expires_ns", "wheel_next", "wheel_prev", "timeout_seconds", "packets_in",
          "control", "controlled")

ADDRESSES = struct.Struct("16s16s16s")      # client, VIP, real server; an IPv4 one in the first four bytes
FAMILY_AT = 19              # in a record: the byte that says AF_INET6, and the two with the flags
FLAGS_AT = 24

VALID = 0x8000              # only in a record: this entry is in use.  Not one of the kernel's flags.
NO_SERVER = 0xFFFFFFFF      # in a record: the connection goes where the client wanted (cache_bypass)
ASSURED = 1                 # a template's state once it has been used in earnest
POSTPONED = 60              # seconds that what governs connections lives on at a time

TICK_BITS = 28              # deadlines are served in ticks of 2^28 ns
SECOND = 1_000_000_000
STATE_NAMES = {TCP: tcp.NAMES, UDP: udp.NAMES, SCTP: sctp.NAMES}
PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}
TEMPLATE_STATES = ("NONE", "ASSURED")


class Connection:
    """One connection or template: the fields of a record, with the real server itself in place of its number."""

    __slots__ = (*FIELDS, "alarm_ns", "ftp", "number")

    def __init__(self, protocol: int, caddr: int, cport: int, vaddr: int, vport: int, server: RealServer | None,
                 dport: int, flags: int = 0, fwmark: int = 0, family: int = AF_INET):
        self.protocol = protocol
        self.family = family
        self.caddr = caddr
        self.cport = cport
        self.vaddr = vaddr
        self.vport = vport
        self.daddr = server.address if server else 0
        self.dport = dport
        self.server = server
        self.fwmark = fwmark
        mode = server.mode if server else BYPASS
        mixed = MIXED if server and server.family != family else 0
        self.flags = flags | mode | INACTIVE | (NO_OUTPUT if mode != NAT else 0) | mixed
        self.state = 0
        self.helper = 0         # 1: an FTP control connection
        self.packets_in = 0
        self.timeout_seconds = 3
        self.expires_ns = 0
        self.control = None     # the template, or FTP control connection, that governs this one
        self.controlled = 0     # how many this one governs
        self.wheel_next = self.wheel_prev = 0   # the C table's links; a heap needs none
        self.alarm_ns = 0       # the deadline that the heap knows
        self.ftp = None         # what is going on between FTP client and server
        self.number = 0         # place in the table; 0 is nobody's

    def mode(self) -> int:
        """Return how its packets are forwarded."""
        return self.flags & MODE_MASK

    def client_key(self) -> tuple:
        """Return what the client's packets carry; the last part tells templates and half-known ones from others."""
        return (self.family, self.protocol, self.caddr, self.cport, self.vaddr, self.vport,
                self.flags & (TEMPLATE | NO_CPORT) if self.cport == 0 else 0)

    def reply_key(self) -> tuple:
        """Return what packets to the client carry."""
        if self.mode() == NAT:
            return self.family, self.protocol, self.caddr, self.cport, self.daddr, self.dport
        return self.family, self.protocol, self.caddr, self.cport, self.vaddr, self.vport

    def record(self) -> bytes:
        """Return this connection as 64 bytes, or 112 when there is an IPv6 address in it."""
        values = {name: getattr(self, name) for name in FIELDS}
        for name in ("caddr", "vaddr", "daddr"):
            values[name] = fold(values[name])
        values["server"] = self.server.slot if self.server else NO_SERVER
        values["control"] = self.control.number if self.control else 0
        values["flags"] |= VALID
        record = RECORD.pack(*values.values())
        if self.family == AF_INET and not self.flags & MIXED:
            return record
        return record + ADDRESSES.pack(packed(self.caddr, self.family), packed(self.vaddr, self.family),
                                       packed(self.daddr, server_family(self.family, self.flags)))


def server_family(family: int, flags: int) -> int:
    """Return the real server's family, out of a connection's own and its *flags*."""
    return family if not flags & MIXED else AF_INET + AF_INET6 - family


def split(records: bytes) -> Iterator[bytes]:
    """Yield each of the *records* of a page."""
    at = 0
    while at < len(records):
        flags = int.from_bytes(records[at + FLAGS_AT:at + FLAGS_AT + 2], "little")
        size = RECORD.size + (ADDRESSES.size if records[at + FAMILY_AT] == AF_INET6 or flags & MIXED else 0)
        yield records[at:at + size]
        at += size


def fields(record: bytes) -> dict[str, int]:
    """Return the fields of a *record* by name, with whole addresses."""
    entry = dict(zip(FIELDS, RECORD.unpack_from(record), strict=True))
    if len(record) > RECORD.size:
        contents = ADDRESSES.unpack_from(record, RECORD.size)
        for (name, family), content in zip(_families(entry).items(), contents, strict=True):
            entry[name] = int.from_bytes(content if family == AF_INET6 else content[:4], "big")
    return entry


def _families(entry: dict[str, int]) -> dict[str, int]:
    family = entry["family"]
    return {"caddr": family, "vaddr": family, "daddr": server_family(family, entry["flags"])}


def decode(record: bytes, now_ns: int) -> dict:
    """Return a *record* in words, as the listings show it at *now_ns*."""
    entry = fields(record)
    families = _families(entry)
    names = TEMPLATE_STATES if entry["flags"] & TEMPLATE else STATE_NAMES[entry["protocol"]]
    return {
        "protocol": PROTOCOL_NAMES[entry["protocol"]],
        "caddr": format_address(entry["caddr"], families["caddr"]), "cport": entry["cport"],
        "vaddr": format_address(entry["vaddr"], families["vaddr"]), "vport": entry["vport"],
        "daddr": format_address(entry["daddr"], families["daddr"]), "dport": entry["dport"],
        "state": names[entry["state"]],
        "expires_seconds": max(entry["expires_ns"] - now_ns, 0) // SECOND,
        "packets_in": entry["packets_in"],
        "flags": entry["flags"] & ~(VALID | MIXED | OFFLOADED),
        "fwmark": entry["fwmark"],
    }


def ends_of(row: dict) -> tuple[int, int, int, int, int, int]:
    """Return protocol, client, client's port, VIP, port and family of what ``decode`` shows as *row*."""
    family = AF_INET6 if ":" in row["caddr"] else AF_INET
    client, vip = (int.from_bytes(socket.inet_pton(family, row[end]), "big") for end in ("caddr", "vaddr"))
    return PROTOCOL_NUMBERS[row["protocol"]], client, row["cport"], vip, row["vport"], family


class ConnectionTable:
    """All connections, at most *max_connections*, by client key, by reply key, by number and by deadline."""

    def __init__(self, max_connections: int, is_new: bool = True):
        self.max_connections = max_connections
        self.is_new = is_new        # the kernel profile, for thresholds
        self.by_client: dict[tuple, list[Connection]] = {}     # newest last
        self.by_reply: dict[tuple, list[Connection]] = {}      # newest last
        self.numbered: list[Connection | None] = [None]
        self.free: list[int] = []
        self.alarms: list[tuple[int, int, int, Connection, int]] = []      # a heap by tick
        self.alarms_set = 0
        self.waiting_cport = 0      # connections whose client's port is not known yet

    def __len__(self) -> int:
        return len(self.numbered) - 1 - len(self.free)

    def find(self, family: int, protocol: int, caddr: int, cport: int, vaddr: int, vport: int,
             kind: int = NO_CPORT) -> Connection | None:
        """Return the newest connection that a client's packet belongs to, or with *kind* the TEMPLATE, or None."""
        candidates = self.by_client.get((family, protocol, caddr, cport, vaddr, vport, kind if cport == 0 else 0))
        return candidates[-1] if candidates else None

    def find_reply(self, family: int, protocol: int, caddr: int, cport: int, address: int,
                   port: int) -> Connection | None:
        """Return the newest connection that a packet from *address*:*port* to a client may belong to, or None."""
        candidates = self.by_reply.get((family, protocol, caddr, cport, address, port))
        return candidates[-1] if candidates else None

    def is_full(self) -> bool:
        """Return True when there is room for no connection more."""
        return len(self) >= self.max_connections

    def add(self, connection: Connection) -> bool:
        """Enter a new connection, born inactive; return False, and do nothing, when the table is full.

        A one-packet connection is bound to its server, and never entered.
        """
        if not connection.flags & ONE_PACKET:
            if self.is_full():
                return False
            if self.free:
                connection.number = self.free.pop()
                self.numbered[connection.number] = connection
            else:
                connection.number = len(self.numbered)
                self.numbered.append(connection)
            self.waiting_cport += connection.flags & NO_CPORT != 0
            self._link(connection)
        self._bind(connection)
        return True

    def remove(self, connection: Connection) -> None:
        """Forget *connection* and give its server the place back."""
        governor = connection.control
        self._unbind(connection)
        if connection.number:
            self.waiting_cport -= connection.flags & NO_CPORT != 0
            self._unlink(connection)
            self.numbered[connection.number] = None
            self.free.append(connection.number)
            connection.number = 0
        if governor is not None:
            governor.controlled -= 1
            connection.control = None
            if connection.timeout_seconds == 0 and governor.controlled == 0 and not (
                    governor.flags & TEMPLATE and governor.state & ASSURED):
                self.forget(governor)       # nobody uses it any more, and this was not a matter of time

    def expire_now(self, connection: Connection, now_ns: int) -> None:
        """End *connection* as if its time were over: one that governs others lives on."""
        if connection.controlled:
            connection.timeout_seconds = POSTPONED
            self.restart_timer(connection, now_ns)
        else:
            self.remove(connection)

    def forget(self, connection: Connection) -> None:
        """End *connection* out of its time; a template that nobody else uses goes with it."""
        connection.timeout_seconds = 0
        self.remove(connection)

    def rename(self, connection: Connection, **fields) -> None:
        """Change what *connection* is found by."""
        self.waiting_cport -= connection.flags & NO_CPORT != 0
        self._unlink(connection)
        for name, value in fields.items():
            setattr(connection, name, value)
        self.waiting_cport += connection.flags & NO_CPORT != 0
        self._link(connection)

    def set_state(self, connection: Connection, state: int, active: bool) -> None:
        """Put *connection* into *state*, which counts as *active* or not on its server."""
        connection.state = state
        server = connection.server
        if server is None:
            return
        if active and connection.flags & INACTIVE:
            connection.flags &= ~INACTIVE
            server.inactive_conns -= 1
            server.active_conns += 1
        elif not active and not connection.flags & INACTIVE:
            connection.flags |= INACTIVE
            server.active_conns -= 1
            server.inactive_conns += 1

    def restart_timer(self, connection: Connection, now_ns: int) -> None:
        """Let *connection* live for its timeout from *now_ns* on."""
        connection.expires_ns = now_ns + connection.timeout_seconds * SECOND
        if connection.alarm_ns == 0 or connection.expires_ns < connection.alarm_ns:
            self._set_alarm(connection)

    def expire(self, now_ns: int) -> int:
        """Forget every connection whose deadline's tick is over at *now_ns*; return how many there were."""
        expired = 0
        while self.alarms and self.alarms[0][0] < now_ns >> TICK_BITS:
            tick, _, _, connection, alarm_ns = heapq.heappop(self.alarms)
            if connection.number == 0 or connection.alarm_ns != alarm_ns:
                continue                        # it ended, or an earlier alarm took this one's place
            if connection.expires_ns >> TICK_BITS > tick:
                self._set_alarm(connection)     # packets moved the deadline on
            elif connection.controlled:         # in use: from now on it is looked at every minute
                connection.timeout_seconds = POSTPONED
                connection.expires_ns += POSTPONED * SECOND
                self._set_alarm(connection)
            else:
                self.remove(connection)
                expired += 1
        return expired

    def page(self, cursor: int, limit: int) -> tuple[bytes, int | None]:
        """Return up to *limit* records from number *cursor* on, and the next cursor or None."""
        records = []
        number = max(cursor, 1)
        while number < len(self.numbered) and len(records) < limit:
            connection = self.numbered[number]
            if connection is not None:
                records.append(connection.record())
            number += 1
        return b"".join(records), number if number < len(self.numbered) else None

    def _link(self, connection: Connection) -> None:
        self.by_client.setdefault(connection.client_key(), []).append(connection)
        if not connection.flags & TEMPLATE:
            self.by_reply.setdefault(connection.reply_key(), []).append(connection)

    def _unlink(self, connection: Connection) -> None:
        _take_out(self.by_client, connection.client_key(), connection)
        if not connection.flags & TEMPLATE:
            _take_out(self.by_reply, connection.reply_key(), connection)

    def _bind(self, connection: Connection) -> None:
        """Count a new connection or template at its server."""
        server = connection.server
        if server is None:
            return
        template = connection.flags & TEMPLATE != 0
        if template:
            server.persistent_conns += 1
        else:
            server.inactive_conns += 1
        server.overloaded = thresholds.after_bind(
            self.is_new, server.upper, server.lower, server.active_conns + server.inactive_conns, template,
            server.overloaded)

    def _unbind(self, connection: Connection) -> None:
        """Give a connection's or template's place back to its server."""
        server = connection.server
        if server is None:
            return
        template = connection.flags & TEMPLATE != 0
        if template:
            server.persistent_conns -= 1
        elif connection.flags & INACTIVE:
            server.inactive_conns -= 1
        else:
            server.active_conns -= 1
        server.overloaded = thresholds.after_unbind(
            self.is_new, server.upper, server.lower, server.active_conns + server.inactive_conns, template,
            server.overloaded)

    def _set_alarm(self, connection: Connection) -> None:
        connection.alarm_ns = connection.expires_ns
        self.alarms_set += 1
        rank = 2 if connection.flags & TEMPLATE else connection.helper      # what governs others comes after them
        heapq.heappush(self.alarms, (connection.alarm_ns >> TICK_BITS, rank, self.alarms_set, connection,
                                     connection.alarm_ns))


def _take_out(index: dict[tuple, list[Connection]], key: tuple, connection: Connection) -> None:
    index[key].remove(connection)
    if not index[key]:
        del index[key]
