# C types for _trace.pyx: a ring of what was decided, for whoever wants to see it (lbq trace).
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from lbq._flowtable cimport FlowEntry
from lbq._offload cimport Offload
from lbq._packet cimport Packet

cdef enum:
    SNAP = 192                      # bytes that are kept of a packet, before and after: its headers, a tunnel's too
    RING = 2048                     # records that wait to be read

    CHANGED = 1                     # what the bytes after are: the packet itself,
    SENT = 2                        # the last of what left in its place,
    ANSWER = 3                      # the ICMP error to its sender

cdef struct Record:                 # lbq/trace/records.py reads it
    uint64_t now_ns
    uint32_t mark
    uint32_t length                 # of the whole packet
    uint32_t steer                  # the number that the kernel was told
    uint16_t before_length, after_length
    uint16_t rport
    uint8_t outcome
    uint8_t hook
    uint8_t protocol
    uint8_t is_ipv6                 # the packet
    uint8_t state_before
    uint8_t state_after
    uint8_t has_entry               # of the table, when it was decided,
    uint8_t had_entry               # and before
    uint8_t is_new                  # a connection began with it
    uint8_t mode
    uint8_t what_after
    uint8_t sent                    # how many packets left in its place
    uint8_t server_is_ipv6
    uint8_t has_server
    uint8_t unused[2]
    uint8_t rip[16]                 # the real server's address
    uint8_t next_hop[16]
    uint8_t before[SNAP]
    uint8_t after[SNAP]

cdef struct Wanted:                 # packets that do not pass are not kept
    bint only_new
    bint only_drops
    bint some_state                 # that of ``states``, by protocol: 1 + the state, 0 for none
    uint8_t states[256]
    int protocol                    # of service; 0: any
    uint32_t fwmark                 # of service; 0: any
    int length                      # of its addresses in bytes
    int client_length               # of the address in bytes; 0: any
    int client_port                 # 0: any; likewise below
    int vip_length, vip_port
    int server_length, server_port
    uint32_t every                  # one packet in so many
    uint8_t client[16]
    uint8_t vip[16]
    uint8_t server[16]


cdef struct Ends:                   # whom a packet is between
    int length                      # of the addresses in bytes
    int client_port, vip_port
    uint32_t fwmark
    uint8_t client[16]
    uint8_t vip[16]


cdef class Trace:
    cdef Record *ring
    cdef Wanted wanted
    cdef uint32_t first, count      # of the records that wait
    cdef uint64_t matched, kept, lost
    cdef uint64_t conns, started_over   # before the packet that is being looked at

    cdef int _address(self, text, uint8_t *place)
    cdef Record *take(self) noexcept nogil
    cdef bint wants(self, const Record *record, const Ends *ends) noexcept nogil
    cdef void keep(self) noexcept nogil


cdef class Traced(Offload):
    cdef Trace trace                # None: nobody looks
    cdef bint tracing

    cdef Record *begin_record(self, Packet *packet, uint64_t now) noexcept nogil
    cdef void end_record(self, Record *record, Packet *packet, int waiting) noexcept nogil
    cdef uint32_t _number_of(self, Packet *packet) noexcept nogil
    cdef FlowEntry *_entry_of(self, Record *record, Packet *packet) noexcept nogil
    cdef bint _began(self, Record *record, FlowEntry *entry) noexcept nogil
    cdef void _tell_entry(self, Record *record, FlowEntry *entry) noexcept nogil
    cdef void _tell_sender(self, Record *record, Packet *packet) noexcept nogil
    cdef void _tell_after(self, Record *record, Packet *packet, int waiting) noexcept nogil
    cdef Ends _ends(self, Record *record, Packet *packet, FlowEntry *entry) noexcept nogil
