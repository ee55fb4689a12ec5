# C types for dr.py; the meaning is there.
from lbq cimport packet as pkt

cpdef void to_real_server(unsigned char *packet) noexcept nogil
