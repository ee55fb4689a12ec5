# C types for lblcr.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.locality cimport Entry, LocalityBased, is_too_busy, present
from lbq.schedulers.wlc cimport WeightedLeastConnection

cdef long long SECOND


@cython.final
cdef class RememberedSet(Entry):
    cdef public list servers
    cdef public long long last_change

    cpdef join(self, RealServer server, long long now_ns)

    @cython.locals(server=RealServer, most=RealServer)
    cpdef shrink(self, long long now_ns)

    @cython.locals(place=Py_ssize_t, server=RealServer, best=RealServer)
    cpdef RealServer least_loaded(self, VirtualService service)


cdef class LocalityBasedWithReplication(LocalityBased):
    @cython.locals(entry=RememberedSet, server=RealServer)
    cpdef RealServer schedule(self, VirtualService service, Flow flow)
