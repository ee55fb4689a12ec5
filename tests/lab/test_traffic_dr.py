"""Direct routing with real clients and servers on one segment: servers that go, come and change; UDP; errors."""
from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager

import pytest

from lbq.lab.routed import CLIENT_GATEWAY, RoutedLab
from lbq.lab.topology import lbq_command, this_lbq
from tests.helpers import icmp
from tests.helpers.endpoints import digest_of
from tests.helpers.processes import wait_until
from tests.helpers.routed import (
    BULK,
    DISCARD,
    ECHO,
    HOLD,
    LONG,
    SIZES,
    start,
    with_servers,
)
from tests.helpers.topology import (
    connect,
    features,
    hold,
    listing,
    new_lab,
    route,
    server_row,
    still_answers,
    tell,
    udp_socket,
    upload,
)

NEW_MAC = "02:00:00:00:99:99"


@pytest.fixture(scope="module")
def network():
    """Return the network of DR."""
    with new_lab(RoutedLab, "dr") as lab:
        yield with_servers(lab)


@pytest.fixture
def lab(network, lend):
    """Lend the network to one test."""
    return lend(network)


@pytest.mark.parametrize("what", ["tx off", "tso off gso off"])
def test_it_does_not_matter_who_makes_segments_and_checksums(lab, what):
    size = SIZES["fast"] // 16
    start(lab, "fast", BULK)

    with features(lab.client, what), features(lab.director, what):
        assert upload(lab.client, f"http://{lab.vip}:{BULK}/", size) == digest_of(size)


def test_datagrams_of_every_size_pass(lab, engine):
    """What is longer than a packet comes in fragments, and leaves in fragments."""
    start(lab, engine, ECHO, "--udp")

    with ExitStack() as stack:      # closed at the end, so that no port comes twice
        for size in (0, 1472, 1473, *LONG[engine]):
            datagram, answers = os.urandom(size), []
            for _ in lab.servers:
                sock = stack.enter_context(udp_socket(lab.client, lab.vip, ECHO))
                sock.send(datagram)
                answers.append(sock.recv(65535))
            assert sorted(answers) == [b"web01 " + datagram, b"web02 " + datagram], size


# ---- Servers that go, come and change ------------------------------------------------------------------


def doubt_neighbours_after(lab, seconds):
    """Let the director doubt a neighbour of whom nothing was heard for so long, or half as long, and wait 0.3 s."""
    for name, value in (("base_reachable_time_ms", int(seconds * 1000)), ("retrans_time_ms", 100),
                        ("delay_first_probe_time", 0)):
        lab.director.sysctl(f"net.ipv4.neigh.eth0.{name}", value)
    lab.director.run(["ip", "neighbour", "flush", "dev", "eth0"])


def neighbour(lab, server):
    """Return what the director knows of the way to *server*: ``"lladdr 02:… REACHABLE"``."""
    line = lab.director.run(["ip", "neighbour", "show", "to", server.address, "dev", "eth0"]).stdout
    return line.partition(" ")[2].strip()


@contextmanager
def other_card(server, announced):
    """Give *server* another MAC address, as a new card has one; put the old one back at the end."""
    [link] = json.loads(server.run(["ip", "-json", "link", "show", "eth0"]).stdout)
    server.sysctl("net.ipv4.conf.eth0.arp_notify", int(announced))
    server.run(["ip", "link", "set", "eth0", "address", NEW_MAC])
    try:
        yield
    finally:
        server.run(["ip", "link", "set", "eth0", "address", link["address"]])


@pytest.mark.parametrize(("engine", "announced"), [("fast", True), ("reference", True), ("fast", False)])
def test_flows_go_on_when_a_server_has_another_card(lab, engine, announced):
    """A new card says so (gratuitous ARP), or the director finds that the old one is not there any more."""
    web01, _ = lab.servers
    doubt_neighbours_after(lab, 120 if announced else 0.5)
    start(lab, engine, HOLD, servers=[web01])
    _, held = hold(lab.client, lab.vip, HOLD)

    with other_card(web01, announced):
        assert still_answers(held)
        assert hold(lab.client, lab.vip, HOLD)[0] == "web01"
        assert f"lladdr {NEW_MAC}" in neighbour(lab, web01)
    assert still_answers(held)


def test_flows_go_on_when_a_neighbour_is_forgotten(lab, engine):
    start(lab, engine, HOLD)
    held = dict(hold(lab.client, lab.vip, HOLD) for _ in range(2))

    for _ in range(3):
        lab.director.run(["ip", "neighbour", "flush", "dev", "eth0"])
        assert still_answers(held["web01"])
        assert still_answers(held["web02"])


def test_flows_go_on_when_a_server_was_unplugged_for_a_while(lab):
    """Without a carrier its neighbour entry fails; new clients hear of it, and all goes on when it is back."""
    web01, _ = lab.servers
    doubt_neighbours_after(lab, 0.5)
    start(lab, "fast", HOLD, servers=[web01])
    _, held = hold(lab.client, lab.vip, HOLD)

    lab.router.run(["ip", "link", "set", "to-web01", "down"])
    try:
        wait_until(lambda: "FAILED" in neighbour(lab, web01) or not neighbour(lab, web01))
        with pytest.raises(OSError, match="No route to host"):
            connect(lab.client, lab.vip, HOLD)
    finally:
        lab.router.run(["ip", "link", "set", "to-web01", "up"])

    assert still_answers(held)
    assert hold(lab.client, lab.vip, HOLD)[0] == "web01"


def test_a_quiesced_server_keeps_what_it_has(lab, engine):
    _, web02 = lab.servers
    start(lab, engine, HOLD)
    held = dict(hold(lab.client, lab.vip, HOLD) for _ in range(2))

    lab.lbq("set", "server", f"{lab.vip}:{HOLD}", f"{web02.address},weight=0")
    new = [hold(lab.client, lab.vip, HOLD)[0] for _ in range(4)]

    assert new == ["web01"] * 4
    assert still_answers(held["web01"]) and still_answers(held["web02"])
    row = server_row(lab, web02)
    assert (row["weight"], row["active"], row["stats"]["conns"]) == (0, 1, 1)


def test_a_deleted_server_gets_nothing_until_it_is_back(lab, engine):
    service, web02 = f"{lab.vip}:{HOLD}", lab.servers[1].address
    start(lab, engine, HOLD)
    held = dict(hold(lab.client, lab.vip, HOLD) for _ in range(2))

    lab.lbq("del", "server", service, web02)
    new = [hold(lab.client, lab.vip, HOLD)[0] for _ in range(4)]
    held["web02"].sendall(b"anybody there?")

    assert new == ["web01"] * 4
    assert still_answers(held["web01"])
    wait_until(lambda: tell(lab, "stats")["counters"]["dropped_server_gone"])
    lab.lbq("add", "server", service, web02)
    assert held["web02"].recv(100) == b"anybody there?"     # TCP has said it again
    assert still_answers(held["web02"])


def test_connections_of_a_deleted_server_end_at_once_where_that_is_asked_for(lab, engine):
    _, web02 = lab.servers
    start(lab, engine, HOLD, "--on-delete", "end")
    held = dict(hold(lab.client, lab.vip, HOLD) for _ in range(2))

    lab.lbq("del", "server", f"{lab.vip}:{HOLD}", web02.address)

    with pytest.raises(ConnectionResetError):
        still_answers(held["web02"])
    assert still_answers(held["web01"])


def test_a_server_is_drained_when_its_last_client_is_gone(lab, engine):
    """The director sees only clients' halves of connections; a closed one has ended tcpfin seconds later."""
    _, web02 = lab.servers
    service, server = f"{lab.vip}:{HOLD}", web02.address
    start(lab, engine, HOLD)
    tell(lab, "timeouts", tcpfin=1)
    held = dict(hold(lab.client, lab.vip, HOLD) for _ in range(2))

    in_vain = lab.lbq("drain", service, server, "--wait", "0", check=False)
    drain = lab.director.popen(lbq_command("drain", service, server, "--wait", "30"), env=this_lbq())
    drain.wait_for("connections left: 1")
    new = [hold(lab.client, lab.vip, HOLD)[0] for _ in range(2)]
    answered = still_answers(held["web02"])
    was_waiting = drain.poll() is None
    held["web02"].close()

    assert (in_vain.returncode, in_vain.stdout.splitlines()[-1]) == (1, "connections left: 1")
    assert new == ["web01"] * 2
    assert answered and was_waiting
    assert drain.wait(30) == 0
    assert (server_row(lab, web02)["active"], server_row(lab, web02)["inactive"]) == (0, 0)


# ---- UDP, and errors -----------------------------------------------------------------------------------


def test_one_packet_scheduling_takes_each_datagram_by_itself(lab, engine):
    start(lab, engine, ECHO, "--udp", "--ops")
    with udp_socket(lab.client, lab.vip, ECHO) as sock:
        answers = []
        for number in range(6):
            sock.send(b"%d" % number)
            answers.append(sock.recv(100))

    assert answers == [b"web02 0", b"web01 1", b"web02 2", b"web01 3", b"web02 4", b"web01 5"]
    service = listing(lab)
    assert service["stats"]["conns"] == service["stats"]["packets_in"] == 6
    assert [(row["active"], row["inactive"]) for row in service["servers"]] == [(0, 0)] * 2
    assert tell(lab, "connections")["connections"] == []


def test_a_client_hears_what_keeps_its_packets_from_a_server(lab, engine, forgiven):
    """Too many hops, and nobody listens there."""
    web01, _ = lab.servers
    forgiven.add("IpInHdrErrors")       # the router's, for too many hops
    start(lab, engine, ECHO, "--udp", servers=[web01])
    lab.lbq("add", "service", f"udp:{lab.vip}:{DISCARD}", "--mode", "dr")
    lab.lbq("add", "server", f"udp:{lab.vip}:{DISCARD}", web01.address)
    with udp_socket(lab.client, lab.vip, ECHO) as sock, udp_socket(lab.client, lab.vip, DISCARD) as nobody:
        assert icmp.trace(sock, 2) == [CLIENT_GATEWAY, lab.vip]
        sock.send(b"how far?")
        assert sock.recv(100) == b"web01 how far?"

        assert icmp.error_about(nobody, b"hello?") == (3, 3, 0, lab.vip)


def test_a_client_learns_what_fits_the_way_to_the_server(lab, engine):
    web01, _ = lab.servers
    with route(lab.director, web01.address, "dev", "eth0", "mtu", "1300"):
        start(lab, engine, ECHO, "--udp", servers=[web01])
        tell(lab, "add_service", service=f"{lab.vip}:{BULK}", mode="dr")
        tell(lab, "add_server", service=f"{lab.vip}:{BULK}", server=web01.address)

        icmp.assert_client_learns_what_fits(lab, 1300, ECHO, f"http://{lab.vip}:{BULK}/", SIZES[engine] // 16)
