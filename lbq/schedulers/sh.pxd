# C types for sh.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService, fold
from lbq.schedulers.base cimport Scheduler
from lbq.schedulers.hashing cimport client_port, falls_back, hash32

cdef int BITS
cdef unsigned int SIZE

cdef class SourceHashing(Scheduler):
    cdef public list table

    @cython.locals(table=list, server=RealServer, hashed="unsigned int", step="unsigned int")
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
