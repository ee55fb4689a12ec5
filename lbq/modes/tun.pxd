# C types for tun.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cdef int IPIP, GUE, GRE, CSUM, REMCSUM
cdef int IP_HEADER, GUE_HEADERS, GRE_HEADER, GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE, GRE_UNKNOWN
cdef int ETHER_IPV4, ETHER_IPV6, IN_IP, IN_IPV6, IN_UDP, IN_GRE, FIRST_PORT, LAST_PORT


@cython.locals(header=int)
cpdef int overhead(int kind, int flags, bint in_ipv6) noexcept nogil
cpdef int protocol_of(int kind, bint of_ipv6) noexcept nogil


@cython.locals(size=int, of_ipv6=bint, forbidden=bint)
cpdef int wrap(unsigned char *packet, int length, unsigned char *out, unsigned int source,
               unsigned int destination, int kind, int port, int flags, bint pmtu_disc, int identification,
               unsigned int flow_hash) noexcept nogil


@cython.locals(size=int, of_ipv6=bint, tos=int, i=int)
cpdef int wrap6(unsigned char *packet, int length, unsigned char *out, unsigned char *source,
                unsigned char *destination, int kind, int port, int flags, unsigned int flow_hash) noexcept nogil


@cython.locals(tos=int)
cdef int _outer_tos(unsigned char *packet) noexcept nogil


@cython.locals(mixed="unsigned long long")
cpdef int gue_port(unsigned int flow_hash) noexcept nogil
cdef void _write_between(unsigned char *packet, int length, unsigned char *out, int at, int kind, int port, int flags,
                         unsigned int flow_hash) noexcept nogil


@cython.locals(total="unsigned int", checksum=int)
cdef void _write_gue(unsigned char *packet, int length, unsigned char *out, int at, int port, int flags,
                     unsigned int flow_hash) noexcept nogil


@cython.locals(total="unsigned int")
cdef void _write_gre(unsigned char *packet, int length, unsigned char *out, int at, int flags) noexcept nogil


@cython.locals(header=int, between=int, found=int, protocol=int)
cpdef int inner_of(unsigned char *packet, int length) noexcept nogil
cdef int _promised(unsigned char *packet, int header, int protocol) noexcept nogil


@cython.locals(header=int)
cdef int _header(unsigned char *packet, int at, int length) noexcept nogil
cdef int _gue_size(unsigned char *packet, int at, int length) noexcept nogil


@cython.locals(flags=int)
cdef int _gre_size(unsigned char *packet, int at, int length) noexcept nogil
