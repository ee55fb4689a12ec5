# C types for rr.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler

cdef class RoundRobin(Scheduler):
    cdef public RealServer last

    @cython.locals(servers=list, server=RealServer, count=Py_ssize_t, start=Py_ssize_t, step=Py_ssize_t, at=Py_ssize_t)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
