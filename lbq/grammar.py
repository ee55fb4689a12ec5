"""The words people type: SERVICE, RIP[:PORT][,SETTING=VALUE]..., and how they are written back.

    SERVICE   [tcp:|udp:|sctp:]VIP:PORT    tcp when nothing is said; PORT 0 is every port
              fwmark:N, fwmark:N/6         all IPv4, all IPv6 packets with a firewall mark
    SERVER    RIP[:PORT][,SETTING=VALUE]   the service's port when none is said
    SETTING   weight, mode (nat dr tun), upper, lower, tunnel (ipip gue gre), tunnel-port, tunnel-csum (no yes remcsum)

An IPv6 address stands in brackets, ``[2001:db8::1]:80``, wherever a port may follow: without them
``2001:db8::1:80`` would be an address of its own.  ``lbq realserver`` and the like take it either way.

Every mistake raises ConfigError with one line that says what was typed and what would be right.
Addresses are numbers: a name could mean another machine tomorrow, and looking it up could hang.
"""
from __future__ import annotations

import socket
from typing import NamedTuple

from lbq.errors import ConfigError
from lbq.model import (
    AF_INET,
    AF_INET6,
    CSUM,
    DR,
    GRE,
    GUE,
    IPIP,
    NAT,
    NOCSUM,
    PROTOCOL_NAMES,
    REMCSUM,
    SCTP,
    TCP,
    TUN,
    UDP,
    ServiceKey,
)

PROTOCOLS = {PROTOCOL_NAMES[number]: number for number in (TCP, UDP, SCTP)}
DEFAULT_WEIGHT = 1
MAX_WEIGHT = 2**31 - 1      # the kernel keeps a weight in a C int; so does ipvsadm since Debian's 1.31
MAX_MARK = 2**32 - 1
LINK_LOCAL = 0xFE80 >> 6    # the first ten bits of fe80::/10
VERSIONS = {"4": AF_INET, "6": AF_INET6}
MODES = {"nat": NAT, "dr": DR, "tun": TUN}
TUNNELS = {"ipip": IPIP, "gue": GUE, "gre": GRE}
CHECKSUMS = {"no": NOCSUM, "yes": CSUM, "remcsum": REMCSUM}
VALUES = {"mode": MODES, "tunnel": TUNNELS, "tunnel-csum": CHECKSUMS}     # of settings that are words
SETTINGS = ("weight", "mode", "upper", "lower", "tunnel", "tunnel-port", "tunnel-csum")


class ServerWords(NamedTuple):
    """What ``RIP[:PORT][,SETTING=VALUE]...`` says; a setting is None when nothing is said about it."""

    address: int
    port: int
    family: int
    weight: int | None = None
    mode: int | None = None
    upper: int | None = None
    lower: int | None = None
    tunnel: int | None = None
    tunnel_port: int | None = None
    tunnel_csum: int | None = None

    def says_something(self) -> bool:
        """Return True when there is a setting."""
        return any(getattr(self, name) is not None for name in SERVER_SETTINGS)

    def place(self) -> tuple[int, int, int]:
        """Return what names it under its service: address, port and family."""
        return self.address, self.port, self.family


SERVER_SETTINGS = ServerWords._fields[3:]


def parse_service(text: str, protocol: str | None = None) -> ServiceKey:
    """Return the service that *text* names; *protocol* replaces the default, tcp."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix.lower() == "fwmark":
        mark, slash, version = rest.partition("/")
        if slash and version not in VERSIONS:
            raise ConfigError(f"'{text}': after the slash comes 4 or 6, the IP version of the packets")
        return ServiceKey(TCP, 0, 0, VERSIONS[version or "4"], parse_number(mark, "firewall mark", 1, MAX_MARK))
    if colon and prefix.lower() in PROTOCOLS:
        if protocol not in (None, prefix.lower()):
            raise ConfigError(f"'{text}' says {prefix.lower()}, the options say {protocol}; say it once")
        protocol, text = prefix.lower(), rest
    elif colon and prefix.isalpha() and ":" in rest:
        raise ConfigError(f"unknown protocol '{prefix}'{did_you_mean(prefix, PROTOCOLS)}; "
                          f"lbq has {', '.join(PROTOCOLS)}")
    address, port = split_endpoint(text)
    if port is None:
        raise ConfigError(f"'{text}' has no port; write VIP:PORT, such as 192.168.10.1:80 or [2001:db8::1]:80")
    vip, family = parse_balanced_address(address)
    return ServiceKey(PROTOCOLS[protocol or "tcp"], vip, 0 if port == "0" else parse_port(port), family)


def parse_server(text: str, service: ServiceKey) -> ServerWords:
    """Return the real server that *text* names under *service*, which it must not be itself."""
    endpoint, *settings = text.split(",")
    address, port = split_endpoint(endpoint)
    rip, family = parse_balanced_address(address)
    server = ServerWords(rip, service.port if port is None else parse_port(port), family, **_parse_settings(settings))
    if server.place() == (service.address, service.port, service.family):
        raise ConfigError(f"'{text}' is the virtual service {format_service(service)} itself; "
                          "a real server needs another address or port")
    return server


def check_server(server: ServerWords, service: ServiceKey, mode: int) -> None:
    """Raise ConfigError for settings that do not go together, *mode* being how the server is reached."""
    if mode != TUN and server.family != service.family:
        raise ConfigError(f"real server {format_endpoint(*server.place())} is not of the service's IP version, and "
                          "only tun can change that; say mode=tun, or give the server's other address")
    if mode != NAT and not service.fwmark and server.port != service.port:
        raise ConfigError(f"real server port {server.port} is not the service's port {service.port}, and only nat "
                          "can change ports; leave the port away, or say mode=nat")
    if (server.lower or 0) > (server.upper or 0):
        raise ConfigError(f"lower={server.lower} is above upper={server.upper or 0}; a server that is full at upper "
                          "connections is free again below lower")
    if server.tunnel == GUE and not server.tunnel_port:
        raise ConfigError("tunnel=gue needs tunnel-port=N, the UDP port that the real server listens on")


def parse_netmask(text: str, family: int = AF_INET) -> int:
    """Return a netmask as the engine takes it: 32 bits for IPv4, a prefix length for IPv6.

    For IPv4 *text* is like ``255.255.255.0`` or a prefix length such as 24.
    """
    if family == AF_INET6:
        return parse_number(text, "netmask of an IPv6 service", 1, 128)
    if text.isascii() and text.isdigit() and len(text) <= 2:
        if not 1 <= int(text) <= 32:
            raise ConfigError(f"netmask '{text}' is not a prefix length from 1 to 32")
        return 0xFFFFFFFF << 32 - int(text) & 0xFFFFFFFF
    try:
        mask = int.from_bytes(socket.inet_pton(AF_INET, text))
    except (OSError, UnicodeEncodeError, ValueError):
        raise ConfigError(f"netmask '{text}' is neither like 255.255.255.0 nor a prefix length from 1 to 32") from None
    if mask == 0 or (~mask & 0xFFFFFFFF) & (~mask + 1 & 0xFFFFFFFF):
        raise ConfigError(f"netmask '{text}' is not a row of ones followed by zeros, such as 255.255.255.0")
    return mask


def parse_address(text: str) -> tuple[int, int]:
    """Return the address that *text* is, one that a host can have, as an integer, and its family."""
    family = AF_INET6 if ":" in text or text.startswith("[") else AF_INET
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = int.from_bytes(socket.inet_pton(family, bare))
    except (OSError, UnicodeEncodeError, ValueError):
        raise ConfigError(_why_not_an_address(text, family)) from None
    if family == AF_INET:
        is_one_host = address >> 24 not in (0, *range(224, 256))
    elif address >> 32 == 0xFFFF:
        raise ConfigError(f"'{text}' is an IPv4 address in the clothes of an IPv6 one; "
                          f"write {format_address(address & 0xFFFFFFFF)}")
    else:
        is_one_host = address != 0 and address >> 120 != 0xFF
    if not is_one_host:
        raise ConfigError(f"'{text}' is not the address of one host; use a unicast address")
    return address, family


def parse_balanced_address(text: str) -> tuple[int, int]:
    """Return a VIP or RIP, which must mean the same machine on every link."""
    address, family = parse_address(text)
    if family == AF_INET6 and address >> 118 == LINK_LOCAL:
        raise ConfigError(f"'{text}' is a link-local address, which means another machine on each link; "
                          "use a global one, or one from fc00::/7")
    return address, family


def _why_not_an_address(text: str, family: int) -> str:
    if not text:
        return "the address is missing; write one like 192.168.10.1 or [2001:db8::1]"
    if family == AF_INET6:
        return f"'{text}' is not an IPv6 address; write one like 2001:db8::1"
    if any(letter.isalpha() for letter in text):
        return f"'{text}' is a name, and lbq takes addresses, not names; write one like 192.168.10.1"
    return f"'{text}' is not an IPv4 address; write four numbers from 0 to 255, like 192.168.10.1"


def parse_port(text: str) -> int:
    """Return a port from 1 to 65535."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ConfigError(f"port '{text}' is not a number from 1 to 65535")
    return int(text)


def parse_weight(text: str) -> int:
    """Return a weight; 0 means: finish what you have, take nothing new."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_WEIGHT):
        raise ConfigError(f"weight '{text}' is not a number from 0 (quiesced) to {MAX_WEIGHT}")
    return int(text)


def parse_number(text: str, what: str, least: int, most: int) -> int:
    """Return the number that *text* is, or raise for *what* it is not."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise ConfigError(f"{what} '{text}' is not a number from {least} to {most}")
    return int(text)


def _parse_settings(settings: list[str]) -> dict[str, int]:
    """Return the settings among the words after the commas."""
    found: dict[str, int] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name in SETTINGS and not equals:
            raise ConfigError(f"setting '{name}' has no value; write {name}=VALUE")
        if name not in SETTINGS:
            raise ConfigError(f"unknown server setting '{setting}'{did_you_mean(name, SETTINGS)}; "
                              f"there are {', '.join(SETTINGS)}")
        field = name.replace("-", "_")
        if field in found:
            raise ConfigError(f"{name} is said twice ('{setting}'); say it once")
        found[field] = _parse_setting(name, value)
    return found


def _parse_setting(name: str, value: str) -> int:
    words = VALUES.get(name)
    if words is not None:
        if value not in words:
            raise ConfigError(f"unknown {name} '{value}'{did_you_mean(value, words)}; there are {', '.join(words)}")
        return words[value]
    if name == "weight":
        return parse_weight(value)
    return parse_number(value, name, 0, 65535 if name == "tunnel-port" else MAX_WEIGHT)


def refuse_settings(server: ServerWords, text: str, doing: str) -> None:
    """Raise when *text*, out of which *server* was read, has settings: *doing* something to it takes none."""
    if server.says_something():
        raise ConfigError(f"'{text}': {doing} takes no settings; write {text.partition(',')[0]}")


def format_settings(server: ServerWords) -> list[tuple[str, str]]:
    """Return the settings that *server* says something about, by name, as they are written."""
    said = [(name.replace("_", "-"), getattr(server, name)) for name in SERVER_SETTINGS
            if getattr(server, name) is not None]
    return [(name, next((word for word, number in VALUES.get(name, {}).items() if number == value), str(value)))
            for name, value in said]


def split_endpoint(text: str) -> tuple[str, str | None]:
    """Return address and port of ``ADDRESS[:PORT]``; the port is None when there is none."""
    if text.startswith("["):
        address, bracket, port = text.partition("]")
        if not bracket or port[:1] not in ("", ":"):
            raise ConfigError(f"'{text}' is not an IPv6 address in brackets; write [2001:db8::1] or [2001:db8::1]:80")
        return address + bracket, port[1:] if port else None
    if text.count(":") > 1:
        raise ConfigError(f"'{text}' has more than one colon; an IPv6 address is written in brackets, "
                          "[2001:db8::1] or [2001:db8::1]:80")
    address, colon, port = text.partition(":")
    return address, port if colon else None


def parse_endpoint(text: str) -> tuple[int, int, int]:
    """Return address, port and family of ``192.168.10.9:40000`` or ``[2001:db8::9]:40000``."""
    address, port = split_endpoint(text)
    if port is None:
        raise ConfigError(f"'{text}' has no port; write ADDRESS:PORT, and an IPv6 address in brackets")
    number, family = parse_address(address)
    return number, parse_port(port), family


def read_endpoint(text: str) -> tuple[int, int, int]:
    """Return what ``format_endpoint`` has written: address, port and family of a packet, which may be any."""
    address, port = split_endpoint(text)
    family = AF_INET6 if address.startswith("[") else AF_INET
    try:
        number = int.from_bytes(socket.inet_pton(family, address.strip("[]")))
    except (OSError, UnicodeEncodeError, ValueError):
        raise ConfigError(_why_not_an_address(address, family)) from None
    return number, parse_number(port or "", "port", 0, 65535), family


def did_you_mean(word: str, known) -> str:
    """Return ``; did you mean 'wlc'?`` when one of the *known* words is near, else nothing."""
    import difflib  # here, because the packet process reads this module and never mistypes

    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def format_address(address: int, family: int = AF_INET) -> str:
    """Return ``192.168.10.1`` or ``2001:db8::1``."""
    return socket.inet_ntop(family, address.to_bytes(4 if family == AF_INET else 16))


def format_endpoint(address: int, port: int, family: int = AF_INET) -> str:
    """Return ``192.168.10.1:80`` or ``[2001:db8::1]:80``."""
    host = format_address(address, family)
    return f"{host}:{port}" if family == AF_INET else f"[{host}]:{port}"


def format_service(key: ServiceKey) -> str:
    """Return ``tcp:192.168.10.1:80``, ``fwmark:1`` or ``fwmark:1/6``, a service as the commands take it."""
    if key.fwmark:
        return f"fwmark:{key.fwmark}" + ("/6" if key.family == AF_INET6 else "")
    return f"{PROTOCOL_NAMES[key.protocol]}:{format_endpoint(key.address, key.port, key.family)}"
