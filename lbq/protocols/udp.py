"""UDP as a director sees it: one state, one timeout, never active.

Every datagram of either direction starts the 300 s again.  A UDP connection always counts as
inactive, so sed and nq see no load in it.

Kernel: ip_vs_proto_udp.c.
"""
from __future__ import annotations

NORMAL = 0
NAMES = ("UDP",)
TIMEOUTS = (300,)   # seconds, by state
