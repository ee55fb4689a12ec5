"""Connections that conntrack carries: lbq decides about the first packet, and follows what conntrack tells of the rest.

    expect     a first packet has gone to conntrack, with the number of a server in its mark (host/offloading.py)
    follow     between two batches: events (began, changed, ended), then a piece of a list, if one is being read
    let_go     a connection that lbq ends: conntrack is told to forget it, and its clients begin anew

An event says state and end; how many packets there were only the last one says, and a list of all that conntrack has.
Such a list is read every two seconds while there are offloaded connections, and when somebody asks for counters.  It
is read a datagram at a time, and as seldom as that it takes a twentieth of the time at most.

An entry lives as long as conntrack's does.  Its *id* tells the conntrack connection from an earlier one with the same
addresses: an end that is told late ends nothing but what is meant.  Until conntrack tells of a connection for the
first time, the timers of IPVS apply: the packet may have been dropped behind lbq.  When events were lost, and once
there is another server, a list says what there is (*anew*), and what is in none of two lists has ended.

What conntrack tells of a connection that is not in the table, but to a server of ours, is adopted: so flows go on when
a killed director's successor takes over.

Kernel: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c.
"""
import mmap

from libc.errno cimport ENOBUFS, errno as c_errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from lbq._connections cimport assure, lasting
from lbq._ctnetlink cimport (ENDED, IPS_DST_NAT, IPS_SEEN_REPLY, LONGEST_DELETE, NLMSG_DONE, NLMSG_ERROR,
                             SAYS_NOTHING, Tracked, read_tracked, write_delete)
from lbq._flowtable cimport (DIRECTION_IN, ENTRY_VALID, FLAG_NO_CPORT, FLAG_OFFLOADED, INET6, FlowAddresses,
                             FlowEntry, Key, find, fold6, hash_key, set_deadline, wheel_remove)
from lbq._nfqueue cimport MSG_DONTWAIT, aligned, nlmsghdr, recvmmsg
from lbq._packet cimport TCP, UDP, Packet
from lbq._related cimport Related
from lbq._slots cimport NO_SERVER, OFFLOAD, SERVER_AVAILABLE, Counters, ServerSlot
from lbq cimport packet as pkt
from lbq.protocols cimport tcp

from lbq import ctnetlink
from lbq.model import NAT, Tunnel
from lbq.model import OFFLOAD as OFFLOAD_FLAG

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t recv(int fd, void *data, size_t length, int flags)

cdef extern from "<linux/netfilter/nf_conntrack_tcp.h>" nogil:
    int TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK_FIN_WAIT
    int TCP_CONNTRACK_CLOSE_WAIT, TCP_CONNTRACK_LAST_ACK, TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE
    int TCP_CONNTRACK_SYN_SENT2, IP_CT_TCP_FLAG_CLOSE_INIT

cdef enum:
    EVENT_ROOM = 2048               # of one event; they have some 300 bytes
    LIST_ROOM = 65536               # of a piece of a list, which the kernel makes as long as this, up to 32 KiB
    ROUNDS = 64                     # system calls for events before packets are looked at again
    PIECE = 2048                    # entries that a search looks at before that
    FORGET_COST = 16
    SHARE = 20                      # lists take one in so many parts of the time
    MISSED_LISTS = 2                # what was in none of so many has ended
    SECOND = 1000000000
    LIST_NS = 2000000000            # how often the estimator wants to know
    PATIENCE = 5                    # seconds, for a list that does not go on


cdef class Offload(Related):
    """The offloaded connections of one fast director."""

    def __cinit__(self):
        self.events_fd = self.list_fd = -1
        self.anew = True

    def add_service(self, key, scheduler, flags=0, timeout=0, netmask=None, idle=0):
        """Add a virtual service; one that is offloaded needs room for what conntrack tells."""
        if flags & OFFLOAD_FLAG:
            self._make_room_to_follow()
        super().add_service(key, scheduler, flags, timeout, netmask, idle)

    def add_server(self, key, address, port, weight=1, mode=NAT, upper=0, lower=0, tunnel=Tunnel(), family=None,
                   steer=0):
        """Add a real server; conntrack may have connections to it that a killed director has left."""
        connections = super().add_server(key, address, port, weight, mode, upper, lower, tunnel, family, steer)
        self.anew = self.anew or self.services.service(key).flags & OFFLOAD_FLAG != 0
        return connections

    def _make_room_to_follow(self):
        """Reserve room for what conntrack tells of every entry; memory is claimed where offloaded entries are."""
        cdef unsigned char[::1] view
        if self.followed != NULL:
            return
        self.followed_memory = mmap.mmap(-1, (self.table.capacity + 1) * sizeof(Followed),
                                         flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = self.followed_memory
        self.followed = <Followed *> &view[0]

    def open_conntrack(self):
        """Listen to conntrack from now on."""
        self.attach_conntrack(*ctnetlink.open_sockets())

    def attach_conntrack(self, events_socket, list_socket):
        """Take events and lists from these sockets; a test's may be those of pairs."""
        cdef unsigned char[::1] view
        cdef int i
        self._make_room_to_follow()
        self.hearing_memory = mmap.mmap(-1, EVENTS * EVENT_ROOM + LIST_ROOM,
                                        flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = self.hearing_memory
        self.hearing = &view[0]
        memset(self.heard, 0, sizeof(self.heard))
        for i in range(EVENTS):
            self.heard_parts[i].iov_base = self.hearing + i * EVENT_ROOM
            self.heard_parts[i].iov_len = EVENT_ROOM
            self.heard[i].msg_hdr.msg_iov = &self.heard_parts[i]
            self.heard[i].msg_hdr.msg_iovlen = 1
        cdef bytes question = ctnetlink.list_request()
        self.question_length = len(question)
        memcpy(self.question, <const unsigned char *> question, self.question_length)
        self.events_socket, self.list_socket = events_socket, list_socket
        self.events_fd, self.list_fd = events_socket.fileno(), list_socket.fileno()

    def ask_conntrack(self):
        """Ask for a list of all that conntrack has; return its number."""
        if self.list_fd >= 0:
            self.lists_wanted = self.lists + 1
        return self.lists_wanted

    def told_by_conntrack(self):
        """Return the number of the last list that was read to its end."""
        return self.lists_read if self.list_fd >= 0 else self.lists_wanted

    def hear(self, bytes datagram, uint64_t now_ns=0, bint listed=False):
        """Take in one datagram of conntrack's as ``run`` would, for tests; *listed*: it is part of a list."""
        cdef const unsigned char *data = datagram
        if self.followed != NULL:
            self._hear(<unsigned char *> data, <uint32_t> len(datagram), now_ns, listed)

    def follow_once(self, uint64_t now_ns):
        """Do what ``run`` does between two batches, for tests; return True when there is more to do at once."""
        return self.events_fd >= 0 and self.follow(now_ns)

    def followed_statistics(self):
        """Return what is counted about offloaded connections; nothing when there never were any."""
        if self.followed == NULL:
            return {}
        return {"offloaded": self.offloaded, "adopted": self.adopted, "events_lost": self.events_lost,
                "lists_read": self.lists_read}

    # ---- A connection of ours --------------------------------------------------------------------------

    cdef void begin_following(self, uint32_t number) noexcept nogil:
        memset(&self.followed[number], 0, sizeof(Followed))
        self.followed[number].counted = True
        self.offloaded += 1

    cdef void expect(self, uint32_t number, Packet *packet) noexcept nogil:
        """Remember what lbq itself has counted.

        Conntrack may have told of the connection already: packets that came before it was known may still be queued.
        """
        cdef Followed *followed = &self.followed[number]
        followed.packets_in += 1
        followed.bytes_in += packet.length

    cdef bint lives_on(self, uint32_t number) noexcept nogil:
        return self.followed[number].id != 0

    cdef void let_go(self, uint32_t number) noexcept nogil:
        """Have conntrack forget what it has not ended itself; what it never told of ends by itself in time."""
        cdef FlowEntry *entry = &self.table.entries[number]
        cdef FlowAddresses *addresses = &self.table.addresses[number]
        cdef uint32_t tracked = self.followed[number].id
        cdef unsigned char message[LONGEST_DELETE]
        cdef uint8_t places[8]
        cdef const uint8_t *client = places
        cdef const uint8_t *vip = places + 4
        cdef int length
        self.offloaded -= 1
        self.followed[number].id = 0
        if self.told_of_end or self.events_fd < 0 or (tracked == 0 and entry.timeout):
            return
        if entry.family == INET6:
            client, vip = addresses.caddr, addresses.vaddr
        else:
            pkt.put32(places, 0, entry.caddr)
            pkt.put32(places, 4, entry.vaddr)
        length = write_delete(message, entry.family, entry.protocol, client, entry.cport, vip, entry.vport, tracked)
        send(self.events_fd, message, length, MSG_DONTWAIT)

    # ---- Events and lists --------------------------------------------------------------------------------

    cdef bint follow(self, uint64_t now) noexcept nogil:
        """Take in what conntrack has told, and go on with a list or a search; True: there is more to do at once."""
        cdef int i, count = EVENTS, rounds = 0
        cdef bint goes_on = False
        while count == EVENTS and rounds < ROUNDS:
            rounds += 1
            count = recvmmsg(self.events_fd, self.heard, EVENTS, MSG_DONTWAIT, NULL)
            if count < 0 and c_errno == ENOBUFS:
                self.events_lost += 1
                self.anew = True
                count = EVENTS              # and there are still those that had found room
                continue
            for i in range(count):
                self._hear(self.hearing + i * EVENT_ROOM, min(self.heard[i].msg_len, <unsigned int> EVENT_ROOM), now,
                           False)
        if self.reading:
            goes_on = self._read_list(now)
        elif self.search_cursor:
            self._search(PIECE)
            goes_on = self.search_cursor != 0
        elif self._is_list_due(now):
            self._begin_list(now)
            goes_on = self.reading
        return goes_on or count == EVENTS

    cdef void _hear(self, unsigned char *datagram, uint32_t length, uint64_t now, bint listed) noexcept nogil:
        """Take in every message of a datagram."""
        cdef nlmsghdr *header
        cdef Tracked told
        cdef uint32_t size
        while length >= sizeof(nlmsghdr):
            header = <nlmsghdr *> datagram
            size = header.nlmsg_len
            if size < sizeof(nlmsghdr) or size > length:
                return
            if not listed or header.nlmsg_seq == self.lists:    # and not of one that was given up
                if listed and (header.nlmsg_type == NLMSG_DONE or header.nlmsg_type == NLMSG_ERROR):
                    if self.reading:
                        self._end_list(now, header.nlmsg_type == NLMSG_DONE)
                    return
                read_tracked(datagram, size, &told)
                if told.about != SAYS_NOTHING:
                    self._take(&told, now, listed)
            size = min(aligned(size), length)
            datagram += size
            length -= size

    cdef void _take(self, Tracked *told, uint64_t now, bint listed) noexcept nogil:
        """Let the entry of a connection be as conntrack says that it is.

        A list is as old as its reading is slow: but for one that is to say what there is, it only counts.
        """
        cdef Key key
        cdef uint32_t number
        cdef Followed *followed
        if not told.status & IPS_DST_NAT or (told.protocol != TCP and told.protocol != UDP):
            return
        key.protocol, key.family, key.cport, key.port = told.protocol, told.family, told.cport, told.vport
        key.caddr6, key.address6 = told.client, told.vip
        if told.family == INET6:
            key.caddr, key.address = fold6(told.client), fold6(told.vip)
        else:
            key.caddr, key.address = word(told.client), word(told.vip)
        number = find(&self.table, hash_key(&self.table, DIRECTION_IN, &key), DIRECTION_IN, &key, FLAG_NO_CPORT)
        if number and not self._is_to_same_server(number, told):
            return
        if told.about == ENDED:
            if number and self.followed[number].id == told.id:
                self._count(number, told)
                self.expired += 1
                self._end_untold(number)
            return
        if listed and not self.adopting and (number == 0 or self.followed[number].id != told.id):
            return
        if number == 0:
            number = self._adopt(told, &key, now)
            if number == 0:
                return
        followed = &self.followed[number]
        if followed.id and followed.id != told.id:      # another one, and the former's end was not heard
            memset(followed, 0, sizeof(Followed))
            followed.counted = True
        followed.id = told.id
        followed.seen = self.lists_whole
        self._count(number, told)
        self._change(number, told)
        if told.has_timeout:
            set_deadline(&self.table, number, now + told.timeout * <uint64_t> SECOND)

    cdef bint _is_to_same_server(self, uint32_t number, const Tracked *told) noexcept nogil:
        """Return True when conntrack sends the connection where entry *number* does."""
        cdef FlowEntry *entry = &self.table.entries[number]
        if not entry.flags & FLAG_OFFLOADED or entry.dport != told.rport:
            return False
        if entry.family == INET6:
            return memcmp(self.table.addresses[number].daddr, told.rip, 16) == 0
        return entry.daddr == word(told.rip)

    cdef uint32_t _adopt(self, const Tracked *told, const Key *key, uint64_t now) noexcept nogil:
        """Make an entry for a connection to a server of an offloaded service; return its number, or 0."""
        cdef uint32_t service = self.find_service(key, 0), slot, number
        cdef ServerSlot *server
        cdef bint made
        if service == 0 or not self.service_slots[service - 1].flags & OFFLOAD:
            return 0
        for slot in range(self.server_count):
            server = &self.servers[slot]
            if not server.flags & SERVER_AVAILABLE or server.service != service - 1 or server.port != told.rport:
                continue
            if memcmp(self.server_addresses[slot].octets, told.rip, 16 if told.family == INET6 else 4):
                continue
            number = self.create(key, slot, told.rport, 0, 0, now, &made)
            if number:
                self.followed[number].counted = False
                self.adopted += 1
            return number
        return 0

    cdef void _count(self, uint32_t number, const Tracked *told) noexcept nogil:
        """Give server and service what conntrack has counted since it was last asked."""
        cdef FlowEntry *entry = &self.table.entries[number]
        cdef Followed *followed = &self.followed[number]
        cdef ServerSlot *server
        cdef Counters more
        if not told.has_counters or entry.server == NO_SERVER:
            return
        more.conns = 0
        more.packets_in = beyond(told.packets_in, followed.packets_in)
        more.bytes_in = beyond(told.bytes_in, followed.bytes_in)
        more.packets_out = beyond(told.packets_out, followed.packets_out)
        more.bytes_out = beyond(told.bytes_out, followed.bytes_out)
        server = &self.servers[entry.server]
        if followed.counted and server.flags & SERVER_AVAILABLE:
            add_traffic(&server.counters, &more)
            add_traffic(&self.service_slots[server.service].counters, &more)
        followed.counted = True
        followed.packets_in += more.packets_in
        followed.bytes_in += more.bytes_in
        followed.packets_out += more.packets_out
        followed.bytes_out += more.bytes_out
        entry.packets_in = <uint32_t> min(followed.packets_in, <uint64_t> 0xFFFFFFFF)

    cdef void _change(self, uint32_t number, const Tracked *told) noexcept nogil:
        """Let the entry have the state that conntrack tells, in IPVS's words."""
        cdef FlowEntry *entry = &self.table.entries[number]
        cdef int state
        if entry.protocol == UDP:
            if told.status & IPS_SEEN_REPLY:
                assure(&self.table.entries[entry.control])
            entry.timeout = lasting(self, entry, <uint32_t> self.udp_timeout)
            return
        state = state_of(told)
        if state < 0:
            return
        entry.timeout = <uint32_t> self.tcp_timeouts[state]
        if state != entry.state:
            self.change_state(entry, state)

    cdef void _end_untold(self, uint32_t number) noexcept nogil:
        """End connection *number*, which conntrack has ended."""
        self.told_of_end = True
        wheel_remove(&self.table, number)
        self.end(number)
        self.told_of_end = False

    cdef bint _is_list_due(self, uint64_t now) noexcept nogil:
        if self.lists_wanted > self.lists:
            return True
        return now >= self.next_list and (self.offloaded or self.anew)

    cdef void _begin_list(self, uint64_t now) noexcept nogil:
        self.next_list = now + LIST_NS              # also when it cannot begin
        (<nlmsghdr *> self.question).nlmsg_seq = self.lists + 1
        if send(self.list_fd, self.question, self.question_length, MSG_DONTWAIT) < 0:
            return
        self.lists += 1
        self.reading = True
        self.list_began = now
        self.adopting, self.anew = self.anew, False

    cdef bint _read_list(self, uint64_t now) noexcept nogil:
        """Take in the next piece of a list; return False when there is none yet."""
        cdef unsigned char *room = self.hearing + EVENTS * EVENT_ROOM
        cdef ssize_t length = recv(self.list_fd, room, LIST_ROOM, MSG_DONTWAIT)
        if length <= 0:
            if now > self.list_began + PATIENCE * <uint64_t> SECOND:
                self._end_list(now, False)
            return False
        self._hear(room, <uint32_t> length, now, True)
        return True

    cdef void _end_list(self, uint64_t now, bint is_whole) noexcept nogil:
        self.anew = self.anew or self.adopting and not is_whole
        self.reading = self.adopting = False
        self.lists_read = self.lists
        self.next_list = now + LIST_NS
        if is_whole:
            self.lists_whole += 1
            self.search_cursor = 1
            self.next_list = now + max(<uint64_t> LIST_NS, SHARE * (now - self.list_began))

    cdef void _search(self, int cost) noexcept nogil:
        """Go on ending connections that were in no list any more, for *cost* entries: their end was not told."""
        cdef uint32_t number = self.search_cursor
        cdef FlowEntry *entry
        while number < self.table.fresh and cost > 0:
            entry = &self.table.entries[number]
            if (entry.flags & ENTRY_VALID and entry.flags & FLAG_OFFLOADED and self.followed[number].id and
                    self.lists_whole >= self.followed[number].seen + MISSED_LISTS):
                self.expired += 1
                self._end_untold(number)
                cost -= FORGET_COST
            number += 1
            cost -= 1
        self.search_cursor = number if number < self.table.fresh else 0


# ---- Helpers ------------------------------------------------------------------------------------------------

cdef inline uint32_t word(const uint8_t *address) noexcept nogil:
    """Return an IPv4 address."""
    return (<uint32_t> address[0] << 24) | (address[1] << 16) | (address[2] << 8) | address[3]


cdef inline uint64_t beyond(uint64_t now, uint64_t before) noexcept nogil:
    """Return by how much a counter has grown; lbq may have seen a packet that conntrack refused afterwards."""
    return now - before if now > before else 0


cdef inline void add_traffic(Counters *counters, const Counters *more) noexcept nogil:
    counters.packets_in += more.packets_in
    counters.packets_out += more.packets_out
    counters.bytes_in += more.bytes_in
    counters.bytes_out += more.bytes_out


cdef inline int state_of(const Tracked *told) noexcept nogil:
    """Return the state that IPVS would be in, -1 when none is told.

    Conntrack names one after who has acknowledged what; IPVS after who has begun to close: CLOSE_WAIT when it was the
    client, FIN_WAIT when it was the server, TIME_WAIT when both have.
    """
    cdef int state = told.tcp_state
    if state == TCP_CONNTRACK_SYN_SENT or state == TCP_CONNTRACK_SYN_RECV or state == TCP_CONNTRACK_SYN_SENT2:
        return tcp.SYN_RECV
    if state == TCP_CONNTRACK_ESTABLISHED:
        return tcp.ESTABLISHED
    if state == TCP_CONNTRACK_FIN_WAIT or state == TCP_CONNTRACK_CLOSE_WAIT:
        return tcp.CLOSE_WAIT if told.tcp_flags & IP_CT_TCP_FLAG_CLOSE_INIT else tcp.FIN_WAIT
    if state == TCP_CONNTRACK_LAST_ACK or state == TCP_CONNTRACK_TIME_WAIT:
        return tcp.TIME_WAIT
    if state == TCP_CONNTRACK_CLOSE:
        return tcp.CLOSE
    return -1
