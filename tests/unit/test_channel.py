"""The front's side of the channel, with other programs in the place of the packet process."""
from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys

import pytest

from lbq.control.channel import PacketProcess, end_of
from lbq.errors import HostError, LbqError, NoSuchService, PeerError

ECHO = """
import json, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
while question := channel.recv(65536):
    asked = json.loads(question)
    {body}
"""
ANSWER = 'channel.send(json.dumps({"ok": asked["args"]}).encode())'


@contextlib.asynccontextmanager
async def packet_process(body: str):
    """Run a program that does *body* with each question it is *asked*."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with theirs:
        program = [sys.executable, "-S", "-c", ECHO.replace("{body}", body), str(theirs.fileno())]
        popen = subprocess.Popen(program, pass_fds=[theirs.fileno()])
    process = PacketProcess(popen, ours)
    try:
        yield process
    finally:
        if popen.returncode is None:
            await process.stop()


def test_many_askers_get_their_own_answers():
    async def story():
        async with packet_process(ANSWER) as process:
            return await asyncio.gather(*(process.call("echo", n) for n in range(50)))

    assert asyncio.run(story()) == [[n] for n in range(50)]


def test_an_asker_who_leaves_does_not_leave_its_answer_to_the_next():
    async def story():
        async with packet_process(ANSWER) as process:
            first = asyncio.ensure_future(process.call("echo", "first"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)      # it has asked
            first.cancel()
            return await process.call("echo", "second")

    assert asyncio.run(story()) == ["second"]


def test_an_error_comes_back_as_its_own_kind():
    async def story(name):
        body = f'channel.send(json.dumps({{"error": "{name}", "message": "sorry"}}).encode())'
        async with packet_process(body) as process:
            await process.call("delete_service")

    with pytest.raises(NoSuchService, match="sorry"):
        asyncio.run(story("NoSuchService"))
    with pytest.raises(LbqError, match="sorry"):
        asyncio.run(story("ZeroDivisionError"))


def test_records_come_beside_their_page():
    async def story():
        body = r'''channel.send(b'{"ok": 7, "bytes": 64, "now": 5}\n' + bytes(range(64)))'''
        async with packet_process(body) as process:
            return await process.call("list_connections", 0, 1)

    assert asyncio.run(story()) == ({"ok": 7, "bytes": 64, "now": 5}, bytes(range(64)))


def test_the_end_of_the_process_fails_who_waits_and_who_comes_later():
    async def story():
        async with packet_process("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") as process:
            failures = await asyncio.gather(*(process.call("echo") for _ in range(3)), return_exceptions=True)
            assert process.gone.is_set()
            return failures

    for failure in asyncio.run(story()):
        assert isinstance(failure, HostError)
        assert "the packet process ended (signal SIGKILL)" in str(failure)


def test_stop_ends_the_process_by_closing_the_channel():
    async def story():
        async with packet_process(ANSWER) as process:
            await process.call("echo")
            return await process.stop()

    assert asyncio.run(story()) == 0


def test_who_asks_after_the_stop_is_told_so():
    async def story():
        async with packet_process(ANSWER) as process:
            await process.stop()
            with pytest.raises(PeerError, match="the director is stopping"):
                await process.call("echo")

    asyncio.run(story())


def test_a_process_that_does_not_end_is_killed(monkeypatch, caplog):
    monkeypatch.setattr("lbq.control.channel.STOP_SECONDS", 0)

    async def story():
        async with packet_process(ANSWER + "; import signal; signal.pause()") as process:
            await process.call("echo")
            return await process.stop()

    assert asyncio.run(story()) == -9
    assert "is killed" in caplog.text


@pytest.mark.parametrize(("status", "words"), [
    (1, "status 1"), (-9, "signal SIGKILL"), (None, "closed its channel"),
])
def test_an_end_is_told_in_words(status, words):
    assert end_of(status) == words
