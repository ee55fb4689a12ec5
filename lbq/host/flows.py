"""The connections that conntrack has, seen from the host: which are to virtual services, and an end to some of them.

A running director follows its offloaded connections in C (``lbq/_offload.pyx``).  Here is what is done once, when a
service comes and when the director goes: connections that the kernel would carry past lbq are forgotten, so that their
next packet is looked at anew.

Kernel: include/uapi/linux/netfilter/nfnetlink_conntrack.h
"""
from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lbq.ctnetlink import CT_DELETE, CT_GET, CTA_STATUS, IPS_DST_NAT
from lbq.errors import HostError
from lbq.host import sysctl
from lbq.host.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    address_of,
    ask,
    attribute,
    nested,
    netfilter,
    walk,
)
from lbq.model import AF_INET, TCP

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE = 1, 2, 12, 18
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
ACCOUNTING = f"{sysctl.CONNTRACK}nf_conntrack_acct"
TELLING = f"{sysctl.CONNTRACK}nf_conntrack_events"      # 0: of nothing; 1: of everything; 2: to those who listen


class Flow(NamedTuple):
    """A connection of conntrack's: the service that its client speaks to, and who answers."""

    protocol: int
    vip: int
    vport: int
    rip: int
    rport: int
    is_translated: bool
    place: bytes                # the attributes that name it


def probe() -> str:
    """Return what this kernel lacks to tell of connections, "" for nothing."""
    if sysctl.read(TELLING) is None:
        return "this kernel's conntrack tells of no events (NF_CONNTRACK_EVENTS)"
    nobody = _tuple(AF_INET, TCP, bytes(4), bytes(4))
    try:
        ask(NETLINK_NETFILTER, CT_GET, netfilter(AF_INET) + nobody)
    except OSError as error:
        if error.errno != errno.ENOENT:
            return f"this kernel's conntrack tells nothing (NF_CT_NETLINK: {os.strerror(error.errno)})"
    return ""


def flows(family: int) -> Iterator[Flow]:
    """Yield the connections of *family* that have ports."""
    for body in ask(NETLINK_NETFILTER, CT_GET, netfilter(family), NLM_F_DUMP):
        flow = read(body, family)
        if flow is not None:
            yield flow


def read(body: bytes, family: int) -> Flow | None:
    """Return the connection that a message is about, or None for one without ports, or of another zone."""
    said = dict(walk(body[4:]))
    original, answer = (_read_tuple(said.get(kind, b""), family) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
    if original is None or answer is None or int.from_bytes(said.get(CTA_ZONE, b"")[:2], "big"):
        return None
    protocol, _, (vip, vport) = original
    status = int.from_bytes(said.get(CTA_STATUS, b"")[:4], "big")
    return Flow(protocol, vip, vport, *answer[1], bool(status & IPS_DST_NAT),
                nested(CTA_TUPLE_ORIG, said[CTA_TUPLE_ORIG]) + attribute(CTA_ID, said.get(CTA_ID, bytes(4))))


def forget(family: int, is_meant: Callable[[Flow], bool]) -> int:
    """Have conntrack forget the connections of *family* that are meant; return how many."""
    count = 0
    try:
        for flow in [flow for flow in flows(family) if is_meant(flow)]:
            try:
                ask(NETLINK_NETFILTER, CT_DELETE, netfilter(family) + flow.place)
            except OSError as error:
                if error.errno != errno.ENOENT:         # it has ended meanwhile
                    raise
            else:
                count += 1
    except OSError as error:
        raise HostError(f"cannot look through the connections of conntrack: {os.strerror(error.errno)}") from error
    return count


def _read_tuple(value: bytes, family: int) -> tuple[int, tuple[int, int], tuple[int, int]] | None:
    """Return protocol, source and destination of a tuple."""
    parts = dict(walk(value))
    addresses, ports = dict(walk(parts.get(CTA_TUPLE_IP, b""))), dict(walk(parts.get(CTA_TUPLE_PROTO, b"")))
    source, destination = _kinds(family)
    if not {source, destination} <= set(addresses) or not {CTA_PROTO_NUM, CTA_PROTO_SRC_PORT,
                                                           CTA_PROTO_DST_PORT} <= set(ports):
        return None
    return (int.from_bytes(ports[CTA_PROTO_NUM], "big"),
            (address_of(addresses[source]), int.from_bytes(ports[CTA_PROTO_SRC_PORT], "big")),
            (address_of(addresses[destination]), int.from_bytes(ports[CTA_PROTO_DST_PORT], "big")))


def _tuple(family: int, protocol: int, source: bytes, destination: bytes) -> bytes:
    kinds = _kinds(family)
    return nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_IP, attribute(kinds[0], source), attribute(kinds[1], destination)),
                  nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, bytes([protocol])),
                         attribute(CTA_PROTO_SRC_PORT, bytes(2)), attribute(CTA_PROTO_DST_PORT, bytes(2))))


def _kinds(family: int) -> tuple[int, int]:
    """Return the attributes that hold the source's and the destination's address."""
    return (1, 2) if family == AF_INET else (3, 4)
