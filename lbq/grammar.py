"""The words people type: SERVICE, RIP[:PORT][,weight=N], and how they are written back.

    SERVICE   [tcp:|udp:]VIP:PORT          tcp when nothing is said
    SERVER    RIP[:PORT][,weight=N]        the service's port when none is said

Every mistake raises ConfigError with one line that says what was typed and what would be right.
"""
from __future__ import annotations

import ipaddress

from lbq.model import PROTOCOL_NAMES, ServiceKey


def format_address(address: int, family: int = 2) -> str:
    """Return ``192.168.10.1`` or ``2001:db8::1``."""
    return str(ipaddress.IPv4Address(address) if family == 2 else ipaddress.IPv6Address(address))


def format_endpoint(address: int, port: int, family: int = 2) -> str:
    """Return ``192.168.10.1:80`` or ``[2001:db8::1]:80``."""
    if family == 2:
        return f"{ipaddress.IPv4Address(address)}:{port}"
    return f"[{ipaddress.IPv6Address(address)}]:{port}"


def format_service(key: ServiceKey) -> str:
    """Return ``tcp:192.168.10.1:80``, a service as the commands take it."""
    return f"{PROTOCOL_NAMES[key.protocol]}:{format_endpoint(key.address, key.port, key.family)}"
