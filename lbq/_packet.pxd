# One queued packet, parsed, and every way it can go; shared by the parts of the fast path.
from libc.stdint cimport uint32_t, uint64_t

from lbq._nfqueue cimport Queued
from lbq cimport packet as pkt
from lbq.protocols cimport sctp

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
    int length                      # IP total length
    int header                      # of the IP header
    int protocol
    int flags                       # TCP's header flags; SCTP's event, -1 for none
    uint32_t source                 # not beside the destination: gcc would load both as one for the hash of a reply,
    int source_port                 # and that waits until the two stores before are in the cache
    uint32_t destination
    int destination_port
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
    packet.header = header
    packet.protocol = data[pkt.IP_PROTOCOL]
    packet.source = pkt.get32(data, pkt.IP_SOURCE)
    packet.destination = pkt.get32(data, pkt.IP_DESTINATION)
    if packet.protocol == TCP:
        if packet.length < header + 20:
            return DROPPED_MALFORMED
        packet.flags = data[header + pkt.TCP_FLAGS]
    elif packet.protocol == UDP:
        if packet.length < header + 8:
            return DROPPED_MALFORMED
        packet.flags = 0
    elif packet.protocol == SCTP:
        if packet.length < header + 12:
            return DROPPED_MALFORMED
        packet.flags = sctp.event(data, header, packet.length)
    else:
        return PASSED_ICMP if packet.protocol == ICMP else PASSED_NOT_OURS
    packet.source_port = pkt.get16(data, header)
    packet.destination_port = pkt.get16(data, header + 2)
    return REWRITTEN
