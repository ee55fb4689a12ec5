"""Who is where in a scenario: the addresses, MAC addresses and routes both players share.

Clients are any address outside these networks, all behind one router.  Real servers 10.1.0.1 to 10.1.0.20 are
on the director's server segment, 10.2.0.0/16 is behind a router there; nothing routes to 10.9.0.0/16.

In a world with ``"family": 6`` every machine also has an IPv6 address, ``as_ipv6`` of the other.
"""
from __future__ import annotations

import socket
import struct

from tests.kernel.ip import text

DIRECTOR_MACS = {"c": "020000000001", "s": "020000000002"}
ROUTER_MACS = {"c": "0200000000c1", "s": "0200000000a1"}
VIPS = [f"10.0.0.{number}" for number in range(1, 9)]
DIRECTOR = {"c": "192.168.255.254", "s": "10.1.255.254"}
CLIENT_ROUTER, SERVER_ROUTER = "192.168.255.1", "10.1.255.1"
SEGMENT_SERVERS = [f"10.1.0.{number}" for number in range(1, 21)]
MTU = {"c": 4000, "s": 1500}

ADDRESSES = [(DIRECTOR["c"], 16, "c"), (DIRECTOR["s"], 16, "s"), *((vip, 32, "lo") for vip in VIPS)]
ROUTES = [("0.0.0.0", 0, CLIENT_ROUTER, "c"), ("10.2.0.0", 16, SERVER_ROUTER, "s")]

UNREACHABLE = ("10.9.0.0", 16)


def as_ipv6(address: str) -> str:
    """Return the IPv6 address of the machine with this IPv4 *address*: it ends in that, behind its network's words."""
    last = socket.inet_aton(address)
    network = last[1] if last[0] == 10 else int.from_bytes(last[:2], "big")
    scattered = network * 0x9E37 & 0xFFFF if last[0] != 10 else 0       # a hash of clients sees more than their ends
    return text(struct.pack("!HHHHI", 0x2001, 0xDB8, network, scattered, 0) + last)


def packed(address: str) -> bytes:
    """Return an address of either family as 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def in_family(address: str, length: int) -> bytes:
    """Return the address with *length* bytes of the machine that has *address*, of either family."""
    result = packed(address)
    return result if len(result) == length else result[-4:] if length == 4 else packed(as_ipv6(address))


def server_mac(address: str) -> str:
    """Return the MAC address of a machine on the server segment."""
    return "0200" + packed(address)[-4:].hex()


def families(options: dict) -> list[tuple]:
    """Return the families of a world with *options*: (what an IPv4 address is there, how much longer prefixes)."""
    return [(str, 0), (as_ipv6, 96)] if options.get("family") == 6 else [(str, 0)]


LOCAL = [*VIPS, *DIRECTOR.values()]
LOCAL += [as_ipv6(address) for address in LOCAL]
NEIGHBOURS = [(CLIENT_ROUTER, ROUTER_MACS["c"], "c"), (SERVER_ROUTER, ROUTER_MACS["s"], "s"),
              *((address, server_mac(address), "s") for address in SEGMENT_SERVERS)]


def ethernet(side: str, packet: bytes) -> bytes:
    """Return *packet* in the frame in which the router of this *side* sends it to the director."""
    kind = "86dd" if packet[0] >> 4 == 6 else "0800"
    return bytes.fromhex(DIRECTOR_MACS[side] + ROUTER_MACS[side] + kind) + packet


def mac(text: str) -> bytes:
    return bytes.fromhex(text)


def mtu(options: dict, side: str) -> int:
    """Return the MTU of a side's device in a world with *options*."""
    return options.get("mtu", MTU)[side]


def next_hop(address: str) -> tuple[str, str] | None:
    """Return (side, MAC) that a packet of the director to *address* leaves to, None when nothing routes there."""
    if address in LOCAL:
        return None
    network = packed(address)[-4:][:2]
    if network == bytes((10, 9)):
        return None
    if network == bytes((10, 1)):
        return "s", server_mac(address)
    return ("s", ROUTER_MACS["s"]) if network == bytes((10, 2)) else ("c", ROUTER_MACS["c"])
