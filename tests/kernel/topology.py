"""Who is where in a scenario: the addresses, MAC addresses and routes both players share.

Clients are any address outside these networks, all behind one router.  Real servers 10.1.0.1 to 10.1.0.20 are
on the director's server segment, 10.2.0.0/16 is behind a router there; nothing routes to 10.9.0.0/16.
"""
from __future__ import annotations

import socket

DIRECTOR_MACS = {"c": "020000000001", "s": "020000000002"}
ROUTER_MACS = {"c": "0200000000c1", "s": "0200000000a1"}
VIPS = [f"10.0.0.{number}" for number in range(1, 9)]
DIRECTOR = {"c": "192.168.255.254", "s": "10.1.255.254"}
CLIENT_ROUTER, SERVER_ROUTER = "192.168.255.1", "10.1.255.1"
SEGMENT_SERVERS = [f"10.1.0.{number}" for number in range(1, 21)]
LOCAL = [*VIPS, *DIRECTOR.values()]
MTU = {"c": 4000, "s": 1500}

ADDRESSES = [(DIRECTOR["c"], 16, "c"), (DIRECTOR["s"], 16, "s"), *((vip, 32, "lo") for vip in VIPS)]
ROUTES = [("0.0.0.0", 0, CLIENT_ROUTER, "c"), ("10.2.0.0", 16, SERVER_ROUTER, "s")]

UNREACHABLE = ("10.9.0.0", 16)


def server_mac(address: str) -> str:
    """Return the MAC address of a machine on the server segment."""
    return "0200" + socket.inet_aton(address).hex()


NEIGHBOURS = [(CLIENT_ROUTER, ROUTER_MACS["c"], "c"), (SERVER_ROUTER, ROUTER_MACS["s"], "s"),
              *((address, server_mac(address), "s") for address in SEGMENT_SERVERS)]
ETHERNET = {side: bytes.fromhex(DIRECTOR_MACS[side] + ROUTER_MACS[side] + "0800") for side in ("c", "s")}


def mac(text: str) -> bytes:
    return bytes.fromhex(text)


def mtu(options: dict, side: str) -> int:
    """Return the MTU of a side's device in a world with *options*."""
    return options.get("mtu", MTU)[side]


def next_hop(address: str) -> tuple[str, str] | None:
    """Return (side, MAC) that a packet of the director to *address* leaves to, None when nothing routes there."""
    if address in LOCAL:
        return None
    network = socket.inet_aton(address)[:2]
    if network == bytes((10, 9)):
        return None
    if network == bytes((10, 1)):
        return "s", server_mac(address)
    return ("s", ROUTER_MACS["s"]) if network == bytes((10, 2)) else ("c", ROUTER_MACS["c"])
