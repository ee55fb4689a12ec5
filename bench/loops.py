"""Each decision a thousand times over, so that the loop and the call into it do not count.

Compiled (with ``loops.pxd``) these are C loops around C calls; interpreted, with LBQ_PURE=1, the same text
is the Python baseline.  A benchmark of one of them reads microseconds as nanoseconds a decision.
"""
from __future__ import annotations

from lbq.model import Flow, VirtualService
from lbq.modes import nat
from lbq.protocols import tcp
from lbq.schedulers.base import Scheduler

TIMES = 1000
RIP = 0x0A000201
RPORT = 8080


def schedule(scheduler: Scheduler, service: VirtualService, flow: Flow) -> None:
    """Ask *scheduler* for a server of *service*."""
    for _ in range(TIMES):
        scheduler.schedule(service, flow)


def rewrite(packet, end: int, form: int) -> None:
    """Address the packet of *end* bytes to the real server."""
    for _ in range(TIMES):
        nat.to_real_server(packet, end, RIP, RPORT, form, False)


def follow(flags: int) -> int:
    """Follow TCP's state table with one segment after the other."""
    state = tcp.NONE
    for _ in range(TIMES):
        state = tcp.next_state(tcp.IN, flags, state)
    return state
