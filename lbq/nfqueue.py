"""The readable queue: real packets for ``director.py``, through the NetfilterQueue package.

NetfilterQueue hands every packet to a callback and sends every verdict by itself, one system call each.
That is slow and easy to follow, which is what the reference path is for.  Three of its limits would show
on real traffic, and each has a way round in plain Python:

    it copies 4,016 bytes of a packet at most   -> we tell the kernel ourselves, on the same socket
    it reads into 4,096 bytes                   -> ``run_socket`` reads through an object of ours
    it reads until nothing is left              -> our object says "nothing left" after a batch

It cannot tell us about checksums and segmentation (NFQA_SKB_INFO).  It need not: a queue without the GSO
flag gets large packets cut into segments, each with its checksum complete, so the *form* is always 0, and
what leaves by DR or TUN is never an aggregate that is yet to be cut.  For SCTP the kernel completes the wrong kind of
checksum (skb_checksum_help): where programs on this machine speak SCTP through it, their devices need
``ethtool -K DEV tx-checksum-sctp off``.

Kernel: nfnetlink_queue.c; package: github.com/oremanj/python-netfilterqueue, 1.1.
"""
from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from lbq import netlink
from lbq.errors import HostError, PermissionMissing, QueueBusy
from lbq.grammar import format_address
from lbq.model import AF_INET6, is_link_local6
from lbq.parsing import addresses, family_of

if TYPE_CHECKING:
    from lbq.director import Director

BATCH = 64                      # packets between two looks at the wake-up descriptor
NLM_F_REQUEST = 1
MESSAGE_BYTES = 65536 + 512     # one packet and its attributes
QUEUE_LENGTH = 8192             # packets waiting for us
IDLE_MS = 100                   # how long we sleep at most before looking at deadlines

RECEIVE_BUFFER = 32 << 20       # bytes; each waiting packet takes about 1.5 times its size


class Queue:
    """One NFQUEUE number, bound, and the director that answers for its packets."""

    def __init__(self, number: int, director: Director):
        self.director = director
        self.netfilter_queue = bind(number, self._handle)
        self.messages = _Messages(self.netfilter_queue.get_fd())
        self.messages.copy_whole_packets(number)
        self.raw = netlink.open_raw()

    def run(self, wake_fd: int) -> None:
        """Handle packets until *wake_fd* is readable."""
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        poll.register(self.messages.fileno(), select.POLLIN)
        while True:
            ready = dict(poll.poll(IDLE_MS))
            if self.messages.fileno() in ready:
                self.messages.allowed = BATCH
                self.netfilter_queue.run_socket(self.messages)
            self.director.expire(time.monotonic_ns())
            if wake_fd in ready:
                return

    def _handle(self, queued) -> None:
        answer(self.director, queued, self.raw)


class _Messages:
    """The queue's socket as ``run_socket`` reads it: whole messages, a batch at a time."""

    def __init__(self, fd: int):
        self.socket = socket.socket(fileno=os.dup(fd))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, netlink.SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self.socket.setsockopt(netlink.SOL_NETLINK, netlink.NETLINK_NO_ENOBUFS, 1)
        self.allowed = 0

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

    def recv(self, _size: int) -> bytes:
        """Return the next message; raise BlockingIOError when there is none or the batch is over."""
        if self.allowed == 0:
            raise BlockingIOError(errno.EAGAIN, "the batch is over")
        self.allowed -= 1
        return self.socket.recv(MESSAGE_BYTES)

    def copy_whole_packets(self, number: int) -> None:
        """Lift NetfilterQueue's limit on queue *number*: another NFQA_CFG_PARAMS from the same socket."""
        parameters = (struct.pack("=HH", 9, netlink.NFQA_CFG_PARAMS)
                      + struct.pack("!IB3x", 0xFFFF, netlink.NFQNL_COPY_PACKET))
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, number) + parameters
        kind = netlink.NFNL_SUBSYS_QUEUE << 8 | netlink.NFQNL_MSG_CONFIG
        self.socket.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST, 0, 0) + body)


def answer(director: Director, queued, raw: dict[int, socket.socket]) -> None:
    """Let *director* decide about NetfilterQueue's packet *queued*, and carry it out; *raw* sockets are by family."""
    packet = bytearray(queued.get_payload())
    verdict = director.handle(packet, queued.hook, 0, queued.outdev, time.monotonic_ns(), mark=queued.mark)
    if verdict.changed:
        queued.set_payload(bytes(packet))
    if verdict.unmarked:
        queued.set_mark(0)
    for sent in verdict.sent:
        try:
            _send(raw, sent.packet, sent.next_hop, sent.family)
        except OSError:
            director.counted["send_errors"] += 1
    if verdict.action:
        queued.accept()
    else:
        queued.drop()
    if verdict.answer is not None:
        family = family_of(verdict.answer)
        _, client = addresses(verdict.answer, 0)
        with contextlib.suppress(OSError):      # no route, no room: ICMP is allowed to get lost
            _send(raw, verdict.answer, client, family, queued.indev if is_link_local6(client) else 0)


def _send(raw: dict[int, socket.socket], packet: bytes, next_hop: int, family: int, device: int = 0) -> None:
    if family not in raw:
        raise OSError(errno.EAFNOSUPPORT, "this host has no IPv6")
    where = (format_address(next_hop, family), 0)
    raw[family].sendto(packet, socket.MSG_DONTWAIT, (*where, 0, device) if family == AF_INET6 else where)


def bind(number: int, callback):
    """Return a NetfilterQueue object that has queue *number* bound to *callback*."""
    try:
        from netfilterqueue import NetfilterQueue
    except ImportError as error:
        raise HostError("--engine reference needs the NetfilterQueue package; "
                        "install it (pip install NetfilterQueue) or use --engine fast") from error
    try:
        queue = NetfilterQueue()
    except OSError as error:
        if os.geteuid() != 0:
            raise PermissionMissing(f"cannot open NFQUEUE {number}: {error}; run lbq as root") from error
        raise HostError(f"cannot open NFQUEUE {number}: {error}; "
                        "the kernel needs NETFILTER_NETLINK_QUEUE (modprobe nfnetlink_queue)") from error
    try:
        queue.bind(number, callback, QUEUE_LENGTH)
    except OSError as error:
        raise QueueBusy(f"cannot bind NFQUEUE {number}: another program holds it "
                        "(its port id is in /proc/net/netfilter/nfnetlink_queue); "
                        "choose another with --queue") from error
    return queue
