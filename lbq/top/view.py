"""The terminal of ``lbq top``: curses, so that it works wherever terminfo knows the terminal.

curses itself gives the terminal back at Ctrl-Z and takes it again at ``fg``; at every other end it is restored here.
"""
from __future__ import annotations

import contextlib
import curses
import os
import signal
import sys
import time

from lbq.errors import ConfigError
from lbq.top.model import ALERT, FAINT, HEADER, PLAIN, SELECTED, TITLE, Line, Top

ESCAPE_MILLISECONDS = 25        # after which an Esc was a key, not the beginning of another one's name
CLOCK_SECONDS = 1               # how often ages and the clock change
KEYS = {curses.KEY_UP: "up", curses.KEY_DOWN: "down", curses.KEY_LEFT: "left", curses.KEY_RIGHT: "right",
        curses.KEY_PPAGE: "page up", curses.KEY_NPAGE: "page down", curses.KEY_HOME: "home", curses.KEY_END: "end",
        curses.KEY_ENTER: "enter", 10: "enter", 13: "enter", 27: "escape",
        curses.KEY_BACKSPACE: "backspace", 8: "backspace", 127: "backspace"}
LOOKS = {PLAIN: curses.A_NORMAL, TITLE: curses.A_BOLD, HEADER: curses.A_REVERSE,
         SELECTED: curses.A_REVERSE | curses.A_BOLD, ALERT: curses.A_BOLD, FAINT: curses.A_DIM}
ENDS = (signal.SIGTERM, signal.SIGHUP)


def run(top: Top) -> None:
    """Show *top* until it is done."""
    try:
        curses.setupterm(fd=sys.stdout.fileno())
    except curses.error as error:
        raise _unusable(str(error)) from error
    if not curses.tigetstr("cup"):
        raise _unusable("it cannot move its cursor")
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:      # as nohup leaves it
            signal.signal(number, _end)
    _in_curses(top)


def _unusable(reason: str) -> ConfigError:
    return ConfigError(f"cannot draw on a terminal of the kind '{os.environ.get('TERM', '')}': {reason}; "
                       "set TERM, or use lbq top --once")


def _end(number: int, _) -> None:
    """End as a program does that a signal ends, but with the terminal as it was."""
    raise SystemExit(128 + number)


def _in_curses(top: Top) -> None:
    """Take the terminal, and give it back; unlike curses.wrapper without colours when the user wants none."""
    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        _show(window, top)
    finally:
        with contextlib.suppress(curses.error):     # of a terminal that has gone
            curses.endwin()     # with it echo and lines are as they were


def _show(window: curses.window, top: Top) -> None:
    curses.set_escdelay(ESCAPE_MILLISECONDS)
    with contextlib.suppress(curses.error):         # a terminal that cannot hide its cursor
        curses.curs_set(0)
    looks = {**LOOKS, **_colours()}
    while not top.is_done:
        if top.seconds_to_look(time.monotonic()) == 0:
            top.look(time.monotonic())
        now = time.monotonic()
        height, width = window.getmaxyx()
        _draw(window, top.frame(width, height, now, time.strftime("%H:%M:%S")), width, looks)
        due = top.seconds_to_look(now)
        seconds = CLOCK_SECONDS if due is None else min(due, CLOCK_SECONDS)
        window.timeout(max(int(1000 * seconds), 1))
        key = window.getch()
        if key == curses.KEY_RESIZE:
            window.clear()
        elif key in KEYS:
            top.press(KEYS[key])
        elif 32 <= key < 127:
            top.press(chr(key))
        elif key < 0 and time.monotonic() < now + seconds / 2 and not os.isatty(0):
            return                                  # the terminal has gone without a word


def _colours() -> dict[int, int]:
    """Return what looks different in colour, unless the user or the terminal wants none."""
    if os.environ.get("NO_COLOR") or not curses.has_colors():
        return {}
    curses.start_color()
    background = curses.COLOR_BLACK
    with contextlib.suppress(curses.error):
        curses.use_default_colors()
        background = -1
    for number, colour in ((1, curses.COLOR_RED), (2, curses.COLOR_CYAN)):
        curses.init_pair(number, colour, background)
    return {ALERT: curses.A_BOLD | curses.color_pair(1), TITLE: curses.A_BOLD | curses.color_pair(2)}


def _draw(window: curses.window, lines: list[Line], width: int, looks: dict[int, int]) -> None:
    window.erase()
    for number, (text, look) in enumerate(lines):
        with contextlib.suppress(curses.error):     # said of the last place on the screen, after which there is none
            window.addnstr(number, 0, text, width, looks[look])
    window.refresh()
