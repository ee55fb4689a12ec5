"""The packet process as the front sees it: start it, ask it, notice its end.

One SOCK_SEQPACKET pair carries one question at a time; a message is read whole or not at all.  The packet
process must not outlive the front, which alone can take the rules out: it gets SIGKILL from the kernel when
the front dies (PR_SET_PDEATHSIG), and ends by itself when the channel closes.
"""
from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable

from lbq import errors
from lbq.errors import HostError, LbqError, PeerError
from lbq.netlink import Door
from lbq.queues import Queues

MESSAGE_BYTES = 8 << 20         # the largest answer: one service with tens of thousands of servers
START_SECONDS = 30              # what allocating the table and binding the queue may take
STOP_SECONDS = 5                # what the packet process gets to end before SIGKILL
WARN_SECONDS = 10               # an answer that takes longer is worth a line in the log
SO_SNDBUFFORCE = 32
PR_SET_PDEATHSIG = 1

logger = logging.getLogger("lbq.control")


class PacketProcess:
    """A running packet process and the front's end of its channel."""

    def __init__(self, process: subprocess.Popen, channel: socket.socket):
        self.process = process
        self.channel = channel
        self.gone = asyncio.Event()         # set when the channel's other end has closed
        self._turn = asyncio.Lock()         # one question at a time
        self._loop = asyncio.get_running_loop()
        self._answer = self._loop.create_future()       # the first one comes unasked: it is ready, or why not
        self.door = Door()
        self._loop.add_reader(channel, self._read)

    @classmethod
    async def start(cls, engine: str, queues: Queues, max_connections: int, profile: str) -> PacketProcess:
        """Start a packet process and wait until its queues are bound; raise what stopped it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            for end in (ours, theirs):
                with contextlib.suppress(PermissionError):
                    end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, MESSAGE_BYTES)
            options = {"engine": engine, "queue": queues.first, "workers": queues.workers,
                       "max_connections": max_connections, "profile": profile}
            process = _spawn([str(theirs.fileno()), json.dumps(options)], theirs.fileno())
        self = cls(process, ours)
        try:
            self.door.port = await asyncio.wait_for(self._reply(), START_SECONDS)
        except TimeoutError:
            await self.stop()
            raise HostError(f"the packet process was not ready after {START_SECONDS} s; "
                            "the machine may be out of memory (--max-connections)") from None
        except BaseException:
            await self.stop()
            raise
        return self

    async def call(self, do: str, *args):
        """Return what the engine answers to *do*; the page of list_connections comes with its raw records."""
        # To its end: an asker who is cancelled must not leave its answer to the next one.
        return await to_its_end(self._ask(do, args))

    async def _ask(self, do: str, args: tuple):
        async with self._turn:
            if self.gone.is_set():
                raise self._death()
            if self.channel.fileno() < 0:       # closed by stop()
                raise PeerError("the director is stopping")
            self._answer = self._loop.create_future()
            try:
                self.channel.send(json.dumps({"do": do, "args": args}).encode())
            except OSError as error:
                raise PeerError(f"cannot ask the packet process to {do}: {error.strerror}") from error
            self.door.knock()
            return await self._reply(do)

    async def stop(self) -> int:
        """Close the channel, wait for the process's end, by force if need be; return its status."""
        self._loop.remove_reader(self.channel)
        self.channel.close()
        self.door.knock()
        self.door.close()
        try:
            return await asyncio.to_thread(self.process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("the packet process did not end within %s s and is killed", STOP_SECONDS)
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)

    async def _reply(self, do: str = "start"):
        while True:
            done, _ = await asyncio.wait([self._answer], timeout=WARN_SECONDS)
            if done:
                return _unpack(self._answer.result())
            logger.warning("the packet process has not answered '%s' for %s s", do, WARN_SECONDS)

    def _read(self) -> None:
        try:
            message = self.channel.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        waiting = not self._answer.done()
        if message:
            if waiting:
                self._answer.set_result(message)
            return
        self._loop.remove_reader(self.channel)
        self.gone.set()
        if waiting:
            self._answer.set_exception(self._death())

    def _death(self) -> HostError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)        # its channel is closed: it is ending or has ended
        return HostError(f"the packet process ended ({end_of(self.process.returncode)}); "
                         "the lines above may say why")


async def to_its_end(work: Awaitable):
    """Return what *work* returns; it goes on, and may fail unheard, when the caller is cancelled."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def end_of(status: int | None) -> str:
    """Return an exit status in words."""
    if status is None:
        return "closed its channel"
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"status {status}"


def _spawn(arguments: list[str], descriptor: int) -> subprocess.Popen:
    """Start ``lbq.worker`` with the modules this process has, whatever the current folder holds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl

    def die_with_parent():
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:      # it died between fork and prctl
            os._exit(1)

    return subprocess.Popen([sys.executable, "-P", "-m", "lbq.worker", *arguments], env=environment,
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            pass_fds=[descriptor], preexec_fn=die_with_parent)


def _unpack(message: bytes):
    """Return the value of an answer, (value, records) for one with records, or raise its error."""
    line, _, records = message.partition(b"\n")
    answer = json.loads(line)
    if "error" in answer:
        kind = getattr(errors, answer["error"], LbqError)
        raise kind(answer["message"])
    return (answer, records) if "bytes" in answer else answer["ok"]
