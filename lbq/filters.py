"""Which connections are meant: those of a service, a server, a client, a state; all of what is said.

What ``lbq conns`` shows, and what ``lbq end`` ends, are rows of ``conntrack.decode`` that pass such a test.
"""
from __future__ import annotations

from collections.abc import Callable, Collection

from lbq.conntrack import STATE_NAMES, TEMPLATE_STATES
from lbq.errors import ConfigError
from lbq.grammar import did_you_mean, format_address, parse_address, parse_port, parse_service, split_endpoint
from lbq.model import AF_INET6, PROTOCOL_NAMES

STATES = tuple(dict.fromkeys(name for names in (*STATE_NAMES.values(), TEMPLATE_STATES) for name in names))

Wanted = Callable[[dict], bool]


def chosen(service: str | None = None, server: str | None = None, client: str | None = None,
           state: str | None = None) -> Wanted:
    """Return the test that a connection passes when it is wanted, or raise for the first word that is wrong."""
    tests = [make(text) for make, text in ((_of_service, service), (_of("d"), server), (_of("c"), client),
                                           (_in_state, state)) if text is not None]
    return lambda row: all(test(row) for test in tests)


def _of_service(text: str) -> Wanted:
    key = parse_service(text)
    if key.fwmark:
        return lambda row: row["fwmark"] == key.fwmark and (":" in row["caddr"]) == (key.family == AF_INET6)
    place = PROTOCOL_NAMES[key.protocol], format_address(key.address, key.family)
    return lambda row: (row["protocol"], row["vaddr"]) == place and key.port in (0, row["vport"])


def _of(end: str) -> Callable[[str], Wanted]:
    """Return what makes a test of an address, with or without port, at one *end*: ``c`` or ``d``."""
    def make(text: str) -> Wanted:
        address, port = split_endpoint(text)
        wanted = format_address(*parse_address(address))
        number = None if port is None else 0 if port == "0" else parse_port(port)       # 0: of templates
        return lambda row: row[f"{end}addr"] == wanted and number in (None, row[f"{end}port"])

    return make


def read_state(text: str, states: Collection[str]) -> str:
    """Return the one of *states* that *text* names, in letters of any size."""
    state = text.upper()
    if state not in states:
        raise ConfigError(f"unknown state '{text}'{did_you_mean(text, map(str.lower, states))}; "
                          f"there are {', '.join(states)}")
    return state


def _in_state(text: str) -> Wanted:
    state = read_state(text, STATES)
    return lambda row: row["state"] == state
