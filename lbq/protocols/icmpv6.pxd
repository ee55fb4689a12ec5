# C types for icmpv6.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cdef int MAX_BYTES, ICMP_HEADER, HEADERS, HOPS
cdef int TOO_BIG, FIRST_QUESTION


@cython.locals(quoted_bytes=int, total=int, i=int)
cpdef int error(int kind, int code, int mtu, unsigned char *packet, int length, unsigned char *source,
                unsigned char *answer) noexcept nogil


@cython.locals(header=int)
cpdef int quoted(unsigned char *packet, int length) noexcept nogil


@cython.locals(header=int, total="unsigned int")
cpdef bint checksum_right(unsigned char *packet, int length) noexcept nogil
cpdef void to_real_server(unsigned char *packet, int length, unsigned char *rip, int rport) noexcept nogil
cpdef void to_client(unsigned char *packet, int length, unsigned char *vip, int vport) noexcept nogil
cpdef bint is_somebody(unsigned char *client) noexcept nogil


@cython.locals(found=int)
cdef int _header(unsigned char *packet, int length) noexcept nogil


@cython.locals(header=int, at=int, i=int, found=int, ports=int)
cdef void _translate(unsigned char *packet, int length, int outer, int inner, unsigned char *address, int at_port,
                     int port) noexcept nogil


@cython.locals(total="unsigned int")
cdef void _write_checksum(unsigned char *packet, int header, int length) noexcept nogil
