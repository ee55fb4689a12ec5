"""The control socket's server: JSON-RPC 2.0, one message a line, for peers with the director's own user id.

Whoever connects may send anything, slowly, or nothing at all: lines, clients, idle time and unread answers
are bounded, and a peer that breaks a bound loses its connection, nobody else's.
"""
from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from lbq.errors import HostError, LbqError

LINE_BYTES = 4 << 20     # tens of thousands of servers, for `lbq import`
CLIENTS = 64
IDLE_SECONDS = 60       # how long a client may say nothing, or let an answer lie unread
LEAVE_SECONDS = 1       # what the ends of conversations may take when the director stops
EXAMPLE = '{"jsonrpc": "2.0", "id": 1, "method": "add_server", "params": {"service": "…", "server": "…"}}'

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
NO_METHOD = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
LBQ_ERROR = -32000

Method = Callable[..., Awaitable[object]]
logger = logging.getLogger("lbq.control")


class Refused(Exception):
    """A request that is answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, **data):
        super().__init__(message)
        self.code = code
        self.data = data


class ControlServer:
    """Listens on a unix socket and calls *methods*, by name, with the parameters of each request."""

    def __init__(self, path: Path, methods: Mapping[str, Method], idle_seconds: float = IDLE_SECONDS):
        self.path = path
        self.methods = methods
        self.idle_seconds = idle_seconds
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task, asyncio.StreamWriter] = {}

    async def start(self) -> None:
        """Listen; a socket left by a crash is replaced (the caller holds the namespace's lock)."""
        before = os.umask(0o177)        # mode 0600 from the first moment on
        try:
            self.path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self.path, limit=LINE_BYTES)
        except OSError as error:
            raise HostError(f"cannot listen on {self.path}: {error.strerror}; "
                            "look what is there, and remove it") from error
        finally:
            os.umask(before)

    def close(self) -> None:
        """Stop listening and remove the socket; clients that are connected keep their connection."""
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    async def disconnect(self) -> None:
        """Close every client's connection: the sign for `lbq stop` that all is cleaned up."""
        for writer in self._clients.values():
            writer.transport.abort()
        if self._clients:
            await asyncio.wait(self._clients, timeout=LEAVE_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._clients[task] = writer
        writer.transport.set_write_buffer_limits(0)     # drain() waits until the peer has taken everything
        try:
            refusal = self._refusal(writer)
            if refusal is None:
                await self._converse(reader, writer)
            else:
                await self._send(writer, _error(None, INVALID_REQUEST, refusal))
        except (ConnectionError, TimeoutError):
            logger.debug("a control client left, or was too slow")
        finally:
            del self._clients[task]
            writer.transport.abort()

    def _refusal(self, writer: asyncio.StreamWriter) -> str | None:
        """Return why this client is not heard, or None."""
        if (uid := _user_of(writer)) != os.geteuid():
            return f"user id {uid} may not control this director"
        if len(self._clients) > CLIENTS:
            return f"more than {CLIENTS} clients; try again later"
        return None

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), self.idle_seconds)
            except ValueError:
                await self._send(writer, _error(None, PARSE_ERROR, f"a line has at most {LINE_BYTES} bytes"))
                return
            if not line.endswith(b"\n"):
                return
            answer = await self._answer(line)
            if answer is not None:
                await self._send(writer, answer)

    async def _send(self, writer: asyncio.StreamWriter, answer: dict) -> None:
        writer.write(json.dumps(answer).encode() + b"\n")
        await asyncio.wait_for(writer.drain(), self.idle_seconds)

    async def _answer(self, line: bytes) -> dict | None:
        """Return the answer to one line, or None when it asks for none."""
        identity = None
        try:
            request = _parse(line)
            identity = request.get("id")
            result = await self._call(request["method"], request.get("params", {}))
        except Refused as refused:
            return _error(identity, refused.code, str(refused), **refused.data)
        return {"jsonrpc": "2.0", "id": identity, "result": result} if "id" in request else None

    async def _call(self, name: str, params: dict) -> object:
        if name not in self.methods:
            raise Refused(NO_METHOD, f"no method '{name}'; there are {', '.join(self.methods)}")
        method = self.methods[name]
        _check_params(method, params)
        try:
            return await method(**params)
        except LbqError as error:
            raise Refused(LBQ_ERROR, str(error), kind=type(error).__name__) from error
        except Exception as error:
            logger.exception("bug in the control method %s", name)
            raise Refused(INTERNAL_ERROR, f"{name} failed: {error}; the director's log has more") from error


def _parse(line: bytes) -> dict:
    """Return the request in *line*, with a method's name and parameters by name."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused(PARSE_ERROR, "this line is not JSON") from None
    if isinstance(request, list):
        raise Refused(INVALID_REQUEST, "batches are not understood; send one request a line")
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
        raise Refused(INVALID_REQUEST, f"a request is {EXAMPLE}")
    if not isinstance(request.get("method"), str):
        raise Refused(INVALID_REQUEST, f"the method is missing; a request is {EXAMPLE}")
    if type(request.get("id")) not in (str, int, type(None)):
        raise Refused(INVALID_REQUEST, "an id is a string or an integer")
    if not isinstance(request.get("params", {}), dict):
        raise Refused(INVALID_PARAMS, "params are by name: an object")
    return request


def _check_params(method: Method, params: dict) -> None:
    """Refuse *params* that *method* does not take: wrong names, or other types than its annotations say."""
    signature = inspect.signature(method)
    try:
        bound = signature.bind(**params)
    except TypeError as error:
        raise Refused(INVALID_PARAMS, f"{method.__name__}: {error}") from None
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind == parameter.VAR_KEYWORD:         # the method itself looks at these
            continue
        wanted = parameter.annotation
        if not _is_of(value, wanted):
            raise Refused(INVALID_PARAMS, f"{method.__name__}: '{name}' is of type {wanted}")


def _is_of(value: object, wanted: str) -> bool:
    """Return True when *value* is what the annotation *wanted* says: ``int``, ``str | None``, ``list[str]``."""
    if value is None:
        return wanted.endswith(" | None")
    if wanted == "list[str]":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value).__name__ == wanted.removesuffix(" | None")


def _error(identity, code: int, message: str, **data) -> dict:
    error = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": identity, "error": {**error, "data": data} if data else error}


def _user_of(writer: asyncio.StreamWriter) -> int:
    """Return the user id of the process that connected."""
    peer = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        return struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    return -1
