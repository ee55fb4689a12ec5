"""What ``/proc/net/ip_vs*`` would say of a director, byte for byte: ``lbq proc ip_vs|ip_vs_conn|ip_vs_stats``.

Kernel: ip_vs_ctl.c, ip_vs_info_seq_show() and ip_vs_stats_show(); ip_vs_conn.c, ip_vs_conn_seq_show().
Numbers are hexadecimal but for times, weights and connections; the time of persistence is in jiffies.
"""
from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

from lbq.model import AF_INET, AF_INET6
from lbq.show.ipvs import FORWARD, TRAFFIC, VERSION

JIFFIES = 100           # a second; the kernel that answers were compared with has CONFIG_HZ=100


def services(rows: Iterable[dict]) -> Iterator[str]:
    """Give services, in the kernel's order, and their servers, newest first."""
    yield VERSION
    yield "Prot LocalAddress:Port Scheduler Flags"
    yield "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn"
    for row in rows:
        yield f"{_name(row)} {row['scheduler']} {_flags(row)}{_persistence(row)}"
        for server in row["servers"]:
            yield (f"  -> {_endpoint(server)}      {FORWARD[server['mode']]:<7} {server['weight']:<6} "
                   f"{server['active']:<10} {server['inactive']:<10}")


def _name(row: dict) -> str:
    return f"FWM  {row['fwmark']:08X}" if row["fwmark"] else f"{row['protocol'].upper()}  {_endpoint(row)}"


def _flags(row: dict) -> str:
    """Return one-packet scheduling, which services of IPv6 addresses do not show, and the blank that IPv4 has more."""
    ops = "ops " if "ops" in row["flags"] else ""
    if row["fwmark"]:
        return ops
    return "" if ":" in row["address"] else f"{ops} "


def _persistence(row: dict) -> str:
    if "persistent" not in row["flags"]:
        return ""
    mask = row["netmask"]
    number = int.from_bytes(socket.inet_aton(mask)) if "." in mask else int(mask) << 24
    return f"persistent {row['timeout'] * JIFFIES} {number:08X}"


def connections(rows: Iterable[dict]) -> Iterator[str]:
    """Give connections with the seconds that each has left."""
    yield "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData"
    for row in rows:
        ends = " ".join(f"{_address(row[f'{end}addr'])} {row[f'{end}port']:04X}" for end in "cvd")
        yield f"{row['protocol'].upper():<3} {ends} {row['state']:<11} {row['expires_seconds']:7}"


def statistics(total: dict) -> Iterator[str]:
    """Give what was counted altogether, as of the estimator's last round, and what comes in a second."""
    yield "   Total Incoming Outgoing         Incoming         Outgoing"
    yield "   Conns  Packets  Packets            Bytes            Bytes"
    yield _numbers(total["shown"])
    yield ""
    yield " Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s"
    yield _numbers(total["rates"])


def _numbers(counted: dict) -> str:
    numbers = [counted[name] for name in TRAFFIC]
    return " ".join(f"{number:{width}X}" for number, width in zip(numbers, (8, 8, 8, 16, 16), strict=True))


def _endpoint(row: dict) -> str:
    address = _address(row["address"])
    return f"[{address}]:{row['port']:04X}" if ":" in address else f"{address}:{row['port']:04X}"


def _address(text: str) -> str:
    if ":" not in text:
        return socket.inet_pton(AF_INET, text).hex().upper()
    return socket.inet_pton(AF_INET6, text).hex(":", 2)
