"""Everything about sending a packet on that is not plain NAT, at C speed: DR, TUN, this host, ICMP, FTP.

    forward        any mode, with every check: route, TTL, size; an ICMP answer when one fails
    icmp_…         errors about known connections, in both directions
    ftp_…          the control connection of an FTP service

Kernel: ip_vs_xmit.c; ip_vs_core.c, ip_vs_in_icmp(), ip_vs_out_icmp(); ip_vs_ftp.c.
"""
import mmap

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lbq._bounds cimport open_bytes
from lbq._connections cimport Connections
from lbq._flowtable cimport (DIRECTION_IN, DIRECTION_OUT, FLAG_NO_CPORT, FLAG_ONE_PACKET, MODE_MASK, FlowEntry, find,
                             hash_key, set_deadline)
from lbq._packet cimport (DROPPED_BOUNDARY, DROPPED_FTP, DROPPED_ICMP_CHECKSUM, DROPPED_ICMP_OURS, DROPPED_MALFORMED,
                          DROPPED_NO_ROUTE, DROPPED_NO_SERVER, DROPPED_TOO_BIG, DROPPED_TTL, DROPPED_UNSEGMENTABLE,
                          FORWARDED, LOCAL_IN, PASSED_BYPASS, PASSED_ICMP, PASSED_LOCAL, PASSED_REPLY, PREROUTING,
                          REWRITTEN, SCTP, TCP, UDP, Packet)
from lbq._slots cimport (NO_ROUTE, NO_SERVER, OPS, OPS_REPLIES, SERVER_AVAILABLE, SERVER_LOCAL, Route, ServerSlot,
                         ServiceSlot)
from lbq._transmit cimport ARENA_ROOM, MOST_OUTGOING, Outgoing, send_all
from lbq cimport packet as pkt
from lbq.modes cimport nat, pieces, tun
from lbq.protocols cimport icmp, tcp

from lbq.protocols import ftp

cdef enum:
    NAT = 0
    LOCAL = 1
    IPIP = 0
    GUE = 1
    TUN = 2
    DONT_FRAGMENT = 0x40            # in byte 6 of the IPv4 header
    LEAST_MTU = 68                  # RFC 791
    USUAL_MTU = 1500                # where nothing is known
    MOST_PIECES = 128               # of one packet
    UNREACHABLE = 3                 # ICMP types and codes
    HOST = 1
    FRAGMENTATION_NEEDED = 4
    TIME_EXCEEDED = 11
    PATH_MTU_SECONDS = 600          # net.ipv4.route.mtu_expires
    SECOND = 1000000000


cdef class Forwarding(Connections):
    """The ways out of one fast director."""

    def __cinit__(self):
        cdef unsigned char[::1] view
        self.limit = icmp.RateLimit()
        self.arena_memory = mmap.mmap(-1, ARENA_ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = self.arena_memory
        self.box.arena = &view[0]
        self.box.packet_fd = self.box.raw_fd = -1

    def limit_icmp(self, is_on):
        """Say whether clients are answered only so often (the default)."""
        self.limit.is_on = is_on

    # ---- Forward ---------------------------------------------------------------------------------------

    cdef int forward(self, Packet *packet, FlowEntry *entry, uint64_t now) noexcept nogil:
        """Send a client's packet, or an ICMP error for the server, on to the server of *entry*."""
        cdef int mode = entry.flags & MODE_MASK, room
        cdef unsigned char *data = packet.queued.data
        cdef ServerSlot *server
        cdef Route *route
        if entry.server == NO_SERVER:
            return PASSED_BYPASS
        server = &self.servers[entry.server]
        route = &self.routes[entry.server]
        if server.flags & SERVER_LOCAL:
            if mode != NAT:
                return PASSED_LOCAL if self.is_local(packet.destination) else DROPPED_BOUNDARY
            if server.address >> 24 == 127 and packet.queued.hook == PREROUTING:
                return DROPPED_BOUNDARY
            nat.to_real_server(data, packet.length, entry.daddr, entry.dport, packet.queued.form, True)
            return REWRITTEN
        if mode == LOCAL:
            return PASSED_LOCAL
        if route.mtu == NO_ROUTE:
            self.refuse(packet, entry, UNREACHABLE, HOST, 0, now)
            return DROPPED_NO_ROUTE
        if packet.source >> 24 == 127:
            return DROPPED_BOUNDARY
        if data[pkt.IP_TTL] <= 1 and (mode != NAT or packet.queued.hook == PREROUTING):
            self.refuse(packet, entry, TIME_EXCEEDED, 0, 0, now)
            return DROPPED_TTL
        if mode != NAT:
            pkt.decrement_ttl(data)
        room = path_mtu(route, now)
        if mode == TUN and room:
            room -= tun.overhead(server.tunnel_type, server.tunnel_flags)
            if room < LEAST_MTU:
                return DROPPED_TOO_BIG
        if (room and packet.length > room and data[6] & DONT_FRAGMENT and not packet.related and
                not packet.queued.form & pkt.SEGMENTED_LATER and (mode != TUN or self.settings.pmtu_disc) and
                (mode != NAT or packet.queued.hook == PREROUTING)):
            if mode == NAT:
                pkt.decrement_ttl(data)
            self.refuse(packet, entry, UNREACHABLE, FRAGMENTATION_NEEDED, room, now)
            return DROPPED_TOO_BIG
        if mode == NAT:
            nat.to_real_server(data, packet.length, entry.daddr, entry.dport, packet.queued.form, False)
            return REWRITTEN
        if packet.queued.form & pkt.SEGMENTED_LATER and packet.protocol != TCP:
            return DROPPED_UNSEGMENTABLE        # how long its segments are nobody tells us
        if packet.queued.form & pkt.CHECKSUM_NOT_READY and not packet.queued.form & pkt.SEGMENTED_LATER:
            complete_checksum(packet)
        if mode == TUN:
            return self._send_wrapped(packet, server, route, room)
        return self._send_direct(packet, route, room)

    cdef bint refuse(self, Packet *packet, FlowEntry *entry, int kind, int code, int mtu, uint64_t now) noexcept nogil:
        """Prepare the ICMP answer to a packet that goes nowhere, within the rate limits.

        What the host itself says about a packet of DR or TUN passes the kernel's reply hook there and is counted, for
        the connection before when the packet's own is none of those: the kernel finds that a moment longer.
        """
        if packet.related or self.answer_length:
            return False
        if not self.limit.allow(packet.source, now):
            self.icmp_limited += 1
            return False
        self.answer_length = icmp.error(kind, code, mtu, packet.queued.data, packet.length, self.answer)
        self.icmp_sent += 1
        if entry == NULL or entry.flags & MODE_MASK == NAT or entry.flags & FLAG_ONE_PACKET:
            entry = &self.table.entries[packet.former] if packet.former else NULL
        if entry != NULL and entry.flags & MODE_MASK != NAT:
            self._count_own_error(entry, self.answer_length)
        return True

    cdef void _count_own_error(self, FlowEntry *entry, int length) noexcept nogil:
        cdef ServerSlot *server
        if entry.server == NO_SERVER:
            return
        server = &self.servers[entry.server]
        if server.flags & SERVER_AVAILABLE:
            count_out(&server.counters, length)
            count_out(&self.service_slots[server.service].counters, length)

    cdef Outgoing *_next_out(self, Packet *packet, uint32_t next_hop, Route *route) noexcept nogil:
        """Return a place in the outbox, filled in but for what leaves."""
        cdef Outgoing *out = &self.box.waiting[self.box.count]
        self.box.count += 1
        out.next_hop = next_hop
        out.route = route
        out.head_length = out.segment = 0
        return out

    cdef void _make_room(self) noexcept nogil:
        """Send what waits when the pieces of one more packet might find no place."""
        if self.box.count > MOST_OUTGOING - MOST_PIECES or self.box.arena_used > ARENA_ROOM - 3 * 65536:
            self.send_errors += send_all(&self.box)

    cdef int _send_direct(self, Packet *packet, Route *route, int room) noexcept nogil:
        """DR: the packet as it is, to the real server's MAC; *room* bytes fit, 0 when that is not known."""
        cdef ServerSlot *server = &self.servers[route - self.routes]
        cdef unsigned char *data = packet.queued.data
        cdef Outgoing *out
        cdef int count
        self._make_room()
        if packet.queued.form & pkt.SEGMENTED_LATER:
            out = self._next_out(packet, server.address, route)
            out.body, out.length = data, packet.length
            out.segment = (room if room else USUAL_MTU) - packet.header - (data[packet.header + 12] >> 4) * 4
            if out.segment <= 0:
                self.box.count -= 1
                return DROPPED_UNSEGMENTABLE
            if route.has_mac or self.telling:
                pkt.put16(data, packet.header + pkt.TCP_CHECKSUM, pkt.pseudo_sum(data, packet.header, packet.length))
                return FORWARDED
            self.box.count -= 1                 # a raw IP socket cuts nothing
            count = pieces.segment(data, packet.length, out.segment, self.box.arena + self.box.arena_used,
                                   ARENA_ROOM - self.box.arena_used, MOST_PIECES)
            self._take_pieces(packet, server.address, route, count)
            return FORWARDED if count else DROPPED_UNSEGMENTABLE
        if room == 0 or packet.length <= room:
            out = self._next_out(packet, server.address, route)
            out.body, out.length = data, packet.length
            return FORWARDED
        count = pieces.fragment(data, packet.length, room, self.box.arena + self.box.arena_used,
                                ARENA_ROOM - self.box.arena_used, MOST_PIECES)
        self._take_pieces(packet, server.address, route, count)
        return FORWARDED if count else DROPPED_TOO_BIG

    cdef void _take_pieces(self, Packet *packet, uint32_t next_hop, Route *route, int count) noexcept nogil:
        """Put *count* pieces, which lie one after the other in the arena, into the outbox."""
        cdef int _i
        cdef Outgoing *out
        for _i in range(count):
            out = self._next_out(packet, next_hop, route)
            out.body = self.box.arena + self.box.arena_used
            out.length = pkt.get16(out.body, pkt.IP_LENGTH)
            self.box.arena_used += out.length

    cdef int _send_wrapped(self, Packet *packet, ServerSlot *server, Route *route, int room) noexcept nogil:
        """TUN: the packet behind outer headers, to the real server over any number of routers."""
        cdef unsigned char *data = packet.queued.data
        cdef unsigned char *whole
        cdef Outgoing *out
        cdef int count, i, first, payload, overhead = tun.overhead(server.tunnel_type, server.tunnel_flags), mtu
        self._make_room()
        mtu = (room if room else USUAL_MTU - overhead)
        if packet.queued.form & pkt.SEGMENTED_LATER:
            payload = mtu - packet.header - (data[packet.header + 12] >> 4) * 4
            if payload <= 0:
                return DROPPED_UNSEGMENTABLE
            count = pieces.segment(data, packet.length, payload, self.box.arena + self.box.arena_used,
                                   ARENA_ROOM - self.box.arena_used, MOST_PIECES)
            first = self.box.count
            self._take_pieces(packet, server.address, route, count)
            for i in range(first, self.box.count):
                self._wrap(&self.box.waiting[i], server, route, <uint32_t> packet.hashed)
            return FORWARDED if count else DROPPED_UNSEGMENTABLE
        out = self._next_out(packet, server.address, route)
        out.body, out.length = data, packet.length
        self._wrap(out, server, route, <uint32_t> packet.hashed)
        if room == 0 or packet.length <= room:
            return FORWARDED
        self.box.count -= 1                     # too long and may be cut: the outer packet is
        whole = self.box.arena + self.box.arena_used
        memcpy(whole, out.head, out.head_length)
        memcpy(whole + out.head_length, data, packet.length)
        self.box.arena_used += out.head_length + packet.length
        count = pieces.fragment(whole, out.head_length + packet.length, room + overhead,
                                self.box.arena + self.box.arena_used, ARENA_ROOM - self.box.arena_used,
                                MOST_PIECES)
        self._take_pieces(packet, server.address, route, count)
        return FORWARDED if count else DROPPED_TOO_BIG

    cdef int _wrap(self, Outgoing *out, ServerSlot *server, Route *route, uint32_t flow_hash) noexcept nogil:
        self.identification = (self.identification + 1) & 0xFFFF
        out.head_length = tun.wrap(out.body, out.length, out.head, route.source, server.address, server.tunnel_type,
                                   server.tunnel_port, server.tunnel_flags, self.settings.pmtu_disc,
                                   self.identification, flow_hash)
        return out.head_length

    # ---- ICMP errors ---------------------------------------------------------------------------------------

    cdef int icmp_request(self, Packet *packet, uint64_t now) noexcept nogil:
        """An ICMP packet towards the VIP: an error about what a server sent to a client goes to the server."""
        cdef unsigned char *data = packet.queued.data
        cdef int at = icmp.quoted(data, packet.length), outcome
        cdef Packet about
        cdef uint32_t number
        cdef FlowEntry *entry
        cdef bint made = False
        if at == 0:
            return PASSED_ICMP
        if self.is_local(packet.destination):
            outcome = self._tunnel_error(packet, at, now)
            if outcome != REWRITTEN:
                return outcome
        if not read_quote(packet, at, &about):
            return self._without_ports(data + at)
        # The quote is a server's packet: turned round it is the client's.
        about.source, about.destination = about.destination, about.source
        about.source_port, about.destination_port = about.destination_port, about.source_port
        about.hashed = hash_key(&self.table, DIRECTION_IN, about.protocol, about.source, about.source_port,
                                about.destination, about.destination_port)
        number = find(&self.table, about.hashed, DIRECTION_IN, about.protocol, about.source, about.source_port,
                      about.destination, about.destination_port, FLAG_NO_CPORT)
        if number == 0:
            if not self.settings.schedule_icmp:
                return PASSED_ICMP
            outcome = self.admit(&about, now, &number)
            if outcome != REWRITTEN:
                return PASSED_ICMP if outcome < DROPPED_NO_SERVER else outcome
            made = True
        entry = &self.table.entries[number]
        if made and number:                     # its state is NONE until the client itself is heard
            entry.timeout = 3
            set_deadline(&self.table, number, now + 3 * <uint64_t> SECOND)
        outcome = self._icmp_to_server(packet, entry, about.hashed, now)
        if number == 0:
            self.end_one_packet(entry)
        return outcome

    cdef int _icmp_to_server(self, Packet *packet, FlowEntry *entry, uint64_t hashed, uint64_t now) noexcept nogil:
        cdef unsigned char *data = packet.queued.data
        cdef int mode = entry.flags & MODE_MASK
        cdef ServerSlot *server
        if (mode == NAT or not self.is_new) and not icmp.checksum_right(data, packet.length):
            return DROPPED_ICMP_CHECKSUM
        if entry.server == NO_SERVER:
            return PASSED_BYPASS
        server = &self.servers[entry.server]
        if server.flags & SERVER_AVAILABLE:
            count_in(&server.counters, packet.length)
            count_in(&self.service_slots[server.service].counters, packet.length)
        if mode != NAT:
            entry.packets_in += 1
            packet.related = True
            packet.hashed = hashed
            return self.forward(packet, entry, now)
        icmp.to_real_server(data, packet.length, entry.daddr, entry.dport)
        return REWRITTEN

    cdef int icmp_reply(self, Packet *packet, uint64_t now) noexcept nogil:
        """An ICMP packet towards a client: an error about what we sent to a server must speak of the VIP."""
        cdef unsigned char *data = packet.queued.data
        cdef int at = icmp.quoted(data, packet.length), outcome
        cdef Packet about
        cdef uint32_t number
        cdef FlowEntry *entry
        cdef ServerSlot *server
        if at == 0:
            return PASSED_ICMP
        if packet.queued.hook == LOCAL_IN:
            outcome = self._tunnel_error(packet, at, now)
            if outcome != REWRITTEN:
                return outcome
        if not read_quote(packet, at, &about):
            return self._without_ports(data + at)       # the kernel tries the other direction, too
        number = find(&self.table, hash_key(&self.table, DIRECTION_OUT, about.protocol, about.source, about.source_port,
                                            about.destination, about.destination_port),
                      DIRECTION_OUT, about.protocol, about.source, about.source_port, about.destination,
                      about.destination_port, FLAG_NO_CPORT)
        if number == 0:
            return PASSED_ICMP
        entry = &self.table.entries[number]
        if entry.flags & MODE_MASK == NAT and not icmp.checksum_right(data, packet.length):
            return DROPPED_ICMP_CHECKSUM
        if entry.server != NO_SERVER:
            server = &self.servers[entry.server]
            if server.flags & SERVER_AVAILABLE:
                count_out(&server.counters, packet.length)
                count_out(&self.service_slots[server.service].counters, packet.length)
        if entry.flags & MODE_MASK != NAT:
            return PASSED_REPLY
        icmp.to_client(data, packet.length, entry.vaddr, entry.vport)
        return REWRITTEN

    cdef int _without_ports(self, unsigned char *quote) noexcept nogil:
        """Say what becomes of an error that quotes no ports: it cannot be scheduled (sysctl schedule_icmp)."""
        return DROPPED_MALFORMED if self.settings.schedule_icmp and has_ports(quote) else PASSED_ICMP

    cdef int _tunnel_error(self, Packet *packet, int quoted, uint64_t now) noexcept nogil:
        """An error about a tunnel packet of ours: tell the client; REWRITTEN when it is about something else.

        Differs from IPVS: the first report already names the new path MTU, where the kernel still has the old one.
        """
        cdef unsigned char *data = packet.queued.data
        cdef unsigned char *outer = data + quoted
        cdef uint32_t address = pkt.get32(outer, pkt.IP_DESTINATION), number
        cdef int i, slot = -1, inner, kind = data[packet.header], code = data[packet.header + 1], mtu = 0
        cdef int protocol = outer[pkt.IP_PROTOCOL], overhead, left
        cdef ServerSlot *server
        cdef FlowEntry *entry
        cdef Packet about
        if pkt.get16(outer, pkt.IP_FRAGMENT) & 0x1FFF:
            return REWRITTEN
        for i in range(self.tunnel_count):
            server = &self.servers[self.tunnels[i]]
            if (server.address == address and tun.protocol_of(server.tunnel_type) == protocol and
                    (server.tunnel_type != GUE or server.tunnel_port == quoted_port(packet, quoted))):
                slot = self.tunnels[i]
                break
        if slot < 0:
            return REWRITTEN
        server = &self.servers[slot]
        inner = tun.inner_of(outer, packet.length - quoted)
        if inner < 0 and server.tunnel_type != IPIP:
            return REWRITTEN            # not what this tunnel carries
        if inner <= 0 or not read_quote(packet, quoted + inner, &about):
            return PASSED_ICMP
        number = find(&self.table, hash_key(&self.table, DIRECTION_IN, about.protocol, about.source, about.source_port,
                                            about.destination, about.destination_port),
                      DIRECTION_IN, about.protocol, about.source, about.source_port, about.destination,
                      about.destination_port, FLAG_NO_CPORT)
        if number == 0:
            return PASSED_ICMP
        if not icmp.checksum_right(data, packet.length):
            return DROPPED_ICMP_CHECKSUM
        entry = &self.table.entries[number]
        left = packet.length - quoted - inner
        if kind == UNREACHABLE and code == FRAGMENTATION_NEEDED:
            overhead = tun.overhead(server.tunnel_type, server.tunnel_flags) if self.is_new else 20
            mtu = pkt.get16(data, packet.header + 6)
            learn_path_mtu(&self.routes[slot], mtu, now)
            mtu -= overhead
            if not data[quoted + inner + 6] & DONT_FRAGMENT or mtu <= LEAST_MTU:
                return DROPPED_ICMP_OURS
        self._count_own_error(entry, left)
        if not self.limit.allow(about.source, now):
            self.icmp_limited += 1
            return DROPPED_ICMP_OURS
        self.answer_length = icmp.error(kind, code, mtu, data + quoted + inner, left, self.answer)
        self.icmp_sent += 1
        self._count_own_error(entry, self.answer_length)
        return DROPPED_ICMP_OURS

    cdef int server_at(self, Packet *packet) noexcept nogil:
        """Return the slot of the NAT server from whose own address and port the packet comes, or -1."""
        cdef uint32_t slot
        cdef ServerSlot *server
        for slot in range(self.server_count):
            server = &self.servers[slot]
            if (server.flags & SERVER_AVAILABLE and server.mode == NAT and server.address == packet.source and
                    server.port == packet.source_port and (server.protocol == packet.protocol or
                                                           self.service_slots[server.service].fwmark)):
                return slot
        return -1

    cdef int one_packet_server(self, Packet *packet) noexcept nogil:
        """Return the NAT server whose answer this is (OPS_REPLIES); -1 when there is none, or more than one."""
        cdef uint32_t slot
        cdef int found = -1
        cdef ServerSlot *server
        cdef ServiceSlot *service
        for slot in range(self.server_count):
            server = &self.servers[slot]
            if not (server.flags & SERVER_AVAILABLE and server.mode == NAT and server.protocol == UDP and
                    server.address == packet.source):
                continue
            service = &self.service_slots[server.service]
            if (service.flags & OPS and service.flags & OPS_REPLIES and service.fwmark == 0 and
                    (service.port == 0 or packet.source_port == (server.port if server.port else service.port))):
                if found >= 0:
                    return -1
                found = slot
        return found

    # ---- FTP ---------------------------------------------------------------------------------------------------

    cdef int ftp_client(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil:
        """A client's segment of an FTP control connection: it may announce an active data connection."""
        cdef FlowEntry *entry = &self.table.entries[number]
        try:
            control = self._ftp_control(number)
            content = bytearray(packet.queued.data[:packet.length])
            if is_broken(packet, content):
                return DROPPED_FTP
            announced = control.from_client(content, entry.state == tcp.ESTABLISHED)
            put_back(packet, content)
            if announced is not None and not self._announce(number, announced.address, announced.port, entry.vport - 1,
                                                            entry.dport - 1, 0, now):
                return DROPPED_FTP
        except Exception:
            return DROPPED_FTP
        return REWRITTEN

    cdef int ftp_server(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil:
        """A server's segment of an FTP control connection: it may announce a passive data connection."""
        cdef FlowEntry *entry = &self.table.entries[number]
        try:
            control = self._ftp_control(number)
            content = bytearray(packet.queued.data[:packet.length])
            if is_broken(packet, content):
                return DROPPED_FTP
            announced = control.from_server(content, entry.state == tcp.ESTABLISHED, entry.daddr)
            if announced is not None and not self._announce(number, entry.caddr, 0, announced.port, announced.port,
                                                            FLAG_NO_CPORT, now, announced.address):
                return DROPPED_FTP
            control.answer_client(content, announced, entry.vaddr, announced.port if announced else 0)
            put_back(packet, content)
        except Exception:
            return DROPPED_FTP
        return REWRITTEN

    def _ftp_control(self, number):
        if number not in self.ftp:
            self.ftp[number] = ftp.Control()
        return self.ftp[number]

    def _announce(self, uint32_t number, uint32_t caddr, int cport, int vport, int dport, int flags, uint64_t now,
                  uint32_t daddr=0):
        """Make the data connection that control connection *number* speaks of, if it is not there; False: no room."""
        cdef FlowEntry *entry = &self.table.entries[number]
        cdef FlowEntry *data
        cdef uint32_t made_number = find(
            &self.table, hash_key(&self.table, DIRECTION_IN, TCP, caddr, cport, entry.vaddr, vport), DIRECTION_IN, TCP,
            caddr, cport, entry.vaddr, vport, FLAG_NO_CPORT)
        cdef bint made
        if made_number == 0:
            made_number = self.create(TCP, caddr, cport, entry.vaddr, vport, entry.server, dport, flags, entry.fwmark,
                                      now, &made)
            if not made:
                return False
            self.table.entries[made_number].control = number
            entry.controlled += 1
        data = &self.table.entries[made_number]
        data.state = tcp.LISTEN
        data.timeout = self.tcp_timeouts[tcp.LISTEN]
        set_deadline(&self.table, made_number, now + data.timeout * <uint64_t> SECOND)
        return True


# ---- Helpers ------------------------------------------------------------------------------------------------

cdef bint is_broken(Packet *packet, content):
    """Return True when the checksum is there and wrong: what is to be changed must be right."""
    if packet.queued.form != pkt.CHECKSUM_NOT_VERIFIED:
        return False
    return pkt.transport_checksum(content, packet.header, packet.length, packet.header + pkt.TCP_CHECKSUM) != (
        pkt.get16(content, packet.header + pkt.TCP_CHECKSUM))


cdef put_back(Packet *packet, bytearray content):
    """Write *content* over the packet, which has room for FTP_GROWTH more."""
    cdef unsigned char *changed = content
    if len(content) > packet.length + 64:
        raise ValueError("an FTP reply grew out of its buffer")
    open_bytes(packet.queued.data, len(content))
    memcpy(packet.queued.data, changed, len(content))
    if len(content) != packet.length:
        packet.length = packet.queued.length = len(content)


cdef inline int path_mtu(Route *route, uint64_t now) noexcept nogil:
    """Return the MTU towards a server, 0 when nothing is known; a learnt one holds for ten minutes."""
    if route.learnt_mtu and now < route.learnt_until and (route.mtu == 0 or route.learnt_mtu < route.mtu):
        return route.learnt_mtu
    return route.mtu


cdef inline void learn_path_mtu(Route *route, int mtu, uint64_t now) noexcept nogil:
    if mtu >= LEAST_MTU:
        route.learnt_mtu = mtu
        route.learnt_until = now + PATH_MTU_SECONDS * <uint64_t> SECOND


cdef inline bint has_ports(unsigned char *quote) noexcept nogil:
    """Return True when the packet that *quote* begins has ports, here or further on."""
    cdef int protocol = quote[pkt.IP_PROTOCOL]
    return (protocol == TCP or protocol == UDP or protocol == SCTP) and not pkt.get16(quote, pkt.IP_FRAGMENT) & 0x1FFF


cdef inline int quoted_port(Packet *packet, int quoted) noexcept nogil:
    """Return the destination port of the packet quoted at *quoted*, -1 when that is not here."""
    cdef unsigned char *outer = packet.queued.data + quoted
    cdef int header = (outer[0] & 15) * 4
    return pkt.get16(outer, header + 2) if packet.length - quoted >= header + 4 else -1


cdef inline bint read_quote(Packet *packet, int at, Packet *about) noexcept nogil:
    """Fill *about* with the five-tuple of the packet quoted at *at*; False when it has none that matters."""
    cdef unsigned char *data = packet.queued.data + at
    cdef int left = packet.length - at, header
    memset(about, 0, sizeof(Packet))
    if left < 24 or data[0] >> 4 != 4:
        return False
    header = (data[0] & 15) * 4
    if header < 20 or left < header + 4 or not has_ports(data):
        return False
    about.protocol = data[pkt.IP_PROTOCOL]
    about.queued.hook = packet.queued.hook
    about.queued.mark = packet.queued.mark
    about.related = True
    about.source = pkt.get32(data, pkt.IP_SOURCE)
    about.destination = pkt.get32(data, pkt.IP_DESTINATION)
    about.source_port = pkt.get16(data, header)
    about.destination_port = pkt.get16(data, header + 2)
    return True


cdef inline void complete_checksum(Packet *packet) noexcept nogil:
    """Finish a checksum that the sender had left to its card."""
    cdef unsigned char *data = packet.queued.data
    cdef int field
    if packet.protocol == SCTP:
        pkt.put_crc32c(data, packet.header, packet.length)
        return
    if packet.protocol != TCP and packet.protocol != UDP:
        return
    field = packet.header + (pkt.TCP_CHECKSUM if packet.protocol == TCP else pkt.UDP_CHECKSUM)
    pkt.put16(data, field, pkt.transport_checksum(data, packet.header, packet.length, field))
