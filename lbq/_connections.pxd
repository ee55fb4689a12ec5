# C types for _connections.pyx; the meaning is there.
from libc.stdint cimport uint32_t, uint64_t

from lbq._flowtable cimport FlowEntry, Key
from lbq._packet cimport Packet
from lbq._slots cimport Slots
from lbq.model cimport Flow

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

    cdef void bind(self, FlowEntry *entry) noexcept nogil
    cdef void unbind(self, FlowEntry *entry) noexcept nogil
    cdef uint32_t create(self, const Key *key, uint32_t slot, int dport, int flags, uint32_t mark, uint64_t now,
                         bint *made) noexcept nogil
    cdef void _place_addresses(self, uint32_t number, const Key *key, uint32_t slot) noexcept nogil
    cdef void end(self, uint32_t number) noexcept nogil
    cdef void end_one_packet(self, FlowEntry *entry) noexcept nogil
    cdef void expire_now(self, uint32_t number, uint64_t now) noexcept nogil
    cdef void forget(self, uint32_t number) noexcept nogil
    cdef void expire_due(self, uint64_t now, int *budget) noexcept nogil
    cdef void flush_some(self, uint32_t count) noexcept nogil
    cdef bint _is_droppable(self, FlowEntry *entry, uint64_t now) noexcept nogil
    cdef bint _is_idle(self, FlowEntry *entry, uint64_t now) noexcept nogil
    cdef void _forget_ftp(self, uint32_t number) noexcept with gil
    cdef void see(self, FlowEntry *entry, Packet *packet, int direction) noexcept nogil
    cdef int admit(self, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil
    cdef int _admit_persistent(self, uint32_t service, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil
    cdef int _without_server(self, uint32_t service, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil
    cdef bint _may_bypass(self, Packet *packet) noexcept nogil
    cdef int _connect(self, Packet *packet, uint32_t slot, int dport, int flags, uint64_t now,
                      uint32_t *number) noexcept nogil
    cdef bint _is_valid(self, uint32_t template, bint moves) noexcept nogil
    cdef uint32_t _lasting(self, FlowEntry *entry, uint32_t usual) noexcept nogil
    cdef int choose(self, uint32_t service, Packet *packet, uint64_t now) noexcept with gil
