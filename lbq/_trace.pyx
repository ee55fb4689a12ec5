"""What the director decided about single packets, kept in a ring until it is read: the packet path's side of lbq trace.

The packet path writes a record into the next free place, and keeps it if it is wanted.  When nobody reads fast enough
the ring is full: then what comes is counted, and not looked at.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from lbq._flowtable cimport DIRECTION_IN, DIRECTION_OUT, FLAG_NO_CPORT, INET6, MODE_MASK, FlowEntry, Key, find
from lbq._packet cimport DROPPED_TRUNCATED, REWRITTEN, Packet, client_key, reply_key
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
        its.state, its.protocol = wanted.get("state", -1), wanted.get("protocol", 0)
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

    cdef bint wants(self, const Record *record, const uint8_t *client, int client_port, const uint8_t *vip,
                    int vip_port) noexcept nogil:
        """Return True when the record, of a packet between these two, is to be kept."""
        cdef Wanted *its = &self.wanted
        cdef int length = 16 if record.is_ipv6 else 4
        cdef int server_length = 16 if record.server_is_ipv6 else 4
        if its.only_new and (record.had_entry or not record.has_entry):
            return False
        if its.state >= 0 and (not record.has_entry or record.state_after != its.state):
            return False
        if its.protocol and record.protocol != its.protocol:
            return False
        if its.client_length and (its.client_length != length or memcmp(its.client, client, length)):
            return False
        if its.vip_length and (its.vip_length != length or memcmp(its.vip, vip, length)):
            return False
        if its.client_port and its.client_port != client_port or its.vip_port and its.vip_port != vip_port:
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
        if packet.outcome == REWRITTEN:
            record.protocol = packet.protocol
            number = self._number_of(packet)
        if number:
            record.had_entry, record.state_before = True, self.table.entries[number].state
        return record

    cdef void end_record(self, Record *record, Packet *packet, int waiting) noexcept nogil:
        """Note what was decided, and keep the record if it is wanted; *waiting* packets had been in the outbox."""
        cdef uint32_t number = self._number_of(packet) if record.protocol else 0
        record.outcome, record.steer = packet.outcome, packet.steer
        if number:
            self._tell_entry(record, number)
        self._tell_after(record, packet, waiting)
        if self._is_wanted(record, packet):
            self.trace.keep()

    cdef uint32_t _number_of(self, Packet *packet) noexcept nogil:
        """Return the connection of a packet with ports, 0 when there is none."""
        cdef Key key = reply_key(packet) if packet.reply else client_key(packet)
        return find(&self.table, packet.hashed, DIRECTION_OUT if packet.reply else DIRECTION_IN, &key, FLAG_NO_CPORT)

    cdef void _tell_entry(self, Record *record, uint32_t number) noexcept nogil:
        cdef FlowEntry *entry = &self.table.entries[number]
        record.has_entry, record.state_after, record.mode = True, entry.state, entry.flags & MODE_MASK
        if entry.server == NO_SERVER:
            return
        record.has_server, record.rport = True, entry.dport
        record.server_is_ipv6 = self.servers[entry.server].flags & SERVER_INET6 != 0
        memcpy(record.rip, self.server_addresses[entry.server].octets, 16)

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

    cdef bint _is_wanted(self, Record *record, Packet *packet) noexcept nogil:
        """Return True when a packet is one of those that are to be seen, whichever way it goes."""
        cdef int at = pkt.IP6_SOURCE if record.is_ipv6 else pkt.IP_SOURCE
        cdef int size = 16 if record.is_ipv6 else 4
        cdef uint8_t *vip
        if self.trace.wanted.only_drops and record.outcome < DROPPED_TRUNCATED:
            return False
        if not record.protocol:             # without ports: only for who wants everything
            return self.trace.wants(record, record.before + at, 0, record.before + at + size, 0)
        if not packet.reply:
            return self.trace.wants(record, record.before + at, packet.source_port, record.before + at + size,
                                    packet.destination_port)
        vip = &record.after[0] if record.what_after == CHANGED else &record.before[0]
        return self.trace.wants(record, record.before + at + size, packet.destination_port, vip + at,
                                pkt.get16(vip, packet.header))
