"""The packets that one worker has in hand: received with one system call, answered with another.

A worker has a queue of the kernel's, or two, behind one netlink socket, and this to work with.  Up to 64 messages
come in, and up to 64 verdicts go out, in the order of their numbers; in between the director decides
(``_fastpath.pyx``).  Nothing here is shared with another worker, and nothing of the director's is read.

Kernel: net/netfilter/nfnetlink_queue.c.
"""
import mmap

from libc.errno cimport EINTR
from libc.errno cimport errno as c_errno
from libc.stdint cimport uint64_t
from libc.string cimport memset

from lbq._bounds cimport close_bytes, open_bytes
from lbq._clock cimport fine_now
from lbq._nfqueue cimport (MSG_DONTWAIT, MSG_WAITFORONE, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_HEADER, VERDICT_QUEUE,
                           Queued, is_knock, is_packet, msghdr, read_message, recvmmsg, sendmsg, verdict_alone,
                           verdict_marked, verdict_with_packet)
from lbq._packet cimport DROPPED_TRUNCATED, FORWARDED, PASSED_BYPASS, PASSED_WHOLE, REWRITTEN
from lbq._transmit cimport ARENA_ROOM, send_all

from lbq import netlink
from lbq.model import AF_INET, AF_INET6

cdef enum:
    WATCH_NS = 3000
    MOST_HOPE = 4
    PATIENCE = 64                   # waits that are slept through before one is watched again
    TIMERS_MS = 100                 # what waiting for packets may last: connections end meanwhile


cdef class Batch:
    """Room for 64 packets, and the sockets they come and go by; without a socket for those in memory alone."""

    def __cinit__(self):
        cdef unsigned char[::1] view
        self.queue_fd = self.headers_queue = -1
        self.arena_memory = mmap.mmap(-1, ARENA_ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = self.arena_memory
        self.box.arena = &view[0]
        self.box.packet_fd = self.box.raw_fd = self.box.raw6_fd = -1

    def attach(self, queue_socket, int number):
        """Take the packets of queue *number* from *queue_socket*; a test's may be a socket pair."""
        queue_socket.setblocking(True)
        netlink.wait_at_most(queue_socket, TIMERS_MS)
        self.queue_socket = queue_socket
        self.queue_fd = queue_socket.fileno()
        self.queue = number
        self.allocate()

    def take_headers(self, int number, mark_mask):
        """Take queue *number* of the same socket for one whose packets come without what follows their headers."""
        self.headers_queue = number
        self.mark_mask = mark_mask
        self.mark_shift = (mark_mask & -mark_mask).bit_length() - 1

    def send_by(self, packet_socket, raw_sockets):
        """Let what DR, TUN and ICMP send leave by these sockets, which other workers use, too."""
        self.box.packet_fd = packet_socket.fileno()
        self.box.raw_fd = raw_sockets[AF_INET].fileno()
        if AF_INET6 in raw_sockets:
            self.box.raw6_fd = raw_sockets[AF_INET6].fileno()

    def allocate(self):
        """Make room for what is received."""
        cdef unsigned char[::1] view
        cdef int i
        self.receive_memory = mmap.mmap(-1, BATCH * MESSAGE_ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = self.receive_memory
        self.buffers = &view[0]
        for i in range(BATCH):
            self.incoming[i].iov_base = self.buffers + i * MESSAGE_ROOM
            self.incoming[i].iov_len = MESSAGE_ROOM
            self.messages[i].msg_hdr.msg_iov = &self.incoming[i]
            self.messages[i].msg_hdr.msg_iovlen = 1

    cdef int receive(self, bint wait) noexcept nogil:
        """Return how many messages have come, < 0 and errno for none; *wait* for the first one, but for no others."""
        cdef int count
        if not wait:
            return recvmmsg(self.queue_fd, self.messages, BATCH, MSG_DONTWAIT, NULL)
        if self.hope > 0:
            count = self._watch()
            if count > 0:
                self.hope = min(self.hope + 1, <int> MOST_HOPE)
                return count
            self.hope -= 1 if self.hope > 1 else 1 + PATIENCE
        else:
            self.hope += 1
        # SO_RCVTIMEO ends the waiting, for timers may be due.
        return recvmmsg(self.queue_fd, self.messages, BATCH, MSG_WAITFORONE, NULL)

    cdef int _watch(self) noexcept nogil:
        """Ask for packets about as long as going to sleep and being woken takes; return as ``receive``.

        Worth it where packets come close upon each other: while every second time there was one.
        """
        cdef int count = 0
        cdef uint64_t until = fine_now() + WATCH_NS
        while count <= 0 and fine_now() < until:
            count = recvmmsg(self.queue_fd, self.messages, BATCH, MSG_DONTWAIT, NULL)
        return count

    cdef bint read(self, int messages) noexcept nogil:
        """Find the packets in so many *messages*; return True when one of these was a knock."""
        cdef int i
        cdef unsigned char *message
        cdef Packet *packet
        cdef bint knocked = False
        self.count = 0
        for i in range(messages):
            message = self.buffers + i * MESSAGE_ROOM
            if not is_packet(message, self.messages[i].msg_len):
                if is_knock(message, self.messages[i].msg_len):
                    knocked = True
                else:
                    self.refused += 1
                continue
            packet = &self.packets[self.count]
            read_message(message, self.messages[i].msg_len, &packet.queued)
            packet.headers_only = packet.queued.truncated and packet.queued.queue == self.headers_queue
            packet.message = message
            close_around(message, &packet.queued)
            self.count += 1
        return knocked

    cdef void answer(self) noexcept nogil:
        """Send what leaves in the place of packets, and the verdicts on all of them."""
        cdef int i
        cdef Packet *packet
        open_bytes(self.buffers, BATCH * MESSAGE_ROOM)
        for i in range(self.count):
            packet = &self.packets[i]
            if packet.steer:
                verdict_marked(packet.message, &packet.queued, packet.queued.mark & ~self.mark_mask |
                               packet.steer << self.mark_shift, &self.outgoing[i])
            elif packet.outcome == REWRITTEN:
                verdict_with_packet(&packet.queued, &self.outgoing[i])
            elif packet.outcome == PASSED_BYPASS:
                verdict_marked(packet.message, &packet.queued, 0, &self.outgoing[i])
            elif packet.outcome == PASSED_WHOLE:
                verdict_alone(packet.message, &packet.queued, <int> (VERDICT_QUEUE | <uint32_t> self.queue << 16),
                              &self.outgoing[i])
            else:
                verdict_alone(packet.message, &packet.queued, verdict_of(packet), &self.outgoing[i])
        self.lost += send_all(&self.box)
        self._send(0, self.count)

    cdef void _send(self, int first, int count) noexcept nogil:
        """Send the verdicts [first, first + count) in one call; in halves when the kernel has no memory for all.

        A packet whose rewritten form cannot be sent at all is dropped: an unanswered one would stay in the
        queue for ever.
        """
        cdef msghdr message
        if count == 0:
            return
        memset(&message, 0, sizeof(message))
        message.msg_iov = &self.outgoing[first]
        message.msg_iovlen = count
        while sendmsg(self.queue_fd, &message, 0) < 0:
            if c_errno == EINTR:
                continue
            if count > 1:
                self._send(first, count // 2)
                self._send(first + count // 2, count - count // 2)
                return
            self.refused += 1
            if self.outgoing[first].iov_len == VERDICT_HEADER:
                return
            verdict_alone(<unsigned char *> self.outgoing[first].iov_base, &self.packets[first].queued, VERDICT_DROP,
                          &self.outgoing[first])


cdef int verdict_of(const Packet *packet) noexcept nogil:
    """Return netfilter's verdict on a packet whose outcome is known."""
    if packet.steer:
        return VERDICT_ACCEPT
    if packet.outcome == PASSED_WHOLE:
        return VERDICT_QUEUE
    return VERDICT_DROP if packet.outcome >= DROPPED_TRUNCATED or packet.outcome == FORWARDED else VERDICT_ACCEPT


cdef inline void close_around(unsigned char *message, Queued *queued) noexcept nogil:
    """Leave only the packet itself open until the verdicts are written; FTP opens what it grows by."""
    cdef unsigned char *end = queued.data + queued.length
    if queued.data == NULL:
        end = message
    else:
        close_bytes(message, queued.data - message)
    close_bytes(end, message + MESSAGE_ROOM - end)
