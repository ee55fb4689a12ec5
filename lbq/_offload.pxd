# C types for _offload.pyx; the meaning is there.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from lbq._ctnetlink cimport Tracked
from lbq._flowtable cimport FlowEntry, Key
from lbq._nfqueue cimport iovec, mmsghdr
from lbq._packet cimport Packet
from lbq._related cimport Related

cdef enum:
    EVENTS = 64                     # messages per system call

cdef struct Followed:               # of an offloaded entry, under the same number
    uint32_t id                     # conntrack's; 0: it has not told of it yet
    uint32_t seen                   # how many whole lists had been read when it was last heard of
    bint counted                    # what follows has begun: what conntrack counts beyond it is new
    uint64_t packets_in, bytes_in, packets_out, bytes_out


cdef class Offload(Related):
    cdef Followed *followed                 # NULL: no service was ever offloaded
    cdef object followed_memory, hearing_memory, events_socket, list_socket
    cdef unsigned char question[64]         # the request for a list
    cdef int question_length
    cdef int events_fd, list_fd             # -1: nobody tells us anything
    cdef unsigned char *hearing             # EVENTS rooms, and one for a piece of a list
    cdef mmsghdr heard[EVENTS]
    cdef iovec heard_parts[EVENTS]
    cdef uint32_t offloaded                 # entries
    cdef uint32_t adopted                   # by this director, out of what conntrack told; ever
    cdef uint32_t events_lost               # times that there was no room for events
    cdef uint32_t lists, lists_read, lists_wanted       # numbers of the last begun, the last read, the last asked for
    cdef uint32_t lists_whole               # how many were read to their ends
    cdef bint reading                       # a list
    cdef bint anew                          # the next list is to say what there is,
    cdef bint adopting                      # as this one does
    cdef bint told_of_end                   # conntrack has ended what ends now, and need not be told
    cdef uint32_t search_cursor             # where the search for those that are in no list goes on
    cdef uint64_t list_began, next_list     # ns

    cdef bint follow(self, uint64_t now) noexcept nogil
    cdef void _hear(self, unsigned char *datagram, uint32_t length, uint64_t now, bint listed) noexcept nogil
    cdef void _take(self, Tracked *told, uint64_t now, bint listed) noexcept nogil
    cdef bint _is_to_same_server(self, uint32_t number, const Tracked *told) noexcept nogil
    cdef uint32_t _adopt(self, const Tracked *told, const Key *key, uint64_t now) noexcept nogil
    cdef void _count(self, uint32_t number, const Tracked *told) noexcept nogil
    cdef void _change(self, uint32_t number, const Tracked *told) noexcept nogil
    cdef void _end_untold(self, uint32_t number) noexcept nogil
    cdef bint _is_list_due(self, uint64_t now) noexcept nogil
    cdef void _begin_list(self, uint64_t now) noexcept nogil
    cdef bint _read_list(self, uint64_t now) noexcept nogil
    cdef void _end_list(self, uint64_t now, bint is_whole) noexcept nogil
    cdef void _search(self, int cost) noexcept nogil
