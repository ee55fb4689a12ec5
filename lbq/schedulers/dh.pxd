# C types for dh.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService, fold
from lbq.schedulers.base cimport Scheduler
from lbq.schedulers.hashing cimport hash32

cdef int BITS

cdef class DestinationHashing(Scheduler):
    cdef public list table

    @cython.locals(server=RealServer)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
