"""DR, direct routing (``gatewaying``, ipvsadm -g): the request goes on to a real server unchanged.

    in     CIP:cport -> VIP:vport   leaves for the MAC address of the real server, otherwise as it came
    out    VIP:vport -> CIP:cport   goes from the real server to the client, past the director

Every real server has the VIP on its loopback interface, where nobody asks for it by ARP, and therefore
takes the packet for its own and answers from the VIP.  The director sees half of every connection, and
the smaller half: requests are short, answers are long.

What it costs: director and real servers share a network (the next hop must be the real server itself),
and a port cannot be changed, because nobody would change it back.

One field does change.  The kernel counts its own hop: TTL - 1, as a router does.

Kernel: ip_vs_xmit.c, ip_vs_dr_xmit().
"""
from __future__ import annotations

from lbq import packet as pkt


def to_real_server(packet) -> None:
    """Make the client's packet ready to leave for the real server: one hop more is behind it."""
    pkt.decrement_ttl(packet)
