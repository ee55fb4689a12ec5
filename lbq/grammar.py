"""The words people type: SERVICE, RIP[:PORT][,weight=N], and how they are written back.

    SERVICE   [tcp:|udp:]VIP:PORT          tcp when nothing is said
    SERVER    RIP[:PORT][,weight=N]        the service's port when none is said

Every mistake raises ConfigError with one line that says what was typed and what would be right.
Addresses are IPv4 dotted quads: a name could mean another machine tomorrow, and looking it up could hang.
"""
from __future__ import annotations

import socket
from typing import NamedTuple

from lbq.errors import ConfigError
from lbq.model import AF_INET, PROTOCOL_NAMES, ServiceKey

PROTOCOLS = {name: number for number, name in PROTOCOL_NAMES.items()}
DEFAULT_WEIGHT = 1
MAX_WEIGHT = 2**31 - 1      # the kernel keeps a weight in a C int; so does ipvsadm since Debian's 1.31


class ServerWords(NamedTuple):
    """What ``RIP[:PORT][,weight=N]`` says; the weight is None when it says nothing about it."""

    address: int
    port: int
    weight: int | None


def parse_service(text: str, protocol: str | None = None) -> ServiceKey:
    """Return the service that *text* names; *protocol* replaces the default, tcp."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix.lower() in PROTOCOLS:
        if protocol not in (None, prefix.lower()):
            raise ConfigError(f"'{text}' says {prefix.lower()}, the options say {protocol}; say it once")
        protocol, text = prefix.lower(), rest
    elif colon and prefix.isalpha() and ":" in rest:
        raise ConfigError(f"unknown protocol '{prefix}'{did_you_mean(prefix, PROTOCOLS)}; "
                          f"lbq has {' and '.join(PROTOCOLS)}")
    address, port = _split(text)
    if port is None:
        raise ConfigError(f"'{text}' has no port; write VIP:PORT, such as 192.168.10.1:80")
    return ServiceKey(PROTOCOLS[protocol or "tcp"], parse_address(address), parse_port(port))


def parse_server(text: str, service: ServiceKey) -> ServerWords:
    """Return the real server that *text* names under *service*, which it must not be itself."""
    endpoint, *settings = text.split(",")
    address, port = _split(endpoint)
    server = ServerWords(parse_address(address), service.port if port is None else parse_port(port),
                         _parse_settings(settings))
    if (server.address, server.port) == (service.address, service.port):
        raise ConfigError(f"'{text}' is the virtual service {format_service(service)} itself; "
                          "a real server needs another address or port")
    return server


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


def _parse_settings(settings: list[str]) -> int | None:
    """Return the weight among the words after the commas, the only thing there is to set yet."""
    weight = None
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name != "weight" or not equals:
            raise ConfigError(f"unknown server setting '{setting}'{did_you_mean(name, ['weight'])}; "
                              "write RIP[:PORT][,weight=N]")
        if weight is not None:
            raise ConfigError(f"weight is said twice ('{setting}'); say it once")
        weight = parse_weight(value)
    return weight


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
