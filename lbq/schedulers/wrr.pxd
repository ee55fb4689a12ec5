# C types for wrr.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler

cdef class WeightedRoundRobin(Scheduler):
    cdef public RealServer last
    cdef public int level
    cdef public int top
    cdef public int divisor

    @cython.locals(servers=list, server=RealServer, begin=RealServer, count=Py_ssize_t, at=Py_ssize_t,
                   whole=bint, wrapped=bint, lowest=bint)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
