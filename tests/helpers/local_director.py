"""A director without processes, sockets and root: its control methods over an engine in this process.

Every request and every answer goes through JSON, as between real processes, so that what a client gets here it
gets from a running director, too.
"""
from __future__ import annotations

import asyncio
import json

from lbq import worker
from lbq.control import channel, client, server
from lbq.control.kernel import KernelCommands
from lbq.control.operations import Operations


class EngineProcess:
    """An engine in the place of the packet process."""

    def __init__(self, engine):
        self.engine = engine

    async def call(self, do: str, *args):
        """Ask the engine as the front would."""
        return channel._unpack(worker.answer(self.engine, json.dumps({"do": do, "args": args}).encode()))


class NoHost:
    """A host that agrees to everything; *broadcasts* are the addresses of its networks."""

    def __init__(self):
        self.broadcasts = {0x7FFFFFFF}          # 127.255.255.255

    async def call(self, name: str, *args):
        """Do nothing."""
        return args[1] in self.broadcasts if name == "is_broadcast" else None


class LocalDirector:
    """The control methods of a director, for one who calls them one after the other."""

    def __init__(self, engine):
        self.engine = engine
        self.operations = Operations(EngineProcess(engine), NoHost(), {"queue": 65535})
        self.server = server.ControlServer(None, {**self.operations.methods(),
                                                  **KernelCommands(self.operations).methods()})
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        """End the loop."""
        self.loop.close()

    def connect(self) -> LocalClient:
        """Return a client."""
        return LocalClient(self)

    def answer(self, request: dict) -> bytes:
        """Return the line that a director answers *request* with."""
        answer = self.loop.run_until_complete(self.server._answer(json.dumps(request).encode() + b"\n"))
        return json.dumps(answer).encode() + b"\n"


class LocalClient(client.ControlClient):
    """A client whose socket is a function call."""

    def __init__(self, director: LocalDirector):
        self.director = director
        self.asked = 0

    def close(self) -> None:
        """Hang up."""

    def call(self, method: str, **params):
        """Return the result of *method*, or raise its error."""
        self.asked += 1
        request = {"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params}
        return client._result(method, self.director.answer(request))
