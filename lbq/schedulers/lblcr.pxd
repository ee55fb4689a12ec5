# C types for lblcr.py; the algorithm is there.
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.wlc cimport WeightedLeastConnection

cdef class LocalityBasedWithReplication(WeightedLeastConnection):
    cdef public object memory
    cdef public object expiration_seconds

    cpdef RealServer schedule(self, VirtualService service, Flow flow)
