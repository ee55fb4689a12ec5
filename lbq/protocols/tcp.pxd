# C types for tcp.py; the table is there.
cimport cython

cdef unsigned char NEXT[264]
cdef unsigned char ACTIVE[11]
cdef int NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK
cdef int IN, OUT, INPUT_ONLY
cdef int EVENT_SYN, EVENT_FIN, EVENT_ACK, EVENT_RST, EVENT_NONE
cdef int FIN, SYN, RST, ACK
cdef int EVENTS, STATES, SECURE

cpdef int event(int flags) noexcept nogil


@cython.locals(happened=int)
cpdef int next_state(int direction, int flags, int state, bint secure=*) noexcept nogil
cpdef bint is_active(int state) noexcept nogil
cpdef bint opens(int flags) noexcept nogil
