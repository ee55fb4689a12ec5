# C types for base.py; the algorithm is there.
from lbq.model cimport Flow, RealServer, VirtualService

cdef class Scheduler:
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
