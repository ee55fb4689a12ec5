# C types for icmp.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cdef int ICMP, ICMP_HEADER, MAX_BYTES, HEADERS, TOS_PRECEDENCE, TOS_KEPT, TTL
cdef long long GLOBAL_COST, GLOBAL_BURST, CLIENT_COST, CLIENT_BURST
cdef int CLIENTS, CLIENT_BITS
cdef int UNREACHABLE, SOURCE_QUENCH, TIME_EXCEEDED
cdef int NO_SERVER, NO_WAY, NO_HOPS, NO_ROOM


@cython.locals(quoted_bytes=int, total=int, i=int)
cpdef int error(int kind, int code, int mtu, unsigned char *packet, int length, unsigned char *answer) noexcept nogil
cpdef void come_from(unsigned char *answer, unsigned int source) noexcept nogil


@cython.locals(header=int, at=int, kind=int)
cpdef int quoted(unsigned char *packet, int length) noexcept nogil
cpdef bint checksum_right(unsigned char *packet, int length) noexcept nogil
cpdef void to_real_server(unsigned char *packet, int length, unsigned int rip, int rport) noexcept nogil
cpdef void to_client(unsigned char *packet, int length, unsigned int vip, int vport) noexcept nogil


@cython.locals(header=int, at=int, quoted_header=int, protocol=int)
cdef void _translate(unsigned char *packet, int length, int outer, int inner, unsigned int address, int at_port,
                     int port) noexcept nogil
cpdef bint is_somebody(unsigned int client) noexcept nogil


@cython.final
cdef class RateLimit:
    cdef public bint is_on
    cdef long long credit
    cdef long long stamp
    cdef unsigned int clients[1024]
    cdef long long credits[1024]
    cdef long long stamps[1024]

    @cython.locals(place=int, credit="long long", allowed=bint)
    cpdef bint allow(self, unsigned int client, long long now_ns) noexcept nogil
