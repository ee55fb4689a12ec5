# C types for _related.pyx; the meaning is there.
from libc.stdint cimport uint32_t, uint64_t

from lbq._flowtable cimport FlowEntry
from lbq._forwarding cimport Forwarding
from lbq._packet cimport Packet


cdef class Related(Forwarding):
    cdef uint32_t about             # the connection that the last ICMP error was about, for a trace

    cdef int icmp_request(self, Packet *packet, uint64_t now) noexcept nogil
    cdef int _icmp_to_server(self, Packet *packet, FlowEntry *entry, uint64_t hashed, uint64_t now) noexcept nogil
    cdef int icmp_reply(self, Packet *packet, uint64_t now) noexcept nogil
    cdef uint32_t _find(self, Packet *about, int direction) noexcept nogil
    cdef int _without_ports(self, Packet *packet, int at) noexcept nogil
    cdef int _tunnel_error(self, Packet *packet, int quoted, uint64_t now) noexcept nogil
    cdef int server_at(self, Packet *packet) noexcept nogil
    cdef bint _is_from(self, Packet *packet, uint32_t slot) noexcept nogil
    cdef int one_packet_server(self, Packet *packet) noexcept nogil
    cdef int ftp_client(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil
    cdef int ftp_server(self, Packet *packet, uint32_t number, uint64_t now) noexcept with gil
