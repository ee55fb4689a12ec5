"""Tables for the terminal, in the columns an LVS person knows from ``ipvsadm -L -n``.

Every function gives lines, one after the other, so that a listing of any length streams.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from lbq.losses import DROPPED, PASSED
from lbq.model import SERVICE_FLAGS
from lbq.schedulers import flag_names

FORWARD = {"nat": "Masq", "tun": "Tunnel", "dr": "Route", "local": "Local"}
CHECKSUMS = {"nocsum": "-c", "csum": "+c", "remcsum": "r+c"}
SCALE = ((10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G"),
         (10**99, 10**12, "T"))
OWN_FLAGS = ("end-deleted", "move-quiesced", "ops-replies")     # what ipvsadm does not know
TRAFFIC = ("conns", "packets_in", "packets_out", "bytes_in", "bytes_out")


def services(rows: Iterable[dict]) -> Iterator[str]:
    """Give the virtual services and their real servers, newest server first."""
    yield "Prot LocalAddress:Port Scheduler Flags"
    yield "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn"
    yield from _listing(rows, lambda server: f"{FORWARD[server['mode']]:<7} {server['weight']:<6}")


def thresholds(rows: Iterable[dict]) -> Iterator[str]:
    """Give the thresholds of every real server, and say which are full: they get nothing new."""
    yield "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn"
    yield "  -> RemoteAddress:Port"
    yield from _listing(rows, lambda server: f"{server['upper']:<10} {server['lower']:<10}",
                        lambda server: "  full" if server.get("overloaded") else "")


def persistent(rows: Iterable[dict]) -> Iterator[str]:
    """Give the number of clients that are bound to every real server."""
    yield "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn"
    yield "  -> RemoteAddress:Port"
    yield from _listing(rows, lambda server: f"{server['weight']:<9} {server['persistent']:<11}")


def tunnels(rows: Iterable[dict]) -> Iterator[str]:
    """Give the kind of tunnel to every real server."""
    yield "Prot LocalAddress:Port Scheduler Flags"
    yield "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn"
    yield from _listing(rows, lambda server: f"{FORWARD[server['mode']]:<7} {_tunnel(server):<13} "
                                             f"{server['weight']:<6}")


def _listing(rows: Iterable[dict], columns: Callable[[dict], str],
             remark: Callable[[dict], str] = lambda server: "") -> Iterator[str]:
    """Give services and servers, with *columns* of a server between its name and its connections, and a *remark*."""
    for row in rows:
        yield f"{_service(row)} {row['scheduler']}{_flags(row)}"
        for server in row["servers"]:
            yield (f"  -> {_endpoint(server):<28} {columns(server)} {server['active']:<10} {server['inactive']}"
                   + remark(server))


def _tunnel(server: dict) -> str:
    """Return the tunnel as ipvsadm writes it: its kind, the port of GUE, and whether there are checksums."""
    if server["mode"] != "tun":
        return "n/a"
    if server["tunnel"] == "ipip":
        return "ipip"
    port = f":{server['tunnel_port']}" if server["tunnel"] == "gue" else ""
    return f"{server['tunnel']}{port}:{CHECKSUMS[server['tunnel_flags']]}"


def connections(rows: Iterable[dict]) -> Iterator[str]:
    """Give the connections with the time that each has left."""
    yield "pro expire state       source             virtual            destination"
    for row in rows:
        minutes, seconds = divmod(row["expires_seconds"], 60)
        client, virtual, server = (_name(row[f"{end}addr"], row[f"{end}port"]) for end in "cvd")
        yield (f"{row['protocol'].upper():<3} {f'{minutes:02}:{seconds:02}':<6} {row['state']:<11} "
               f"{client:<18} {virtual:<18} {server}")


def statistics(stats: dict) -> Iterator[str]:
    """Give traffic by service and server, then what became of all packets, in words."""
    yield "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes"
    yield "  -> RemoteAddress:Port"
    yield from _traffic_lines(stats["services"], "stats")
    yield ""
    yield from _outcomes(stats["counters"], stats["queue"])


def rates(stats: dict) -> Iterator[str]:
    """Give connections, packets and bytes a second by service and server, the estimator's running average."""
    yield "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS"
    yield "  -> RemoteAddress:Port"
    yield from _traffic_lines(stats["services"], "rates")


def _traffic_lines(rows: Iterable[dict], what: str) -> Iterator[str]:
    for row in rows:
        yield f"{_service(row):<33}{_traffic(row[what])}"
        for server in row["servers"]:
            yield f"  -> {_endpoint(server):<28}{_traffic(server[what])}"


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
    if queue is not None:
        yield _count("waiting in the kernel's queue", queue["waiting"])


def _service(row: dict) -> str:
    """Return what names a service, as ipvsadm writes it."""
    if row["fwmark"]:
        return f"FWM  {row['fwmark']}" + (" IPv6" if row["family"] == "inet6" else "")
    return f"{row['protocol'].upper():<4} {_endpoint(row)}"


def _flags(row: dict) -> str:
    """Return a service's flags in the order of ipvsadm."""
    words = ["ops"] if "ops" in row["flags"] else []
    if "persistent" in row["flags"]:
        words.append(f"persistent {row['timeout']}")
        if str(row["netmask"]) not in ("255.255.255.255", "128"):
            words.append(f"mask {row['netmask']}")
    names = [name for name, bit in flag_names(row["scheduler"]).items()
             if any(SERVICE_FLAGS[flag] == bit for flag in row["flags"])]
    if names:
        words.append(f"({','.join(names)})")
    words += [flag for flag in OWN_FLAGS if flag in row["flags"]]
    if row.get("idle"):
        words.append(f"idle {row['idle']}")
    return "".join(" " + word for word in words)


def _count(words: str, number: int, name: str = "") -> str:
    return f"{number:>14}  {words}" + (f" ({name})" if name else "")


def _traffic(stats: dict) -> str:
    return "".join(f" {_short(stats[name]):>8}" for name in TRAFFIC)


def _short(number: int) -> str:
    """Return *number* in at most eight characters up to 100 trillion, with ipvsadm's suffixes."""
    unit, suffix = next((unit, suffix) for below, unit, suffix in SCALE if number < below)
    return f"{number // unit}{suffix}"


def _endpoint(row: dict) -> str:
    return _name(row["address"], row["port"])


def _name(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
