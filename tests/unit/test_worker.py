"""The packet process's side of the channel: one command between two batches, and an end with the front."""
from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

import pytest

from lbq import worker
from lbq.errors import HostError, NoSuchService
from lbq.model import TCP, ServiceKey

KEY = ServiceKey(TCP, 0xC0A80A01, 80)


class FakeEngine:
    """Remembers what it was told; its packets are those of nobody."""

    def __init__(self):
        self.done = []

    def run(self, wake_fd):
        """Handle no packets until the channel is readable."""

    def add_server(self, key, address, port, weight, mode):
        self.done.append((key, address, port, weight, mode))

    def delete_service(self, key):
        raise NoSuchService("no such service")

    def list_connections(self, cursor, limit):
        return bytes(64 * limit), cursor + limit

    def list_services(self, cursor, limit):
        return [{"address": "x" * 65536}] * limit, None

    def tick(self, now_ns):
        assert now_ns > 0
        return [(KEY, 1, 80)]

    def set_timeouts(self, tcp):
        return 1 // tcp

    def delete_server(self, key):
        raise SystemExit(3)     # a user's own scheduler, when it was told


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def channel(engine):
    front, back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    front.settimeout(10)
    thread = threading.Thread(target=worker.serve, args=(engine, back), daemon=True)
    thread.start()
    with front, back:
        yield front
        front.close()
        thread.join(10)     # it ends because the channel has closed
        assert not thread.is_alive()


def ask(channel, do, *args) -> bytes:
    channel.send(json.dumps({"do": do, "args": args}).encode())
    return channel.recv(1 << 20)


def test_a_command_reaches_the_engine_with_its_service_key(engine, channel):
    assert ask(channel, "add_server", KEY, 1, 80, 2, 0) == b'{"ok": null}'
    assert engine.done == [(KEY, 1, 80, 2, 0)]
    assert isinstance(engine.done[0][0], ServiceKey)


def test_connections_come_as_raw_records(channel):
    head, _, records = ask(channel, "list_connections", 5, 3).partition(b"\n")

    assert json.loads(head) | {"now": 0} == {"ok": 8, "bytes": 192, "now": 0}
    assert records == bytes(192)


def test_what_the_engine_returns_comes_back(channel):
    assert json.loads(ask(channel, "tick")) == {"ok": [[list(KEY), 1, 80]]}


@pytest.mark.parametrize(("do", "args", "error"), [
    ("delete_service", [KEY], {"error": "NoSuchService", "message": "no such service"}),
    ("run", [0], {"error": "HostError", "message": "the packet process knows no command 'run'"}),
    ("__class__", [], {"error": "HostError", "message": "the packet process knows no command '__class__'"}),
])
def test_what_cannot_be_done_is_answered(channel, do, args, error):
    assert json.loads(ask(channel, do, *args)) == error


@pytest.mark.parametrize("question", [
    b"no JSON", b"{}", b"[]", b'{"do": "set_timeouts", "args": [0]}', b'{"do": "add_server", "args": []}',
    b'{"do": "add_server", "args": [[1]]}', b'{"do": "list_services", "args": [1]}',
    b'{"do": "delete_server", "args": [[6, 1, 80]]}',
])
def test_nonsense_does_not_end_the_packet_process(channel, question):
    channel.send(question)

    assert "error" in json.loads(channel.recv(1 << 20))
    assert b"ok" in ask(channel, "tick")


def test_an_answer_longer_than_a_message_is_an_error_not_the_end(channel):
    assert "longer than one message" in json.loads(ask(channel, "list_services", 0, 200))["message"]
    assert b"ok" in ask(channel, "tick")


def test_the_fast_engine_without_compiled_code_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("LBQ_PURE", "1")

    with pytest.raises(HostError, match="LBQ_PURE=1 leaves compiled code out; unset it, or use --engine ref"):
        worker.build({"engine": "fast"})


def test_a_missing_fast_path_is_one_clear_error(monkeypatch):
    monkeypatch.delenv("LBQ_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "lbq._fastpath", None)

    with pytest.raises(HostError, match=r"engine fast: .*lbq\._fastpath.*--engine reference"):
        worker.build({"engine": "fast"})


def test_the_packet_process_does_not_load_what_it_does_not_need():
    """Its memory is counted per connection; asyncio and argparse alone would be 10 bytes a flow."""
    program = "import sys, lbq.worker, lbq.schedulers.wlc; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                            env={"PYTHONPATH": ":".join(filter(None, sys.path))}).stdout.split()

    assert {"asyncio", "argparse", "pyroute2", "logging", "subprocess", "difflib", "importlib.metadata",
            "ipaddress", "ctypes"} & set(loaded) == set()
