"""Columns that fit: which there is room for, how wide each is, and what is cut."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

NUMBER_WIDTH = 6        # of short(), and of the titles above numbers
UNITS = ((10**3, "k"), (10**6, "M"), (10**9, "G"), (10**12, "T"))


class Marks(NamedTuple):
    """The signs that a terminal may not have."""

    more: str
    up: str
    down: str
    arrow: str


UTF8 = Marks("…", "▲", "▼", "→")
ASCII = Marks("~", "^", "v", "->")


def short(number: int) -> str:
    """Return *number* in at most five characters: ``99999``, ``100k``, ``9999k``, ``10M``."""
    if number < 10**5:
        return str(number)
    unit, suffix = next(((unit, suffix) for unit, suffix in UNITS if number < unit * 10**4), UNITS[-1])
    return f"{min(number // unit, 9999)}{suffix}"


class Column(NamedTuple):
    """A column: where the terminal is too narrow for all, those of the least importance are left away."""

    title: str
    importance: float
    value: Callable[[Any], Any]                     # of a row; rows are sorted by it
    show: Callable[[Any], str] = short              # of a value
    least: int = NUMBER_WIDTH                       # characters

    @property
    def is_number(self) -> bool:
        """Whether it is set to the right, and sorted with the largest first."""
        return self.show is short


def duration(seconds: int) -> str:
    """Return ``59 s``, ``1:00``, ``1:00:00`` or ``2 d 1:00:00``."""
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if days or hours else f"{minutes}:{seconds:02}"
    return f"{days} d {clock}" if days else clock


def cut(text: str, width: int, more: str) -> str:
    """Return *text* in *width* characters, without its middle when it is longer: the port stays."""
    if len(text) <= width:
        return text
    kept = max(width - len(more), 0)
    tail = kept // 2
    return (text[:kept - tail] + more + text[len(text) - tail:])[:width]


def flow(words: Sequence[str], width: int, lines: int) -> list[str]:
    """Return *words* with two blanks between them, wrapped into at most so many *lines*."""
    flowed = [""]
    for word in words:
        longer = f"{flowed[-1]}  {word}" if flowed[-1] else word
        if len(longer) <= width or not flowed[-1]:
            flowed[-1] = longer
        else:
            flowed.append(word)
    return [line[:width] for line in flowed[:lines]]


def fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[tuple[int, int]]:
    """Return (number, width) of the columns that have room in *width* above the rows *cells*, in their order.

    The most important one gets what it needs, up to half of the width; what is left over goes to text that would be
    cut, the most important first.
    """
    by_importance = sorted(range(len(columns)), key=lambda number: -columns[number].importance)
    wanted = {number: max([columns[number].least, *(len(row[number]) for row in cells)]) for number in by_importance}
    room, widths = width, {}
    for number in by_importance:
        least = columns[number].least if widths else max(columns[number].least, min(wanted[number], width // 2))
        gap = 1 if widths else 0
        if widths and least + gap > room:
            break
        widths[number] = min(least, room)
        room -= least + gap
    for number in widths:
        extra = min(max(wanted[number] - widths[number], 0), max(room, 0))
        widths[number] += extra
        room -= extra
    return sorted(widths.items())


def table(columns: Sequence[Column], rows: Sequence[Any], width: int, marks: Marks,
          sorted_by: int | None = None, is_reversed: bool = False) -> Iterator[str]:
    """Give the line of titles, with a mark at the column that rows are *sorted_by*, and a line for each of *rows*."""
    cells = [[column.show(column.value(row)) for column in columns] for row in rows]
    fitted = fit(columns, cells, width)
    titles = []
    for number, column in enumerate(columns):
        mark = (marks.down if is_reversed else marks.up) if number == sorted_by else ""
        titles.append(mark + column.title if column.is_number else column.title + mark)
    for row in (titles, *cells):
        line = ""
        for number, its_width in fitted:
            if columns[number].is_number:       # the mark may take the blank in front
                line += row[number].rjust(its_width + 1) if line else row[number].rjust(its_width)
            else:
                line += (" " if line else "") + cut(row[number], its_width, marks.more).ljust(its_width)
        yield line[:width]
