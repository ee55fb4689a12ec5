# C types for pieces.py; the meaning is there.
cimport cython
from libc.string cimport memcpy

from lbq cimport packet as pkt

cdef int COPIED, END, NO_OPERATION, FRAGMENT_HEADER, FIN, PSH, CWR


@cython.locals(header=int, step=int, word=int, first=int, count=int, start=int, to=int, size=int, more=bint)
cpdef int fragment(unsigned char *packet, int length, int mtu, unsigned char *out, int room,
                   int most) noexcept nogil


@cython.locals(header=int, start=int, headers=int, identification=int, sequence="unsigned int", flags=int,
               count=int, to=int, size=int)
cpdef int segment(unsigned char *packet, int length, int payload, unsigned char *out, int room,
                  int most) noexcept nogil


@cython.locals(start=int, step=int, field=int, headers=int, offset=int, count=int, to=int, left=int, size=int)
cpdef int fragment6(unsigned char *packet, int length, int mtu, unsigned char *out, int room, int most,
                    unsigned int identification) noexcept nogil
cdef void _copy(unsigned char *source, int at, int length, unsigned char *target, int to) noexcept nogil
cdef int _header(unsigned char *packet, int length) noexcept nogil


@cython.locals(found=int)
cdef int _tcp_header(unsigned char *packet, int length) noexcept nogil


@cython.locals(protocol=int, at=int, routed=bint)
cdef int _unfragmentable(unsigned char *packet, int length) noexcept nogil


@cython.locals(field=int, at=int)
cdef int _last_next_header(unsigned char *packet, int end) noexcept nogil


@cython.locals(size=int, i=int)
cdef void _drop_options(unsigned char *out, int at, int end) noexcept nogil
cdef int _flags_of(int flags, bint first, bint last) noexcept nogil
cdef void _finish_header(unsigned char *out, int to, int header, int size) noexcept nogil


@cython.locals(field=int, total="unsigned int")
cdef void _finish_tcp(unsigned char *out, int to, int header, int length) noexcept nogil
