# C types for _slots.pyx; the meaning is there.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from lbq._flowtable cimport FlowTable, Key
from lbq.model cimport RealServer

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass

cdef enum:
    SERVER_AVAILABLE = 1
    SERVER_LOCAL = 2
    SERVER_ENDS = 4                 # deleted, and its connections end
    SERVER_INET6 = 8
    SERVER_OFFLOADED = 16           # conntrack carries its connections
    OPS = 0x04                      # a service's flags, as in model.py
    MOVE_QUIESCED = 0x20000
    OPS_REPLIES = 0x40000
    OFFLOAD = 0x80000
    NO_SERVER = 0xFFFFFFFF          # in an entry: it goes where the client wanted (cache_bypass)
    NO_ROUTE = -1                   # as an mtu
    COUNTERS = 5                    # in a Counters

cdef struct Counters:
    uint64_t conns, packets_in, packets_out, bytes_in, bytes_out

cdef struct Address6:               # an IPv6 address, or an IPv4 one in the first four bytes; in network order
    uint8_t octets[16]

cdef struct ServerSlot:             # in the shared mapping
    uint32_t address                # IPv4, or an IPv6 address's words XORed
    uint16_t port
    uint8_t protocol, mode
    uint32_t service, flags
    uint8_t tunnel_type, tunnel_flags
    uint16_t tunnel_port
    uint32_t idle                   # seconds, of its service; 0: not said
    Counters counters

cdef struct ServiceSlot:            # in the shared mapping
    uint32_t address                # likewise
    uint16_t port
    uint8_t protocol, family
    uint32_t fwmark, flags          # model.PERSISTENT ...
    uint32_t timeout, netmask       # of persistence; IPv6: the length of the prefix
    Counters counters

cdef struct ServerLink:             # where the schedulers read a server's load: fields of its RealServer
    int *active
    int *inactive
    int *persistent
    int *upper
    int *lower
    int *weight
    int *overloaded

cdef struct Route:                  # what the host knows of the way to a server
    int mtu                         # bytes; 0: nothing known, NO_ROUTE
    uint32_t source
    uint8_t source6[16]
    int device
    bint has_mac
    uint8_t ethernet[14]            # header of a frame to the next hop
    int learnt_mtu                  # from an ICMP error about a tunnel packet of ours
    uint64_t learnt_until           # ns

cdef struct Estimate:               # of one service or server
    Counters shown, zero            # the counters at the last round; what they were when they were zeroed
    int64_t average[COUNTERS]       # scaled, estimator.py

cdef struct Settings:               # sysctls the packet path asks for
    int expire_nodest_conn, expire_quiescent_template, conn_reuse_mode, sloppy_tcp, sloppy_sctp, nat_icmp_send
    int schedule_icmp, pmtu_disc, cache_bypass
    bint secure_tcp
    int drop_rate, drop_counter


cdef class Slots:
    cdef readonly object services           # ServiceTable
    cdef bint is_new                        # the kernel profile
    cdef FlowTable table
    cdef ServerSlot *servers
    cdef ServiceSlot *service_slots
    cdef Address6 *server_addresses         # by slot
    cdef Address6 *service_addresses
    cdef ServerLink *links                  # these three, and the next, by server or service slot
    cdef Route *routes
    cdef Estimate *server_estimates
    cdef Estimate *service_estimates
    cdef Counters total, gone               # of all services; of those that were deleted
    cdef Estimate total_estimate
    cdef Settings settings
    cdef uint32_t *service_index            # open addressing: slot number + 1 by address, port, protocol
    cdef uint32_t service_mask
    cdef int service_count[2]               # IPv4, IPv6
    cdef bint has_ftp, has_port_zero, has_ops_replies
    cdef uint32_t *local                    # the host's own addresses, sorted
    cdef int local_count
    cdef Address6 *local6                   # likewise
    cdef int local_count6
    cdef int largest_mtu                    # an IPv6 packet that is longer came in fragments
    cdef uint32_t reserved                  # entries up to here have memory
    cdef uint8_t *reserved6                 # 1 for each RESERVE entries with memory for IPv6 addresses
    cdef uint32_t *tunnels                  # slots of TUN servers
    cdef uint32_t *steers                   # by server slot: its number in the mark of a steered packet; 0: none
    cdef int tunnel_count
    cdef uint32_t server_count              # slots that were ever used
    cdef int table_fd
    cdef uint64_t next_estimate
    cdef uint32_t flush_cursor              # where the search for connections of deleted servers goes on
    cdef uint8_t *mapping                   # the shared part
    cdef uint8_t *index_memory              # index and wheel
    cdef size_t mapping_size, index_size
    cdef sem_t growth                       # posted when entries have got memory
    cdef list server_objects, service_objects, free_servers, free_services
    cdef dict route_of                      # by family and address
    cdef dict servers_at                    # likewise: the servers, those in the trash too
    cdef bint in_loop                       # what takes long is done between packets
    cdef object placing                     # servers whose route is to be noted
    cdef bint is_placing
    cdef dict tunnel_places                 # where in tunnels a server's slot is
    cdef set ftp_services, port_zero_services, ops_replying     # slots of such services
    cdef uint32_t service_slots_used        # that were ever used
    cdef bint estimating                    # a snapshot is being taken, slot by slot
    cdef uint32_t estimate_cursor, to_estimate
    cdef long free_pages

    cdef void _place_deleted(self, RealServer server)
    cdef void _note_tunnel(self, RealServer server)
    cdef void _enter_service(self, uint32_t slot)
    cdef void _leave_service(self, uint32_t slot)
    cdef uint32_t _home_of(self, uint32_t slot) noexcept nogil
    cdef void place_some(self) noexcept with gil
    cdef void estimate_some(self, uint32_t count) noexcept nogil
    cdef void _add_up(self) noexcept nogil
    cdef uint32_t _service_home(self, const Key *key) noexcept nogil
    cdef uint32_t _exact_service(self, const Key *key) noexcept nogil
    cdef uint32_t find_service(self, const Key *key, uint32_t mark) noexcept nogil
    cdef bint is_local(self, uint32_t address) noexcept nogil
    cdef bint is_local6(self, const uint8_t *address) noexcept nogil
    cdef bint _server_is_local(self, uint32_t slot) noexcept nogil
    cdef bint reserve(self) noexcept nogil
    cdef bint reserve6(self, uint32_t number) noexcept nogil
    cdef void _claim_ahead(self) noexcept nogil


cdef uint32_t place_address(Address6 *place, address, family)
