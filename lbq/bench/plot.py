"""Charts of a run: every workload relative to plain forwarding, and what grows with the table and the services.

Processor time is relative to the floor, because in plain forwarding no director has any.  ``draw`` makes a picture
(matplotlib), ``show`` the same in the terminal (plotext); both need no more than what ``charts`` has put together.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lbq.bench.machine import Missing
from lbq.bench.report import Results, Spread
from lbq.bench.series import Setting
from lbq.bench.workloads import WORKLOADS
from lbq.errors import ConfigError

PICTURES = (".png", ".svg", ".pdf")
LESS_IS_BETTER = ("_us", "_ms", "_us_per_packet")       # how such numbers' names end
WIDTH, HEIGHT = 100, 18                                 # of a chart in the terminal, in characters
MARKERS = "ox+*"                                        # of its lines


class Bars(NamedTuple):
    """A workload: each column's number ÷ that of one of them, by the columns' titles."""

    title: str
    bars: dict[str, Spread]


class Lines(NamedTuple):
    """A cost in nanoseconds by what varies, one line by each name."""

    title: str
    across: str
    lines: dict[str, dict[int, Spread]]


def charts(run: dict) -> list[Bars | Lines]:
    """Return what there is to draw of *run*; what it has not measured is left out."""
    results = Results(run)
    return [*filter(None, (_bars(results, name) for name in results.workloads())), *_lines(results)]


def _bars(results: Results, workload: str) -> Bars | None:
    """Return the first number of *workload* as bars, or None without what they are relative to."""
    number, heading = WORKLOADS[workload].rows[0][:2]
    reference = "floor" if number.startswith("director") else "plain"
    ratios = {title: results.ratio(workload, number, column, reference) for column, title in results.columns.items()}
    bars = {title: ratio for title, ratio in ratios.items() if ratio}
    if not bars:
        return None
    less = ", less is better" if number.endswith(LESS_IS_BETTER) else ""
    return Bars(f"{heading} ÷ {results.columns[reference]}{less}", bars)


def _lines(results: Results) -> list[Lines]:
    """Return the cost by size of the table and by number of services, where at least two were measured."""
    by_size = {"": _varying(results, "flows", Setting()), ", IPv6": _varying(results, "flows", Setting(ipv6=True))}
    by_services = {"": _varying(results, "services", Setting(100_000))}
    found = []
    for title, across, settings in (("cost against the size of the table", "connections", by_size),
                                    ("cost against the number of services", "services", by_services)):
        lines = {name + family: {x: results.in_memory(setting, number) for x, setting in points.items()}
                 for name, number in (("established packet", "established_ns"), ("new connection", "opening_ns"))
                 for family, points in settings.items() if len(points) > 1}
        if lines:
            found.append(Lines(f"{title}, ns", across, lines))
    return found


def _varying(results: Results, field: str, other: Setting) -> dict[int, Setting]:
    """Return the settings that are *other* but for *field*, by that."""
    alike = (setting for setting in results.settings() if setting._replace(**{field: getattr(other, field)}) == other)
    return {getattr(setting, field): setting for setting in alike}


def draw(run: dict, path: Path) -> None:
    """Write the charts of *run* as one picture; raises Missing without matplotlib, or with nothing to draw."""
    found = _something(run)
    rows = (len(found) + 1) // 2
    figure = picture(figsize=(13, 1 + 3.2 * rows), layout="constrained")
    figure.suptitle(f"lbq {run['versions']['lbq']} on {run['machine']}, Linux {run['kernel']}, {run['date']}: "
                    f"medians and quartiles, rounds: {run['rounds']}")
    places = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axes, chart in zip(places, found, strict=False):
        axes.set_title(chart.title, fontsize="medium")
        (_draw_bars if isinstance(chart, Bars) else _draw_lines)(axes, chart)
    for axes in places[len(found):]:
        axes.set_visible(False)
    figure.savefig(path, dpi=110)


def _draw_bars(axes, chart: Bars) -> None:
    spreads = list(chart.bars.values())
    axes.barh(list(chart.bars), [spread.middle for spread in spreads], xerr=_whiskers(spreads), capsize=3,
              color=["tab:blue" if title.startswith("lbq") else "silver" for title in chart.bars])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()


def _draw_lines(axes, chart: Lines) -> None:
    for name, points in chart.lines.items():
        spreads = list(points.values())
        axes.errorbar(list(points), [spread.middle for spread in spreads], yerr=_whiskers(spreads), capsize=3,
                      marker="o", label=name)
    axes.set_xscale("log")
    axes.set_xlabel(chart.across)
    axes.set_ylim(bottom=0)
    axes.legend()


def _whiskers(spreads: list[Spread]) -> list[list[float]]:
    """Return how far the quartiles lie below and above the medians."""
    return [[spread.middle - spread.low for spread in spreads], [spread.high - spread.middle for spread in spreads]]


def show(run: dict) -> None:
    """Print the charts of *run*; raises Missing without plotext 6, or with nothing to draw."""
    found = _something(run)
    try:
        from plotext import figure
    except ImportError as error:
        raise Missing("plotext 6 is not installed (pip install 'plotext>=6')") from error
    for chart in found:
        figure.clear()
        figure.theme("colorless")
        figure.title(chart.title)
        (_show_bars if isinstance(chart, Bars) else _show_lines)(figure, chart)
        print(figure.build().string(colorless=True))
        if isinstance(chart, Lines):
            legend = "  ".join(f"{marker} {name}" for marker, name in zip(MARKERS, chart.lines, strict=False))
            print(f"      {chart.across}:  {legend}\n")


def _show_bars(figure, chart: Bars) -> None:
    spreads = list(chart.bars.values())[::-1]       # from the bottom
    names = [f"{title} {spread.text(2)} " for title, spread in chart.bars.items()][::-1]
    figure.plot_size(WIDTH, len(names) + 2)
    figure.axes(False)
    middles = [spread.middle for spread in spreads]
    figure.draw(figure.bar(names, middles, orientation="horizontal", marker="brick", width=0, lines=True))
    for place, spread in enumerate(spreads, start=1):
        figure.draw(figure.signal([spread.low, spread.high], [place, place], marker="─").lines())
    figure.ruler("x").lim(0, 1.02 * max(spread.high for spread in spreads))


def _show_lines(figure, chart: Lines) -> None:
    """Draw the medians, at even distances: what varies does so by powers of ten."""
    places = {x: place for place, x in enumerate(sorted(set().union(*chart.lines.values())))}
    figure.plot_size(WIDTH, HEIGHT)
    for marker, points in zip(MARKERS, chart.lines.values(), strict=False):
        middles = [spread.middle for spread in points.values()]
        figure.draw(figure.signal([places[x] for x in points], middles, marker=marker))
    figure.ruler("x").ticks(list(places.values()), [f"{x:,}" for x in places])
    figure.ruler("y").lim(0, 1.1 * max(spread.high for points in chart.lines.values() for spread in points.values()))


def _something(run: dict) -> list[Bars | Lines]:
    found = charts(run)
    if not found:
        raise Missing("this run has nothing to draw; bars are relative to plain forwarding or, of processor time, to "
                      "the floor")
    return found


# ---- What other charts need, too ------------------------------------------------------------------------------


def picture(**layout):
    """Return an empty figure of matplotlib's; raises Missing without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Missing("matplotlib is not installed (pip install matplotlib)") from error
    return Figure(**layout)


def check_file(option: str, path: Path, endings: tuple[str, ...]) -> None:
    """Raise ConfigError now when *path* cannot be written after half an hour of measuring."""
    if path.suffix not in endings:
        raise ConfigError(f"{option} '{path}': its name must end in {' or '.join(endings)}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option} '{path}': there is no folder {path.parent} to write to")


def chart(how: Callable[..., None], results: Any, *where: Path) -> bool:
    """Draw *results* and return True; why that cannot be is said on one line: the tables are printed already."""
    try:
        how(results, *where)
    except Missing as reason:
        print(f"lbq: no charts: {reason}", file=sys.stderr)
        return False
    except OSError as error:
        if not where:           # it was to be printed, and nobody reads any more
            raise
        print(f"lbq: no charts: cannot write {where[0]}: {error.strerror or error}", file=sys.stderr)
        return False
    return True
