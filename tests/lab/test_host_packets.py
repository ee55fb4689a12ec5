"""The rules under real packets: what is queued, what is left alone, fragments, direct traffic."""
from __future__ import annotations

import socket
import sys
import threading

import pytest

from lbq.model import UDP
from tests.helpers.namespaces import (
    RIP,
    SERVICE,
    VIP,
    counters,
    install,
    line_of_three,
)

pytestmark = pytest.mark.lab

ACCEPT_ALL = """
from netfilterqueue import NetfilterQueue
queue = NetfilterQueue()
queue.bind(0, lambda packet: packet.accept())
print("ready", flush=True)
queue.run()
"""
FIREWALL = """\
*nat
-A POSTROUTING -o eth1 -j MASQUERADE
COMMIT
*filter
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""
DATAGRAM = 4000     # bytes: three fragments on Ethernet
TIMEOUT = 5
SILENCE = 0.3       # seconds in which nothing comes back


@pytest.fixture
def hosts(tmp_path):
    """Client, director, server."""
    with line_of_three(tmp_path) as hosts:
        yield hosts


def echo_once(host, port):
    """Answer one TCP connection on *port* of *host* with the peer's address and all it sends."""
    listener = host.call(socket.create_server, ("0.0.0.0", port))
    listener.settimeout(TIMEOUT)

    def serve():
        with listener:
            connection, peer = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT)
                connection.sendall(peer[0].encode() + b"\n")
                while data := connection.recv(65536):
                    connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()


def converse(host, address, port, body=b"x" * 200_000):
    """Return what the server calls us, after *body* came back unharmed."""
    sock = host.call(socket.create_connection, (address, port), TIMEOUT)
    with sock, sock.makefile("rb") as answers:
        name = answers.readline().decode().strip()
        threading.Thread(target=lambda: (sock.sendall(body), sock.shutdown(socket.SHUT_WR))).start()
        assert answers.read() == body
    return name


def udp_to(host, address, port, size):
    """Send one datagram from *host*; return its socket."""
    sock = host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(SILENCE)
    sock.sendto(b"y" * size, (address, port))
    return sock


@pytest.mark.parametrize("defragmented", [True, False])
def test_fragments_are_reassembled_before_they_are_queued(hosts, variant, defragmented):
    """Without the LBQ-DEFRAG rule only the first fragment has ports and is queued: the test can fail."""
    client, director, _ = hosts
    setup = install(director, variant)
    director.call(setup.add_service, SERVICE._replace(protocol=UDP))
    if not defragmented:
        director.run([f"iptables-{variant}", "-t", "raw", "-F", "LBQ-DEFRAG"])

    udp_to(client, VIP, 80, DATAGRAM).close()

    whole, first = (1, 20 + 8 + DATAGRAM), (1, 1500)
    assert counters(director, variant, "LBQ-REQUEST")[1] == (whole if defragmented else first)


def test_packets_of_the_service_wait_for_lbq_and_others_do_not(hosts, variant):
    client, director, _ = hosts
    install(director, variant)
    echo_once(director, 81)

    with pytest.raises(TimeoutError):       # fail closed: nobody listens on the queue
        client.call(socket.create_connection, (VIP, 80), SILENCE)
    assert converse(client, VIP, 81) == "192.168.10.2"

    queued = counters(director, variant, "LBQ-REQUEST")
    assert queued[1][0] >= 1


def test_requests_of_the_director_itself_are_queued(hosts, variant):
    _, director, _ = hosts
    install(director, variant)

    with pytest.raises(TimeoutError):
        director.call(socket.create_connection, (VIP, 80), SILENCE)

    assert counters(director, variant, "LBQ-REQUEST")[1][0] >= 1


@pytest.mark.parametrize("firewall", ["", FIREWALL], ids=["no firewall", "MASQUERADE and INVALID DROP"])
def test_a_direct_connection_to_a_real_server_is_plain_routing(hosts, variant, firewall):
    """RIP:rport is untracked both ways; half of it tracked, and MASQUERADE or INVALID DROP would break it."""
    client, director, server = hosts
    director.run([f"iptables-{variant}-restore"], input=firewall)
    install(director, variant)
    director.popen([sys.executable, "-c", ACCEPT_ALL]).wait_for("ready")
    echo_once(server, 80)

    assert converse(client, RIP, 80) == "192.168.10.2"

    assert counters(director, variant, "LBQ-REPLY")[1][0] >= 2


def test_other_ports_of_a_real_server_keep_their_masquerade(hosts, variant):
    client, director, server = hosts
    director.run([f"iptables-{variant}-restore"], input=FIREWALL)
    install(director, variant)
    echo_once(server, 81)

    assert converse(client, RIP, 81) == "192.168.20.254"


def test_accept_forward_opens_a_closed_firewall_for_the_servers_port_only(hosts, variant):
    client, director, server = hosts
    director.run([f"iptables-{variant}", "-P", "FORWARD", "DROP"])
    install(director, variant, accept_forward=True)
    director.popen([sys.executable, "-c", ACCEPT_ALL]).wait_for("ready")
    echo_once(server, 80)

    assert converse(client, RIP, 80) == "192.168.10.2"
    with pytest.raises(TimeoutError):
        client.call(socket.create_connection, (RIP, 81), SILENCE)


def test_conntrack_sees_other_ports_but_not_the_real_servers(hosts, variant):
    client, director, server = hosts
    director.run([f"iptables-{variant}-restore"], input=FIREWALL)
    install(director, variant)
    director.popen([sys.executable, "-c", ACCEPT_ALL]).wait_for("ready")
    for port in (80, 81):
        echo_once(server, port)
        converse(client, RIP, port)

    tracked = director.run(["conntrack", "-L"]).stdout

    assert "dport=81 " in tracked
    assert "port=80 " not in tracked
