"""Direct routing (``dr``, ipvsadm -g): the packet goes to the real server as it is, only its MAC address is another.

    in    CIP:cport -> VIP:vport   to the MAC of RIP; the TTL is one less, as after any router
    out   VIP:vport -> CIP:cport   from the real server straight to the client

The real server has the VIP on its loopback device and does not answer ARP for it.  Ports cannot be changed:
nobody would change them back.

Kernel: ip_vs_xmit.c, ip_vs_dr_xmit().
"""
from __future__ import annotations

from lbq import packet as pkt


def to_real_server(packet) -> None:
    """Make the client's packet ready for the real server's MAC."""
    pkt.decrement_ttl(packet)
