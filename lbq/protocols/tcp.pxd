# C types for tcp.py; the table is there.
cimport cython

cpdef enum:
    NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK

cpdef enum:
    IN, OUT, INPUT_ONLY

cpdef enum:
    EVENT_SYN, EVENT_FIN, EVENT_ACK, EVENT_RST, EVENT_NONE

cpdef enum:
    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    ACK = 0x10
    EVENTS = 4
    STATES = 11
    SECURE = 132

cdef unsigned char NEXT[264]
cdef unsigned char ACTIVE[11]

cpdef int event(int flags) noexcept nogil


@cython.locals(happened=int)
cpdef int next_state(int direction, int flags, int state, bint secure=*) noexcept nogil
cpdef bint is_active(int state) noexcept nogil
cpdef bint opens(int flags) noexcept nogil
