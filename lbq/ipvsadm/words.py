"""The language of ipvsadm 1.31: which commands and options there are, what values they take, what goes with what.

    parse(["-A", "-t", "192.168.10.1:80", "-s", "rr"])   ->   Command

The order in which mistakes are found is part of the language, because only the first is told:

    1. the first option must be a command                    the hint, exit 255
    2. each option and its value, from left to right         exit 2; what is no option, exit 255
    3. words too many, then scheduler flags                  exit 2
    4. which options the command takes, in ORDER             exit 2
    5. what goes with what                                   exit 2

Values mean what C's library makes of them: ``strtol`` for numbers, ``inet_aton`` for addresses (192.168.1 is
192.168.0.1), and names are looked up.

Nothing here speaks to a director, or prints.
"""
from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from lbq.grammar import format_address
from lbq.ipvsadm.popt import OPTIONAL, VALUE, Option, Reader, Unreadable
from lbq.model import (
    AF_INET,
    AF_INET6,
    CSUM,
    DR,
    GRE,
    GUE,
    IPIP,
    MODE_NAMES,
    NAT,
    NOCSUM,
    OPS,
    PERSISTENT,
    PROTOCOL_NAMES,
    REMCSUM,
    SCTP,
    SERVICE_FLAGS,
    TCP,
    TUN,
    TUNNEL_FLAG_NAMES,
    TUNNEL_NAMES,
    UDP,
    ServiceKey,
)
from lbq.schedulers import DEFAULT, FLAG_NAMES, GENERIC_FLAGS

MOST_SECONDS = 31 * 24 * 3600       # of -p and --set
BARE_PERSISTENCE = 360              # seconds, when -p says none
INT_MAX = 2**31 - 1
SHORT_NAME = 15                     # bytes that the kernel keeps of the name of a scheduler, engine or device
ALL_ONES = 0xFFFFFFFF
V6_BITS = 128

COMMANDS = {
    "add-service": Option("A", "add-service"), "edit-service": Option("E", "edit-service"),
    "delete-service": Option("D", "delete-service"), "flush": Option("C", "clear"),
    "add-server": Option("a", "add-server"), "edit-server": Option("e", "edit-server"),
    "delete-server": Option("d", "delete-server"), "list": Option("L", "list"), "list ": Option("l", ""),
    "zero": Option("Z", "zero"), "restore": Option("R", "restore"), "save": Option("S", "save"),
    "set": Option("", "set"), "start-daemon": Option("", "start-daemon", VALUE),
    "stop-daemon": Option("", "stop-daemon", VALUE), "help": Option("h", "help"), "version": Option("v", "version"),
}
# In the order in which the real tool looks whether they are allowed.  Options of one name exclude each other.
ORDER = {
    "numeric": [Option("n", "numeric")],
    "connection": [Option("c", "connection")],
    "service-address": [Option("t", "tcp-service", VALUE), Option("u", "udp-service", VALUE),
                        Option("", "sctp-service", VALUE), Option("f", "fwmark-service", VALUE)],
    "scheduler": [Option("s", "scheduler", VALUE)],
    "persistent": [Option("p", "persistent", OPTIONAL)],
    "netmask": [Option("M", "netmask", VALUE)],
    "real-server": [Option("r", "real-server", VALUE)],
    "forwarding-method": [Option("g", "gatewaying"), Option("m", "masquerading"), Option("i", "ipip")],
    "weight": [Option("w", "weight", VALUE)],
    "u-threshold": [Option("x", "u-threshold", VALUE)],
    "l-threshold": [Option("y", "l-threshold", VALUE)],
    "mcast-interface": [Option("", "mcast-interface", VALUE)],
    "timeout": [Option("", "timeout")],
    "daemon": [Option("", "daemon")],
    "stats": [Option("", "stats")],
    "rate": [Option("", "rate")],
    "thresholds": [Option("", "thresholds")],
    "persistent-conn": [Option("", "persistent-conn")],
    "nosort": [Option("", "nosort")],
    "syncid": [Option("", "syncid", VALUE)],
    "exact": [Option("X", "exact")],
    "ops": [Option("o", "ops")],
    "pe": [Option("", "pe", VALUE)],
    "sched-flags": [Option("b", "sched-flags", VALUE)],
    "mcast-group": [Option("", "mcast-group", VALUE)],
    "mcast-port": [Option("", "mcast-port", VALUE)],
    "mcast-ttl": [Option("", "mcast-ttl", VALUE)],
    "sync-maxlen": [Option("", "sync-maxlen", VALUE)],
    "tun-info": [Option("", "tun-info")],
    "tun-type": [Option("", "tun-type", VALUE)],
    "tun-port": [Option("", "tun-port", VALUE)],
    "tun-nocsum": [Option("", "tun-nocsum")],
    "tun-csum": [Option("", "tun-csum")],
    "tun-remcsum": [Option("", "tun-remcsum")],
}
UNCOUNTED = (Option("", "sort"), Option("6", "ipv6"))       # may be said often, and with every command
EVERYTHING = [*COMMANDS.values(), *(option for options in ORDER.values() for option in options), *UNCOUNTED]
NAME_OF = {option: name for name, options in ORDER.items() for option in options}
COMMAND_OF = {option: name.strip() for name, option in COMMANDS.items()}

SERVICE_SETTINGS = {"scheduler", "persistent", "netmask", "ops", "pe", "sched-flags"}
SERVER_SETTINGS = {"forwarding-method", "weight", "u-threshold", "l-threshold", "tun-type", "tun-port", "tun-nocsum",
                   "tun-csum", "tun-remcsum"}
FORMATS = {"stats", "rate", "thresholds", "persistent-conn", "tun-info"}
DAEMON_SETTINGS = {"syncid", "mcast-interface", "mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen"}
# command: what it needs, what it may have besides, what it may have one of
LEGAL: dict[str, tuple[set, set, set]] = {
    "add-service": ({"service-address"}, SERVICE_SETTINGS, set()),
    "edit-service": ({"service-address"}, SERVICE_SETTINGS, set()),
    "delete-service": ({"service-address"}, set(), set()),
    "flush": (set(), set(), set()),
    "list": (set(), {"numeric", "nosort", "exact", "syncid"} | FORMATS,
             {"connection", "service-address", "timeout", "daemon"}),
    "add-server": ({"service-address", "real-server"}, SERVER_SETTINGS, set()),
    "edit-server": ({"service-address", "real-server"}, SERVER_SETTINGS, set()),
    "delete-server": ({"service-address", "real-server"}, set(), set()),
    "set": (set(), set(), set()),
    "start-daemon": (set(), DAEMON_SETTINGS, set()),
    "stop-daemon": (set(), {"syncid"}, set()),
    "restore": (set(), set(), set()),
    "save": (set(), {"numeric"}, set()),
    "zero": (set(), {"service-address"}, set()),
}
PROTOCOLS = {"tcp-service": TCP, "udp-service": UDP, "sctp-service": SCTP}
METHODS = {"gatewaying": DR, "masquerading": NAT, "ipip": TUN}
TUNNELS = {name: number for number, name in TUNNEL_NAMES.items()}
CHECKSUMS = {"tun-nocsum": NOCSUM, "tun-csum": CSUM, "tun-remcsum": REMCSUM}
# The same for the kinds of tunnel.
LEGAL_TUNNEL: dict[int, tuple[set, set, set]] = {
    IPIP: (set(), {"tun-type"}, set()),
    GUE: ({"tun-port"}, {"tun-type"}, set(CHECKSUMS)),
    GRE: (set(), {"tun-type"}, {"tun-nocsum", "tun-csum"}),
}
TUNNEL_OPTIONS = ("tun-type", "tun-port", *CHECKSUMS)


class Mistake(Exception):
    """Ends the program, a restore too: one line of *args* on standard error, and *status*."""

    status = 2


class Hint(Mistake):
    """The first word is no command: the line that points to the help."""

    status = 255


@dataclass
class Command:
    """One command line that can be carried out."""

    name: str = ""
    said: set[str] = field(default_factory=set)     # names of ORDER
    role: str = ""                                  # master or backup, of the sync daemon
    # The service.
    protocol: int = 0
    address: int = 0
    port: int = 0
    family: int = 0
    fwmark: int = 0
    scheduler: str = ""
    flags: int = 0
    persistent_seconds: int = 0
    netmask: int = ALL_ONES
    engine: str = ""                                # persistence engine
    flag_words: str | None = None
    # The real server.
    server_address: int = 0
    server_port: int = 0
    typed_port: int = 0                             # DR and TUN servers get the service's, whatever is typed
    server_family: int = 0
    mode: int = DR
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel: int = IPIP
    tunnel_port: int = 0
    checksum: int = NOCSUM
    # The rest.
    seconds: tuple[int, ...] = ()                   # of --set: tcp, tcpfin, udp

    def key(self) -> ServiceKey:
        """Return what names the service."""
        if self.fwmark:
            return ServiceKey(TCP, 0, 0, self.family, self.fwmark)
        return ServiceKey(self.protocol, self.address, self.port, self.family)

    def service(self) -> dict:
        """Return the service as a row of the director's listing."""
        key = self.key()
        mask = format_address(self.netmask) if key.family == AF_INET else str(self.netmask)
        return {"protocol": PROTOCOL_NAMES[key.protocol], "address": format_address(key.address, key.family),
                "port": key.port, "fwmark": key.fwmark, "scheduler": self.scheduler,
                "flags": [name for name, bit in SERVICE_FLAGS.items() if self.flags & bit],
                "timeout": self.persistent_seconds, "netmask": mask, "pe": self.engine}

    def server(self) -> dict:
        """Return the real server as a row of the director's listing."""
        return {"address": format_address(self.server_address, self.server_family), "port": self.server_port,
                "mode": MODE_NAMES[self.mode], "weight": self.weight, "upper": self.upper, "lower": self.lower,
                "tunnel": TUNNEL_NAMES[self.tunnel], "tunnel_port": self.tunnel_port,
                "tunnel_flags": TUNNEL_FLAG_NAMES[self.checksum]}


def parse(words: list[str]) -> Command:
    """Return what *words* say; raise Mistake, Hint, or popt's Unreadable for a word after the command."""
    reader = Reader(EVERYTHING, words)
    options = iter(reader)
    command = _command(options)
    if command.name in ("help", "version"):
        return command
    for option, value in options:
        if option in COMMAND_OF:
            raise Mistake(f"invalid option `{reader.last_word}'")
        if option in NAME_OF:
            _say_once(command, NAME_OF[option])
        read = READERS.get(option.long)
        if read is not None:
            read(command, option, value)
    _read_plain(command, reader.plain)
    if command.flag_words is not None:
        command.flags |= _scheduler_flags(command.flag_words, command.scheduler)
    _check_legal(command.said, ORDER, LEGAL[command.name], f"'{command.name}' command")
    _check_together(command)
    return command


def _command(options) -> Command:
    """Return a command of the first option's name."""
    try:
        option, value = next(options)
        name = COMMAND_OF[option]
    except (Unreadable, StopIteration, KeyError):
        raise Hint from None
    command = Command(name)
    if option.takes == VALUE:
        if value not in ("master", "backup"):
            raise Mistake("illegal start-daemon parameter specified" if name == "start-daemon"
                          else "illegal start_daemon specified")
        command.role = value
    return command


def _say_once(command: Command, name: str) -> None:
    if name in command.said:
        raise Mistake(f"multiple '{name}' options specified")
    command.said.add(name)


def _read_plain(command: Command, plain: list[str]) -> None:
    """Take the plain words that --set wants; there must be no other."""
    if command.name == "set":
        if len(plain) < 3:
            raise Mistake("--set option requires 3 timeout values")
        command.seconds = tuple(_seconds(word, 0) for word in plain[:3])
        plain = plain[3:]
    if plain:
        raise Mistake(f"unexpected argument {plain[0]}")


def _check_legal(said: set[str], names: Iterable[str], legal: tuple[set, set, set], what: str) -> None:
    """Raise for the first of *names* that is missing, or *said* and not *legal* with *what*."""
    needed, allowed, one_of = legal
    first = None
    for name in names:
        if name not in said:
            if name in needed:
                raise Mistake(f"You need to supply the '{name}' option for the {what}")
        elif name in one_of:
            if first is not None:
                raise Mistake(f"The option '{name}' conflicts with the '{first}' option in the {what}")
            first = name
        elif name not in needed and name not in allowed:
            raise Mistake(f"Illegal '{name}' option with the {what}")


def _check_together(command: Command) -> None:
    said = command.said
    if command.name in ("add-service", "edit-service"):
        if not command.fwmark and not command.port and not command.flags & PERSISTENT:
            raise Mistake("Zero port specified for non-persistent service")
        if command.flags & OPS and not command.fwmark and command.protocol != UDP:
            raise Mistake("One-Packet Scheduling is only for UDP virtual services")
        command.scheduler = command.scheduler or DEFAULT
    elif command.name in ("add-server", "edit-server"):
        _check_server(command)
    elif command.name == "list":
        elsewhere = said & {"timeout", "daemon"}
        if ((elsewhere or "connection" in said) and said & {"stats", "rate", "thresholds"}) or (
                elsewhere and "persistent-conn" in said):
            raise Mistake("options conflicts in the list command")


def _check_server(command: Command) -> None:
    if not command.fwmark and command.mode != NAT:      # DR and TUN leave ports alone
        command.server_port = command.port
    if command.server_family != command.family and command.mode != TUN:
        raise Mistake("Different address family is allowed only for tunneling servers")
    if command.mode == TUN:
        _check_legal(command.said, TUNNEL_OPTIONS, LEGAL_TUNNEL[command.tunnel],
                     f"'{TUNNEL_NAMES[command.tunnel]}' tunnel type")
    elif not command.said.isdisjoint(TUNNEL_OPTIONS):
        raise Mistake("Tunnel options conflict with forward method")


# ---- One option and its value --------------------------------------------------------------------------


def _read_service(command: Command, option: Option, value: str) -> None:
    command.protocol = PROTOCOLS[option.long]
    found = parse_endpoint(value, command.protocol)
    if found is None:
        raise Mistake("illegal virtual server address[:port] specified")
    command.family, command.address, port = found
    command.port = port or 0
    if command.family == AF_INET6:
        command.netmask = V6_BITS


def _read_fwmark(command: Command, option: Option, value: str) -> None:
    number = strtol(value, 1, ALL_ONES)
    if number is None:
        raise Mistake(f"invalid fwmark value `{value}' specified")
    command.protocol, command.family, command.fwmark = TCP, AF_INET, number


def _read_ipv6(command: Command, option: Option, value: None) -> None:
    if not command.fwmark:
        raise Mistake("-6 used before -f\n")
    command.family, command.netmask = AF_INET6, V6_BITS


def _read_scheduler(command: Command, option: Option, value: str) -> None:
    command.scheduler = value[:SHORT_NAME]


def _read_engine(command: Command, option: Option, value: str) -> None:
    command.engine = value[:SHORT_NAME]


def _read_persistent(command: Command, option: Option, value: str | None) -> None:
    command.flags |= PERSISTENT
    command.persistent_seconds = BARE_PERSISTENCE if value is None else _seconds(value, 1)


def _read_netmask(command: Command, option: Option, value: str) -> None:
    if command.family == AF_INET6:
        command.netmask = _atoi(value)
        if not 1 <= command.netmask <= V6_BITS:
            raise Mistake("illegal ipv6 netmask specified")
        return
    mask = _ipv4_address(value)
    if mask is None:
        raise Mistake("illegal virtual server persistent mask specified")
    command.netmask = mask


def _read_ops(command: Command, option: Option, value: None) -> None:
    command.flags |= OPS


def _read_flags(command: Command, option: Option, value: str) -> None:
    command.flag_words = value


def _read_server(command: Command, option: Option, value: str) -> None:
    found = parse_endpoint(value, command.protocol)
    if found is None:
        raise Mistake("illegal real server address[:port] specified")
    command.server_family, command.server_address, port = found
    command.server_port = command.typed_port = command.port if port is None else port


def _read_method(command: Command, option: Option, value: None) -> None:
    command.mode = METHODS[option.long]


def _read_tunnel(command: Command, option: Option, value: str) -> None:
    if value not in TUNNELS:
        raise Mistake("illegal tunnel type specified")
    command.tunnel = TUNNELS[value]


def _read_checksum(command: Command, option: Option, value: None) -> None:
    command.checksum = CHECKSUMS[option.long]


def _read_group(command: Command, option: Option, value: str) -> None:
    family, kind = (AF_INET6, "IPv6") if ":" in value else (AF_INET, "IPv4")
    try:
        first = socket.inet_pton(family, value)[0]
    except (OSError, ValueError):
        first = 0
    if first != 0xFF and not (family == AF_INET and first >> 4 == 0xE):
        raise Mistake(f"invalid {kind} mcast-group `{value}'")


def _number(attribute: str, words: str, least: int, most: int):
    """Return the reader of a number that is *words* when it is illegal; without an *attribute* it is only checked."""
    def read(command: Command, option: Option, value: str) -> None:
        number = strtol(value, least, most)
        if number is None:
            raise Mistake(f"illegal {words} specified")
        if attribute:
            setattr(command, attribute, number)

    return read


READERS = {
    **dict.fromkeys(PROTOCOLS, _read_service), "fwmark-service": _read_fwmark, "ipv6": _read_ipv6,
    "scheduler": _read_scheduler, "persistent": _read_persistent, "netmask": _read_netmask, "ops": _read_ops,
    "pe": _read_engine, "sched-flags": _read_flags, "real-server": _read_server,
    **dict.fromkeys(METHODS, _read_method), "weight": _number("weight", "weight", 0, INT_MAX),
    "u-threshold": _number("upper", "u_threshold", 0, INT_MAX),
    "l-threshold": _number("lower", "l_threshold", 0, INT_MAX),
    "tun-type": _read_tunnel, "tun-port": _number("tunnel_port", "tunnel port", 1, 65535),
    **dict.fromkeys(CHECKSUMS, _read_checksum),
    "syncid": _number("", "syncid", 0, 255), "sync-maxlen": _number("", "sync-maxlen", 1, 65507),
    "mcast-port": _number("", "mcast-port", 1, 65535),
    "mcast-ttl": _number("", "mcast-ttl", 1, 255), "mcast-group": _read_group,
}


def _scheduler_flags(words: str, scheduler: str) -> int:
    """Return the bits of the flags in *words*, which are checked against the scheduler's name only."""
    flags = 0
    for word in filter(None, words.split(",")):
        if word in GENERIC_FLAGS:
            flags |= GENERIC_FLAGS[word]
            continue
        owner = next((owner for owner, names in FLAG_NAMES.items() if word in names), None)
        if owner is None:
            raise Mistake(f"invalid scheduler flag `{word}'")
        if owner != scheduler:
            raise Mistake(f"incompatible scheduler flag `{word}'")
        flags |= FLAG_NAMES[owner][word]
    return flags


# ---- Values as C reads them ------------------------------------------------------------------------------


def strtol(text: str, least: int, most: int) -> int | None:
    """Return the decimal number that *text* is, from *least* to *most*, else None."""
    if re.fullmatch(r"[ \t\n\v\f\r]*[+-]?[0-9]+", text) is None:
        return None
    number = int(text)
    return number if least <= number <= most else None


def _atoi(text: str) -> int:
    """Return the number that *text* begins with, as wide as a C int."""
    found = re.match(r"[ \t\n\v\f\r]*[+-]?[0-9]+", text)
    number = min(max(int(found[0]), -2**63), 2**63 - 1) if found else 0
    return (number + 2**31) % 2**32 - 2**31


def _seconds(text: str, least: int) -> int:
    number = strtol(text, least, MOST_SECONDS)
    if number is None:
        raise Mistake(f"invalid timeout value `{text}' specified")
    return number


def parse_endpoint(text: str, protocol: int) -> tuple[int, int, int | None] | None:
    """Return (family, address, port or None) of ``host[:port]``, or None when it is nothing of the kind."""
    if not text or re.fullmatch("[0-9]+", text):
        return None
    host, port = text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            return None
        port = rest[1:]
    address = _ipv6_address(host)
    family = AF_INET6
    if address is None:
        host, colon, last = host.rpartition(":") if ":" in host else (host, "", "")
        port = last if colon else None          # what stood after a bracket is forgotten
        family, address = AF_INET, _ipv4_address(host)
        if address is None:
            return None
    if port is None:
        return family, address, None
    number = _port(port, protocol)
    return None if number is None else (family, address, number)


def _port(text: str, protocol: int) -> int | None:
    number = strtol(text, 0, 65535)
    if number is None:
        try:
            number = socket.getservbyname(text, PROTOCOL_NAMES.get(protocol, ""))
        except (OSError, ValueError):
            return None
    return number


def _ipv6_address(text: str) -> int | None:
    try:
        return int.from_bytes(socket.inet_pton(AF_INET6, text))
    except (OSError, ValueError):
        return None


def _ipv4_address(text: str) -> int | None:
    """Return the IPv4 address that *text* is or names, or None."""
    try:
        return int.from_bytes(socket.inet_aton(text))
    except (OSError, ValueError):
        pass
    try:
        found = socket.getaddrinfo(text.encode(errors="surrogateescape"), None, AF_INET, socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    return int.from_bytes(socket.inet_aton(found[0][4][0])) if text else None
