"""What lbq's own options spare users, with real sockets: docs/better.md says what the kernel does."""
from __future__ import annotations

import contextlib
import socket

import pytest

from tests.helpers.topology import curl, hold, start_endpoints, start_nginx, still_answers, udp_socket

WEB, DNS = "192.168.10.1:80", "udp:192.168.10.1:5300"


def ask(sock: socket.socket) -> str:
    """Return who answers a datagram."""
    sock.send(b"who")
    return sock.recv(100).split()[0].decode()


def who_holds(lab, count: int) -> dict[str, socket.socket]:
    """Open *count* connections, one to each server; return them by the server's name."""
    return dict(hold(lab.client, lab.vip) for _ in range(count))


def hears_a_reset(sock: socket.socket) -> bool:
    """Return True when the next bytes sent are answered with a reset."""
    with contextlib.suppress(ConnectionResetError):
        still_answers(sock)
        return False
    return True


def start(lab, engine, *options):
    """Run a director for the web servers."""
    lab.start_director("--mode", "nat", "--scheduler", "rr", "--engine", engine,
                       *(word for server in lab.servers for word in ("--real", server.address)), *options)


def test_a_deleted_servers_clients_are_told_at_once(lab, engine):
    start_endpoints(lab, "hold")
    start(lab, engine, "--on-delete", "end")
    held = who_holds(lab, 2)

    said = lab.lbq("del", "server", WEB, "192.168.20.2").stdout

    assert said.endswith("; its connections start over: 1\n")
    assert hears_a_reset(held["web02"])
    assert still_answers(held["web01"])
    assert hold(lab.client, lab.vip)[0] == "web01"


def test_a_server_drains_until_its_time_is_over_and_goes(lab, engine):
    start_endpoints(lab, "hold")
    start(lab, engine)
    held = who_holds(lab, 2)

    done = lab.lbq("drain", WEB, "192.168.20.2", "--end-after", "1", "--delete", "--wait", "20", timeout=30)

    assert done.stdout.endswith("connections left: 1\nconnections left: 0\n")
    assert hears_a_reset(held["web02"])
    assert still_answers(held["web01"])
    assert "192.168.20.2" not in lab.lbq("list").stdout


def test_a_client_can_be_sent_elsewhere(lab, engine):
    start_endpoints(lab, "hold")
    start(lab, engine, "--persistent", "300")
    name, sock = hold(lab.client, lab.vip)

    lab.lbq("set", "server", WEB, "192.168.20.1,weight=0" if name == "web01" else "192.168.20.2,weight=0")
    assert hold(lab.client, lab.vip)[0] == name         # persistence, as in the kernel
    said = lab.lbq("end", "--client", lab.client.address).stdout

    assert said == "ended connections: 3\n"
    assert hears_a_reset(sock)
    assert hold(lab.client, lab.vip)[0] != name


@pytest.fixture
def resolvers(lab, engine):
    """Run echo servers behind a UDP service with settings of the test's own; return a function that starts it."""
    def run(*options: str) -> socket.socket:
        start_endpoints(lab, "echo", 5300)
        lab.start_director("--vip", DNS, "--mode", "nat", "--scheduler", "rr", "--engine", engine,
                           "--real", "192.168.20.1", "--real", "192.168.20.2", *options)
        return udp_socket(lab.client, lab.vip, 5300)

    return run


def test_one_socket_leaves_a_quiesced_server(lab, resolvers):
    sock = resolvers("--on-quiesce", "move")
    assert [ask(sock) for _ in range(3)] == ["web02"] * 3

    lab.lbq("set", "server", DNS, "192.168.20.2,weight=0")
    assert [ask(sock) for _ in range(3)] == ["web01"] * 3

    lab.lbq("set", "server", DNS, "192.168.20.1,weight=0")
    assert ask(sock) == "web01"         # nobody else is there


def test_answers_to_single_datagrams_come_from_the_vip(lab, resolvers):
    sock = resolvers("--ops", "--ops-replies")

    assert [ask(sock) for _ in range(4)] == ["web02", "web01"] * 2


def test_a_mark_may_be_set_by_a_rule_that_comes_later(lab, engine):
    start_nginx(lab)
    start(lab, engine, "--vip", "192.168.10.1:81")
    for table in ("raw", "mangle"):
        lab.director.run(["iptables", "-t", table, "-A", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "MARK",
                          "--set-mark", "7"])
    lab.lbq("add", "service", "fwmark:7", "--scheduler", "rr")
    for server in lab.servers:
        lab.lbq("add", "server", "fwmark:7", f"{server.address}:80")

    assert [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(4)] == ["web02", "web01"] * 2
