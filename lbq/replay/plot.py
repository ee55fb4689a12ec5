"""Charts of a replay: by scheduler, each server's share of the new flows over time, and its flows in progress."""
from __future__ import annotations

from pathlib import Path

from lbq.bench import plot
from lbq.bench.plot import HEIGHT, WIDTH
from lbq.replay.measure import Measured, Slice, shares
from lbq.replay.show import Replay
from lbq.replay.traffic import SECOND

MOST_LINES = 26             # servers in a chart


def draw(replay: Replay, path: Path) -> None:
    """Write the charts as one picture; raises Missing without matplotlib."""
    count = len(replay.measured)
    figure = plot.picture(figsize=(13, 1 + 2.6 * count), layout="constrained")
    figure.suptitle(f"{replay.file}: {replay.flows:,} flows in {replay.seconds:,.0f} s; of each server, left the share "
                    "of new flows, right the flows in progress")
    for row, measured in zip(figure.subplots(count, 2, squeeze=False, sharex=True), replay.measured, strict=True):
        for axes, numbers, title in zip(row, (_shares(measured), _loads(measured)), ("share, %", "flows"), strict=True):
            axes.set_title(f"{measured.scheduler}: {title}", fontsize="medium")
            for server, line in zip(replay.servers[:MOST_LINES], zip(*numbers, strict=True), strict=False):
                axes.plot(_middles(measured), line, label=server.name)
            for change in replay.changes:
                axes.axvline(change.time_ns / SECOND, color="black", linewidth=0.8, linestyle=":")
            axes.set_ylim(bottom=0)
    row[0].set_xlabel("seconds")
    row[1].set_xlabel("seconds")
    row[1].legend(fontsize="x-small", ncols=4)
    figure.savefig(path, dpi=110)


def show(replay: Replay) -> None:
    """Print the charts of the shares, a letter for each server; raises Missing without plotext 6."""
    for measured in replay.measured:
        figure = plot.terminal(f"{measured.scheduler}: share of new flows, % over seconds")
        figure.plot_size(WIDTH, HEIGHT)
        numbers = _shares(measured)
        for server, line in zip(replay.servers[:MOST_LINES], zip(*numbers, strict=True), strict=False):
            figure.draw(figure.signal(_middles(measured), list(line), marker=server.name))
        figure.ruler("y").lim(0, 1.1 * max(1.0, *(max(row) for row in numbers)))
        print(figure.build().string(colorless=True))


def _drawn(measured: Measured) -> list[Slice]:
    """Return the slices that have a length."""
    return [piece for piece in measured.slices if piece.length_ns] or measured.slices


def _middles(measured: Measured) -> list[float]:
    return [(piece.start_ns + piece.length_ns / 2) / SECOND for piece in _drawn(measured)]


def _shares(measured: Measured) -> list[list[float]]:
    return [[100 * share for share in shares(piece.flows)] for piece in _drawn(measured)]


def _loads(measured: Measured) -> list[list[float]]:
    return [[load / (piece.length_ns or 1) for load in piece.load] for piece in _drawn(measured)]
