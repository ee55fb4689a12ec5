# C types for nat.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cpdef void to_real_server(unsigned char *packet, int end, unsigned int rip, int rport, int form,
                          bint delivered_here) noexcept nogil
cpdef void to_client(unsigned char *packet, int end, unsigned int vip, int vport, int form,
                     bint delivered_here) noexcept nogil


@cython.locals(header=int, tcp=bint, field=int, old_address="unsigned int", old_port=int, checksum=int)
cpdef void rewrite(unsigned char *packet, int end, int at_address, unsigned int address, int at_port, int port,
                   int form, bint delivered_here) noexcept nogil
