"""Tables for the terminal, in the columns an LVS person knows from ``ipvsadm -L -n``.

Every function gives lines, one after the other, so that a listing of any length streams.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from lbq.losses import DROPPED, OFFLOADED, PASSED
from lbq.show import ipvs

OWN_FLAGS = ("end-deleted", "move-quiesced", "ops-replies")     # what ipvsadm does not know


def services(rows: Iterable[dict]) -> Iterator[str]:
    """Give the virtual services and their real servers, newest server first."""
    yield from _listing(rows, "plain")


def thresholds(rows: Iterable[dict]) -> Iterator[str]:
    """Give the thresholds of every real server, and say which are full: they get nothing new."""
    yield from _listing(rows, "thresholds", lambda server: "  full" if server.get("overloaded") else "")


def persistent(rows: Iterable[dict]) -> Iterator[str]:
    """Give the number of clients that are bound to every real server."""
    yield from _listing(rows, "persistent-conn")


def tunnels(rows: Iterable[dict]) -> Iterator[str]:
    """Give the kind of tunnel to every real server."""
    yield from _listing(rows, "tun-info")


def _listing(rows: Iterable[dict], form: str, remark: Callable[[dict], str] = lambda server: "") -> Iterator[str]:
    """Give a listing of ipvsadm's without the blanks at the ends of lines, with what only lbq has."""
    yield from map(str.rstrip, ipvs.HEADERS[form])
    for row in rows:
        service, *servers = ipvs.lines(row, form)
        yield service + _own_settings(row)
        for line, server in zip(servers, row["servers"], strict=True):
            yield line.rstrip() + remark(server)


def _own_settings(row: dict) -> str:
    words = [flag for flag in OWN_FLAGS if flag in row["flags"]]
    if row.get("idle"):
        words.append(f"idle {row['idle']}")
    return "".join(f" {word}" for word in words)


def connections(rows: Iterable[dict]) -> Iterator[str]:
    """Give the connections with the time that each has left."""
    lines = ipvs.connections(rows)
    next(lines)         # says that these are connections
    yield from lines


def statistics(stats: dict) -> Iterator[str]:
    """Give traffic by service and server, live, then what became of all packets, in words."""
    yield from ipvs.listing(stats["services"], "stats", counted="stats")
    yield ""
    yield from _outcomes(stats["counters"], stats["queue"])


def rates(stats: dict) -> Iterator[str]:
    """Give connections, packets and bytes a second by service and server, the estimator's running average."""
    yield from ipvs.listing(stats["services"], "rate")


def json_lines(rows: dict | Iterable[dict]) -> Iterator[str]:
    """Give one JSON document: an array with a row a line, so that it streams and greps well."""
    if isinstance(rows, dict):
        yield json.dumps(rows)
        return
    before = "["
    for row in rows:
        yield before + json.dumps(row)
        before = ","
    yield "]" if before == "," else "[]"


def _outcomes(counters: dict, queue: dict | None) -> Iterator[str]:
    """Give the counters; of losses and passes only those that happened, with the name a script would use."""
    yield _count("packets seen", counters["packets"])
    yield _count("rewritten and passed on", counters["rewritten"])
    if counters.get("forwarded"):
        yield _count("sent on by DR or TUN", counters["forwarded"], "forwarded")
    for name, reason in PASSED.items():
        if counters.get(name):
            yield _count(f"passed untouched: {reason}", counters[name], name)
    losses = {**counters, **(queue or {})}
    for name, reason in DROPPED.items():
        if losses.get(name):
            yield _count(f"lost: {reason}", losses[name], name)
    if not any(losses.get(name) for name in DROPPED):
        yield "nothing was lost"
    yield _count("ICMP answers sent", counters["icmp_sent"])
    if counters.get("started_over"):
        yield _count("connections that a packet of their client's started over", counters["started_over"],
                     "started_over")
    yield _count(f"connections now (of at most {counters['connections_max']})", counters["connections"])
    for name, words in OFFLOADED.items():
        if counters.get(name):
            yield _count(words, counters[name], name)
    if queue is not None:
        yield _count("waiting in the kernel's queue", queue["waiting"])


def _count(words: str, number: int, name: str = "") -> str:
    return f"{number:>14}  {words}" + (f" ({name})" if name else "")
