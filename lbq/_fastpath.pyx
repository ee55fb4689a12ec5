"""The way of one packet again, at C speed: receive, parse, find, [schedule], forward, account, verdict.

Read director.py first; this file tells the same story under the same headings, in seven layers:

    _slots.pyx         what is decided by: services, servers and connections in numbered slots, and the commands
    _connections.pyx   the life of a connection: admission, persistence, states, ends
    _forwarding.pyx    DR, TUN, this host: everything that is not plain NAT
    _related.pyx       ICMP errors, FTP
    _offload.pyx       connections that conntrack carries
    _batch.pyx         64 packets of one worker: receive, verdicts
    _fastpath.pyx      the established packet and the loop around it

A worker's thread runs without the GIL: up to 64 packets per system call come in, up to 64 verdicts per system call go
out, in the order of their numbers.  The GIL is taken at one place, ``choose``, for a new connection only (and for
FTP control packets).  An established packet touches two cache lines of the table and those of its server and service;
the lines of a whole batch are asked for before the first is used.

**Workers** share everything that is decided by, and decide one after the other: each receives, parses and sends
verdicts beside the others, and holds the lock while it decides about its batch.  So a decision is the same as with one
worker (rr in turn, templates and FTP for all, counters exact), and that is a small part of what a packet costs, most
of which is the kernel's (docs/performance.md).  The first worker holds the lock whenever it is in Python: between two
batches it does the front's commands.  Who holds it may wait for the GIL; who has the GIL never waits for it.

Kernel: net/netfilter/nfnetlink_queue.c for the queue, net/netfilter/ipvs/ for everything decided here.
"""
import os
import threading
cimport cython
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno as c_errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lbq._batch cimport BATCH, HEADERS, MESSAGE_ROOM, Batch, verdict_of
from lbq._bounds cimport close_bytes, open_bytes
from lbq._clock cimport coarse_now, fine_now
from lbq._connections cimport see
from lbq._flowtable cimport (DIRECTION_IN, DIRECTION_OUT, FLAG_NO_CPORT, FLAG_NO_OUTPUT, FLAG_OFFLOADED, INET, INET6,
                             MODE_MASK, TICK_BITS, FlowEntry, Key, find, has_key, hash_key, home, likely_entry,
                             link_entry, mix, prefetch, set_deadline, unlink_entry)
from lbq._forwarding cimport count_in, count_out
from lbq._nfqueue cimport MSG_DONTWAIT, Queued
from lbq._packet cimport (DROPPED_MALFORMED, DROPPED_NAT_ICMP, DROPPED_NO_SERVER, DROPPED_SERVER_GONE,
                          FORWARDED, LOCAL_IN, LOOPBACK, OUTCOMES, PASSED_BYPASS, PASSED_ICMP,
                          PASSED_NO_CONNECTION, PASSED_NO_SERVICE, PASSED_NOT_OURS, PASSED_REPLY, PASSED_WHOLE,
                          POSTROUTING, REWRITTEN, SCTP, TCP, UDP, Packet, client_key, from_loopback, hops, parse,
                          reply_key)
from lbq._slots cimport (MOVE_QUIESCED, NO_SERVER, SERVER_AVAILABLE, SERVER_ENDS, SERVER_INET6, SERVER_LOCAL, Route,
                         ServerSlot, ServiceSlot)
from lbq._trace cimport Record, Traced
from lbq._transmit cimport Outgoing, sockaddr_in, sockaddr_in6
from lbq cimport packet as pkt
from lbq.modes cimport nat
from lbq.protocols cimport icmp, sctp, tcp

from lbq import netlink
from lbq._trace import OUTCOME_NAMES
from lbq.errors import HostError
from lbq.model import AF_INET, AF_INET6, Sent, Verdict

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd "pollfd":
        int fd
        short events
        short revents
    int poll(pollfd *descriptors, unsigned long count, int timeout)
    int POLLIN

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr "sockaddr":
        pass
    ssize_t sendto(int fd, const void *data, size_t length, int flags, const sockaddr *to, unsigned int size)

cdef enum:
    GROUP = 16                      # packets whose connections are fetched while as many before are decided about
    FTP_GROWTH = 64                 # bytes that a rewritten FTP message may be longer
    NAT = 0
    REUSE_FIN_WAIT = 2              # in conn_reuse_mode

cdef struct Statistics:
    uint64_t packets, bytes
    uint64_t outcomes[OUTCOMES]


@cython.final                       # its methods call each other directly: 5 to 10 ns of an established packet's 70
cdef class FastDirector(Traced):
    """The packet path of one director, over the connections, services and servers in its slots.

    Addresses are host-order integers, times nanoseconds of CLOCK_MONOTONIC.  The interface is the one of
    ``director.Director``; docs/architecture.md has it in one page.
    """
    cdef Statistics counted
    cdef uint32_t looked_up                 # the table's changes when the entries of a batch were fetched ahead
    cdef list batches                       # of the workers
    cdef Batch first                        # the one of the thread that does the front's commands
    cdef object raw_sockets, packet_socket
    cdef list threads                       # of the other workers
    cdef bint many                          # are there others? then the lock is used
    cdef bint stopping                      # they are to end
    cdef int failed                         # one of them has, for this errno
    cdef int endings                        # of connections, between two batches of the first worker
    cdef pthread_mutex_t mutex

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)
        self.first = Batch()
        self.batches = [self.first]
        self.threads = []
        self.endings = 2 * BATCH
        self.box = &self.first.box

    def statistics(self):
        """Return all counters by name."""
        cdef Statistics *counted = &self.counted
        cdef int outcome
        named = {name: counted.outcomes[outcome] for outcome, name in enumerate(OUTCOME_NAMES)}
        accepted = sum(number for name, number in named.items()
                       if name == "rewritten" or name.startswith("passed"))
        refused, lost = 0, 0
        for batch in self.batches:
            refused += (<Batch> batch).refused
            lost += (<Batch> batch).lost
        return {"packets": counted.packets, "bytes": counted.bytes, "accepted": accepted,
                "connections": self.table.used, "connections_max": self.table.capacity, "conns": self.conns,
                "expired": self.expired, "started_over": self.started_over, "icmp_sent": self.icmp_sent,
                "icmp_limited": self.icmp_limited, "verdict_errors": refused,
                "send_errors": self.send_errors + lost,
                "scheduler_errors": self.scheduler_errors + self.services.scheduler_errors, **named,
                **self.followed_statistics()}

    # ---- One packet, for tests and for explaining ---------------------------------------------------

    def handle(self, bytearray packet, int hook, int form=0, int out_device=0, uint64_t now_ns=0, bint truncated=False,
               uint32_t mark=0, int headers=0):
        """Decide about one packet as ``run`` would; it is rewritten in place.

        *headers* > 0: only so many bytes are seen, and the kernel rewrites a longer one, told the verdict's number.
        """
        cdef Packet one
        memset(&one, 0, sizeof(one))
        one.queued.length = one.queued.whole = len(packet)
        if headers and headers < one.queued.whole:
            one.queued.length = headers
        packet.extend(bytes(FTP_GROWTH))
        one.queued.data = packet
        one.queued.hook = hook
        one.queued.form = form
        one.queued.out_device = out_device
        one.queued.mark = mark
        one.queued.truncated = truncated or one.queued.length < one.queued.whole
        one.headers_only = one.queued.length < one.queued.whole
        close_bytes(one.queued.data + one.queued.length, one.queued.whole - one.queued.length + FTP_GROWTH)
        self._prepare(&one)
        self.telling = True
        cdef int outcome = self._decide_seen(&one, now_ns) if self.tracing else self._decide(&one, now_ns)
        self.telling = False
        open_bytes(one.queued.data, len(packet))
        answer = self.answer[:self.answer_length] if self.answer_length else None
        self.answer_length = 0
        sent = self._what_leaves()
        del packet[max(one.queued.length, one.queued.whole if headers else 0):]
        return Verdict(verdict_of(&one), outcome == REWRITTEN and not one.steer, answer, sent,
                       outcome == PASSED_BYPASS, one.steer)

    cdef tuple _what_leaves(self):
        """Return what waits in the outbox, and empty it."""
        cdef int i
        cdef Outgoing *out
        sent = []
        for i in range(self.box.count):
            out = &self.box.waiting[i]
            next_hop = int.from_bytes(out.next_hop[:16 if out.is_ipv6 else 4], "big")
            sent.append(Sent(next_hop, out.head[:out.head_length] + out.body[:out.length], out.segment,
                             AF_INET6 if out.is_ipv6 else AF_INET))
        self.box.count = self.box.arena_used = 0
        return tuple(sent)

    def expire(self, uint64_t now_ns):
        """Forget every connection whose time is over at *now_ns*, and those of deleted servers that are to end."""
        cdef int budget
        while self.table.used and self.table.tick < now_ns >> TICK_BITS:
            budget = 1 << 16
            self.expire_due(now_ns, &budget)
        while self.flush_cursor:
            self.flush_some(1 << 16)

    # ---- Parse ----------------------------------------------------------------------------------------

    cdef void _prepare(self, Packet *packet) noexcept nogil:
        """Parse the packet and work out the hash it will be found by."""
        cdef Key key
        packet.outcome = parse(packet)
        packet.reply = packet.queued.hook == LOCAL_IN or packet.queued.hook == POSTROUTING
        packet.related = False
        packet.former = packet.steer = 0
        if packet.outcome != REWRITTEN:
            if packet.headers_only and (packet.outcome == PASSED_ICMP or packet.outcome == PASSED_NOT_OURS or
                                        packet.outcome == DROPPED_MALFORMED):
                packet.outcome = PASSED_WHOLE       # more is needed
            return
        if packet.reply:
            key = reply_key(packet)
            packet.hashed = hash_key(&self.table, DIRECTION_OUT, &key)
        else:
            key = client_key(packet)
            packet.hashed = hash_key(&self.table, DIRECTION_IN, &key)
        prefetch(&self.table.index[home(&self.table, packet.hashed)])

    # ---- Find, forward ----------------------------------------------------------------------------------

    cdef int _decide(self, Packet *packet, uint64_t now) noexcept nogil:
        """Decide about a prepared packet and carry it out; return and count the outcome."""
        if self.table.used == 0:
            self.table.tick = now >> TICK_BITS
        self.counted.packets += 1
        self.counted.bytes += packet.queued.whole
        if self.service_count[packet.family == INET6] == 0 and (
                packet.outcome == REWRITTEN or packet.outcome == PASSED_ICMP):
            packet.outcome = PASSED_NO_SERVICE      # the kernel's hooks go with the last service of the family
        elif packet.outcome == REWRITTEN:
            packet.outcome = self._reply(packet, now) if packet.reply else self._request(packet, now)
        elif packet.outcome == PASSED_ICMP:
            packet.outcome = self.icmp_reply(packet, now) if packet.reply else self.icmp_request(packet, now)
        self.counted.outcomes[packet.outcome] += 1
        return packet.outcome

    cdef int _decide_seen(self, Packet *packet, uint64_t now) noexcept nogil:
        """Decide about a prepared packet while somebody looks (lbq trace)."""
        cdef int waiting = self.box.count
        cdef Record *record = self.begin_record(packet, now)
        self._decide(packet, now)
        if record != NULL:
            self.end_record(record, packet, waiting)
        return packet.outcome

    cdef int _reply(self, Packet *packet, uint64_t now) noexcept nogil:
        """A real server's packet to a client: make it come from the VIP."""
        cdef uint32_t number = known(self, packet, DIRECTION_OUT)
        cdef FlowEntry *entry
        cdef ServerSlot *server
        cdef int outcome = REWRITTEN
        if number == 0:
            return self._unknown_reply(packet, now)
        entry = &self.table.entries[number]
        if packet.headers_only and not self.steer(packet, entry, now):
            return PASSED_WHOLE
        if entry.helper:
            outcome = self.ftp_server(packet, number, now)
            if outcome != REWRITTEN:
                return outcome
        if entry.flags & MODE_MASK == NAT and not packet.headers_only:
            to_client(packet, entry.vaddr, self.table.addresses[number].vaddr, entry.vport)
        elif entry.flags & MODE_MASK != NAT:
            outcome = PASSED_REPLY
            packet.steer = 0
        if entry.server != NO_SERVER:
            server = &self.servers[entry.server]
            if server.flags & SERVER_AVAILABLE:
                count_out(&server.counters, packet.length)
                count_out(&self.service_slots[server.service].counters, packet.length)
        see(self, entry, packet, tcp.OUT)
        self._restart_timer(number, now)
        return outcome

    cdef int _unknown_reply(self, Packet *packet, uint64_t now) noexcept nogil:
        """A packet of no connection's: pass it, unless the server is to hear that nobody waits for it."""
        cdef int slot = self.one_packet_server(packet) if self.has_ops_replies and packet.protocol == UDP else -1
        cdef ServerSlot *server
        cdef ServiceSlot *service
        if slot >= 0:
            server = &self.servers[slot]
            service = &self.service_slots[server.service]
            if packet.headers_only:
                return PASSED_WHOLE
            to_client(packet, service.address, self.service_addresses[server.service].octets,
                      service.port if service.port else packet.source_port)
            count_out(&server.counters, packet.length)
            count_out(&service.counters, packet.length)
            return REWRITTEN
        slot = self.server_at(packet) if self.settings.nat_icmp_send else -1
        if slot < 0:
            return PASSED_NO_CONNECTION
        if packet.protocol == TCP and packet.flags & tcp.RST or (
                packet.protocol == SCTP and packet.flags == sctp.EVENT_ABORT):
            return PASSED_NO_CONNECTION
        if packet.headers_only:
            return PASSED_WHOLE
        # From us, not from a client who is elsewhere.
        self.refuse(packet, NULL, icmp.NO_SERVER, 0, now,
                    NULL if packet.queued.hook == LOCAL_IN else &self.routes[slot])
        return DROPPED_NAT_ICMP

    cdef int _request(self, Packet *packet, uint64_t now) noexcept nogil:
        """A client's packet to a virtual service: find or make its connection, address it to the server."""
        cdef uint32_t number = known(self, packet, DIRECTION_IN)
        cdef FlowEntry *entry
        cdef ServerSlot *server
        cdef Route *route
        cdef uint32_t former = 0
        cdef bint ends = True, may_stay = False, opens
        cdef int outcome
        if number == 0 and self.waiting_cport:
            number = self._find_waiting(packet)
        if number:
            entry = &self.table.entries[number]
            opens = self._opens(packet)
            if opens and self._starts_over(entry):
                former, ends, number = number, entry.controlled == 0, 0
            elif entry.server != NO_SERVER and not self.servers[entry.server].flags & SERVER_AVAILABLE:
                if not (self.settings.expire_nodest_conn or self.servers[entry.server].flags & SERVER_ENDS):
                    return DROPPED_SERVER_GONE
                former, number = number, 0
            elif (opens or packet.protocol == UDP) and self._may_move(entry):
                former, may_stay, number = number, True, 0
        if number == 0:
            if packet.headers_only:         # before anything is decided, for that is done once
                return PASSED_WHOLE
            outcome = self.admit(packet, now, &number)
            if outcome == DROPPED_NO_SERVER and may_stay:
                number, former, outcome = former, 0, REWRITTEN      # there is no better one
            packet.former = former
            if outcome == DROPPED_NO_SERVER:
                self.refuse(packet, NULL, icmp.NO_SERVER, 0, now, NULL)
            if former and ends:             # now: the kernel's scheduler, too, still counts it
                self.started_over += 1
                self.expire_now(former, now)
            if outcome != REWRITTEN:
                return outcome
        entry = &self.table.entries[number]
        if packet.headers_only and not self.steer(packet, entry, now):
            return PASSED_WHOLE
        if entry.server == NO_SERVER:
            see(self, entry, packet, tcp.IN)
            outcome = self.forward(packet, entry, now)
        else:
            server = &self.servers[entry.server]
            route = &self.routes[entry.server]
            count_in(&server.counters, packet.length)
            count_in(&self.service_slots[server.service].counters, packet.length)
            see(self, entry, packet, tcp.IN)
            outcome = REWRITTEN
            if entry.helper:
                outcome = self.ftp_client(packet, number, now)
            if outcome == REWRITTEN:
                if (entry.flags & (MODE_MASK | FLAG_OFFLOADED) == NAT and not server.flags & SERVER_LOCAL and
                        not packet.headers_only and
                        (route.mtu == 0 or route.mtu >= packet.length) and hops(packet) > 1 and
                        not from_loopback(packet)):
                    if packet.family == INET:
                        nat.to_real_server(packet.queued.data, packet.length, entry.daddr, entry.dport,
                                           packet.queued.form, False)
                    else:
                        nat.to_real_server6(packet.queued.data, packet.protocol, packet.header, packet.length,
                                            self.table.addresses[number].daddr, entry.dport, packet.queued.form, False)
                else:
                    outcome = self.forward(packet, entry, now)
        entry.packets_in += 1
        if number:
            if entry.flags & FLAG_NO_CPORT:
                self._learn_cport(number, packet)
            self._restart_timer(number, now)
        else:                               # one-packet: it ends with its packet
            self.end_one_packet(entry)
        return outcome

    cdef uint32_t _find_waiting(self, Packet *packet) noexcept nogil:
        """Return the connection, announced by FTP, that waits for this client's port, or 0."""
        cdef Key key = client_key(packet)
        key.cport = 0
        return find(&self.table, hash_key(&self.table, DIRECTION_IN, &key), DIRECTION_IN, &key, FLAG_NO_CPORT)

    cdef void _learn_cport(self, uint32_t number, Packet *packet) noexcept nogil:
        """Enter a connection anew under the client's port, which its first packet tells."""
        cdef FlowEntry *entry = &self.table.entries[number]
        unlink_entry(&self.table, number)
        entry.cport = packet.source_port
        entry.flags &= ~<int> FLAG_NO_CPORT
        self.waiting_cport -= 1
        link_entry(&self.table, number)

    cdef bint _opens(self, Packet *packet) noexcept nogil:
        """Return True for a packet that opens a connection, whatever else it says."""
        if packet.protocol == TCP:
            return packet.flags & tcp.SYN != 0
        return packet.protocol == SCTP and packet.flags == sctp.EVENT_INIT

    cdef bint _starts_over(self, FlowEntry *entry) noexcept nogil:
        """Return True when such a packet ends *entry* and is scheduled afresh (expire_nodest_conn, conn_reuse_mode)."""
        if self.settings.expire_nodest_conn and entry.server != NO_SERVER and self.links[entry.server].weight[0] == 0:
            return True
        if self.settings.conn_reuse_mode == 0 or entry.control:
            return False
        if entry.protocol == SCTP:
            return entry.state == sctp.CLOSED
        return (entry.state == tcp.TIME_WAIT or entry.state == tcp.CLOSE or
                (self.settings.conn_reuse_mode & REUSE_FIN_WAIT and entry.state == tcp.FIN_WAIT and
                 entry.flags & FLAG_NO_OUTPUT))

    cdef bint _may_move(self, FlowEntry *entry) noexcept nogil:
        """Return True when the server of a datagram, or of what begins a conversation, is quiesced and may be left."""
        return (entry.server != NO_SERVER and entry.controlled == 0 and self.links[entry.server].weight[0] == 0 and
                self.service_slots[self.servers[entry.server].service].flags & MOVE_QUIESCED != 0)

    cdef void _restart_timer(self, uint32_t number, uint64_t now) noexcept nogil:
        set_deadline(&self.table, number, now + self.table.entries[number].timeout * <uint64_t> 1000000000)

    # ---- Receive, verdict: the loop ------------------------------------------------------------------------

    def open_queue(self, int number, int queue_length=65536, int workers=1):
        """Bind NFQUEUE *number* with whole packets, GSO ones unsegmented, and open the sockets of DR, TUN and ICMP.

        Each of the *workers* has one of the queues from *number* on; all but the first run in threads of their own
        from now on, each on a processor of its own while there are enough.
        """
        self.batches += [Batch() for _ in range(workers - 1)]
        for i, batch in enumerate(self.batches):
            batch.attach(netlink.open_queue(number + i, queue_length, 2 * BATCH * MESSAGE_ROOM), number + i)
        self.raw_sockets = netlink.open_raw()
        self.packet_socket = netlink.open_packet()
        for batch in self.batches:
            batch.send_by(self.packet_socket, self.raw_sockets)
        if workers == 1:
            return
        self.many, self.endings = True, 2 * BATCH * workers
        pthread_mutex_lock(&self.mutex)         # held from now on but while the first worker waits, or sends
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[0]})
        for i in range(1, workers):
            self.threads.append(threading.Thread(target=self._work, daemon=True,
                                                 args=(i, processors[i % len(processors)])))
            self.threads[-1].start()

    def open_headers_queue(self, int number, mark_mask, int queue_length=65536):
        """Bind one more queue for each worker, of packets that the kernel rewrites.

        It is told by the bits *mark_mask* of their marks.
        """
        for i, batch in enumerate(self.batches):
            netlink.add_queue((<Batch> batch).queue_socket, number + i, queue_length, HEADERS)
            batch.take_headers(number + i, mark_mask)

    def take_headers(self, int number, mark_mask):
        """Take queue *number* of the same socket for one whose packets come without what follows their headers."""
        self.first.take_headers(number, mark_mask)

    def attach(self, queue_socket, int number):
        """Take the packets of queue *number* from *queue_socket*; a test's may be a socket pair."""
        self.first.attach(queue_socket, number)

    def close(self):
        """End the other workers; packets in their queues get no answer any more."""
        self.stopping = True
        if self.many:
            pthread_mutex_unlock(&self.mutex)
        for thread in self.threads:
            thread.join()
        self.threads.clear()
        if self.many:
            pthread_mutex_lock(&self.mutex)

    def port(self):
        """Return the number that ``netlink.Door`` finds the queue's socket by."""
        return self.first.queue_socket.getsockname()[0]

    def run(self, int wake_fd):
        """Handle packets until *wake_fd* is readable."""
        cdef int error
        self.in_loop = True
        with nogil:
            error = self._run(self.first, wake_fd)
        if error:
            raise HostError(f"cannot receive from NFQUEUE {self.first.queue}: {os.strerror(error)}; "
                            "is CAP_NET_ADMIN gone?")

    def _work(self, int number, int processor):
        """Be worker *number*, on this *processor*, until the director is closed."""
        cdef Batch batch = self.batches[number]
        cdef int error
        os.sched_setaffinity(0, {processor})
        with nogil:
            pthread_mutex_lock(&self.mutex)
            error = self._run(batch, -1)
            if error:
                self.failed = error
            pthread_mutex_unlock(&self.mutex)

    cdef int _run(self, Batch batch, int wake_fd) noexcept nogil:
        """Take packets as they come: while there are some, two system calls a batch and no other.

        Who wants something of the first worker writes to *wake_fd* and knocks (``netlink.Door``), which ends the
        waiting for a packet; to the others it is -1.  The lock is held at the begin and at the end.
        """
        cdef pollfd asked
        cdef int count, i, budget = 0               # it does not wait before it has looked who is asking
        cdef uint64_t now = coarse_now(), checked = 0
        cdef bint is_first = batch is self.first, knocked, follows = False, at_once
        asked.fd, asked.events = wake_fd, POLLIN
        while True:
            at_once = is_first and (self.go_on(now) or budget <= 0) or follows
            self._unlock()
            count = batch.receive(not at_once)
            if count < 0 and c_errno != EAGAIN and c_errno != EINTR and c_errno != ENOBUFS and c_errno != ENOMEM:
                i = c_errno
                self._lock()
                return i
            now = coarse_now()
            knocked = batch.read(count)
            for i in range(batch.count):
                self._prepare(&batch.packets[i])
            self._lock()
            if self.events_fd >= 0:
                follows = self.follow(now)          # what conntrack did before these packets came
            if batch.count:
                self.box = &batch.box
                self._sweep(batch, now)
                self._unlock()
                batch.answer()
                self._lock()
            if not is_first:
                if self.stopping:
                    return 0
                continue
            budget = self.endings                   # a batch may make BATCH connections; it must end more than it makes
            if self.table.used:
                self.expire_due(now, &budget)
            if knocked or count <= 0 or now != checked:
                checked = now
                asked.revents = 0
                poll(&asked, 1, 0)
                if asked.revents or self.failed:
                    return self.failed

    cdef void _lock(self) noexcept nogil:
        if self.many:
            pthread_mutex_lock(&self.mutex)

    cdef void _unlock(self) noexcept nogil:
        if self.many:
            pthread_mutex_unlock(&self.mutex)

    cdef void _sweep(self, Batch batch, uint64_t now) noexcept nogil:
        """Decide about the prepared packets of *batch*, in their order."""
        cdef int first = 0, i
        self.looked_up = self.table.changes
        self._fetch(batch, 0, min(batch.count, <int> GROUP))
        while first < batch.count:
            self._fetch(batch, first + GROUP, min(batch.count, first + 2 * GROUP))
            for i in range(first, min(batch.count, first + GROUP)):
                if self.tracing:
                    self._decide_seen(&batch.packets[i], now)
                else:
                    self._decide(&batch.packets[i], now)
                if self.answer_length:
                    self._send_answer()
            first += GROUP

    cdef void _fetch(self, Batch batch, int first, int end) noexcept nogil:
        """Have the connections of the packets [first, end) of *batch* fetched into the cache."""
        cdef int i
        cdef uint32_t number
        cdef Packet *packet
        for i in range(first, end):
            packet = &batch.packets[i]
            if packet.outcome == REWRITTEN:
                number = likely_entry(&self.table, packet.hashed, packet.reply)
                packet.likely = number
                prefetch(&self.table.entries[number])
                if packet.family == INET6:
                    prefetch(&self.table.addresses[number])
                    prefetch(&self.table.addresses[number].daddr[15])

    cdef void _send_answer(self) noexcept nogil:
        """Send the prepared ICMP packet; the header is ours (IP_HDRINCL), the kernel routes it."""
        cdef sockaddr_in client
        cdef sockaddr_in6 client6
        if self.answer[0] >> 4 == 6:
            memset(&client6, 0, sizeof(client6))
            client6.sin6_family = INET6
            memcpy(&client6.sin6_addr, &self.answer[pkt.IP6_DESTINATION], 16)
            if self.answer[pkt.IP6_DESTINATION] == 0xFE and self.answer[pkt.IP6_DESTINATION + 1] >> 6 == 2:
                client6.sin6_scope_id = self.answer_device      # link-local
            sendto(self.box.raw6_fd, self.answer, self.answer_length, MSG_DONTWAIT, <sockaddr *> &client6,
                   sizeof(client6))
        else:
            memset(&client, 0, sizeof(client))
            client.sin_family = INET
            memcpy(&client.sin_addr, &self.answer[pkt.IP_DESTINATION], 4)
            sendto(self.box.raw_fd, self.answer, self.answer_length, MSG_DONTWAIT, <sockaddr *> &client,
                   sizeof(client))
        self.answer_length = 0

    # ---- In memory, for benchmarks ----------------------------------------------------------------------------

    def benchmark_opening(self, uint32_t flows):
        """Open *flows* TCP connections to the first service of an empty table; return nanoseconds per connection.

        That is the client's SYN, all the way through the scheduler.  Its ACK is sent, too, but does not count.
        """
        cdef uint32_t first = 0, count, i
        cdef uint32_t[::1] took = memoryview(bytearray(4 * (flows // BATCH + 1))).cast("I")
        self.first.allocate()
        with nogil:
            while first < flows:
                count = min(<uint32_t> BATCH, flows - first)
                for i in range(count):
                    self._synthesize(self.first, i, first + i, tcp.SYN)
                took[first // BATCH] = self._time_batch(self.first, count, 1) * BATCH // count
                for i in range(count):
                    self._synthesize(self.first, i, first + i, tcp.ACK)
                self._time_batch(self.first, count, 1)
                first += count
        if self.table.used != flows:
            raise AssertionError(f"not every connection was opened: {self.statistics()}")
        return sorted(took[:(flows + BATCH - 1) // BATCH])[flows // BATCH // 2] / BATCH      # the median batch

    def benchmark_workers(self, int workers):
        """Have so many workers, each with room for a batch, and the lock that they share."""
        self.many = True
        while len(self.batches) < workers:
            self.batches.append(Batch())
            (<Batch> self.batches[-1]).allocate()

    def benchmark_established(self, uint32_t packets, int seed=1, int worker=0):
        """Send *packets* 64-byte ACKs of random connections of those that ``benchmark_opening`` opened.

        With NAT every other ACK is a server's.  Returns nanoseconds per ACK: parse, find, state, rewrite, counters
        and timer, in batches as ``run`` handles them, the packets' own bytes in cache, nothing sent.  Several threads
        may do it at once, each as another *worker*.
        """
        cdef Batch batch = self.batches[worker]
        cdef uint64_t random = seed, handled = self.counted.outcomes[REWRITTEN] + self.counted.outcomes[FORWARDED]
        cdef uint32_t flows = self.table.used, flow_number, done = 0, i
        cdef bint both_ways = self.servers[self.table.entries[1].server].mode == NAT
        cdef uint32_t[::1] took = memoryview(bytearray(4 * (packets // BATCH + 1))).cast("I")
        cdef uint16_t[::1] server_of = memoryview(bytearray(2 * flows)).cast("H")   # entries stay out of the cache
        for flow_number in range(flows):
            server_of[flow_number] = self.table.entries[1 + flow_number].server
        with nogil:
            while done < packets:
                for i in range(BATCH):
                    random += 0x9E3779B97F4A7C15ULL     # splitmix64
                    flow_number = <uint32_t> (((mix(random, 0xBF58476D1CE4E5B9ULL) >> 32) * flows) >> 32)
                    self._synthesize(batch, i, flow_number, tcp.ACK)
                    if i & 1 and both_ways:
                        self._turn_round(batch, i, server_of[flow_number])
                took[done // BATCH] = self._time_batch(batch, BATCH, 1 + done)
                done += BATCH
        if not self.many and self.counted.outcomes[REWRITTEN] + self.counted.outcomes[FORWARDED] - handled != done:
            raise AssertionError(f"not every packet went on: {self.statistics()}")
        return sorted(took[:done // BATCH])[done // BATCH // 2] / BATCH

    cdef uint32_t _time_batch(self, Batch batch, int count, uint64_t now) noexcept nogil:
        """Handle the first *count* packets of *batch*; return how many nanoseconds that took."""
        cdef int i
        cdef uint64_t start = fine_now()
        batch.count = count
        for i in range(count):
            self._prepare(&batch.packets[i])
        self._lock()
        self.box = &batch.box
        self._sweep(batch, now)
        self._unlock()
        start = fine_now() - start
        batch.box.count = batch.box.arena_used = 0      # what DR and TUN would send
        return <uint32_t> start

    cdef void _synthesize(self, Batch batch, int i, uint32_t flow_number, int flags) noexcept nogil:
        """Write a 64-byte TCP segment of client *flow_number*, to the first service, into place *i* of *batch*."""
        cdef unsigned char *data = batch.buffers + i * 128
        cdef ServiceSlot *service = &self.service_slots[0]
        cdef int header = 20
        memset(data, 0, 64)
        if service.family == INET6:
            header = 40
            data[0], data[5], data[6], data[7] = 0x60, 24, TCP, 64
            pkt.put32(data, 8, 0x20010DB8)
            pkt.put32(data, 20, 0x0A000001 + flow_number // 50000)
            memcpy(data + 24, self.service_addresses[0].octets, 16)
        else:
            data[0], data[3], data[8], data[9] = 0x45, 64, 64, TCP
            pkt.put32(data, 12, 0x0A000001 + flow_number // 50000)
            pkt.put32(data, 16, service.address)
            pkt.put16(data, 10, pkt.header_checksum(data, 20))
        pkt.put16(data, header, 10000 + flow_number % 50000)
        pkt.put16(data, header + 2, service.port)
        data[header + 12], data[header + 13] = 0x50, flags
        pkt.put16(data, header + 16, pkt.transport_checksum(data, TCP, header, 64, header + 16))
        memset(&batch.packets[i].queued, 0, sizeof(Queued))
        batch.packets[i].queued.data = data
        batch.packets[i].queued.length = batch.packets[i].queued.whole = 64

    cdef void _turn_round(self, Batch batch, int i, uint32_t slot) noexcept nogil:
        """Make place *i* of *batch* the answer of the server in *slot*; nobody looks at the checksums."""
        cdef unsigned char *data = batch.packets[i].queued.data
        cdef ServerSlot *server = &self.servers[slot]
        cdef int header = 20
        if server.flags & SERVER_INET6:
            header = 40
            memcpy(data + 24, data + 8, 16)
            memcpy(data + 8, self.server_addresses[slot].octets, 16)
        else:
            pkt.put32(data, 16, pkt.get32(data, 12))
            pkt.put32(data, 12, server.address)
        pkt.put16(data, header + 2, pkt.get16(data, header))
        pkt.put16(data, header, server.port)
        batch.packets[i].queued.hook = POSTROUTING


# ---- Helpers ------------------------------------------------------------------------------------------------

cdef inline void to_client(Packet *packet, uint32_t vip, unsigned char *vip6, int vport) noexcept nogil:
    """Make a real server's packet come from the virtual service (NAT)."""
    cdef bint delivered_here = packet.queued.hook == LOCAL_IN or packet.queued.out_device == LOOPBACK
    if packet.family == INET:
        nat.to_client(packet.queued.data, packet.length, vip, vport, packet.queued.form, delivered_here)
    else:
        nat.to_client6(packet.queued.data, packet.protocol, packet.header, packet.length, vip6, vport,
                       packet.queued.form, delivered_here)


cdef inline uint32_t known(FastDirector self, Packet *packet, int direction) noexcept nogil:
    """Return the packet's connection, or 0: the entry that was fetched ahead, when the index is still the same."""
    cdef Key key = client_key(packet) if direction == DIRECTION_IN else reply_key(packet)
    if (packet.likely and self.looked_up == self.table.changes and key.cport and
            has_key(&self.table, packet.likely, direction, &key)):
        return packet.likely
    return looked_for(self, packet, direction)


cdef uint32_t looked_for(FastDirector self, Packet *packet, int direction) noexcept nogil:
    """Return the packet's connection, or 0: the index is asked.  Apart, so that above no key has to be in memory."""
    cdef Key key = client_key(packet) if direction == DIRECTION_IN else reply_key(packet)
    return find(&self.table, packet.hashed, direction, &key, FLAG_NO_CPORT)
