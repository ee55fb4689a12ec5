"""Real IPv6 through real NFQUEUE by NAT: who answers, bulk, datagrams of every size, errors, persistence, marks."""
from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lbq.lab.topology import Lab, this_lbq
from tests.helpers.dual import path_forgotten, reals, service, start, url6, v6, with_ipv6
from tests.helpers.endpoints import digest_of
from tests.helpers.icmp import error_about
from tests.helpers.namespaces import machines, picture
from tests.helpers.routed import BULK, DISCARD, ECHO, HOLD, LONG, SIZES, with_servers
from tests.helpers.topology import (
    IN_SOCKETS,
    connect,
    curl,
    download,
    features,
    hold,
    iperf3,
    listing,
    new_lab,
    resets_suffered,
    route,
    settle,
    start_endpoint,
    still_answers,
    tell,
    udp_server,
    udp_socket,
    upload,
)

UNREACHABLE, TOO_BIG, TIME_EXCEEDED = 1, 2, 3           # ICMPv6 types
PORT_UNREACHABLE = 4
IPV6_DSTOPTS, IPV6_UNICAST_HOPS, IPV6_MTU_DISCOVER = 59, 16, 23     # <linux/in6.h>
PMTUDISC_DO, PMTUDISC_DONT = 2, 0
PADDING = bytes.fromhex("0000010400000000")             # destination options: nothing but padding
WHOLE = 1500 - 40 - 8                                   # the longest datagram in one packet
PORTS = 500
IPVSADM = Path(sys.executable).with_name("lbq-ipvsadm")


@pytest.fixture(scope="module")
def network():
    """Return the article's network, dual-stack, with servers of every kind on IPv6."""
    with new_lab(Lab) as lab:
        yield with_servers(with_ipv6(lab), ipv6=True)


@pytest.fixture
def lab(network, lend):
    """Lend the network to one test."""
    return lend(network)


@pytest.fixture(params=["vip-local", "vip-routed"])
def either_lab(lab, request):
    """Return the network with the VIP on the director, and with the VIP only routed there."""
    with vip_routed(lab) if request.param == "vip-routed" else ExitStack():
        yield lab


@contextmanager
def vip_routed(lab):
    """Take the IPv6 VIP off the director; the client sends its packets there by a route."""
    own, vip = "2001:db8:c0a8:a00::fe", v6(lab.vip)
    lab.director.run(["ip", "address", "add", f"{own}/64", "dev", "clients"])
    lab.director.run(["ip", "address", "del", f"{vip}/64", "dev", "clients"])
    try:
        with route(lab.client, f"{vip}/128", "via", own):
            yield
    finally:
        lab.director.run(["ip", "address", "add", f"{vip}/64", "dev", "clients"])
        lab.director.run(["ip", "address", "del", f"{own}/64", "dev", "clients"])


def who_answers(host, url, times):
    """Return the names that *times* new connections are answered with."""
    return [curl(host, url).strip() for _ in range(times)]


@pytest.fixture
def undisturbed(lab):
    """Let no connection be reset, and none be given up, in one test."""
    before = [resets_suffered(host) for host in lab.namespaces]
    yield
    assert [resets_suffered(host) for host in lab.namespaces] == before


@pytest.mark.parametrize("where", ["client", "director"])
def test_servers_take_turns(either_lab, engine, where):
    start(either_lab, engine)

    assert who_answers(getattr(either_lab, where), url6(either_lab), 6) == ["web02", "web01"] * 3


def test_port_is_translated(lab, engine):
    lab.start_director("--vip", service(lab, 81), "--mode", "nat", "--scheduler", "rr", "--engine", engine,
                       *reals(lab, port=80))

    for host in (lab.client, lab.director):
        assert who_answers(host, url6(lab, 81), 2) == ["web02", "web01"]


def test_both_families_are_balanced_by_one_director(lab, engine, no_router):
    """Each counts its own; and when it ends, the machine is as it was before the other came."""
    before = picture(lab.director)
    director = start(lab, engine)
    lab.lbq("add", "service", f"{lab.vip}:{HOLD}", "--scheduler", "rr")
    for server in lab.servers:
        lab.lbq("add", "server", f"{lab.vip}:{HOLD}", server.address)

    # The servers of this network listen on IPv6 alone; that the request gets there is enough.
    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.vip, HOLD)
    assert who_answers(lab.client, url6(lab), 4) == ["web02", "web01"] * 2

    rows = {row["family"]: row["stats"]["conns"] for row in tell(lab, "list")}
    assert rows == {"inet6": 4, "inet": 1}
    director.send_signal(signal.SIGTERM)
    assert director.wait(10) == 0
    assert picture(lab.director) == before


@pytest.mark.parametrize("where", ["client", "director"])
def test_bulk_arrives_intact(lab, engine, where, undisturbed):
    size, host = SIZES[engine], getattr(lab, where)
    start(lab, engine, BULK)

    assert download(host, f"{url6(lab, BULK)}{size}") == digest_of(size)
    assert upload(host, url6(lab, BULK), size // 4) == digest_of(size // 4)


@pytest.mark.parametrize("what", ["tx off", "tso off gso off"])
def test_it_does_not_matter_who_makes_segments_and_checksums(lab, engine, what):
    size = SIZES[engine] // 16
    start(lab, engine, BULK)

    with ExitStack() as stack:
        for host in (lab.client, *lab.servers):
            stack.enter_context(features(host, what))
        assert download(lab.client, f"{url6(lab, BULK)}{size}") == digest_of(size)
        assert upload(lab.client, url6(lab, BULK), size) == digest_of(size)


@pytest.mark.parametrize("direction", [[], ["--reverse"]], ids=["up", "down"])
def test_iperf3_runs(lab, direction):
    for server in lab.servers:
        server.popen(["iperf3", "--server", "--forceflush"]).wait_for("Server listening")
    lab.start_director("--vip", service(lab, 5201), "--mode", "nat", *reals(lab, lab.servers[:1]))

    end = iperf3(lab.client, v6(lab.vip), *direction)

    assert end["sum_received"]["bytes"] > 1 << 20
    assert end["sum_sent"]["bytes"] - end["sum_received"]["bytes"] <= IN_SOCKETS


@pytest.mark.parametrize("where", ["client", "director"])
def test_datagrams_of_every_size_pass_both_ways(either_lab, engine, where):
    """Up to 1,452 bytes fit into a packet; what is longer travels in fragments, and is still one flow."""
    start(either_lab, engine, ECHO, "--udp")
    host = getattr(either_lab, where)

    with ExitStack() as stack:
        for size in (0, 1, WHOLE - 6, WHOLE, WHOLE + 1, *LONG[engine]):
            datagram, answers = os.urandom(size), []
            for _ in either_lab.servers:
                sock = stack.enter_context(udp_socket(host, v6(either_lab.vip), ECHO))
                sock.send(datagram)
                answers.append(sock.recv(65535))
            assert answers == [b"web02 " + datagram, b"web01 " + datagram], size


def test_many_ports_stay_with_their_server_and_are_counted(lab, engine):
    start(lab, engine, ECHO, "--udp")
    with ExitStack() as stack:
        sockets = [stack.enter_context(udp_socket(lab.client, v6(lab.vip), ECHO)) for _ in range(PORTS)]
        answers = [[], []]
        for again in range(2):
            for sock in sockets:
                sock.send(b"%d" % again)
                answers[again].append(sock.recv(100).split()[0])

    assert answers[0] == [b"web02", b"web01"] * (PORTS // 2)
    assert answers[1] == answers[0]
    row = listing(lab)
    assert row["stats"]["conns"] == PORTS
    assert [server["stats"]["packets_in"] for server in row["servers"]] == [PORTS, PORTS]
    assert [server["stats"]["packets_out"] for server in row["servers"]] == [PORTS, PORTS]


def test_ports_behind_an_extension_header_are_found(lab, engine):
    start(lab, engine, ECHO, "--udp")
    with udp_socket(lab.client, v6(lab.vip), ECHO) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, PADDING)
        for size in (3, 4000 if engine == "fast" else 3000):
            sock.send(bytes(size))
            assert sock.recv(65535) == b"web02 " + bytes(size)


def test_tcp_behind_an_extension_header_is_a_connection_like_any_other(lab, engine):
    start(lab, engine, HOLD)
    with lab.client.inside():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with sock:
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, PADDING)
        sock.connect((v6(lab.vip), HOLD))
        assert sock.recv(64) == b"web02\n"
        assert still_answers(sock)
        [row] = tell(lab, "connections")["connections"]
        assert (row["state"], row["daddr"]) == ("ESTABLISHED", v6(lab.servers[1].address))


def test_without_a_server_clients_hear_port_unreachable(lab, engine):
    start(lab, engine, ECHO, "--udp")
    for server in lab.servers:
        lab.lbq("set", "server", f"udp:{service(lab, ECHO)}", f"[{v6(server.address)}],weight=0")

    with udp_socket(lab.client, v6(lab.vip), ECHO) as sock:
        assert error_about(sock, b"hello?") == (UNREACHABLE, PORT_UNREACHABLE, 0, v6(lab.vip))


def test_a_client_hears_what_keeps_its_packets_from_a_server(lab, engine, forgiven):
    """Too many hops; nobody listens there, which the server says and the director translates; and how much fits."""
    web01, _ = lab.servers
    forgiven.add("Ip6InHdrErrors")      # the director's, for too many hops
    lab.start_director("--vip", service(lab, ECHO), "--udp", "--mode", "nat", "--engine", engine, *reals(lab, [web01]))
    lab.lbq("add", "service", f"udp:{service(lab, DISCARD)}")
    lab.lbq("add", "server", f"udp:{service(lab, DISCARD)}", f"[{v6(web01.address)}]")
    with (udp_socket(lab.client, v6(lab.vip), ECHO) as sock, udp_socket(lab.client, v6(lab.vip), DISCARD) as nobody):
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, 1)
        kind, code, _, _ = error_about(sock, b"how far?")
        assert (kind, code) == (TIME_EXCEEDED, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_UNICAST_HOPS, 2)
        sock.send(b"how far?")
        assert sock.recv(100) == b"web01 how far?"

        assert error_about(nobody, b"hello?") == (UNREACHABLE, PORT_UNREACHABLE, 0, v6(lab.vip))


def test_a_client_hears_which_packets_the_way_to_the_server_takes(lab, engine, undisturbed):
    """TCP then sends smaller ones; UDP that forbids fragments hears of it, and that allows them arrives in some."""
    web01, _ = lab.servers
    size = SIZES[engine] // 16
    with route(lab.director, f"{v6(web01.address)}/128", "dev", "servers", "mtu", "1300"), path_forgotten(lab.client):
        lab.start_director("--vip", service(lab, ECHO), "--udp", "--mode", "nat", "--engine", engine,
                           *reals(lab, [web01]))
        lab.lbq("add", "service", service(lab, BULK))
        lab.lbq("add", "server", service(lab, BULK), f"[{v6(web01.address)}]")
        with udp_socket(lab.client, v6(lab.vip), ECHO) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
            assert error_about(sock, bytes(1400)) == (TOO_BIG, 0, 1300, v6(lab.vip))
        with features(lab.client, "tso off gso off"):
            assert upload(lab.client, url6(lab, BULK), size) == digest_of(size)
        assert "mtu 1300" in lab.client.run(["ip", "-6", "route", "get", v6(lab.vip)]).stdout


def test_a_server_hears_that_its_client_is_gone(lab, engine):
    web01, _ = lab.servers
    lab.start_director("--vip", service(lab, 4000), "--udp", "--mode", "nat", "--engine", engine, *reals(lab, [web01]))
    with udp_server(web01, v6(web01.address), 4000) as answering:
        with udp_socket(lab.client, v6(lab.vip), 4000) as sock:
            sock.send(b"hello")
            _, client, *_ = answering.recvfrom(100)
        answering.connect(client)

        answering.send(b"too late")

        with pytest.raises(ConnectionRefusedError):
            answering.recv(100)


@pytest.fixture
def far(lab, tmp_path):
    """Return a machine behind the client, where packets of 1,500 bytes do not fit; the client says so."""
    address, gateway = "2001:db8:30::2", "2001:db8:30::1"
    with machines(tmp_path, "far") as (far,), path_forgotten(lab.servers[1]):
        lab.client.run(["ip", "link", "add", "behind", "mtu", "1300", "type", "veth", "peer", "name", "eth0",
                        "netns", far.name])
        for host, device, its_own in ((lab.client, "behind", gateway), (far, "eth0", address)):
            host.run(["ip", "link", "set", device, "up"])
            host.run(["ip", "address", "add", f"{its_own}/64", "dev", device, "nodad"])
        far.run(["ip", "link", "set", "eth0", "mtu", "1500"])
        far.run(["ip", "route", "add", "default", "via", gateway])
        lab.client.sysctl("net.ipv6.conf.all.forwarding", 1)
        with route(lab.director, "2001:db8:30::/64", "via", v6(lab.client.address)):
            yield far
            settle(lab)         # what still comes for it would be nobody's at the client
        lab.client.sysctl("net.ipv6.conf.all.forwarding", 0)


def test_a_server_hears_which_packets_the_way_to_its_client_takes(lab, engine, far, forgiven):
    """A router there writes to the VIP, which is all that it has seen; the director knows whom it means."""
    forgiven.add("Ip6FragFails")        # the router's, for what was too large
    size = SIZES[engine] // 16
    start(lab, engine, BULK)

    assert download(far, f"{url6(lab, BULK)}{size}") == digest_of(size)

    assert "mtu 1300" in lab.servers[1].run(["ip", "-6", "route", "get", "2001:db8:30::2"]).stdout


def test_clients_and_servers_on_one_link(lab, engine, forgiven):
    """One-armed NAT: what a server says goes back through the director as long as nobody shows it the direct way."""
    forgiven.add("Icmp6InErrors")       # it is the client who is shown the direct way to a server it has never heard of
    server, client = lab.servers
    network, size = "2001:db8:c0a8:1400::/64", SIZES[engine] // 16
    before = server.counters()["Icmp6InRedirects"]
    server.run(["ip", "-6", "route", "del", network, "dev", "eth0"])
    try:
        with route(server, "2001:db8:c0a8:1400::fe/128", "dev", "eth0"):
            server.run(["ip", "-6", "route", "replace", "default", "via", "2001:db8:c0a8:1400::fe"])
            lab.start_director("--vip", service(lab, BULK), "--mode", "nat", "--engine", engine, *reals(lab, [server]))
            for _ in range(3):
                assert download(client, f"{url6(lab, BULK)}{size}") == digest_of(size)
            assert upload(client, url6(lab, BULK), size) == digest_of(size)
    finally:
        server.run(["ip", "-6", "route", "replace", network, "dev", "eth0", "proto", "kernel", "metric", "256"])
    assert server.counters()["Icmp6InRedirects"] == before


def test_clients_of_one_network_go_to_one_server(lab, engine):
    """Persistence with a netmask of 64 bits: a network is a client."""
    neighbour, stranger = "2001:db8:c0a8:a00:1::5", "2001:db8:5555::5"
    for address, length in ((neighbour, 64), (stranger, 128)):
        lab.client.run(["ip", "address", "add", f"{address}/{length}", "dev", "eth0"])
    try:
        with route(lab.director, f"{stranger}/128", "via", v6(lab.client.address)):
            start(lab, engine, HOLD, "--persistent", "60", "--netmask", "64")
            names = {source: [held_by(lab, source) for _ in range(2)]
                     for source in (v6(lab.client.address), neighbour, stranger)}
            settle(lab)         # what still comes for these addresses would be nobody's
    finally:
        for address, length in ((neighbour, 64), (stranger, 128)):
            lab.client.run(["ip", "address", "del", f"{address}/{length}", "dev", "eth0"])

    assert list(names.values()) == [["web02"] * 2, ["web02"] * 2, ["web01"] * 2]
    templates = [row for row in tell(lab, "connections")["connections"] if row["cport"] == 0]
    assert sorted(row["caddr"] for row in templates) == ["2001:db8:5555::", "2001:db8:c0a8:a00::"]
    assert {row["persistent"] for row in listing(lab)["servers"]} == {1}


def held_by(lab, source):
    """Return who takes a connection from the address *source* of the client."""
    with lab.client.inside(), socket.create_connection((v6(lab.vip), HOLD), 10, (source, 0)) as sock:
        return sock.recv(64).decode().strip()


def test_a_firewall_mark_is_a_service_for_each_family(lab, engine):
    """Ports of one mark go to one service; IPv4 packets with the same mark do not."""
    for command in ("ip6tables", "iptables"):
        lab.director.run([command, "-t", "raw", "-A", "PREROUTING", "-i", "clients", "-p", "tcp", "-m", "multiport",
                          "--dports", f"80,{HOLD}", "-j", "MARK", "--set-mark", "7"])
    try:
        lab.start_director("--vip", "fwmark:7/6", "--mode", "nat", "--scheduler", "rr", "--engine", engine, *reals(lab))
        answers = [*who_answers(lab.client, url6(lab), 2), hold(lab.client, v6(lab.vip), HOLD)[0],
                   hold(lab.client, v6(lab.vip), HOLD)[0]]
        with pytest.raises(ConnectionRefusedError):
            connect(lab.client, lab.vip, HOLD)          # the host's own, nobody listens
    finally:
        for command in ("ip6tables", "iptables"):
            lab.director.run([command, "-t", "raw", "-F", "PREROUTING"])

    assert answers == ["web02", "web01"] * 2
    assert [(row["fwmark"], row["family"], row["stats"]["conns"]) for row in tell(lab, "list")] == [(7, "inet6", 4)]


def test_listings_are_as_ipvsadm_prints_them(lab, engine):
    start(lab, engine, HOLD)
    _, held = hold(lab.client, v6(lab.vip), HOLD)
    port = held.getsockname()[1]

    assert lab.lbq("list").stdout.splitlines()[2:] == [
        "TCP  [2001:db8:c0a8:a00::1]:7 rr",
        "  -> [2001:db8:c0a8:1400::2]:7    Masq    1      1          0",
        "  -> [2001:db8:c0a8:1400::1]:7    Masq    1      0          0"]
    [line] = lab.lbq("conns", "--client", f"[{v6(lab.client.address)}]:{port}").stdout.splitlines()[1:]
    assert re.fullmatch(rf"TCP 1[45]:\d\d  ESTABLISHED \[2001:db8:c0a8:a00::64\]:{port} \[2001:db8:c0a8:a00::1\]:7 "
                        r"\[2001:db8:c0a8:1400::2\]:7", line)
    assert lab.lbq("conns", "--server", "[2001:db8:c0a8:1400::1]").stdout.count("\n") == 1
    assert still_answers(held)


def test_connections_are_ended_and_servers_drained(lab, engine):
    _, web02 = lab.servers
    start(lab, engine, HOLD)
    name, held = hold(lab.client, v6(lab.vip), HOLD)
    assert (name, still_answers(held)) == ("web02", True)

    done = lab.lbq("drain", service(lab, HOLD), f"[{v6(web02.address)}]", "--end-after", "1", "--delete",
                   "--wait", "20")

    assert done.stdout.endswith("connections left: 1\nconnections left: 0\n")
    with pytest.raises(ConnectionResetError):
        still_answers(held)
    assert [row["address"] for row in listing(lab)["servers"]] == [v6(lab.servers[0].address)]
    assert hold(lab.client, v6(lab.vip), HOLD)[0] == "web01"


@pytest.fixture
def no_router(lab, forgiven):
    """Let the director forward no IPv6 but by lbq's own doing."""
    forgiven.add("Ip6InAddrErrors")     # see with_ipv6()
    lab.director.sysctl("net.ipv6.conf.all.forwarding", 0)
    yield
    lab.director.sysctl("net.ipv6.conf.all.forwarding", 1)


def test_a_killed_director_leaves_the_vip_closed_until_cleanup(lab, engine, no_router):
    before = picture(lab.director)
    director = start(lab, engine)
    assert curl(lab.client, url6(lab)) == "web02\n"
    os.killpg(director.pid, signal.SIGKILL)
    director.wait(10)

    with pytest.raises(TimeoutError):
        connect(lab.client, v6(lab.vip), timeout=1)
    said = lab.lbq("cleanup").stdout

    assert "net.ipv6.conf.all.forwarding 1 -> 0" in said
    assert picture(lab.director) == before
    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, v6(lab.vip))


def test_a_director_started_after_a_killed_one_takes_over(lab, engine, no_router):
    before = picture(lab.director)
    killed = start(lab, engine)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(10)

    director = start(lab, engine)

    assert who_answers(lab.client, url6(lab), 2) == ["web02", "web01"]
    director.send_signal(signal.SIGTERM)
    assert director.wait(10) == 0
    assert picture(lab.director) == before


def test_what_ipvsadm_was_told_in_ipv6_is_balanced_listed_and_restored(lab, engine):
    """An address alone stands without brackets, as the real tool wants it."""
    vip, (web01, web02) = v6(lab.vip), (v6(server.address) for server in lab.servers)
    lab.director.run(["ip6tables", "-t", "raw", "-A", "PREROUTING", "-i", "clients", "-p", "tcp", "--dport", HOLD,
                      "-j", "MARK", "--set-mark", "7"])
    try:
        lab.start_director("serve", "--engine", engine)
        for words in ("-A -t [{vip}]:80 -s wrr -p 60 -M 64", "-a -t [{vip}]:80 -r {web01} -m",
                      "-a -t [{vip}]:80 -r [{web02}]:80 -m -w 0", "-A -f 7 -6 -s rr", "-a -f 7 -6 -r {web02} -m"):
            ipvsadm(lab, *words.format(vip=vip, web01=web01, web02=web02).split())
        assert who_answers(lab.client, url6(lab), 3) == ["web01"] * 3
        name, held = hold(lab.client, vip, HOLD)
        assert (name, still_answers(held)) == ("web02", True)

        listed = [line.rstrip() for line in ipvsadm(lab, "-L", "-n").splitlines()[3:]]
        assert [line for line in listed if not line.startswith("  -> [2001:db8:c0a8:1400::1]")] == [
            "TCP  [2001:db8:c0a8:a00::1]:80 wrr persistent 60 mask 64",
            "  -> [2001:db8:c0a8:1400::2]:80   Masq    0      0          0",
            "FWM  7 IPv6 rr",
            "  -> [2001:db8:c0a8:1400::2]:0    Masq    1      1          0"]
        ends = f"[{v6(lab.client.address)}]:{held.getsockname()[1]} [{vip}]:7 [{web02}]:7"
        assert ends in ipvsadm(lab, "-L", "-n", "-c")
        saved = ipvsadm(lab, "-S", "-n")
        ipvsadm(lab, "-C")
        assert ipvsadm(lab, "-S", "-n") == ""
        ipvsadm(lab, "-R", input=saved)
        assert ipvsadm(lab, "-S", "-n") == saved
        assert still_answers(held)
        assert who_answers(lab.client, url6(lab), 1) == ["web01"]
    finally:
        lab.director.run(["ip6tables", "-t", "raw", "-F", "PREROUTING"])


def ipvsadm(lab, *words, **options):
    """Return what lbq-ipvsadm prints on the director."""
    return lab.director.run([IPVSADM, *words], env=this_lbq(), **options).stdout


@pytest.mark.parametrize("rules", [
    [], ["-t nat -A POSTROUTING -j MASQUERADE", "-A FORWARD -m conntrack --ctstate INVALID -j DROP"],
    ["-P FORWARD DROP", "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"],
], ids=["open", "masquerade-and-invalid-drop", "stateful"])
def test_bulk_is_intact_beside_a_firewall(lab, rules, undisturbed):
    size = SIZES["fast"] // 4
    for rule in rules:
        lab.director.run(["ip6tables", *rule.split()])
    try:
        start(lab, "fast", BULK, "--accept-forward")

        assert download(lab.client, f"{url6(lab, BULK)}{size}") == digest_of(size)
        assert upload(lab.client, url6(lab, BULK), size) == digest_of(size)
        assert download(lab.director, f"{url6(lab, BULK)}{size}") == digest_of(size)
    finally:
        lab.director.run(["ip6tables", "-P", "FORWARD", "ACCEPT"])
        for table in ("nat", "filter"):
            lab.director.run(["ip6tables", "-t", table, "-F"])


def test_real_server_on_the_director_itself(lab, engine, undisturbed):
    """The director is one of its own real servers: what it gets and gives never leaves the machine."""
    size = SIZES[engine] // 8
    lab.director.run(["ip", "link", "set", "lo", "mtu", 32000])     # NFQUEUE shows 65,531 bytes of a packet
    try:
        start_endpoint(lab.director, "bulk", 8081, ipv6=True)
        lab.start_director("--vip", service(lab, BULK), "--mode", "nat", "--engine", engine,
                           "--real", "[2001:db8:c0a8:1400::fe]:8081")

        for host in (lab.client, lab.director):
            assert download(host, f"{url6(lab, BULK)}{size}") == digest_of(size)
            assert upload(host, url6(lab, BULK), size) == digest_of(size)
    finally:
        lab.director.run(["ip", "link", "set", "lo", "mtu", 65536])


def test_the_first_packet_needs_no_neighbour(lab, engine):
    """Nobody has asked for the server's MAC yet, nor for the client's."""
    for host in lab.namespaces:
        host.run(["ip", "-6", "neighbour", "flush", "all"])
    start(lab, engine)

    assert who_answers(lab.client, url6(lab), 2) == ["web02", "web01"]
    assert server_row6(lab, lab.servers[0])["stats"]["conns"] == 1


def server_row6(lab, server):
    """Return the row of *server*'s IPv6 address."""
    [row] = [row for row in listing(lab)["servers"] if row["address"] == v6(server.address)]
    return row
