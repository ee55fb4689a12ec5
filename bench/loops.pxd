# C types for loops.py; the meaning is there.
cimport cython
from lbq.model cimport Flow, VirtualService
from lbq.modes cimport nat
from lbq.protocols cimport tcp
from lbq.schedulers.base cimport Scheduler

cdef int TIMES, RPORT
cdef unsigned int RIP

cpdef void schedule(Scheduler scheduler, VirtualService service, Flow flow) except *
cpdef void rewrite(unsigned char *packet, int end, int form)
@cython.locals(state=int)
cpdef int follow(int flags)
