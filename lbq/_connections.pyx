"""The life of a connection at C speed: made by a packet, moved by states, governed by a template, ended by a timer.

    admit      the first packet: which service, persistence, which server; the scheduler is asked here
    see        every packet: the protocol's state, the timeout, active or inactive
    end        by its timer, by a packet that starts over, by a defence

``conntrack.py`` and ``director.py`` tell the same in plain Python.

Kernel: ip_vs_conn.c; ip_vs_core.c, ip_vs_schedule(), ip_vs_sched_persist(), ip_vs_leave().
"""
import random

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lbq cimport thresholds
from lbq._flowtable cimport (DIRECTION_IN, DIRECTION_OUT, ENTRY_VALID, FLAG_INACTIVE, FLAG_MIXED, FLAG_NO_CPORT,
                             FLAG_NO_OUTPUT, FLAG_OFFLOADED, FLAG_ONE_PACKET, FLAG_TEMPLATE, INET, INET6, FlowAddresses,
                             FlowEntry, Key, drop_entry, enter, find, fold6, give_back, hash_key, link_entry, next_due,
                             set_deadline, take_entry, unlink_entry, wheel_add, wheel_remove)
from lbq._packet cimport (DROPPED_DEFENCE, DROPPED_NO_SERVER, DROPPED_TABLE_FULL, LOCAL_OUT, PASSED_FTP_DATA,
                          PASSED_NO_SERVICE, PASSED_NOT_OPENING, REWRITTEN, SCTP, TCP, UDP, Packet,
                          client_key, reply_key)
from lbq._slots cimport (MOVE_QUIESCED, NO_SERVER, OPS, SERVER_AVAILABLE, SERVER_ENDS, SERVER_INET6,
                         SERVER_OFFLOADED, Address6, ServerLink, ServerSlot, ServiceSlot, Slots, place_address)
from lbq.model cimport Flow, RealServer, VirtualService
from lbq cimport packet as pkt
from lbq.protocols cimport sctp, tcp
from lbq.schedulers.base cimport Scheduler

from lbq.protocols.sctp import TIMEOUTS as SCTP_TIMEOUTS
from lbq.protocols.tcp import TIMEOUTS as TCP_TIMEOUTS
from lbq.protocols.udp import TIMEOUTS as UDP_TIMEOUTS

cdef enum:
    PERSISTENT = 0x01               # a service's flag, as in model.py
    NAT = 0
    BYPASS = 4
    PIECE = 2048                    # entries that a scan looks at before packets are looked at again ...
    FORGET_COST = 16                # ... of which one that is forgotten takes as long as so many
    SECOND = 1000000000


cdef class Connections(Slots):
    """The connections of one fast director."""

    def __cinit__(self):
        cdef int state
        self.flow = Flow(0, 0, 0, 0, 0)
        self.ftp = {}
        self.random = random.Random()
        for state, seconds in enumerate(TCP_TIMEOUTS):
            self.tcp_timeouts[state] = seconds
        for state, seconds in enumerate(SCTP_TIMEOUTS):
            self.sctp_timeouts[state] = seconds
        self.udp_timeout = UDP_TIMEOUTS[0]

    def set_timeouts(self, tcp_seconds, tcp_fin_seconds, udp_seconds):
        """Set the timeouts of ESTABLISHED, FIN_WAIT and UDP, for packets from now on; 0 keeps one."""
        self.tcp_timeouts[tcp.ESTABLISHED] = tcp_seconds or self.tcp_timeouts[tcp.ESTABLISHED]
        self.tcp_timeouts[tcp.FIN_WAIT] = tcp_fin_seconds or self.tcp_timeouts[tcp.FIN_WAIT]
        self.udp_timeout = udp_seconds or self.udp_timeout

    def timeouts(self):
        """Return the timeouts of ESTABLISHED, FIN_WAIT and UDP in seconds."""
        return self.tcp_timeouts[tcp.ESTABLISHED], self.tcp_timeouts[tcp.FIN_WAIT], self.udp_timeout

    def tick(self, uint64_t now_ns):
        """Do what is due about once a second; return the deleted servers that were forgotten."""
        self._estimate(now_ns)
        if self.services.sysctls["drop_entry"] > 1 and self.table.fresh > 1:
            self.to_drop = max((self.table.fresh - 1) // 32, 1)
            self.drop_cursor = 1 + <uint32_t> self.random.randrange(self.table.fresh - 1)
        self.services.tick(now_ns)
        self.tidying = len(self.services.begun) > 0
        while not self.in_loop and self.go_on(now_ns):
            pass
        return self._empty_trash(now_ns)

    cdef bint go_on(self, uint64_t now) noexcept nogil:
        """Do a piece of all that would keep packets waiting if it were done at once; return False at the end."""
        if self.is_placing:
            self.place_some()
        if self.estimating:
            self.estimate_some(PIECE)
        if self.flush_cursor:
            self.flush_some(PIECE)
        if self.to_drop:
            self.drop_some(now, PIECE)
        if self.tidying:
            self._tidy()
        return self.is_placing or self.estimating or self.flush_cursor or self.to_drop or self.tidying

    cdef void _tidy(self) noexcept with gil:
        self.tidying = self.services.go_on()

    # ---- A server's share ------------------------------------------------------------------------------

    cdef void bind(self, FlowEntry *entry) noexcept nogil:
        """Count a new connection or template at its server."""
        cdef ServerLink *link
        if entry.server == NO_SERVER:
            return
        link = &self.links[entry.server]
        if entry.flags & FLAG_TEMPLATE:
            link.persistent[0] += 1
        elif entry.flags & FLAG_INACTIVE:
            link.inactive[0] += 1
        else:
            link.active[0] += 1
        link.overloaded[0] = thresholds.after_bind(
            self.is_new, link.upper[0], link.lower[0], link.active[0] + link.inactive[0],
            entry.flags & FLAG_TEMPLATE != 0, link.overloaded[0])

    cdef void unbind(self, FlowEntry *entry) noexcept nogil:
        """Give a connection's or template's place back to its server."""
        cdef ServerLink *link
        if entry.server == NO_SERVER:
            return
        link = &self.links[entry.server]
        if entry.flags & FLAG_TEMPLATE:
            link.persistent[0] -= 1
        elif entry.flags & FLAG_INACTIVE:
            link.inactive[0] -= 1
        else:
            link.active[0] -= 1
        link.overloaded[0] = thresholds.after_unbind(
            self.is_new, link.upper[0], link.lower[0], link.active[0] + link.inactive[0],
            entry.flags & FLAG_TEMPLATE != 0, link.overloaded[0])

    # ---- Beginning and end -----------------------------------------------------------------------------

    cdef uint32_t create(self, const Key *key, uint32_t slot, int dport, int flags, uint32_t mark, uint64_t now,
                         bint *made) noexcept nogil:
        """Make a connection or template between a client and a VIP; *made* says whether there was room.

        A one-packet connection is never entered: it lives in entry 0, which is nobody's, until its packet is gone.
        """
        cdef uint32_t number = 0
        cdef FlowEntry *entry
        made[0] = self.reserve()
        if not made[0]:
            return 0
        if flags & FLAG_ONE_PACKET:
            memset(&self.table.entries[0], 0, sizeof(FlowEntry))
        else:
            number = take_entry(&self.table)
            made[0] = number != 0
            if number == 0:
                return 0
        if key.family == INET6 and not self.reserve6(number):
            made[0] = False
            if number:
                give_back(&self.table, number)
            return 0
        entry = &self.table.entries[number]
        entry.protocol = key.protocol
        entry.family = key.family
        entry.caddr = key.caddr
        entry.cport = key.cport
        entry.vaddr = key.address
        entry.vport = key.port
        entry.dport = dport
        entry.server = slot
        entry.fwmark = mark
        entry.flags = flags | FLAG_INACTIVE
        if slot == NO_SERVER:
            entry.flags |= BYPASS | FLAG_NO_OUTPUT
        else:
            entry.daddr = self.servers[slot].address
            entry.flags |= self.servers[slot].mode
            if self.servers[slot].mode != NAT:
                entry.flags |= FLAG_NO_OUTPUT
            if (self.servers[slot].flags & SERVER_INET6 != 0) != (key.family == INET6):
                entry.flags |= FLAG_MIXED
            if self.servers[slot].flags & SERVER_OFFLOADED and not flags & (FLAG_TEMPLATE | FLAG_ONE_PACKET):
                entry.flags |= FLAG_OFFLOADED
                self.begin_following(number)
        if key.family == INET6:
            self._place_addresses(number, key, slot)
        self.bind(entry)
        # What every first packet leads to, so that the wheel need not look at it before that time.
        entry.timeout = 3
        if key.protocol == TCP:
            entry.timeout = self.tcp_timeouts[tcp.SYN_RECV]
        elif key.protocol == UDP:
            entry.timeout = self.udp_timeout
        if number:
            enter(&self.table, number, now + entry.timeout * <uint64_t> SECOND)
            if flags & FLAG_NO_CPORT:
                self.waiting_cport += 1
        return number

    cdef void _place_addresses(self, uint32_t number, const Key *key, uint32_t slot) noexcept nogil:
        """Write down the addresses of the IPv6 entry *number*."""
        cdef FlowAddresses *place = &self.table.addresses[number]
        memcpy(place.caddr, key.caddr6, 16)
        memcpy(place.vaddr, key.address6, 16)
        if slot == NO_SERVER:
            memset(place.daddr, 0, 16)
        else:
            memcpy(place.daddr, self.server_addresses[slot].octets, 16)

    cdef void end(self, uint32_t number) noexcept nogil:
        """Forget connection *number*, which is out of the wheel."""
        cdef FlowEntry *entry = &self.table.entries[number]
        cdef uint32_t control = entry.control
        cdef FlowEntry *governor = &self.table.entries[control]
        self.unbind(entry)
        if entry.flags & FLAG_NO_CPORT:
            self.waiting_cport -= 1
        if entry.helper:
            self._forget_ftp(number)
        if entry.flags & FLAG_OFFLOADED:
            self.let_go(number)
        if control:
            governor.controlled -= 1
        drop_entry(&self.table, number)
        if control and entry.timeout == 0 and governor.controlled == 0 and not (
                governor.flags & FLAG_TEMPLATE and governor.state & ASSURED):
            self.forget(control)        # nobody uses it any more, and this was not a matter of time

    cdef void end_one_packet(self, FlowEntry *entry) noexcept nogil:
        """Take a one-packet connection, in entry 0, off its server and its template."""
        self.gone = entry[0]
        self.unbind(entry)
        if entry.control:
            self.table.entries[entry.control].controlled -= 1
        memset(entry, 0, sizeof(FlowEntry))

    cdef void expire_now(self, uint32_t number, uint64_t now) noexcept nogil:
        """End connection *number* as if its time were over: one that governs others lives on."""
        if self.table.entries[number].controlled:
            self.table.entries[number].timeout = POSTPONED
            set_deadline(&self.table, number, now + POSTPONED * <uint64_t> SECOND)
            return
        wheel_remove(&self.table, number)
        self.end(number)

    cdef void forget(self, uint32_t number) noexcept nogil:
        """End connection *number* out of its time; a template that nobody else uses goes with it."""
        self.table.entries[number].timeout = 0
        wheel_remove(&self.table, number)
        self.end(number)

    cdef void expire_due(self, uint64_t now, int *budget) noexcept nogil:
        """Forget connections whose time is over, looking at *budget* entries at the most."""
        cdef uint32_t number
        cdef FlowEntry *entry
        while True:
            number = next_due(&self.table, now, budget)
            if number == 0:
                return
            entry = &self.table.entries[number]
            if entry.controlled or entry.flags & FLAG_OFFLOADED and self.lives_on(number):
                # In use: from now on it is looked at every minute.
                entry.timeout = POSTPONED
                entry.expires += POSTPONED * <uint64_t> SECOND
                wheel_add(&self.table, number, entry.expires)
                continue
            self.end(number)
            self.expired += 1

    cdef void _forget_ftp(self, uint32_t number) noexcept with gil:
        self.ftp.pop(number, None)

    cdef void flush_some(self, int cost) noexcept nogil:
        """Go on ending connections of deleted servers (expire_nodest_conn, END_DELETED), for *cost* entries."""
        cdef FlowEntry *entry
        cdef ServerSlot *server
        cdef uint32_t number = self.flush_cursor, control
        while number < self.table.fresh and cost > 0:
            entry = &self.table.entries[number]
            if entry.flags & ENTRY_VALID and entry.server != NO_SERVER and entry.controlled == 0:
                server = &self.servers[entry.server]
                if not server.flags & SERVER_AVAILABLE and (
                        self.settings.expire_nodest_conn or server.flags & SERVER_ENDS):
                    control = entry.control
                    self.forget(number)
                    cost -= FORGET_COST
                    entry = &self.table.entries[control]
                    if control and entry.flags & ENTRY_VALID and entry.controlled == 0:
                        self.forget(control)
            number += 1
            cost -= 1
        self.flush_cursor = number if number < self.table.fresh else 0

    def end_connections(self, connections):
        """End connections and templates, each (protocol, caddr, cport, vaddr, vport[, family]); return how many ended.

        What governs others stays.
        """
        cdef uint32_t number, ended = 0
        for place in connections:
            number = self.number_at(*place)
            if number and self.table.entries[number].controlled == 0:
                self.forget(number)
                ended += 1
        return ended

    def number_at(self, protocol, caddr, cport, address, port, family=INET, is_reply=False):
        """Return the number of the connection or template of a client and a VIP, 0 when there is none.

        *is_reply*: of a client and whom its answers come from, which is the real server with NAT.
        """
        cdef int direction = DIRECTION_OUT if is_reply else DIRECTION_IN
        cdef uint32_t number
        cdef uint64_t hashed
        cdef Key key
        cdef Address6 client, other
        key.family, key.protocol, key.cport, key.port = family, protocol, cport, port
        key.caddr, key.caddr6 = place_address(&client, caddr, family), client.octets
        key.address, key.address6 = place_address(&other, address, family), other.octets
        hashed = hash_key(&self.table, direction, &key)
        number = find(&self.table, hashed, direction, &key, FLAG_NO_CPORT)
        if number == 0 and cport == 0 and direction == DIRECTION_IN:
            number = find(&self.table, hashed, direction, &key, FLAG_TEMPLATE)
        return number

    cdef void drop_some(self, uint64_t now, int cost) noexcept nogil:
        """Go on ending half-open and little used connections, for *cost* entries.

        Every tick a thirty-second of the table is looked at, from a random place on.

        Kernel: ip_vs_conn.c, ip_vs_random_dropentry() and todrop_entry().
        """
        while self.to_drop and cost > 0:
            if self.drop_cursor >= self.table.fresh:
                self.drop_cursor = 1
            if self._is_droppable(&self.table.entries[self.drop_cursor], now):
                self.forget(self.drop_cursor)
                cost -= FORGET_COST
            self.drop_cursor += 1
            self.to_drop -= 1
            cost -= 1

    cdef bint _is_droppable(self, FlowEntry *entry, uint64_t now) noexcept nogil:
        if not entry.flags & ENTRY_VALID or entry.controlled:
            return False
        if entry.flags & FLAG_TEMPLATE:
            return not entry.state & ASSURED
        if entry.protocol == TCP:
            if entry.state == tcp.SYN_RECV or entry.state == tcp.SYNACK:
                return True
            return entry.state == tcp.ESTABLISHED and self._is_idle(entry, now)
        if entry.protocol == SCTP:
            if entry.state == sctp.INIT1 or entry.state == sctp.INIT:
                return True
            return entry.state == sctp.ESTABLISHED and self._is_idle(entry, now)
        return self._is_idle(entry, now)

    cdef bint _is_idle(self, FlowEntry *entry, uint64_t now) noexcept nogil:
        """Return True for one in N of those with N packets (1 to 8) that have been idle for a minute."""
        cdef int packets
        if entry.expires > now + entry.timeout * <uint64_t> SECOND - 60 * <uint64_t> SECOND:
            return False
        if entry.packets_in > 8 or entry.packets_in == 0:
            return False
        packets = entry.packets_in
        self.drop_counts[packets] -= 1
        if self.drop_counts[packets] > 0:
            return False
        self.drop_counts[packets] = packets
        return True

    # ---- What conntrack carries (_offload.pyx) -----------------------------------------------------------

    cdef void begin_following(self, uint32_t number) noexcept nogil:
        """Begin to follow what conntrack says of connection *number*."""

    cdef void expect(self, uint32_t number, Packet *packet) noexcept nogil:
        """Expect to hear of connection *number*, of which *packet* goes to conntrack."""

    cdef bint lives_on(self, uint32_t number) noexcept nogil:
        """Return True while conntrack has connection *number*."""
        return False

    cdef void let_go(self, uint32_t number) noexcept nogil:
        """Have conntrack forget connection *number*, which ends."""

    # ---- Every packet: state, timeout ------------------------------------------------------------------

    cdef void change_state(self, FlowEntry *entry, int state) noexcept nogil:
        """Move a TCP or SCTP connection to another *state*, and between active and inactive."""
        cdef bint established, active
        cdef ServerLink *link
        if entry.protocol == TCP:
            established, active = state == tcp.ESTABLISHED, tcp.is_active(state)
        else:
            established, active = state == sctp.ESTABLISHED, sctp.is_active(state)
        if established:
            assure(&self.table.entries[entry.control])
        entry.state = state
        if active == (entry.flags & FLAG_INACTIVE == 0) or entry.server == NO_SERVER:
            return
        link = &self.links[entry.server]
        if active:
            link.active[0] += 1
            link.inactive[0] -= 1
        else:
            link.active[0] -= 1
            link.inactive[0] += 1
        entry.flags ^= FLAG_INACTIVE

    # ---- The first packet: service, persistence, server --------------------------------------------------

    cdef int admit(self, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil:
        """Make a connection for a packet that has none, or say why there will be none.

        REWRITTEN with *number* 0 means a one-packet connection, in entry 0.
        """
        cdef uint32_t service
        cdef ServiceSlot *place
        cdef int slot, dport
        cdef Key key = client_key(packet)
        if packet.protocol == TCP and not packet.related:
            if packet.flags & tcp.RST or not (packet.flags & tcp.SYN or self.settings.sloppy_tcp):
                return PASSED_NOT_OPENING
        elif packet.protocol == SCTP and not packet.related:
            if packet.flags == sctp.EVENT_ABORT or packet.flags != sctp.EVENT_INIT and not self.settings.sloppy_sctp:
                return PASSED_NOT_OPENING
        service = self.find_service(&key, packet.queued.mark)
        if service == 0:
            return PASSED_NO_SERVICE
        service -= 1
        place = &self.service_slots[service]
        if self.settings.drop_rate:
            self.settings.drop_counter -= 1
            if self.settings.drop_counter <= 0:
                self.settings.drop_counter = self.settings.drop_rate
                return DROPPED_DEFENCE
        if packet.source_port == FTP_DATA:
            return PASSED_FTP_DATA
        key = reply_key(packet)
        if packet.queued.hook == LOCAL_OUT and not packet.related and find(
                &self.table, hash_key(&self.table, DIRECTION_IN, &key), DIRECTION_IN, &key, FLAG_NO_CPORT):
            return PASSED_FTP_DATA          # a real server on this host answers a client
        if place.flags & PERSISTENT:
            return self._admit_persistent(service, packet, now, number)
        if not place.fwmark and packet.destination_port != place.port:
            return self._without_server(service, packet, now, number)
        if self.table.used >= self.table.capacity and not one_packet(place, packet):
            return DROPPED_TABLE_FULL           # before a server is chosen: in a flood this is nearly every packet
        slot = self.choose(service, packet, now)
        if slot < 0:
            return self._without_server(service, packet, now, number)
        dport = self.servers[slot].port if self.servers[slot].port else packet.destination_port
        return self._connect(packet, slot, dport, one_packet(place, packet), now, number)

    cdef int _admit_persistent(self, uint32_t service, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil:
        """Make a connection under the client's template, which is made first when there is none."""
        cdef ServiceSlot *place = &self.service_slots[service]
        cdef uint32_t template
        cdef int dport = 0, slot, outcome
        cdef bint made
        cdef Key key = client_key(packet)
        cdef uint8_t client[16]
        cdef uint8_t mark[16]
        key.cport = key.port = 0
        if packet.family == INET6:
            cut_prefix(packet.source6, place.netmask, client)
            key.caddr, key.caddr6 = fold6(client), client
        else:
            key.caddr &= place.netmask
        if packet.destination_port == place.port:
            if place.port != FTP:
                key.port = packet.destination_port
        elif place.fwmark:                  # one template for all that the mark covers
            memset(mark, 0, 16)
            pkt.put32(mark, 0, place.fwmark)
            key.protocol, key.address, key.address6 = 0, place.fwmark, mark
        template = find(&self.table, hash_key(&self.table, DIRECTION_IN, &key), DIRECTION_IN, &key, FLAG_TEMPLATE)
        if template and not self._is_valid(template, place.flags & MOVE_QUIESCED):
            template = 0
        if template == 0:
            slot = self.choose(service, packet, now)
            if slot < 0:
                return self._without_server(service, packet, now, number)
            if packet.destination_port == place.port and place.port != FTP:
                dport = self.servers[slot].port
            template = self.create(&key, slot, dport, FLAG_TEMPLATE, packet.queued.mark, now, &made)
            if not made:
                return DROPPED_TABLE_FULL
            self.table.entries[template].timeout = place.timeout
        slot = self.table.entries[template].server
        dport = packet.destination_port
        if dport == place.port and self.servers[slot].port:
            dport = self.servers[slot].port
        outcome = self._connect(packet, slot, dport, one_packet(place, packet), now, number)
        if outcome == REWRITTEN:
            self.table.entries[number[0]].control = template
            self.table.entries[template].controlled += 1
        set_deadline(&self.table, template, now + self.table.entries[template].timeout * <uint64_t> SECOND)
        return outcome

    cdef bint _is_valid(self, uint32_t template, bint moves) noexcept nogil:
        """Return whether *template* may still be used; if not, put it where nobody finds it until it expires."""
        cdef FlowEntry *entry = &self.table.entries[template]
        if (self.servers[entry.server].flags & SERVER_AVAILABLE and
                not ((self.settings.expire_quiescent_template or moves) and self.links[entry.server].weight[0] == 0)):
            return True
        if entry.vport != 0xFFFF:
            unlink_entry(&self.table, template)
            entry.vport = entry.dport = 0xFFFF
            link_entry(&self.table, template)
        return False

    cdef int _without_server(self, uint32_t service, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil:
        """Say what becomes of a packet that no server can take."""
        cdef ServiceSlot *place = &self.service_slots[service]
        if self.settings.cache_bypass and place.fwmark and self._may_bypass(packet):
            return self._connect(packet, NO_SERVER, 0, one_packet(place, packet), now, number)
        if place.port == FTP and packet.destination_port != FTP:
            return PASSED_FTP_DATA          # data of the host's own FTP server, or anything else up there
        return DROPPED_NO_SERVER

    cdef bint _may_bypass(self, Packet *packet) noexcept nogil:
        """Return True when a packet may go where its client wanted: IPv4 to a host elsewhere, IPv6 to any one host."""
        if packet.related:
            return False
        if packet.family == INET6:
            return is_unicast(packet.destination6)
        return packet.destination >> 28 < 0xE and not self.is_local(packet.destination)

    cdef int _connect(self, Packet *packet, uint32_t slot, int dport, int flags, uint64_t now,
                      uint32_t *number) noexcept nogil:
        """Make a connection of the packet's to the server in *slot* and count it."""
        cdef bint made
        cdef ServerSlot *server
        cdef Key key = client_key(packet)
        number[0] = self.create(&key, slot, dport, flags, packet.queued.mark, now, &made)
        if not made:
            return DROPPED_TABLE_FULL
        if slot != NO_SERVER:
            server = &self.servers[slot]
            server.counters.conns += 1
            self.service_slots[server.service].counters.conns += 1
            self.conns += 1
            if packet.protocol == TCP and packet.destination_port == FTP and server.mode == NAT:
                self.table.entries[number[0]].helper = FTP_CONTROL
        return REWRITTEN

    cdef int choose(self, uint32_t service_slot, Packet *packet, uint64_t now) noexcept with gil:
        """Ask the scheduler; return a server's slot, or -1.  The only Python per connection, never per packet."""
        cdef VirtualService service = self.service_objects[service_slot]
        cdef Flow flow = self.flow
        cdef RealServer server
        flow.family = packet.family
        flow.protocol = packet.protocol
        if packet.family == INET6:
            flow.caddr = int.from_bytes(packet.source6[:16], "big")
            flow.vaddr = flow.caddr if packet.related else int.from_bytes(packet.destination6[:16], "big")
        else:
            flow.caddr = packet.source
            flow.vaddr = packet.source if packet.related else packet.destination
        flow.cport = packet.source_port
        flow.vport = packet.destination_port
        flow.now_ns = now
        try:
            server = (<Scheduler?> service.scheduler).schedule(service, flow)
        except BaseException:                   # a user's own scheduler: its bug must not stop the others' packets
            self.scheduler_errors += 1
            return -1
        if server is None or server.position < 0 or server.service is not service:
            return -1
        return server.slot


cdef inline int one_packet(ServiceSlot *service, Packet *packet) noexcept nogil:
    return FLAG_ONE_PACKET if service.flags & OPS and packet.protocol == UDP else 0


cdef inline void cut_prefix(const uint8_t *address, int bits, uint8_t *prefix) noexcept nogil:
    """Write the first *bits* bits of an IPv6 *address* into *prefix*, and zeros behind them."""
    cdef int whole = bits // 8
    memset(prefix, 0, 16)
    memcpy(prefix, address, whole)
    if bits % 8:
        prefix[whole] = address[whole] & (0xFF00 >> (bits % 8) & 0xFF)


cdef inline bint is_unicast(const uint8_t *address) noexcept nogil:
    """Return True when the IPv6 *address* is of the kind one host has (model.is_unicast6)."""
    cdef int i
    if address[0] == 0xFF:
        return False
    for i in range(10):
        if address[i]:
            return True
    if address[10] == 0xFF and address[11] == 0xFF:
        return False
    for i in range(10, 16):
        if address[i]:
            return True
    return False
