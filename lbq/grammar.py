"""The words people type: SERVICE, RIP[:PORT][,SETTING=VALUE]..., and how they are written back.

    SERVICE   [tcp:|udp:|sctp:]VIP:PORT    tcp when nothing is said; PORT 0 is every port
              fwmark:N                     all packets with a firewall mark
    SERVER    RIP[:PORT][,SETTING=VALUE]   the service's port when none is said
    SETTING   weight, mode (nat dr tun), upper, lower, tunnel (ipip gue gre), tunnel-port, tunnel-csum (no yes remcsum)

Every mistake raises ConfigError with one line that says what was typed and what would be right.
Addresses are IPv4 dotted quads: a name could mean another machine tomorrow, and looking it up could hang.
"""
from __future__ import annotations

import socket
from typing import NamedTuple

from lbq.errors import ConfigError
from lbq.model import (
    AF_INET,
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
MODES = {"nat": NAT, "dr": DR, "tun": TUN}
TUNNELS = {"ipip": IPIP, "gue": GUE, "gre": GRE}
CHECKSUMS = {"no": NOCSUM, "yes": CSUM, "remcsum": REMCSUM}
VALUES = {"mode": MODES, "tunnel": TUNNELS, "tunnel-csum": CHECKSUMS}     # of settings that are words
SETTINGS = ("weight", "mode", "upper", "lower", "tunnel", "tunnel-port", "tunnel-csum")


class ServerWords(NamedTuple):
    """What ``RIP[:PORT][,SETTING=VALUE]...`` says; a setting is None when nothing is said about it."""

    address: int
    port: int
    weight: int | None = None
    mode: int | None = None
    upper: int | None = None
    lower: int | None = None
    tunnel: int | None = None
    tunnel_port: int | None = None
    tunnel_csum: int | None = None

    def says_something(self) -> bool:
        """Return True when there is a setting."""
        return any(value is not None for value in self[2:])


def parse_service(text: str, protocol: str | None = None) -> ServiceKey:
    """Return the service that *text* names; *protocol* replaces the default, tcp."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix.lower() == "fwmark":
        return ServiceKey(TCP, 0, 0, fwmark=parse_number(rest, "firewall mark", 1, MAX_MARK))
    if colon and prefix.lower() in PROTOCOLS:
        if protocol not in (None, prefix.lower()):
            raise ConfigError(f"'{text}' says {prefix.lower()}, the options say {protocol}; say it once")
        protocol, text = prefix.lower(), rest
    elif colon and prefix.isalpha() and ":" in rest:
        raise ConfigError(f"unknown protocol '{prefix}'{did_you_mean(prefix, PROTOCOLS)}; "
                          f"lbq has {', '.join(PROTOCOLS)}")
    address, port = _split(text)
    if port is None:
        raise ConfigError(f"'{text}' has no port; write VIP:PORT, such as 192.168.10.1:80")
    vip = parse_address(address)
    return ServiceKey(PROTOCOLS[protocol or "tcp"], vip, 0 if port == "0" else parse_port(port))


def parse_server(text: str, service: ServiceKey) -> ServerWords:
    """Return the real server that *text* names under *service*, which it must not be itself."""
    endpoint, *settings = text.split(",")
    address, port = _split(endpoint)
    server = ServerWords(parse_address(address), service.port if port is None else parse_port(port),
                         **_parse_settings(settings))
    if (server.address, server.port) == (service.address, service.port):
        raise ConfigError(f"'{text}' is the virtual service {format_service(service)} itself; "
                          "a real server needs another address or port")
    return server


def check_server(server: ServerWords, service: ServiceKey, mode: int) -> None:
    """Raise ConfigError for settings that do not go together, *mode* being how the server is reached."""
    if mode != NAT and not service.fwmark and server.port != service.port:
        raise ConfigError(f"real server port {server.port} is not the service's port {service.port}, and only nat "
                          "can change ports; leave the port away, or say mode=nat")
    if (server.lower or 0) > (server.upper or 0):
        raise ConfigError(f"lower={server.lower} is above upper={server.upper or 0}; a server that is full at upper "
                          "connections is free again below lower")
    if server.tunnel == GUE and not server.tunnel_port:
        raise ConfigError("tunnel=gue needs tunnel-port=N, the UDP port that the real server listens on")


def parse_netmask(text: str) -> int:
    """Return a netmask as an integer, out of ``255.255.255.0`` or a prefix length such as 24."""
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


def parse_address(text: str) -> int:
    """Return an IPv4 address that one host can have, as an integer."""
    if ":" in text or text.startswith("["):
        raise ConfigError(f"'{text}' looks like IPv6, which lbq does not balance yet; use an IPv4 address")
    try:
        address = int.from_bytes(socket.inet_pton(AF_INET, text))
    except (OSError, UnicodeEncodeError, ValueError):
        raise ConfigError(_why_not_an_address(text)) from None
    if address >> 24 in (0, *range(224, 256)):
        raise ConfigError(f"'{text}' is not the address of one host; use a unicast address")
    return address


def _why_not_an_address(text: str) -> str:
    if not text:
        return "the address is missing; write one like 192.168.10.1"
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


def format_settings(server: ServerWords) -> list[tuple[str, str]]:
    """Return the settings that *server* says something about, by name, as they are written."""
    said = [(name.replace("_", "-"), value) for name, value in zip(server._fields[2:], server[2:], strict=True)
            if value is not None]
    return [(name, next((word for word, number in VALUES.get(name, {}).items() if number == value), str(value)))
            for name, value in said]


def _split(text: str) -> tuple[str, str | None]:
    """Return address and port of ``ADDRESS[:PORT]``; an IPv6 address stays whole, to be refused whole."""
    if text.startswith("[") or text.count(":") > 1:
        return text, ""
    address, colon, port = text.partition(":")
    return address, port if colon else None


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
    """Return ``tcp:192.168.10.1:80`` or ``fwmark:1``, a service as the commands take it."""
    if key.fwmark:
        return f"fwmark:{key.fwmark}"
    return f"{PROTOCOL_NAMES[key.protocol]}:{format_endpoint(key.address, key.port, key.family)}"
