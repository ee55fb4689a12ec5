"""A program in a real pseudo-terminal, with an emulator (pyte) that knows what its user would see.

    with Terminal([sys.executable, "-m", "lbq", "top"]) as terminal:
        terminal.wait_for("services: 1")
        terminal.press("q")
        assert terminal.end() == 0
"""
from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence

import pyte

KEYS = {"up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C", "left": "\x1b[D", "enter": "\r", "escape": "\x1b",
        "page down": "\x1b[6~", "end": "\x1b[4~", "home": "\x1b[1~", "ctrl-c": "\x03", "ctrl-z": "\x1a"}
PATIENCE_SECONDS = 20
SETTLED_SECONDS = 0.05          # without a word after which a screen is taken to be drawn


class Terminal:
    """The program *command*, on a screen of its own."""

    def __init__(self, command: Sequence[str], columns: int = 80, lines: int = 24, **environment: str):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.ours, theirs = pty.openpty()
        self._set_size(columns, lines)
        environment = {**os.environ, "TERM": "linux", "LC_ALL": "C.UTF-8", "PS1": "$ ", **environment}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
                                        start_new_session=True, preexec_fn=_take_terminal)
        self.modes = termios.tcgetattr(theirs)
        self.theirs = theirs

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """Take the terminal away, as when a connection breaks."""
        if self.ours >= 0:
            os.close(self.ours)
            os.close(self.theirs)
            self.ours = -1

    def press(self, *keys: str) -> None:
        """Type keys by name, or text."""
        for key in keys:
            os.write(self.ours, KEYS.get(key, key).encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size."""
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    @property
    def lines(self) -> list[str]:
        """What is on the screen."""
        return [line.rstrip() for line in self.screen.display]

    def wait_for(self, text: str) -> list[str]:
        """Return the screen as soon as it contains *text*."""
        return self.wait_until(lambda lines: text in "\n".join(lines))

    def wait_until(self, claim: Callable[[list[str]], bool]) -> list[str]:
        """Return the screen when *claim* of its lines is true, and nothing more is being drawn."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (claim(self.lines) and not self._read(SETTLED_SECONDS)):
            assert time.monotonic() < deadline, "never seen; the screen:\n" + "\n".join(self.lines)
            self._read(0.1)
        return self.lines

    def end(self) -> int:
        """Return the program's exit status, when it has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end; the screen:\n" + "\n".join(self.lines)
            self._read(0.05)
        self._read(0)
        return self.process.returncode

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send the program a signal."""
        self.process.send_signal(number)

    def is_restored(self) -> bool:
        """Return True when the terminal is as the program has found it: echo, lines, cursor."""
        return termios.tcgetattr(self.theirs)[:4] == self.modes[:4] and not self.screen.cursor.hidden

    def _read(self, seconds: float) -> bool:
        """Let the screen show what is written within so many *seconds*; return whether that was anything."""
        something = False
        while select.select([self.ours], [], [], 0 if something else seconds)[0]:
            self.stream.feed(os.read(self.ours, 65536))
            something = True
        return something

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
