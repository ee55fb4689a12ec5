# C types for locality.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService, fold
from lbq.schedulers.hashing cimport hash32
from lbq.schedulers.wlc cimport WeightedLeastConnection


cdef long long SECOND, CHECK_INTERVAL, UNUSED
cdef int BITS, BUCKETS, ENOUGH, MOST, FULL_CHECK, DAY, PIECE


cdef class Entry:
    cdef public object address
    cdef public long long last_use


@cython.final
cdef class Memory:
    cdef public list buckets
    cdef public long long count
    cdef public int rover
    cdef public int interval
    cdef public long long next_check

    @cython.locals(bucket=dict, entry=Entry)
    cpdef Entry find(self, object address, long long now_ns)

    @cython.locals(bucket=dict)
    cpdef add(self, Entry entry, RealServer server)

    cpdef tidy(self, long long now_ns, long long expiration_seconds)

    cdef _start(self, long long now_ns)

    @cython.locals(old=list)
    cdef Py_ssize_t _forget(self, dict bucket, long long used_ns)


@cython.locals(old=list, entry=Entry)
cdef list unused(dict bucket, long long used_ns)


cpdef bint is_classic(RealServer server) noexcept


@cython.locals(other=RealServer)
cpdef bint is_too_busy(RealServer server, VirtualService service)


@cython.locals(other=RealServer)
cpdef RealServer present(RealServer server, VirtualService service)


cdef class LocalityBased(WeightedLeastConnection):
    cdef public Memory memory
    cdef public long long expiration_seconds
