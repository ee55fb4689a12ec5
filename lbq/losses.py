"""Packets that went missing, in words: for the log while it happens, for ``lbq stats`` afterwards.

The packet path never logs; it counts.  Once a second the front compares the counters with those it last
spoke of: one warning line a kind, at once when a kind begins, then at most one each ``QUIET_SECONDS`` with
what has come together since.
"""
from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

QUEUE_FILE = Path("/proc/net/netfilter/nfnetlink_queue")
QUIET_SECONDS = 10

DROPPED = {
    "dropped_truncated": "the kernel did not deliver it whole",
    "dropped_malformed": "its header is broken",
    "dropped_fragment": "a fragment that was not reassembled",
    "dropped_no_server": "no real server can take the connection",
    "dropped_server_gone": "the real server of its connection was deleted",
    "dropped_table_full": "the connection table is full (--max-connections)",
    "dropped_defence": "a new connection, refused by sysctl drop_packet",
    "dropped_ttl": "its TTL was used up",
    "dropped_too_big": "too long for the way to the real server, and not to be fragmented",
    "dropped_no_route": "this host has no route to the real server",
    "dropped_boundary": "it may not go from here to there (loopback addresses; DR and TUN to this host)",
    "dropped_unsegmentable": "a large UDP packet, whose segments' size nobody tells",
    "dropped_ftp": "a broken FTP control segment",
    "dropped_icmp_checksum": "an ICMP error with a wrong checksum",
    "dropped_icmp_ours": "an ICMP error about a tunnel packet, told on to the client",
    "dropped_nat_icmp": "a real server's packet of no connection, refused by sysctl nat_icmp_send",
    "send_errors": "the kernel did not take what DR or TUN sends",
    "verdict_errors": "the kernel refused the verdict",
    "scheduler_errors": "a user's own scheduler failed, at a packet or when it was told of something",
    "queue_dropped": "the kernel's queue was full",
    "user_dropped": "the buffer of the queue's socket was full",
}
PASSED = {
    "passed_not_ours": "neither TCP, UDP nor SCTP",
    "passed_no_service": "to no virtual service",
    "passed_not_opening": "not the first packet of a connection, and of none that is known",
    "passed_no_connection": "replies of no known connection",
    "passed_ftp_data": "from the FTP data port, or to a port above an FTP service",
    "passed_local": "by DR or TUN to this host itself",
    "passed_reply": "replies of DR and TUN that came by",
    "passed_bypass": "without a real server, on to where it was going (sysctl cache_bypass)",
    "passed_icmp": "ICMP that is about no connection",
    "passed_later_fragment": "an IPv6 fragment that has no ports",
    "passed_whole": "only headers came, and more was needed: queued once more, whole",
}
OFFLOADED = {           # about connections that conntrack carries
    "offloaded": "of them carried by conntrack",
    "adopted": "connections of conntrack's that were taken over as they were",
    "events_lost": "times that conntrack's events found no room, which a list made good",
}


class QueueCounters(NamedTuple):
    """What the kernel counts for NFQUEUE numbers."""

    waiting: int
    queue_dropped: int      # the queue had its maximal length
    user_dropped: int       # our socket's buffer was full


def queue_counters(numbers: Collection[int], file: Path = QUEUE_FILE) -> QueueCounters | None:
    """Return what the kernel counts for all queues *numbers* of this network namespace; None: none is bound."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        queue, _, waiting, _, _, queue_dropped, user_dropped, *_ = map(int, line.split())
        if queue in numbers:
            found.append((waiting, queue_dropped, user_dropped))
    return QueueCounters(*map(sum, zip(*found, strict=True))) if found else None


class LossWatch:
    """Which losses have been told, and when; and when there was the last of each kind."""

    def __init__(self):
        self.seen: dict[str, int] = {}          # the counter at the last look
        self.lost_at: dict[str, float] = {}     # when it had last grown
        self.told: dict[str, int] = {}          # the counter when we last spoke of it
        self.told_at: dict[str, float] = {}

    def warnings(self, counters: dict[str, int], now: float) -> list[tuple[str, int, str]]:
        """Return (kind, packets, sentence) for every loss that *counters* newly show at *now* seconds."""
        found = []
        for kind, words in DROPPED.items():
            if counters.get(kind, 0) > self.seen.get(kind, 0):
                self.lost_at[kind] = now
            self.seen[kind] = counters.get(kind, 0)
            lost = counters.get(kind, 0) - self.told.get(kind, 0)
            if lost <= 0 or now - self.told_at.get(kind, -QUIET_SECONDS) < QUIET_SECONDS:
                continue
            self.told[kind] = counters[kind]
            self.told_at[kind] = now
            found.append((kind, lost, f"{lost} packets lost: {words} ({kind}, {counters[kind]} in all)"))
        return found

    def seconds_since(self, now: float) -> dict[str, float]:
        """Return how long ago, at *now* seconds, the last packet of each kind that there was got lost."""
        return {kind: now - at for kind, at in self.lost_at.items()}
