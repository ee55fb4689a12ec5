"""The rules under real packets: what is queued, what is left alone, fragments, direct traffic."""
from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading

import pytest

from lbq.model import AF_INET, AF_INET6, NAT, TCP, UDP
from tests.helpers.namespaces import counters, install, line_of_three, number, picture, rules
from tests.helpers.processes import wait_until

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
HEADERS = {AF_INET: 20 + 8, AF_INET6: 40 + 8}
FIRST_FRAGMENT = {AF_INET: 1500, AF_INET6: 1496}    # what follows is a multiple of eight bytes
TIMEOUT = 5
SILENCE = 0.3       # seconds in which nothing comes back


@pytest.fixture
def hosts(tmp_path):
    """Client, director, server."""
    with line_of_three(tmp_path) as hosts:
        yield hosts


def echo_once(host, place, port):
    """Answer one TCP connection on *port* of *host* with the peer's address and all it sends."""
    listener = host.call(socket.create_server, (place.everybody, port), family=place.family)
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


def queued(host, variant, chain, place, kernel_set):
    """Return (packets, bytes) that the rule of *chain* that looks into *kernel_set* has queued."""
    bodies = [line for line in rules(host, variant, place) if line.startswith(f"-A {chain} ")]
    [found] = [counted for body, counted in zip(bodies, counters(host, variant, chain, place), strict=True)
               if f"--match-set {place.sets}-{kernel_set} " in body]
    return found


def udp_to(host, place, port, size):
    """Send one datagram from *host* to the VIP; return its socket."""
    sock = host.call(socket.socket, place.family, socket.SOCK_DGRAM)
    sock.settimeout(SILENCE)
    sock.sendto(b"y" * size, (place.vip, port))
    return sock


def udp_from(host, place, port):
    """Send one datagram from *port* of *host* to the client."""
    with host.call(socket.socket, place.family, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        sock.sendto(b"y", (place.client, 9))


def ping(place, address):
    """Return True when *address* answers an echo request."""
    protocol, request = ((socket.IPPROTO_ICMPV6, b"\x80\0") if place.family == AF_INET6
                         else (socket.IPPROTO_ICMP, b"\x08\0"))
    message = request + bytes(2) + b"lbq!"
    if place.family == AF_INET:
        total = sum(struct.unpack("!4H", message))
        message = request + struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF) + b"lbq!"
    with socket.socket(place.family, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(SILENCE)
        sock.sendto(message, (address, 0))
        with contextlib.suppress(TimeoutError):
            while True:
                answer, peer = sock.recvfrom(1500)
                if peer[0] == address and answer.endswith(b"lbq!"):
                    return True
    return False


@pytest.mark.parametrize("defragmented", [True, False])
def test_fragments_are_reassembled_before_they_are_queued(hosts, variant, place, defragmented):
    """Without the LBQ-DEFRAG rule only the first fragment has ports and is queued: the test can fail."""
    client, director, _ = hosts
    setup = install(director, variant, place)
    director.call(setup.add_service, place.service._replace(protocol=UDP))
    if not defragmented:
        director.run([f"{place.iptables}-{variant}", "-t", "raw", "-F", "LBQ-DEFRAG"])

    udp_to(client, place, 80, DATAGRAM).close()

    count, size = queued(director, variant, "LBQ-REQUEST", place, "vip")
    assert count == 1
    assert size == (HEADERS[place.family] + DATAGRAM if defragmented else FIRST_FRAGMENT[place.family])


def test_packets_of_the_service_wait_for_lbq_and_others_do_not(hosts, variant, place):
    client, director, _ = hosts
    install(director, variant, place)
    echo_once(director, place, 81)

    with pytest.raises(TimeoutError):       # fail closed: nobody listens on the queue
        client.call(socket.create_connection, (place.vip, 80), SILENCE)
    assert converse(client, place.vip, 81) == place.client

    assert queued(director, variant, "LBQ-REQUEST", place, "vip")[0] >= 1


def test_a_service_of_every_port_leaves_the_neighbours_and_pings_alone(hosts, variant, place):
    """With nobody at the queue; a solicitation for the VIP that waits there would cut the VIP off its link."""
    client, director, _ = hosts
    setup = install(director, variant, place)
    director.call(setup.add_service, place.service._replace(port=0))
    assert client.call(ping, place, place.vip)
    device = director.run(["ip", "-o", "neighbour", "show", place.client]).stdout.split()
    assert device[1:3] == ["dev", "eth0"]
    # The next packet of a client that has not heard of the VIP for long goes out after a question to the VIP alone.
    client.run(["ip", "neighbour", "change", place.vip, "dev", "eth0", "nud", "probe"])

    assert client.call(ping, place, place.vip)
    with pytest.raises(TimeoutError):
        client.call(socket.create_connection, (place.vip, 7), SILENCE)

    assert wait_until(lambda: "REACHABLE" in client.run(["ip", "neighbour", "show", place.vip]).stdout)
    assert queued(director, variant, "LBQ-REQUEST", place, "vip-any")[0] >= 1


EVERY_PORT = {
    "port 0": lambda service: service._replace(port=0),
    "ftp": lambda service: service._replace(port=21),
    "a mark": lambda service: service._replace(protocol=TCP, address=0, port=0, fwmark=7),
}


def rules_for_whole_addresses(host, variant, place):
    """Return the rules that look into the sets of whole addresses."""
    return [line for line in rules(host, variant, place) if f"{place.sets}-vip-any" in line
            or f"{place.sets}-rip-any" in line]


@pytest.mark.parametrize("what", EVERY_PORT)
def test_whole_addresses_have_rules_once_a_service_needs_them(hosts, variant, place, what):
    """A look-up in vain is paid by every packet: a director without such a service has no rule for it.

    It comes while the director runs, and goes on over the other services' heads: their rules stay.
    """
    client, director, server = hosts
    before = picture(director)
    setup = install(director, variant, place)
    service = EVERY_PORT[what](place.service)
    assert rules_for_whole_addresses(director, variant, place) == []
    mark = ["-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "7", "-j", "MARK", "--set-mark", "7"]
    if service.fwmark:
        director.run([f"{place.iptables}-{variant}", *mark])

    director.call(setup.add_service, service)
    director.call(setup.add_server, service, number(place.rip), service.port, NAT)

    assert len(rules_for_whole_addresses(director, variant, place)) == 5
    with pytest.raises(TimeoutError):               # queued, and nobody listens
        client.call(socket.create_connection, (place.vip, 7), SILENCE)
    with pytest.raises(TimeoutError):
        client.call(socket.create_connection, (place.vip, 80), SILENCE)
    udp_from(server, place, 12345)                  # FTP's data, a reply of any port
    assert queued(director, variant, "LBQ-REPLY", place, "rip-any")[0] == 1
    if service.fwmark:
        director.run([f"{place.iptables}-{variant}", *(word.replace("-A", "-D") for word in mark)])
    director.call(setup.undo)
    assert picture(director) == before


def test_requests_of_the_director_itself_are_queued(hosts, variant, place):
    _, director, _ = hosts
    install(director, variant, place)

    with pytest.raises(TimeoutError):
        director.call(socket.create_connection, (place.vip, 80), SILENCE)

    assert queued(director, variant, "LBQ-REQUEST", place, "vip")[0] >= 1


@pytest.mark.parametrize("firewall", ["", FIREWALL], ids=["no firewall", "MASQUERADE and INVALID DROP"])
def test_a_direct_connection_to_a_real_server_is_plain_routing(hosts, variant, place, firewall):
    """RIP:rport is untracked both ways; half of it tracked, and MASQUERADE or INVALID DROP would break it."""
    client, director, server = hosts
    director.run([f"{place.iptables}-{variant}-restore"], input=firewall)
    install(director, variant, place)
    director.popen([sys.executable, "-c", ACCEPT_ALL]).wait_for("ready")
    echo_once(server, place, 80)

    assert converse(client, place.rip, 80) == place.client

    assert queued(director, variant, "LBQ-REPLY", place, "rip")[0] >= 2


def test_other_ports_of_a_real_server_keep_their_masquerade(hosts, variant, place):
    client, director, server = hosts
    director.run([f"{place.iptables}-{variant}-restore"], input=FIREWALL)
    install(director, variant, place)
    echo_once(server, place, 81)

    assert converse(client, place.rip, 81) == place.inside


def test_accept_forward_opens_a_closed_firewall_for_the_servers_port_only(hosts, variant, place):
    client, director, server = hosts
    director.run([f"{place.iptables}-{variant}", "-P", "FORWARD", "DROP"])
    install(director, variant, place, accept_forward=True)
    director.popen([sys.executable, "-c", ACCEPT_ALL]).wait_for("ready")
    echo_once(server, place, 80)

    assert converse(client, place.rip, 80) == place.client
    with pytest.raises(TimeoutError):
        client.call(socket.create_connection, (place.rip, 81), SILENCE)


def test_conntrack_sees_other_ports_but_not_the_real_servers(hosts, variant, place):
    client, director, server = hosts
    director.run([f"{place.iptables}-{variant}-restore"], input=FIREWALL)
    install(director, variant, place)
    director.popen([sys.executable, "-c", ACCEPT_ALL]).wait_for("ready")
    for port in (80, 81):
        echo_once(server, place, port)
        converse(client, place.rip, port)

    tracked = director.run(["conntrack", "-L", "-f", "ipv6" if place.family == AF_INET6 else "ipv4"]).stdout

    assert "dport=81 " in tracked
    assert "port=80 " not in tracked
