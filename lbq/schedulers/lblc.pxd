# C types for lblc.py; the algorithm is there.
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.wlc cimport WeightedLeastConnection

cdef class LocalityBasedLeastConnection(WeightedLeastConnection):
    cdef public object memory
    cdef public object expiration_seconds

    cpdef RealServer schedule(self, VirtualService service, Flow flow)
