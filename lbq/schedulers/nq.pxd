# C types for nq.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler

cdef class NeverQueue(Scheduler):
    @cython.locals(best=RealServer, server=RealServer, load="long long", best_load="long long")
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
