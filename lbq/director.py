"""The way of one packet, in plain Python.  Read this file first.

A packet that iptables sent to the queue comes to ``Director.handle``, and this is its way:

    parse      what is in it: addresses, ports, TCP flags; or why it cannot belong to a connection
    find       the hook says the direction.  Towards the servers (PREROUTING, LOCAL_OUT) it is found by
               its client and the VIP; back from them (POSTROUTING, LOCAL_IN) by client and real server
    schedule   only for the first packet of a new connection: which service, which real server?
    account    count it, let TCP's state table see it, start the connection's timer again
    forward    rewrite addresses, ports and checksums

and the answer is a ``Verdict``: let it pass (rewritten or untouched) or drop it, and perhaps an ICMP
packet for the client.  Inside one packet the order is the kernel's: connection, counters, state, rewrite,
timer.  A scheduler that is asked for the next packet sees exactly the numbers it would see there.

``_fastpath.pyx`` tells the same story under the same headings at C speed; the agreement tests feed both
the same packets and compare every byte.  ``--engine reference`` runs this file on real traffic.

Kernel: ip_vs_core.c, ip_vs_in_hook(), ip_vs_out_hook(), ip_vs_schedule(), ip_vs_leave().
Differs from IPVS: requests are seen in PREROUTING, not LOCAL_IN, so the TTL of a client's packet is
decremented by the host's own forwarding, and not at all when the client is the director itself.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import NamedTuple

from lbq import packet as pkt
from lbq.conntrack import Connection, ConnectionTable
from lbq.model import (
    AF_INET,
    NAT,
    NEW,
    TCP,
    UDP,
    Flow,
    RealServer,
    ServiceKey,
    Verdict,
    VirtualService,
)
from lbq.modes import nat
from lbq.protocols import icmp, tcp, udp
from lbq.services import ServiceTable

DROP = 0                # netfilter's verdicts
ACCEPT = 1
LOCAL_IN = 1            # netfilter's hooks where replies are seen; requests: PREROUTING 0, LOCAL_OUT 3
POSTROUTING = 4
LOOPBACK = 1            # the interface number of lo, in every network namespace
FTP_DATA = 20           # an FTP server's own port: IPVS never schedules what comes from it

PASSED = ("not_ours", "no_service", "not_opening", "no_connection", "ftp_data")
DROPPED = ("truncated", "malformed", "fragment", "no_server", "server_gone", "table_full")
COUNTED = ("packets", "bytes", "accepted", "rewritten", "conns", "expired", "icmp_sent", "icmp_limited",
           "verdict_errors", "scheduler_errors",
           *(f"passed_{reason}" for reason in PASSED), *(f"dropped_{reason}" for reason in DROPPED))


class Parsed(NamedTuple):
    """What the director reads in a packet."""

    protocol: int
    source: int
    source_port: int
    destination: int
    destination_port: int
    flags: int          # of the TCP header; 0 for UDP
    length: int         # of the IP packet


@dataclass
class Traffic:
    """The counters of one service or one real server; bytes are those of whole IP packets."""

    conns: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


def parse(packet: bytearray, truncated: bool = False) -> Parsed | str:
    """Return what is in *packet*, or the reason why it cannot belong to a connection.

    The queue gives us datagrams reassembled (a rule of ours switches defragmentation on), so a fragment
    is never normal.  A packet that is not here whole must not be sent back: the kernel would cut the
    real one to what we have.
    """
    if truncated:
        return "truncated"      # first: what is longer than 65,535 bytes cannot say so in its own header
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
    if protocol not in (TCP, UDP):
        return "not_ours"
    if length - header < (20 if protocol == TCP else 8):
        return "malformed"
    return Parsed(
        protocol=protocol,
        source=pkt.get32(packet, pkt.IP_SOURCE),
        source_port=pkt.get16(packet, header + pkt.PORT_SOURCE),
        destination=pkt.get32(packet, pkt.IP_DESTINATION),
        destination_port=pkt.get16(packet, header + pkt.PORT_DESTINATION),
        flags=packet[header + pkt.TCP_FLAGS] if protocol == TCP else 0,
        length=length,
    )


class Director:
    """Decides about packets.  Addresses are host-order integers, times nanoseconds of CLOCK_MONOTONIC.

    It owns no clock and no socket; ``open_queue`` and ``run`` lend it those of ``nfqueue.py``.
    """

    def __init__(self, max_connections: int = 1_048_576, profile: str = NEW):
        self.services = ServiceTable(profile)
        self.connections = ConnectionTable(max_connections)
        self.timeouts = {TCP: list(tcp.TIMEOUTS), UDP: list(udp.TIMEOUTS)}      # seconds, by state
        self.local_addresses: set[int] = set()
        self.limit = icmp.RateLimit()
        self.counted = Counter(dict.fromkeys(COUNTED, 0))
        self.traffic: dict[VirtualService | RealServer, Traffic] = {}
        self.slots: list[RealServer | None] = []        # what a record's server number means
        self.queue = None

    # ---- The way of a packet -------------------------------------------------------------------------

    def handle(self, packet: bytearray, hook: int, form: int = 0, out_device: int = 0, now_ns: int = 0,
               truncated: bool = False) -> Verdict:
        """Decide about *packet* at *now_ns*, and rewrite it in place when it is to go another way.

        *form* is what the kernel says of its checksum and segmentation (``packet.SEGMENTED_LATER`` …),
        *out_device* the number of the interface it leaves by, *truncated* that there is more of it.
        """
        self.counted["packets"] += 1
        self.counted["bytes"] += len(packet)
        parsed = parse(packet, truncated)
        if parsed in DROPPED:
            return self._drop(parsed)
        if parsed in PASSED:
            return self._pass(parsed)
        if hook in (LOCAL_IN, POSTROUTING):
            return self._reply(packet, parsed, form, hook == LOCAL_IN or out_device == LOOPBACK, now_ns)
        return self._request(packet, parsed, form, now_ns)

    def _request(self, packet: bytearray, parsed: Parsed, form: int, now_ns: int) -> Verdict:
        """A client's packet: find or make its connection, and address it to the real server."""
        connection = self.connections.find((AF_INET, parsed.protocol, parsed.source, parsed.source_port,
                                            parsed.destination, parsed.destination_port))
        if connection is not None and self._starts_over(connection, parsed):
            self.connections.remove(connection)
            connection = None
        if connection is None:
            scheduled = self._schedule(packet, parsed, now_ns)
            if isinstance(scheduled, Verdict):
                return scheduled
            connection = scheduled
        server = connection.server
        if not server.available:        # deleted; the timer is not restarted, so that the connection ages
            return self._drop("server_gone")

        for traffic in (self.traffic[server], self.traffic[server.service]):
            traffic.packets_in += 1
            traffic.bytes_in += parsed.length
        self._see(connection, tcp.IN, parsed.flags)
        nat.to_real_server(packet, parsed.length, connection.daddr, connection.dport, form,
                           server.address in self.local_addresses)
        connection.packets_in = connection.packets_in + 1 & 0xFFFFFFFF
        self.connections.restart_timer(connection, now_ns)
        return self._rewritten()

    def _reply(self, packet: bytearray, parsed: Parsed, form: int, delivered_here: bool,
               now_ns: int) -> Verdict:
        """A real server's packet: make it come from the virtual service.

        Also when the server has been deleted: what the client is still owed, it gets.  But a deleted
        server is no longer counted.
        """
        connection = self.connections.find_reply((AF_INET, parsed.protocol, parsed.destination,
                                                  parsed.destination_port, parsed.source, parsed.source_port))
        if connection is None:
            return self._pass("no_connection")
        server = connection.server
        if server.available:
            for traffic in (self.traffic[server], self.traffic[server.service]):
                traffic.packets_out += 1
                traffic.bytes_out += parsed.length
        self._see(connection, tcp.OUT, parsed.flags)
        nat.to_client(packet, parsed.length, connection.vaddr, connection.vport, form, delivered_here)
        self.connections.restart_timer(connection, now_ns)
        return self._rewritten()

    def _starts_over(self, connection: Connection, parsed: Parsed) -> bool:
        """Return True when a SYN uses the ports of a finished connection again (conn_reuse_mode 1)."""
        return (parsed.protocol == TCP and parsed.flags & tcp.SYN != 0 and connection.control == 0
                and connection.state in (tcp.TIME_WAIT, tcp.CLOSE))

    def _schedule(self, packet: bytearray, parsed: Parsed, now_ns: int) -> Connection | Verdict:
        """Return a new connection for a packet that has none, or the verdict when there will be none."""
        if parsed.protocol == TCP and not tcp.opens(parsed.flags):
            return self._pass("not_opening")
        key = ServiceKey(parsed.protocol, parsed.destination, parsed.destination_port)
        service = self.services.by_key.get(key)
        if service is None:
            return self._pass("no_service")
        if parsed.source_port == FTP_DATA:
            return self._pass("ftp_data")
        server = self._choose(service, parsed)
        if server is None:
            return self._drop("no_server", self._refusal(packet, parsed, now_ns))
        connection = Connection(parsed.protocol, parsed.source, parsed.source_port, parsed.destination,
                                parsed.destination_port, server, AF_INET)
        if not self.connections.add(connection):
            return self._drop("table_full")
        self.counted["conns"] += 1
        self.traffic[server].conns += 1
        self.traffic[service].conns += 1
        return connection

    def _choose(self, service: VirtualService, parsed: Parsed) -> RealServer | None:
        """Ask the service's scheduler; a user's own one may fail, which must not stop others' packets."""
        flow = Flow(parsed.protocol, parsed.source, parsed.source_port,
                    parsed.destination, parsed.destination_port)
        try:
            server = service.scheduler.schedule(service, flow)
            if server is None or server.position < 0 or server.service is not service:
                return None
        except BaseException:           # sys.exit() too
            self.counted["scheduler_errors"] += 1
            return None
        return server

    def _refusal(self, packet: bytearray, parsed: Parsed, now_ns: int) -> bytes | None:
        """Return the ICMP port unreachable for a client that nobody can serve, within the rate limits."""
        if not self.limit.allow(parsed.source, now_ns):
            self.counted["icmp_limited"] += 1
            return None
        self.counted["icmp_sent"] += 1
        answer = bytearray(icmp.MAX_BYTES)
        length = icmp.port_unreachable(packet, parsed.length, answer)
        return bytes(answer[:length])

    def _see(self, connection: Connection, direction: int, flags: int) -> None:
        """Let the protocol see the packet: its state, its timeout, active or not."""
        if connection.protocol == TCP:
            state = tcp.next_state(direction, flags, connection.state)
            if state != connection.state:
                self.connections.set_state(connection, state, tcp.is_active(state))
        connection.timeout_seconds = self.timeouts[connection.protocol][connection.state]

    def _rewritten(self) -> Verdict:
        self.counted["accepted"] += 1
        self.counted["rewritten"] += 1
        return Verdict(ACCEPT, changed=True)

    def _pass(self, reason: str) -> Verdict:
        self.counted["accepted"] += 1
        self.counted["passed_" + reason] += 1
        return Verdict(ACCEPT)

    def _drop(self, reason: str, answer: bytes | None = None) -> Verdict:
        self.counted["dropped_" + reason] += 1
        return Verdict(DROP, answer=answer)

    def expire(self, now_ns: int) -> None:
        """Forget every connection whose time is over at *now_ns*."""
        self.counted["expired"] += self.connections.expire(now_ns)

    # ---- Services and servers: between two packets ---------------------------------------------------

    def add_service(self, key: ServiceKey, scheduler: str) -> None:
        """Add the virtual service *key* with the scheduler called *scheduler*."""
        self.traffic[self.services.add_service(key, scheduler)] = Traffic()

    def delete_service(self, key: ServiceKey) -> None:
        """Delete the virtual service *key*; its servers rest in the trash while connections refer to them."""
        del self.traffic[self.services.delete_service(key)]

    def add_server(self, key: ServiceKey, address: int, port: int, weight: int = 1, mode: int = NAT) -> None:
        """Add a real server to the service *key*, or bring it back from the trash."""
        deleted = self.services.trash.get((key, address, port))
        former = deleted.service if deleted is not None else None
        server = self.services.add_server(key, address, port, weight, mode)
        if server.service is not former:        # new, or back in a service that was deleted itself
            self.traffic[server] = Traffic()
        if server.slot < 0:
            server.slot = self.slots.index(None) if None in self.slots else len(self.slots)
            self.slots[server.slot:server.slot + 1] = [server]

    def set_server(self, key: ServiceKey, address: int, port: int, weight: int) -> None:
        """Give a real server another weight; 0 quiesces it."""
        self.services.set_server(key, address, port, weight)

    def delete_server(self, key: ServiceKey, address: int, port: int) -> None:
        """Delete a real server; its clients' packets are dropped from now on, its replies still pass."""
        self.services.delete_server(key, address, port)

    def tick(self, now_ns: int) -> list[tuple[ServiceKey, int, int]]:
        """Forget deleted servers that have been idle for minutes, and return which they were."""
        before = dict(self.services.trash)
        gone = self.services.empty_trash(now_ns)
        for place in gone:
            del self.traffic[before[place]]
            self.slots[before[place].slot] = None
        return gone

    def set_local_addresses(self, addresses: list[int]) -> None:
        """Say which IPv4 addresses are the host's own: what goes there is delivered, not forwarded."""
        self.local_addresses = set(addresses)

    def set_timeouts(self, tcp_seconds: int, tcp_fin_seconds: int, udp_seconds: int) -> None:
        """Set the timeouts of ESTABLISHED, FIN_WAIT and UDP, for packets from now on; 0 keeps one."""
        self.timeouts[TCP][tcp.ESTABLISHED] = tcp_seconds or self.timeouts[TCP][tcp.ESTABLISHED]
        self.timeouts[TCP][tcp.FIN_WAIT] = tcp_fin_seconds or self.timeouts[TCP][tcp.FIN_WAIT]
        self.timeouts[UDP][udp.NORMAL] = udp_seconds or self.timeouts[UDP][udp.NORMAL]

    # ---- Listings: short pages -----------------------------------------------------------------------

    def list_services(self, cursor: int = 0, limit: int = 16) -> tuple[list[dict], int | None]:
        """Return up to *limit* lines of the listing from line *cursor* on, as rows, and the next cursor or None."""
        return self.services.page(cursor, limit, lambda thing: {"stats": asdict(self.traffic[thing])})

    def list_connections(self, cursor: int = 0, limit: int = 256) -> tuple[bytes, int | None]:
        """Return up to *limit* records (``conntrack.RECORD``) from *cursor* on, and the next cursor."""
        return self.connections.page(cursor, limit)

    def statistics(self) -> dict:
        """Return all counters by name."""
        return {**self.counted, "connections": len(self.connections),
                "connections_max": self.connections.max_connections}

    # ---- On real traffic -----------------------------------------------------------------------------

    def open_queue(self, number: int) -> None:
        """Bind NFQUEUE *number*."""
        from lbq.nfqueue import Queue  # not above: the data path itself needs no NetfilterQueue

        self.queue = Queue(number, self)

    def run(self, wake_fd: int) -> None:
        """Handle packets until *wake_fd* is readable."""
        self.queue.run(wake_fd)
