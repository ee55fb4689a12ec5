# C types for mh.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService, fold
from lbq.schedulers.base cimport Scheduler
from lbq.schedulers.hashing cimport client_port, falls_back


cdef unsigned int SIZE
cdef int WEIGHT_BITS
cdef unsigned long long OFFSET_KEY, SKIP_KEY, WORD, LENGTH, ALL_ONES
cdef unsigned long long SIPHASH0, SIPHASH1, SIPHASH2, SIPHASH3


@cython.locals(v0="unsigned long long", v1="unsigned long long", v2="unsigned long long", v3="unsigned long long",
               message="unsigned long long", turn=int)
cpdef unsigned long long siphash(unsigned int value, unsigned long long key) noexcept


cpdef unsigned int hashed(object address, unsigned int port, unsigned long long key, unsigned int offset)


cpdef unsigned int slot_of(object address, unsigned int port, unsigned int offset)


@cython.locals(server=RealServer, turns=list, divisor=int, shift=int, index=Py_ssize_t, weight=int)
cpdef list turns_of(list servers)


@cython.locals(server=RealServer, places="unsigned int[::1]", skips="unsigned int[::1]", taken="unsigned char[::1]",
               table=list, count=int, free=int, index=Py_ssize_t, place="unsigned int", skip="unsigned int", _=int)
cdef list fill(list servers, list turns, int family)


cdef class Maglev(Scheduler):
    cdef public list table

    @cython.locals(table=list, server=RealServer, port="unsigned int", slot="unsigned int", step="unsigned int")
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
