"""The sysctls of net.ipv4.vs that lbq has, under the kernel's names: defaults, limits, and what each does.

``lbq sysctl net.ipv4.vs.NAME[=VALUE]`` shows and sets them.  Those of the kernel's that cannot mean anything here
(sync daemons, conntrack, CPU lists) are refused with the reason, never accepted and ignored.

Kernel: ip_vs_ctl.c, vs_vars[]; Documentation/networking/ipvs-sysctl.rst.
"""
from __future__ import annotations

from typing import NamedTuple

from lbq.errors import ConfigError
from lbq.grammar import did_you_mean

PREFIX = "net.ipv4.vs."
INT_MAX = 2**31 - 1


class Sysctl(NamedTuple):
    """One setting: its default, the largest value it takes, and its meaning in one line."""

    default: int
    most: int
    meaning: str


TABLE = {
    "amemthresh": Sysctl(1024, INT_MAX, "pages of free memory below which the automatic defences (1, 2) switch on"),
    "am_droprate": Sysctl(10, INT_MAX, "one new connection in so many is dropped by drop_packet=3"),
    "drop_entry": Sysctl(0, 3, "end random connections: 0 never, 1 when memory is short (2 then), 3 always"),
    "drop_packet": Sysctl(0, 3, "refuse some new connections: 0 never, 1 when memory is short (2 then), 3 always"),
    "secure_tcp": Sysctl(0, 3, "the stricter TCP table: 0 never, 1 when memory is short (2 then), 3 always"),
    "cache_bypass": Sysctl(0, INT_MAX, "without a server, packets of a fwmark service go on to where they wanted"),
    "expire_nodest_conn": Sysctl(0, INT_MAX, "1: connections of a deleted server start over at once, of a quiesced one "
                                 "at a SYN"),
    "expire_quiescent_template": Sysctl(0, INT_MAX, "1: persistence forgets servers of weight 0"),
    "sloppy_tcp": Sysctl(0, INT_MAX, "1: any TCP segment but a reset may open a connection"),
    "sloppy_sctp": Sysctl(0, INT_MAX, "1: any SCTP packet but an abort may open a connection"),
    "nat_icmp_send": Sysctl(0, INT_MAX, "1: a NAT server's packet that belongs to nothing is answered by ICMP"),
    "pmtu_disc": Sysctl(1, INT_MAX, "1: tunnels copy DF and report too large packets"),
    "conn_reuse_mode": Sysctl(1, INT_MAX, "which finished connections a SYN from the same port starts over: 0 none, "
                              "1 TIME_WAIT and CLOSE, 2 FIN_WAIT of DR and TUN, too"),
    "schedule_icmp": Sysctl(0, INT_MAX, "1: an ICMP error about an unknown connection may make one"),
    "run_estimation": Sysctl(1, INT_MAX, "0: counters shown and rates stand still"),
    "lblc_expiration": Sysctl(86400, INT_MAX, "seconds after which lblc forgets a destination"),
    "lblcr_expiration": Sysctl(86400, INT_MAX, "seconds after which lblcr forgets a destination, shrinks its set"),
}
ELSEWHERE = {
    "conntrack": "lbq keeps its services' packets out of conntrack",
    "snat_reroute": "replies are rewritten after routing",
    "ignore_tunneled": "tunnelled packets are never queued",
    "backup_only": "lbq has no sync daemon yet",
    **dict.fromkeys(("sync_version", "sync_ports", "sync_persist_mode", "sync_qlen_max", "sync_sock_size",
                     "sync_threshold", "sync_refresh_period", "sync_retries"), "lbq has no sync daemon yet"),
    **dict.fromkeys(("est_cpulist", "est_nice"), "the estimator runs in the packet process"),
    "debug_level": "LBQ_DEBUG=1 shows where a mistake comes from",
}
DEFENCES = ("drop_entry", "drop_packet", "secure_tcp")


def check(name: str, value: int = 0, said: str | None = None) -> None:
    """Raise ConfigError unless the sysctl *name* (without prefix) takes *value*, which a person *said*."""
    if name in ELSEWHERE:
        raise ConfigError(f"{PREFIX}{name} means nothing here: {ELSEWHERE[name]}")
    if name not in TABLE:
        raise ConfigError(f"no sysctl {PREFIX}{name}{did_you_mean(name, (*TABLE, *ELSEWHERE))}; "
                          "lbq sysctl lists those there are")
    if not 0 <= value <= TABLE[name].most:
        raise ConfigError(f"{PREFIX}{name}={value if said is None else said}: "
                          f"not a number from 0 to {TABLE[name].most}")


def defaults() -> dict[str, int]:
    """Return every sysctl with its default."""
    return {name: sysctl.default for name, sysctl in TABLE.items()}


def defend(values: dict[str, int], free_pages: int) -> None:
    """Move the automatic defences between 1 (armed) and 2 (active), as *free_pages* of memory are left.

    Kernel: ip_vs_ctl.c, update_defense_level().
    """
    short = free_pages < values["amemthresh"]
    for name in DEFENCES:
        if values[name] == (1 if short else 2):
            values[name] = 2 if short else 1


def drop_rate(values: dict[str, int], free_pages: int) -> int:
    """Return R when one new connection in R is to be dropped, 0 for none."""
    if values["drop_packet"] == 3:
        return values["am_droprate"]
    if values["drop_packet"] == 2 and free_pages < values["amemthresh"]:
        return values["amemthresh"] // (values["amemthresh"] - free_pages)
    return 0
