"""What the host's routing knows of the ways to real servers, for DR and TUN and for the sizes of packets.

A route is (address, mtu, source, device, mac), as docs/architecture.md has it: read once a second, whenever the
kernel says that a neighbour, a route, a link or an address changed, and of an address that becomes a real server's.

A packet socket does not tell the kernel that it uses a neighbour, so the kernel would never look whether one still has
its MAC: ``read`` has it asked again as soon as the entry is stale, base_reachable_time after its last word.  One that
answers is reachable for as long again; one that does not has failed, and packets go through the kernel, which looks for
it anew.

Kernel: include/uapi/linux/rtnetlink.h, neighbour.h; net/core/neighbour.c.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable

from lbq.host import sysctl
from lbq.host.addresses import NDMSG, RTMSG, RTN_LOCAL
from lbq.host.netlink import (
    BITS,
    NETLINK_ROUTE,
    NLM_F_DUMP,
    address_bytes,
    address_of,
    ask,
    attribute,
    walk,
)
from lbq.model import AF_INET6

Route = tuple[int, int, int, int, str]      # address, mtu, source, device, mac
Neighbours = dict[tuple[int, int], tuple[int, str]]     # state and MAC, by device and address

RTM_NEWNEIGH, RTM_GETROUTE, RTM_GETNEIGH = 28, 26, 30
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 7, 8
RTAX_MTU = 2
RTN_UNICAST = 1
NDA_DST, NDA_LLADDR = 1, 2
NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x40, 0x80
USABLE = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT
GROUPS = (1, 3, 5, 7, 8, 9, 11, 19)         # LINK, NEIGH, IPV4_IFADDR _ROUTE _RULE, IPV6_IFADDR _ROUTE _RULE
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
SIOCGIFMTU = 0x8921
ETHERNET_MTU = 1500
NO_ROUTE = -1


class Routes:
    """The ways to real servers, and the kernel's word when one of them may have changed."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                                    NETLINK_ROUTE)
        self.socket.bind((0, 0))
        for group in GROUPS:
            self.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """Return the descriptor that is readable when something may have changed."""
        return self.socket.fileno()

    def drain(self) -> None:
        """Read away what the kernel said; an overrun says the same: look again."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self.socket.recv(1 << 16)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise

    def close(self) -> None:
        """Listen no more."""
        self.socket.close()

    def read(self, addresses: Iterable[int], family: int, near: Neighbours | None = None) -> list[Route]:
        """Return the routes to *addresses*, and have the kernel ask those of the neighbours *near* that are stale."""
        near = neighbours(family) if near is None else near
        routes = []
        for address in addresses:
            route, hop, state = _look(address, family, near)
            if state & NUD_STALE:
                _ask_again(family, route[3], hop, near[route[3], hop][1])
            routes.append(route)
        return routes


def look(address: int, family: int, near: Neighbours) -> Route:
    """Return the route to *address*, and ask nobody about it."""
    return _look(address, family, near)[0]


def _look(address: int, family: int, near: Neighbours) -> tuple[Route, int, int]:
    """Return the route to *address*, its next hop, and the state of that neighbour."""
    mtu, source, device, hop = way(address, family)
    state, mac = near.get((device, hop), (0, ""))
    return (address, mtu, source, device, mac if state & USABLE else ""), hop, state


def _ask_again(family: int, device: int, hop: int, mac: str) -> None:
    body = NDMSG.pack(family, 0, 0, device, NUD_PROBE, 0, 0)
    body += attribute(NDA_DST, address_bytes(hop, family)) + attribute(NDA_LLADDR, bytes.fromhex(mac))
    with contextlib.suppress(OSError):      # it is gone: the next look will see that
        ask(NETLINK_ROUTE, RTM_NEWNEIGH, body)


def way(address: int, family: int) -> tuple[int, int, int, int]:
    """Return MTU, source address, device number and next hop of the way to *address*."""
    request = RTMSG.pack(family, BITS[family], 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, address_bytes(address, family))
    try:
        body = ask(NETLINK_ROUTE, RTM_GETROUTE, request)[0]
    except OSError:
        return NO_ROUTE, 0, 0, address
    if RTMSG.unpack_from(body)[7] not in (RTN_UNICAST, RTN_LOCAL):
        return NO_ROUTE, 0, 0, address
    attributes = dict(walk(body[RTMSG.size:]))
    device = struct.unpack("=I", attributes[RTA_OIF])[0] if RTA_OIF in attributes else 0
    metrics = dict(walk(attributes.get(RTA_METRICS, b"")))
    mtu = struct.unpack("=I", metrics[RTAX_MTU])[0] if RTAX_MTU in metrics else _device_mtu(device, family)
    return mtu, address_of(attributes.get(RTA_PREFSRC)), device, address_of(attributes.get(RTA_GATEWAY)) or address


def neighbours(family: int) -> Neighbours:
    """Return state and MAC of every neighbour of *family*, by device and address."""
    found = {}
    for body in ask(NETLINK_ROUTE, RTM_GETNEIGH, NDMSG.pack(family, 0, 0, 0, 0, 0, 0), NLM_F_DUMP):
        _, _, _, device, state, _, _ = NDMSG.unpack_from(body)
        attributes = dict(walk(body[NDMSG.size:]))
        mac = attributes.get(NDA_LLADDR, b"")
        if NDA_DST in attributes and len(mac) == 6:
            found[device, address_of(attributes[NDA_DST])] = state, mac.hex()
    return found


def largest_mtu() -> int:
    """Return the largest MTU of this host's devices but for loopback: no longer packet can come in whole."""
    return max((_mtu_of(name) for _, name in socket.if_nameindex() if name != "lo"), default=0) or ETHERNET_MTU


def device_name(number: int) -> str:
    """Return the name of a device, or of one that is gone, its number."""
    try:
        return socket.if_indextoname(number)
    except OSError:
        return f"device {number}"


def _device_mtu(device: int, family: int) -> int:
    """Return the MTU of a device; for IPv6 it may be smaller than the device's, a router's advertisement can say so."""
    try:
        name = socket.if_indextoname(device)
    except OSError:
        return 0
    mtu = _mtu_of(name)
    return min(mtu, int(sysctl.read(f"net/ipv6/conf/{name}/mtu") or mtu)) if family == AF_INET6 else mtu


def _mtu_of(name: str) -> int:
    """Return the MTU of the device *name*, 0 when it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            request = struct.pack("=16si20x", name.encode(), 0)
            return struct.unpack_from("=i", fcntl.ioctl(any_socket, SIOCGIFMTU, request), 16)[0]
        except OSError:
            return 0
