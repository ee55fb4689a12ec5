"""The control socket's client: what ``lbq list`` and its like use to ask the running director.

Plain blocking sockets: a command asks, prints and ends.
"""
from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

from lbq import errors
from lbq.errors import LbqError, NotRunning, PeerError, PermissionMissing

SOCKET_NAME = "control.sock"
TIMEOUT_SECONDS = 60
PAGE = 256


class ControlClient:
    """A connection to the director whose state is in *directory*."""

    def __init__(self, directory: Path, timeout: float = TIMEOUT_SECONDS):
        self.timeout = timeout
        self.socket = _connect(Path(directory) / SOCKET_NAME, timeout)
        self.lines = self.socket.makefile("rb")
        self.asked = 0

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self.socket.close()

    def call(self, method: str, **params):
        """Return the result of *method*; what the director refuses is raised as its own kind of error."""
        self.asked += 1
        request = {"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params}
        try:
            self.socket.sendall(json.dumps(request).encode() + b"\n")
            line = self.lines.readline()
        except TimeoutError:
            raise PeerError(f"cannot {method}: the director has not answered in {self.timeout:g} s; "
                            "its log may say why") from None
        except OSError as error:
            raise PeerError(f"cannot {method}: the director closed the connection ({error.strerror}); "
                            "its log may say why") from error
        return _result(method, line)

    def connections(self) -> Iterator[dict]:
        """Give every connection, a page at a time, so that a million of them need no memory."""
        cursor = 0
        while cursor is not None:
            page = self.call("connections", cursor=cursor, limit=PAGE)
            yield from page["connections"]
            cursor = page["next"]

    def wait_for_end(self) -> None:
        """Return when the director has closed this connection: after a stop, when all is cleaned up."""
        try:
            self.lines.readline()
        except OSError as error:
            raise PeerError(f"cannot see the director's end ({error}); its log may say why") from error


def _connect(path: Path, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        if isinstance(error, PermissionError):
            raise PermissionMissing(f"cannot speak to the director: {error.strerror}; "
                                    "only root may (try sudo)") from error
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            raise NotRunning("no director runs in this network namespace; "
                             "start one with lbq --vip VIP:PORT --mode nat") from error
        raise PeerError(f"cannot speak to the director over {path}: {error}") from error
    return connection


def _result(method: str, line: bytes):
    """Return the result in an answer's *line*, or raise the error it carries."""
    if not line.endswith(b"\n"):
        raise PeerError(f"cannot {method}: the director closed the connection; its log may say why")
    try:
        answer = json.loads(line)
        error = answer.get("error")
        if error is None:
            return answer["result"]
        kind, message = error.get("data", {}).get("kind", "PeerError"), error["message"]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise PeerError(f"cannot {method}: the answer is not JSON-RPC 2.0") from error
    found = getattr(errors, str(kind), None)
    raise (found if isinstance(found, type) and issubclass(found, LbqError) else PeerError)(message)
