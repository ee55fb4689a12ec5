# C types for sh.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler
from lbq.schedulers.hashing cimport fold, hash32

cdef int BITS, SIZE, FALLBACK, PORT

cdef class SourceHashing(Scheduler):
    cdef public list table

    @cython.locals(server=RealServer, port=int, hashed=int, offset=int)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
