"""The listings of ipvsadm 1.31, byte for byte, out of the rows that a director gives.

Everything is a generator of lines without their newline.  Server rows end in blanks: the last column is padded, too.

    listing      ipvsadm -L            connections   ipvsadm -L -c
    rules        ipvsadm -S            kernel_order, sort: in which order
"""
from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from lbq.model import AF_INET, AF_INET6, PROTOCOL_NAMES, SERVICE_FLAGS
from lbq.schedulers import FLAG_NAMES, GENERIC_FLAGS

VERSION = "IP Virtual Server version 1.2.1 (size=4096)"
FORWARD = {"nat": "Masq", "tun": "Tunnel", "dr": "Route", "local": "Local", "bypass": "Bypass"}
METHODS = {"nat": "-m", "tun": "-i", "dr": "-g"}
SELECTORS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}
CHECKSUMS = {"nocsum": "-c", "csum": "+c", "remcsum": "r+c"}
NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}
IDENTITY = ("protocol", "address", "port", "fwmark")         # of a service's row
NO_MASK = ("255.255.255.255", "128")
TRAFFIC = ("conns", "packets_in", "packets_out", "bytes_in", "bytes_out")
SCALE = ((10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G"))
BEYOND = (10**12, "T")
LONGEST_NAME = 59           # characters of address and port that the real tool keeps
BUCKETS = 256               # of the kernel's table of services
SALT = 0                    # a running kernel mixes eight bits of a pointer into the hash

Compare = Callable[[dict, dict], int]
Names = Callable[[str, int, str], str]

HEADERS = {
    "plain": ("Prot LocalAddress:Port Scheduler Flags",
              "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn"),
    "tun-info": ("Prot LocalAddress:Port Scheduler Flags",
                 "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn"),
    "thresholds": ("Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ",
                   "  -> RemoteAddress:Port"),
    "persistent-conn": ("Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ",
                        "  -> RemoteAddress:Port"),
    "stats": ("Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
              "  -> RemoteAddress:Port"),
    "rate": ("Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS",
             "  -> RemoteAddress:Port"),
}
COLUMNS: dict[str, Callable[[dict], str]] = {
    "plain": lambda server: f"{FORWARD[server['mode']]:<7} {server['weight']:<6}",
    "tun-info": lambda server: f"{FORWARD[server['mode']]:<7} {_tunnel(server):<13} {server['weight']:<6}",
    "thresholds": lambda server: f"{server['upper']:<10} {server['lower']:<10}",
    "persistent-conn": lambda server: f"{server['weight']:<9} {server['persistent']:<11}",
}
COUNTED = {"stats": "shown", "rate": "rates"}       # what the estimator's last round saw, as in the kernel


# ---- Names -----------------------------------------------------------------------------------------------


def numeric(address: str, port: int, protocol: str) -> str:
    """Return ``192.168.10.1:80`` or ``[2001:db8::1]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def resolved(address: str, port: int, protocol: str) -> str:
    """Return the same with names where address or port have one."""
    host, service = address, str(port)
    with contextlib.suppress(OSError, UnicodeError):
        host = socket.gethostbyaddr(address)[0]
    with contextlib.suppress(OSError):
        service = socket.getservbyport(port, protocol)
    return (f"[{host}]:{service}" if ":" in address else f"{host}:{service}")[:LONGEST_NAME]


def _service_name(row: dict, names: Names) -> str:
    if row["fwmark"]:
        return f"FWM  {_signed(row['fwmark'])}{' IPv6' if ':' in row['address'] else ''}"
    name = f"{row['protocol'].upper():<4} {names(row['address'], row['port'], row['protocol'])}"
    return name if ":" in row["address"] else name[:33]


def _server_name(row: dict, server: dict, names: Names) -> str:
    """Return a server's name; the ports of a mark's servers belong to no protocol."""
    name = names(server["address"], server["port"], "" if row["fwmark"] else row["protocol"])
    return name if ":" in server["address"] else name[:28]


def _signed(number: int) -> int:
    """Return what a C program prints that takes an unsigned int for an int."""
    return number - 2**32 if number >= 2**31 else number


# ---- ipvsadm -L --------------------------------------------------------------------------------------------


def listing(rows: Iterable[dict], form: str = "plain", names: Names = numeric, exact: bool = False,
            counted: str = "") -> Iterator[str]:
    """Give services and servers under the headers of *form*; *counted* names other counters than COUNTED."""
    yield from HEADERS[form]
    for row in rows:
        yield from lines(row, form, names, exact, counted)


def lines(row: dict, form: str, names: Names = numeric, exact: bool = False, counted: str = "") -> Iterator[str]:
    """Give one service's line and those of its servers."""
    if form in COUNTED:
        yield from _traffic(row, form, names, counted or COUNTED[form], exact)
        return
    yield f"{_service_name(row, names)} {row['scheduler']}{_settings(row)}"
    for server in row["servers"]:
        yield (f"  -> {_server_name(row, server, names):<28} {COLUMNS[form](server)} {server['active']:<10} "
               f"{server['inactive']:<10}")


def _traffic(row: dict, form: str, names: Names, counted: str, exact: bool) -> Iterator[str]:
    show = _exact if exact else _short
    yield f"{_service_name(row, names):<33}" + "".join(show(row[counted][name]) for name in TRAFFIC)
    plain = 3 if form == "rate" else 0              # columns that the real tool never shortens
    for server in row["servers"]:
        numbers = [server[counted][name] for name in TRAFFIC]
        yield (f"  -> {_server_name(row, server, names):<28}" + "".join(f" {number:>8}" for number in numbers[:plain])
               + "".join(map(show, numbers[plain:])))


def _settings(row: dict) -> str:
    """Return what follows the scheduler in a service's line."""
    words = []
    if (flags := flag_words(row)) is not None:
        words.append(f"({flags})")
    if "persistent" in row["flags"]:
        words.append(f"persistent {row['timeout']}")
        if row["netmask"] not in NO_MASK:
            words.append(f"mask {row['netmask']}")
        if row.get("pe"):
            words.append(f"pe {row['pe']}")
    if "ops" in row["flags"]:
        words.append("ops")
    return "".join(f" {word}" for word in words)


def flag_words(row: dict) -> str | None:
    """Return the names of a service's scheduler flags, those of its scheduler where that has its own.

    None when there are no flags; nothing is left to say when sh or mh has flag-3.
    """
    bits = sum(SERVICE_FLAGS[flag] for flag in row["flags"])
    if not any(bits & bit for bit in GENERIC_FLAGS.values()):
        return None
    names = FLAG_NAMES.get(row["scheduler"], GENERIC_FLAGS)
    return ",".join(name for name, bit in names.items() if bits & bit)


def _tunnel(server: dict) -> str:
    """Return the tunnel: its kind, the port of GUE, and whether there are checksums."""
    if server["mode"] != "tun":
        return "n/a"
    if server["tunnel"] == "ipip":
        return "ipip"
    port = f":{server['tunnel_port']}" if server["tunnel"] == "gue" else ""
    return f"{server['tunnel']}{port}:{CHECKSUMS[server['tunnel_flags']]}"


def _short(number: int) -> str:
    """Return *number* in nine characters, cut to thousands, millions … when it is large."""
    unit, suffix = next(((unit, suffix) for below, unit, suffix in SCALE if number < below), BEYOND)
    return f" {f'{number // unit}{suffix}':>8}"


def _exact(number: int) -> str:
    return f" {number:>8}"


# ---- ipvsadm -S --------------------------------------------------------------------------------------------


def rules(rows: Iterable[dict], names: Names = numeric, complete: bool = False) -> Iterator[str]:
    """Give the command lines that make *rows* again; *complete* ones, unlike the real tool's, with thresholds.

    The real tool also writes large marks as negative numbers, which it does not read.
    """
    for row in rows:
        selector = _selector(row, names, complete)
        yield f"-A {selector} -s {row['scheduler']}{_service_options(row)}"
        for server in row["servers"]:
            name = names(server["address"], server["port"], "" if row["fwmark"] else row["protocol"])
            yield (f"-a {selector} -r {name} {METHODS[server['mode']]} -w {server['weight']}"
                   f"{_tunnel_options(server)}{_thresholds(server) if complete else ''}")


def _selector(row: dict, names: Names, complete: bool) -> str:
    if row["fwmark"]:
        mark = row["fwmark"] if complete else _signed(row["fwmark"])
        return f"-f {mark}{' -6' if ':' in row['address'] else ''}"
    return f"{SELECTORS[row['protocol']]} {names(row['address'], row['port'], row['protocol'])}"


def _thresholds(server: dict) -> str:
    words = f" -x {server['upper']}" if server["upper"] else ""
    return f"{words} -y {server['lower']}" if server["lower"] else words


def _service_options(row: dict) -> str:
    words = []
    if "persistent" in row["flags"]:
        words.append(f"-p {row['timeout']}")
        if row["netmask"] not in NO_MASK:
            words.append(f"-M {row['netmask']}")
    if row.get("pe"):
        words.append(f"--pe {row['pe']}")
    if "ops" in row["flags"]:
        words.append("-o")
    if (flags := flag_words(row)) is not None:
        words.append(f"-b {flags}")
    return "".join(f" {word}" for word in words)


def _tunnel_options(server: dict) -> str:
    if server["mode"] != "tun":
        return ""
    words = f" --tun-type {server['tunnel']}"
    if server["tunnel"] == "gue":
        words += f" --tun-port {server['tunnel_port']}"
    return words if server["tunnel"] == "ipip" else f"{words} --tun-{server['tunnel_flags']}"


# ---- ipvsadm -L -c -------------------------------------------------------------------------------------------


def connections(rows: Iterable[dict], names: Names = numeric, engines: bool = False) -> Iterator[str]:
    """Give the connections with the time that each has left; *engines* adds the headers of persistence engines."""
    yield "IPVS connection entries"
    header = "pro expire state       source             virtual            destination"
    yield f"{header}        pe name          pe_data" if engines else header
    for row in rows:
        minutes, seconds = divmod(row["expires_seconds"], 60)
        source, virtual, destination = (names(row[f"{end}addr"], row[f"{end}port"], row["protocol"]) for end in "cvd")
        yield (f"{row['protocol'].upper():<3} {f'{minutes:02}:{seconds:02}':<6} {row['state']:<11} {source:<18} "
               f"{virtual:<18} {destination}")


# ---- Order -----------------------------------------------------------------------------------------------------


def kernel_order(rows: list[dict]) -> list[dict]:
    """Return services, oldest first, in the order of the kernel's table: its buckets, in each the newest first.

    The buckets of addresses come before those of marks.
    Kernel: ip_vs_ctl.c, ip_vs_svc_hashkey() and ip_vs_svc_fwm_hashkey().
    """
    def bucket(row: dict) -> tuple[bool, int]:
        if row["fwmark"]:
            return True, (row["fwmark"] ^ SALT) % BUCKETS
        folded = SALT ^ NUMBERS[row["protocol"]] ^ row["port"] ^ row["port"] >> 8
        for word in _words(row["address"]):
            folded ^= word
        return False, folded % BUCKETS

    newest_first = rows[::-1]           # and so they stay within a bucket
    return sorted(newest_first, key=bucket)


def sort(rows: list[dict]) -> list[dict]:
    """Return services, in the kernel's order, and their servers as ipvsadm sorts them."""
    return [{**row, "servers": merge_sort(row["servers"], compare_servers)}
            for row in merge_sort(rows, compare_services)]


def compare_services(one: dict, other: dict) -> int:
    """Return below, at or above 0 as ipvsadm does: by mark, family, protocol, address, port.

    Marks and addresses are subtracted as C ints, so that what is 2³¹ apart compares the wrong way round.
    """
    families = [AF_INET6 if ":" in row["address"] else AF_INET for row in (one, other)]
    return (_wrapped(one["fwmark"] - other["fwmark"]) or families[0] - families[1]
            or NUMBERS[one["protocol"]] - NUMBERS[other["protocol"]] or compare_servers(one, other))


def compare_servers(one: dict, other: dict) -> int:
    """Return below, at or above 0 as ipvsadm does: by the address, as many words as that of *one* has, and port."""
    others = [*_words(other["address"]), 0, 0, 0]
    for word, another in zip(_words(one["address"]), others, strict=False):
        if word != another:
            return _wrapped(word - another)
    return one["port"] - other["port"]


def merge_sort(things: list[dict], compare: Compare) -> list[dict]:
    """Return *things* sorted as glibc's qsort does, which shows when *compare* contradicts itself."""
    if len(things) < 2:
        return things
    middle = len(things) // 2
    left, right = (deque(merge_sort(part, compare)) for part in (things[:middle], things[middle:]))
    merged = []
    while left and right:
        merged.append((left if compare(left[0], right[0]) <= 0 else right).popleft())
    return [*merged, *left, *right]


def _words(address: str) -> list[int]:
    packed = socket.inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    return [int.from_bytes(packed[at:at + 4]) for at in range(0, len(packed), 4)]


def _wrapped(difference: int) -> int:
    return (difference + 2**31) % 2**32 - 2**31
