# C types for nat.py; the meaning is there.
cimport cython
from lbq cimport packet as pkt

cpdef void to_real_server(unsigned char *packet, int end, unsigned int rip, int rport, int form,
                          bint delivered_here) noexcept nogil
cpdef void to_client(unsigned char *packet, int end, unsigned int vip, int vport, int form,
                     bint delivered_here) noexcept nogil
cpdef void to_real_server6(unsigned char *packet, int protocol, int header, int end, unsigned char *rip, int rport,
                           int form, bint delivered_here) noexcept nogil
cpdef void to_client6(unsigned char *packet, int protocol, int header, int end, unsigned char *vip, int vport,
                      int form, bint delivered_here) noexcept nogil


@cython.locals(header=int, moved=int)
cpdef void rewrite(unsigned char *packet, int end, int at_address, unsigned int address, int at_port, int port,
                   int form, bint delivered_here) noexcept nogil


@cython.locals(moved=int, i=int)
cpdef void rewrite6(unsigned char *packet, int protocol, int header, int end, int at_address, unsigned char *address,
                    int at_port, int port, int form, bint delivered_here) noexcept nogil


@cython.locals(tcp=bint, field=int, old_port=int, checksum=int)
cdef void _rewrite_port(unsigned char *packet, int protocol, int header, int end, int moved, int at_port, int port,
                        int form, bint delivered_here) noexcept nogil
