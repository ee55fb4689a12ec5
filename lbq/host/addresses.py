"""The host's addresses and routes: is the VIP delivered here, who answers ARP or NDP for it, where are the servers.

The two families differ in who answers.  ARP is answered for any address of the host, on whatever device it is;
a neighbour solicitation only for an address of the very device it came in on.

Kernel: include/uapi/linux/rtnetlink.h, if_addr.h, neighbour.h; ndisc_recv_ns() in net/ipv6/ndisc.c
"""
from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from typing import NamedTuple

from lbq.errors import HostError
from lbq.grammar import format_address
from lbq.host import sysctl
from lbq.host.netlink import (
    BITS,
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    address_bytes,
    address_of,
    ask,
    attribute,
    walk,
)
from lbq.model import AF_INET, AF_INET6

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH = 20, 21, 22, 26, 30
IFADDRMSG = struct.Struct("=BBBBI")             # family, prefix length, flags, scope, device
RTMSG = struct.Struct("=BBBBBBBBI")             # family, prefix, …, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BBHiHBB")               # family, pad, pad, device, state, flags, type
CACHEINFO = struct.Struct("=IIII")              # preferred and valid seconds, two stamps
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO = 1, 2, 6
IFA_F_NODAD = 0x02
FOREVER = 0xFFFFFFFF
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST = 2, 3, 4
NDA_DST = 1
NTF_PROXY = 8
RT_TABLE_MAIN = 254
RESOLVER = {AF_INET: "ARP", AF_INET6: "neighbour solicitations"}


class Address(NamedTuple):
    """One address of this host."""

    address: int
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    device: str


def addresses(family: int) -> list[Address]:
    """Return this host's addresses of *family*."""
    found = []
    for body in ask(NETLINK_ROUTE, RTM_GETADDR, IFADDRMSG.pack(family, 0, 0, 0, 0), NLM_F_DUMP):
        _, prefix, _, _, index = IFADDRMSG.unpack_from(body)
        attributes = dict(walk(body[IFADDRMSG.size:]))
        address = address_of(attributes.get(IFA_LOCAL, attributes[IFA_ADDRESS]))
        # On a point-to-point link IFA_ADDRESS is the other end: that is what lies on the link.
        network = ipaddress.ip_network((attributes[IFA_ADDRESS], prefix), strict=False)
        device = _device_name(index)
        if device is not None:
            found.append(Address(address, network, device))
    return found


def local_addresses(family: int) -> list[int]:
    """Return the host's own addresses of *family*: what is delivered here."""
    return [entry.address for entry in addresses(family)]


def add(address: int, family: int, device: str) -> None:
    """Give *device* the address, and it alone, without a network.

    With IPv6 it is deprecated, so that the host does not choose it as the source of what it begins itself; with a /32
    there is no need.  Nor is it asked whether another has it: a VIP is meant to move from one machine to the next.
    """
    try:
        _change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address, family, device)
    except OSError as error:
        dotted = format_address(address, family)
        raise HostError(f"cannot add {dotted} to {device}: {error.strerror}; add it yourself "
                        f"(ip addr add {dotted}/{BITS[family]} dev …) and leave --add-vip away") from error


def remove(address: int, family: int, device: str) -> bool:
    """Take the address that ``add`` gave from *device*; False when it, or the device, is gone already."""
    try:
        _change(RTM_DELADDR, 0, address, family, device)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return False
        raise
    return True


def check_device(device: str) -> None:
    """Raise HostError when there is no network device of this name."""
    if device not in (name for _, name in socket.if_nameindex()):
        raise HostError(f"cannot add the VIP to {device}: there is no such network device; "
                        f"`ip link` lists those there are")


def is_local(address: int, family: int) -> bool:
    """Return True when packets to *address* are delivered on this host."""
    route = _route(address, family)
    return route is not None and route[0] in (RTN_LOCAL, RTN_ANYCAST)


def is_broadcast(address: int) -> bool:
    """Return True when the IPv4 *address* is that of a whole network here."""
    route = _route(address, AF_INET)
    return route is not None and route[0] == RTN_BROADCAST


def device_towards(address: int, family: int) -> str | None:
    """Return the device by which packets to *address* leave, or None when there is no route."""
    route = _route(address, family)
    return None if route is None else route[1]


def gateway_towards(address: int, family: int) -> str | None:
    """Return the gateway by which packets to *address* would leave, or None when there is none."""
    route = _route(address, family)
    return None if route is None else route[2]


def default_route_devices(family: int) -> set[str]:
    """Return the devices that have a default route: clients from elsewhere come in there."""
    found = set()
    request = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    for body in ask(NETLINK_ROUTE, RTM_GETROUTE, request, NLM_F_DUMP):
        _, prefix, _, _, table, *_ = RTMSG.unpack_from(body)
        attributes = dict(walk(body[RTMSG.size:]))
        if prefix == 0 and table == RT_TABLE_MAIN and RTA_OIF in attributes:
            found.add(_device_name(struct.unpack("=I", attributes[RTA_OIF])[0]))
    return {name for name in found if name is not None}


def client_devices(vips: list[int], family: int) -> set[str]:
    """Return the devices where clients come in: those of the *vips*' links and of default routes."""
    own = addresses(family)
    return default_route_devices(family) | {device for vip in vips for device in links_of(vip, family, own)}


def unanswered_device(vip: int, family: int) -> str | None:
    """Return the device on whose link *vip* lies when nobody here answers ARP or NDP for it there, else None."""
    own = addresses(family)
    for device in links_of(vip, family, own):
        answered = (is_local(vip, family) if family == AF_INET else
                    any((entry.address, entry.device) == (vip, device) for entry in own))
        if not answered and not _is_proxied(vip, family, device):
            return device
    return None


def links_of(vip: int, family: int, own: list[Address]) -> list[str]:
    """Return the devices on whose links *vip* lies, by the networks of this host's *own* addresses."""
    address = ipaddress.ip_address(address_bytes(vip, family))
    return [entry.device for entry in own if entry.device != "lo" and address in entry.network]


def _change(kind: int, flags: int, address: int, family: int, device: str) -> None:
    try:
        index = socket.if_nametoindex(device)
    except OSError:
        raise OSError(errno.ENODEV, f"no device {device}") from None
    packed = address_bytes(address, family)
    body = IFADDRMSG.pack(family, BITS[family], IFA_F_NODAD if family == AF_INET6 else 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if family == AF_INET6:
        body += attribute(IFA_CACHEINFO, CACHEINFO.pack(0, FOREVER, 0, 0))
    ask(NETLINK_ROUTE, kind, body, flags)


def _route(address: int, family: int) -> tuple[int, str | None, str | None] | None:
    """Return type, device and gateway of the route to *address*, or None when there is none."""
    request = RTMSG.pack(family, BITS[family], 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, address_bytes(address, family))
    try:
        body = ask(NETLINK_ROUTE, RTM_GETROUTE, request)[0]
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return None
        raise
    attributes = dict(walk(body[RTMSG.size:]))
    index = struct.unpack("=I", attributes[RTA_OIF])[0] if RTA_OIF in attributes else 0
    gateway = format_address(address_of(attributes[RTA_GATEWAY]), family) if RTA_GATEWAY in attributes else None
    return RTMSG.unpack_from(body)[7], _device_name(index), gateway


def _is_proxied(vip: int, family: int, device: str) -> bool:
    """Return True when this host answers for *vip* by an `ip neigh add proxy` entry.

    For ARP the entry is enough; for NDP proxy_ndp must be on as well.
    """
    request = NDMSG.pack(family, 0, 0, 0, 0, NTF_PROXY, 0)
    bodies = ask(NETLINK_ROUTE, RTM_GETNEIGH, request, NLM_F_DUMP)
    if vip not in {address_of(dict(walk(body[NDMSG.size:]))[NDA_DST]) for body in bodies}:
        return False
    return family == AF_INET or any(sysctl.read(f"net/ipv6/conf/{name}/proxy_ndp") == "1" for name in ("all", device))


def _device_name(index: int) -> str | None:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None
