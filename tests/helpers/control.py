"""A control server for unit tests: a real socket, real messages, and methods that a test writes."""
from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

from lbq.control.client import SOCKET_NAME
from lbq.control.server import ControlServer


@contextmanager
def serving(directory: Path, methods: dict, **options):
    """Serve *methods* on the control socket in *directory* from another thread."""
    loop = asyncio.new_event_loop()
    server = ControlServer(directory / SOCKET_NAME, methods, **options)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _end(server: ControlServer) -> None:
    server.close()
    await server.disconnect()


class Peer:
    """Somebody at the control socket who may send anything."""

    def __init__(self, path: Path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def receive(self) -> dict | None:
        """Return the next answer, or None when the server has closed the connection."""
        try:
            line = self.lines.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def ask(self, line) -> dict | None:
        """Send *line* (bytes, or an object as JSON) and return the answer."""
        self.send(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        return self.receive()
