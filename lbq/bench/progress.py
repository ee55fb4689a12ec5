"""How long the benchmark still takes."""
from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Work done and to do, in seconds as expected; the pace so far corrects what is expected of the rest."""

    def __init__(self, expected_seconds: float, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start = clock()
        self._to_do = expected_seconds
        self._done = 0.0

    def done(self, expected_seconds: float) -> None:
        """Note that a part of the work is done."""
        self._done += expected_seconds
        self._to_do -= expected_seconds

    def drop(self, expected_seconds: float) -> None:
        """Note that a part of the work will not be done."""
        self._to_do -= expected_seconds

    def left(self) -> str:
        """Return about how long the rest takes, in words."""
        pace = (self._clock() - self._start) / self._done if self._done else 1.0
        return in_words(max(self._to_do, 0.0) * pace)


def in_words(seconds: float) -> str:
    """Return *seconds* as a person says it: ``40 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
