"""Who is who in the IPv6 rows, beside ``cases.py``: one client, one VIP, real servers on the director's link."""
from __future__ import annotations

import struct

from lbq.model import IPIP, NOCSUM
from tests.helpers import engines
from tests.helpers.cases import CLIENT6, VIP6, WEB6, Peer, call, service
from tests.helpers.engines import POSTROUTING, PREROUTING
from tests.helpers.packets import endpoint

CIP, VIP, RIP = "2001:db8:c:1::9", "2001:db8:1::1", "2001:db8:5::1"
DIRECTOR = "2001:db8:5::fe"
ROUTER = "2001:db8:c:9::7"                                      # on the way to the client
DNS6 = f"udp:[{VIP}]:53"
REAL = f"[{RIP}]:80"
OPTIONS = (60, bytes([0, 0, 1, 4, 0, 0, 0, 0]))                 # destination options: nothing but padding
HOP_BY_HOP = (0, OPTIONS[1])
ROUTING = (43, bytes([0, 2, 2, 0, *bytes(20)]))                 # type 2, no segments left


def fragment_header(offset: int = 0, more: bool = False) -> tuple[int, bytes]:
    """Return the extension header of a fragment at *offset*, in bytes."""
    return 44, struct.pack("!BBHI", 0, 0, offset | more, 7)


def client6(source: str = CLIENT6, vip: str = VIP6, hook: int = PREROUTING, **options) -> Peer:
    """Return a client on another machine."""
    return Peer(source, vip, hook, options)


def server6(source: str = REAL, to_client: str = CLIENT6, hook: int = POSTROUTING, **options) -> Peer:
    """Return a real server that answers a client on another machine."""
    return Peer(source, to_client, hook, options, out_device=2)


def by(mode: int, tunnel: tuple = (IPIP, 0, NOCSUM), name: str = WEB6, real: str = REAL) -> tuple:
    """Return the steps that configure *name* with one server, of either family, by *mode*."""
    return (service(name), call("add_server", engines.key(name), *endpoint(real), 1, mode, 0, 0, tunnel,
                                engines.family_of(real)))
