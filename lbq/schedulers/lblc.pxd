# C types for lblc.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.locality cimport Entry, LocalityBased, is_classic, is_too_busy, present
from lbq.schedulers.wlc cimport WeightedLeastConnection


@cython.final
cdef class Remembered(Entry):
    cdef public RealServer server


cdef class LocalityBasedLeastConnection(LocalityBased):
    @cython.locals(entry=Remembered, server=RealServer)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
