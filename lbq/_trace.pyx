"""What the director decided about single packets, kept in a ring until it is read: the packet path's side of lbq trace.

The packet path writes a record into the next free place, and keeps it if it is wanted.  When nobody reads fast enough
the ring is full: then what comes is counted, and not looked at.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from lbq._flowtable cimport (DIRECTION_IN, DIRECTION_OUT, FLAG_NO_CPORT, INET6, MODE_MASK, FlowAddresses, FlowEntry,
                             Key, find)
from lbq._packet cimport DROPPED_NAT_ICMP, DROPPED_TRUNCATED, REWRITTEN, Packet, client_key, reply_key
from lbq._slots cimport NO_SERVER, SERVER_INET6
from lbq._transmit cimport Outgoing
from lbq cimport packet as pkt

OUTCOME_NAMES = (
    "rewritten", "forwarded", "passed_not_ours", "passed_no_service", "passed_not_opening", "passed_no_connection",
    "passed_ftp_data", "passed_local", "passed_reply", "passed_bypass", "passed_icmp",
    "passed_later_fragment", "passed_whole", "dropped_truncated",
    "dropped_malformed", "dropped_fragment", "dropped_no_server", "dropped_server_gone", "dropped_table_full",
    "dropped_defence", "dropped_ttl", "dropped_too_big", "dropped_no_route", "dropped_boundary",
    "dropped_unsegmentable", "dropped_ftp", "dropped_icmp_checksum", "dropped_icmp_ours", "dropped_nat_icmp")


cdef class Trace:
    """A ring of records, and which packets are wanted."""

    def __cinit__(self, dict wanted):
        cdef Wanted *its = &self.wanted
        self.ring = <Record *> calloc(RING + 1, sizeof(Record))     # the last is for what nobody will see
        if self.ring == NULL:
            raise MemoryError
        memset(its, 0, sizeof(Wanted))
        its.only_new, its.only_drops = wanted.get("only_new", False), wanted.get("only_drops", False)
        its.protocol = wanted.get("protocol", 0)
        its.fwmark, its.length = wanted.get("fwmark", 0), wanted.get("length", 0)
        its.some_state = "states" in wanted
        for protocol, state in wanted.get("states", ()):
            its.states[<uint8_t> protocol] = 1 + state
        its.every = max(wanted.get("every", 1), 1)
        its.client_length = self._address(wanted.get("client"), its.client)
        its.vip_length = self._address(wanted.get("vip"), its.vip)
        its.server_length = self._address(wanted.get("server"), its.server)
        its.client_port, its.vip_port = wanted.get("client_port", 0), wanted.get("vip_port", 0)
        its.server_port = wanted.get("server_port", 0)

    def __dealloc__(self):
        free(self.ring)

    cdef int _address(self, text, uint8_t *place):
        """Write an address in hexadecimal digits into *place*; return how many bytes it has, 0 for None."""
        cdef bytes address = bytes.fromhex(text or "")
        memcpy(place, <const uint8_t *> address, min(len(address), 16))
        return min(len(address), 16)

    cdef Record *take(self) noexcept nogil:
        """Return the place for the next record, NULL when there is none."""
        cdef Record *record
        if self.count == RING:
            self.lost += 1
            return NULL
        record = &self.ring[(self.first + self.count) % RING]
        memset(record, 0, sizeof(Record) - 2 * SNAP)
        return record

    cdef bint wants(self, const Record *record, const Ends *ends) noexcept nogil:
        """Return True when the record, of a packet between these two, is to be kept."""
        cdef Wanted *its = &self.wanted
        cdef int server_length = 16 if record.server_is_ipv6 else 4
        if its.only_drops and record.outcome < DROPPED_TRUNCATED or its.only_new and not record.is_new:
            return False
        if its.some_state and not (record.has_entry and its.states[record.protocol] == 1 + record.state_after):
            return False
        if its.protocol and record.protocol != its.protocol:
            return False
        if its.fwmark and (ends.fwmark != its.fwmark or ends.length != its.length):
            return False
        if its.client_length and (its.client_length != ends.length or memcmp(its.client, ends.client, ends.length)):
            return False
        if its.vip_length and (its.vip_length != ends.length or memcmp(its.vip, ends.vip, ends.length)):
            return False
        if its.client_port and its.client_port != ends.client_port or its.vip_port and its.vip_port != ends.vip_port:
            return False
        if its.server_length and (not record.has_server or its.server_length != server_length or
                                  memcmp(its.server, record.rip, server_length)):
            return False
        return not its.server_port or record.has_server and its.server_port == record.rport

    cdef void keep(self) noexcept nogil:
        """Keep the record that was taken, if it is this one's turn."""
        self.matched += 1
        if self.matched % self.wanted.every == 0:
            self.count += 1
            self.kept += 1

    def read(self, int most):
        """Return up to *most* records that wait, the oldest first, and forget them."""
        cdef bytearray records = bytearray()
        cdef uint32_t i, number = min(<uint32_t> most, self.count)
        for i in range(number):
            records += (<unsigned char *> &self.ring[(self.first + i) % RING])[:sizeof(Record)]
        self.first = (self.first + number) % RING
        self.count -= number
        return bytes(records)

    def counters(self):
        """Return how many packets matched, how many were kept, how many met a full ring, and how many wait."""
        return {"matched": self.matched, "kept": self.kept, "lost": self.lost, "waiting": self.count}


cdef class Traced(Offload):
    """The part of a fast director that tells what it decides."""

    def trace_start(self, wanted):
        """Begin to keep records of the packets that are *wanted* (``trace/records.py``); return the outcomes' names."""
        self.trace = Trace(wanted)
        self.tracing = True
        return OUTCOME_NAMES

    def trace_read(self, most=64):
        """Return up to *most* records, the oldest first, and the counters of the trace; there may be none."""
        if self.trace is None:
            return b"", {}
        return self.trace.read(most), self.trace.counters()

    def trace_stop(self):
        """Keep no records any more."""
        self.tracing, self.trace = False, None

    cdef Record *begin_record(self, Packet *packet, uint64_t now) noexcept nogil:
        """Return a record of a prepared packet about which nothing is decided yet, NULL when there is no room."""
        cdef Record *record = self.trace.take()
        cdef uint32_t number = 0
        if record == NULL:
            return NULL
        record.now_ns, record.mark, record.length = now, packet.queued.mark, packet.queued.whole
        record.hook, record.is_ipv6 = packet.queued.hook, packet.family == INET6
        record.before_length = min(packet.queued.length, <int> SNAP)
        memcpy(record.before, packet.queued.data, record.before_length)
        self.trace.conns, self.trace.started_over, self.about, self.gone.family = self.conns, self.started_over, 0, 0
        if packet.outcome == REWRITTEN:
            record.protocol = packet.protocol
            number = self._number_of(packet)
        if number:
            record.had_entry, record.state_before = True, self.table.entries[number].state
        return record

    cdef void end_record(self, Record *record, Packet *packet, int waiting) noexcept nogil:
        """Note what was decided, and keep the record if it is wanted; *waiting* packets had been in the outbox."""
        cdef FlowEntry *entry
        cdef Ends ends
        record.outcome, record.steer = packet.outcome, packet.steer
        self._tell_after(record, packet, waiting)
        entry = self._entry_of(record, packet)
        record.is_new = self._began(record, entry)
        if entry != NULL:
            self._tell_entry(record, entry)
        elif packet.reply and record.protocol and (packet.outcome == REWRITTEN or packet.outcome == DROPPED_NAT_ICMP):
            self._tell_sender(record, packet)
        ends = self._ends(record, packet, entry)
        if self.trace.wants(record, &ends):
            self.trace.keep()

    cdef FlowEntry *_entry_of(self, Record *record, Packet *packet) noexcept nogil:
        """Return the connection of a packet, or the one an ICMP error is about; NULL when there is none."""
        cdef uint32_t number = self._number_of(packet) if record.protocol else self.about
        if number:
            return &self.table.entries[number]
        return &self.gone if self.gone.family else NULL     # a one-packet connection

    cdef bint _began(self, Record *record, FlowEntry *entry) noexcept nogil:
        """Return True when a connection began: *entry*, if it is not gone again."""
        if self.conns != self.trace.conns:
            return True
        if entry == NULL or record.outcome >= DROPPED_TRUNCATED and record.had_entry:
            return False
        # Those without a real server (cache_bypass) are not counted.
        return entry == &self.gone or record.protocol != 0 and (
            not record.had_entry or self.started_over != self.trace.started_over)

    cdef uint32_t _number_of(self, Packet *packet) noexcept nogil:
        """Return the connection of a packet with ports, 0 when there is none."""
        cdef Key key = reply_key(packet) if packet.reply else client_key(packet)
        return find(&self.table, packet.hashed, DIRECTION_OUT if packet.reply else DIRECTION_IN, &key, FLAG_NO_CPORT)

    cdef void _tell_entry(self, Record *record, FlowEntry *entry) noexcept nogil:
        record.has_entry, record.state_after, record.mode = entry != &self.gone, entry.state, entry.flags & MODE_MASK
        if record.protocol == 0:            # an ICMP error changes no state
            record.protocol = entry.protocol
            record.had_entry, record.state_before = record.has_entry and not record.is_new, entry.state
        if entry.server == NO_SERVER:
            return
        record.has_server, record.rport = True, entry.dport
        record.server_is_ipv6 = self.servers[entry.server].flags & SERVER_INET6 != 0
        memcpy(record.rip, self.server_addresses[entry.server].octets, 16)

    cdef void _tell_sender(self, Record *record, Packet *packet) noexcept nogil:
        """Note the real server that answers a one-packet connection, or no connection at all, as NAT servers do."""
        record.has_server, record.rport, record.server_is_ipv6 = True, packet.source_port, record.is_ipv6
        if record.is_ipv6:
            memcpy(record.rip, record.before + pkt.IP6_SOURCE, 16)
        else:
            memcpy(record.rip, record.before + pkt.IP_SOURCE, 4)

    cdef void _tell_after(self, Record *record, Packet *packet, int waiting) noexcept nogil:
        """Note what goes on, or left, or was answered."""
        cdef Outgoing *out
        cdef int head, body
        if self.box.count > waiting:
            out = &self.box.waiting[self.box.count - 1]
            record.what_after, record.sent = SENT, min(self.box.count - waiting, 255)
            memcpy(record.next_hop, out.next_hop, 16)
            head = min(out.head_length, <int> SNAP)
            body = min(out.length, <int> SNAP - head)
            memcpy(record.after, out.head, head)
            memcpy(record.after + head, out.body, body)
            record.after_length = head + body
        elif self.answer_length:
            record.what_after, record.after_length = ANSWER, min(self.answer_length, <int> SNAP)
            memcpy(record.after, self.answer, record.after_length)
        elif packet.outcome == REWRITTEN and not packet.steer:
            record.what_after, record.after_length = CHANGED, min(packet.queued.length, <int> SNAP)
            memcpy(record.after, packet.queued.data, record.after_length)

    cdef Ends _ends(self, Record *record, Packet *packet, FlowEntry *entry) noexcept nogil:
        """Return client and VIP: those of the connection, or what the packet says, whichever way it goes."""
        cdef int at = pkt.IP6_SOURCE if record.is_ipv6 else pkt.IP_SOURCE
        cdef Ends ends
        cdef FlowAddresses *addresses
        cdef uint8_t *client
        cdef uint8_t *vip
        memset(&ends, 0, sizeof(Ends))
        if entry != NULL:
            ends.length = 16 if entry.family == INET6 else 4
            ends.client_port, ends.vip_port, ends.fwmark = entry.cport, entry.vport, entry.fwmark
            if entry.family == INET6:
                addresses = &self.table.addresses[0 if entry == &self.gone else entry - self.table.entries]
                memcpy(ends.client, addresses.caddr, 16)
                memcpy(ends.vip, addresses.vaddr, 16)
            else:
                pkt.put32(ends.client, 0, entry.caddr)
                pkt.put32(ends.vip, 0, entry.vaddr)
            return ends
        ends.fwmark = record.mark
        if record.before_length < (40 if record.is_ipv6 else 20):
            return ends                     # not even addresses
        ends.length = 16 if record.is_ipv6 else 4
        client, vip = &record.before[at], &record.before[at + ends.length]
        if packet.reply:                    # its source is the VIP's since it was rewritten
            client, vip = vip, &record.after[at] if record.what_after == CHANGED else client
        memcpy(ends.client, client, ends.length)
        memcpy(ends.vip, vip, ends.length)
        if record.protocol and packet.reply:
            ends.client_port = packet.destination_port
            ends.vip_port = (pkt.get16(packet.queued.data, packet.header) if record.what_after == CHANGED
                             else packet.source_port)
        elif record.protocol:
            ends.client_port, ends.vip_port = packet.source_port, packet.destination_port
        return ends
