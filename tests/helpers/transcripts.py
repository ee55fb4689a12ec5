"""Recorded sessions with the real ipvsadm: read, and played again on lbq-ipvsadm.

    === section
    $ command           what it printed, ``[stderr] `` before what it complained of, ``[exit N]`` at its end
    client> …           what a client in the recording did; other lines between commands are what it saw

A command line is run as it stands: plain ones in this process, those with pipes and files by bash, for which a
stand-in named ``ipvsadm`` hands its words and its input back to this process.
"""
from __future__ import annotations

import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from lbq import ipvsadm

PROGRAMS = ("ipvsadm", "ipvsadm-save", "ipvsadm-restore")
STAND_IN = """#!{python} -IS
import json, os, socket, sys
reads = any(word in ("-R", "--restore") for word in sys.argv) or sys.argv[0].endswith("-restore")
asked = [[os.path.basename(sys.argv[0]), *sys.argv[1:]], sys.stdin.buffer.read().decode("latin1") if reads else ""]
with socket.socket(socket.AF_UNIX) as there:
    there.connect({path!r})
    there.sendall(json.dumps(asked).encode() + b"\\n")
    out, error, status = json.loads(there.makefile("rb").readline())
sys.stdout.write(out)
sys.stderr.write(error)
sys.exit(status)
"""


@dataclass
class Entry:
    """One command or one client's action, and what was seen."""

    section: str
    command: str = ""
    client: str = ""
    lines: list[str] = field(default_factory=list)


def read(path: Path) -> list[Entry]:
    """Return the entries of a transcript."""
    entries, section, current = [], "", None
    for line in path.read_text().splitlines():
        if line.startswith("=== "):
            section, current = line[4:], None
        elif line.startswith("$ ") or line.startswith("client> "):
            current = Entry(section, line[2:]) if line.startswith("$ ") else Entry(section, client=line[8:])
            entries.append(current)
        elif current is not None:
            current.lines.append(line)
            if line.startswith("[exit "):
                current = None
    return entries


def run(director, words: list[str], stdin: bytes = b"") -> tuple[str, str, int]:
    """Run lbq-ipvsadm in this process; return what it printed and complained of, and its exit status.

    Without a *director* it looks for one itself.
    """
    out, error = io.StringIO(), io.StringIO()
    connect = director.connect if director else None
    status = ipvsadm.main(words, ipvsadm.Streams(io.BytesIO(stdin), out, error), connect)
    return out.getvalue(), error.getvalue(), status


def said(out: str, error: str, status: int) -> list[str]:
    """Return an answer as a transcript has it."""
    return [*out.splitlines(), *(f"[stderr] {line}" for line in error.splitlines()), f"[exit {status}]"]


class Shell:
    """Runs command lines against a director; paths under /run are in *folder*."""

    def __init__(self, director, folder: Path):
        self.director = director
        self.folder = folder
        self.socket = None

    def run(self, line: str) -> list[str]:
        """Return what *line* prints, as a transcript has it."""
        if re.search(r"[|<>;$`]", line):
            return self._bash(line)
        return said(*run(self.director, shlex.split(line)))

    def close(self) -> None:
        """Let no further stand-in in."""
        if self.socket is not None:
            self.socket.close()

    def _bash(self, line: str) -> list[str]:
        if self.socket is None:
            self._listen()
        done = subprocess.Popen(["bash", "-c", line.replace("/run/", f"{self.folder}/")], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                env={**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"})
        waiter = threading.Thread(target=done.wait)
        waiter.start()
        while waiter.is_alive():                # in this thread: directors know but one
            try:
                self._answer()
            except TimeoutError:
                waiter.join(0.01)
        return said(*done.communicate(), done.returncode)

    def _listen(self) -> None:
        path = self.folder / "stand-in"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.socket.settimeout(0.01)
        (self.folder / "bin").mkdir()
        for name in PROGRAMS:
            program = self.folder / "bin" / name
            program.write_text(STAND_IN.format(python=sys.executable, path=str(path)))
            program.chmod(0o755)

    def _answer(self) -> None:
        peer, _ = self.socket.accept()
        peer.settimeout(10)
        with peer:
            words, stdin = json.loads(peer.makefile("rb").readline())
            answer = run(self.director, words, stdin.encode("latin1"))
            peer.sendall(json.dumps(answer).encode() + b"\n")
