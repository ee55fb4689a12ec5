"""What packets are decided by: services, servers and connections, as numbered slots in one shared mapping.

The configuration itself is Python objects in a ``ServiceTable``, as in the readable director.  Each service
and each server also has a slot: a C struct with what the packet path needs, found by its number.  Everything
here that is Python runs between two batches, under the GIL; the packet path, which has no GIL, only reads
the slots and counts in them.
"""
import contextlib
import mmap
import os
import struct
import time
from libc.errno cimport EINTR
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from lbq._flowtable cimport DIRECTION_IN, ENTRY_VALID, TICK_BITS, WHEEL_SLOTS, FlowEntry, hash_key
from lbq.model cimport RealServer, VirtualService

from lbq.errors import ServiceError
from lbq.model import NEW
from lbq.services import ServiceTable

cdef extern from "<fcntl.h>" nogil:
    int posix_fallocate(int fd, long offset, long length)

cdef enum:
    MAX_SERVERS = 65536
    MAX_SERVICES = 16384
    RESERVE = 4096                  # entries whose memory is claimed at a time
    HEADER_BYTES = 4096


cdef class Slots:
    """The tables of one fast director, and the commands that change and list them."""

    # ---- Setting up ------------------------------------------------------------------------------

    def __cinit__(self, int max_connections=1 << 20, profile=NEW, table_path=None):
        if not 1 <= max_connections <= 1 << 27:
            raise ValueError(f"max_connections must be 1 to {1 << 27}, not {max_connections}")
        self.services = ServiceTable(profile)
        self.local_addresses = set()
        self.server_objects, self.service_objects = [], []
        self.free_servers, self.free_services = [], []
        self._map_table(max_connections, table_path)
        self.links = <ServerLink *> calloc(MAX_SERVERS, sizeof(ServerLink))
        if self.links == NULL:
            raise MemoryError
        self._index_services(16)

    def __dealloc__(self):
        free(self.links)
        free(self.service_index)
        if self.table_fd > 0:                   # 0: there was no __cinit__, or it failed before
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

    def tick(self, now_ns):
        """Forget deleted servers that have been idle for minutes; return their (key, address, port)."""
        slots = {place: (<RealServer> server).slot for place, server in self.services.trash.items()}
        gone = self.services.empty_trash(now_ns)
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

    # ---- For the packet path: no GIL ------------------------------------------------------------------

    cdef uint32_t find_service(self, int protocol, uint32_t address, int port) noexcept nogil:
        """Return the slot number + 1 of a service, or 0."""
        cdef uint32_t at = self._service_home(protocol, address, port), slot
        cdef ServiceSlot *place
        while True:
            slot = self.service_index[at]
            if slot == 0:
                return 0
            place = &self.service_slots[slot - 1]
            if place.address == address and place.port == port and place.protocol == protocol:
                return slot
            at = (at + 1) & self.service_mask

    cdef bint reserve(self) noexcept nogil:
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

    # ---- Listings: pages short enough to fit between two batches ------------------------------------

    def list_services(self, cursor=0, limit=16):
        """Return up to *limit* lines of the listing from line *cursor* on, as rows, and the next cursor or None."""
        return self.services.page(cursor, limit, lambda thing: {"stats": self._counters_of(thing)})

    def _counters_of(self, thing):
        if isinstance(thing, RealServer):
            return self.servers[(<RealServer> thing).slot].counters
        return self.service_slots[(<VirtualService> thing).slot].counters

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
