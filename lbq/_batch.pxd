# C types for _batch.pyx; the meaning is there.
from libc.stdint cimport uint32_t, uint64_t

from lbq._nfqueue cimport iovec, mmsghdr
from lbq._packet cimport Packet
from lbq._transmit cimport Outbox

cdef enum:
    BATCH = 64                      # messages per system call; past the knee of the curve, see docs/performance.md
    # A packet and its attributes; an odd number of cache lines and of pages, so that the headers of 64 messages do
    # not compete for the same sets of the caches.
    MESSAGE_ROOM = 65536 + 4096 + 192
    HEADERS = 128                   # bytes that are seen of a longer packet; IPv4's and TCP's headers have 120


cdef class Batch:
    cdef object queue_socket, receive_memory, arena_memory
    cdef int queue, queue_fd
    cdef int headers_queue                  # of packets that the kernel rewrites; -1: none
    cdef uint32_t mark_mask                 # what the kernel is told by,
    cdef int mark_shift                     # from this bit on
    cdef int hope                           # > 0: the next packet is watched for
    cdef uint64_t refused                   # verdicts that the kernel did not take
    cdef uint64_t lost                      # packets that it did not send
    cdef unsigned char *buffers
    cdef mmsghdr messages[BATCH]
    cdef iovec incoming[BATCH]
    cdef iovec outgoing[BATCH]
    cdef Outbox box                         # what leaves in the place of packets
    cdef Packet packets[BATCH]
    cdef int count                          # of them

    cdef int receive(self, bint wait) noexcept nogil
    cdef int _watch(self) noexcept nogil
    cdef bint read(self, int messages) noexcept nogil
    cdef void answer(self) noexcept nogil
    cdef void _send(self, int first, int count) noexcept nogil


cdef int verdict_of(const Packet *packet) noexcept nogil
