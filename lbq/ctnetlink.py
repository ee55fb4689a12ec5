"""Listening to conntrack: the two sockets that tell a director what becomes of its offloaded connections.

    events      began, changed, ended: of connections with a translated destination only, which a filter sees to
    lists       all of those that there are, when asked for

What is heard is read in C (``_offload.pyx``), and by ``host/flows.py`` where it need not be fast.

Kernel: include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c; net/core/filter.c,
bpf_skb_get_nlattr().
"""
from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

from lbq.errors import PermissionMissing
from lbq.netlink import NETLINK_NETFILTER, SO_RCVBUFFORCE, SOL_NETLINK

NFNL_SUBSYS_CTNETLINK = 1
CT_NEW, CT_GET, CT_DELETE = (NFNL_SUBSYS_CTNETLINK << 8 | message for message in (0, 1, 2))
NLM_F_REQUEST, NLM_F_DUMP = 0x001, 0x300
CTA_STATUS, CTA_STATUS_MASK = 3, 26
IPS_DST_NAT = 1 << 5            # in the status: the destination is translated
NETLINK_ADD_MEMBERSHIP = 1
GROUPS = NEW, UPDATE, DESTROY = 1, 2, 3
EVENTS_BUFFER = 64 << 20        # bytes; charged an event with overhead, not allocated ahead
LIST_BUFFER = 1 << 20

SO_ATTACH_FILTER = 26
NFGEN_END = 20                  # where a message's attributes begin
SKF_AD_NLATTR = 0xFFFFF000 + 12
LOAD_NUMBER, LOAD_X, LOAD_WORD, LOAD_WORD_AT_X = 0x00, 0x01, 0x20, 0x40
JUMP_EQUAL, JUMP_ANY_BIT, MOVE_TO_X, RETURN = 0x15, 0x45, 0x07, 0x06
WHOLE = 0xFFFFFFFF
ONLY_TRANSLATED = (             # operation, jump if true, jump if not, operand
    (LOAD_NUMBER, 0, 0, NFGEN_END),
    (LOAD_X, 0, 0, CTA_STATUS),
    (LOAD_WORD, 0, 0, SKF_AD_NLATTR),           # where the attribute begins, 0 when there is none
    (JUMP_EQUAL, 4, 0, 0),
    (MOVE_TO_X, 0, 0, 0),
    (LOAD_WORD_AT_X, 0, 0, 4),
    (JUMP_ANY_BIT, 0, 1, IPS_DST_NAT),
    (RETURN, 0, 0, WHOLE),
    (RETURN, 0, 0, 0),
)


def open_sockets(buffer: int = EVENTS_BUFFER) -> tuple[socket.socket, socket.socket]:
    """Return the socket that hears events, with a *buffer* of so many bytes, and the one that lists are asked on.

    Neither waits.
    """
    events, lists = _open(buffer), _open(LIST_BUFFER)
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in ONLY_TRANSLATED))
    with contextlib.suppress(OSError):          # then all is heard, and what is not ours is passed over
        events.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                          struct.pack("@HP", len(ONLY_TRANSLATED), ctypes.addressof(program)))
    for group in GROUPS:
        events.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    return events, lists


def _open(buffer: int) -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                            NETLINK_NETFILTER)
    try:
        netlink.bind((0, 0))
        netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
    except PermissionError as error:
        netlink.close()
        raise PermissionMissing(f"cannot listen to conntrack: {error.strerror}; run lbq as root") from error
    return netlink


def list_request() -> bytes:
    """Return the request for a list of the connections whose destination is translated.

    Kernels before 5.18 do not know that condition and list all; whoever reads it looks at the status, too.
    """
    body = (struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
            + struct.pack("=HH", 8, CTA_STATUS) + struct.pack(">I", IPS_DST_NAT)
            + struct.pack("=HH", 8, CTA_STATUS_MASK) + struct.pack(">I", IPS_DST_NAT))
    return struct.pack("=IHHII", 16 + len(body), CT_GET, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body
