# C types for _forwarding.pyx; the meaning is there.
from libc.stdint cimport uint32_t, uint64_t

from lbq._connections cimport Connections
from lbq._flowtable cimport FlowEntry
from lbq._packet cimport Packet
from lbq._slots cimport Counters, Route, ServerSlot
from lbq._transmit cimport Outbox, Outgoing
from lbq.protocols cimport icmp

cdef enum:
    ICMP_ROOM = 576


cdef class Forwarding(Connections):
    cdef Outbox box
    cdef unsigned char answer[576]          # ICMP_ROOM
    cdef int answer_length
    cdef icmp.RateLimit limit
    cdef uint64_t icmp_sent, icmp_limited, send_errors
    cdef uint32_t identification
    cdef object arena_memory
    cdef bint telling                       # what leaves is told to handle()'s caller, not sent

    cdef int forward(self, Packet *packet, FlowEntry *entry, uint64_t now) noexcept nogil
    cdef bint refuse(self, Packet *packet, FlowEntry *entry, int kind, int code, int mtu, uint64_t now) noexcept nogil
    cdef void _count_own_error(self, FlowEntry *entry, int length) noexcept nogil
    cdef void _make_room(self) noexcept nogil
    cdef int _send_direct(self, Packet *packet, Route *route, int room) noexcept nogil
    cdef void _take_pieces(self, Packet *packet, uint32_t next_hop, Route *route, int count) noexcept nogil
    cdef int _send_wrapped(self, Packet *packet, ServerSlot *server, Route *route, int room) noexcept nogil
    cdef int _wrap(self, Outgoing *out, ServerSlot *server, Route *route, uint32_t flow_hash) noexcept nogil
    cdef Outgoing *_next_out(self, Packet *packet, uint32_t next_hop, Route *route) noexcept nogil
    cdef int icmp_request(self, Packet *packet, uint64_t now) noexcept nogil
    cdef int _icmp_to_server(self, Packet *packet, FlowEntry *entry, uint64_t hashed, uint64_t now) noexcept nogil
    cdef int icmp_reply(self, Packet *packet, uint64_t now) noexcept nogil
    cdef int _without_ports(self, unsigned char *quote) noexcept nogil
    cdef int _tunnel_error(self, Packet *packet, int quoted, uint64_t now) noexcept nogil
    cdef int server_at(self, Packet *packet) noexcept nogil
    cdef int one_packet_server(self, Packet *packet) noexcept nogil
    cdef int ftp_client(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil
    cdef int ftp_server(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil


cdef inline void count_in(Counters *counters, int length) noexcept nogil:
    counters.packets_in += 1
    counters.bytes_in += length


cdef inline void count_out(Counters *counters, int length) noexcept nogil:
    counters.packets_out += 1
    counters.bytes_out += length
