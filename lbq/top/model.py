"""What keys do, and which lines are on the screen: everything of ``lbq top`` but the terminal itself."""
from __future__ import annotations

import time
from typing import NamedTuple

from lbq.errors import ConfigError
from lbq.grammar import did_you_mean
from lbq.log import one_line
from lbq.losses import DROPPED
from lbq.top.keys import ACTIONS, KEYS, moved
from lbq.top.layout import Marks, duration, flow, short, table
from lbq.top.levels import Level, Services, decision_columns
from lbq.top.watch import Watch

PLAIN, TITLE, HEADER, SELECTED, ALERT, FAINT = range(6)     # how a line looks
NEWEST_LINES = 5
NEWEST_FROM_HEIGHT = 18         # on lower screens there is no room for them
SOON = 0.2                      # seconds between two looks, however many keys are pressed

NOTES = (
    "Rates are the director's averages, in which each two seconds count a quarter.",
    "UP/ALL: servers that take something new, of all.  BOUND: persistent clients.",
    "PKT/S: packets in both directions.  IN/S, OUT/S: bytes of requests, of answers.",
    "Of more than one look reads, the rows on the screen are read each time and the",
    "others in turn: the order is as new as that.",
)


class Line(NamedTuple):
    """A line of the screen, and how it looks."""

    text: str
    look: int = PLAIN


class Top:
    """What is shown of *watch*, and where one is in it."""

    def __init__(self, watch: Watch, interval: float, marks: Marks, sort: str | None = None):
        self.watch = watch
        self.interval = interval
        self.marks = marks
        self.levels: list[Level] = [Services()]
        self.is_paused = False
        self.is_helping = False
        self.typed: str | None = None       # what is being typed as a filter
        self.message = ""                   # about the last key
        self.is_done = False
        self.look_due = 0.0                 # when the director is asked next
        self._body = 1                      # rows that the last frame had room for
        self._shown: list = []              # and which it had
        if sort is not None:
            self.do_sort_by(sort)

    @property
    def level(self) -> Level:
        """Where one is."""
        return self.levels[-1]

    # ---- Looking ---------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Ask the director, and say when to do so again."""
        shown = [row.key for row in self._shown] if isinstance(self.level, Services) else ()
        self.watch.look(now, shown, self.level.entered)
        self.look_due = time.monotonic() + self.interval        # after the answer: a slow director is asked less often
        while self.level.is_gone(self.watch):
            self.levels.pop()
            self._arrive("it was deleted")

    def seconds_to_look(self, now: float) -> float | None:
        """Return how long it is until the director should be asked; None while paused."""
        return None if self.is_paused else max(self.look_due - now, 0)

    def _arrive(self, message: str = "") -> None:
        """See what the level that one is at now is about."""
        self._shown, self.message = [], message
        self.watch.want(self.level.wanted)
        self.look_due = min(self.look_due, time.monotonic() + SOON)

    # ---- Keys ------------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Do what *key* is for: a sign that was typed, or a name such as ``page up``."""
        self.message = ""
        if self.typed is not None:
            self._type(key)
        elif self.is_helping:
            self.is_helping = False
            self.is_done = key == "q"
        elif key in ACTIONS:
            getattr(self, f"do_{ACTIONS[key]}")()
        else:
            rows = self.level.rows(self.watch)
            index = moved(key, self.level.place(rows, self._body), self._body, len(rows))
            if index is None:
                self.message = "no such key; h shows those there are"
            else:
                self.level.move(rows, index)

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self.level.filter = self.typed if key == "enter" else self.level.filter
            self.typed = None
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif len(key) == 1:
            self.typed += key

    def do_enter(self) -> None:
        """Look into the selected row."""
        rows = self.level.rows(self.watch)
        number = self.level.place(rows, self._body)
        inside = self.level.enter(rows[number]) if number >= 0 else None
        if inside is None:
            self.message = "there is nothing more to be seen of it" if rows else "there is no row"
            return
        self.level.selected = self.level.identity(rows[number])
        self.levels.append(inside)
        self._arrive()

    def do_back(self) -> None:
        """Take the filter away, or leave the level."""
        if self.level.filter:
            self.level.filter = ""
        elif len(self.levels) > 1:
            self.levels.pop()
            self._arrive()

    def do_sort_left(self) -> None:
        """Sort by the column to the left."""
        self.level.sort_by(self.level.sorted_by - 1)

    def do_sort_right(self) -> None:
        """Sort by the column to the right."""
        self.level.sort_by(self.level.sorted_by + 1)

    def do_sort_by(self, title: str) -> None:
        """Sort by the column called *title*."""
        titles = [column.title.lower() for column in self.level.columns]
        if title.lower() not in titles:
            raise ConfigError(f"no column '{title}'{did_you_mean(title, titles)}; there are {', '.join(titles)}")
        self.level.sort_by(titles.index(title.lower()))

    def do_reverse(self) -> None:
        """Turn the order round."""
        self.level.is_reversed = not self.level.is_reversed

    def do_filter(self) -> None:
        """Begin to type a filter."""
        self.typed = ""

    def do_pause(self) -> None:
        """Stop asking the director, or go on."""
        self.is_paused = not self.is_paused

    def do_help(self) -> None:
        """Show what keys do."""
        self.is_helping = True

    def do_quit(self) -> None:
        """End."""
        self.is_done = True

    # ---- Lines -----------------------------------------------------------------------------------------------

    def frame(self, width: int, height: int, now: float, clock: str, is_live: bool = True) -> list[Line]:
        """Return the *height* lines of a screen at *now*, *clock* to people; one that is not *live* takes no keys."""
        if self.is_helping:
            return self._fitted(self._help_lines(), width, height)
        lines = self._header(width, max(height // 3, 2), now, clock)
        foot = [self._foot(width)] if is_live else []
        newest = self._newest(width, now) if height >= NEWEST_FROM_HEIGHT and not self.level.wanted else []
        self._body = max(height - len(lines) - len(newest) - len(foot) - 2, 1)
        lines += self._rows(width, is_live)
        lines += [Line("")] * (height - len(lines) - len(newest) - len(foot))
        return self._fitted(lines + newest, width, height - len(foot)) + self._fitted(foot, width, len(foot))

    def _fitted(self, lines: list[Line], width: int, height: int) -> list[Line]:
        """Return *lines* without what has no room, and without signs that the terminal has not."""
        fitted = []
        for text, look in lines[:height]:
            text = one_line(text)
            if self.marks.more.isascii():
                text = text.encode("ascii", "replace").decode()
            fitted.append(Line(text if len(text) <= width else text[:width - 1] + self.marks.more, look))
        return fitted

    def _header(self, width: int, height: int, now: float, clock: str) -> list[Line]:
        """Return what is said of the director, the most important first, in *height* lines."""
        watch = self.watch
        status, totals = watch.status, watch.totals
        words = ["lbq top"]
        age = 0 if watch.looked_at is None else int(now - watch.looked_at)
        if status:
            words += [clock, "up " + duration(max(int(time.time()) - age - status["started"], 0)),
                      f"engine {status['engine']}", f"data path {status['data_path']}"]
            if status["workers"] > 1:
                words.append(f"workers {status['workers']}")
            if status["traced"]:
                words.append("traced")
        if self.is_paused:
            words.insert(1, "PAUSED")
        lines = [Line(text, TITLE) for text in flow(words, width, 1)]
        if watch.error:
            old = "" if watch.looked_at is None else f"what is below is {duration(age)} old: "
            lines.append(Line(old + str(watch.error), ALERT))
        if totals:
            lines += self._counted(width)
        return lines[:height]

    def _counted(self, width: int) -> list[Line]:
        """Return connections, rates, queues, losses and states, if there are any."""
        watch = self.watch
        counters, queue, rates = watch.totals["counters"], watch.totals["queue"], watch.totals["total"]["rates"]
        lost = sum(watch.losses.values())
        lost_second = sum(watch.losses_second.values())
        lines = [Line(text) for text in flow([
            f"connections {counters['connections']} of {counters['connections_max']}",
            f"new {short(rates['conns'])}/s",
            f"packets in {short(rates['packets_in'])}/s out {short(rates['packets_out'])}/s",
            f"bytes in {short(rates['bytes_in'])}/s out {short(rates['bytes_out'])}/s"], width, 4)]
        words = ["queue not bound"] if queue is None else [
            f"queue waiting {queue['waiting']}", f"dropped {queue['queue_dropped']}",
            f"socket overruns {queue['user_dropped']}"]
        look = ALERT if lost_second or queue is None else PLAIN
        lines += [Line(text, look) for text in flow([*words, f"lost {lost}, {lost_second:.0f}/s"], width, 2)]
        if lost:
            kind = max(watch.losses, key=lambda kind: (watch.losses_second.get(kind, 0), watch.losses[kind]))
            lines.append(Line(f"lost: {watch.losses[kind]}, {watch.losses_second.get(kind, 0):.0f}/s, {DROPPED[kind]} "
                              f"({kind})", ALERT if watch.losses_second.get(kind) else PLAIN))
        states = [f"{state} {count}" for state, count in watch.connections.states.most_common()]
        about = "states" if watch.connections.are_states_whole else f"states of the first {watch.connections.seen}"
        return lines + [Line(text) for text in flow([about, *(states or ["no connection"])], width, 1)]

    def _rows(self, width: int, is_live: bool) -> list[Line]:
        """Return what is shown, the titles of its columns, and the rows that have room."""
        level = self.level
        rows = level.rows(self.watch)
        selected = level.place(rows, self._body)
        self._shown = rows[level.first:level.first + self._body]
        heading = level.heading(self.watch, len(level.all(self.watch)))
        if level.filter:
            heading += f", with '{level.filter}': {len(rows)}"
        titles, *lines = table(level.columns, self._shown, width, self.marks, level.sorted_by, level.is_descending)
        looks = [SELECTED if is_live and number == selected - level.first else FAINT if self.watch.error else PLAIN
                 for number in range(len(lines))]
        return [Line(heading, TITLE), Line(titles.ljust(width), HEADER),
                *(Line(text.ljust(width) if look == SELECTED else text, look)
                  for text, look in zip(lines, looks, strict=True))]

    def _newest(self, width: int, now: float) -> list[Line]:
        """Return the newest decisions."""
        source = self.watch.newest
        if not self.watch.totals:
            return []
        remark = source.remark()
        _, *lines = table(decision_columns(now, self.marks.arrow), source.newest(NEWEST_LINES), width, self.marks)
        lines += [""] * (NEWEST_LINES - len(lines))
        return [Line(f"{source.title}: {remark}" if remark else source.title, TITLE), *map(Line, lines)]

    def _foot(self, width: int) -> Line:
        """Return what may be pressed, what is being typed, or what was wrong with the last key."""
        if self.typed is not None:
            return Line(f"show only what contains: {self.typed}_   (enter, esc)", HEADER)
        if self.message:
            return Line(self.message, ALERT)
        level = self.level
        words = ["h help", "q quit", *([f"enter {level.inside}"] if level.inside else []),
                 *(["esc back"] if len(self.levels) > 1 or level.filter else []), "< > sort", "r reverse", "/ filter",
                 "space go on" if self.is_paused else "space pause"]
        return Line(flow(words, width, 1)[0], FAINT)

    def _help_lines(self) -> list[Line]:
        return [Line("lbq top: keys", TITLE), Line(""), *(Line(f"  {keys:<14}{what}") for keys, what in KEYS), Line(""),
                *(Line(f"  {note}") for note in NOTES), Line(""), Line("Any key goes back.", FAINT)]
