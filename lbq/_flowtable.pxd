# The connection table in C: found from both sides, bounded, nothing allocated per packet.
#
# Entries are 64 bytes, one cache line each, in an array in a shared mapping.  They refer to each other,
# to servers and to services by number, never by pointer, so the array means the same to the next process
# that maps it.  An entry is valid once ENTRY_VALID is in its flags, which is stored last.
#
# IPv6: an entry's three addresses are in a second array of the mapping, under the same number; memory for that is
# claimed only where IPv6 entries are.  The entry itself has each address's four words XORed: a probe compares what it
# compares for IPv4, and looks at the addresses when that is equal.
#
# Everything else here is derived and private, and can be rebuilt from the entries:
#   index   open addressing with linear probing over 32-bit slots.  A connection has two *nodes*, one under
#           (client, VIP:vport) and one under (client, RIP:rport); a slot holds entry * 2 + direction in its
#           low bits and a tag of the hash above, so a probe rarely touches a wrong entry.  Of two equal
#           keys the newer lies first, as in the kernel's hash buckets.  Deletion shifts back: no tombstones.
#           A persistence template has one node only, under (masked client, port 0, VIP:vport).
#   wheel   timers, one list per tick of 2^28 ns (0.27 s).  A packet only moves the deadline in the entry;
#           the wheel looks again when the old deadline comes.  Only a deadline brought forward moves the
#           entry at once.  Nothing ends early; it may end one tick late (the kernel's wheel is coarser).
#
# The hash is keyed with random secrets and covers all of both addresses, so a client cannot choose ports, or out of
# its many IPv6 addresses ones, that collide.  (Addresses with one XOR are easy to choose; that alone costs nothing.)
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t lbq_mix(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128) a * b;
        return (uint64_t) product ^ (uint64_t) (product >> 64);
    }
    /* The four 32-bit words of an IPv6 address, XORed, in host order. */
    static inline uint32_t lbq_fold6(const uint8_t *address) {
        uint32_t word[4];
        __builtin_memcpy(word, address, 16);
        return __builtin_bswap32(word[0] ^ word[1] ^ word[2] ^ word[3]);
    }
    static inline uint64_t lbq_load(const uint8_t *at) {
        uint64_t value;
        __builtin_memcpy(&value, at, 8);
        return value;
    }
    """
    uint64_t mix "lbq_mix"(uint64_t a, uint64_t b) noexcept nogil
    uint32_t fold6 "lbq_fold6"(const uint8_t *address) noexcept nogil
    uint64_t load "lbq_load"(const uint8_t *at) noexcept nogil
    void prefetch "__builtin_prefetch"(const void *address) noexcept nogil
    void store_release "__atomic_store_n"(uint16_t *at, uint16_t value, int order) noexcept nogil
    int RELEASE "__ATOMIC_RELEASE"

cdef enum:
    INET = 2                        # AF_INET
    INET6 = 10
    ENTRY_VALID = 0x8000            # flags: above the kernel's own connection flags, which are in model.py
    MODE_MASK = 0x0007
    FLAG_OFFLOADED = 0x0010         # conntrack rewrites its packets, and says when it ends (_offload.pyx)
    FLAG_NO_OUTPUT = 0x0080
    FLAG_INACTIVE = 0x0100
    FLAG_OUT_SEQ = 0x0200
    FLAG_IN_SEQ = 0x0400
    FLAG_NO_CPORT = 0x0800
    FLAG_TEMPLATE = 0x1000
    FLAG_ONE_PACKET = 0x2000
    FLAG_MIXED = 0x4000             # the real server is of the other family
    TICK_BITS = 28
    WHEEL_SLOTS = 4096              # one turn is 1,100 s: longer than the longest TCP timeout
    WHEEL_CONTROLS = WHEEL_SLOTS    # two lists more, for the end of the present tick: of what governs others,
    WHEEL_TEMPLATES = WHEEL_SLOTS + 1       # FTP's control connections before the templates that govern them
    WHEEL_LISTS = WHEEL_SLOTS + 2
    WHEEL_HEAD = 0x80000000         # in wheel_prev: "I am first in the list of this slot"
    DIRECTION_IN = 0
    DIRECTION_OUT = 1

cdef struct FlowEntry:              # conntrack.RECORD has the same layout
    uint32_t caddr, vaddr, daddr    # IPv4; for IPv6 see FlowAddresses
    uint16_t cport, vport, dport
    uint8_t protocol, family
    uint32_t fwmark
    uint16_t flags
    uint8_t state, helper           # helper: 1 for an FTP control connection
    uint32_t server                 # slot in the server array
    uint64_t expires                # ns, CLOCK_MONOTONIC
    uint32_t wheel_next, wheel_prev  # wheel_next also chains free entries
    uint32_t timeout                # seconds
    uint32_t packets_in
    uint32_t control                # the template that governs this connection (persistence)
    uint32_t controlled             # for a template: how many it governs

cdef struct FlowAddresses:          # of an IPv6 entry; conntrack.ADDRESSES has the same layout
    uint8_t caddr[16]
    uint8_t vaddr[16]
    uint8_t daddr[16]

cdef struct Key:                    # what a connection is found by: a client, and the VIP or the real server
    uint32_t caddr, address         # IPv4, or an IPv6 address's words XORed
    uint16_t cport, port
    uint8_t protocol, family
    const uint8_t *caddr6           # an IPv6 address, 16 bytes
    const uint8_t *address6

cdef struct FlowTable:
    FlowEntry *entries              # [0] is never used: 0 means "none"
    FlowAddresses *addresses
    uint32_t *index
    uint32_t *wheel
    uint64_t seed[7]
    uint64_t tick                   # the next tick to look at
    uint32_t capacity               # entries 1 .. capacity
    uint32_t slots                  # in the index
    uint32_t node_bits, node_mask   # of a slot: entry * 2 + direction
    uint32_t used
    uint32_t fresh                  # entries from here on were never used
    uint32_t free
    uint32_t changes                # of the index, ever: what was looked up ahead holds until the next one


cdef inline uint64_t hash_key(FlowTable *table, int direction, const Key *key) noexcept nogil:
    """Return the keyed hash of *key*, whose other end is the VIP (IN) or the real server (OUT)."""
    cdef uint64_t addresses = (<uint64_t> key.caddr << 32) | key.address
    cdef uint64_t ports = (<uint64_t> key.cport << 32) | (<uint64_t> key.port << 16) | (key.protocol << 1) | direction
    if key.family == INET6:
        addresses = hash_addresses(table, key)
    return mix(mix(addresses ^ table.seed[0], ports ^ table.seed[1]) ^ table.seed[2], 0x9E3779B97F4A7C15ULL)


cdef inline uint64_t hash_addresses(FlowTable *table, const Key *key) noexcept nogil:
    """Return a keyed hash of two IPv6 addresses."""
    cdef uint64_t other = mix(load(key.address6) ^ table.seed[5], load(key.address6 + 8) ^ table.seed[6])
    return mix(load(key.caddr6) ^ table.seed[3], load(key.caddr6 + 8) ^ table.seed[4]) ^ (other << 32 | other >> 32)


cdef inline uint32_t home(FlowTable *table, uint64_t hashed) noexcept nogil:
    """Return the index slot where the probe for *hashed* starts."""
    return <uint32_t> (((hashed >> 32) * table.slots) >> 32)


cdef inline uint32_t tag(FlowTable *table, uint64_t hashed) noexcept nogil:
    """Return the tag bits of *hashed*, in place above the node number."""
    return <uint32_t> hashed & ~table.node_mask


cdef inline uint32_t after(FlowTable *table, uint32_t at) noexcept nogil:
    return at + 1 if at + 1 < table.slots else 0


cdef inline uint32_t distance(FlowTable *table, uint32_t start, uint32_t at) noexcept nogil:
    """Return how many steps a probe takes from *start* to *at*."""
    return at - start if at >= start else at + table.slots - start


cdef inline bint has_key(FlowTable *table, uint32_t number, int direction, const Key *key) noexcept nogil:
    """Return True when entry *number* is the connection between the client and the other end.

    Replies of NAT come from the real server, those of every other mode from the VIP.
    """
    cdef FlowEntry *entry = &table.entries[number]
    if entry.caddr != key.caddr or entry.cport != key.cport or entry.protocol != key.protocol:
        return False
    if direction == DIRECTION_OUT and entry.flags & MODE_MASK == 0:
        if entry.daddr != key.address or entry.dport != key.port:
            return False
    elif entry.vaddr != key.address or entry.vport != key.port:
        return False
    return entry.family == key.family and (key.family == INET or has_addresses(table, number, direction, key))


cdef inline bint has_addresses(FlowTable *table, uint32_t number, int direction, const Key *key) noexcept nogil:
    """Return True when the IPv6 entry *number* has the addresses of *key*."""
    cdef FlowAddresses *addresses = &table.addresses[number]
    cdef uint8_t *other = addresses.vaddr
    if direction == DIRECTION_OUT and table.entries[number].flags & MODE_MASK == 0:
        other = addresses.daddr
    return memcmp(addresses.caddr, key.caddr6, 16) == 0 and memcmp(other, key.address6, 16) == 0


cdef inline uint32_t find(FlowTable *table, uint64_t hashed, int direction, const Key *key, int kind) noexcept nogil:
    """Return the number of the connection with this key, whose hash is *hashed*, or 0.

    *kind* matters where the client's port is 0 and the packet is the client's: FLAG_TEMPLATE, or FLAG_NO_CPORT for a
    connection that still waits for it.
    """
    cdef uint32_t at = home(table, hashed), wanted = tag(table, hashed), slot, number
    while True:
        slot = table.index[at]
        if slot == 0:
            return 0
        if slot & ~table.node_mask == wanted and slot & 1 == <uint32_t> direction:
            number = (slot & table.node_mask) >> 1
            if (has_key(table, number, direction, key) and
                    (key.cport != 0 or direction == DIRECTION_OUT or
                     table.entries[number].flags & (FLAG_TEMPLATE | FLAG_NO_CPORT) == kind)):
                return number
        at = after(table, at)


cdef inline uint32_t likely_entry(FlowTable *table, uint64_t hashed, int direction) noexcept nogil:
    """Return the entry that *find* will most likely look at, judged by the tag alone, or 0.

    The caller prefetches it; a function that only prefetches is thrown away by gcc 12 as free of effects.
    """
    cdef uint32_t at = home(table, hashed), wanted = tag(table, hashed) | <uint32_t> direction, slot, _step
    for _step in range(8):
        slot = table.index[at]
        if slot == 0:
            return 0
        if slot & (~table.node_mask | 1) == wanted:
            return (slot & table.node_mask) >> 1
        at = after(table, at)
    return 0


cdef inline void key_of(FlowTable *table, uint32_t node, Key *key) noexcept nogil:
    """Fill in what *node* is found by."""
    cdef FlowEntry *entry = &table.entries[node >> 1]
    cdef FlowAddresses *addresses = &table.addresses[node >> 1]
    key.protocol, key.family = entry.protocol, entry.family
    key.caddr, key.cport, key.caddr6 = entry.caddr, entry.cport, addresses.caddr
    if node & 1 == DIRECTION_OUT and entry.flags & MODE_MASK == 0:
        key.address, key.port, key.address6 = entry.daddr, entry.dport, addresses.daddr
    else:
        key.address, key.port, key.address6 = entry.vaddr, entry.vport, addresses.vaddr


cdef inline uint64_t node_hash(FlowTable *table, uint32_t node) noexcept nogil:
    cdef Key key
    key_of(table, node, &key)
    return hash_key(table, node & 1, &key)


cdef inline bint same_key(FlowTable *table, uint32_t node, uint32_t other) noexcept nogil:
    cdef Key key
    if (node ^ other) & 1:
        return False
    key_of(table, other, &key)
    return has_key(table, node >> 1, node & 1, &key)


cdef inline void link_node(FlowTable *table, uint32_t node, uint64_t hashed) noexcept nogil:
    """Enter *node* into the index, before any node with the same key."""
    cdef uint32_t at = home(table, hashed), carried = node | tag(table, hashed), slot
    table.changes += 1
    while True:
        slot = table.index[at]
        if slot == 0:
            table.index[at] = carried
            return
        if (slot ^ carried) & ~table.node_mask == 0 and same_key(table, slot & table.node_mask,
                                                                 carried & table.node_mask):
            table.index[at] = carried   # the newer takes the place, the older moves on
            carried = slot
        at = after(table, at)


cdef inline void unlink_node(FlowTable *table, uint32_t node) noexcept nogil:
    """Take *node* out of the index and close the gap."""
    cdef uint64_t hashed = node_hash(table, node)
    cdef uint32_t at = home(table, hashed), wanted = node | tag(table, hashed), hole, slot, start
    table.changes += 1
    while table.index[at] != wanted:
        at = after(table, at)
    hole = at
    while True:
        at = after(table, at)
        slot = table.index[at]
        if slot == 0:
            break
        start = home(table, node_hash(table, slot & table.node_mask))
        # The slot may move into the hole unless its probe starts behind the hole.
        if distance(table, start, at) >= distance(table, hole, at):
            table.index[hole] = slot
            hole = at
    table.index[hole] = 0


cdef inline void wheel_add(FlowTable *table, uint32_t number, uint64_t expires) noexcept nogil:
    """Put entry *number* into the list of the tick in which it may end."""
    cdef uint64_t tick = expires >> TICK_BITS
    if tick < table.tick:
        tick = table.tick
    if tick > table.tick + WHEEL_SLOTS - 2:
        tick = table.tick + WHEEL_SLOTS - 2
    wheel_put(table, number, <uint32_t> (tick & (WHEEL_SLOTS - 1)))


cdef inline void wheel_put(FlowTable *table, uint32_t number, uint32_t slot) noexcept nogil:
    """Put entry *number* at the head of the list *slot*."""
    cdef uint32_t first = table.wheel[slot]
    table.entries[number].wheel_next = first
    table.entries[number].wheel_prev = WHEEL_HEAD | slot
    if first:
        table.entries[first].wheel_prev = number
    table.wheel[slot] = number


cdef inline void wheel_remove(FlowTable *table, uint32_t number) noexcept nogil:
    cdef FlowEntry *entry = &table.entries[number]
    if entry.wheel_prev & WHEEL_HEAD:
        table.wheel[entry.wheel_prev & ~<uint32_t> WHEEL_HEAD] = entry.wheel_next
    else:
        table.entries[entry.wheel_prev].wheel_next = entry.wheel_next
    if entry.wheel_next:
        table.entries[entry.wheel_next].wheel_prev = entry.wheel_prev


cdef inline void set_deadline(FlowTable *table, uint32_t number, uint64_t expires) noexcept nogil:
    """Let entry *number* end at *expires*; almost always later than before, which costs one store."""
    cdef FlowEntry *entry = &table.entries[number]
    if expires < entry.expires:
        wheel_remove(table, number)
        wheel_add(table, number, expires)
    entry.expires = expires


cdef inline uint32_t take_entry(FlowTable *table) noexcept nogil:
    """Return the number of a free entry, zeroed, or 0 when the table is full."""
    cdef uint32_t number = table.free
    if number:
        table.free = table.entries[number].wheel_next
    elif table.fresh <= table.capacity:
        number = table.fresh
        table.fresh += 1
    else:
        return 0
    memset(&table.entries[number], 0, sizeof(FlowEntry))
    table.used += 1
    return number


cdef inline void give_back(FlowTable *table, uint32_t number) noexcept nogil:
    """Put entry *number*, which nothing refers to, among the free ones."""
    table.entries[number].wheel_next = table.free
    table.free = number
    table.used -= 1


cdef inline void link_entry(FlowTable *table, uint32_t number) noexcept nogil:
    """Enter *number* into the index by what it is found by."""
    link_node(table, number * 2 + DIRECTION_IN, node_hash(table, number * 2 + DIRECTION_IN))
    if table.entries[number].flags & FLAG_TEMPLATE == 0:
        link_node(table, number * 2 + DIRECTION_OUT, node_hash(table, number * 2 + DIRECTION_OUT))


cdef inline void unlink_entry(FlowTable *table, uint32_t number) noexcept nogil:
    """Take *number* out of the index, before what it is found by changes."""
    unlink_node(table, number * 2 + DIRECTION_IN)
    if table.entries[number].flags & FLAG_TEMPLATE == 0:
        unlink_node(table, number * 2 + DIRECTION_OUT)


cdef inline void enter(FlowTable *table, uint32_t number, uint64_t expires) noexcept nogil:
    """Make the filled entry *number* a connection: both keys, its timer, then valid."""
    cdef FlowEntry *entry = &table.entries[number]
    link_entry(table, number)
    entry.expires = expires
    wheel_add(table, number, expires)
    store_release(&entry.flags, entry.flags | ENTRY_VALID, RELEASE)


cdef inline void drop_entry(FlowTable *table, uint32_t number) noexcept nogil:
    """Forget connection *number*, whose timer is out of the wheel already."""
    cdef FlowEntry *entry = &table.entries[number]
    store_release(&entry.flags, entry.flags & ~<int> ENTRY_VALID, RELEASE)
    unlink_entry(table, number)
    give_back(table, number)


cdef inline uint32_t next_due(FlowTable *table, uint64_t now, int *budget) noexcept nogil:
    """Return a connection whose time is over at *now*, out of the wheel; 0 when there is none.

    Looks at no more than *budget* entries and empty ticks, and goes on there the next time.
    """
    cdef uint64_t present = now >> TICK_BITS
    cdef uint32_t number
    while table.tick < present and budget[0] > 0:
        number = table.wheel[table.tick & (WHEEL_SLOTS - 1)]
        budget[0] -= 1
        if number == 0:
            number = table.wheel[WHEEL_CONTROLS]
            if number == 0:
                number = table.wheel[WHEEL_TEMPLATES]
            if number == 0:
                table.tick += 1
                continue
            wheel_remove(table, number)
            if table.entries[number].expires >> TICK_BITS <= table.tick:
                return number
            wheel_add(table, number, table.entries[number].expires)
            continue
        wheel_remove(table, number)
        if table.entries[number].expires >> TICK_BITS <= table.tick:
            if table.entries[number].flags & FLAG_TEMPLATE:     # after those that it governs
                wheel_put(table, number, WHEEL_TEMPLATES)
                continue
            if table.entries[number].helper:
                wheel_put(table, number, WHEEL_CONTROLS)
                continue
            return number
        # A packet moved its deadline on; this tick's list is being emptied, so never back into it.
        table.tick += 1
        wheel_add(table, number, table.entries[number].expires)
        table.tick -= 1
    return 0
