# One queued packet, parsed, and every way it can go; shared by the parts of the fast path.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from lbq._flowtable cimport INET, INET6, Key, fold6
from lbq._nfqueue cimport Queued
from lbq cimport packet as pkt
from lbq.protocols cimport icmpv6, sctp

cdef enum:
    ICMP = 1
    TCP = 6
    UDP = 17
    SCTP = 132
    PREROUTING = 0
    LOCAL_IN = 1                    # the hooks where replies are seen ...
    LOCAL_OUT = 3
    POSTROUTING = 4                 # ... are this and LOCAL_IN
    LOOPBACK = 1                    # ifindex of lo in every namespace

cdef enum:                          # what became of a packet; index of the counters
    REWRITTEN                       # also while nothing has been found wrong yet
    FORWARDED                       # left by DR or TUN
    PASSED_NOT_OURS
    PASSED_NO_SERVICE
    PASSED_NOT_OPENING
    PASSED_NO_CONNECTION
    PASSED_FTP_DATA
    PASSED_LOCAL
    PASSED_REPLY
    PASSED_BYPASS
    PASSED_ICMP
    PASSED_LATER_FRAGMENT
    PASSED_WHOLE                    # queued once more, with all its bytes
    DROPPED_TRUNCATED               # from here on: dropped
    DROPPED_MALFORMED
    DROPPED_FRAGMENT
    DROPPED_NO_SERVER
    DROPPED_SERVER_GONE
    DROPPED_TABLE_FULL
    DROPPED_DEFENCE
    DROPPED_TTL
    DROPPED_TOO_BIG
    DROPPED_NO_ROUTE
    DROPPED_BOUNDARY
    DROPPED_UNSEGMENTABLE
    DROPPED_FTP
    DROPPED_ICMP_CHECKSUM
    DROPPED_ICMP_OURS
    DROPPED_NAT_ICMP
    OUTCOMES

cdef struct Packet:
    Queued queued
    unsigned char *message          # the netlink message it came in
    int length                      # of the IP packet
    int here                        # bytes of it that are here: all, but of a headers_only packet
    int header                      # where the transport's header starts
    int protocol
    int family
    int flags                       # TCP's header flags; SCTP's event, -1 for none
    uint32_t source                 # IPv4, or an IPv6 address's words XORed; not beside the destination: gcc would
    int source_port                 # load both as one for the hash of a reply, and that waits until the two stores
    uint32_t destination            # before are in the cache
    int destination_port
    const uint8_t *source6          # an IPv6 address, 16 bytes
    const uint8_t *destination6
    bint headers_only               # the kernel kept the rest, and rewrites the packet when a mark tells it how
    uint32_t steer                  # the number in that mark; 0: none
    bint reply                      # from a real server
    bint related                    # not itself here: an ICMP error quotes it
    uint32_t former                 # the connection that it ends, 0 if none
    int outcome
    uint64_t hashed
    uint32_t likely                 # the entry that was fetched for it ahead; 0: none


cdef inline int parse(Packet *packet) noexcept nogil:
    """Fill in the five-tuple and flags; return REWRITTEN, or why the packet cannot be a connection's."""
    cdef unsigned char *data = packet.queued.data
    cdef int length = packet.queued.length, header
    packet.family = INET
    packet.length = packet.here = length
    if packet.queued.truncated and not packet.headers_only:
        return DROPPED_TRUNCATED
    if length < 20 or data[0] >> 4 != 4:
        return parse6(packet) if length >= pkt.IP6_HEADER and data[0] >> 4 == 6 else DROPPED_MALFORMED
    header = (data[0] & 15) * 4
    packet.length = pkt.get16(data, pkt.IP_LENGTH)
    if header < 20 or packet.length < header:
        return DROPPED_MALFORMED
    packet.here = packet.length
    if packet.length > length:
        packet.here = length
        if not packet.headers_only or packet.length > packet.queued.whole:
            return DROPPED_TRUNCATED
    if pkt.get16(data, pkt.IP_FRAGMENT) & pkt.FRAGMENT_MASK:
        return DROPPED_FRAGMENT
    packet.header = header
    packet.protocol = data[pkt.IP_PROTOCOL]
    packet.source = pkt.get32(data, pkt.IP_SOURCE)
    packet.destination = pkt.get32(data, pkt.IP_DESTINATION)
    return parse_transport(packet)


cdef inline int parse6(Packet *packet) noexcept nogil:
    """Do the same for an IPv6 packet, whose header is here; ``parsing.py`` has the story."""
    cdef unsigned char *data = packet.queued.data
    cdef int found
    packet.family = INET6
    packet.length = pkt.IP6_HEADER + pkt.get16(data, pkt.IP6_LENGTH)
    packet.here = packet.length
    if packet.length > packet.queued.length:
        packet.here = packet.queued.length
        if not packet.headers_only or packet.length > packet.queued.whole:
            return DROPPED_TRUNCATED
    found = pkt.find_transport(data, 0, packet.here)
    if found < 0:
        return PASSED_NOT_OURS              # the host's own stack complains about such headers
    packet.header = found >> pkt.START_SHIFT
    packet.protocol = found & pkt.PROTOCOL_MASK
    packet.source6, packet.destination6 = data + pkt.IP6_SOURCE, data + pkt.IP6_DESTINATION
    packet.source, packet.destination = fold6(packet.source6), fold6(packet.destination6)
    if packet.protocol != pkt.ICMPV6:
        return PASSED_LATER_FRAGMENT if found & pkt.IS_LATER else parse_transport(packet)
    if found & pkt.IS_LATER:
        return DROPPED_FRAGMENT
    if packet.here < packet.header + 8:
        return DROPPED_MALFORMED
    if found & pkt.IS_FRAGMENT and data[packet.header] < icmpv6.FIRST_QUESTION:
        return DROPPED_FRAGMENT
    return PASSED_ICMP


cdef inline int parse_transport(Packet *packet) noexcept nogil:
    """Fill in ports and flags out of the transport's header."""
    cdef unsigned char *data = packet.queued.data
    cdef int header = packet.header
    if packet.protocol == TCP:
        if packet.here < header + 20:
            return DROPPED_MALFORMED
        packet.flags = data[header + pkt.TCP_FLAGS]
    elif packet.protocol == UDP:
        if packet.here < header + 8:
            return DROPPED_MALFORMED
        packet.flags = 0
    elif packet.protocol == SCTP:
        if packet.here < header + 12:
            return DROPPED_MALFORMED
        packet.flags = sctp.event(data, header, packet.here)
    else:
        return PASSED_ICMP if packet.protocol == ICMP and packet.family == INET else PASSED_NOT_OURS
    packet.source_port = pkt.get16(data, header)
    packet.destination_port = pkt.get16(data, header + 2)
    return REWRITTEN


cdef inline Key client_key(const Packet *packet) noexcept nogil:
    """Return what the connection of a client's packet is found by."""
    cdef Key key
    key.caddr, key.cport, key.caddr6 = packet.source, packet.source_port, packet.source6
    key.address, key.port, key.address6 = packet.destination, packet.destination_port, packet.destination6
    key.protocol, key.family = packet.protocol, packet.family
    return key


cdef inline Key reply_key(const Packet *packet) noexcept nogil:
    """Return what the connection of a packet to a client is found by."""
    cdef Key key
    key.caddr, key.cport, key.caddr6 = packet.destination, packet.destination_port, packet.destination6
    key.address, key.port, key.address6 = packet.source, packet.source_port, packet.source6
    key.protocol, key.family = packet.protocol, packet.family
    return key


cdef inline void turn_round(Packet *packet) noexcept nogil:
    """Make the packet one that the other end would have sent."""
    packet.source, packet.destination = packet.destination, packet.source
    packet.source6, packet.destination6 = packet.destination6, packet.source6
    packet.source_port, packet.destination_port = packet.destination_port, packet.source_port


cdef inline int hops(const Packet *packet) noexcept nogil:
    """Return the TTL or hop limit."""
    return packet.queued.data[pkt.IP6_HOPS] if packet.family == INET6 else packet.queued.data[pkt.IP_TTL]


cdef inline bint from_loopback(const Packet *packet) noexcept nogil:
    """Return True for a packet from 127.0.0.0/8 or ::1."""
    return is_one(packet.source6) if packet.family == INET6 else packet.source >> 24 == 127


cdef inline bint is_one(const uint8_t *address) noexcept nogil:
    """Return True for the IPv6 address ::1."""
    cdef int i
    for i in range(15):
        if address[i]:
            return False
    return address[15] == 1
