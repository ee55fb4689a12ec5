"""The way of one packet, in plain Python.  Read this file first.

A packet that iptables sent to the queue comes to ``Director.handle``, and this is its way:

    parse      what is in it: addresses, ports, TCP flags; or why it cannot belong to a connection
    find       the hook says the direction.  Towards the servers (PREROUTING, LOCAL_OUT) it is found by
               its client and the VIP; back from them (POSTROUTING, LOCAL_IN) by client and real server
    schedule   only for the first packet of a new connection: which service, which template, which real server?
    account    count it, let the protocol's state table see it, start the connection's timer again
    forward    NAT rewrites addresses, ports and checksums; DR and TUN send the packet themselves

and the answer is a ``Verdict``: let it pass (rewritten or untouched) or drop it, what leaves in its place, and
perhaps an ICMP packet for the client.  Inside one packet the order is the kernel's: connection, counters, state,
forwarding, timer.  A scheduler that is asked for the next packet sees exactly the numbers it would see there.

What is rarer is next door: ``forwarding.py`` has the ways out and their checks, ``related.py`` ICMP errors and FTP.

``_fastpath.pyx`` tells the same story under the same headings at C speed; the agreement tests feed both
the same packets and compare every byte.  ``--engine reference`` runs this file on real traffic.

Kernel: ip_vs_core.c, ip_vs_in_hook(), ip_vs_out_hook(), ip_vs_schedule(), ip_vs_sched_persist(), ip_vs_leave().
Differs from IPVS: requests are seen in PREROUTING, not LOCAL_IN, so the TTL of a client's packet that NAT rewrites is
decremented by the host's own forwarding, and not at all when the client is the director itself.
"""
from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict

from lbq import packet as pkt
from lbq import sysctls, traffic
from lbq.conntrack import ASSURED, SECOND, Connection, ConnectionTable
from lbq.forwarding import Forwarding, Route, to_client
from lbq.model import (
    AF_INET,
    AF_INET6,
    END_DELETED,
    MOVE_QUIESCED,
    NAT,
    NEW,
    NO_CPORT,
    NO_OUTPUT,
    ONE_PACKET,
    OPS,
    OPS_REPLIES,
    PERSISTENT,
    SCTP,
    TCP,
    TEMPLATE,
    UDP,
    Flow,
    RealServer,
    ServiceKey,
    Tunnel,
    Verdict,
    VirtualService,
    is_unicast6,
)
from lbq.outcomes import ACCEPT, COUNTED, DROP, DROPPED, PASSED
from lbq.parsing import Parsed, parse
from lbq.protocols import icmp, sctp, tcp, udp
from lbq.related import Related, family_of
from lbq.services import FTP, FTP_DATA, Place, ServiceTable, template_place

LOCAL_IN = 1            # netfilter's hooks where replies are seen; requests: PREROUTING 0, LOCAL_OUT 3
LOCAL_OUT = 3
POSTROUTING = 4
LOOPBACK = 1            # the interface number of lo, in every network namespace
REUSE_FIN_WAIT = 2      # in sysctl conn_reuse_mode

__all__ = ["ACCEPT", "DROP", "DROPPED", "PASSED", "Director", "Parsed", "parse"]


class Director(Forwarding, Related):
    """Decides about packets.  Addresses are host-order integers, times nanoseconds of CLOCK_MONOTONIC.

    It owns no clock and no socket; ``open_queue`` and ``run`` lend it those of ``nfqueue.py``.
    """

    def __init__(self, max_connections: int = 1_048_576, profile: str = NEW):
        super().__init__()
        self.services = ServiceTable(profile)
        self.connections = ConnectionTable(max_connections, self.services.is_new)
        self.timeout_table = {TCP: list(tcp.TIMEOUTS), UDP: list(udp.TIMEOUTS), SCTP: list(sctp.TIMEOUTS)}  # by state
        self.counted = Counter(dict.fromkeys(COUNTED, 0))
        self.traffic: dict[VirtualService | RealServer, traffic.Traffic] = {}
        self.total = traffic.Totals()
        self.slots: list[RealServer | None] = []        # what a record's server number means
        self.random = random.Random()
        self.drop_rate = self.drop_counter = 0          # of sysctl drop_packet
        self.drop_counts = [0] * 9                      # of drop_entry, by packets
        self.free_pages = 0
        self.flush_due = False
        self.next_round = 0                             # of the estimator
        self.queue = None

    # ---- The way of a packet -------------------------------------------------------------------------

    def handle(self, packet: bytearray, hook: int, form: int = 0, out_device: int = 0, now_ns: int = 0,
               truncated: bool = False, mark: int = 0) -> Verdict:
        """Decide about *packet* at *now_ns*, and rewrite it in place when it is to go another way.

        *form* is what the kernel says of its checksum and segmentation (``packet.SEGMENTED_LATER`` …),
        *out_device* the number of the interface it leaves by, *truncated* that there is more of it, *mark* its
        firewall mark.
        """
        self.counted["packets"] += 1
        self.counted["bytes"] += len(packet)
        self.answer, self.sent, self.former = None, [], None
        parsed = parse(packet, truncated)
        reply = hook in (LOCAL_IN, POSTROUTING)
        if (parsed == "icmp" or isinstance(parsed, Parsed)) and not self.services.serves[family_of(packet)]:
            outcome = "passed_no_service"       # the kernel's hooks go with the last service of the family
        elif isinstance(parsed, Parsed):
            parsed = parsed._replace(hook=hook, mark=mark)
            if reply:
                outcome = self._reply(packet, parsed, form, hook == LOCAL_IN or out_device == LOOPBACK, now_ns)
            else:
                outcome = self._request(packet, parsed, form, now_ns)
        elif parsed == "icmp":
            about = self.icmp_reply if reply else self.icmp_request
            outcome = about(packet, hook, form, mark, now_ns)
        else:
            outcome = f"passed_{parsed}" if parsed in PASSED else f"dropped_{parsed}"
        self.counted[outcome] += 1
        accepted = not outcome.startswith("dropped") and outcome != "forwarded"
        self.counted["accepted"] += accepted
        return Verdict(ACCEPT if accepted else DROP, outcome == "rewritten", self.answer, tuple(self.sent),
                       outcome == "passed_bypass")

    def _request(self, packet: bytearray, parsed: Parsed, form: int, now_ns: int) -> str:
        """A client's packet: find or make its connection, and send it to the real server."""
        connection = self._find(parsed)
        former, ends, may_stay = None, True, False
        if connection is not None and self._opens(parsed) and self._starts_over(connection):
            former, ends, connection = connection, connection.controlled == 0, None
        elif connection is not None and connection.server is not None and not connection.server.available:
            if not (self.services.sysctls["expire_nodest_conn"] or connection.server.ends):
                return "dropped_server_gone"    # the timer is not restarted, so that the connection ages
            former, connection = connection, None
        elif connection is not None and self._may_move(connection, parsed):
            former, may_stay, connection = connection, True, None
        if connection is None:
            connection = self.admit(parsed, now_ns)
            if connection == "dropped_no_server" and may_stay:
                connection, former = former, None       # there is no better one
            self.former = former
            if connection == "dropped_no_server":
                self.refuse(packet, parsed, None, icmp.NO_SERVER, 0, now_ns)
            if former is not None and ends:     # now: the kernel's scheduler, too, still counts it
                self.counted["started_over"] += 1
                self.connections.expire_now(former, now_ns)
            if isinstance(connection, str):
                return connection

        self.count_in(connection, parsed.length)
        self._see(connection, tcp.IN, parsed)
        outcome = self.ftp_client(packet, parsed, connection, form, now_ns) if connection.helper else None
        if outcome is None:
            length = pkt.whole_length(packet)         # FTP may have changed it
            outcome = self.forward(packet, parsed._replace(length=length), connection, form, now_ns)
        connection.packets_in = connection.packets_in + 1 & 0xFFFFFFFF
        if connection.flags & ONE_PACKET:       # it ends with its packet
            self.connections.remove(connection)
        else:
            if connection.flags & NO_CPORT:
                self.connections.rename(connection, cport=parsed.source_port, flags=connection.flags & ~NO_CPORT)
            self.connections.restart_timer(connection, now_ns)
        return outcome

    def _reply(self, packet: bytearray, parsed: Parsed, form: int, delivered_here: bool, now_ns: int) -> str:
        """A real server's packet: make it come from the virtual service, as with DR and TUN it does already.

        Also when the server has been deleted: what the client is still owed, it gets.  But a deleted
        server is no longer counted.
        """
        connection = self.connections.find_reply(parsed.family, parsed.protocol, parsed.destination,
                                                 parsed.destination_port, parsed.source, parsed.source_port)
        if connection is None:
            return self._unknown_reply(packet, parsed, form, delivered_here, now_ns)
        outcome = self.ftp_server(packet, parsed, connection, form, now_ns) if connection.helper else None
        if outcome is not None:
            return outcome
        length = pkt.whole_length(packet)
        if connection.mode() == NAT:
            to_client(packet, parsed, length, connection.vaddr, connection.vport, form, delivered_here)
        self.count_out(connection, length)
        self._see(connection, tcp.OUT, parsed)
        self.connections.restart_timer(connection, now_ns)
        return "rewritten" if connection.mode() == NAT else "passed_reply"

    def _unknown_reply(self, packet: bytearray, parsed: Parsed, form: int, delivered_here: bool, now_ns: int) -> str:
        """A packet of no connection's: pass it, unless the server is to hear that nobody waits for it.

        Differs from IPVS: an answer to a one-packet datagram comes from the VIP where a service asks for it.
        """
        server = self._one_packet_server(parsed)
        if server is not None:
            key = server.service.key
            to_client(packet, parsed, parsed.length, key.address, key.port or parsed.source_port, form, delivered_here)
            for thing in (server, server.service):
                self.traffic[thing].count_out(parsed.length)
            return "rewritten"
        ends = (parsed.protocol == TCP and parsed.flags & tcp.RST) or (
            parsed.protocol == SCTP and parsed.flags == sctp.EVENT_ABORT)
        if not self.services.sysctls["nat_icmp_send"] or ends or not self._is_server(parsed):
            return "passed_no_connection"
        source = None
        if parsed.hook != LOCAL_IN:             # from us, not from a client who is elsewhere
            source = self.routes[parsed.family].get(parsed.source, Route()).source
        self.refuse(packet, parsed, None, icmp.NO_SERVER, 0, now_ns, source)
        return "dropped_nat_icmp"

    def _one_packet_server(self, parsed: Parsed) -> RealServer | None:
        """Return the NAT server whose answer *parsed* is (OPS_REPLIES); None when there is none, or more than one."""
        if parsed.protocol != UDP:
            return None
        found = [server for key, service in self.services.by_key.items()
                 if service.flags & OPS and service.flags & OPS_REPLIES and not key.fwmark and key.protocol == UDP
                 and key.family == parsed.family
                 for server in service.servers
                 if server.mode == NAT and server.address == parsed.source
                 and (key.port == 0 or parsed.source_port == (server.port or key.port))]
        return found[0] if len(found) == 1 else None

    def _is_server(self, parsed: Parsed) -> bool:
        return any(server.mode == NAT and key.family == parsed.family
                   and (server.address, server.port) == (parsed.source, parsed.source_port)
                   and (key.protocol == parsed.protocol or key.fwmark)
                   for key, service in self.services.by_key.items() for server in service.servers)

    def _find(self, parsed: Parsed) -> Connection | None:
        """Return the connection of a client's packet, be it one that waits for the client's port."""
        found = self.connections.find(parsed.family, parsed.protocol, parsed.source, parsed.source_port,
                                      parsed.destination, parsed.destination_port)
        if found is None and self.connections.waiting_cport:
            found = self.connections.find(parsed.family, parsed.protocol, parsed.source, 0, parsed.destination,
                                          parsed.destination_port)
        return found

    def _opens(self, parsed: Parsed) -> bool:
        """Return True for a packet that opens a connection, whatever else it says."""
        if parsed.protocol == TCP:
            return parsed.flags & tcp.SYN != 0
        return parsed.protocol == SCTP and parsed.flags == sctp.EVENT_INIT

    def _starts_over(self, connection: Connection) -> bool:
        """Return True when such a packet ends *connection* and is scheduled afresh."""
        values = self.services.sysctls
        if values["expire_nodest_conn"] and connection.server is not None and connection.server.weight == 0:
            return True
        if values["conn_reuse_mode"] == 0 or connection.control is not None:
            return False
        if connection.protocol == SCTP:
            return connection.state == sctp.CLOSED
        return connection.state in (tcp.TIME_WAIT, tcp.CLOSE) or (
            values["conn_reuse_mode"] & REUSE_FIN_WAIT != 0 and connection.state == tcp.FIN_WAIT
            and connection.flags & NO_OUTPUT != 0)

    def _may_move(self, connection: Connection, parsed: Parsed) -> bool:
        """Return True for a datagram, or the begin of a conversation, whose server is quiesced and may be left.

        Differs from IPVS: where a service asks for it (MOVE_QUIESCED).
        """
        server = connection.server
        return (server is not None and server.weight == 0 and server.service.flags & MOVE_QUIESCED != 0
                and connection.controlled == 0 and (parsed.protocol == UDP or self._opens(parsed)))

    def _see(self, connection: Connection, direction: int, parsed: Parsed) -> None:
        """Let the protocol see the packet: its state, its timeout, active or not."""
        if connection.protocol == UDP:
            if direction == tcp.OUT:
                self._assure(connection)
            connection.timeout_seconds = self._idle_of(connection) or self.timeout_table[UDP][udp.NORMAL]
            return
        if connection.flags & NO_OUTPUT:
            if direction == tcp.OUT:
                connection.flags &= ~NO_OUTPUT
            else:
                direction = tcp.INPUT_ONLY
        if connection.protocol == TCP:
            secure = self.services.sysctls["secure_tcp"] > 1
            state = tcp.next_state(direction, parsed.flags, connection.state, secure)
            active, established = tcp.is_active(state), state == tcp.ESTABLISHED
        elif parsed.flags < 0:
            return                      # an SCTP packet without a chunk
        else:
            state = sctp.next_state(direction, parsed.flags, connection.state)
            active, established = sctp.is_active(state), state == sctp.ESTABLISHED
        connection.timeout_seconds = (self._idle_of(connection) if established else 0) or (
            self.timeout_table[connection.protocol][state])
        if state != connection.state:
            if established:
                self._assure(connection)
            self.connections.set_state(connection, state, active)

    def _idle_of(self, connection: Connection) -> int:
        """Return how many idle seconds end a connection of this service, 0 when it does not say."""
        return connection.server.service.idle if connection.server is not None else 0

    def _assure(self, connection: Connection) -> None:
        """Mark the template that governs *connection* as used in earnest."""
        if connection.control is not None and connection.control.flags & TEMPLATE:
            connection.control.state |= ASSURED

    # ---- Schedule: the first packet of a connection --------------------------------------------------------

    def admit(self, parsed: Parsed, now_ns: int) -> Connection | str:
        """Return a new connection for a packet that has none, or what becomes of a packet that gets none."""
        if not parsed.related and not self._may_open(parsed):
            return "passed_not_opening"
        service = self.services.find_service(parsed.family, parsed.protocol, parsed.destination,
                                             parsed.destination_port, parsed.mark)
        if service is None:
            return "passed_no_service"
        if self._defends():
            return "dropped_defence"
        if parsed.source_port == FTP_DATA:
            return "passed_ftp_data"
        back = parsed.turned_round()
        if parsed.hook == LOCAL_OUT and not parsed.related and self.connections.find(
                back.family, back.protocol, back.source, back.source_port, back.destination, back.destination_port):
            return "passed_ftp_data"        # a real server on this host answers a client
        if service.flags & PERSISTENT:
            return self._admit_persistent(service, parsed, now_ns)
        if not service.key.fwmark and parsed.destination_port != service.key.port:
            return self._without_server(service, parsed)
        if self.connections.is_full() and not self._is_one_packet(service, parsed):
            return "dropped_table_full"     # before a server is chosen: in a flood this is nearly every packet
        server = self._choose(service, parsed, now_ns)
        if server is None:
            return self._without_server(service, parsed)
        return self._connect(service, server, parsed, server.port or parsed.destination_port)

    def _may_open(self, parsed: Parsed) -> bool:
        values = self.services.sysctls
        if parsed.protocol == TCP:
            return not parsed.flags & tcp.RST and (parsed.flags & tcp.SYN != 0 or values["sloppy_tcp"] != 0)
        if parsed.protocol == SCTP:
            return parsed.flags != sctp.EVENT_ABORT and (
                parsed.flags == sctp.EVENT_INIT or values["sloppy_sctp"] != 0)
        return True

    def _defends(self) -> bool:
        """Return True for one new connection in so many (sysctl drop_packet)."""
        if self.drop_rate == 0:
            return False
        self.drop_counter -= 1
        if self.drop_counter > 0:
            return False
        self.drop_counter = self.drop_rate
        return True

    def _admit_persistent(self, service: VirtualService, parsed: Parsed, now_ns: int) -> Connection | str:
        """Return a new connection under the client's template, which is made first when there is none."""
        port, dport = service.key.port, 0
        protocol, client, vaddr, vport = template_place(service, parsed.family, parsed.protocol, parsed.source,
                                                        parsed.destination, parsed.destination_port)
        template = self.connections.find(parsed.family, protocol, client, 0, vaddr, vport, TEMPLATE)
        if template is None or not self._is_valid(template, service):
            server = self._choose(service, parsed, now_ns)
            if server is None:
                return self._without_server(service, parsed)
            if parsed.destination_port == port and port != FTP:
                dport = server.port
            template = Connection(protocol, client, 0, vaddr, vport, server, dport, TEMPLATE, parsed.mark,
                                  parsed.family)
            template.timeout_seconds = service.timeout
            if not self.connections.add(template):
                return "dropped_table_full"
        server = template.server
        dport = parsed.destination_port
        if dport == port and server.port:
            dport = server.port
        connection = self._connect(service, server, parsed, dport)
        if isinstance(connection, Connection):
            connection.control = template
            template.controlled += 1
        self.connections.restart_timer(template, now_ns)
        return connection

    def _is_valid(self, template: Connection, service: VirtualService) -> bool:
        """Return whether *template* may still be used; if not, put it where nobody finds it until it expires."""
        quiesced = template.server.weight == 0 and (
            self.services.sysctls["expire_quiescent_template"] or service.flags & MOVE_QUIESCED)
        if template.server.available and not quiesced:
            return True
        if template.vport != 0xFFFF:
            self.connections.rename(template, vport=0xFFFF, dport=0xFFFF)
        return False

    def _without_server(self, service: VirtualService, parsed: Parsed) -> Connection | str:
        """Say what becomes of a packet that no server can take."""
        if self.services.sysctls["cache_bypass"] and service.key.fwmark and self._may_bypass(parsed):
            return self._connect(service, None, parsed, 0)
        if service.key.port == FTP and parsed.destination_port != FTP:
            return "passed_ftp_data"        # data of the host's own FTP server, or anything else up there
        return "dropped_no_server"

    def _may_bypass(self, parsed: Parsed) -> bool:
        """Return True when a packet may go where its client wanted: IPv4 to a host elsewhere, IPv6 to any one host."""
        if parsed.related:
            return False
        if parsed.family == AF_INET6:
            return is_unicast6(parsed.destination)
        return parsed.destination >> 28 < 0xE and parsed.destination not in self.local[AF_INET]

    def _is_one_packet(self, service: VirtualService, parsed: Parsed) -> bool:
        return service.flags & OPS != 0 and parsed.protocol == UDP

    def _connect(self, service: VirtualService, server: RealServer | None, parsed: Parsed,
                 dport: int) -> Connection | str:
        """Return a new connection of the packet's to *server*, counted."""
        one_packet = ONE_PACKET if self._is_one_packet(service, parsed) else 0
        connection = Connection(parsed.protocol, parsed.source, parsed.source_port, parsed.destination,
                                parsed.destination_port, server, dport, one_packet, parsed.mark, parsed.family)
        if not self.connections.add(connection):
            return "dropped_table_full"
        if server is not None:
            self.counted["conns"] += 1
            self.traffic[server].now.conns += 1
            self.traffic[server.service].now.conns += 1
            if parsed.protocol == TCP and parsed.destination_port == FTP and server.mode == NAT:
                connection.helper = 1
        return connection

    def _choose(self, service: VirtualService, parsed: Parsed, now_ns: int) -> RealServer | None:
        """Ask the service's scheduler; a user's own one may fail, which must not stop others' packets."""
        wanted = parsed.source if parsed.related else parsed.destination
        flow = Flow(parsed.protocol, parsed.source, parsed.source_port, wanted, parsed.destination_port,
                    parsed.family, now_ns)
        try:
            server = service.scheduler.schedule(service, flow)
            if server is None or server.position < 0 or server.service is not service:
                return None
        except BaseException:           # sys.exit() too
            self.counted["scheduler_errors"] += 1
            return None
        return server

    # ---- Account -------------------------------------------------------------------------------------------

    def count_in(self, connection: Connection, length: int) -> None:
        """Count a packet towards the server, unless that is deleted or there is none."""
        if connection.server is not None and connection.server.available:
            self.traffic[connection.server].count_in(length)
            self.traffic[connection.server.service].count_in(length)

    def count_out(self, connection: Connection, length: int) -> None:
        """Count a packet towards the client, unless the server is deleted or there is none."""
        if connection.server is not None and connection.server.available:
            self.traffic[connection.server].count_out(length)
            self.traffic[connection.server.service].count_out(length)

    def expire(self, now_ns: int) -> None:
        """Forget every connection whose time is over at *now_ns*, and those of deleted servers that are to end."""
        self.counted["expired"] += self.connections.expire(now_ns)
        self._flush_connections()

    def tick(self, now_ns: int) -> list[Place]:
        """Do what is due about once a second; return the deleted servers that were forgotten."""
        if now_ns >= self.next_round and self.services.sysctls["run_estimation"]:
            self.next_round = now_ns + traffic.ROUND_NS
            self._see_totals()
            for counters in (self.total, *self.traffic.values()):
                counters.estimate()
        self._flush_connections()
        if self.services.sysctls["drop_entry"] > 1:
            self._drop_entries(now_ns)
        self.services.tick(now_ns)
        while self.services.go_on():
            pass
        return self._empty_trash(now_ns)

    def _flush_connections(self) -> None:
        """End the connections of deleted servers, and their templates with the last of them.

        All with expire_nodest_conn, else those of services that want it (END_DELETED).
        """
        if not self.flush_due:
            return
        self.flush_due = False
        of_all = self.services.sysctls["expire_nodest_conn"]
        for connection in list(self.connections.numbered):
            if (connection is not None and connection.number and connection.server is not None
                    and connection.controlled == 0 and not connection.server.available
                    and (of_all or connection.server.ends)):
                governor = connection.control
                self.connections.forget(connection)
                if governor is not None and governor.number and governor.controlled == 0:
                    self.connections.forget(governor)

    def _drop_entries(self, now_ns: int) -> None:
        """End some half-open and little used connections: a thirty-second of the table, from a random place on.

        Kernel: ip_vs_conn.c, ip_vs_random_dropentry() and todrop_entry().
        """
        numbered = self.connections.numbered[1:]
        if not numbered:
            return
        begin = self.random.randrange(len(numbered))
        count = max(len(numbered) // 32, 1)
        for connection in (numbered + numbered)[begin:begin + count]:
            if connection is not None and connection.number and self._is_droppable(connection, now_ns):
                self.connections.forget(connection)

    def _is_droppable(self, connection: Connection, now_ns: int) -> bool:
        if connection.controlled:
            return False
        if connection.flags & TEMPLATE:
            return not connection.state & ASSURED
        half_open, established = {TCP: ((tcp.SYN_RECV, tcp.SYNACK), tcp.ESTABLISHED),
                                  SCTP: ((sctp.INIT1, sctp.INIT), sctp.ESTABLISHED)}.get(
                                      connection.protocol, ((), connection.state))
        if connection.state in half_open:
            return True
        return connection.state == established and self._is_idle(connection, now_ns)

    def _is_idle(self, connection: Connection, now_ns: int) -> bool:
        """Return True for one in N of those with N packets (1 to 8) that have been idle for a minute."""
        packets = connection.packets_in
        if (connection.expires_ns > now_ns + (connection.timeout_seconds - 60) * SECOND or not 1 <= packets <= 8):
            return False
        self.drop_counts[packets] -= 1
        if self.drop_counts[packets] > 0:
            return False
        self.drop_counts[packets] = packets
        return True

    # ---- Services and servers: between two packets ---------------------------------------------------

    def add_service(self, key: ServiceKey, scheduler: str, flags: int = 0, timeout: int = 0,
                    netmask: int | None = None, idle: int = 0) -> None:
        """Add the virtual service *key* with the scheduler called *scheduler*."""
        self.traffic[self.services.add_service(key, scheduler, flags, timeout, netmask, idle)] = traffic.Traffic()

    def set_service(self, key: ServiceKey, scheduler: str, flags: int, timeout: int, netmask: int | None = None,
                    idle: int = 0) -> None:
        """Give a service other settings, all of them."""
        self.services.set_service(key, scheduler, flags, timeout, netmask, idle)

    def delete_service(self, key: ServiceKey) -> None:
        """Delete the virtual service *key*; its servers rest in the trash while connections refer to them."""
        service = self.services.delete_service(key)
        self.total.forget(asdict(self.traffic.pop(service).now))
        self._after_delete(service)

    def flush(self) -> None:
        """Delete every service; connections stay, and their servers in the trash."""
        for key in list(self.services.by_key):
            self.delete_service(key)

    def add_server(self, key: ServiceKey, address: int, port: int, weight: int = 1, mode: int = NAT,
                   upper: int = 0, lower: int = 0, tunnel: tuple = Tunnel(), family: int | None = None) -> int:
        """Add a real server to the service *key*, or bring it back from the trash; return its connections."""
        deleted = self.services.trash.get((key, address, port, family or key.family))
        former = deleted.service if deleted is not None else None
        server = self.services.add_server(key, address, port, weight, mode, upper, lower, tunnel, family)
        if server.service is not former:        # new, or back in a service that was deleted itself
            self.traffic[server] = traffic.Traffic()
        if server.slot < 0:
            server.slot = self.slots.index(None) if None in self.slots else len(self.slots)
            self.slots[server.slot:server.slot + 1] = [server]
        return server.active_conns + server.inactive_conns

    def set_server(self, key: ServiceKey, address: int, port: int, weight: int, mode: int = NAT,
                   upper: int = 0, lower: int = 0, tunnel: tuple = Tunnel(), family: int | None = None) -> None:
        """Give a real server other settings, all of them; weight 0 quiesces it."""
        self.services.set_server(key, address, port, weight, mode, upper, lower, tunnel, family)

    def delete_server(self, key: ServiceKey, address: int, port: int, family: int | None = None) -> int:
        """Delete a real server and return how many connections it had.

        Its clients' packets are dropped from now on, its replies still pass.
        """
        server = self.services.delete_server(key, address, port, family)
        self._after_delete(server.service)
        return server.active_conns + server.inactive_conns

    def _after_delete(self, service: VirtualService) -> None:
        self.flush_due |= self.services.sysctls["expire_nodest_conn"] != 0 or service.flags & END_DELETED != 0

    def end_connections(self, connections: list) -> int:
        """End connections and templates, each (protocol, caddr, cport, vaddr, vport[, family]); return how many ended.

        What governs others stays.
        """
        ended = 0
        for place in connections:
            found = self.connections.numbered[self.number_at(*place)]
            if found is not None and found.controlled == 0:
                self.connections.forget(found)
                ended += 1
        return ended

    def number_at(self, protocol: int, caddr: int, cport: int, address: int, port: int, family: int = AF_INET,
                  is_reply: bool = False) -> int:
        """Return the number of the connection or template of a client and a VIP, 0 when there is none.

        *is_reply*: of a client and whom its answers come from, which is the real server with NAT.
        """
        ends = family, protocol, caddr, cport, address, port
        if is_reply:
            found = self.connections.find_reply(*ends)
        else:
            found = self.connections.find(*ends)
            if found is None and cport == 0:
                found = self.connections.find(*ends, TEMPLATE)
        return found.number if found is not None else 0

    def record(self, number: int) -> tuple[bytes, RealServer | None]:
        """Return the record (conntrack.RECORD) of entry *number*, b"" when it is not in use, and its server or None."""
        found = self.connections.numbered[number] if 0 < number < len(self.connections.numbered) else None
        return (b"", None) if found is None else (found.record(), found.server)

    def _empty_trash(self, now_ns: int) -> list[Place]:
        gone = self.services.empty_trash(now_ns)
        for server in gone.values():
            del self.traffic[server]
            self.slots[server.slot] = None
        return list(gone)

    def zero(self, key: ServiceKey | None = None) -> None:
        """Start the counters of one service and its servers, or of everything, from zero."""
        for service in list(self.services.by_key.values()) if key is None else [self.services.service(key)]:
            for thing in (service, *service.servers):
                self.traffic[thing].start_from_zero()
        if key is None:
            self.total.start_from_zero()

    def set_sysctl(self, name: str, value: int) -> None:
        """Set one sysctl, named without ``net.ipv4.vs.``."""
        self.services.set_sysctl(name, value)
        self._apply_drop_rate()

    def sysctls(self) -> dict[str, int]:
        """Return every sysctl by name."""
        return dict(self.services.sysctls)

    def set_memory(self, pages: int) -> None:
        """Say how many pages of memory are free, for the automatic defences."""
        self.free_pages = pages
        sysctls.defend(self.services.sysctls, pages)
        self._apply_drop_rate()

    def _apply_drop_rate(self) -> None:
        values = self.services.sysctls
        rate = sysctls.drop_rate(values, self.free_pages)
        if rate != self.drop_rate or values["drop_packet"] == 2:        # a new rate starts to count anew
            self.drop_rate = rate
            self.drop_counter = rate if values["drop_packet"] == 2 else 0

    def set_timeouts(self, tcp_seconds: int, tcp_fin_seconds: int, udp_seconds: int) -> None:
        """Set the timeouts of ESTABLISHED, FIN_WAIT and UDP, for packets from now on; 0 keeps one."""
        table = self.timeout_table
        table[TCP][tcp.ESTABLISHED] = tcp_seconds or table[TCP][tcp.ESTABLISHED]
        table[TCP][tcp.FIN_WAIT] = tcp_fin_seconds or table[TCP][tcp.FIN_WAIT]
        table[UDP][udp.NORMAL] = udp_seconds or table[UDP][udp.NORMAL]

    def timeouts(self) -> tuple[int, int, int]:
        """Return the timeouts of ESTABLISHED, FIN_WAIT and UDP in seconds."""
        table = self.timeout_table
        return table[TCP][tcp.ESTABLISHED], table[TCP][tcp.FIN_WAIT], table[UDP][udp.NORMAL]

    # ---- Listings: short pages -----------------------------------------------------------------------

    def list_services(self, cursor: int = 0, limit: int = 16) -> tuple[list[dict], int | None]:
        """Return up to *limit* lines of the listing from line *cursor* on, as rows, and the next cursor or None."""
        return self.services.page(cursor, limit, lambda thing: self.traffic[thing].row())

    def list_connections(self, cursor: int = 0, limit: int = 256) -> tuple[bytes, int | None]:
        """Return up to *limit* records (``conntrack.RECORD``) from *cursor* on, and the next cursor."""
        return self.connections.page(cursor, limit)

    def totals(self) -> dict:
        """Return what is counted for all services together, those that are gone too, as a row of one has it."""
        self._see_totals()
        return self.total.row()

    def _see_totals(self) -> None:
        self.total.see(asdict(self.traffic[service].now) for service in self.services.by_key.values())

    def statistics(self) -> dict:
        """Return all counters by name."""
        return {**self.counted, "connections": len(self.connections),
                "connections_max": self.connections.max_connections,
                "scheduler_errors": self.counted["scheduler_errors"] + self.services.scheduler_errors}

    # ---- On real traffic -----------------------------------------------------------------------------

    def open_queue(self, number: int, *, workers: int = 1) -> None:
        """Bind NFQUEUE *number*; there is one worker, whoever asks."""
        from lbq.nfqueue import Queue  # not above: the data path itself needs no NetfilterQueue

        self.queue = Queue(number, self)

    def port(self) -> int:
        """Return 0: ``run`` looks at *wake_fd* by itself, nobody needs to knock."""
        return 0

    def close(self) -> None:
        """End nothing: there is no other thread."""

    def run(self, wake_fd: int) -> None:
        """Handle packets until *wake_fd* is readable."""
        self.queue.run(wake_fd)
