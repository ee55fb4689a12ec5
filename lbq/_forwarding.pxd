# C types for _forwarding.pyx; the meaning is there.
from libc.stdint cimport uint32_t, uint64_t

from lbq._connections cimport Connections
from lbq._flowtable cimport FlowEntry
from lbq._packet cimport Packet
from lbq._slots cimport Counters, Route, ServerSlot
from lbq._transmit cimport Outbox, Outgoing
from lbq.protocols cimport icmp

cdef enum:
    LEAST_MTU = 68                  # RFC 791


cdef class Forwarding(Connections):
    cdef Outbox *box                        # of the worker that decides just now
    cdef unsigned char answer[1280]         # icmpv6.MAX_BYTES
    cdef int answer_length
    cdef int answer_device                  # where the packet came in that it is about
    cdef icmp.RateLimit limit
    cdef uint64_t icmp_sent, icmp_limited, send_errors
    cdef uint32_t identification
    cdef bint telling                       # what leaves is told to handle()'s caller, not sent

    cdef int forward(self, Packet *packet, FlowEntry *entry, uint64_t now) noexcept nogil
    cdef bint steer(self, Packet *packet, FlowEntry *entry, uint64_t now) noexcept nogil
    cdef void _leave_to_kernel(self, Packet *packet, FlowEntry *entry, uint32_t number) noexcept nogil
    cdef void to_real_server(self, Packet *packet, FlowEntry *entry, bint delivered_here) noexcept nogil
    cdef bint is_for_us(self, Packet *packet) noexcept nogil
    cdef bint _is_loopback(self, uint32_t slot) noexcept nogil
    cdef bint _lacks_room(self, Packet *packet, int mode, int room) noexcept nogil
    cdef bint _may_be_cut(self, Packet *packet, int mode) noexcept nogil
    cdef bint refuse(self, Packet *packet, FlowEntry *entry, int reason, int mtu, uint64_t now,
                     Route *own) noexcept nogil
    cdef bint _may_answer(self, Packet *packet, int reason, uint64_t now) noexcept nogil
    cdef void count_own_error(self, FlowEntry *entry, int length) noexcept nogil
    cdef void _make_room(self) noexcept nogil
    cdef int _send_direct(self, Packet *packet, Route *route, int room) noexcept nogil
    cdef int _cut(self, unsigned char *whole, int length, int mtu) noexcept nogil
    cdef uint32_t _next_identification(self) noexcept nogil
    cdef void _take_pieces(self, Route *route, int count) noexcept nogil
    cdef int _send_wrapped(self, Packet *packet, ServerSlot *server, Route *route, int room) noexcept nogil
    cdef int _wrap(self, Outgoing *out, ServerSlot *server, Route *route, uint32_t flow_hash) noexcept nogil
    cdef Outgoing *_next_out(self, Route *route) noexcept nogil


cdef inline void count_in(Counters *counters, int length) noexcept nogil:
    counters.packets_in += 1
    counters.bytes_in += length


cdef inline void count_out(Counters *counters, int length) noexcept nogil:
    counters.packets_out += 1
    counters.bytes_out += length
