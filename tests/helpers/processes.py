"""The director as a process of a test: started, ready, and ended whatever happens."""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lbq.lab.namespace import Namespace, Process


def start_director(host: Namespace, *options: str, **popen_options) -> Process:
    """Start a director on *host* and return when it is ready."""
    director = host.popen([sys.executable, "-m", "lbq", *options], **popen_options)
    director.wait_for("ready")
    return director


@contextmanager
def director_in(host: Namespace, *options: str, **popen_options) -> Iterator[Process]:
    """Run a director on *host* for the length of a ``with`` block."""
    director = start_director(host, *options, **popen_options)
    try:
        yield director
    finally:
        director.stop()


def log_of(process: Process) -> str:
    """Return what a process has said on standard error."""
    return process.log.read_text(errors="replace")


def wait_until(claim, timeout: float = 10.0):
    """Return the first true value of *claim()*, asked again and again; fail after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not (value := claim()):
        assert time.monotonic() < deadline, f"still not true after {timeout:g} s: {claim}"
        time.sleep(0.02)
    return value


def children_of(pid: int) -> list[int]:
    """Return the processes that *pid* has started and that live."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Return True unless the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_of(director: Process) -> int:
    """Return the process id of a director's packet process."""
    found = [pid for pid in children_of(director.pid)
             if b"lbq.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1
    return found[0]


def signal_group(process: Process, number: int) -> None:
    """Signal a process and its children at once, as a terminal's Ctrl-C does."""
    os.killpg(process.pid, number)
