# C types for mh.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler
from lbq.schedulers.hashing cimport fold

cdef int SIZE, SHIFT_BITS, FALLBACK, PORT
cdef unsigned long long FIRST_KEY, SECOND_KEY, ALL32, ALL64, INITIAL0, INITIAL1, INITIAL2, INITIAL3, FOUR_BYTES


@cython.locals(v0="unsigned long long", v1="unsigned long long", v2="unsigned long long", v3="unsigned long long",
               word="unsigned long long", step=int)
cpdef unsigned int siphash(unsigned int value, unsigned long long key) noexcept


cpdef unsigned int slot_of(address, int port, unsigned long long key, int offset)


cdef class Maglev(Scheduler):
    cdef public list table

    @cython.locals(table=list, taken=int, index=Py_ssize_t, place=int, _turn=int)
    cpdef list _fill(self, list servers, list turns, list places, list skips)

    @cython.locals(server=RealServer, port=int, hashed=int, offset=int)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
