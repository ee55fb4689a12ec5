# C types for icmp.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cdef int ICMP, MAX_BYTES, HEADERS, TOS_PRECEDENCE, TOS_KEPT, TTL
cdef long long GLOBAL_COST, GLOBAL_BURST, CLIENT_COST, CLIENT_BURST
cdef int CLIENTS, CLIENT_BITS


@cython.locals(quoted=int, total=int, i=int)
cpdef int port_unreachable(unsigned char *packet, int length, unsigned char *answer) noexcept nogil


@cython.final
cdef class RateLimit:
    cdef long long credit
    cdef long long stamp
    cdef unsigned int clients[1024]
    cdef long long credits[1024]
    cdef long long stamps[1024]

    @cython.locals(place=int, credit="long long", allowed=bint)
    cpdef bint allow(self, unsigned int client, long long now_ns) noexcept nogil
