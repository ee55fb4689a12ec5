"""What a replay came to: tables for people, JSON for programs."""
from __future__ import annotations

from collections.abc import Iterator
from string import ascii_uppercase
from typing import NamedTuple

from lbq.grammar import format_address, format_endpoint, format_service
from lbq.model import MODE_NAMES, ServiceKey
from lbq.replay.measure import Measured, imbalance, shares
from lbq.replay.play import Change, Server
from lbq.replay.traffic import IGNORED, SECOND

MOST_COLUMNS = 16           # servers in a table
MOST_LETTERS = 118          # in a line
WIDTH = 60                  # of a line of the chart


class Replay(NamedTuple):
    """What was played, and what came out by scheduler."""

    file: str
    service: ServiceKey
    among: int              # destinations that there are; 0 when the service was said
    mode: str
    seconds: float
    flows: int
    packets: int
    loopback: int           # flows of clients that were given another address
    ignored: dict[str, int]
    servers: list[Server]
    changes: list[Change]
    measured: list[Measured]


def as_dict(replay: Replay) -> dict:
    """Return all that was measured."""
    service = replay.service
    return {
        "file": replay.file, "service": format_service(service), "service_was": "busiest" if replay.among else "said",
        "destinations": replay.among or None,
        "mode": replay.mode, "seconds": replay.seconds, "flows": replay.flows, "packets": replay.packets,
        "loopback": replay.loopback,
        "ignored": {name: number for name, number in replay.ignored.items() if number},
        "servers": [{"name": server.name, "address": format_address(server.address, server.family),
                     "port": server.port, "weight": server.weight, "mode": MODE_NAMES[server.mode],
                     "added": not server.present} for server in replay.servers],
        "changes": [{"t": change.time_ns / SECOND, "change": change.text} for change in replay.changes],
        "schedulers": [_scheduler(measured, replay) for measured in replay.measured]}


def _scheduler(measured: Measured, replay: Replay) -> dict:
    servers = [{"name": server.name, "flows": flows, "share": share, "packets": packets, "bytes": octets, "peak": peak,
                "p99": p99}
               for server, flows, share, packets, octets, peak, p99 in zip(
                   replay.servers, measured.flows, shares(measured.flows), measured.packets, measured.octets,
                   measured.peak, measured.p99, strict=True)]
    over_time = [{"t": piece.start_ns / SECOND, "seconds": piece.length_ns / SECOND, "weights": piece.weights,
                  "flows": piece.flows, "share": shares(piece.flows) if any(piece.flows) else None,
                  "in_progress": [load / piece.length_ns if piece.length_ns else None for load in piece.load]}
                 for piece in measured.slices]
    row = {"scheduler": measured.scheduler, "imbalance_flows": imbalance(measured.slices, "flows"),
           "imbalance_load": imbalance(measured.slices, "load"), "refused": measured.refused,
           "forgotten": measured.forgotten, "moved": measured.moved, "cut": measured.cut}
    if replay.changes:
        row |= {"later": measured.later, "displaced": measured.displaced, "had_to": measured.had_to}
    return {**row, "seconds_to_play": measured.seconds, "servers": servers, "over_time": over_time}


def tables(replay: Replay) -> Iterator[str]:
    """Give the lines of a report."""
    which = f" (the busiest of {replay.among} destinations)" if replay.among > 1 else ""
    yield (f"{replay.file}: {replay.flows:,} flows to {format_service(replay.service)}{which}, {replay.packets:,} "
           f"packets in {replay.seconds:,.1f} s; servers reached by {replay.mode}")
    ignored = [f"{number:,} {IGNORED[name]}" for name, number in replay.ignored.items() if number]
    if ignored:
        yield f"not played: packets that are {'; '.join(ignored)}"
    if replay.loopback:
        yield (f"clients on loopback ({replay.loopback:,} flows) have 10 for their first byte, for a director takes "
               "nothing from there")
    yield from _wrapped("servers: ", [_server(server) for server in replay.servers])
    for change in replay.changes:
        yield f"change: t={change.time_ns / SECOND:g} {change.text}"
    yield from ("", "share of new flows, %; and what the worst server got, ÷ what its weight is due: of new flows, of "
                    "flows in progress")
    yield from _grid(replay, lambda measured: [f"{100 * share:.1f}" for share in shares(measured.flows)],
                     lambda measured: {"new": _times(imbalance(measured.slices, "flows")),
                                       "in progress": _times(imbalance(measured.slices, "load"))})
    yield from ("", "flows in progress: most at a time, and for 99 % of the time no more than")
    yield from _grid(replay, lambda measured: [f"{peak}/{p99}" for peak, p99 in zip(
        measured.peak, measured.p99, strict=True)], lambda measured: {"refused": f"{measured.refused:,}"})
    odd = [measured for measured in replay.measured if measured.forgotten]
    if odd:
        yield ""
        yield from (f"{measured.scheduler}: {measured.forgotten:,} flows were silent so long that lbq forgot them"
                    for measured in odd)
    if replay.changes:
        yield from ("", "the changes: flows in progress that went on at another server (moved) or lost theirs (cut);",
                    "flows that began later, how many of them went elsewhere than without the changes, and how many of "
                    "these had to")
        yield from _columns([["scheduler", "moved", "cut", "later", "elsewhere", "had to"], *(
            [measured.scheduler, *(f"{number:,}" for number in (
                measured.moved, measured.cut, measured.later, measured.displaced, measured.had_to))]
            for measured in replay.measured)])


def over_time(replay: Replay) -> Iterator[str]:
    """Give a chart for each scheduler: a line for each slice, in which each server has as much as of the new flows."""
    for measured in replay.measured:
        yield from ("", f"{measured.scheduler}: to whom new flows went, over time")
        yield f"{'t':>9}{'new':>10}{'in progress':>13}"
        changes = list(replay.changes)
        for piece in measured.slices:
            while changes and changes[0].time_ns <= piece.start_ns:
                yield f"{changes[0].time_ns / SECOND:9.1f}  {changes.pop(0).text}"
            load = sum(piece.load) / (piece.length_ns or 1)
            yield (f"{piece.start_ns / SECOND:9.1f}{sum(piece.flows):>10,}{load:>13,.1f}  "
                   f"{_stacked(piece.flows)}").rstrip()


def _stacked(numbers: list[int]) -> str:
    """Return a line of letters, A for the first of *numbers*, each as often as its part of their sum."""
    total, line, before = sum(numbers), "", 0
    for place, number in enumerate(numbers):
        before += number
        line += ascii_uppercase[place % 26] * (round(WIDTH * before / total) - len(line) if total else 0)
    return line


def _server(server: Server) -> str:
    said = ([f"weight {server.weight}"] if server.weight != 1 else []) + ([] if server.present else ["added"])
    return f"{server.name} {format_endpoint(server.address, server.port, server.family)}" + (
        f" ({', '.join(said)})" if said else "")


def _wrapped(line: str, items: list[str]) -> Iterator[str]:
    """Give *line* and the *items* behind it, in as many lines as that takes."""
    indent = " " * len(line)
    for item in items:
        if len(line) + len(item) > MOST_LETTERS and line != indent:
            yield line.rstrip()
            line = indent
        line += f"{item}  "
    yield line.rstrip()


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"×{ratio:.2f}"


def _grid(replay: Replay, cells, more) -> Iterator[str]:
    """Give a table with a line for each scheduler: a cell for each server, and more columns."""
    names = [server.name for server in replay.servers]
    shown = range(min(len(names), MOST_COLUMNS))
    rows = []
    for measured in replay.measured:
        its, others = cells(measured), more(measured)
        if not rows:
            rows.append(["scheduler", *(names[i] for i in shown), *(["…"] if len(names) > len(shown) else []), *others])
        rows.append([measured.scheduler, *(its[i] for i in shown), *([""] if len(names) > len(shown) else []),
                     *others.values()])
    yield from _columns(rows)


def _columns(rows: list[list[str]]) -> Iterator[str]:
    """Give *rows* with their cells below each other, all but the first at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(
            row[1:], widths[1:], strict=True))]).rstrip()


