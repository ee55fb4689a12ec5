# C types for twos.py; the algorithm is there.
cimport cython
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.schedulers.base cimport Scheduler


cdef class PowerOfTwoChoices(Scheduler):
    cdef public object random

    @cython.locals(server=RealServer, first=RealServer, second=RealServer, total="long long")
    cpdef RealServer schedule(self, VirtualService service, Flow flow)


@cython.locals(server=RealServer)
cdef RealServer drawn(VirtualService service, long long number)
