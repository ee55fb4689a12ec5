"""Netlink by hand: ask the kernel about rules, sets and addresses without any tool or package.

A message is a header, a few bytes that each subsystem defines, and attributes:

    length type flags sequence port | subsystem's own | (length type value padding)…

pyroute2 would do the same; but 0.9 cannot be called from a thread in which an event loop runs, takes a
fifth of a second to import, and lists no proxy ARP entries.  What lbq needs fits on this page.

Kernel: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/nfnetlink.h
"""
from __future__ import annotations

import errno
import os
import socket
import struct

from lbq.model import AF_INET, AF_INET6

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400         # with a request that makes something
NLM_F_NONREC = 0x100                            # with one that deletes: only if it holds nothing else
NLM_F_DUMP_INTR = 0x10                          # in an answer: the list changed while it was read
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NLA_F_NESTED, NLA_F_NET_BYTEORDER = 0x8000, 0x4000
ATTRIBUTE_TYPE_MASK = 0x3FFF
BITS = {AF_INET: 32, AF_INET6: 128}     # of an address
HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
ANSWER_SECONDS = 5
DATAGRAM_BYTES = 1 << 17
DUMP_ATTEMPTS = 5


def attribute(kind: int, value: bytes) -> bytes:
    """Return one packed attribute, padded to four bytes."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Return an attribute that holds 32 bits in network byte order."""
    return attribute(kind, struct.pack(">I", value))


def address_bytes(address: int, family: int) -> bytes:
    """Return an address as it travels."""
    return address.to_bytes(BITS[family] // 8, "big")


def address_of(value: bytes | None) -> int:
    """Return the address that *value* is, 0 for none."""
    return int.from_bytes(value or b"", "big")


def nested(kind: int, *inner: bytes) -> bytes:
    """Return an attribute that holds the attributes *inner*."""
    return attribute(kind | NLA_F_NESTED, b"".join(inner))


def walk(data: bytes) -> list[tuple[int, bytes]]:
    """Return the attributes packed in *data*, in order, as (type, value)."""
    found = []
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size:
            break
        found.append((kind & ATTRIBUTE_TYPE_MASK, data[offset + ATTRIBUTE.size:offset + length]))
        offset += length + (-length % 4)
    return found


def netfilter(family: int, resource: int = 0) -> bytes:
    """Return struct nfgenmsg, which begins the body of every message to a netfilter subsystem."""
    return struct.pack("=BBH", family, 0, socket.htons(resource))


def ask(protocol: int, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
    """Send one request and return the bodies of its answers; raises OSError with the kernel's errno.

    With NLM_F_DUMP the answers are a whole list; else a request that only does something answers nothing.
    """
    dump = flags & NLM_F_DUMP == NLM_F_DUMP
    request = _pack(kind, NLM_F_REQUEST | flags | (0 if dump else NLM_F_ACK), 1, body)
    for _ in range(DUMP_ATTEMPTS):
        with _connect(protocol) as sock:
            sock.send(request)
            answers, interrupted = _receive(sock, acknowledgements=1)
        if not interrupted:
            return answers
    raise OSError(errno.EAGAIN, "the list changes faster than it can be read")


def transact(subsystem: int, messages: list[tuple[int, int, bytes]]) -> None:
    """Apply (type, flags, body) *messages* to nf_tables, all or none; raises OSError with the first errno."""
    bound = netfilter(0, subsystem)
    parts = [_pack(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, bound)]
    parts += [_pack(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, body)
              for sequence, (kind, flags, body) in enumerate(messages, 1)]
    parts.append(_pack(NFNL_MSG_BATCH_END, NLM_F_REQUEST, len(messages) + 1, bound))
    with _connect(NETLINK_NETFILTER) as sock:
        sock.send(b"".join(parts))
        _receive(sock, acknowledgements=len(messages))


def _connect(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    sock.settimeout(ANSWER_SECONDS)
    sock.bind((0, 0))
    return sock


def _pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    length = HEADER.size + len(body)
    return HEADER.pack(length, kind, flags, sequence, 0) + body + b"\0" * (-length % 4)


def _receive(sock: socket.socket, acknowledgements: int) -> tuple[list[bytes], bool]:
    """Return the bodies up to list's end or last acknowledgement, and whether the list was disturbed."""
    answers = []
    interrupted = False
    while True:
        datagram = sock.recv(DATAGRAM_BYTES)
        offset = 0
        while offset + HEADER.size <= len(datagram):
            length, kind, flags = HEADER.unpack_from(datagram, offset)[:3]
            body = datagram[offset + HEADER.size:offset + length]
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind == NLMSG_DONE:
                return answers, interrupted
            if kind == NLMSG_ERROR:
                _raise_if_error(body)
                acknowledgements -= 1
                if acknowledgements == 0:
                    return answers, interrupted
            else:
                answers.append(body)
            offset += length + (-length % 4)


def _raise_if_error(body: bytes) -> None:
    error = -struct.unpack_from("=i", body)[0]
    if error:
        raise OSError(error, os.strerror(error))
