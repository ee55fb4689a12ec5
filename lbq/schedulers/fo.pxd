# C types for fo.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler

cdef class Failover(Scheduler):
    @cython.locals(best=RealServer, server=RealServer)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
