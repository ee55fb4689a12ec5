"""States on an ellipse and an arrow for every change, as SVG."""
from __future__ import annotations

from math import cos, hypot, pi, sin
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 620
BOX_WIDTH, BOX_HEIGHT = 124, 30
BEND = 0.16         # how far an arrow leaves the straight line, so that there and back are two
LABEL_AT = 0.36     # of the way: nearer to where it comes from, where arrows are further apart
INK = "#1f2933"
COLOURS = ("#1d5fbf", "#b3261e", "#1b7f4b", "#8a4baf", "#a15c00", "#00707a")
Point = tuple[float, float]


def draw(title: str, states: list[str], changes: dict[tuple[str, str], str]) -> str:
    """Return the picture of *changes*: what leads from one state to another, by the pair."""
    places = _places(states)
    colours = {state: COLOURS[number % len(COLOURS)] for number, state in enumerate(states)}
    arrows, labels = [], []
    for (one, other), events in changes.items():
        arrow, label = _arrow(places[one], places[other], events, colours[one])
        arrows.append(arrow)
        labels.append(label)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12">', f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *arrows, *labels, *(_box(state, places[state], colours[state]) for state in states), "</svg>"]) + "\n"


def _places(states: list[str]) -> dict[str, Point]:
    """Return where each state is: round the ellipse, the first on top; a single one in the middle."""
    if len(states) == 1:
        return {states[0]: (WIDTH / 2, HEIGHT / 2)}
    angles = {state: 2 * pi * number / len(states) for number, state in enumerate(states)}
    return {state: (WIDTH / 2 + (WIDTH / 2 - BOX_WIDTH / 2 - 10) * sin(angle),
                    HEIGHT / 2 - (HEIGHT / 2 - BOX_HEIGHT / 2 - 10) * cos(angle)) for state, angle in angles.items()}


def _box(state: str, at: Point, colour: str) -> str:
    x, y = at
    return (f'<rect x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
            f'rx="8" fill="#ffffff" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" fill="{INK}">{escape(state)}</text>')


def _arrow(one: Point, other: Point, events: str, colour: str) -> tuple[str, str]:
    """Return a bent arrow from box to box, with its head, and the label beside it."""
    dx, dy = other[0] - one[0], other[1] - one[1]
    middle = (one[0] + dx / 2 - dy * BEND, one[1] + dy / 2 + dx * BEND)
    start, end = _edge(one, middle), _edge(other, middle)
    length = hypot(end[0] - middle[0], end[1] - middle[1])
    ux, uy = (end[0] - middle[0]) / length, (end[1] - middle[1]) / length
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in (
        end, (end[0] - 10 * ux - 4 * uy, end[1] - 10 * uy + 4 * ux),
        (end[0] - 10 * ux + 4 * uy, end[1] - 10 * uy - 4 * ux)))
    t = LABEL_AT
    x, y = ((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t ** 2 * c for a, b, c in zip(start, middle, end, strict=True))
    return (f'<path d="M{start[0]:.1f} {start[1]:.1f} Q{middle[0]:.1f} {middle[1]:.1f} {end[0]:.1f} {end[1]:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="1.3"/><polygon points="{head}" fill="{colour}"/>',
            f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" fill="{colour}" stroke="#ffffff" '
            f'stroke-width="4" paint-order="stroke">{escape(events)}</text>')


def _edge(centre: Point, towards: Point) -> Point:
    """Return where the way from the *centre* of a box leaves the box."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    scale = min(BOX_WIDTH / 2 / abs(dx) if dx else 1e9, BOX_HEIGHT / 2 / abs(dy) if dy else 1e9)
    return centre[0] + dx * scale, centre[1] + dy * scale
