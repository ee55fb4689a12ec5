"""The way of one packet again, at C speed: receive, parse, find, [schedule], forward, account, verdict.

Read director.py first; this file tells the same story under the same headings.  What is decided by, the
services, servers and connections, is in ``_slots.pyx``.

One thread runs ``FastDirector.run`` without the GIL: up to 64 packets per system call come in, up to 64
verdicts per system call go out, in the order of their numbers.  The GIL is taken at one place,
``_schedule``, for a new connection only.  An established packet touches two cache lines of the table and
those of its server and service; the lines of a whole batch are asked for before the first is used.

Kernel: net/netfilter/nfnetlink_queue.c for the queue, net/netfilter/ipvs/ for everything decided here.
"""
import mmap
import os
import socket
cimport cython
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno as c_errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lbq._flowtable cimport (CONNECTION_INACTIVE, DIRECTION_IN, DIRECTION_OUT, TICK_BITS, FlowEntry, drop_entry, enter,
                             find, hash_key, home, likely_entry, mix, next_due, prefetch, set_deadline, take_entry,
                             wheel_remove)
from lbq._nfqueue cimport (MSG_DONTWAIT, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_HEADER, Queued, iovec, is_packet,
                           mmsghdr, msghdr, read_message, recvmmsg, sendmsg, verdict_alone, verdict_with_packet)
from lbq._slots cimport INET, SERVER_AVAILABLE, SERVER_LOCAL, Counters, ServerLink, ServerSlot, Slots
from lbq cimport packet as pkt
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.modes cimport nat
from lbq.protocols cimport icmp, tcp
from lbq.schedulers.base cimport Scheduler

from lbq import netlink
from lbq.errors import HostError
from lbq.model import Verdict
from lbq.protocols.tcp import TIMEOUTS as TCP_TIMEOUTS
from lbq.protocols.udp import TIMEOUTS as UDP_TIMEOUTS

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd "pollfd":
        int fd
        short events
        short revents
    int poll(pollfd *descriptors, unsigned long count, int timeout)
    int POLLIN

cdef extern from "<time.h>" nogil:
    cdef struct timespec "timespec":
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr "sockaddr":
        pass
    ssize_t sendto(int fd, const void *data, size_t length, int flags, const sockaddr *to, unsigned int size)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr "in_addr":
        uint32_t s_addr
    cdef struct sockaddr_in "sockaddr_in":
        unsigned short sin_family
        in_addr sin_addr

cdef enum:
    BATCH = 64                      # messages per system call; past the knee of the curve, see docs/performance.md
    # A packet and its attributes; an odd number of cache lines and of pages, so that the headers of 64 messages do
    # not compete for the same sets of the caches.
    MESSAGE_ROOM = 65536 + 4096 + 192
    ICMP_ROOM = 576
    TCP = 6
    UDP = 17
    FTP_DATA = 20
    LOOPBACK = 1                    # ifindex of lo in every namespace
    LOCAL_IN = 1                    # the hooks where replies are seen
    POSTROUTING = 4

cdef enum:                          # why a packet went the way it went; index of the counters
    REWRITTEN
    PASSED_NOT_OURS
    PASSED_NO_SERVICE
    PASSED_NOT_OPENING
    PASSED_NO_CONNECTION
    PASSED_FTP_DATA
    DROPPED_TRUNCATED               # from here on: dropped
    DROPPED_MALFORMED
    DROPPED_FRAGMENT
    DROPPED_NO_SERVER
    DROPPED_SERVER_GONE
    DROPPED_TABLE_FULL
    OUTCOMES

OUTCOME_NAMES = ("rewritten", "passed_not_ours", "passed_no_service", "passed_not_opening", "passed_no_connection",
                 "passed_ftp_data", "dropped_truncated", "dropped_malformed", "dropped_fragment", "dropped_no_server",
                 "dropped_server_gone", "dropped_table_full")

cdef struct Packet:                 # one queued packet, parsed
    Queued queued
    unsigned char *message          # the netlink message it came in
    int length                      # IP total length
    int protocol
    int flags                       # TCP header flags
    uint32_t source, destination
    int source_port, destination_port
    bint reply                      # from a real server
    int outcome                     # REWRITTEN while parsing found nothing wrong
    uint64_t hashed

cdef struct Statistics:
    uint64_t packets, bytes, conns, expired, icmp_sent, icmp_limited, verdict_errors, scheduler_errors
    uint64_t outcomes[OUTCOMES]


@cython.final                       # its methods call each other directly: 5 to 10 ns of an established packet's 70
cdef class FastDirector(Slots):
    """The packet path of one director, over the connections, services and servers in its slots.

    Addresses are host-order integers, times nanoseconds of CLOCK_MONOTONIC.  The interface is the one of
    ``director.Director``; docs/architecture.md has it in one page.
    """
    cdef Statistics counted
    cdef uint64_t tcp_timeouts[11]          # seconds
    cdef uint64_t udp_timeout
    cdef icmp.RateLimit limit
    cdef unsigned char answer[ICMP_ROOM]
    cdef int answer_length
    cdef object queue_socket, raw_socket, receive_memory
    cdef Flow flow
    cdef int queue, queue_fd, raw_fd
    cdef unsigned char *buffers
    cdef mmsghdr messages[BATCH]
    cdef iovec incoming[BATCH]
    cdef iovec outgoing[BATCH]
    cdef Packet batch[BATCH]

    # ---- Setting up ------------------------------------------------------------------------------

    def __cinit__(self):
        cdef int state
        self.queue_fd = self.raw_fd = -1
        self.flow = Flow(0, 0, 0, 0, 0)
        self.limit = icmp.RateLimit()
        for state, seconds in enumerate(TCP_TIMEOUTS):
            self.tcp_timeouts[state] = seconds
        self.udp_timeout = UDP_TIMEOUTS[0]

    def set_timeouts(self, tcp_seconds, tcp_fin_seconds, udp_seconds):
        """Set the timeouts of ESTABLISHED, FIN_WAIT and UDP, for packets from now on; 0 keeps one."""
        self.tcp_timeouts[tcp.ESTABLISHED] = tcp_seconds or self.tcp_timeouts[tcp.ESTABLISHED]
        self.tcp_timeouts[tcp.FIN_WAIT] = tcp_fin_seconds or self.tcp_timeouts[tcp.FIN_WAIT]
        self.udp_timeout = udp_seconds or self.udp_timeout

    def statistics(self):
        """Return all counters by name."""
        cdef Statistics *counted = &self.counted
        cdef int outcome
        named = {name: counted.outcomes[outcome] for outcome, name in enumerate(OUTCOME_NAMES)}
        accepted = sum(number for name, number in named.items() if not name.startswith("dropped"))
        return {"packets": counted.packets, "bytes": counted.bytes, "accepted": accepted,
                "connections": self.table.used, "connections_max": self.table.capacity, "conns": counted.conns,
                "expired": counted.expired, "icmp_sent": counted.icmp_sent, "icmp_limited": counted.icmp_limited,
                "verdict_errors": counted.verdict_errors, "scheduler_errors": counted.scheduler_errors, **named}

    # ---- One packet, for tests and for explaining ---------------------------------------------------

    def handle(self, bytearray packet, int hook, int form=0, int out_device=0, uint64_t now_ns=0, bint truncated=False):
        """Decide about one packet as ``run`` would; it is rewritten in place."""
        cdef Packet one
        one.queued.data = packet
        one.queued.length = len(packet)
        one.queued.hook = hook
        one.queued.form = form
        one.queued.out_device = out_device
        one.queued.truncated = truncated
        self._prepare(&one)
        cdef int outcome = self._decide(&one, now_ns)
        answer = self.answer[:self.answer_length] if self.answer_length else None
        self.answer_length = 0
        return Verdict(VERDICT_DROP if outcome >= DROPPED_TRUNCATED else VERDICT_ACCEPT, outcome == REWRITTEN, answer)

    def expire(self, uint64_t now_ns):
        """Forget every connection whose time is over at *now_ns*."""
        cdef int budget
        while self.table.used and self.table.tick < now_ns >> TICK_BITS:
            budget = 1 << 16
            self._expire(now_ns, &budget)

    # ---- Parse ----------------------------------------------------------------------------------------

    cdef void _prepare(self, Packet *packet) noexcept nogil:
        """Parse the packet and work out the hash it will be found by."""
        packet.outcome = parse(packet)
        if packet.outcome != REWRITTEN:
            return
        packet.reply = packet.queued.hook == LOCAL_IN or packet.queued.hook == POSTROUTING
        if packet.reply:
            packet.hashed = hash_key(&self.table, DIRECTION_OUT, packet.protocol, packet.destination,
                                     packet.destination_port, packet.source, packet.source_port)
        else:
            packet.hashed = hash_key(&self.table, DIRECTION_IN, packet.protocol, packet.source, packet.source_port,
                                     packet.destination, packet.destination_port)
        prefetch(&self.table.index[home(&self.table, packet.hashed)])

    # ---- Find, forward ----------------------------------------------------------------------------------

    cdef int _decide(self, Packet *packet, uint64_t now) noexcept nogil:
        """Decide about a prepared packet and carry it out; return and count the outcome."""
        if self.table.used == 0:
            self.table.tick = now >> TICK_BITS
        if packet.outcome == REWRITTEN:
            packet.outcome = self._reply(packet, now) if packet.reply else self._request(packet, now)
        self.counted.packets += 1
        self.counted.bytes += packet.queued.length
        self.counted.outcomes[packet.outcome] += 1
        return packet.outcome

    cdef int _reply(self, Packet *packet, uint64_t now) noexcept nogil:
        """A real server's packet to a client: make it come from the VIP."""
        cdef uint32_t number = find(&self.table, packet.hashed, DIRECTION_OUT, packet.protocol, packet.destination,
                                    packet.destination_port, packet.source, packet.source_port)
        cdef FlowEntry *entry
        cdef ServerSlot *server
        if number == 0:
            return PASSED_NO_CONNECTION
        entry = &self.table.entries[number]
        server = &self.servers[entry.server]
        if server.flags & SERVER_AVAILABLE:
            count_out(&server.counters, packet.length)
            count_out(&self.service_slots[server.service].counters, packet.length)
        self._change_state(entry, packet, tcp.OUT)
        nat.to_client(packet.queued.data, packet.length, entry.vaddr, entry.vport, packet.queued.form,
                      packet.queued.hook == LOCAL_IN or packet.queued.out_device == LOOPBACK)
        self._restart_timer(number, now)
        return REWRITTEN

    cdef int _request(self, Packet *packet, uint64_t now) noexcept nogil:
        """A client's packet to a virtual service: find or make its connection, address it to the server."""
        cdef uint32_t number = find(&self.table, packet.hashed, DIRECTION_IN, packet.protocol, packet.source,
                                    packet.source_port, packet.destination, packet.destination_port)
        cdef FlowEntry *entry
        cdef ServerSlot *server
        cdef int refused
        if number and self._reuses(&self.table.entries[number], packet):
            wheel_remove(&self.table, number)
            self._end(number)
            number = 0
        if number == 0:
            refused = self._admit(packet, now, &number)
            if refused != REWRITTEN:
                return refused
        entry = &self.table.entries[number]
        server = &self.servers[entry.server]
        if not server.flags & SERVER_AVAILABLE:
            return DROPPED_SERVER_GONE
        count_in(&server.counters, packet.length)
        count_in(&self.service_slots[server.service].counters, packet.length)
        self._change_state(entry, packet, tcp.IN)
        nat.to_real_server(packet.queued.data, packet.length, entry.daddr, entry.dport, packet.queued.form,
                           server.flags & SERVER_LOCAL != 0)
        entry.packets_in += 1
        self._restart_timer(number, now)
        return REWRITTEN

    cdef bint _reuses(self, FlowEntry *entry, Packet *packet) noexcept nogil:
        """Return True when a SYN wants the ports of a finished connection again (conn_reuse_mode 1)."""
        return (packet.protocol == TCP and packet.flags & tcp.SYN != 0 and entry.control == 0 and
                (entry.state == tcp.TIME_WAIT or entry.state == tcp.CLOSE))

    # ---- Schedule: a new connection ---------------------------------------------------------------------

    cdef int _admit(self, Packet *packet, uint64_t now, uint32_t *number) noexcept nogil:
        """Make a connection for a packet that has none, or say why there will be none."""
        cdef uint32_t service
        cdef int server
        if packet.protocol == TCP and not tcp.opens(packet.flags):
            return PASSED_NOT_OPENING
        service = self.find_service(packet.protocol, packet.destination, packet.destination_port)
        if service == 0:
            return PASSED_NO_SERVICE
        if packet.source_port == FTP_DATA:
            return PASSED_FTP_DATA
        server = self._schedule(service - 1, packet)
        if server < 0:
            self._refuse(packet, now)
            return DROPPED_NO_SERVER
        number[0] = self._connect(packet, server, now)
        return REWRITTEN if number[0] else DROPPED_TABLE_FULL

    cdef int _schedule(self, uint32_t service_slot, Packet *packet) noexcept with gil:
        """Ask the scheduler; return a server's slot, or -1.  The only Python per connection, never per packet."""
        cdef VirtualService service = self.service_objects[service_slot]
        cdef Flow flow = self.flow
        cdef RealServer server
        flow.protocol = packet.protocol
        flow.caddr = packet.source
        flow.cport = packet.source_port
        flow.vaddr = packet.destination
        flow.vport = packet.destination_port
        try:
            server = (<Scheduler?> service.scheduler).schedule(service, flow)
        except BaseException:                   # a user's own scheduler: its bug must not stop the others' packets
            self.counted.scheduler_errors += 1
            return -1
        if server is None or server.position < 0 or server.service is not service:
            return -1
        return server.slot

    cdef uint32_t _connect(self, Packet *packet, int slot, uint64_t now) noexcept nogil:
        """Enter a connection to the server in *slot*; return its number, 0 when the table is full."""
        cdef uint32_t number
        cdef FlowEntry *entry
        cdef ServerSlot *server = &self.servers[slot]
        if not self.reserve():
            return 0
        number = take_entry(&self.table)
        if number == 0:
            return 0
        entry = &self.table.entries[number]
        entry.caddr = packet.source
        entry.cport = packet.source_port
        entry.vaddr = packet.destination
        entry.vport = packet.destination_port
        entry.daddr = server.address
        entry.dport = server.port if server.port else packet.destination_port
        entry.protocol = packet.protocol
        entry.family = INET
        entry.server = slot
        entry.flags = CONNECTION_INACTIVE | server.mode
        self.links[slot].inactive[0] += 1
        server.counters.conns += 1
        self.service_slots[server.service].counters.conns += 1
        self.counted.conns += 1
        # What every first packet leads to, so that the wheel need not look at it before that time.
        entry.timeout = self.udp_timeout if packet.protocol == UDP else self.tcp_timeouts[tcp.SYN_RECV]
        enter(&self.table, number, now + entry.timeout * <uint64_t> 1000000000)
        return number

    cdef void _refuse(self, Packet *packet, uint64_t now) noexcept nogil:
        """Prepare the ICMP port unreachable for a client that no server can take, within the rate limits."""
        if not self.limit.allow(packet.source, now):
            self.counted.icmp_limited += 1
            return
        self.answer_length = icmp.port_unreachable(packet.queued.data, packet.length, self.answer)
        self.counted.icmp_sent += 1

    # ---- Account ----------------------------------------------------------------------------------------

    cdef void _change_state(self, FlowEntry *entry, Packet *packet, int direction) noexcept nogil:
        """Move a TCP connection through the state table and between the active and inactive counters."""
        cdef int state
        cdef ServerLink *link
        if entry.protocol != TCP:
            entry.timeout = self.udp_timeout
            return
        state = tcp.next_state(direction, packet.flags, entry.state)
        entry.timeout = self.tcp_timeouts[state]
        if state == entry.state:
            return
        entry.state = state
        if tcp.is_active(state) == (entry.flags & CONNECTION_INACTIVE == 0):
            return
        link = &self.links[entry.server]
        if entry.flags & CONNECTION_INACTIVE:
            link.active[0] += 1
            link.inactive[0] -= 1
        else:
            link.active[0] -= 1
            link.inactive[0] += 1
        entry.flags ^= CONNECTION_INACTIVE

    cdef void _restart_timer(self, uint32_t number, uint64_t now) noexcept nogil:
        set_deadline(&self.table, number, now + self.table.entries[number].timeout * <uint64_t> 1000000000)

    cdef void _end(self, uint32_t number) noexcept nogil:
        """Forget connection *number*, which is out of the wheel, and give its server the place back."""
        cdef FlowEntry *entry = &self.table.entries[number]
        cdef ServerLink *link = &self.links[entry.server]
        if entry.flags & CONNECTION_INACTIVE:
            link.inactive[0] -= 1
        else:
            link.active[0] -= 1
        drop_entry(&self.table, number)

    cdef void _expire(self, uint64_t now, int *budget) noexcept nogil:
        """Forget connections whose time is over, looking at *budget* entries at the most."""
        cdef uint32_t number
        while True:
            number = next_due(&self.table, now, budget)
            if number == 0:
                return
            self._end(number)
            self.counted.expired += 1

    # ---- Receive, verdict: the loop ------------------------------------------------------------------------

    def open_queue(self, int number, int queue_length=65536):
        """Bind NFQUEUE *number* with whole packets, GSO ones unsegmented, and open the raw socket for ICMP."""
        self.attach(netlink.open_queue(number, queue_length, 2 * BATCH * MESSAGE_ROOM), number)
        self.raw_socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        self.raw_fd = self.raw_socket.fileno()

    def attach(self, queue_socket, int number):
        """Take the packets of queue *number* from *queue_socket*; a test's may be a socket pair."""
        self.queue_socket = queue_socket
        self.queue_fd = queue_socket.fileno()
        self.queue = number
        self._allocate_buffers()

    def _allocate_buffers(self):
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

    def run(self, int wake_fd):
        """Handle packets until *wake_fd* is readable."""
        cdef int error
        with nogil:
            error = self._run(wake_fd)
        if error:
            raise HostError(f"cannot receive from NFQUEUE {self.queue}: {os.strerror(error)}; is CAP_NET_ADMIN gone?")

    cdef int _run(self, int wake_fd) noexcept nogil:
        cdef pollfd waiting[2]
        cdef int count, budget
        cdef uint64_t now, checked = 0
        waiting[0].fd, waiting[0].events = wake_fd, POLLIN
        waiting[1].fd, waiting[1].events = self.queue_fd, POLLIN
        while True:
            count = recvmmsg(self.queue_fd, self.messages, BATCH, MSG_DONTWAIT, NULL)
            if count < 0 and c_errno != EAGAIN and c_errno != EINTR and c_errno != ENOBUFS and c_errno != ENOMEM:
                return c_errno
            now = coarse_now()
            if count > 0:
                self._handle_batch(count, now)
            budget = 2 * BATCH                      # a batch may make BATCH connections; it must end more than it makes
            if self.table.used:
                self._expire(now, &budget)
            if count <= 0 or now != checked:        # idle, or the clock moved on: is anybody asking?
                checked = now
                waiting[0].revents = 0
                poll(waiting, 2, 100 if count <= 0 and budget > 0 else 0)
                if waiting[0].revents:
                    return 0

    cdef void _handle_batch(self, int count, uint64_t now) noexcept nogil:
        """Handle *count* messages in three sweeps, so that the cache lines of all are on their way at once."""
        cdef int i, n = 0
        cdef unsigned char *message
        for i in range(count):
            message = self.buffers + i * MESSAGE_ROOM
            if not is_packet(message, self.messages[i].msg_len):
                self.counted.verdict_errors += 1
                continue
            read_message(message, self.messages[i].msg_len, &self.batch[n].queued)
            self._prepare(&self.batch[n])
            self.batch[n].message = message
            n += 1
        self._sweep(n, now)
        for i in range(n):
            if self.batch[i].outcome == REWRITTEN:
                verdict_with_packet(self.queue, &self.batch[i].queued, &self.outgoing[i])
            else:
                verdict_alone(self.batch[i].message, self.queue, self.batch[i].queued.id,
                              VERDICT_DROP if self.batch[i].outcome >= DROPPED_TRUNCATED else VERDICT_ACCEPT,
                              &self.outgoing[i])
        self._send(0, n)

    cdef void _sweep(self, int count, uint64_t now) noexcept nogil:
        """Decide about the *count* prepared packets of the batch, in their order."""
        cdef int i
        for i in range(count):
            if self.batch[i].outcome == REWRITTEN:
                prefetch(&self.table.entries[likely_entry(&self.table, self.batch[i].hashed)])
        for i in range(count):
            self._decide(&self.batch[i], now)
            if self.answer_length:
                self._send_answer()

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
            self.counted.verdict_errors += 1
            if self.outgoing[first].iov_len == VERDICT_HEADER:
                return
            verdict_alone(<unsigned char *> self.outgoing[first].iov_base, self.queue,
                          self.batch[first].queued.id, VERDICT_DROP, &self.outgoing[first])

    cdef void _send_answer(self) noexcept nogil:
        """Send the prepared ICMP packet; the header is ours (IP_HDRINCL), the kernel routes it."""
        cdef sockaddr_in client
        memset(&client, 0, sizeof(client))
        client.sin_family = INET
        memcpy(&client.sin_addr, &self.answer[16], 4)
        sendto(self.raw_fd, self.answer, self.answer_length, MSG_DONTWAIT, <sockaddr *> &client, sizeof(client))
        self.answer_length = 0

    # ---- In memory, for benchmarks ----------------------------------------------------------------------------

    def benchmark_established(self, int flows, int packets, int seed=1):
        """Open *flows* TCP connections to the first service, then send *packets* 64-byte ACKs of random ones.

        Every other ACK is a server's.  Returns nanoseconds per ACK: parse, find, state, rewrite, counters and
        timer, in batches as ``run`` handles them, the packets' own bytes in cache.  Asks for an empty table.
        """
        key = next(iter(self.services.by_key))
        cdef uint64_t random = seed, start, spent = 0
        cdef int done = 0, i
        cdef uint32_t vip = key.address, flow_number
        cdef int vport = key.port
        cdef uint64_t rewritten = self.counted.outcomes[REWRITTEN]
        cdef uint16_t[::1] server_of = memoryview(bytearray(2 * flows)).cast("H")   # entries stay out of the cache
        self._allocate_buffers()
        with nogil:
            for flow_number in range(<uint32_t> flows):
                for i in range(2):
                    self._synthesize(i, flow_number, vip, vport, tcp.ACK if i else tcp.SYN)
                    self._prepare(&self.batch[i])
                    self._decide(&self.batch[i], 1)
                server_of[flow_number] = self.table.entries[1 + flow_number].server
            while done < packets:
                for i in range(BATCH):
                    random += 0x9E3779B97F4A7C15ULL     # splitmix64
                    flow_number = <uint32_t> (((mix(random, 0xBF58476D1CE4E5B9ULL) >> 32) * <uint32_t> flows) >> 32)
                    self._synthesize(i, flow_number, vip, vport, tcp.ACK)
                    if i & 1:
                        self._turn_round(i, &self.servers[server_of[flow_number]])
                start = fine_now()
                for i in range(BATCH):
                    self._prepare(&self.batch[i])
                self._sweep(BATCH, 1 + done)
                spent += fine_now() - start
                done += BATCH
        if self.counted.outcomes[REWRITTEN] - rewritten != 2 * <uint64_t> flows + done:
            raise AssertionError(f"not every packet was rewritten: {self.statistics()}")
        return spent / done

    cdef void _synthesize(self, int i, uint32_t flow_number, uint32_t vip, int vport, int flags) noexcept nogil:
        """Write a 64-byte TCP segment of client *flow_number* into place *i* of the batch."""
        cdef unsigned char *data = self.buffers + i * 128
        memset(data, 0, 64)
        data[0], data[3], data[8], data[9] = 0x45, 64, 64, TCP
        pkt.put32(data, 12, 0x0A000001 + flow_number // 50000)
        pkt.put32(data, 16, vip)
        pkt.put16(data, 20, 10000 + flow_number % 50000)
        pkt.put16(data, 22, vport)
        data[32], data[33] = 0x50, flags
        pkt.put16(data, 10, pkt.header_checksum(data, 20))
        pkt.put16(data, 36, pkt.transport_checksum(data, 20, 64, 36))
        memset(&self.batch[i].queued, 0, sizeof(Queued))
        self.batch[i].queued.data = data
        self.batch[i].queued.length = 64

    cdef void _turn_round(self, int i, ServerSlot *server) noexcept nogil:
        """Make place *i* of the batch its *server*'s answer; nobody looks at the checksums."""
        cdef unsigned char *data = self.batch[i].queued.data
        pkt.put32(data, 16, pkt.get32(data, 12))
        pkt.put16(data, 22, pkt.get16(data, 20))
        pkt.put32(data, 12, server.address)
        pkt.put16(data, 20, server.port)
        self.batch[i].queued.hook = POSTROUTING


# ---- Helpers ------------------------------------------------------------------------------------------------

cdef int parse(Packet *packet) noexcept nogil:
    """Fill in the five-tuple and flags; return REWRITTEN, or why the packet cannot be a connection's."""
    cdef unsigned char *data = packet.queued.data
    cdef int length = packet.queued.length, header, needed
    if packet.queued.truncated:
        return DROPPED_TRUNCATED
    if length < 20 or data[0] >> 4 != 4:
        return DROPPED_MALFORMED
    header = (data[0] & 15) * 4
    packet.length = pkt.get16(data, pkt.IP_LENGTH)
    if header < 20 or packet.length < header:
        return DROPPED_MALFORMED
    if packet.length > length:
        return DROPPED_TRUNCATED
    if pkt.get16(data, pkt.IP_FRAGMENT) & pkt.FRAGMENT_MASK:
        return DROPPED_FRAGMENT
    packet.protocol = data[pkt.IP_PROTOCOL]
    if packet.protocol != TCP and packet.protocol != UDP:
        return PASSED_NOT_OURS
    needed = 20 if packet.protocol == TCP else 8
    if packet.length < header + needed:
        return DROPPED_MALFORMED
    packet.flags = data[header + pkt.TCP_FLAGS] if packet.protocol == TCP else 0
    packet.source = pkt.get32(data, pkt.IP_SOURCE)
    packet.destination = pkt.get32(data, pkt.IP_DESTINATION)
    packet.source_port = pkt.get16(data, header)
    packet.destination_port = pkt.get16(data, header + 2)
    return REWRITTEN


cdef inline void count_in(Counters *counters, int length) noexcept nogil:
    counters.packets_in += 1
    counters.bytes_in += length


cdef inline void count_out(Counters *counters, int length) noexcept nogil:
    counters.packets_out += 1
    counters.bytes_out += length


cdef inline uint64_t coarse_now() noexcept nogil:
    """Return CLOCK_MONOTONIC in ns, a few ms coarse: read from memory, no system call."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <uint64_t> now.tv_sec * 1000000000 + now.tv_nsec


cdef inline uint64_t fine_now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t> now.tv_sec * 1000000000 + now.tv_nsec
