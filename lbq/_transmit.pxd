# What leaves in place of a queued packet by DR and TUN: batches of frames, most of them through a packet socket.
#
# A packet socket (AF_PACKET) costs 1.5 µs a packet where a raw IP socket costs 3.7 µs (64 bytes over veth, C
# prototype), and with PACKET_VNET_HDR it takes a TCP aggregate of 64 KiB in one piece and lets the kernel, or the
# card, cut it.  It needs the next hop's MAC, which the front reads in the neighbour table; while that is not known
# the packet goes through a raw IP socket, whose address is the real server's: the kernel routes it there whatever
# its own destination says (FLOWI_FLAG_KNOWN_NH), asks for the MAC, and keeps the packet meanwhile.
#
# What leaves is of the real server's family: by a tunnel the outer packet is.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from lbq._nfqueue cimport htons, iovec, mmsghdr, msghdr
from lbq cimport packet as pkt

cdef extern from "<sys/socket.h>" nogil:
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    int MSG_DONTWAIT

cdef extern from "<linux/if_packet.h>" nogil:
    cdef struct sockaddr_ll "sockaddr_ll":
        unsigned short sll_family
        unsigned short sll_protocol
        int sll_ifindex
        unsigned char sll_halen
        unsigned char sll_addr[8]

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr "in_addr":
        uint32_t s_addr
    cdef struct sockaddr_in "sockaddr_in":
        unsigned short sin_family
        in_addr sin_addr
    cdef struct in6_addr "in6_addr":
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6 "sockaddr_in6":
        unsigned short sin6_family
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef extern from "<linux/virtio_net.h>" nogil:
    cdef struct virtio_net_hdr "virtio_net_hdr":
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    int VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6

cdef enum:
    AF_INET = 2
    AF_INET6 = 10
    AF_PACKET = 17
    ETHER_IPV4 = 0x0800
    ETHER_IPV6 = 0x86DD
    BY_FRAME = 0                    # the ways that packets leave
    BY_RAW = 1
    BY_RAW6 = 2
    ETHERNET_HEADER = 14
    MOST_OUTGOING = 256             # packets that wait to be sent together
    HEAD_ROOM = 64                  # for the outer headers of a tunnel
    ARENA_ROOM = 1 << 19            # bytes of segments and fragments

cdef struct Outgoing:
    unsigned char next_hop[16]      # the address of the real server it goes to, in network order, 4 or 16 bytes
    bint is_ipv6
    bint has_mac                    # then it is a frame:
    int device                      # of the way there, as it was when that was decided,
    unsigned char ethernet[14]      # and its header
    unsigned char *body             # a packet, or the inner packet behind *head*
    int length
    int transport                   # where its TCP header starts, if it is to be cut into segments
    int head_length                 # of the outer headers; 0 without
    int segment                     # > 0: to be cut into TCP segments of so many bytes
    unsigned char head[64]          # HEAD_ROOM

cdef struct Outbox:
    int count
    Outgoing waiting[256]           # MOST_OUTGOING
    unsigned char *arena            # ARENA_ROOM
    int arena_used
    int packet_fd, raw_fd, raw6_fd
    mmsghdr messages[256]
    iovec pieces[256][4]
    sockaddr_ll devices[256]
    sockaddr_in6 servers[256]       # large enough for IPv4's, too
    virtio_net_hdr shapes[256]


cdef inline void describe_segments(virtio_net_hdr *shape, Outgoing *out) noexcept nogil:
    """Tell the kernel how to cut the TCP aggregate; its checksum field holds the pseudo-header's sum."""
    shape.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
    shape.gso_type = VIRTIO_NET_HDR_GSO_TCPV6 if out.is_ipv6 else VIRTIO_NET_HDR_GSO_TCPV4
    shape.hdr_len = ETHERNET_HEADER + out.transport + (out.body[out.transport + 12] >> 4) * 4
    shape.gso_size = out.segment
    shape.csum_start = ETHERNET_HEADER + out.transport
    shape.csum_offset = pkt.TCP_CHECKSUM


cdef inline int way_of(const Outgoing *out) noexcept nogil:
    """Return by which of the sockets a packet leaves."""
    if out.has_mac:
        return BY_FRAME
    return BY_RAW6 if out.is_ipv6 else BY_RAW


cdef inline void address_server(sockaddr_in6 *where, msghdr *message, Outgoing *out) noexcept nogil:
    """Address a packet that leaves by a raw socket to its real server."""
    cdef sockaddr_in *where4 = <sockaddr_in *> where
    memset(where, 0, sizeof(sockaddr_in6))
    message.msg_name = where
    if out.is_ipv6:
        where.sin6_family = AF_INET6
        memcpy(&where.sin6_addr, out.next_hop, 16)
        message.msg_namelen = sizeof(sockaddr_in6)
    else:
        where4.sin_family = AF_INET
        memcpy(&where4.sin_addr, out.next_hop, 4)
        message.msg_namelen = sizeof(sockaddr_in)


cdef inline int send_some(Outbox *box, int way, int fd) noexcept nogil:
    """Send what waits and goes this *way* through *fd*; return how many packets were lost."""
    cdef int i, n = 0, k, sent, lost = 0
    cdef Outgoing *out
    for i in range(box.count):
        out = &box.waiting[i]
        if way_of(out) != way:
            continue
        k = 0
        memset(&box.messages[n], 0, sizeof(mmsghdr))
        if way == BY_FRAME:
            memset(&box.shapes[n], 0, sizeof(virtio_net_hdr))
            if out.segment:
                describe_segments(&box.shapes[n], out)
            box.pieces[n][k].iov_base = &box.shapes[n]
            box.pieces[n][k].iov_len = sizeof(virtio_net_hdr)
            box.pieces[n][1].iov_base = out.ethernet
            box.pieces[n][1].iov_len = ETHERNET_HEADER
            k = 2
            memset(&box.devices[n], 0, sizeof(sockaddr_ll))
            box.devices[n].sll_family = AF_PACKET
            box.devices[n].sll_protocol = htons(ETHER_IPV6 if out.is_ipv6 else ETHER_IPV4)
            box.devices[n].sll_ifindex = out.device
            box.messages[n].msg_hdr.msg_name = &box.devices[n]
            box.messages[n].msg_hdr.msg_namelen = sizeof(sockaddr_ll)
        else:
            address_server(&box.servers[n], &box.messages[n].msg_hdr, out)
        if out.head_length:
            box.pieces[n][k].iov_base = out.head
            box.pieces[n][k].iov_len = out.head_length
            k += 1
        box.pieces[n][k].iov_base = out.body
        box.pieces[n][k].iov_len = out.length
        box.messages[n].msg_hdr.msg_iov = box.pieces[n]
        box.messages[n].msg_hdr.msg_iovlen = k + 1
        n += 1
    i = 0
    while i < n:
        sent = sendmmsg(fd, &box.messages[i], n - i, MSG_DONTWAIT)
        if sent <= 0:                   # this one cannot be sent, the next ones perhaps
            lost += 1
            sent = 1
        i += sent
    return lost


cdef inline int send_all(Outbox *box) noexcept nogil:
    """Send everything that waits; return how many packets were lost."""
    cdef int lost = 0
    if box.count:
        lost = send_some(box, BY_FRAME, box.packet_fd)
        lost += send_some(box, BY_RAW, box.raw_fd) + send_some(box, BY_RAW6, box.raw6_fd)
        box.count = 0
    box.arena_used = 0
    return lost
