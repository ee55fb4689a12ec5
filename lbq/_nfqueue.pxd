# nfnetlink_queue as the kernel's own headers describe it: messages in, verdicts out, no library between.
#
# A queued packet arrives as one netlink message: nlmsghdr, nfgenmsg, attributes; PAYLOAD is the last one.
# PACKET_HDR is the first, so at least 32 bytes lie before PAYLOAD, and the headers of a verdict are exactly
# 32 bytes.  So a verdict that returns the packet is written *in place*, right before the payload, and
# handed to the kernel as one piece of the very buffer the packet came in: no copy.  A payload that leaves
# no such room, which the kernel never sends, counts as none.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<sys/socket.h>" nogil:
    cdef struct iovec "iovec":
        void *iov_base
        size_t iov_len
    cdef struct msghdr "msghdr":
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr "mmsghdr":
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int MSG_DONTWAIT, MSG_WAITFORONE

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t ntohl(uint32_t value)
    uint32_t htonl(uint32_t value)
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<linux/netlink.h>" nogil:
    cdef struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
        uint32_t nlmsg_pid
    cdef struct nlattr:
        uint16_t nla_len
        uint16_t nla_type
    int NLM_F_REQUEST, NLMSG_NOOP, NLMSG_ERROR, NLA_TYPE_MASK

cdef extern from "<linux/netfilter/nfnetlink.h>" nogil:
    cdef struct nfgenmsg:
        uint8_t nfgen_family
        uint8_t version
        uint16_t res_id
    int NFNL_SUBSYS_QUEUE

cdef extern from "<linux/netfilter/nfnetlink_queue.h>" nogil:
    cdef struct nfqnl_msg_packet_hdr:
        uint32_t packet_id
        uint16_t hw_protocol
        uint8_t hook
    cdef struct nfqnl_msg_verdict_hdr:
        uint32_t verdict
        uint32_t id
    int NFQNL_MSG_PACKET, NFQNL_MSG_VERDICT
    int NFQA_PACKET_HDR, NFQA_VERDICT_HDR, NFQA_MARK, NFQA_IFINDEX_INDEV, NFQA_IFINDEX_OUTDEV
    int NFQA_PAYLOAD, NFQA_CAP_LEN, NFQA_SKB_INFO

cdef enum:
    MESSAGE_HEADER = 20         # nlmsghdr + nfgenmsg
    VERDICT_HEADER = 32         # and the VERDICT_HDR attribute
    MARKED_VERDICT = 40         # and a MARK attribute
    MOST_BYTES = 1 << 24        # of one packet; no kernel has longer ones
    VERDICT_DROP = 0            # NF_DROP
    VERDICT_ACCEPT = 1          # NF_ACCEPT
    VERDICT_QUEUE = 3           # NF_QUEUE; the number of the queue in the upper half

cdef struct Queued:             # what a message says of its packet
    unsigned char *data         # the packet from its IP header; NULL when the message holds none
    int length                  # bytes of it that are here
    int whole                   # bytes that it has
    int queue                   # the number of the queue it waits in
    int hook
    int form                    # NFQA_SKB_INFO bits
    int in_device
    int out_device
    uint32_t mark               # the firewall mark
    uint32_t id                 # as on the wire, big-endian
    bint truncated              # the packet is longer than what is here: it must never be sent back


cdef inline uint32_t aligned(uint32_t length) noexcept nogil:
    return (length + 3) & ~<uint32_t> 3


cdef inline bint is_packet(unsigned char *message, uint32_t length) noexcept nogil:
    return (length >= MESSAGE_HEADER and
            (<nlmsghdr *> message).nlmsg_type == ((NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_PACKET))


cdef inline bint is_knock(unsigned char *message, uint32_t length) noexcept nogil:
    """Return True for the message that ends the waiting for packets (netlink.Door)."""
    return length >= sizeof(nlmsghdr) and (<nlmsghdr *> message).nlmsg_type == NLMSG_NOOP


cdef inline void read_message(unsigned char *message, uint32_t length, Queued *queued) noexcept nogil:
    """Fill *queued* from the attributes of one packet message of *length* bytes."""
    cdef uint32_t at = MESSAGE_HEADER, size
    cdef nlattr *attribute
    cdef unsigned char *value
    cdef int kind
    memset(queued, 0, sizeof(Queued))
    queued.queue = ntohs((<nfgenmsg *> (message + sizeof(nlmsghdr))).res_id)
    while at + sizeof(nlattr) <= length:
        attribute = <nlattr *> (message + at)
        size = attribute.nla_len
        if size < sizeof(nlattr) or at + size > length:
            return
        value = message + at + sizeof(nlattr)
        size -= sizeof(nlattr)
        kind = attribute.nla_type & NLA_TYPE_MASK
        if kind == NFQA_PAYLOAD and at >= VERDICT_HEADER:
            queued.data = value
            queued.length = size
            queued.whole = max(queued.whole, <int> size)
        elif kind == NFQA_PACKET_HDR and size >= 7:
            queued.id = (<nfqnl_msg_packet_hdr *> value).packet_id
            queued.hook = (<nfqnl_msg_packet_hdr *> value).hook
        elif kind == NFQA_IFINDEX_INDEV and size >= 4:
            queued.in_device = ntohl((<uint32_t *> value)[0])
        elif kind == NFQA_IFINDEX_OUTDEV and size >= 4:
            queued.out_device = ntohl((<uint32_t *> value)[0])
        elif kind == NFQA_MARK and size >= 4:
            queued.mark = ntohl((<uint32_t *> value)[0])
        elif kind == NFQA_SKB_INFO and size >= 4:
            queued.form = ntohl((<uint32_t *> value)[0])
        elif kind == NFQA_CAP_LEN:
            queued.truncated = True
            if size >= 4 and ntohl((<uint32_t *> value)[0]) < MOST_BYTES:
                queued.whole = max(queued.whole, <int> ntohl((<uint32_t *> value)[0]))
        at += aligned(size + sizeof(nlattr))


cdef inline void write_verdict(unsigned char *at, int queue, uint32_t packet_id, int verdict,
                               uint32_t length) noexcept nogil:
    """Write the 32 bytes of a verdict at *at*; *length* is the whole message's, payload attribute included."""
    cdef nlmsghdr *header = <nlmsghdr *> at
    cdef nfgenmsg *generic = <nfgenmsg *> (at + sizeof(nlmsghdr))
    cdef nlattr *attribute = <nlattr *> (at + MESSAGE_HEADER)
    cdef nfqnl_msg_verdict_hdr *body = <nfqnl_msg_verdict_hdr *> (at + MESSAGE_HEADER + sizeof(nlattr))
    header.nlmsg_len = length
    header.nlmsg_type = (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_VERDICT
    header.nlmsg_flags = NLM_F_REQUEST
    header.nlmsg_seq = 0
    header.nlmsg_pid = 0
    generic.nfgen_family = 0
    generic.version = 0
    generic.res_id = htons(queue)
    attribute.nla_len = sizeof(nlattr) + sizeof(nfqnl_msg_verdict_hdr)
    attribute.nla_type = NFQA_VERDICT_HDR
    body.verdict = htonl(verdict)
    body.id = packet_id


cdef inline void verdict_alone(unsigned char *message, Queued *queued, int verdict, iovec *out) noexcept nogil:
    """Answer with *verdict* and no payload, over the start of the message's own buffer."""
    write_verdict(message, queued.queue, queued.id, verdict, VERDICT_HEADER)
    out.iov_base = message
    out.iov_len = VERDICT_HEADER


cdef inline void verdict_marked(unsigned char *message, Queued *queued, uint32_t mark, iovec *out) noexcept nogil:
    """Answer ACCEPT with another firewall mark, over the start of the message's own buffer."""
    cdef nlattr *attribute = <nlattr *> (message + VERDICT_HEADER)
    write_verdict(message, queued.queue, queued.id, VERDICT_ACCEPT, MARKED_VERDICT)
    attribute.nla_len = sizeof(nlattr) + sizeof(uint32_t)
    attribute.nla_type = NFQA_MARK
    (<uint32_t *> (attribute + 1))[0] = htonl(mark)
    out.iov_base = message
    out.iov_len = MARKED_VERDICT


cdef inline void verdict_with_packet(Queued *queued, iovec *out) noexcept nogil:
    """Answer ACCEPT with the packet as it now is, in place; FTP may have changed its length."""
    cdef uint32_t attribute = sizeof(nlattr) + queued.length, i
    cdef nlattr *payload = <nlattr *> (queued.data - sizeof(nlattr))
    cdef unsigned char *at = <unsigned char *> payload - VERDICT_HEADER
    for i in range(attribute, aligned(attribute)):
        queued.data[i - sizeof(nlattr)] = 0
    payload.nla_len = attribute
    payload.nla_type = NFQA_PAYLOAD
    write_verdict(at, queued.queue, queued.id, VERDICT_ACCEPT, VERDICT_HEADER + aligned(attribute))
    out.iov_base = at
    out.iov_len = VERDICT_HEADER + aligned(attribute)
