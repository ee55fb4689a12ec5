"""The control socket: what it answers, whom it refuses, and that nobody at it can hurt the others."""
from __future__ import annotations

import json
import select
import socket
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbq.control import server as server_module
from lbq.control.client import SOCKET_NAME, ControlClient
from lbq.errors import NoSuchServer, NotRunning, PeerError
from tests.helpers.control import Peer, serving


async def add(left: int, right: int = 1) -> int:
    return left + right


async def refuse() -> None:
    raise NoSuchServer("no such server; look at the list")


async def stumble() -> None:
    raise ZeroDivisionError("a bug")


async def connections(cursor: int, limit: int) -> dict:
    last = 2 * limit
    return {"connections": [{"cport": cursor + n} for n in range(limit)],
            "next": cursor + limit if cursor < last else None}


METHODS = {"add": add, "refuse": refuse, "stumble": stumble, "connections": connections}
IDLE_SECONDS = 0.5      # a busy machine needs less from connecting to a first word


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path, METHODS) as server:
        yield server


@pytest.fixture
def peer(server):
    with Peer(server.path) as peer:
        yield peer


def request(method="add", **changes) -> dict:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"left": 1}} | changes


def test_a_request_gets_its_answer(peer):
    assert peer.ask(request(id="a")) == {"jsonrpc": "2.0", "id": "a", "result": 2}


def test_requests_are_answered_in_order(peer):
    peer.send(b"".join(json.dumps(request(id=n)).encode() + b"\n" for n in range(100)))

    assert [peer.receive()["id"] for _ in range(100)] == list(range(100))


def test_a_notification_is_done_and_not_answered(peer):
    notification = request()
    del notification["id"]
    peer.send(json.dumps(notification).encode() + b"\n")

    assert peer.ask(request(id=2))["id"] == 2


@pytest.mark.parametrize(("line", "code", "words"), [
    (b"hello\n", -32700, "not JSON"),
    (b"\n", -32700, "not JSON"),
    (b"\xff\xfe\x00\n", -32700, "not JSON"),
    (b"[" * 60000 + b"\n", -32700, "not JSON"),
    (b"9" * 60000 + b"\n", -32700, "not JSON"),
    (b"[]\n", -32600, "batches"),
    (b"7\n", -32600, "a request is"),
    (b"{}\n", -32600, "a request is"),
    (request(jsonrpc="1.0"), -32600, "a request is"),
    (request(method=7), -32600, "method"),
    (request(id=[1]), -32600, "an id"),
    (request(id=True), -32600, "an id"),
    (request("sing"), -32601, "no method 'sing'"),
    (request(params=[1]), -32602, "by name"),
    (request(params={}), -32602, "left"),
    (request(params={"left": 1, "wrong": 1}), -32602, "wrong"),
    (request(params={"left": "1"}), -32602, "'left' is of type int"),
    (request(params={"left": True}), -32602, "'left' is of type int"),
])
def test_a_wrong_request_is_told_what_is_wrong_and_may_go_on(peer, line, code, words):
    error = peer.ask(line)["error"]

    assert error["code"] == code
    assert words in error["message"]
    assert peer.ask(request())["result"] == 2


def test_what_the_director_refuses_comes_with_its_kind(peer):
    answer = peer.ask(request("refuse", params={}))

    assert answer["error"] == {"code": -32000, "message": "no such server; look at the list",
                               "data": {"kind": "NoSuchServer"}}


def test_a_bug_is_told_and_logged_and_survived(peer, caplog):
    answer = peer.ask(request("stumble", params={}))

    assert answer["error"]["code"] == -32603
    assert "bug in the control method stumble" in caplog.text
    assert peer.ask(request())["result"] == 2


def test_an_endless_line_ends_its_own_connection_only(server, peer):
    with Peer(server.path) as flood:
        try:
            flood.send(b"x" * (2 * server_module.LINE_BYTES))
        except ConnectionError:
            pass        # the server hung up in the middle, as it should
        else:
            answer = flood.receive()
            assert answer is None or answer["error"]["code"] == -32700
            assert flood.receive() is None

    assert peer.ask(request())["result"] == 2


def test_a_peer_that_leaves_in_the_middle_of_a_line_hurts_nobody(server, peer):
    with Peer(server.path) as other:
        other.send(b'{"jsonrpc": "2.0", "id"')

    assert peer.ask(request())["result"] == 2


def test_the_last_client_too_many_is_told_so(server, monkeypatch):
    monkeypatch.setattr(server_module, "CLIENTS", 1)
    with Peer(server.path) as first, Peer(server.path) as second:
        assert first.ask(request())["result"] == 2
        assert "more than 1 clients" in second.receive()["error"]["message"]
        assert second.receive() is None
        assert first.ask(request())["result"] == 2


def test_a_silent_client_is_let_go(tmp_path):
    with serving(tmp_path, METHODS, idle_seconds=IDLE_SECONDS) as server, Peer(server.path) as silent:
        silent.send(b'{"jsonrpc"')

        assert silent.receive() is None


def test_a_client_that_reads_nothing_is_let_go(tmp_path):
    async def much() -> str:
        return "x" * (4 << 20)

    with serving(tmp_path, {"much": much}, idle_seconds=IDLE_SECONDS) as server, Peer(server.path) as deaf:
        deaf.send(json.dumps(request("much", params={})).encode() + b"\n")
        with Peer(server.path) as other:
            assert other.ask(request("sing"))["error"]["code"] == -32601

        hangup = select.poll()
        hangup.register(deaf.socket, select.POLLRDHUP)
        assert hangup.poll(10_000)
        assert not deaf.lines.readline().endswith(b"\n")


def test_another_user_is_refused(tmp_path, monkeypatch):
    with serving(tmp_path, METHODS) as server:
        monkeypatch.setattr(server_module, "_user_of", lambda writer: 65534)
        with Peer(server.path) as stranger:
            assert "user id 65534 may not control this director" in stranger.receive()["error"]["message"]
            assert stranger.receive() is None


def test_only_the_owner_can_open_the_socket(server):
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


def test_a_socket_left_by_a_crash_is_replaced(tmp_path):
    (tmp_path / SOCKET_NAME).touch()
    with serving(tmp_path, METHODS), ControlClient(tmp_path) as client:
        assert client.call("add", left=2) == 3
    assert not (tmp_path / SOCKET_NAME).exists()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300).map(lambda data: data.replace(b"\n", b" ")))
def test_any_bytes_get_an_error_and_the_next_request_its_answer(peer, data):
    assert "error" in peer.ask(data + b"\n")
    assert peer.ask(request())["result"] == 2


# ---- The client ---------------------------------------------------------------------------------------


def test_the_client_raises_what_the_director_refused(server):
    with ControlClient(server.path.parent) as client, pytest.raises(NoSuchServer, match="look at the list"):
        client.call("refuse")


def test_a_kind_of_error_the_client_does_not_know_is_still_an_lbq_error(server):
    with ControlClient(server.path.parent) as client, pytest.raises(PeerError, match="no method 'sing'"):
        client.call("sing")


def test_connections_come_page_after_page(server):
    with ControlClient(server.path.parent) as client:
        rows = client.connections()

        assert next(rows) == {"cport": 0}
        assert client.asked == 1        # the second page is asked for when somebody wants it
        assert len(list(rows)) == 3 * 256 - 1


def test_no_director_is_said_with_the_cure(tmp_path):
    with pytest.raises(NotRunning, match="no director runs in this network namespace; start one with lbq"):
        ControlClient(tmp_path)


def test_a_dead_directors_socket_counts_as_none(tmp_path):
    with serving(tmp_path, METHODS) as server:
        server.path.rename(tmp_path / "kept")
    (tmp_path / "kept").rename(server.path)

    with pytest.raises(NotRunning):
        ControlClient(tmp_path)


def test_a_director_that_ends_in_the_middle_is_said(tmp_path):
    with serving(tmp_path, METHODS) as server:
        client = ControlClient(server.path.parent)
        assert client.call("add", left=1) == 2
    with client, pytest.raises(PeerError, match="the director closed the connection"):
        client.call("add", left=1)


@pytest.mark.parametrize("line", [b"7\n", b"[" * 60000 + b"\n", b"{}\n", b"\xff\n", b'{"error": 5}\n',
                                  b'{"error": {"message": "no", "data": {"kind": 5}}}\n'])
def test_an_answer_that_is_none_is_said(tmp_path, line):
    with socket.socket(socket.AF_UNIX) as director:
        director.bind(str(tmp_path / SOCKET_NAME))
        director.listen()
        client = ControlClient(tmp_path)
        connection, _ = director.accept()
        with connection, client:
            connection.sendall(line)

            with pytest.raises(PeerError):
                client.call("list")
