"""A director for ``lbq-ipvsadm`` when none runs: started with LBQ_AUTOSTART=1, else how to start one is said.

It is ``lbq serve`` in a session of its own, so that it outlives the command, its terminal and ``-C``; ``lbq stop``
ends it.  Its log goes to the journal where there is one (``journalctl -t lbq``), else to /var/log/lbq.log.
"""
from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from lbq.control.client import ControlClient
from lbq.errors import HostError, NotRunning
from lbq.host.setup import state_directory
from lbq.lock import FILE_NAME

JOURNAL = Path("/run/systemd/journal/stdout")
JOURNAL_GREETING = b"lbq\n\n6\n0\n0\n0\n0\n"     # a name, no unit, the level "info", and nothing special
LOG = Path("/var/log/lbq.log")
START_SECONDS = 30          # what another one that is just starting may take
HOW = ("no director runs in this network namespace; start one with lbq serve, or set LBQ_AUTOSTART=1 to have "
       "it started when it is needed")


def connect() -> ControlClient:
    """Return a client of the director in this network namespace, starting it when that is wished."""
    try:
        return ControlClient(state_directory())
    except NotRunning:
        if os.environ.get("LBQ_AUTOSTART") != "1":
            raise NotRunning(HOW) from None
    start()
    return ControlClient(state_directory())


def start() -> None:
    """Start a director and return when it is ready, be it one that somebody else starts just now."""
    log, environment = _journal()
    begin = 0
    if log is None:
        log = _open_log()
        begin = os.fstat(log).st_size
    with os.fdopen(log, "wb", 0):
        process = subprocess.Popen([sys.executable, "-P", "-m", "lbq", "serve"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=log, start_new_session=True, cwd="/",
                                   env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                                        **environment})
    with process.stdout:
        if process.stdout.readline().startswith(b"ready"):
            return
    process.wait()
    if not _wait_for_another():
        raise HostError(f"cannot start a director: {'journalctl -t lbq says why' if environment else _reason(begin)}")


def _journal() -> tuple[int | None, dict[str, str]]:
    """Return a descriptor of the journal and the environment of what writes there, or None and nothing."""
    try:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(str(JOURNAL))
        stream.sendall(JOURNAL_GREETING)
    except OSError:
        stream.close()
        return None, {}
    about = os.fstat(stream.fileno())
    return stream.detach(), {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}


def _open_log() -> int:
    try:
        return os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    except OSError as error:
        raise HostError(f"cannot start a director: cannot write its log, {LOG}: {error.strerror}; "
                        "start one with lbq serve") from error


def _wait_for_another() -> bool:
    """Return True when a director that somebody else started is ready, False when there is none."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and (state_directory() / FILE_NAME).exists():
        try:
            ControlClient(state_directory()).close()
            return True
        except NotRunning:
            time.sleep(0.1)
    return False


def _reason(begin: int) -> str:
    """Return the last line that was logged from *begin* on."""
    with open(LOG, errors="replace") as log:
        log.seek(begin)
        lines = log.read().strip().splitlines()
    return lines[-1].removeprefix("lbq: ") if lines else f"it said nothing; see {LOG}"
