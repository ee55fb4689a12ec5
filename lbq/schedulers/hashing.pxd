# C types for hashing.py; the arithmetic is there.
from lbq.model cimport Flow, VirtualService

cdef unsigned int GOLDEN_RATIO
cdef unsigned int MASK
cdef int FALLBACK
cdef int PORT

cpdef unsigned int hash32(unsigned int value, int bits) noexcept
cpdef int client_port(VirtualService service, Flow flow)
cpdef bint falls_back(VirtualService service) noexcept
