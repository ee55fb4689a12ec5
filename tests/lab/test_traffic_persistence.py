"""Persistence, firewall marks, services of every port, and thresholds, with real clients behind NAT."""
from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest

from lbq.lab.topology import Lab
from tests.helpers.processes import wait_until
from tests.helpers.topology import (
    connect,
    hold,
    new_lab,
    start_endpoints,
    still_answers,
    tell,
    udp_server,
    udp_socket,
)

WEB, SECURE_WEB, OTHER, ECHO, MARK = 80, 443, 8080, 5300, 7


@pytest.fixture(scope="module")
def network():
    """Return the article's network with two clients, and servers on four ports of its two machines."""
    with new_lab(Lab, clients=2) as lab:
        for port in (WEB, SECURE_WEB, OTHER):
            start_endpoints(lab, "hold", port)
        start_endpoints(lab, "echo", ECHO)
        yield lab


@pytest.fixture
def lab(network, lend, engine):
    """Lend the network to one test, with a director that has no service yet."""
    lab = lend(network)
    lab.start_director("serve", "--engine", engine)
    return lab


def serve(lab, service, server_settings="", **settings):
    """Add *service*, by round robin, with all servers."""
    tell(lab, "add_service", service=service, scheduler="rr", **settings)
    for server in lab.servers:
        tell(lab, "add_server", service=service, server=server.address + server_settings)


def who_answers(host, lab, *ports):
    """Return the names of those who take TCP connections of *host* to *ports*."""
    return [hold(host, lab.vip, port)[0] for port in ports]


def who_echoes(lab, sock):
    """Return the name of the server that answers a UDP socket."""
    sock.send(b"who?")
    return sock.recv(100).partition(b" ")[0].decode()


def templates(lab):
    """Return (client, VIP, port, server) of each template."""
    return [(row["caddr"], row["vaddr"], row["vport"], row["daddr"]) for row in tell(lab, "connections")["connections"]
            if row["cport"] == 0]


@contextmanager
def marked(lab, table, ports, protocol="tcp"):
    """Let the director's iptables mark packets to *ports* of the VIP."""
    rule = ["PREROUTING", "-d", lab.vip, "-p", protocol, "-m", "multiport", "--dports", ",".join(map(str, ports)),
            "-j", "MARK", "--set-mark", MARK]
    lab.director.run(["iptables", "-t", table, "-A", *rule])
    try:
        yield
    finally:
        lab.director.run(["iptables", "-t", table, "-D", *rule])


def test_a_client_stays_with_its_server(lab):
    serve(lab, f"{lab.vip}:{WEB}", persistent=300)
    one, other = lab.clients

    names = [who_answers(one, lab, *[WEB] * 3), who_answers(other, lab, *[WEB] * 3), who_answers(one, lab, *[WEB] * 3)]

    assert names == [["web02"] * 3, ["web01"] * 3, ["web02"] * 3]
    web01, web02 = lab.servers
    assert sorted(templates(lab)) == [(one.address, lab.vip, WEB, web02.address),
                                      (other.address, lab.vip, WEB, web01.address)]


def test_clients_of_one_network_stay_together(lab):
    serve(lab, f"{lab.vip}:{WEB}", persistent=300, netmask="255.255.255.0")

    names = [who_answers(client, lab, WEB)[0] for client in lab.clients * 2]

    assert names == ["web02"] * 4
    assert templates(lab) == [("192.168.10.0", lab.vip, WEB, lab.servers[1].address)]


def test_a_client_is_free_again_when_its_time_is_over(lab):
    tell(lab, "timeouts", udp=1)
    serve(lab, f"udp:{lab.vip}:{ECHO}", persistent=2)       # longer than a flow: else a live one would renew it
    names = []
    for _ in range(2):
        with udp_socket(lab.client, lab.vip, ECHO) as sock, udp_socket(lab.client, lab.vip, ECHO) as another:
            names += [who_echoes(lab, sock), who_echoes(lab, another)]
        wait_until(lambda: not tell(lab, "connections")["connections"])

    assert names == ["web02", "web02", "web01", "web01"]


def test_a_quiesced_server_keeps_its_clients_until_it_is_told_otherwise(lab):
    """The kernel lets them in for as long as their template lives; expire_quiescent_template sends them elsewhere."""
    service, web02 = f"{lab.vip}:{WEB}", lab.servers[1]
    serve(lab, service, persistent=300)
    one, other = lab.clients
    names = who_answers(one, lab, WEB)

    tell(lab, "set_server", service=service, server=f"{web02.address},weight=0")
    names += who_answers(one, lab, WEB) + who_answers(other, lab, WEB, WEB)
    tell(lab, "sysctl", settings=["expire_quiescent_template=1"])
    names += who_answers(one, lab, WEB)

    assert names == ["web02", "web02", "web01", "web01", "web01"]


@pytest.mark.parametrize("table", ["mangle", "raw"])
def test_marked_packets_are_one_service_whatever_their_port(lab, table):
    with marked(lab, table, [WEB, SECURE_WEB]):
        serve(lab, f"fwmark:{MARK}")

        names = who_answers(lab.client, lab, WEB, SECURE_WEB, SECURE_WEB, WEB)

        assert names == ["web02", "web01"] * 2
        with pytest.raises(ConnectionRefusedError):     # not marked: the director itself, where nothing listens
            connect(lab.client, lab.vip, OTHER)


@pytest.mark.parametrize("table", ["mangle", "raw"])
def test_a_client_stays_with_its_server_over_all_marked_ports(lab, table):
    with marked(lab, table, [WEB, SECURE_WEB]), marked(lab, table, [ECHO], "udp"):
        serve(lab, f"fwmark:{MARK}", persistent=300)

        names = [who_answers(client, lab, WEB, SECURE_WEB, WEB) for client in lab.clients]
        for client in lab.clients:
            with udp_socket(client, lab.vip, ECHO) as sock:
                names.append(who_echoes(lab, sock))

    assert names == [["web02"] * 3, ["web01"] * 3, "web02", "web01"]
    assert len(templates(lab)) == 2


def test_port_0_is_every_port(lab):
    serve(lab, f"{lab.vip}:0", persistent=300)

    names = [who_answers(client, lab, WEB, SECURE_WEB, OTHER) for client in lab.clients]

    assert names == [["web02"] * 3, ["web01"] * 3]
    with pytest.raises(ConnectionRefusedError):         # the real server's own answer
        connect(lab.client, lab.vip, 81)


def test_answers_to_single_datagrams_keep_the_servers_address(lab):
    """As in kernel IPVS: no connection is kept that they could be found by."""
    serve(lab, f"udp:{lab.vip}:{ECHO}", ops=True)
    with udp_server(lab.client, lab.client.address, 40000) as sock:
        came_from = []
        for _ in range(4):
            sock.sendto(b"who?", (lab.vip, ECHO))
            answer, sender = sock.recvfrom(100)
            came_from.append((answer, sender[0]))

    web01, web02 = lab.servers
    assert came_from == [(b"web02 who?", web02.address), (b"web01 who?", web01.address)] * 2
    assert tell(lab, "connections")["connections"] == []


def test_a_server_takes_no_more_than_its_upper_threshold(lab):
    serve(lab, f"{lab.vip}:{WEB}", ",upper=2")

    held = [hold(lab.client, lab.vip, WEB) for _ in range(4)]

    assert [name for name, _ in held] == ["web02", "web01"] * 2
    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.vip, WEB)
    tell(lab, "set_server", service=f"{lab.vip}:{WEB}", server=f"{lab.servers[0].address},upper=3,lower=3")
    assert who_answers(lab.client, lab, WEB) == ["web01"]
    assert all(still_answers(sock) for _, sock in held)


def test_a_full_server_is_free_again_below_its_lower_threshold(lab):
    """Three flows fill web02; with two left it is still full, with one it is not."""
    tell(lab, "timeouts", udp=1)
    service, (web01, web02) = f"udp:{lab.vip}:{ECHO}", lab.servers
    tell(lab, "add_service", service=service, scheduler="fo")      # the heaviest server that is not full
    tell(lab, "add_server", service=service, server=f"{web01.address},weight=1")
    tell(lab, "add_server", service=service, server=f"{web02.address},weight=2,upper=3,lower=2")

    def flows_of_web02():
        return {row["cport"] for row in tell(lab, "connections")["connections"] if row["daddr"] == web02.address}

    def newcomer_beside(*kept):
        """Return who answers a newcomer while web02 has the flows *kept* alone; None: it had not, all the while."""
        for sock in kept:
            who_echoes(lab, sock)
        ports = {sock.getsockname()[1] for sock in kept}
        if flows_of_web02() == ports:
            with udp_socket(lab.client, lab.vip, ECHO) as sock:
                name, port = who_echoes(lab, sock), sock.getsockname()[1]
            return name if flows_of_web02() == (ports | {port} if name == "web02" else ports) else None
        return None

    with ExitStack() as stack:
        first, second, third = (stack.enter_context(udp_socket(lab.client, lab.vip, ECHO)) for _ in range(3))
        assert [who_echoes(lab, sock) for sock in (first, second, third)] == ["web02"] * 3
        for kept, name in (((first, second, third), "web01"), ((first, second), "web01"), ((first,), "web02")):
            assert wait_until(lambda kept=kept: newcomer_beside(*kept), timeout=30) == name
