"""Real UDP through real NFQUEUE: a thousand clients, fragments, iperf3."""
from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.helpers.topology import (
    FULL,
    iperf3,
    listing,
    start_endpoints,
    udp_socket,
)

SO_NO_CHECK, UDP_SEGMENT = 11, 103      # <asm-generic/socket.h>, <linux/udp.h>
PORT = 5300
PORTS = 1000
# NetfilterQueue, under the reference engine, reads 4 KB of a packet: a longer datagram is dropped there.
SIZES = {"fast": (0, 1, 1471, 1472, 1473, 4000, 60_000), "reference": (0, 1, 1471, 1472, 1473, 3900)}
PIPELINE = 50       # questions on the way at once; more than a socket's buffer holds would test the buffer


def start(lab, engine, *options):
    """Run echo servers on VIP:5300 behind a director."""
    start_endpoints(lab, "echo", PORT)
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:{PORT}")]
    lab.start_director("--vip", f"{lab.vip}:{PORT}", "--udp", "--mode", "nat", "--scheduler", "rr",
                       "--engine", engine, *reals, *options)


def ask(sockets, question):
    """Ask on each socket, a few at a time; return the names of those who answered, checked word by word."""
    names = []
    for first in range(0, len(sockets), PIPELINE):
        batch = sockets[first:first + PIPELINE]
        for sock in batch:
            sock.send(question + b" %d" % sock.getsockname()[1])
        for sock in batch:
            name, _, echoed = sock.recv(65535).partition(b" ")
            assert echoed == question + b" %d" % sock.getsockname()[1]
            names.append(name.decode())
    return names


@pytest.mark.parametrize("where", ["client", "director"])
def test_thousand_ports_are_answered_and_stay_with_their_server(lab, engine, where):
    start(lab, engine)
    sockets = [udp_socket(getattr(lab, where), lab.vip, PORT) for _ in range(PORTS)]

    first = ask(sockets, b"who is it")
    again = ask(sockets, b"and now")

    if "LBQ_WORKERS" in os.environ:         # two workers see them in an order of their own
        assert Counter(first) == {"web01": PORTS // 2, "web02": PORTS // 2}
    else:
        assert first == ["web02", "web01"] * (PORTS // 2)
    assert again == first
    service = listing(lab)
    assert service["stats"]["conns"] == PORTS
    assert [row["stats"]["packets_in"] for row in service["servers"]] == [PORTS, PORTS]
    assert [row["stats"]["packets_out"] for row in service["servers"]] == [PORTS, PORTS]
    # The kernel calls a UDP connection inactive as long as it lives.
    assert [(row["active"], row["inactive"]) for row in service["servers"]] == [(0, PORTS // 2)] * 2
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("where", ["client", "director"])
@pytest.mark.parametrize("vip_local", [True, False], ids=["vip-local", "vip-routed"])
def test_datagrams_of_every_size_pass_both_ways(make_lab, engine, vip_local, where):
    """Up to 1,472 bytes fit into a packet; what is longer travels in fragments, and is still one flow."""
    lab = make_lab(vip_local=vip_local)
    start(lab, engine)

    with ExitStack() as stack:      # closed at the end, so that no port comes twice
        for size in SIZES[engine]:
            datagram = os.urandom(size)
            answers = []
            for _ in lab.servers:
                sock = stack.enter_context(udp_socket(getattr(lab, where), lab.vip, PORT))
                sock.send(datagram)
                answers.append(sock.recv(65535))
            assert answers == [b"web02 " + datagram, b"web01 " + datagram], size


def test_datagrams_without_checksum_arrive(lab, engine):
    """A sender may leave a UDP checksum out (RFC 768); a rewrite must not make a wrong one of the zero."""
    start(lab, engine)
    with udp_socket(lab.client, lab.vip, PORT) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        sock.send(b"unsummed")

        assert sock.recv(100) == b"web02 unsummed"


@pytest.mark.parametrize("where", ["client", "director"])
def test_datagrams_that_the_kernel_cuts_late_arrive_one_by_one(lab, engine, where):
    """QUIC senders hand over many datagrams as one (UDP_SEGMENT), which passes the queue whole."""
    start(lab, engine)
    datagrams = [os.urandom(1200) for _ in range(20)] + [os.urandom(700)]
    with udp_socket(getattr(lab, where), lab.vip, PORT) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        sock.send(b"".join(datagrams))

        assert [sock.recv(2000) for _ in datagrams] == [b"web02 " + datagram for datagram in datagrams]


@pytest.mark.parametrize("direction", [[], ["--reverse"]], ids=["up", "down"])
def test_iperf3_runs_over_udp_without_a_loss(make_lab, direction):
    """iperf3's data goes through lbq; its TCP control connection through somebody else's DNAT beside it.

    On a busy machine iperf3 itself may read too slowly; what its own socket lost is not lost on the way.
    """
    lab = make_lab(servers=1)
    real = f"{lab.servers[0].address}:5201"
    lab.director.run(["iptables", "-t", "nat", "-A", "PREROUTING", "-d", lab.vip, "-p", "tcp",
                      "--dport", 5201, "-j", "DNAT", "--to-destination", real])
    lab.servers[0].popen(["iperf3", "--server", "--forceflush"]).wait_for("Server listening")
    lab.start_director("--vip", f"{lab.vip}:5201", "--udp", "--mode", "nat", "--real", real)

    end = iperf3(lab.client, lab.vip, "--udp", "--length", "1400", "--bitrate", "50M" if FULL else "20M",
                 *direction)

    assert end["sum"]["packets"] > 1000
    receiver = lab.client if direction else lab.servers[0]
    assert end["sum"]["lost_packets"] <= receiver.counters()["UdpRcvbufErrors"]
    assert [row["stats"]["conns"] for row in listing(lab)["servers"]] == [1]
