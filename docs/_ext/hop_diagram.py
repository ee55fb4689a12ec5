"""A connection as SVG: a column for each machine, an arrow for each hop, and who changed what on the way.

The picture brings its own colours for light and for dark, so that it can be read whatever is around it.
"""
from __future__ import annotations

import textwrap
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, MARGIN, BOX, TOP, LINE = 960, 108, 190, 92, 17
CHARACTER = 7.4             # of a line's text, at most and on average
STYLE = """\
svg { --paper: #ffffff; --ink: #1f2933; --quiet: #5b6670; --lbq: #1d5fbf; --host: #8a4b00; --server: #1b6e42;
  --band: #eef2f6; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #14181c; --ink: #e6eaee; --quiet: #a3adb7; --lbq: #82b4ff; --host: #f0b060; --server: #74d3a0;
    --band: #222a31; }
}
text { font: 14px sans-serif; fill: var(--ink); stroke: var(--paper); stroke-width: 4px; paint-order: stroke; }
.machine { font-weight: bold; } .quiet { fill: var(--quiet); } .packet { font-weight: bold; stroke: none; }
.paper { fill: var(--paper); } .band { fill: var(--band); } .box { fill: var(--paper); stroke: var(--ink); }
.life { stroke: var(--quiet); stroke-dasharray: 2 4; } .arrow { stroke: var(--ink); stroke-width: 1.6; }
.head { fill: var(--ink); } .lbq { fill: var(--lbq); } .host { fill: var(--host); } .server { fill: var(--server); }
.box.lbq { fill: var(--paper); stroke: var(--lbq); stroke-width: 2; }
.box.server { fill: var(--paper); stroke: var(--server); stroke-width: 2; }"""


class Row(NamedTuple):
    """Something on the picture, with how much of its height it takes."""

    svg: str
    height: float


def draw(title: str, recording: dict) -> str:
    """Return the picture of *recording*."""
    columns = {name: MARGIN + number * (WIDTH - 2 * MARGIN) / (len(recording["machines"]) - 1)
               for number, name in enumerate(recording["machines"])}
    y, parts = float(TOP), []
    for number, packet in enumerate(recording["packets"], 1):
        for row in [_band(number, packet), *(_step(step, columns) for step in packet["steps"])]:
            parts.append(f'<g transform="translate(0 {y:.0f})">{row.svg}</g>')
            y += row.height
    height = y + 12
    lives = [f'<line class="life" x1="{x:.0f}" y1="{TOP - 8}" x2="{x:.0f}" y2="{height - 8:.0f}"/>'
             for x in columns.values()]
    heads = [_head(name, recording["machines"][name], x) for name, x in columns.items()]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">',
        f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>",
        '<rect class="paper" width="100%" height="100%"/>', *lives, *heads, *parts, "</svg>"]) + "\n"


def said(step: dict) -> list[tuple[str, str]]:
    """Return who changed what in *step*: of each of them a sentence."""
    lines: dict[str, list[str]] = {}
    for who, header, field, before, after in step["changed"]:
        change = _change(header, field, before, after, step)
        mine = lines.setdefault(who, [])
        if change and change not in mine:
            mine.append(change)
    return [(who, f"{who.replace('server', 'real server')}: {', '.join(changes)}") for who, changes in lines.items()]


def _change(header: str, field: str, before: str | None, after: str | None, step: dict) -> str:
    """Return a changed field in words, nothing of what another change says."""
    if header == "Ethernet":
        return f"frame {step['frame']}"
    if header == "IP of the tunnel" and step["kind"] != "wire":
        if field != "source":
            return ""
        return "takes the outer header off" if after is None else f"puts {step['tunnel']} around it"
    outer = "outer " if header == "IP of the tunnel" else ""
    if before is None:
        return outer + field
    return f"{outer}{field} {before} → {after}"


def _band(number: int, packet: dict) -> Row:
    towards = "to the client" if packet["is_reply"] else "from the client"
    return Row(f'<rect class="band" x="8" y="2" width="{WIDTH - 16}" height="24" rx="4"/>'
               f'<text class="packet" x="18" y="19">{number}. {escape(packet["name"])}, {towards}</text>', 34)


def _head(name: str, addresses: list[str], x: float) -> str:
    lines = [f'<rect class="box" x="{x - BOX / 2:.0f}" y="8" width="{BOX}" height="70" rx="8"/>',
             f'<text class="machine" text-anchor="middle" x="{x:.0f}" y="28">{escape(name)}</text>']
    lines += [f'<text class="quiet" text-anchor="middle" x="{x:.0f}" y="{48 + 18 * at}">{escape(address)}</text>'
              for at, address in enumerate(addresses)]
    return "".join(lines)


def _step(step: dict, columns: dict[str, float]) -> Row:
    """Return an arrow from machine to machine, or a box on the machine that does something."""
    if step["kind"] != "wire":
        return _box(step, columns[step["way"][0]])
    start, end = (columns[name] for name in step["way"])
    middle, width = (start + end) / 2, abs(end - start)
    above = [("quiet", f"outer {step['tunnel']}")] if "tunnel" in step else []
    above.append(("", step["packet"]))
    below = _wrapped(step, width - 20)
    y = len(above) * LINE
    tip = end - 10 if end > start else end + 10
    return Row(_lines(above, middle, 0) +
               f'<line class="arrow" x1="{start:.0f}" y1="{y + 6}" x2="{tip:.0f}" y2="{y + 6}"/>'
               f'<polygon class="head" points="{end:.0f},{y + 6} {tip:.0f},{y + 1} {tip:.0f},{y + 11}"/>' +
               _lines(below, middle, y + 8), y + 8 + len(below) * LINE + 10)


def _box(step: dict, x: float) -> Row:
    width = 330
    lines = _wrapped(step, width - 20)
    who = "server" if step["kind"] == "unwrap" else "lbq"
    left = min(max(x - width / 2, 8), WIDTH - width - 8)
    height = len(lines) * LINE + 10
    return Row(f'<rect class="box {who}" x="{left:.0f}" y="0" width="{width}" height="{height}" rx="8"/>' +
               _lines(lines, left + width / 2, 3), height + 10)


def _lines(lines: list[tuple[str, str]], x: float, y: float) -> str:
    return "".join(f'<text class="{who.partition(" ")[0]}" text-anchor="middle" x="{x:.0f}" '
                   f'y="{y + LINE * (at + 1) - 2:.0f}">{escape(line)}</text>' for at, (who, line) in enumerate(lines))


def _wrapped(step: dict, width: float) -> list[tuple[str, str]]:
    """Return who changed what in *step* as lines that are not wider than *width*."""
    return [(who, line) for who, text in said(step) for line in textwrap.wrap(text, int(width / CHARACTER))]
