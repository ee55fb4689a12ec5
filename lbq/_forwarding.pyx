"""Everything about sending a packet on that is not plain NAT, at C speed: DR, TUN, this host.

    forward        any mode, with every check: route, TTL, size; an ICMP answer when one fails
    refuse         that answer

``forwarding.py`` tells the same in plain Python.  Kernel: ip_vs_xmit.c.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from lbq._connections cimport Connections
from lbq._flowtable cimport FLAG_OFFLOADED, FLAG_ONE_PACKET, INET6, MODE_MASK, FlowEntry
from lbq._packet cimport (DROPPED_BOUNDARY, DROPPED_NO_ROUTE, DROPPED_SERVER_GONE, DROPPED_TOO_BIG, DROPPED_TTL,
                          DROPPED_UNSEGMENTABLE, FORWARDED, PASSED_BYPASS, PASSED_LOCAL, PREROUTING, REWRITTEN, SCTP,
                          TCP, UDP, Packet, from_loopback, hops, is_one)
from lbq._slots cimport NO_ROUTE, NO_SERVER, SERVER_AVAILABLE, SERVER_INET6, SERVER_LOCAL, Route, ServerSlot
from lbq._transmit cimport ARENA_ROOM, ETHERNET_HEADER, MOST_OUTGOING, Outgoing, send_all
from lbq cimport packet as pkt
from lbq.modes cimport nat, pieces, tun
from lbq.protocols cimport icmp, icmpv6

cdef enum:
    NAT = 0
    LOCAL = 1
    TUN = 2
    DR = 3
    DONT_FRAGMENT = 0x40            # in byte 6 of the IPv4 header
    LEAST_MTU6 = 1280               # RFC 8200
    USUAL_MTU = 1500                # where nothing is known
    MOST_PIECES = 128               # of one packet


cdef class Forwarding(Connections):
    """The ways out of one fast director."""

    def __cinit__(self):
        self.limit = icmp.RateLimit()

    def limit_icmp(self, is_on):
        """Say whether clients are answered only so often (the default)."""
        self.limit.is_on = is_on

    # ---- Forward ---------------------------------------------------------------------------------------

    cdef int forward(self, Packet *packet, FlowEntry *entry, uint64_t now) noexcept nogil:
        """Send a client's packet, or an ICMP error for the server, on to the server of *entry*."""
        cdef int mode = entry.flags & MODE_MASK, room
        cdef unsigned char *data = packet.queued.data
        cdef uint32_t number = packet.steer
        cdef ServerSlot *server
        cdef Route *route
        packet.steer = 0                    # until it is sure that it goes on
        if entry.server == NO_SERVER:       # IPv6's destination may be this host, which is not allowed
            return DROPPED_BOUNDARY if packet.family == INET6 and self.is_for_us(packet) else PASSED_BYPASS
        if entry.flags & FLAG_OFFLOADED:    # the kernel rewrites it, however much of it is here
            number = self.steers[entry.server]
            if number == 0:
                return DROPPED_SERVER_GONE
        server = &self.servers[entry.server]
        route = &self.routes[entry.server]
        if server.flags & SERVER_LOCAL:
            if mode != NAT:
                return PASSED_LOCAL if self.is_for_us(packet) else DROPPED_BOUNDARY
            if packet.queued.hook == PREROUTING and self._is_loopback(entry.server):
                return DROPPED_BOUNDARY
            if number:
                self._leave_to_kernel(packet, entry, number)
            else:
                self.to_real_server(packet, entry, True)
            return REWRITTEN
        if mode == LOCAL:
            return PASSED_LOCAL
        if route.mtu == NO_ROUTE:
            self.refuse(packet, entry, icmp.NO_WAY, 0, now, NULL)
            return DROPPED_NO_ROUTE
        if from_loopback(packet):
            return DROPPED_BOUNDARY
        if lacks_hops(packet, mode):
            self.refuse(packet, entry, icmp.NO_HOPS, 0, now, NULL)
            return DROPPED_TTL
        if mode != NAT and not packet.headers_only:
            pkt.decrement_ttl(data)
        room = path_mtu(route, now)
        if mode == TUN and room:
            room -= tun.overhead(server.tunnel_type, server.tunnel_flags, server.flags & SERVER_INET6)
            if room < (LEAST_MTU6 if server.flags & SERVER_INET6 else LEAST_MTU):
                return DROPPED_TOO_BIG
        if self._lacks_room(packet, mode, room):
            if mode == NAT:
                pkt.decrement_ttl(data)
            self.refuse(packet, entry, icmp.NO_ROOM, room, now, NULL)
            return DROPPED_TOO_BIG
        if number:
            self._leave_to_kernel(packet, entry, number)
            return REWRITTEN if mode == NAT else FORWARDED
        if mode == NAT:
            self.to_real_server(packet, entry, False)
            return REWRITTEN
        if packet.queued.form & pkt.SEGMENTED_LATER and packet.protocol != TCP:
            return DROPPED_UNSEGMENTABLE        # how long its segments are nobody tells us
        if packet.queued.form & pkt.CHECKSUM_NOT_READY and not packet.queued.form & pkt.SEGMENTED_LATER:
            complete_checksum(packet)
        if mode == TUN:
            return self._send_wrapped(packet, server, route, room)
        return self._send_direct(packet, route, room)

    cdef void _leave_to_kernel(self, Packet *packet, FlowEntry *entry, uint32_t number) noexcept nogil:
        """Give a packet, of which nothing is wrong, the number that the kernel rewrites it by."""
        packet.steer = number
        if entry.flags & FLAG_OFFLOADED:
            self.expect(<uint32_t> (entry - self.table.entries), packet)

    cdef bint steer(self, Packet *packet, FlowEntry *entry, uint64_t now) noexcept nogil:
        """Give a packet, of which only headers are here, the number that the kernel rewrites it by.

        Return False when it must be seen whole: the kernel does not know this server, or cannot do what is to be done,
        or its sender is told by an ICMP error that quotes it.
        """
        cdef int mode = entry.flags & MODE_MASK
        cdef Route *route
        if entry.server == NO_SERVER:
            return True
        if self.steers[entry.server] == 0 or entry.helper or mode == TUN:
            return False
        if not packet.reply:
            route = &self.routes[entry.server]
            if (route.mtu == NO_ROUTE or lacks_hops(packet, mode) or
                    self._lacks_room(packet, mode, path_mtu(route, now)) or
                    (mode == DR and not is_left_alone(packet))):
                return False
        packet.steer = self.steers[entry.server]
        return True

    cdef void to_real_server(self, Packet *packet, FlowEntry *entry, bint delivered_here) noexcept nogil:
        """Address a client's packet to the server of *entry* (NAT)."""
        if packet.family == INET6:
            nat.to_real_server6(packet.queued.data, packet.protocol, packet.header, packet.length,
                                self.table.addresses[entry - self.table.entries].daddr, entry.dport,
                                packet.queued.form, delivered_here)
        else:
            nat.to_real_server(packet.queued.data, packet.length, entry.daddr, entry.dport, packet.queued.form,
                               delivered_here)

    cdef bint is_for_us(self, Packet *packet) noexcept nogil:
        """Return True when the packet's destination is one of the host's own addresses."""
        return self.is_local6(packet.destination6) if packet.family == INET6 else self.is_local(packet.destination)

    cdef bint _is_loopback(self, uint32_t slot) noexcept nogil:
        """Return True when the server in *slot* is in 127.0.0.0/8, or ::1."""
        if self.servers[slot].flags & SERVER_INET6:
            return is_one(self.server_addresses[slot].octets)
        return self.servers[slot].address >> 24 == 127

    cdef bint _lacks_room(self, Packet *packet, int mode, int room) noexcept nogil:
        """Return True when a packet is longer than the *room* there is, if that is known, and must not be cut."""
        return (room and packet.length > room and not packet.queued.form & pkt.SEGMENTED_LATER and
                not self._may_be_cut(packet, mode) and (mode != NAT or packet.queued.hook == PREROUTING))

    cdef bint _may_be_cut(self, Packet *packet, int mode) noexcept nogil:
        """Return True when a packet that is too long may leave in pieces: an IPv6 one when it came in pieces."""
        if packet.family == INET6:
            return packet.length > self.largest_mtu
        return (not packet.queued.data[6] & DONT_FRAGMENT or packet.related or
                (mode == TUN and not self.settings.pmtu_disc))

    cdef bint refuse(self, Packet *packet, FlowEntry *entry, int reason, int mtu, uint64_t now,
                     Route *own) noexcept nogil:
        """Prepare the ICMP answer to a packet that goes nowhere, within the rate limits.

        It says *reason*, one of ``icmp.NO_SERVER`` ..., and comes from where the packet was going, or from this host's
        address on the route *own*.
        What the host itself says about a packet of DR or TUN passes the kernel's reply hook there and is counted, for
        the connection before when the packet's own is none of those: the kernel finds that a moment longer.
        """
        cdef unsigned char *data = packet.queued.data
        cdef unsigned char *source = <unsigned char *> packet.destination6
        if packet.related or self.answer_length or packet.headers_only:
            return False
        if not self._may_answer(packet, reason, now):
            self.icmp_limited += 1
            return False
        if packet.family == INET6:
            if own != NULL and pkt.word_sum(own.source6, 0, 16):
                source = own.source6
            self.answer_length = icmpv6.error(reason >> 8 & 0xFF, reason & 0xFF, mtu, data, packet.length, source,
                                              self.answer)
        else:
            self.answer_length = icmp.error(reason >> 24, reason >> 16 & 0xFF, mtu, data, packet.length, self.answer)
            if own != NULL:
                icmp.come_from(self.answer, own.source)
        self.answer_device = packet.queued.in_device
        self.icmp_sent += 1
        if entry == NULL or entry.flags & MODE_MASK == NAT or entry.flags & FLAG_ONE_PACKET:
            entry = &self.table.entries[packet.former] if packet.former else NULL
        if entry != NULL and entry.flags & MODE_MASK != NAT:
            self.count_own_error(entry, self.answer_length)
        return True

    cdef bint _may_answer(self, Packet *packet, int reason, uint64_t now) noexcept nogil:
        if packet.family == INET6:
            if not icmpv6.is_somebody(<unsigned char *> packet.source6):
                return False
            if reason == icmp.NO_ROOM:
                return True
        elif not icmp.is_somebody(packet.source):
            return False
        return self.limit.allow(packet.source, now)

    cdef void count_own_error(self, FlowEntry *entry, int length) noexcept nogil:
        """Count an ICMP error of the host's own about a packet of *entry*."""
        cdef ServerSlot *server
        if entry.server == NO_SERVER:
            return
        server = &self.servers[entry.server]
        if server.flags & SERVER_AVAILABLE:
            count_out(&server.counters, length)
            count_out(&self.service_slots[server.service].counters, length)

    cdef Outgoing *_next_out(self, Route *route) noexcept nogil:
        """Return a place in the outbox for what leaves on *route*, which is a server's, filled in but for that."""
        cdef Outgoing *out = &self.box.waiting[self.box.count]
        cdef uint32_t server = <uint32_t> (route - self.routes)
        self.box.count += 1
        memcpy(out.next_hop, self.server_addresses[server].octets, 16)
        out.is_ipv6 = self.servers[server].flags & SERVER_INET6 != 0
        out.has_mac, out.device = route.has_mac, route.device
        memcpy(out.ethernet, route.ethernet, ETHERNET_HEADER)
        out.head_length = out.segment = 0
        return out

    cdef void _make_room(self) noexcept nogil:
        """Send what waits when the pieces of one more packet might find no place."""
        if self.box.count > MOST_OUTGOING - MOST_PIECES or self.box.arena_used > ARENA_ROOM - 3 * 65536:
            self.send_errors += send_all(self.box)

    cdef int _send_direct(self, Packet *packet, Route *route, int room) noexcept nogil:
        """DR: the packet as it is, to the real server's MAC; *room* bytes fit, 0 when that is not known."""
        cdef unsigned char *data = packet.queued.data
        cdef Outgoing *out
        cdef int count
        self._make_room()
        if packet.queued.form & pkt.SEGMENTED_LATER:
            out = self._next_out(route)
            out.body, out.length, out.transport = data, packet.length, packet.header
            out.segment = (room if room else USUAL_MTU) - packet.header - (data[packet.header + 12] >> 4) * 4
            if out.segment <= 0:
                self.box.count -= 1
                return DROPPED_UNSEGMENTABLE
            if route.has_mac or self.telling:
                pkt.put16(data, packet.header + pkt.TCP_CHECKSUM,
                          pkt.pseudo_sum(data, TCP, packet.header, packet.length))
                return FORWARDED
            self.box.count -= 1                 # a raw IP socket cuts nothing
            count = pieces.segment(data, packet.length, out.segment, self.box.arena + self.box.arena_used,
                                   ARENA_ROOM - self.box.arena_used, MOST_PIECES)
            self._take_pieces(route, count)
            return FORWARDED if count else DROPPED_UNSEGMENTABLE
        if room == 0 or packet.length <= room:
            out = self._next_out(route)
            out.body, out.length = data, packet.length
            return FORWARDED
        count = self._cut(data, packet.length, room)
        self._take_pieces(route, count)
        return FORWARDED if count else DROPPED_TOO_BIG

    cdef int _cut(self, unsigned char *whole, int length, int mtu) noexcept nogil:
        """Cut a packet into fragments in the arena; return how many."""
        cdef unsigned char *place = self.box.arena + self.box.arena_used
        cdef int free = ARENA_ROOM - self.box.arena_used
        if whole[0] >> 4 == 6:
            return pieces.fragment6(whole, length, mtu, place, free, MOST_PIECES, self._next_identification())
        return pieces.fragment(whole, length, mtu, place, free, MOST_PIECES)

    cdef uint32_t _next_identification(self) noexcept nogil:
        self.identification += 1
        return self.identification

    cdef void _take_pieces(self, Route *route, int count) noexcept nogil:
        """Put *count* pieces, which lie one after the other in the arena, into the outbox."""
        cdef int _i
        cdef Outgoing *out
        for _i in range(count):
            out = self._next_out(route)
            out.body = self.box.arena + self.box.arena_used
            out.length = pkt.whole_length(out.body)
            self.box.arena_used += out.length

    cdef int _send_wrapped(self, Packet *packet, ServerSlot *server, Route *route, int room) noexcept nogil:
        """TUN: the packet behind outer headers, to the real server over any number of routers."""
        cdef unsigned char *data = packet.queued.data
        cdef unsigned char *whole
        cdef Outgoing *out
        cdef int count, i, first, payload, mtu
        cdef int overhead = tun.overhead(server.tunnel_type, server.tunnel_flags, server.flags & SERVER_INET6)
        self._make_room()
        mtu = (room if room else USUAL_MTU - overhead)
        if packet.queued.form & pkt.SEGMENTED_LATER:
            payload = mtu - packet.header - (data[packet.header + 12] >> 4) * 4
            if payload <= 0:
                return DROPPED_UNSEGMENTABLE
            count = pieces.segment(data, packet.length, payload, self.box.arena + self.box.arena_used,
                                   ARENA_ROOM - self.box.arena_used, MOST_PIECES)
            first = self.box.count
            self._take_pieces(route, count)
            for i in range(first, self.box.count):
                self._wrap(&self.box.waiting[i], server, route, <uint32_t> packet.hashed)
            return FORWARDED if count else DROPPED_UNSEGMENTABLE
        out = self._next_out(route)
        out.body, out.length = data, packet.length
        self._wrap(out, server, route, <uint32_t> packet.hashed)
        if pkt.whole_length(out.head) != out.head_length + packet.length:
            self.box.count -= 1                 # longer than its header can say
            return DROPPED_TOO_BIG
        if room == 0 or packet.length <= room:
            return FORWARDED
        self.box.count -= 1                     # too long and may be cut: the outer packet is
        whole = self.box.arena + self.box.arena_used
        memcpy(whole, out.head, out.head_length)
        memcpy(whole + out.head_length, data, packet.length)
        self.box.arena_used += out.head_length + packet.length
        count = self._cut(whole, out.head_length + packet.length, room + overhead)
        self._take_pieces(route, count)
        return FORWARDED if count else DROPPED_TOO_BIG

    cdef int _wrap(self, Outgoing *out, ServerSlot *server, Route *route, uint32_t flow_hash) noexcept nogil:
        if out.is_ipv6:
            out.head_length = tun.wrap6(out.body, out.length, out.head, route.source6, out.next_hop,
                                        server.tunnel_type, server.tunnel_port, server.tunnel_flags, flow_hash)
        else:
            out.head_length = tun.wrap(out.body, out.length, out.head, route.source, server.address,
                                       server.tunnel_type, server.tunnel_port, server.tunnel_flags,
                                       self.settings.pmtu_disc, self._next_identification() & 0xFFFF, flow_hash)
        return out.head_length


# ---- Helpers ------------------------------------------------------------------------------------------------

cdef inline bint lacks_hops(const Packet *packet, int mode) noexcept nogil:
    """Return True for a packet that may go no further: by NAT, when a router has sent it."""
    return hops(packet) <= 1 and (mode != NAT or packet.queued.hook == PREROUTING)


cdef inline bint is_left_alone(const Packet *packet) noexcept nogil:
    """Return True when the copy that nf_dup_ipv4.c sends for DR is as it should be.

    It has DF set, and of the host's own packets no lower TTL.
    """
    return packet.queued.hook == PREROUTING and (
        packet.family == INET6 or packet.queued.data[6] & DONT_FRAGMENT != 0)


cdef inline int path_mtu(Route *route, uint64_t now) noexcept nogil:
    """Return the MTU towards a server, 0 when nothing is known; a learnt one holds for ten minutes."""
    if route.learnt_mtu and now < route.learnt_until and (route.mtu == 0 or route.learnt_mtu < route.mtu):
        return route.learnt_mtu
    return route.mtu


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
    pkt.put16(data, field, pkt.transport_checksum(data, packet.protocol, packet.header, packet.length, field))
