"""A line on the terminal that says how far it is, and how long the rest takes."""
from __future__ import annotations

import sys
import time

from lbq.bench.progress import Progress

WIDTH = 30
BETWEEN_SECONDS = 0.2
EXPECTED = 4e-6             # seconds for a unit of work, before there is a pace to go by


class Bar:
    """Shows progress on standard error when that is a terminal, and is gone at the end."""

    def __init__(self, what: str, total: int):
        self.what = what
        self._total = total
        self._done = 0
        self._progress = Progress(total * EXPECTED)
        self._shown = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def more(self, amount: int) -> None:
        """Note that so much more is done."""
        self._done += amount
        self._progress.done(amount * EXPECTED)
        if self._is_terminal and time.monotonic() - self._shown >= BETWEEN_SECONDS:
            self._shown = time.monotonic()
            print(f"\r{self.line()}\x1b[K", end="", file=sys.stderr, flush=True)

    def to(self, done: int) -> None:
        """Note how much is done in all."""
        self.more(done - self._done)

    def line(self) -> str:
        """Return what is shown; of a pipe nobody knows how long it is."""
        if not self._total:
            return f"{self.what} {self._done:,} bytes"
        part = min(self._done / self._total, 1.0)
        filled = round(part * WIDTH)
        return f"{self.what} [{'#' * filled}{'.' * (WIDTH - filled)}] {part:4.0%} {self._progress.left()} left"

    def end(self) -> None:
        """Take the line away."""
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
