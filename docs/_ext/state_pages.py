"""The page of the connection states of TCP, SCTP and UDP: the tables in lbq/protocols, drawn and written out."""
from __future__ import annotations

from typing import NamedTuple

from markdown import prose, table
from state_diagram import draw

from lbq.protocols import sctp, tcp, udp

DIRECTIONS = {"IN": "from the client", "OUT": "from the server, by NAT", "INO": "from the client, by DR and TUN"}
TOGETHER = {"IN": ("IN", "OUT"), "OUT": ("IN", "OUT"), "INO": ("INO",)}     # what a connection meets in its life
EVENTS = {"syn": "SYN", "fin": "FIN", "ack": "ACK", "rst": "RST", "d": "data", "i": "INIT", "ia": "INIT ACK",
          "ce": "COOKIE ECHO", "ca": "COOKIE ACK", "s": "SHUTDOWN", "sa": "SHUTDOWN ACK", "sc": "SHUTDOWN COMPLETE",
          "err": "ERROR", "ab": "ABORT"}


class Row(NamedTuple):
    """A line of a state table: what an event in a direction makes of each state."""

    direction: str
    event: str
    cells: list[str]


def rows(text: str, protocol) -> list[Row]:
    """Return the lines of the state table *text* of a module, with the full names of the states."""
    return [Row(line.split()[0], line.split()[1],
                [protocol.NAMES[protocol.SHORT.index(cell)] for cell in line.split()[2:]])
            for line in text.split("\n")[2:-1]]


def reachable(its: list[Row], names: tuple[str, ...], directions: tuple[str, ...]) -> list[str]:
    """Return the states that a connection can come to, in the table's order."""
    found = {names[0]}
    while True:
        more = {row.cells[names.index(state)] for row in its if row.direction in directions for state in found}
        if more <= found:
            return [name for name in names if name in found]
        found |= more


def changes(its: list[Row], names: tuple[str, ...], direction: str) -> dict[tuple[str, str], str]:
    """Return the events that lead from one state to another in *direction*, by the pair."""
    found = {}
    for state in reachable(its, names, TOGETHER[direction]):
        for row in its:
            after = row.cells[names.index(state)]
            if row.direction == direction and after != state:
                found.setdefault((state, after), []).append(row.event)
    return {pair: " ".join(events) for pair, events in found.items()}


def pages() -> dict[str, str]:
    """Return the page and its pictures, by path."""
    files, parts = {}, [INTRODUCTION]
    for title, name, protocol, text in TABLES:
        its = rows(text, protocol)
        parts.append(f"## {title}")
        parts += [said(protocol), _states(protocol)] if text is protocol.TABLE else [SECURE]
        for direction, meaning in DIRECTIONS.items():
            states = reachable(its, protocol.NAMES, TOGETHER[direction])
            picture = f"{name}-{direction.lower()}.svg"
            what = f"{title}: a packet {meaning}"
            files[f"states/{picture}"] = draw(what, states, changes(its, protocol.NAMES, direction))
            parts += [f"### {what}", f"![{what}; the table below says the same]({picture})",
                      _written(its, protocol, direction)]
            never = [state for state in protocol.NAMES if state not in states]
            if never:
                parts.append(f"Not drawn, since no connection comes to it: {', '.join(never)}.")
    parts += ["## UDP", said(udp),
              "![UDP: one state, begun anew by every datagram](udp.svg)"]
    files["states/udp.svg"] = draw("UDP: one state, begun anew by every datagram",
                                   [f"{udp.NAMES[0]}, {udp.TIMEOUTS[0]} s"], {})
    return {"states/index.md": "\n\n".join(parts) + "\n", **files}


INTRODUCTION = """\
# States of a connection

Drawn from the tables in `lbq/protocols/`, which are kernel IPVS's.  An arrow is a packet that changes the
state; what changes nothing has none.  Arrows have the colour of the state they leave."""
SECURE = """\
A second table, with sysctl `secure_tcp` (by itself or under attack): ESTABLISHED needs an answer of the server, or a
second packet of the client."""
TABLES = [("TCP", "tcp", tcp, tcp.TABLE), ("TCP with secure_tcp", "tcp-secure", tcp, tcp.SECURE_TABLE),
          ("SCTP", "sctp", sctp, sctp.TABLE)]


def said(module) -> str:
    """Return what the docstring of *module* says below its title."""
    return prose(module.__doc__.partition("\n")[2].strip())


def _states(protocol) -> str:
    return table(["state", "seconds without a packet", "counts as"],
                 [(name, str(protocol.TIMEOUTS[number]), "active" if protocol.is_active(number) else "inactive")
                  for number, name in enumerate(protocol.NAMES)])


def _written(its: list[Row], protocol, direction: str) -> str:
    """Return the table of one direction; a state that stays is a dot."""
    mine = [row for row in its if row.direction == direction]
    return table(["before", *(f"{EVENTS[row.event]} (`{row.event}`)" for row in mine)],
                 [(f"**{state}**", *("·" if row.cells[number] == state else row.cells[number] for row in mine))
                  for number, state in enumerate(protocol.NAMES)])
