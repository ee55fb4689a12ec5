# C types for ovf.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler

cdef class Overflow(Scheduler):
    @cython.locals(best=RealServer, server=RealServer)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
