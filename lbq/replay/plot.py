"""Charts of a replay: by scheduler, each server's share of the new flows over time, and its flows in progress."""
from __future__ import annotations

from pathlib import Path

from lbq.bench import plot
from lbq.grammar import format_service
from lbq.replay.measure import Measured, Slice, shares
from lbq.replay.show import Replay
from lbq.replay.traffic import SECOND

MOST_LINES = 26             # servers in a chart


def draw(replay: Replay, path: Path) -> None:
    """Write the charts as one picture; raises Missing without matplotlib."""
    count = len(replay.measured)
    figure = plot.picture(figsize=(13, 1 + 2.6 * count), layout="constrained")
    figure.suptitle(f"{replay.file}: {replay.flows:,} flows to {format_service(replay.service)} in "
                    f"{replay.seconds:,.0f} s")
    for row, measured in zip(figure.subplots(count, 2, squeeze=False, sharex=True), replay.measured, strict=True):
        for axes, (times, numbers), title in zip(row, (_shares(measured), _loads(measured)),
                                                 ("share of new flows, %", "flows in progress"), strict=True):
            axes.set_title(f"{measured.scheduler}: {title}", fontsize="medium")
            for server, line in zip(replay.servers[:MOST_LINES], zip(*numbers, strict=True), strict=False):
                axes.plot(times, line, label=server.name)
            for change in replay.changes:
                axes.axvline(change.time_ns / SECOND, color="black", linewidth=0.8, linestyle=":")
            axes.set_ylim(bottom=0)
    row[0].set_xlabel("seconds")
    row[1].set_xlabel("seconds")
    row[1].legend(fontsize="x-small", ncols=4)
    figure.savefig(path, dpi=110)


def _shares(measured: Measured) -> tuple[list[float], list[list[float]]]:
    """Return times and, for each, the servers' shares in per cent; where nothing began there are none."""
    pieces = [piece for piece in measured.slices if any(piece.flows)]
    return _middles(pieces), [[100 * share for share in shares(piece.flows)] for piece in pieces]


def _loads(measured: Measured) -> tuple[list[float], list[list[float]]]:
    """Return times and, for each, how many flows the servers had in progress."""
    pieces = [piece for piece in measured.slices if piece.length_ns]
    return _middles(pieces), [[load / piece.length_ns for load in piece.load] for piece in pieces]


def _middles(pieces: list[Slice]) -> list[float]:
    return [(piece.start_ns + piece.length_ns / 2) / SECOND for piece in pieces]
