"""How Ctrl-C and its kin end a program that has something to take down.

    signals.listen()
    try:
        try:
            …                       # signals.check() now and then
        finally:
            signals.ignore()        # from here on nothing interrupts
    except signals.Interrupted as interrupted:
        status = interrupted.status

The first signal raises Interrupted wherever the program is; more of them are ignored.
"""
from __future__ import annotations

import signal
import sys

from lbq.lab.namespace import SIGNALS

_received: list[int] = []       # the signal that asked for the end


class Interrupted(BaseException):
    """A signal asked for the end (no Exception, so that no library takes it for an error of its own)."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def listen() -> None:
    """Turn the first signal into an exception; more of them are ignored.

    Python drops an exception that comes up while it frees an object; check() raises it then.
    """
    def interrupt(number, frame):
        ignore()
        _received.append(number)
        raise Interrupted(number)

    def unraisable(unraisable):
        if not isinstance(unraisable.exc_value, Interrupted):
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = unraisable
    for number in SIGNALS:
        signal.signal(number, interrupt)


def ignore() -> None:
    """Let no signal interrupt from here on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def note() -> None:
    """Let no signal interrupt from here on, but remember it: check() raises it then."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: _received.append(number))


def check() -> None:
    """Raise Interrupted when a signal has come."""
    if _received:
        raise Interrupted(_received[0])
