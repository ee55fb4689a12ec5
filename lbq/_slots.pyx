"""What packets are decided by: services, servers and connections, as numbered slots in one shared mapping.

The configuration itself is Python objects in a ``ServiceTable``, as in the readable director.  Each service
and each server also has a slot: a C struct with what the packet path needs, found by its number.  Everything
here that is Python runs between two batches, under the GIL; the packet path, which has no GIL, only reads
the slots and counts in them.
"""
import os
import struct
import time
from collections import deque
from libc.errno cimport EINTR, EINVAL, errno as c_errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close

from lbq._flowtable cimport (DIRECTION_IN, ENTRY_VALID, FLAG_MIXED, INET, INET6, TICK_BITS, WHEEL_LISTS,
                             FlowAddresses, FlowEntry, Key, fold6, hash_key)
from lbq._pages cimport HUGE, MADV_COLLAPSE, MADV_HUGEPAGE, madvise, map_aligned, munmap, whole_pages
from lbq cimport estimator
from lbq.model cimport RealServer, VirtualService

from lbq import netlink, sysctls
from lbq.errors import ServiceError
from lbq.estimator import ROUND_NS
from lbq.model import AF_INET, AF_INET6, END_DELETED, NEW, NAT, TUN, Tunnel, packed
from lbq.services import ServiceTable

cdef extern from "<fcntl.h>" nogil:
    int posix_fallocate(int fd, long offset, long length)

cdef extern from "<semaphore.h>" nogil:
    int sem_init(sem_t *semaphore, int shared, unsigned int value)
    int sem_post(sem_t *semaphore)
    int sem_wait(sem_t *semaphore)

cdef enum:
    MAX_SERVERS = 65536
    MAX_SERVICES = 16384
    RESERVE = 4096                  # entries whose memory is claimed at a time
    TCP = 6
    FTP = 21
    FTP_DATA = 20
    FIRST_UNPRIVILEGED = 1024       # net.ipv4.ip_unprivileged_port_start
    HEADER_BYTES = 4096
    ROUTES_PIECE = 128              # servers whose routes are noted before packets are looked at again


cdef uint8_t NOBODY[16]             # ::


cdef class Slots:
    """The tables of one fast director, and the commands that change and list them."""

    # ---- Setting up ------------------------------------------------------------------------------

    def __cinit__(self, int max_connections=1 << 20, profile=NEW, table_path=None):
        if not 1 <= max_connections <= 1 << 27:
            raise ValueError(f"max_connections must be 1 to {1 << 27}, not {max_connections}")
        self.services = ServiceTable(profile)
        self.is_new = self.services.is_new
        self.largest_mtu = 1500
        self.route_of = {}
        self.server_objects, self.service_objects = [], []
        self.servers_at, self.tunnel_places, self.placing = {}, {}, deque()
        self.ftp_services, self.port_zero_services, self.ops_replying = set(), set(), set()
        self.free_servers, self.free_services = [], []
        self._map_table(max_connections, table_path)
        self.links = <ServerLink *> calloc(MAX_SERVERS, sizeof(ServerLink))
        self.routes = <Route *> calloc(MAX_SERVERS, sizeof(Route))
        self.server_estimates = <Estimate *> calloc(MAX_SERVERS, sizeof(Estimate))
        self.service_estimates = <Estimate *> calloc(MAX_SERVICES, sizeof(Estimate))
        self.tunnels = <uint32_t *> calloc(MAX_SERVERS, sizeof(uint32_t))
        self.steers = <uint32_t *> calloc(MAX_SERVERS, sizeof(uint32_t))
        self.reserved6 = <uint8_t *> calloc(max_connections // RESERVE + 1, 1)
        if not (self.links and self.routes and self.server_estimates and self.service_estimates and self.tunnels
                and self.steers and self.reserved6):
            raise MemoryError
        self._index_services(16)
        self._apply_sysctls()

    def __dealloc__(self):
        free(self.links)
        free(self.routes)
        free(self.server_estimates)
        free(self.service_estimates)
        free(self.tunnels)
        free(self.steers)
        free(self.service_index)
        free(self.local)
        free(self.local6)
        free(self.reserved6)
        if self.mapping:
            munmap(self.mapping, self.mapping_size)
        if self.index_memory:
            munmap(self.index_memory, self.index_size)
        if self.table_fd > 0:                   # 0: there was no __cinit__, or it failed before
            close(self.table_fd)

    def _map_table(self, max_connections, table_path):
        """Map the shared part (header, services, servers, entries) and allocate the private index."""
        slots = HEADER_BYTES + MAX_SERVICES * sizeof(ServiceSlot) + MAX_SERVERS * sizeof(ServerSlot)
        places = slots + (MAX_SERVICES + MAX_SERVERS) * sizeof(Address6)
        addresses = places + (max_connections + 1) * sizeof(FlowEntry)
        self.mapping_size = whole_pages(addresses + (max_connections + 1) * sizeof(FlowAddresses))
        if table_path is None:
            self.table_fd = os.memfd_create("lbq-table")
        else:
            self.table_fd = os.open(table_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.ftruncate(self.table_fd, self.mapping_size)
        os.posix_fallocate(self.table_fd, 0, places)
        self.mapping = map_aligned(self.mapping_size, self.table_fd)
        if self.mapping == NULL:
            raise OSError(c_errno, os.strerror(c_errno))
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot_id = file.read(36)
        struct.pack_into("<8sIIIII36s", <uint8_t[:HEADER_BYTES]> self.mapping, 0, b"lbqtable", 2, sizeof(FlowEntry),
                         max_connections, MAX_SERVERS, MAX_SERVICES, boot_id)
        self.service_slots = <ServiceSlot *> (self.mapping + HEADER_BYTES)
        self.servers = <ServerSlot *> &self.service_slots[MAX_SERVICES]
        self.service_addresses = <Address6 *> (self.mapping + <size_t> slots)
        self.server_addresses = &self.service_addresses[MAX_SERVICES]
        cdef FlowTable *table = &self.table
        table.entries = <FlowEntry *> (self.mapping + <size_t> places)
        table.addresses = <FlowAddresses *> (self.mapping + <size_t> addresses)
        table.capacity = max_connections
        table.fresh = 1
        table.slots = 4 * max_connections + 16
        table.node_bits = max_connections.bit_length() + 1
        table.node_mask = (1 << table.node_bits) - 1
        cdef size_t index_size = 4 * (table.slots + <size_t> WHEEL_LISTS)
        self.index_size = whole_pages(index_size)
        self.index_memory = map_aligned(self.index_size, -1)
        if self.index_memory == NULL:
            raise OSError(c_errno, os.strerror(c_errno))
        # A small table gets none; a kernel without them is slower, no more.
        madvise(self.index_memory, index_size & ~<size_t> (HUGE - 1), MADV_HUGEPAGE)
        table.index = <uint32_t *> self.index_memory
        table.wheel = &table.index[table.slots]
        sem_init(&self.growth, 0, 0)
        for i in range(7):
            table.seed[i] = int.from_bytes(os.urandom(8), "little")
        table.tick = time.monotonic_ns() >> TICK_BITS

    # ---- Services and servers: between two batches, under the GIL -----------------------------------

    def add_service(self, key, scheduler, flags=0, timeout=0, netmask=None, idle=0):
        """Add the virtual service *key* with the scheduler called *scheduler*."""
        cdef VirtualService service
        self._require_room(self.free_services, self.service_objects, MAX_SERVICES, "services")
        service = self.services.add_service(key, scheduler, flags, timeout, netmask, idle)
        service.slot = self._take_slot(self.free_services, self.service_objects, service)
        cdef ServiceSlot *place = &self.service_slots[service.slot]
        memset(place, 0, sizeof(ServiceSlot))
        memset(&self.service_estimates[service.slot], 0, sizeof(Estimate))
        place.address = place_address(&self.service_addresses[service.slot], key.address, key.family)
        place.port = key.port
        place.protocol = key.protocol
        place.family = key.family
        place.fwmark = key.fwmark
        self._place_service(service)
        self.service_slots_used = len(self.service_objects)
        if 4 * len(self.services.by_key) > self.service_mask + 1:
            self._index_services(2 * len(self.services.by_key))
        else:
            self._enter_service(service.slot)

    def set_service(self, key, scheduler, flags, timeout, netmask=None, idle=0):
        """Give a service other settings, all of them."""
        self._place_service(self.services.set_service(key, scheduler, flags, timeout, netmask, idle))

    def delete_service(self, key):
        """Delete the virtual service *key*; connections of its servers stay in the trash."""
        cdef RealServer server
        cdef list servers = self.services.service(key).servers
        service = self.services.delete_service(key)
        for server in servers:
            self._place_deleted(server)
        add(&self.gone, &self.service_slots[<int> service.slot].counters)
        memset(&self.service_slots[<int> service.slot].counters, 0, sizeof(Counters))
        self._leave_service(service.slot)
        self.service_objects[service.slot] = None
        self.free_services.append(service.slot)
        self._after_delete(service)

    def flush(self):
        """Delete every service; connections stay, and their servers in the trash."""
        for key in list(self.services.by_key):
            self.delete_service(key)

    def _place_service(self, VirtualService service):
        cdef ServiceSlot *place = &self.service_slots[service.slot]
        place.flags = service.flags
        place.timeout = service.timeout
        place.netmask = service.netmask
        for server in service.servers:
            self.servers[(<RealServer> server).slot].idle = service.idle
        self._note(self.ops_replying, service.slot, service.flags & OPS_REPLIES)
        self.has_ops_replies = len(self.ops_replying) > 0

    def _note(self, noted, slot, is_one):
        """Let the set *noted* of slots have *slot* or not."""
        if is_one:
            noted.add(slot)
        else:
            noted.discard(slot)

    def add_server(self, key, address, port, weight=1, mode=NAT, upper=0, lower=0, tunnel=Tunnel(), family=None,
                   steer=0):
        """Add a real server to the service *key*, or bring it back from the trash; return its connections.

        *steer* is the number that the kernel knows it by (host/steering.py), 0 when it does not.
        """
        cdef RealServer server
        cdef ServerSlot *place
        cdef ServerLink *link
        self._require_room(self.free_servers, self.server_objects, MAX_SERVERS, "real servers")
        deleted = self.services.trash.get((key, address, port, family or key.family))
        former = deleted.service if deleted is not None else None
        server = self.services.add_server(key, address, port, weight, mode, upper, lower, tunnel, family)
        if server.slot < 0:
            server.slot = self._take_slot(self.free_servers, self.server_objects, server)
            self.server_count = len(self.server_objects)
            self.servers_at.setdefault((server.family, address), []).append(server)
            memset(&self.servers[server.slot], 0, sizeof(ServerSlot))
            memset(&self.routes[server.slot], 0, sizeof(Route))
            link = &self.links[server.slot]
            link.active = &server.active_conns
            link.inactive = &server.inactive_conns
            link.persistent = &server.persistent_conns
            link.upper = &server.upper
            link.lower = &server.lower
            link.weight = &server.weight
            link.overloaded = &server.overloaded
        place = &self.servers[server.slot]
        if server.service is not former:        # new, or back in a service that was deleted itself
            memset(&place.counters, 0, sizeof(Counters))
            memset(&self.server_estimates[server.slot], 0, sizeof(Estimate))
        place.address = place_address(&self.server_addresses[server.slot], address, server.family)
        place.port = port
        place.protocol = key.protocol
        place.service = self.services.service(key).slot
        place.idle = self.services.service(key).idle
        self.steers[server.slot] = steer
        self._place_server(server)
        self._place_route(server, {})
        return server.active_conns + server.inactive_conns

    def set_server(self, key, address, port, weight, mode=NAT, upper=0, lower=0, tunnel=Tunnel(), family=None):
        """Give a real server other settings, all of them; weight 0 quiesces it."""
        self._place_server(self.services.set_server(key, address, port, weight, mode, upper, lower, tunnel, family))

    def _place_server(self, RealServer server):
        cdef ServerSlot *place = &self.servers[server.slot]
        place.mode = server.mode
        place.tunnel_type, place.tunnel_port, place.tunnel_flags = server.tunnel
        place.flags = SERVER_AVAILABLE | (SERVER_INET6 if server.family == AF_INET6 else 0)
        place.flags |= SERVER_LOCAL if self._server_is_local(server.slot) else 0
        place.flags |= SERVER_OFFLOADED if self.service_slots[place.service].flags & OFFLOAD else 0
        self._note_tunnel(server)

    cdef void _note_tunnel(self, RealServer server):
        """Note the IPv4 TUN servers: ICMP errors about our own tunnel packets are recognised by them."""
        cdef bint is_one = server.mode == TUN and server.available and server.family == AF_INET
        cdef uint32_t last
        at = self.tunnel_places.get(server.slot)
        if is_one and at is None:
            self.tunnel_places[server.slot] = self.tunnel_count
            self.tunnels[self.tunnel_count] = server.slot
            self.tunnel_count += 1
        elif at is not None and not is_one:
            self.tunnel_count -= 1
            last = self.tunnels[self.tunnel_count]
            self.tunnels[<uint32_t> at] = last
            self.tunnel_places[last] = at
            del self.tunnel_places[server.slot]

    def delete_server(self, key, address, port, family=None):
        """Delete a real server and return how many connections it had.

        Clients' packets of its connections are dropped, its replies still pass.
        """
        cdef RealServer server = self.services.delete_server(key, address, port, family)
        self._place_deleted(server)
        self._after_delete(server.service)
        return server.active_conns + server.inactive_conns

    cdef void _place_deleted(self, RealServer server):
        cdef ServerSlot *place = &self.servers[server.slot]
        place.flags &= ~<uint32_t> SERVER_AVAILABLE
        if server.ends:
            place.flags |= SERVER_ENDS
        self._note_tunnel(server)

    def _after_delete(self, VirtualService service):
        if self.settings.expire_nodest_conn or service.flags & END_DELETED:
            self.flush_cursor = 1

    def set_sysctl(self, name, value):
        """Set one sysctl, named without ``net.ipv4.vs.``."""
        self.services.set_sysctl(name, value)
        self._apply_sysctls()

    def sysctls(self):
        """Return every sysctl by name."""
        return dict(self.services.sysctls)

    def set_memory(self, pages):
        """Say how many pages of memory are free, for the automatic defences."""
        self.free_pages = pages
        sysctls.defend(self.services.sysctls, pages)
        self._apply_sysctls()

    def _apply_sysctls(self):
        cdef Settings *settings = &self.settings
        cdef int rate
        values = self.services.sysctls
        settings.expire_nodest_conn = values["expire_nodest_conn"]
        settings.expire_quiescent_template = values["expire_quiescent_template"]
        settings.conn_reuse_mode = values["conn_reuse_mode"]
        settings.sloppy_tcp = values["sloppy_tcp"]
        settings.sloppy_sctp = values["sloppy_sctp"]
        settings.nat_icmp_send = values["nat_icmp_send"]
        settings.schedule_icmp = values["schedule_icmp"]
        settings.pmtu_disc = values["pmtu_disc"]
        settings.cache_bypass = values["cache_bypass"]
        settings.secure_tcp = values["secure_tcp"] > 1
        rate = sysctls.drop_rate(values, self.free_pages)
        if rate != settings.drop_rate or values["drop_packet"] == 2:    # a new rate starts to count anew
            settings.drop_rate = rate
            settings.drop_counter = rate if values["drop_packet"] == 2 else 0

    def _empty_trash(self, now_ns):
        gone = self.services.empty_trash(now_ns)
        for server in gone.values():
            self.server_objects[(<RealServer> server).slot] = None
            self.free_servers.append((<RealServer> server).slot)
            self.servers_at[server.family, server.address].remove(server)
        return list(gone)

    def set_local_addresses(self, addresses):
        """Say which IPv4 addresses are the host's own: what goes there is delivered, not forwarded."""
        cdef int i
        wanted = sorted(set(addresses))
        cdef uint32_t *fresh = <uint32_t *> calloc(len(wanted) + 1, sizeof(uint32_t))
        if fresh == NULL:
            raise MemoryError
        for i, address in enumerate(wanted):
            fresh[i] = address
        free(self.local)
        self.local = fresh
        self.local_count = len(wanted)
        self._place_local()

    def set_local_addresses6(self, addresses):
        """Say which IPv6 addresses are the host's own."""
        cdef int i
        wanted = sorted(set(addresses))
        cdef Address6 *fresh = <Address6 *> calloc(len(wanted) + 1, sizeof(Address6))
        if fresh == NULL:
            raise MemoryError
        for i, address in enumerate(wanted):
            place_address(&fresh[i], address, AF_INET6)
        free(self.local6)
        self.local6 = fresh
        self.local_count6 = len(wanted)
        self._place_local()

    def _place_local(self):
        cdef ServerSlot *place
        for server in self.server_objects:
            if server is not None:
                place = &self.servers[(<RealServer> server).slot]
                place.flags &= ~<uint32_t> SERVER_LOCAL
                place.flags |= SERVER_LOCAL if self._server_is_local((<RealServer> server).slot) else 0

    def set_routes(self, routes):
        """Say what the host knows of the ways to IPv4 servers: (address, mtu, source, device, mac) each.

        What is not named stays as it was; an mtu of 0 says that nothing is known any more.
        """
        self._keep_routes(AF_INET, routes)

    def set_routes6(self, routes):
        """Say what the host knows of the ways to IPv6 servers."""
        self._keep_routes(AF_INET6, routes)

    def set_largest_mtu(self, mtu):
        """Say the largest MTU of the host's devices: an IPv6 packet that is longer came in fragments."""
        self.largest_mtu = mtu

    def _keep_routes(self, family, routes):
        macs = {}
        for route in routes:
            self.route_of[family, route[0]] = route
            self.placing.append((iter(list(self.servers_at.get((family, route[0]), ()))), macs))
        self.is_placing = True
        while self.is_placing and not self.in_loop:
            self.place_some()

    cdef void place_some(self) noexcept with gil:
        """Note the new routes of some more servers: one address may be a server of thousands of services."""
        cdef int left = ROUTES_PIECE
        while self.placing and left:
            servers, macs = self.placing[0]
            server = next(servers, None)
            if server is None:
                self.placing.popleft()
            elif self.server_objects[(<RealServer> server).slot] is server:     # not forgotten since
                self._place_route(server, macs)
                left -= 1
        self.is_placing = len(self.placing) > 0

    def _place_route(self, RealServer server, macs):
        """Note the way to *server*; *macs* are those of our devices, which are asked for once."""
        cdef Route *route = &self.routes[server.slot]
        route.mtu = route.device = route.source = route.has_mac = 0
        memset(route.source6, 0, 16)
        known = self.route_of.get((server.family, server.address))
        if known is None:
            return
        _, route.mtu, source, route.device, mac = known
        if server.family == AF_INET6:
            place_address(<Address6 *> route.source6, source, AF_INET6)
        else:
            route.source = source
        route.has_mac = len(mac) == 12
        if route.has_mac:
            kind = b"\x86\xdd" if server.family == AF_INET6 else b"\x08\x00"
            if route.device not in macs:
                macs[route.device] = netlink.hardware_address(route.device)
            header = bytes.fromhex(mac) + macs[route.device] + kind
            memcpy(route.ethernet, <const unsigned char *> header, 14)

    def _require_room(self, free_slots, objects, most, what):
        if not free_slots and len(objects) >= most:
            raise ServiceError(f"cannot add: one director holds {most} {what}, and all are in use")

    def _take_slot(self, free_slots, objects, thing):
        """Return the number of a free slot, where *thing* now stands."""
        slot = free_slots.pop() if free_slots else len(objects)
        objects[slot:slot + 1] = [thing]
        return slot

    def _index_services(self, count):
        """Build the lookup of services again, with room for *count*, at most a quarter full."""
        cdef uint32_t size = 64
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
            if service is not None:
                self._enter_service((<VirtualService> service).slot)

    cdef void _enter_service(self, uint32_t slot):
        """Let the service in *slot* be found."""
        cdef ServiceSlot *place = &self.service_slots[slot]
        cdef uint32_t at = self._home_of(slot)
        while self.service_index[at]:
            at = (at + 1) & self.service_mask
        self.service_index[at] = slot + 1
        self._note(self.ftp_services, slot, not place.fwmark and place.port == FTP and place.protocol == TCP)
        self._note(self.port_zero_services, slot, not place.fwmark and place.port == 0)
        self._count_services()

    cdef void _leave_service(self, uint32_t slot):
        """Let the service in *slot* be found no more; what stands behind it moves up (Knuth, 6.4, algorithm R)."""
        cdef uint32_t at = self._home_of(slot), hole, home
        while self.service_index[at] != slot + 1:
            at = (at + 1) & self.service_mask
        hole = at
        while True:
            at = (at + 1) & self.service_mask
            if self.service_index[at] == 0:
                break
            home = self._home_of(self.service_index[at] - 1)
            if (at - home) & self.service_mask >= (at - hole) & self.service_mask:
                self.service_index[hole] = self.service_index[at]
                hole = at
        self.service_index[hole] = 0
        for noted in (self.ftp_services, self.port_zero_services, self.ops_replying):
            noted.discard(slot)
        self.has_ops_replies = len(self.ops_replying) > 0
        self._count_services()

    def _count_services(self):
        self.service_count[0], self.service_count[1] = self.services.serves[AF_INET], self.services.serves[AF_INET6]
        self.has_ftp, self.has_port_zero = len(self.ftp_services) > 0, len(self.port_zero_services) > 0

    # ---- For the packet path: no GIL ------------------------------------------------------------------

    cdef uint32_t _service_home(self, const Key *key) noexcept nogil:
        return <uint32_t> (hash_key(&self.table, DIRECTION_IN, key) >> 32) & self.service_mask

    cdef uint32_t _home_of(self, uint32_t slot) noexcept nogil:
        """Return where in the index the search for the service in *slot* begins."""
        cdef ServiceSlot *place = &self.service_slots[slot]
        cdef Key key = mark_key(place.family, place.fwmark)
        if not place.fwmark:
            key = service_key(place.family, place.protocol, place.address, self.service_addresses[slot].octets,
                              place.port)
        return self._service_home(&key)

    cdef uint32_t _exact_service(self, const Key *key) noexcept nogil:
        """Return the slot number + 1 of the service that a key of ``service_key`` or ``mark_key`` names, or 0."""
        cdef uint32_t at = self._service_home(key), slot
        cdef ServiceSlot *place
        while True:
            slot = self.service_index[at]
            if slot == 0:
                return 0
            place = &self.service_slots[slot - 1]
            if key.protocol == 0:
                if place.fwmark == key.address and place.family == key.port:
                    return slot
            elif (place.address == key.address and place.port == key.port and place.protocol == key.protocol and
                    place.family == key.family and place.fwmark == 0 and (
                        key.family == INET
                        or memcmp(self.service_addresses[slot - 1].octets, key.address6, 16) == 0)):
                return slot
            at = (at + 1) & self.service_mask

    cdef uint32_t find_service(self, const Key *packet, uint32_t mark) noexcept nogil:
        """Return the slot number + 1 of the service for a client's packet, or 0.

        ServiceTable.find_service has the story.
        """
        cdef Key key
        cdef uint32_t found = 0
        cdef int port = packet.port
        if mark:
            key = mark_key(packet.family, mark)
            found = self._exact_service(&key)
        key = service_key(packet.family, packet.protocol, packet.address, packet.address6, port)
        if found == 0:
            found = self._exact_service(&key)
        if found == 0 and self.has_ftp and key.protocol == TCP and (port == FTP_DATA or port >= FIRST_UNPRIVILEGED):
            key.port = FTP
            found = self._exact_service(&key)
        if found == 0 and self.has_port_zero:
            key.port = 0
            found = self._exact_service(&key)
        return found

    cdef bint is_local(self, uint32_t address) noexcept nogil:
        """Return True when *address* is one of the host's own."""
        cdef int low = 0, high = self.local_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.local[middle] < address:
                low = middle + 1
            else:
                high = middle
        return low < self.local_count and self.local[low] == address

    cdef bint is_local6(self, const uint8_t *address) noexcept nogil:
        """Return True when the IPv6 *address* is one of the host's own."""
        cdef int low = 0, high = self.local_count6, middle
        while low < high:
            middle = (low + high) // 2
            if memcmp(self.local6[middle].octets, address, 16) < 0:
                low = middle + 1
            else:
                high = middle
        return low < self.local_count6 and memcmp(self.local6[low].octets, address, 16) == 0

    cdef bint _server_is_local(self, uint32_t slot) noexcept nogil:
        """Return True when the server in *slot* is this host."""
        if self.servers[slot].flags & SERVER_INET6:
            return self.is_local6(self.server_addresses[slot].octets)
        return self.is_local(self.servers[slot].address)

    cdef bint reserve(self) noexcept nogil:
        """Claim memory for the next entries before they are touched: a full tmpfs must not be a SIGBUS."""
        cdef uint32_t count
        cdef int error = EINTR
        if self.table.free or self.table.fresh <= self.reserved or self.table.fresh > self.table.capacity:
            return True
        count = min(<uint32_t> RESERVE, self.table.capacity + 1 - self.table.fresh)
        offset = <uint8_t *> &self.table.entries[self.table.fresh] - self.mapping
        while error == EINTR:
            error = posix_fallocate(self.table_fd, offset, count * sizeof(FlowEntry))
        if error:
            return False
        sem_post(&self.growth)
        self.reserved = self.table.fresh + count - 1
        return True

    cdef bint reserve6(self, uint32_t number) noexcept nogil:
        """Claim memory for the IPv6 addresses of entry *number* and its neighbours."""
        cdef uint32_t block = number // RESERVE, count
        cdef int error = EINTR
        if self.reserved6[block]:
            return True
        count = min(<uint32_t> RESERVE, self.table.capacity + 1 - block * RESERVE)
        offset = <uint8_t *> &self.table.addresses[block * RESERVE] - self.mapping
        while error == EINTR:
            error = posix_fallocate(self.table_fd, offset, count * sizeof(FlowAddresses))
        self.reserved6[block] = error == 0
        return error == 0

    # ---- Huge pages: in a thread of their own, as one may take milliseconds ---------------------------------------

    def claim_ahead(self):
        """Put huge pages under the entries that come next, before they are used; return when there are none to be had.

        That is the life of a thread beside the one that has the packets.  What is in use already stays as it is, as
        packets would have to wait for it meanwhile; a table of a few thousand connections stays as small as it is.
        """
        with nogil:
            self._claim_ahead()

    cdef void _claim_ahead(self) noexcept nogil:
        cdef size_t done = 0, used
        cdef uint8_t *fresh
        while True:
            sem_wait(&self.growth)
            fresh = <uint8_t *> &self.table.entries[self.table.fresh]
            if fresh - <uint8_t *> self.table.entries < HUGE // 2:
                continue
            used = fresh - self.mapping
            done = max(done, whole_pages(used))
            while done < used + HUGE and done < self.mapping_size:
                # The page must not be empty.  Where there is no memory for a huge one just now, it works without.
                if posix_fallocate(self.table_fd, done, 1) == 0 and madvise(
                        self.mapping + done, HUGE, MADV_COLLAPSE) < 0 and c_errno == EINVAL:
                    return
                done += HUGE

    # ---- Statistics: live, as of the last round, and rates ------------------------------------------

    def _estimate(self, uint64_t now_ns):
        """Begin to take a snapshot and to move the rates, every two seconds (estimator.py)."""
        if now_ns < self.next_estimate or self.estimating or not self.services.sysctls["run_estimation"]:
            return
        self.next_estimate = now_ns + <uint64_t> ROUND_NS
        self.to_estimate = <uint32_t> max(len(self.server_objects), len(self.service_objects))
        self.estimate_cursor = 0
        self.estimating = True

    cdef void estimate_some(self, uint32_t count) noexcept nogil:
        """Do so for the servers and services in *count* more slots; at the end for all services together."""
        cdef uint32_t end = min(self.estimate_cursor + count, self.to_estimate), slot
        for slot in range(self.estimate_cursor, min(end, <uint32_t> MAX_SERVERS)):
            estimate(&self.server_estimates[slot], &self.servers[slot].counters)
        for slot in range(self.estimate_cursor, min(end, <uint32_t> MAX_SERVICES)):
            estimate(&self.service_estimates[slot], &self.service_slots[slot].counters)
        self.estimate_cursor = end
        if end == self.to_estimate:
            self.estimating = False
            self._add_up()
            estimate(&self.total_estimate, &self.total)

    def zero(self, key=None):
        """Start the counters of one service and its servers, or of everything, from zero."""
        for service in list(self.services.by_key.values()) if key is None else [self.services.service(key)]:
            start_from_zero(&self.service_estimates[(<VirtualService> service).slot])
            for server in (<VirtualService> service).servers:
                start_from_zero(&self.server_estimates[(<RealServer> server).slot])
        if key is None:
            start_from_zero(&self.total_estimate)

    def totals(self):
        """Return what is counted for all services together, those that are gone too, as a row of one has it."""
        self._add_up()
        return traffic_row(&self.total, &self.total_estimate)

    cdef void _add_up(self) noexcept nogil:
        """Let the totals be those of now."""
        cdef uint32_t slot
        self.total = self.gone
        for slot in range(self.service_slots_used):
            add(&self.total, &self.service_slots[slot].counters)

    def _traffic_of(self, thing):
        """Return what is counted for a service or a server: live, shown, rates."""
        cdef Counters *counters
        cdef Estimate *kept
        if isinstance(thing, RealServer):
            counters = &self.servers[(<RealServer> thing).slot].counters
            kept = &self.server_estimates[(<RealServer> thing).slot]
        else:
            counters = &self.service_slots[(<VirtualService> thing).slot].counters
            kept = &self.service_estimates[(<VirtualService> thing).slot]
        return traffic_row(counters, kept)

    # ---- Listings: pages short enough to fit between two batches ------------------------------------

    def list_services(self, cursor=0, limit=16):
        """Return up to *limit* lines of the listing from line *cursor* on, as rows, and the next cursor or None."""
        return self.services.page(cursor, limit, self._traffic_of)

    def list_connections(self, cursor=0, limit=256):
        """Return up to *limit* records (conntrack.RECORD) from entry *cursor* on, and the next cursor.

        At most 4,096 entries are looked at, so a page may be short, even empty, before the last one.
        """
        cdef FlowTable *table = &self.table
        cdef uint32_t number = max(cursor, 1), stop = min(number + 4096, table.fresh)
        cdef int left = limit
        cdef bytearray records = bytearray()
        while number < stop and left > 0:
            if table.entries[number].flags & ENTRY_VALID:
                records += self._record(number)
                left -= 1
            number += 1
        return bytes(records), number if number < table.fresh else None

    def record(self, number):
        """Return the record (conntrack.RECORD) of entry *number*, b"" when it is not in use, and its server or None."""
        cdef FlowEntry *entry
        if not 0 < number < self.table.fresh or not self.table.entries[number].flags & ENTRY_VALID:
            return b"", None
        entry = &self.table.entries[number]
        return self._record(number), None if entry.server == NO_SERVER else self.server_objects[entry.server]

    def _record(self, uint32_t number):
        return (<unsigned char *> &self.table.entries[number])[:sizeof(FlowEntry)] + self._addresses_of(number)

    def _addresses_of(self, uint32_t number):
        """Return what follows the record of entry *number* when it has an IPv6 address (conntrack.ADDRESSES)."""
        cdef FlowEntry *entry = &self.table.entries[number]
        if entry.family == INET6:
            return (<unsigned char *> &self.table.addresses[number])[:sizeof(FlowAddresses)]
        if entry.flags & FLAG_MIXED:
            return b"".join([packed(entry.caddr, AF_INET), bytes(12), packed(entry.vaddr, AF_INET), bytes(12),
                             (<unsigned char *> &self.server_addresses[entry.server])[:16]])
        return b""


cdef void estimate(Estimate *kept, Counters *counters) noexcept nogil:
    """Move one object's snapshot and averages to what its counters are now."""
    cdef uint64_t *now = <uint64_t *> counters
    cdef uint64_t *before = <uint64_t *> &kept.shown
    cdef int i
    for i in range(COUNTERS):
        if i < 3:                   # connections and packets; then bytes
            kept.average[i] = estimator.count_step(kept.average[i], before[i], now[i])
        else:
            kept.average[i] = estimator.byte_step(kept.average[i], before[i], now[i])
        before[i] = now[i]


cdef void start_from_zero(Estimate *kept) noexcept nogil:
    """Make the last snapshot the zero point: what came since it still shows, as in the kernel."""
    kept.zero = kept.shown
    memset(kept.average, 0, sizeof(kept.average))


cdef void add(Counters *total, Counters *more) noexcept nogil:
    cdef uint64_t *sum = <uint64_t *> total
    cdef int i
    for i in range(COUNTERS):
        sum[i] += (<uint64_t *> more)[i]


cdef dict traffic_row(Counters *counters, Estimate *kept):
    return {"stats": since(counters, &kept.zero), "shown": since(&kept.shown, &kept.zero), "rates": {
        "conns": estimator.count_rate(kept.average[0]), "packets_in": estimator.count_rate(kept.average[1]),
        "packets_out": estimator.count_rate(kept.average[2]), "bytes_in": estimator.byte_rate(kept.average[3]),
        "bytes_out": estimator.byte_rate(kept.average[4])}}


cdef dict since(Counters *counters, Counters *zero):
    return {"conns": counters.conns - zero.conns, "packets_in": counters.packets_in - zero.packets_in,
            "packets_out": counters.packets_out - zero.packets_out, "bytes_in": counters.bytes_in - zero.bytes_in,
            "bytes_out": counters.bytes_out - zero.bytes_out}


cdef uint32_t place_address(Address6 *place, address, family):
    """Write *address* into *place* in network order; return it as 32 bits."""
    cdef bytes octets = packed(address, family)
    memset(place, 0, sizeof(Address6))
    memcpy(place, <const unsigned char *> octets, len(octets))
    return fold6(place.octets) if family == AF_INET6 else address


cdef inline Key service_key(int family, int protocol, uint32_t address, const uint8_t *address6,
                            int port) noexcept nogil:
    """Return what the index of services has the service with this address under."""
    cdef Key key
    key.caddr, key.cport, key.caddr6 = 0, 0, NOBODY
    key.address, key.port, key.address6 = address, port, address6
    key.protocol, key.family = protocol, family
    return key


cdef inline Key mark_key(int family, uint32_t mark) noexcept nogil:
    """Return what it has the service of a firewall mark under: protocol 0, and the family for a port."""
    return service_key(INET, 0, mark, NOBODY, family)
