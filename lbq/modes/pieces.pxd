# C types for pieces.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cdef int MORE_FRAGMENTS, OFFSET_MASK, FIN, PSH, CWR, SEQUENCE, DATA_OFFSET, COPIED, END_OF_OPTIONS, NO_OPERATION


@cython.locals(header=int, data=int, word=int, offset=int, count=int, at=int, begin=int, size=int, i=int, last=bint)
cdef int fragment(unsigned char *packet, int length, int mtu, unsigned char *out, int *sizes, int most,
                  int room) noexcept nogil


@cython.locals(header=int, start=int, sequence="unsigned int", identification=int, flags=int, count=int, at=int,
               begin=int, size=int, i=int, ours=int)
cdef int segment(unsigned char *packet, int length, int payload, unsigned char *out, int *sizes, int most,
                 int room) noexcept nogil


@cython.locals(at=int, end=int, kind=int, size=int, i=int)
cdef void _drop_options(unsigned char *out, int begin, int header) noexcept nogil
cdef void _finish_header(unsigned char *out, int begin, int header) noexcept nogil


@cython.locals(field=int, total="unsigned int")
cdef void _finish_segment(unsigned char *out, int begin, int header, int size) noexcept nogil
