"""The fast director seeing only headers of long packets, and the kernel's part in it: who is told a number rewrites.

What the rules of host/steering.py do, this does with ``modes/nat.py``; the lab holds one against the other.  So every
case of the packet suite and every decision of the kernel's is held against the data path ``steer``, too.
"""
from __future__ import annotations

from lbq._fastpath import FastDirector
from lbq.model import AF_INET, AF_INET6, DR, NAT, Verdict, packed
from lbq.modes import nat
from lbq.options import steering_refused
from lbq.outcomes import QUEUE
from lbq.packet import find_transport

HEADERS = 60            # those of IPv6 and TCP without options; the real 128 would leave most of the packets here whole
REPLY_HOOKS = (1, 4)
LOCAL_IN, LOOPBACK = 1, 1


class Steered:
    """A FastDirector whose packets come without what follows their headers, wherever the kernel can rewrite them."""

    def __init__(self, *args, **options):
        self.fast = FastDirector(*args, **options)
        self.targets: dict[int, tuple] = {}     # number -> RIP, rport, VIP, vport
        self.twice = dict.fromkeys(("packets", "bytes", "accepted", "passed_whole"), 0)
        self.local: dict[int, set[int]] = {}    # this host's addresses, by family
        self.only_whole = False         # a server with a number was made one of DR: who sends what, the lab shows

    def __getattr__(self, name: str):
        return getattr(self.fast, name)

    def set_local_addresses(self, addresses) -> None:
        """Remember which servers are this host: what goes there is delivered, not segmented."""
        self.local[AF_INET] = set(addresses)
        self.fast.set_local_addresses(addresses)

    def set_local_addresses6(self, addresses) -> None:
        """Likewise."""
        self.local[AF_INET6] = set(addresses)
        self.fast.set_local_addresses6(addresses)

    def set_server(self, key, address, port, weight, mode=NAT, *others, **options) -> None:
        """See everything whole from now on when there may be a number for DR."""
        self.only_whole = self.only_whole or mode == DR
        self.fast.set_server(key, address, port, weight, mode, *others, **options)

    def add_server(self, key, address, port, weight=1, mode=NAT, upper=0, lower=0, tunnel=(0, 0, 0),
                   family=None) -> int:
        """Give every server that can have one a number."""
        number = 0
        if mode == NAT and port and not steering_refused(key):
            number = len(self.targets) + 1
            self.targets[number] = address, port, key.address, key.port
        return self.fast.add_server(key, address, port, weight, mode, upper, lower, tunnel, family, number)

    def handle(self, packet: bytearray, hook, form=0, out_device=0, now_ns=0, truncated=False, mark=0) -> Verdict:
        """Let the director see the headers, and the whole packet when it asks for that."""
        if truncated or self.only_whole:
            return self.fast.handle(packet, hook, form, out_device, now_ns, truncated, mark)
        before = self.fast.statistics()
        verdict = self.fast.handle(packet, hook, form, out_device, now_ns, mark=mark, headers=HEADERS)
        if verdict.action == QUEUE:
            after = self.fast.statistics()
            for name in self.twice:
                self.twice[name] += after[name] - before[name]
            return self.fast.handle(packet, hook, form, out_device, now_ns, mark=mark)
        if not verdict.steer:
            return verdict
        self._rewrite(packet, hook, form, out_device, *self.targets[verdict.steer])
        return verdict._replace(changed=True, steer=0)

    def statistics(self) -> dict:
        """Return the counters as if no packet had come twice."""
        return {name: count - self.twice.get(name, 0) for name, count in self.fast.statistics().items()}

    def _rewrite(self, packet: bytearray, hook: int, form: int, out_device: int, rip: int, rport: int, vip: int,
                 vport: int) -> None:
        reply = hook in REPLY_HOOKS
        address, port = (vip, vport) if reply else (rip, rport)
        family = AF_INET6 if packet[0] >> 4 == 6 else AF_INET
        delivered_here = hook == LOCAL_IN or out_device == LOOPBACK if reply else rip in self.local.get(family, ())
        if family == AF_INET6:
            found = find_transport(packet, 0, len(packet))
            rewrite = nat.to_client6 if reply else nat.to_real_server6
            rewrite(packet, found & 0xFF, found >> 10, 40 + int.from_bytes(packet[4:6], "big"),
                    packed(address, AF_INET6), port, form, delivered_here)
        else:
            rewrite = nat.to_client if reply else nat.to_real_server
            rewrite(packet, int.from_bytes(packet[2:4], "big"), address, port, form, delivered_here)
