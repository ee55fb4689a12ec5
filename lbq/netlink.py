"""Binding an NFQUEUE number: the few control messages, once per start, in plain Python.

Packets and verdicts go through ``_nfqueue.pxd``; this file only opens the socket and sets it up.

Kernel: include/uapi/linux/netfilter/nfnetlink_queue.h, net/netfilter/nfnetlink_queue.c.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from lbq.errors import HostError, PermissionMissing, QueueBusy

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_NO_ENOBUFS = 5
NETLINK_CAP_ACK = 10
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
NLM_F_REQUEST = 1
NLM_F_REQUEST_ACK = 5
NLMSG_NOOP, NLMSG_ERROR = 1, 2
KNOCK = struct.pack("=IHHII", 16, NLMSG_NOOP, 0, 0, 0)
NFNL_SUBSYS_QUEUE = 3
NFQNL_MSG_VERDICT = 1
NFQNL_MSG_CONFIG = 2
NFQA_VERDICT_HDR = 2
NFQA_CFG_CMD, NFQA_CFG_PARAMS, NFQA_CFG_QUEUE_MAXLEN, NFQA_CFG_MASK, NFQA_CFG_FLAGS = 1, 2, 3, 4, 5
NFQNL_CFG_CMD_BIND = 1
NFQNL_COPY_PACKET = 2
PACKET_ID = slice(24, 28)       # in a queued packet's message, whose first attribute is NFQA_PACKET_HDR
DROP = bytes(4)
NFQA_CFG_F_GSO = 4      # queue large packets as they are, instead of cutting them into 45 messages

SOL_PACKET = 263
PACKET_VNET_HDR = 15
SEND_BUFFER = 16 << 20
SIOCGIFHWADDR = 0x8927
OWN_MARK = 0x02000000   # on what the director itself sends through the host's IP layer; host/rules.py skips it

MARK_MASK = 0x00FFFF00  # the bits of a firewall mark that tell the kernel a server's number (host/steering.py)
QUEUES = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
RECEIVE_BUFFER = 128 << 20      # bytes; charged per queued packet with overhead, not allocated ahead


def open_queue(number: int, queue_length: int, send_buffer: int) -> socket.socket:
    """Return a netlink socket that has NFQUEUE *number* bound, whole packets, GSO ones unsegmented.

    *queue_length* is in packets, *send_buffer* the largest batch of verdicts in bytes.
    """
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        netlink.bind((0, 0))        # and not connected to the kernel: a knock must come in
        netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        netlink.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, send_buffer)
        netlink.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)  # else one overrun refuses all until we are empty
        netlink.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)     # an error answer need not return the packet
        configure(netlink, number, queue_length)
    except PermissionError as error:
        netlink.close()
        raise PermissionMissing(f"cannot bind NFQUEUE {number}: {error.strerror}; run lbq as root") from error
    except BaseException:
        netlink.close()
        raise
    return netlink


def wait_at_most(sock: socket.socket, milliseconds: int) -> None:
    """Let no reading from *sock* wait longer."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", *divmod(1000 * milliseconds, 1_000_000)))


class Door:
    """Where to knock for the one who waits for packets at a netlink socket of this network namespace.

    Without it a second descriptor would have to be looked at before every batch of packets.  The kernel takes a
    message to another process only from one with CAP_NET_ADMIN.  Port 0: nobody waits.
    """

    def __init__(self, port: int = 0):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                                    NETLINK_NETFILTER)
        self.port = port

    def knock(self) -> None:
        """End the waiting; when so much has come that there is no room for it, nobody waits."""
        if self.port == 0:
            return
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):      # refused: it has ended
            self.socket.sendto(KNOCK, (self.port, 0))

    def close(self) -> None:
        """Knock no more."""
        self.socket.close()


def open_raw() -> dict[int, socket.socket]:
    """Return raw sockets, by family, whose packets have their own IP headers and go to the machine named in the call.

    For ICMP answers, and for DR and TUN packets whose next hop's MAC is not known yet; OWN_MARK keeps the rules
    from queueing them again.  A host without IPv6 has only one of them.
    """
    opened = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
                continue
            raise
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OWN_MARK)
        raw.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
        opened[int(family)] = raw
    return opened


def open_packet() -> socket.socket:
    """Return a packet socket that sends frames, with a virtio header before each (``_transmit.pxd``)."""
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)      # 0: it receives nothing
    frames.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    frames.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
    return frames


def hardware_address(device: int) -> bytes:
    """Return the MAC of the interface with this number, six zeros when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            request = struct.pack("=16sH22x", socket.if_indextoname(device).encode(), 0)
            answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, request)
        except (OSError, OverflowError):        # it is gone
            return bytes(6)
    return answer[18:24]


def add_queue(netlink: socket.socket, number: int, queue_length: int, length: int) -> None:
    """Bind one more NFQUEUE to a socket that has one already: of its packets the first *length* bytes are copied.

    The kernel is not asked to acknowledge: what comes in now are packets.
    """
    if number in bound_queues():
        raise QueueBusy(_busy(number))
    netlink.send(_set_up(number, queue_length, length, NLM_F_REQUEST))
    if bound_queues().get(number) != netlink.getsockname()[0]:
        raise HostError(f"cannot bind NFQUEUE {number}, for packets that the kernel rewrites")


def bound_queues() -> dict[int, int]:
    """Return the netlink port that holds each NFQUEUE number of this network namespace."""
    try:
        return {int(words[0]): int(words[1]) for words in map(str.split, QUEUES.read_text().splitlines())}
    except FileNotFoundError:
        return {}


def _set_up(number: int, queue_length: int, length: int, flags: int) -> bytes:
    """Return the one message that binds and sets up, so that the queue never runs half configured."""
    body = (struct.pack("!BBH", socket.AF_UNSPEC, 0, number)
            + _attribute(NFQA_CFG_CMD, struct.pack("!BxH", NFQNL_CFG_CMD_BIND, socket.AF_INET))
            + _attribute(NFQA_CFG_PARAMS, struct.pack("!IB", length, NFQNL_COPY_PACKET))
            + _attribute(NFQA_CFG_QUEUE_MAXLEN, struct.pack("!I", queue_length))
            + _attribute(NFQA_CFG_FLAGS, struct.pack("!I", NFQA_CFG_F_GSO))
            + _attribute(NFQA_CFG_MASK, struct.pack("!I", NFQA_CFG_F_GSO)))
    kind = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def configure(netlink: socket.socket, number: int, queue_length: int) -> None:
    """Bind NFQUEUE *number* with whole packets, and wait until that is done."""
    netlink.send(_set_up(number, queue_length, 0xFFFF, NLM_F_REQUEST_ACK))
    error = _acknowledgement(netlink, number)
    if error in (errno.EBUSY, errno.EPERM):
        raise QueueBusy(_busy(number))
    if error:
        raise HostError(f"cannot bind NFQUEUE {number}: {os.strerror(error)}; "
                        "the kernel needs NETFILTER_NETLINK_QUEUE (modprobe nfnetlink_queue)")


def _busy(number: int) -> str:
    return (f"cannot bind NFQUEUE {number}: another program holds it "
            "(its port id is in /proc/net/netfilter/nfnetlink_queue); choose another with --queue")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _acknowledgement(netlink: socket.socket, number: int) -> int:
    """Return the errno of the kernel's answer, 0 for success.

    After a crash the rules are still there, and packets may be queued before the kernel answers.  They are
    dropped, which their senders make good: one without a verdict would stay in the queue for ever.
    """
    while True:
        answer = netlink.recv(1 << 17)
        if struct.unpack_from("=H", answer, 4)[0] == NLMSG_ERROR:
            return -struct.unpack_from("=i", answer, 16)[0]
        packet_id = answer[PACKET_ID]
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, number) + _attribute(NFQA_VERDICT_HDR, DROP + packet_id)
        kind = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST, 0, 0) + body)
