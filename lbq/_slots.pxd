# C types for _slots.pyx; the meaning is there.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from lbq._flowtable cimport FlowTable

cdef enum:
    INET = 2                        # AF_INET
    SERVER_AVAILABLE = 1
    SERVER_LOCAL = 2

cdef struct Counters:
    uint64_t conns, packets_in, packets_out, bytes_in, bytes_out

cdef struct ServerSlot:             # in the shared mapping
    uint32_t address
    uint16_t port
    uint8_t protocol, mode
    uint32_t service, flags
    uint32_t spare[2]
    Counters counters

cdef struct ServiceSlot:            # in the shared mapping
    uint32_t address
    uint16_t port
    uint8_t protocol, family
    uint32_t fwmark, flags
    uint32_t spare[2]
    Counters counters

cdef struct ServerLink:             # where the schedulers read a server's load: fields of its RealServer
    int *active
    int *inactive


cdef class Slots:
    cdef readonly object services           # ServiceTable
    cdef FlowTable table
    cdef ServerSlot *servers
    cdef ServiceSlot *service_slots
    cdef ServerLink *links
    cdef uint32_t *service_index            # open addressing: slot number + 1 by address, port, protocol
    cdef uint32_t service_mask
    cdef uint32_t reserved                  # entries up to here have memory
    cdef int table_fd
    cdef object mapping, index_memory
    cdef list server_objects, service_objects, free_servers, free_services
    cdef set local_addresses

    cdef uint32_t _service_home(self, int protocol, uint32_t address, int port) noexcept nogil
    cdef uint32_t find_service(self, int protocol, uint32_t address, int port) noexcept nogil
    cdef bint reserve(self) noexcept nogil
