"""The way of one packet again, at C speed: receive, parse, find, [schedule], forward, account, verdict.

Read director.py first; this file tells the same story under the same headings.  One thread runs
``FastDirector.run`` without the GIL: up to 64 packets per system call come in, up to 64 verdicts per
system call go out, in the order of their numbers.  The GIL is taken at one place, ``_schedule``, for a
new connection only.  An established packet touches two cache lines of the table and those of its server
and service; the lines of a whole batch are asked for before the first is used.

Kernel: net/netfilter/nfnetlink_queue.c for the queue, net/netfilter/ipvs/ for everything decided here.
"""
import contextlib
import mmap
import os
import socket
import struct
import time
cimport cython
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno as c_errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from lbq._flowtable cimport (CONNECTION_INACTIVE, DIRECTION_IN, DIRECTION_OUT, ENTRY_VALID, TICK_BITS, WHEEL_SLOTS,
                             FlowEntry, FlowTable, drop_entry, enter, find, hash_key, home, likely_entry, mix,
                             next_due, prefetch, set_deadline, take_entry, wheel_remove)
from lbq._nfqueue cimport (MSG_DONTWAIT, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_HEADER, Queued, iovec, is_packet, mmsghdr, msghdr,
                           read_message, recvmmsg, sendmsg, verdict_alone, verdict_with_packet)
from lbq cimport packet as pkt
from lbq.model cimport Flow, RealServer, VirtualService
from lbq.modes cimport nat
from lbq.protocols cimport icmp, tcp
from lbq.schedulers.base cimport Scheduler

from lbq import netlink
from lbq.director import Verdict
from lbq.errors import HostError, ServiceError
from lbq.grammar import format_address
from lbq.model import MODE_NAMES, NEW, PROTOCOL_NAMES
from lbq.protocols.tcp import TIMEOUTS as TCP_TIMEOUTS
from lbq.protocols.udp import TIMEOUTS as UDP_TIMEOUTS
from lbq.services import ServiceTable

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

cdef extern from "<fcntl.h>" nogil:
    int posix_fallocate(int fd, long offset, long length)

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
    MESSAGE_ROOM = 65536 + 4096 + 192   # a packet and its attributes; an odd number of lines and of pages, so that
                                        # the headers of 64 messages do not compete for the same sets of the caches
    ICMP_ROOM = 576
    MAX_SERVERS = 65536
    MAX_SERVICES = 16384
    RESERVE = 4096                  # entries whose memory is claimed at a time
    HEADER_BYTES = 4096
    TCP = 6
    UDP = 17
    INET = 2                        # AF_INET
    FTP_DATA = 20
    SERVER_AVAILABLE = 1
    SERVER_LOCAL = 2
    LOOPBACK = 1                    # ifindex of lo in every namespace
    PREROUTING = 0
    LOCAL_IN = 1
    LOCAL_OUT = 3
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

cdef struct Packet:                 # one queued packet, parsed
    Queued queued
    unsigned char *message          # the netlink message it came in
    int header                      # bytes of the IP header
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
cdef class FastDirector:
    """The packet path of one director: its queue, its connection table, its services.

    Addresses are host-order integers, times nanoseconds of CLOCK_MONOTONIC.  The interface is the one of
    ``director.Director``; docs/architecture.md has it in one page.
    """
    cdef readonly object services           # ServiceTable
    cdef FlowTable table
    cdef ServerSlot *servers
    cdef ServiceSlot *service_slots
    cdef ServerLink *links
    cdef uint32_t *service_index            # open addressing: slot number + 1 by address, port, protocol
    cdef uint32_t service_mask
    cdef uint32_t reserved                  # entries up to here have memory
    cdef Statistics counted
    cdef uint64_t tcp_timeouts[11]          # seconds
    cdef uint64_t udp_timeout
    cdef icmp.RateLimit limit
    cdef unsigned char answer[ICMP_ROOM]
    cdef int answer_length
    cdef int table_fd
    cdef object mapping, queue_socket, raw_socket, index_memory, receive_memory
    cdef list server_objects, service_objects, free_servers, free_services
    cdef set local_addresses
    cdef Flow flow
    cdef int queue, queue_fd, raw_fd
    cdef unsigned char *buffers
    cdef mmsghdr messages[BATCH]
    cdef iovec incoming[BATCH]
    cdef iovec outgoing[BATCH]
    cdef Packet batch[BATCH]

    # ---- Setting up ------------------------------------------------------------------------------

    def __cinit__(self, int max_connections=1 << 20, profile=NEW, table_path=None):
        if not 1 <= max_connections <= 1 << 27:
            raise ValueError(f"max_connections must be 1 to {1 << 27}, not {max_connections}")
        self.queue_fd = self.raw_fd = self.table_fd = -1
        self.services = ServiceTable(profile)
        self.local_addresses = set()
        self.server_objects, self.service_objects = [], []
        self.free_servers, self.free_services = [], []
        self.flow = Flow(0, 0, 0, 0, 0)
        self.limit = icmp.RateLimit()
        cdef int state
        for state, seconds in enumerate(TCP_TIMEOUTS):
            self.tcp_timeouts[state] = seconds
        self.udp_timeout = UDP_TIMEOUTS[0]
        self._map_table(max_connections, table_path)
        self.links = <ServerLink *> calloc(MAX_SERVERS, sizeof(ServerLink))
        if self.links == NULL:
            raise MemoryError
        self._index_services(16)

    def __dealloc__(self):
        free(self.links)
        free(self.service_index)
        if self.table_fd >= 0:
            close(self.table_fd)

    def _map_table(self, max_connections, table_path):
        """Map the shared part (header, services, servers, entries) and allocate the private index."""
        cdef unsigned char[::1] view
        cdef uint32_t[::1] words
        places = HEADER_BYTES + MAX_SERVICES * sizeof(ServiceSlot) + MAX_SERVERS * sizeof(ServerSlot)
        size = places + (max_connections + 1) * sizeof(FlowEntry)
        if table_path is None:
            self.table_fd = os.memfd_create("lbq-table")
        else:
            self.table_fd = os.open(table_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.ftruncate(self.table_fd, size)
        os.posix_fallocate(self.table_fd, 0, places)
        self.mapping = mmap.mmap(self.table_fd, size)
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot_id = file.read(36)
        struct.pack_into("<8sIIIII36s", self.mapping, 0, b"lbqtable", 1, sizeof(FlowEntry), max_connections,
                         MAX_SERVERS, MAX_SERVICES, boot_id)
        view = self.mapping
        self.service_slots = <ServiceSlot *> &view[HEADER_BYTES]
        self.servers = <ServerSlot *> &view[HEADER_BYTES + MAX_SERVICES * sizeof(ServiceSlot)]
        cdef FlowTable *table = &self.table
        table.entries = <FlowEntry *> &view[places]
        table.capacity = max_connections
        table.fresh = 1
        table.slots = 4 * max_connections + 16
        table.node_bits = max_connections.bit_length() + 1
        table.node_mask = (1 << table.node_bits) - 1
        self.index_memory = mmap.mmap(-1, 4 * (table.slots + WHEEL_SLOTS), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):      # a kernel without huge pages
            self.index_memory.madvise(mmap.MADV_HUGEPAGE)
        words = memoryview(self.index_memory).cast("I")
        table.wheel = &words[0]
        table.index = &words[WHEEL_SLOTS]
        for i in range(3):
            table.seed[i] = int.from_bytes(os.urandom(8), "little")
        table.tick = time.monotonic_ns() >> TICK_BITS

    # ---- Services and servers: between two batches, under the GIL -----------------------------------

    def add_service(self, key, scheduler):
        """Add the virtual service *key* with the scheduler called *scheduler*."""
        cdef VirtualService service
        self._require_room(self.free_services, self.service_objects, MAX_SERVICES, "services")
        service = self.services.add_service(key, scheduler)
        service.slot = self._take_slot(self.free_services, self.service_objects, service)
        cdef ServiceSlot *place = &self.service_slots[service.slot]
        memset(place, 0, sizeof(ServiceSlot))
        place.address = key.address
        place.port = key.port
        place.protocol = key.protocol
        place.family = key.family
        place.fwmark = key.fwmark
        self._index_services(len(self.services.by_key))

    def delete_service(self, key):
        """Delete the virtual service *key*; connections of its servers stay in the trash."""
        service = self.services.delete_service(key)
        for server in self.services.trash.values():
            if not (<RealServer> server).available:
                self.servers[(<RealServer> server).slot].flags &= ~<uint32_t> SERVER_AVAILABLE
        self.service_objects[service.slot] = None
        self.free_services.append(service.slot)
        self._index_services(len(self.services.by_key))

    def add_server(self, key, address, port, weight=1, mode=0):
        """Add a real server to the service *key*, or bring it back from the trash."""
        cdef RealServer server
        cdef ServerSlot *place
        self._require_room(self.free_servers, self.server_objects, MAX_SERVERS, "real servers")
        deleted = self.services.trash.get((key, address, port))
        former = deleted.service if deleted is not None else None
        server = self.services.add_server(key, address, port, weight, mode)
        if server.slot < 0:
            server.slot = self._take_slot(self.free_servers, self.server_objects, server)
            memset(&self.servers[server.slot], 0, sizeof(ServerSlot))
            self.links[server.slot].active = &server.active_conns
            self.links[server.slot].inactive = &server.inactive_conns
        place = &self.servers[server.slot]
        if server.service is not former:        # new, or back in a service that was deleted itself
            memset(&place.counters, 0, sizeof(Counters))
        place.address = address
        place.port = port
        place.protocol = key.protocol
        place.mode = mode
        place.service = self.services.service(key).slot
        place.flags = SERVER_AVAILABLE | (SERVER_LOCAL if address in self.local_addresses else 0)

    def set_server(self, key, address, port, weight):
        """Give a real server another weight; 0 quiesces it."""
        self.services.set_server(key, address, port, weight)

    def delete_server(self, key, address, port):
        """Delete a real server; clients' packets of its connections are dropped, its replies still pass."""
        cdef RealServer server = self.services.server(key, address, port)
        try:
            self.services.delete_server(key, address, port)
        finally:                                # a scheduler that fails when told of it does not keep the server
            self.servers[server.slot].flags &= ~<uint32_t> SERVER_AVAILABLE

    def empty_trash(self):
        """Forget deleted servers without connections; return their (key, address, port)."""
        slots = {place: (<RealServer> server).slot for place, server in self.services.trash.items()}
        gone = self.services.empty_trash()
        for place in gone:
            self.server_objects[slots[place]] = None
            self.free_servers.append(slots[place])
        return gone

    def set_local_addresses(self, addresses):
        """Say which IPv4 addresses are the host's own: what goes there is delivered, not forwarded."""
        self.local_addresses = set(addresses)
        for server in self.server_objects:
            if server is not None:
                place = &self.servers[(<RealServer> server).slot]
                place.flags = (place.flags & SERVER_AVAILABLE) | (
                    SERVER_LOCAL if place.address in self.local_addresses else 0)

    def set_timeouts(self, tcp=0, tcp_fin=0, udp=0):
        """Set the timeouts of ESTABLISHED, FIN_WAIT and UDP in seconds; 0 keeps one (ipvsadm --set)."""
        self.tcp_timeouts[1] = tcp or self.tcp_timeouts[1]
        self.tcp_timeouts[4] = tcp_fin or self.tcp_timeouts[4]
        self.udp_timeout = udp or self.udp_timeout

    def _require_room(self, free_slots, objects, most, what):
        if not free_slots and len(objects) >= most:
            raise ServiceError(f"cannot add: one director holds {most} {what}, and all are in use")

    def _take_slot(self, free_slots, objects, thing):
        """Return the number of a free slot, where *thing* now stands."""
        slot = free_slots.pop() if free_slots else len(objects)
        objects[slot:slot + 1] = [thing]
        return slot

    def _index_services(self, count):
        """Build the lookup of services by address, port and protocol again, at most a quarter full."""
        cdef uint32_t size = 64, at, slot
        cdef uint32_t *index
        while size < 4 * count:
            size *= 2
        index = <uint32_t *> calloc(size, sizeof(uint32_t))
        if index == NULL:
            raise MemoryError
        free(self.service_index)
        self.service_index = index
        self.service_mask = size - 1
        for service in self.service_objects:
            if service is None:
                continue
            slot = (<VirtualService> service).slot
            at = self._service_home(self.service_slots[slot].protocol, self.service_slots[slot].address,
                                    self.service_slots[slot].port)
            while self.service_index[at]:
                at = (at + 1) & self.service_mask
            self.service_index[at] = slot + 1

    cdef uint32_t _service_home(self, int protocol, uint32_t address, int port) noexcept nogil:
        return <uint32_t> (hash_key(&self.table, DIRECTION_IN, protocol, 0, 0, address, port) >> 32) & self.service_mask

    # ---- Listings: pages short enough to fit between two batches ------------------------------------

    def list_services(self, cursor=0, limit=16):
        """Return rows for up to *limit* services from *cursor* on, and the cursor of the next page or None."""
        keys = list(self.services.by_key.items())[cursor:cursor + limit]
        rows = [self._service_row(key, service) for key, service in keys]
        return rows, cursor + limit if cursor + limit < len(self.services.by_key) else None

    def _service_row(self, key, VirtualService service):
        return {"protocol": PROTOCOL_NAMES[key.protocol], "address": format_address(key.address, key.family),
                "port": key.port, "scheduler": service.scheduler.name,
                "stats": self.service_slots[service.slot].counters,
                "servers": [self._server_row(key, server) for server in service.servers]}

    def _server_row(self, key, RealServer server):
        return {"address": format_address(server.address, key.family), "port": server.port,
                "mode": MODE_NAMES[server.mode], "weight": server.weight,
                "active": server.active_conns, "inactive": server.inactive_conns,
                "stats": self.servers[server.slot].counters}

    def list_connections(self, cursor=0, limit=256):
        """Return up to *limit* 64-byte records (conntrack.RECORD) from entry *cursor* on, and the next cursor.

        At most 4,096 entries are looked at, so a page may be short, even empty, before the last one.
        """
        cdef FlowTable *table = &self.table
        cdef uint32_t number = max(cursor, 1), stop = min(number + 4096, table.fresh)
        cdef bytearray records = bytearray()
        while number < stop and len(records) < limit * <int> sizeof(FlowEntry):
            if table.entries[number].flags & ENTRY_VALID:
                records += (<unsigned char *> &table.entries[number])[:sizeof(FlowEntry)]
            number += 1
        return bytes(records), number if number < table.fresh else None

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
        service = self._find_service(packet)
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

    cdef uint32_t _find_service(self, Packet *packet) noexcept nogil:
        """Return the slot number + 1 of the service that the packet is addressed to, or 0."""
        cdef uint32_t at = self._service_home(packet.protocol, packet.destination, packet.destination_port), slot
        cdef ServiceSlot *place
        while True:
            slot = self.service_index[at]
            if slot == 0:
                return 0
            place = &self.service_slots[slot - 1]
            if (place.address == packet.destination and place.port == packet.destination_port and
                    place.protocol == packet.protocol):
                return slot
            at = (at + 1) & self.service_mask

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
        if not self._reserve():
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

    cdef bint _reserve(self) noexcept nogil:
        """Claim memory for the next entries before they are touched: a full tmpfs must not be a SIGBUS."""
        cdef uint32_t count
        cdef int error = EINTR
        if self.table.free or self.table.fresh <= self.reserved or self.table.fresh > self.table.capacity:
            return True
        count = min(<uint32_t> RESERVE, self.table.capacity + 1 - self.table.fresh)
        offset = <char *> &self.table.entries[self.table.fresh] - <char *> self.service_slots + HEADER_BYTES
        while error == EINTR:
            error = posix_fallocate(self.table_fd, offset, count * sizeof(FlowEntry))
        if error:
            return False
        self.reserved = self.table.fresh + count - 1
        return True

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
    packet.header = header
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
