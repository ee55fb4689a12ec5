"""The connection table, in plain Python: which client talks to which real server.

A *connection* is one conversation the director remembers.  It is found from both sides:

    by the client's packet     CIP:cport -> VIP:vport     the client key
    by the server's packet     RIP:rport -> CIP:cport     the reply key

The client key is unique.  The reply key need not be: one client port may talk to two virtual services
that share a real server.  Then the *newest* connection gets the replies, as in the kernel, whose hash
buckets are searched from the newest entry on; when it ends, the older one is found again.

Every packet moves its connection's deadline.  Moving an entry inside a heap for each packet would be
waste, so the heap keeps the deadline it was told first, and looks again when that one comes.  Only a
deadline brought *forward* (ESTABLISHED 900 s -> CLOSE 10 s) gets a new place at once.

Time comes in as nanoseconds of CLOCK_MONOTONIC.  Deadlines are served a tick of 0.27 s at a time:
nothing ends early, and at most one tick late, which is finer than the kernel's timer wheel.

The fast path has the same table in C (``_flowtable.pxd``); ``RECORD`` is the layout of its entries, and
what listings send over the wire from either of them.

Kernel: ip_vs_conn.c; struct ip_vs_conn in include/net/ip_vs.h.
"""
from __future__ import annotations

import heapq
import struct

from lbq.grammar import format_address
from lbq.model import PROTOCOL_NAMES, TCP, RealServer
from lbq.protocols import tcp, udp

RECORD = struct.Struct("<IIIHHHBBIHBxIQIIIIII")
FIELDS = ("caddr", "vaddr", "daddr", "cport", "vport", "dport", "protocol", "family", "fwmark", "flags",
          "state", "server", "expires_ns", "wheel_next", "wheel_prev", "timeout_seconds", "packets_in",
          "control", "controlled")

INACTIVE = 0x0100           # IP_VS_CONN_F_INACTIVE: counts as inactive on its server
VALID = 0x8000              # only in a record: this entry is in use.  Not one of the kernel's flags.

TICK_BITS = 28              # deadlines are served in ticks of 2^28 ns
SECOND = 1_000_000_000
STATE_NAMES = {TCP: tcp.NAMES}


class Connection:
    """One connection: the fields of a record, with the real server itself in place of its number."""

    __slots__ = (*FIELDS, "alarm_ns", "number")

    def __init__(self, protocol: int, caddr: int, cport: int, vaddr: int, vport: int, server: RealServer,
                 family: int, fwmark: int = 0):
        self.protocol = protocol
        self.family = family
        self.caddr = caddr
        self.cport = cport
        self.vaddr = vaddr
        self.vport = vport
        self.daddr = server.address
        self.dport = server.port or vport       # a server of port 0 keeps the client's choice
        self.server = server
        self.fwmark = fwmark
        self.flags = server.mode | INACTIVE
        self.state = 0
        self.packets_in = 0
        self.timeout_seconds = 0
        self.expires_ns = 0
        self.control = 0        # number of the template that governs this connection (persistence)
        self.controlled = 0     # for a template: how many it governs
        self.wheel_next = self.wheel_prev = 0   # the C table's links; a heap needs none
        self.alarm_ns = 0       # the deadline that the heap knows
        self.number = 0         # place in the table; 0 is nobody's

    def client_key(self) -> tuple:
        """Return what the client's packets carry."""
        return self.family, self.protocol, self.caddr, self.cport, self.vaddr, self.vport

    def reply_key(self) -> tuple:
        """Return what the real server's packets carry."""
        return self.family, self.protocol, self.caddr, self.cport, self.daddr, self.dport

    def record(self) -> bytes:
        """Return this connection as 64 bytes."""
        values = {name: getattr(self, name) for name in FIELDS}
        values["server"] = self.server.slot
        values["flags"] |= VALID
        return RECORD.pack(*values.values())


def decode(record: bytes, now_ns: int) -> dict:
    """Return a 64-byte *record* in words, as the listings show it at *now_ns*."""
    entry = dict(zip(FIELDS, RECORD.unpack(record), strict=True))
    names = STATE_NAMES.get(entry["protocol"], udp.NAMES)
    return {
        "protocol": PROTOCOL_NAMES[entry["protocol"]],
        "caddr": format_address(entry["caddr"], entry["family"]), "cport": entry["cport"],
        "vaddr": format_address(entry["vaddr"], entry["family"]), "vport": entry["vport"],
        "daddr": format_address(entry["daddr"], entry["family"]), "dport": entry["dport"],
        "state": names[entry["state"]],
        "expires_seconds": max(entry["expires_ns"] - now_ns, 0) // SECOND,
        "packets_in": entry["packets_in"],
        "flags": entry["flags"] & ~VALID,
    }


class ConnectionTable:
    """All connections, at most *max_connections*, by client key, by reply key, by number and by deadline."""

    def __init__(self, max_connections: int):
        self.max_connections = max_connections
        self.by_client: dict[tuple, Connection] = {}
        self.by_reply: dict[tuple, list[Connection]] = {}      # newest last
        self.numbered: list[Connection | None] = [None]
        self.free: list[int] = []
        self.alarms: list[tuple[int, int, Connection]] = []     # a heap; the middle only breaks ties
        self.alarms_set = 0

    def __len__(self) -> int:
        return len(self.by_client)

    def find(self, client_key: tuple) -> Connection | None:
        """Return the connection that a client's packet belongs to, or None."""
        return self.by_client.get(client_key)

    def find_reply(self, reply_key: tuple) -> Connection | None:
        """Return the newest connection that a real server's packet may belong to, or None."""
        candidates = self.by_reply.get(reply_key)
        return candidates[-1] if candidates else None

    def add(self, connection: Connection) -> bool:
        """Enter a new connection, born inactive; return False, and do nothing, when the table is full."""
        if len(self) >= self.max_connections:
            return False
        if self.free:
            connection.number = self.free.pop()
            self.numbered[connection.number] = connection
        else:
            connection.number = len(self.numbered)
            self.numbered.append(connection)
        self.by_client[connection.client_key()] = connection
        self.by_reply.setdefault(connection.reply_key(), []).append(connection)
        connection.server.inactive_conns += 1
        return True

    def remove(self, connection: Connection) -> None:
        """Forget *connection* and give its server the place back."""
        del self.by_client[connection.client_key()]
        candidates = self.by_reply[connection.reply_key()]
        candidates.remove(connection)
        if not candidates:
            del self.by_reply[connection.reply_key()]
        self.numbered[connection.number] = None
        self.free.append(connection.number)
        connection.number = 0
        if connection.flags & INACTIVE:
            connection.server.inactive_conns -= 1
        else:
            connection.server.active_conns -= 1

    def set_state(self, connection: Connection, state: int, active: bool) -> None:
        """Put *connection* into *state*, which counts as *active* or not on its server."""
        connection.state = state
        server = connection.server
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
        while self.alarms and self.alarms[0][0] >> TICK_BITS < now_ns >> TICK_BITS:
            alarm_ns, _, connection = heapq.heappop(self.alarms)
            if connection.number == 0 or connection.alarm_ns != alarm_ns:
                continue                        # it ended, or an earlier alarm took this one's place
            if connection.expires_ns > alarm_ns:
                self._set_alarm(connection)     # packets moved the deadline on
                continue
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

    def _set_alarm(self, connection: Connection) -> None:
        connection.alarm_ns = connection.expires_ns
        self.alarms_set += 1
        heapq.heappush(self.alarms, (connection.alarm_ns, self.alarms_set, connection))
