# C types for _connections.pyx; the meaning is there.  Inline here is what every packet needs (see).
from libc.stdint cimport uint32_t, uint64_t

from lbq._flowtable cimport ENTRY_VALID, FLAG_NO_OUTPUT, FLAG_TEMPLATE, FlowEntry, Key
from lbq._packet cimport TCP, UDP, Packet
from lbq._slots cimport NO_SERVER, Slots
from lbq.model cimport Flow
from lbq.protocols cimport sctp, tcp

cdef enum:
    FTP = 21
    FTP_DATA = 20
    FTP_CONTROL = 1                 # in an entry's helper
    ASSURED = 1                     # state of a template
    POSTPONED = 60                  # seconds a controlling connection lives on at a time


cdef class Connections(Slots):
    cdef uint64_t tcp_timeouts[11]          # seconds, by state
    cdef uint64_t sctp_timeouts[14]
    cdef uint64_t udp_timeout
    cdef uint32_t waiting_cport             # connections whose client's port is not known yet
    cdef uint64_t conns, expired, started_over, scheduler_errors
    cdef Flow flow
    cdef dict ftp                           # FtpControl by number of the control connection
    cdef object random
    cdef int drop_counts[9]
    cdef uint32_t drop_cursor, to_drop      # drop_entry: the next entry, and how many are left to look at
    cdef bint tidying                       # schedulers are
    cdef FlowEntry gone                     # the last one-packet connection, for a trace

    cdef void bind(self, FlowEntry *entry) noexcept nogil
    cdef void unbind(self, FlowEntry *entry) noexcept nogil
    cdef uint32_t create(self, const Key *key, uint32_t slot, int dport, int flags, uint32_t mark, uint64_t now,
                         bint *made) noexcept nogil
    cdef void _place_addresses(self, uint32_t number, const Key *key, uint32_t slot) noexcept nogil
    cdef void begin_following(self, uint32_t number) noexcept nogil
    cdef void expect(self, uint32_t number, Packet *packet) noexcept nogil
    cdef bint lives_on(self, uint32_t number) noexcept nogil
    cdef void let_go(self, uint32_t number) noexcept nogil
    cdef void end(self, uint32_t number) noexcept nogil
    cdef void end_one_packet(self, FlowEntry *entry) noexcept nogil
    cdef void expire_now(self, uint32_t number, uint64_t now) noexcept nogil
    cdef void forget(self, uint32_t number) noexcept nogil
    cdef void expire_due(self, uint64_t now, int *budget) noexcept nogil
    cdef bint go_on(self, uint64_t now) noexcept nogil
    cdef void _tidy(self) noexcept with gil
    cdef void flush_some(self, int cost) noexcept nogil
    cdef void drop_some(self, uint64_t now, int cost) noexcept nogil
    cdef bint _is_droppable(self, FlowEntry *entry, uint64_t now) noexcept nogil
    cdef bint _is_idle(self, FlowEntry *entry, uint64_t now) noexcept nogil
    cdef void _forget_ftp(self, uint32_t number) noexcept with gil
    cdef void change_state(self, FlowEntry *entry, int state) noexcept nogil
    cdef int admit(self, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil
    cdef int _admit_persistent(self, uint32_t service, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil
    cdef int _without_server(self, uint32_t service, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil
    cdef bint _may_bypass(self, Packet *packet) noexcept nogil
    cdef int _connect(self, Packet *packet, uint32_t slot, int dport, int flags, uint64_t now,
                      uint32_t *number) noexcept nogil
    cdef bint _is_valid(self, uint32_t template, bint moves) noexcept nogil
    cdef int choose(self, uint32_t service, Packet *packet, uint64_t now) noexcept with gil


cdef inline void see(Connections self, FlowEntry *entry, Packet *packet, int direction) noexcept nogil:
    """Let the protocol see the packet: its timeout, and its next state when that is another one."""
    cdef int state = entry.state
    if entry.protocol == UDP:
        if direction == tcp.OUT:
            assure(&self.table.entries[entry.control])
        entry.timeout = lasting(self, entry, self.udp_timeout)
        return
    if entry.flags & FLAG_NO_OUTPUT:
        if direction == tcp.OUT:
            entry.flags &= ~<int> FLAG_NO_OUTPUT
        else:
            direction = tcp.INPUT_ONLY
    if entry.protocol == TCP:
        # Nearly every packet is an acknowledgement, which keeps what is established so in every row of the table.
        if state != tcp.ESTABLISHED or packet.flags & (tcp.SYN | tcp.FIN | tcp.RST | tcp.ACK) != tcp.ACK:
            state = tcp.next_state(direction, packet.flags, state, self.settings.secure_tcp)
        entry.timeout = self.tcp_timeouts[state]
        if state == tcp.ESTABLISHED:
            entry.timeout = lasting(self, entry, entry.timeout)
    elif packet.flags >= 0:
        state = sctp.next_state(direction, packet.flags, state)
        entry.timeout = self.sctp_timeouts[state]
        if state == sctp.ESTABLISHED:
            entry.timeout = lasting(self, entry, entry.timeout)
    if state != entry.state:
        self.change_state(entry, state)


cdef inline uint32_t lasting(Connections self, FlowEntry *entry, uint32_t usual) noexcept nogil:
    """Return how many idle seconds end a connection that lasts: its service's, or the *usual* ones."""
    cdef uint32_t idle = 0
    if entry.server != NO_SERVER:
        idle = self.servers[entry.server].idle
    return idle if idle else usual


cdef inline void assure(FlowEntry *governor) noexcept nogil:
    """Mark the template that governs a connection as used in earnest; entry 0 governs nothing and has no flags."""
    if governor.flags & (FLAG_TEMPLATE | ENTRY_VALID) == FLAG_TEMPLATE | ENTRY_VALID:
        governor.state |= ASSURED
