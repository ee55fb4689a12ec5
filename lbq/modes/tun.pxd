# C types for tun.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cdef int IPIP, GUE, GRE, NOCSUM, CSUM, REMCSUM, PROTOCOL_IPIP, PROTOCOL_UDP, PROTOCOL_GRE
cdef int DONT_FRAGMENT, ECN_MASK, ECN_CE, ECN_ECT0, LOWEST_PORT, HIGHEST_PORT, GRE_CHECKSUM, GRE_IPV4

cpdef int overhead(int kind, int flags) noexcept nogil
cpdef int protocol_of(int kind) noexcept nogil


@cython.locals(size=int, i=int, keep=bint, ecn=int)
cpdef int wrap(unsigned char *packet, int length, unsigned char *out, unsigned int source, unsigned int destination,
               int kind, int port, int flags, bint pmtu_disc, int identification, unsigned int flow_hash) noexcept nogil


@cython.locals(total="unsigned int", checksum=int)
cdef void _wrap_gue(unsigned char *packet, int length, unsigned char *out, int port, int flags,
                    unsigned int flow_hash) noexcept nogil
cdef void _wrap_gre(unsigned char *packet, int length, unsigned char *out, int flags) noexcept nogil


@cython.locals(mixed="unsigned long long")
cpdef int gue_port(unsigned int flow_hash) noexcept nogil


@cython.locals(at=int, protocol=int)
cpdef int inner_of(unsigned char *packet, int length) noexcept nogil
