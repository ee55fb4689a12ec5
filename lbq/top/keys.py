"""The keys of ``lbq top``: what each does, for the model and for the help."""
from __future__ import annotations

KEYS = (
    ("up down, k j", "select a row; page up, page down, home and end go further"),
    ("enter, right", "look into it: a service's servers, a server's connections"),
    ("esc, left", "back; takes a filter away first"),
    ("< >", "sort by the column to the left, to the right"),
    ("r", "turn the order round"),
    ("/", "show only rows that contain a text"),
    ("space", "pause: the director is not asked"),
    ("h, ?", "this help"),
    ("q", "quit"),
)
ACTIONS = {                         # the name of what Top does
    "enter": "enter", "right": "enter", "escape": "back", "left": "back", "backspace": "back", "<": "sort_left",
    ">": "sort_right", "r": "reverse", "/": "filter", " ": "pause", "h": "help", "?": "help", "q": "quit"}
MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}      # rows
PAGES = {"page up": -1, "page down": 1}
ENDS = {"home": 0, "end": -1}                       # index of a row


def moved(key: str, at: int, page: int, count: int) -> int | None:
    """Return the row that *key* goes to from *at*, of *count* in pages of so many; None: it goes nowhere."""
    if key in ENDS:
        return range(count)[ENDS[key]] if count else 0
    steps = MOVES.get(key, PAGES.get(key, 0) * page)
    return at + steps if steps else None
