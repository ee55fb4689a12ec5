"""What the host's routing knows of the ways to real servers, for DR and TUN and for the sizes of packets.

A route is (address, mtu, source, device, mac), as docs/architecture.md has it: read once a second, and whenever the
kernel says that a neighbour, a route, a link or an address changed.

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

from lbq.host.addresses import NDMSG, RTMSG, RTN_LOCAL
from lbq.host.netlink import NETLINK_ROUTE, NLM_F_DUMP, ask, attribute, walk

Route = tuple[int, int, int, int, str]      # address, mtu, source, device, mac

RTM_NEWNEIGH, RTM_GETROUTE, RTM_GETNEIGH = 28, 26, 30
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 7, 8
RTAX_MTU = 2
RTN_UNICAST = 1
NDA_DST, NDA_LLADDR = 1, 2
NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x40, 0x80
USABLE = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT
GROUPS = (1, 3, 5, 7, 8)                    # LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
SIOCGIFMTU = 0x8921
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

    def read(self, addresses: Iterable[int]) -> list[Route]:
        """Return the routes to *addresses*, and have the kernel ask stale neighbours again."""
        neighbours = _neighbours()
        routes = []
        for address in addresses:
            mtu, source, device, hop = _route(address)
            state, mac = neighbours.get((device, hop), (0, ""))
            if state & NUD_STALE:
                _ask_again(device, hop, mac)
            routes.append((address, mtu, source, device, mac if state & USABLE else ""))
        return routes


def _ask_again(device: int, hop: int, mac: str) -> None:
    body = NDMSG.pack(socket.AF_INET, 0, 0, device, NUD_PROBE, 0, 0)
    body += attribute(NDA_DST, struct.pack(">I", hop)) + attribute(NDA_LLADDR, bytes.fromhex(mac))
    with contextlib.suppress(OSError):      # it is gone: the next look will see that
        ask(NETLINK_ROUTE, RTM_NEWNEIGH, body)


def _route(address: int) -> tuple[int, int, int, int]:
    """Return MTU, source address, device number and next hop of the way to *address*."""
    request = RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, struct.pack(">I", address))
    try:
        body = ask(NETLINK_ROUTE, RTM_GETROUTE, request)[0]
    except OSError:
        return NO_ROUTE, 0, 0, address
    if RTMSG.unpack_from(body)[7] not in (RTN_UNICAST, RTN_LOCAL):
        return NO_ROUTE, 0, 0, address
    attributes = dict(walk(body[RTMSG.size:]))
    device = struct.unpack("=I", attributes[RTA_OIF])[0] if RTA_OIF in attributes else 0
    metrics = dict(walk(attributes.get(RTA_METRICS, b"")))
    mtu = struct.unpack("=I", metrics[RTAX_MTU])[0] if RTAX_MTU in metrics else _device_mtu(device)
    return mtu, _number(attributes.get(RTA_PREFSRC)), device, _number(attributes.get(RTA_GATEWAY)) or address


def _neighbours() -> dict[tuple[int, int], tuple[int, str]]:
    """Return state and MAC of every IPv4 neighbour, by device and address."""
    found = {}
    for body in ask(NETLINK_ROUTE, RTM_GETNEIGH, NDMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0), NLM_F_DUMP):
        _, _, _, device, state, _, _ = NDMSG.unpack_from(body)
        attributes = dict(walk(body[NDMSG.size:]))
        mac = attributes.get(NDA_LLADDR, b"")
        if NDA_DST in attributes and len(mac) == 6:
            found[device, _number(attributes[NDA_DST])] = state, mac.hex()
    return found


def _device_mtu(device: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            request = struct.pack("=16si20x", socket.if_indextoname(device).encode(), 0)
            return struct.unpack_from("=i", fcntl.ioctl(any_socket, SIOCGIFMTU, request), 16)[0]
        except OSError:
            return 0


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")
