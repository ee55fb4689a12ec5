"""One director a network namespace: a lock on its state folder, held as long as the director lives.

The lock is flock on the file ``lock``, which also says the holder's process id.  The kernel releases it with
the process, however that ends.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from lbq.errors import DirectorRunning, HostError

FILE_NAME = "lock"


class DirectoryLock:
    """``with DirectoryLock(folder):`` makes the folder and owns it; an empty folder is gone afterwards."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.path = directory / FILE_NAME
        self.descriptor = -1

    def __enter__(self) -> DirectoryLock:
        while self.descriptor < 0:
            self.descriptor = self._acquire()
        os.ftruncate(self.descriptor, 0)
        os.write(self.descriptor, f"{os.getpid()}\n".encode())
        return self

    def __exit__(self, *_) -> None:
        self.path.unlink(missing_ok=True)           # while we hold it: whoever opened it looks again
        with contextlib.suppress(OSError):
            self.directory.rmdir()                  # not while an undo.json is in it
        os.close(self.descriptor)
        self.descriptor = -1

    def _acquire(self) -> int:
        """Return a locked descriptor, or -1 when the file was removed meanwhile by one who stopped."""
        try:
            self.directory.parent.mkdir(mode=0o755, exist_ok=True)
            self.directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise HostError(f"cannot use {self.directory}: {error.strerror}; "
                            "lbq keeps its state there") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(self.path).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            pid, *_ = os.read(descriptor, 32).decode(errors="replace").split() or ["unknown"]
            os.close(descriptor)
            raise DirectorRunning(f"a director already runs in this network namespace (pid {pid}); "
                                  "change it with lbq add|set|del, or end it with lbq stop") from None
        os.close(descriptor)
        return -1
