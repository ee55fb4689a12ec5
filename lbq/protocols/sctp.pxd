# C types for sctp.py; the table is there.
cimport cython
from lbq cimport packet as pkt

cdef unsigned char NEXT[420]
cdef unsigned char EVENT_OF[16]
cdef int NONE, INIT1, INIT, ESTABLISHED, CLOSED
cdef int EVENT_DATA, EVENT_INIT, EVENT_ABORT
cdef int HEADER, CHUNK_HEADER, ABORT, COOKIE_ECHO, COOKIE_ACK, KINDS, EVENTS, STATES


@cython.locals(kind=int, size=int, following=int)
cpdef int event(unsigned char *packet, int at, int end) noexcept nogil
cpdef int next_state(int direction, int happened, int state) noexcept nogil
cpdef bint is_active(int state) noexcept nogil
