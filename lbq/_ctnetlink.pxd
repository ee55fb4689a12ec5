# What conntrack says of a connection, as the kernel's own headers describe it: events, lists, and a way to end one.
#
# A message is nlmsghdr, nfgenmsg, attributes.  A connection has two tuples: the client's packets as they came
# (CTA_TUPLE_ORIG: client -> VIP:vport) and as answers are expected (CTA_TUPLE_REPLY: RIP:rport -> client).  Events come
# one a datagram, lists with many; both are read by the same few lines, and no byte is trusted.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from lbq._nfqueue cimport MESSAGE_HEADER, aligned, htonl, htons, nfgenmsg, nlattr, nlmsghdr, ntohl, ntohs

cdef extern from "<linux/netlink.h>" nogil:
    int NLM_F_REQUEST, NLMSG_ERROR, NLMSG_DONE, NLA_TYPE_MASK, NLA_F_NESTED

cdef extern from "<linux/netfilter/nfnetlink.h>" nogil:
    int NFNL_SUBSYS_CTNETLINK

cdef extern from "<linux/netfilter/nfnetlink_conntrack.h>" nogil:
    int IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_DELETE
    int CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_TIMEOUT, CTA_ID, CTA_ZONE
    int CTA_COUNTERS_ORIG, CTA_COUNTERS_REPLY, CTA_COUNTERS_PACKETS, CTA_COUNTERS_BYTES
    int CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST
    int CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
    int CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL

cdef extern from "<linux/netfilter/nf_conntrack_common.h>" nogil:
    int IPS_SEEN_REPLY, IPS_DST_NAT

cdef enum:
    SAYS_NOTHING                    # what a message is about
    TELLS                           # a connection that began, changed or is listed
    ENDED
    LONGEST_DELETE = 128            # bytes

cdef struct Tracked:                # what a message says of its connection; addresses point into the message
    int about
    int family, protocol
    const uint8_t *client
    const uint8_t *vip
    const uint8_t *rip
    int cport, vport, rport
    uint32_t status                 # IPS_DST_NAT ...
    uint32_t id                     # as on the wire, never 0
    uint32_t timeout                # seconds that it lives without a packet
    bint has_timeout, has_counters
    int tcp_state                   # -1: not said
    int tcp_flags                   # of the client's side
    uint64_t packets_in, bytes_in, packets_out, bytes_out

cdef struct Attribute:
    int kind
    uint32_t size
    unsigned char *value

cdef struct Tuple:
    const uint8_t *source
    const uint8_t *destination
    int protocol, source_port, destination_port


cdef inline bint next_attribute(unsigned char **at, unsigned char *end, Attribute *found) noexcept nogil:
    """Fill *found* with the attribute at *at* and move on; return False when no whole one is left before *end*."""
    cdef nlattr *head = <nlattr *> at[0]
    cdef ssize_t left = end - at[0]
    if left < <ssize_t> sizeof(nlattr) or head.nla_len < sizeof(nlattr) or head.nla_len > left:
        return False
    found.kind = head.nla_type & NLA_TYPE_MASK
    found.size = head.nla_len - sizeof(nlattr)
    found.value = at[0] + sizeof(nlattr)
    at[0] += min(left, <ssize_t> aligned(head.nla_len))
    return True


cdef inline int number8(const Attribute *attribute) noexcept nogil:
    return attribute.value[0] if attribute.size >= 1 else 0


cdef inline int number16(const Attribute *attribute) noexcept nogil:
    return ntohs((<uint16_t *> attribute.value)[0]) if attribute.size >= 2 else 0


cdef inline uint32_t number32(const Attribute *attribute) noexcept nogil:
    return ntohl((<uint32_t *> attribute.value)[0]) if attribute.size >= 4 else 0


cdef inline uint64_t number64(const Attribute *attribute) noexcept nogil:
    if attribute.size < 8:
        return 0
    return (<uint64_t> ntohl((<uint32_t *> attribute.value)[0]) << 32) | ntohl((<uint32_t *> attribute.value)[1])


cdef inline void read_tuple(const Attribute *nest, int family, Tuple *found) noexcept nogil:
    """Fill in addresses, which must be of *family*, and ports of a tuple."""
    cdef unsigned char *at = nest.value
    cdef unsigned char *inner
    cdef Attribute part, detail
    cdef uint32_t length = 16 if family == 10 else 4
    cdef int source = CTA_IP_V6_SRC if family == 10 else CTA_IP_V4_SRC
    cdef int destination = CTA_IP_V6_DST if family == 10 else CTA_IP_V4_DST
    memset(found, 0, sizeof(Tuple))
    while next_attribute(&at, nest.value + nest.size, &part):
        inner = part.value
        if part.kind == CTA_TUPLE_IP:
            while next_attribute(&inner, part.value + part.size, &detail):
                if detail.kind == source and detail.size >= length:
                    found.source = detail.value
                elif detail.kind == destination and detail.size >= length:
                    found.destination = detail.value
        elif part.kind == CTA_TUPLE_PROTO:
            while next_attribute(&inner, part.value + part.size, &detail):
                if detail.kind == CTA_PROTO_NUM:
                    found.protocol = number8(&detail)
                elif detail.kind == CTA_PROTO_SRC_PORT:
                    found.source_port = number16(&detail)
                elif detail.kind == CTA_PROTO_DST_PORT:
                    found.destination_port = number16(&detail)


cdef inline bint read_counters(const Attribute *nest, uint64_t *packets, uint64_t *octets) noexcept nogil:
    """Fill in what one direction has counted; return False when the numbers are not there."""
    cdef unsigned char *at = nest.value
    cdef Attribute part
    cdef int found = 0
    while next_attribute(&at, nest.value + nest.size, &part):
        if part.kind == CTA_COUNTERS_PACKETS and part.size >= 8:
            packets[0] = number64(&part)
            found |= 1
        elif part.kind == CTA_COUNTERS_BYTES and part.size >= 8:
            octets[0] = number64(&part)
            found |= 2
    return found == 3


cdef inline void read_tcp(const Attribute *nest, Tracked *told) noexcept nogil:
    """Fill in the state of a TCP connection."""
    cdef unsigned char *at = nest.value
    cdef unsigned char *inner
    cdef Attribute part, detail
    while next_attribute(&at, nest.value + nest.size, &part):
        inner = part.value
        if part.kind != CTA_PROTOINFO_TCP:
            continue
        while next_attribute(&inner, part.value + part.size, &detail):
            if detail.kind == CTA_PROTOINFO_TCP_STATE and detail.size >= 1:
                told.tcp_state = number8(&detail)
            elif detail.kind == CTA_PROTOINFO_TCP_FLAGS_ORIGINAL:
                told.tcp_flags = number8(&detail)


cdef inline void read_tracked(unsigned char *message, uint32_t length, Tracked *told) noexcept nogil:
    """Fill *told* from one message of *length* bytes; SAYS_NOTHING when it is about no connection, or not whole."""
    cdef unsigned char *at = message + MESSAGE_HEADER
    cdef Attribute part
    cdef Tuple original, answer
    cdef int kind
    cdef bint counted_in = False, counted_out = False
    memset(told, 0, sizeof(Tracked))
    told.about, told.tcp_state = SAYS_NOTHING, -1
    if length < MESSAGE_HEADER or (<nlmsghdr *> message).nlmsg_type >> 8 != NFNL_SUBSYS_CTNETLINK:
        return
    kind = (<nlmsghdr *> message).nlmsg_type & 0xFF
    if kind != IPCTNL_MSG_CT_NEW and kind != IPCTNL_MSG_CT_DELETE:
        return
    told.family = (<nfgenmsg *> (message + sizeof(nlmsghdr))).nfgen_family
    if told.family != 2 and told.family != 10:
        return
    memset(&original, 0, sizeof(Tuple))
    memset(&answer, 0, sizeof(Tuple))
    while next_attribute(&at, message + length, &part):
        if part.kind == CTA_TUPLE_ORIG:
            read_tuple(&part, told.family, &original)
        elif part.kind == CTA_TUPLE_REPLY:
            read_tuple(&part, told.family, &answer)
        elif part.kind == CTA_STATUS:
            told.status = number32(&part)
        elif part.kind == CTA_ID and part.size >= 4:
            told.id = (<uint32_t *> part.value)[0]
        elif part.kind == CTA_TIMEOUT:
            told.has_timeout, told.timeout = part.size >= 4, number32(&part)
        elif part.kind == CTA_PROTOINFO:
            read_tcp(&part, told)
        elif part.kind == CTA_COUNTERS_ORIG:
            counted_in = read_counters(&part, &told.packets_in, &told.bytes_in)
        elif part.kind == CTA_COUNTERS_REPLY:
            counted_out = read_counters(&part, &told.packets_out, &told.bytes_out)
        elif part.kind == CTA_ZONE and number16(&part):
            return                  # another world, in which the same addresses may mean others
    if original.source == NULL or original.destination == NULL or answer.source == NULL or told.id == 0:
        return
    told.client, told.vip, told.rip = original.source, original.destination, answer.source
    told.protocol = original.protocol
    told.cport, told.vport, told.rport = original.source_port, original.destination_port, answer.source_port
    told.has_counters = counted_in and counted_out
    told.about = ENDED if kind == IPCTNL_MSG_CT_DELETE else TELLS


cdef inline unsigned char *put(unsigned char *at, int kind, const void *value, int size) noexcept nogil:
    """Write an attribute at *at*; return what comes behind it."""
    (<nlattr *> at).nla_type = kind
    (<nlattr *> at).nla_len = sizeof(nlattr) + size
    memset(at + sizeof(nlattr), 0, aligned(size))
    memcpy(at + sizeof(nlattr), value, size)
    return at + sizeof(nlattr) + aligned(size)


cdef inline unsigned char *put_number16(unsigned char *at, int kind, int value) noexcept nogil:
    cdef uint16_t number = htons(value)
    return put(at, kind, &number, 2)


cdef inline void put_nest(unsigned char *at, int kind, unsigned char *end) noexcept nogil:
    """Make what lies between *at*, with room for its head, and *end* one attribute."""
    (<nlattr *> at).nla_type = kind | NLA_F_NESTED
    (<nlattr *> at).nla_len = end - at


cdef inline int write_delete(unsigned char *message, int family, int protocol, const uint8_t *client, int cport,
                             const uint8_t *vip, int vport, uint32_t tracked_id) noexcept nogil:
    """Write the request to forget one connection, at most LONGEST_DELETE bytes; return how many.

    With a *tracked_id*, which is not 0, only that very one is meant.
    """
    cdef nlmsghdr *header = <nlmsghdr *> message
    cdef nfgenmsg *generic = <nfgenmsg *> (message + sizeof(nlmsghdr))
    cdef unsigned char *whole = message + MESSAGE_HEADER
    cdef unsigned char *part = whole + sizeof(nlattr)
    cdef unsigned char *at = part + sizeof(nlattr)
    cdef int length = 16 if family == 10 else 4
    cdef uint8_t number = protocol
    at = put(at, CTA_IP_V6_SRC if family == 10 else CTA_IP_V4_SRC, client, length)
    at = put(at, CTA_IP_V6_DST if family == 10 else CTA_IP_V4_DST, vip, length)
    put_nest(part, CTA_TUPLE_IP, at)
    part = at
    at = put(part + sizeof(nlattr), CTA_PROTO_NUM, &number, 1)
    at = put_number16(at, CTA_PROTO_SRC_PORT, cport)
    at = put_number16(at, CTA_PROTO_DST_PORT, vport)
    put_nest(part, CTA_TUPLE_PROTO, at)
    put_nest(whole, CTA_TUPLE_ORIG, at)
    if tracked_id:
        at = put(at, CTA_ID, &tracked_id, 4)
    header.nlmsg_len = at - message
    header.nlmsg_type = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE
    header.nlmsg_flags = NLM_F_REQUEST
    header.nlmsg_seq = header.nlmsg_pid = 0
    generic.nfgen_family = family
    generic.version = generic.res_id = 0
    return at - message
