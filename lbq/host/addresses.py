"""The host's addresses and routes: is the VIP delivered here, who answers ARP for it, where are the servers.

Kernel: include/uapi/linux/rtnetlink.h, if_addr.h, neighbour.h
"""
from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from typing import NamedTuple

from lbq.errors import HostError
from lbq.host.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    ask,
    attribute,
    walk,
)

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH = 20, 21, 22, 26, 30
IFADDRMSG = struct.Struct("=BBBBI")             # family, prefix length, flags, scope, device
RTMSG = struct.Struct("=BBBBBBBBI")             # family, prefix, …, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BBHiHBB")               # family, pad, pad, device, state, flags, type
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RTN_LOCAL, RTN_BROADCAST = 2, 3
NDA_DST = 1
NTF_PROXY = 8
RT_TABLE_MAIN = 254


class Address(NamedTuple):
    """One IPv4 address of this host."""

    address: int
    network: ipaddress.IPv4Network
    device: str


def addresses() -> list[Address]:
    """Return the IPv4 addresses of this host."""
    found = []
    for body in ask(NETLINK_ROUTE, RTM_GETADDR, IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, 0), NLM_F_DUMP):
        _, prefix, _, _, index = IFADDRMSG.unpack_from(body)
        attributes = dict(walk(body[IFADDRMSG.size:]))
        address = _number(attributes.get(IFA_LOCAL, attributes[IFA_ADDRESS]))
        # On a point-to-point link IFA_ADDRESS is the other end: that is what lies on the link.
        network = ipaddress.IPv4Network((_number(attributes[IFA_ADDRESS]), prefix), strict=False)
        device = _device_name(index)
        if device is not None:
            found.append(Address(address, network, device))
    return found


def local_addresses() -> list[int]:
    """Return the host's own IPv4 addresses: what is delivered here."""
    return [entry.address for entry in addresses()]


def add(address: int, device: str) -> None:
    """Give *device* the address *address*/32."""
    try:
        _change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address, device)
    except OSError as error:
        raise HostError(f"cannot add {dotted(address)} to {device}: {error.strerror}; add it yourself "
                        f"(ip addr add {dotted(address)}/32 dev …) and leave --add-vip away") from error


def remove(address: int, device: str) -> bool:
    """Take *address*/32 from *device*; False when it, or the device, is gone already."""
    try:
        _change(RTM_DELADDR, 0, address, device)
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return False
        raise
    return True


def dotted(address: int) -> str:
    """Return *address* as people write it."""
    return str(ipaddress.IPv4Address(address))


def check_device(device: str) -> None:
    """Raise HostError when there is no network device of this name."""
    if device not in (name for _, name in socket.if_nameindex()):
        raise HostError(f"cannot add the VIP to {device}: there is no such network device; "
                        f"`ip link` lists those there are")


def is_local(address: int) -> bool:
    """Return True when packets to *address* are delivered on this host."""
    route = _route(address)
    return route is not None and route[0] == RTN_LOCAL


def is_broadcast(address: int) -> bool:
    """Return True when *address* is that of a whole network here."""
    route = _route(address)
    return route is not None and route[0] == RTN_BROADCAST


def device_towards(address: int) -> str | None:
    """Return the device by which packets to *address* leave, or None when there is no route."""
    route = _route(address)
    return None if route is None else route[1]


def gateway_towards(address: int) -> str | None:
    """Return the gateway by which packets to *address* would leave, or None when there is none."""
    route = _route(address)
    return None if route is None else route[2]


def default_route_devices() -> set[str]:
    """Return the devices that have a default route: clients from elsewhere come in there."""
    found = set()
    request = RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    for body in ask(NETLINK_ROUTE, RTM_GETROUTE, request, NLM_F_DUMP):
        _, prefix, _, _, table, *_ = RTMSG.unpack_from(body)
        attributes = dict(walk(body[RTMSG.size:]))
        if prefix == 0 and table == RT_TABLE_MAIN and RTA_OIF in attributes:
            found.add(_device_name(struct.unpack("=I", attributes[RTA_OIF])[0]))
    return {name for name in found if name is not None}


def client_devices(vips: list[int]) -> set[str]:
    """Return the devices where clients come in: those of the *vips*' links and of default routes."""
    return default_route_devices() | {entry.device for entry in addresses() if entry.device != "lo"
                                      and any(ipaddress.IPv4Address(vip) in entry.network for vip in vips)}


def unanswered_device(vip: int) -> str | None:
    """Return the device on whose link *vip* lies when nobody here answers ARP for it, else None."""
    if is_local(vip):
        return None
    for entry in addresses():
        if entry.device != "lo" and ipaddress.IPv4Address(vip) in entry.network:
            return None if vip in _proxied() else entry.device
    return None


def _change(kind: int, flags: int, address: int, device: str) -> None:
    packed = struct.pack(">I", address)
    try:
        index = socket.if_nametoindex(device)
    except OSError:
        raise OSError(errno.ENODEV, f"no device {device}") from None
    ask(NETLINK_ROUTE, kind, IFADDRMSG.pack(socket.AF_INET, 32, 0, 0, index)
        + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed), flags)


def _route(address: int) -> tuple[int, str | None, str | None] | None:
    """Return type, device and gateway of the route to *address*, or None when there is none."""
    request = RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
    request += attribute(RTA_DST, struct.pack(">I", address))
    try:
        body = ask(NETLINK_ROUTE, RTM_GETROUTE, request)[0]
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return None
        raise
    attributes = dict(walk(body[RTMSG.size:]))
    index = struct.unpack("=I", attributes[RTA_OIF])[0] if RTA_OIF in attributes else 0
    gateway = dotted(_number(attributes[RTA_GATEWAY])) if RTA_GATEWAY in attributes else None
    return RTMSG.unpack_from(body)[7], _device_name(index), gateway


def _proxied() -> set[int]:
    """Return the addresses for which this host answers ARP by an `ip neigh add proxy` entry."""
    request = NDMSG.pack(socket.AF_INET, 0, 0, 0, 0, NTF_PROXY, 0)
    bodies = ask(NETLINK_ROUTE, RTM_GETNEIGH, request, NLM_F_DUMP)
    return {_number(dict(walk(body[NDMSG.size:]))[NDA_DST]) for body in bodies}


def _device_name(index: int) -> str | None:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
