# C types for model.py; the meaning is there.
cimport cython

cdef class Flow:
    cdef public int family
    cdef public int protocol
    cdef public object caddr
    cdef public int cport
    cdef public object vaddr
    cdef public int vport
    cdef public long long now_ns


@cython.final                       # so that wlc's two calls per server are plain C calls
cdef class RealServer:
    cdef public int family
    cdef public object address
    cdef public int port
    cdef public int weight
    cdef public int last_weight
    cdef public int mode
    cdef public object tunnel
    cdef public int upper
    cdef public int lower
    cdef public long long active_cost   # makes overhead() a 64-bit product
    cdef public int active_conns
    cdef public int inactive_conns
    cdef public int persistent_conns
    cdef public int overloaded          # an int, because the fast path points to it
    cdef public bint available
    cdef public bint ends
    cdef public object service
    cdef public int position
    cdef public int slot

    cpdef bint can_schedule(self) noexcept
    cpdef long long overhead(self) noexcept
    cpdef bint is_referenced(self) noexcept


cdef class VirtualService:
    cdef public object key
    cdef public list servers
    cdef public object scheduler
    cdef public int flags
    cdef public int timeout
    cdef public unsigned int netmask
    cdef public int idle
    cdef public int slot

    @cython.locals(servers=list, server=RealServer)
    cpdef list remove_all(self)


cpdef unsigned int fold(object address)
