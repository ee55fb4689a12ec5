"""A row of the listing as a wish: what ``list`` tells of a service or a real server is also what can be asked for.

    {"protocol": "tcp", "address": "192.168.10.1", "port": 80, "fwmark": 0, "scheduler": "wlc", "flags": [],
     "timeout": 0, "netmask": "255.255.255.255", "pe": "", "servers": [{"address": "192.168.20.1", …}]}

What else is in a row, counters and such, is not looked at.  The family of a mark is that of its address.
"""
from __future__ import annotations

import socket

from lbq.errors import ConfigError
from lbq.grammar import MAX_MARK, MAX_WEIGHT, MODES, PROTOCOLS, TUNNELS, ServerWords
from lbq.model import AF_INET, AF_INET6, SERVICE_FLAGS, TCP, TUNNEL_FLAG_NAMES, ServiceKey
from lbq.options import MAX_SECONDS, ServiceWords
from lbq.schedulers import flag_bits

LONGEST_NAME = 255          # of a scheduler, which may be the path of a user's own
CHECKSUMS = {name: number for number, name in TUNNEL_FLAG_NAMES.items()}


def key_of(row: dict) -> ServiceKey:
    """Return what names the service in *row*."""
    family, address = _address(row)
    mark = _number(row, "fwmark", MAX_MARK)
    if mark:
        return ServiceKey(TCP, 0, 0, family, mark)
    return ServiceKey(_one_of(row, "protocol", PROTOCOLS), address, _number(row, "port", 65535), family)


def service_of(row: dict) -> ServiceWords:
    """Return all settings of the service in *row*."""
    flags = row.get("flags")
    if not isinstance(flags, list) or not all(isinstance(flag, str) and flag in SERVICE_FLAGS for flag in flags):
        raise ConfigError(f"a service's flags are of {', '.join(SERVICE_FLAGS)}, not {flags!r}")
    scheduler, engine = _text(row, "scheduler"), _text({"pe": "", **row}, "pe")
    bits = sum({SERVICE_FLAGS[flag] for flag in flags})
    names = {bit: name for name, bit in flag_bits(scheduler).items()}
    return ServiceWords(
        scheduler=scheduler,
        persistent=_number(row, "timeout", MAX_SECONDS, 1) if "persistent" in flags else 0,
        netmask=_netmask(row),
        ops="ops" in flags,
        scheduler_flags=[name for bit, name in names.items() if bits & bit],
        mode="nat",
        on_delete="end" if "end-deleted" in flags else "keep",
        on_quiesce="move" if "move-quiesced" in flags else "keep",
        ops_replies="ops-replies" in flags,
        idle=_number({"idle": 0, **row}, "idle", MAX_SECONDS),
        pe=engine,
    )


def server_of(row: dict) -> ServerWords:
    """Return all settings of the real server in *row*."""
    family, address = _address(row)
    return ServerWords(
        address, _number(row, "port", 65535), family, _number(row, "weight", MAX_WEIGHT),
        _one_of(row, "mode", MODES), _number(row, "upper", MAX_WEIGHT), _number(row, "lower", MAX_WEIGHT),
        _one_of(row, "tunnel", TUNNELS), _number(row, "tunnel_port", 65535),
        _one_of(row, "tunnel_flags", CHECKSUMS))


def server_place(key: ServiceKey, row: dict) -> tuple[ServiceKey, int, int, int]:
    """Return what names the real server in *row* under the service *key*."""
    family, address = _address(row)
    return key, address, _number(row, "port", 65535), family


def _address(row: dict) -> tuple[int, int]:
    text = row.get("address")
    family = AF_INET6 if isinstance(text, str) and ":" in text else AF_INET
    try:
        return family, int.from_bytes(socket.inet_pton(family, text))
    except (OSError, TypeError, ValueError):
        raise ConfigError(f"{text!r} is no address") from None


def _netmask(row: dict) -> int:
    """Return a mask of IPv4 as its number, one of IPv6 as its length."""
    text = row.get("netmask")
    family, _ = _address(row)
    try:
        if family == AF_INET:
            return int.from_bytes(socket.inet_pton(AF_INET, text))
        if 1 <= int(text) <= 128:
            return int(text)
    except (OSError, OverflowError, TypeError, ValueError):     # 1e999 is a number in JSON
        pass
    raise ConfigError(f"{text!r} is no netmask; IPv4 has 255.255.255.0, IPv6 the length 64")


def _number(row: dict, name: str, most: int, least: int = 0) -> int:
    value = row.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{name} is a number from {least} to {most}, not {value!r}")
    return value


def _one_of(row: dict, name: str, known: dict[str, int]) -> int:
    value = row.get(name)
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} is one of {', '.join(known)}, not {value!r}")
    return known[value]


def _text(row: dict, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise ConfigError(f"{name} is a name, not {value!r}")
    return value
