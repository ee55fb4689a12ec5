# C types for tun.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cdef int IPIP, GUE, GRE, CSUM, REMCSUM
cdef int IP_HEADER, GUE_HEADERS, GRE_HEADER, GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE, GRE_UNKNOWN
cdef int ETHER_IPV4, IN_IP, IN_UDP, IN_GRE, FIRST_PORT, LAST_PORT

cpdef int overhead(int kind, int flags) noexcept nogil
cpdef int protocol_of(int kind) noexcept nogil


@cython.locals(size=int, forbidden=bint)
cpdef int wrap(unsigned char *packet, int length, unsigned char *out, unsigned int source,
               unsigned int destination, int kind, int port, int flags, bint pmtu_disc, int identification,
               unsigned int flow_hash) noexcept nogil


@cython.locals(mixed="unsigned long long")
cpdef int gue_port(unsigned int flow_hash) noexcept nogil


@cython.locals(total="unsigned int", checksum=int)
cdef void _write_gue(unsigned char *packet, int length, unsigned char *out, int port, int flags,
                     unsigned int flow_hash) noexcept nogil


@cython.locals(total="unsigned int")
cdef void _write_gre(unsigned char *packet, int length, unsigned char *out, int flags) noexcept nogil


@cython.locals(header=int, between=int)
cpdef int inner_of(unsigned char *packet, int length) noexcept nogil


@cython.locals(header=int)
cdef int _header(unsigned char *packet, int at, int length) noexcept nogil
cdef int _gue_size(unsigned char *packet, int at, int length) noexcept nogil


@cython.locals(flags=int)
cdef int _gre_size(unsigned char *packet, int at, int length) noexcept nogil
