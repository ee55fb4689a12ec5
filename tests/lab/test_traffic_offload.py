"""Services whose flows the kernel's conntrack carries: real clients and servers, and what lbq knows of them."""
from __future__ import annotations

import json
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from lbq import ctnetlink
from lbq._fastpath import FastDirector
from lbq.host import flows as conntrack
from lbq.host.offloading import Offloading, Target
from lbq.host.setup import cleanup
from lbq.model import AF_INET, AF_INET6, NAT, OFFLOAD, UDP, ServiceKey, Tunnel
from tests.helpers.dual import reals as reals6
from tests.helpers.dual import service, url6, with_ipv6
from tests.helpers.endpoints import digest_of
from tests.helpers.engines import NS
from tests.helpers.namespaces import IPV4, VIP, lone_host, number, picture, rules, setup_for
from tests.helpers.topology import (
    FULL,
    curl,
    download,
    hold,
    listing,
    settle,
    start_endpoints,
    start_nginx,
    still_answers,
    tell,
    udp_server,
    udp_socket,
    upload,
    wrk,
)

SIZE = (256 if FULL else 32) << 20
MANY = 10_000 if FULL else 1_000
OPTIONS = ("--mode", "nat", "--scheduler", "rr", "--data-path", "offload")


def reals(lab, port):
    """Return the options that name every server of the lab, with this port."""
    return [word for server in lab.servers for word in ("--real", f"{server.address}:{port}")]


def wait_until(condition, seconds=5.0):
    """Wait until *condition* holds; return whether it did."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def flows(lab, family=AF_INET):
    """Return what conntrack has of translated flows."""
    return [flow for flow in lab.director.call(lambda: list(conntrack.flows(family))) if flow.is_translated]


def counts(lab):
    """Return (active, inactive) of each server, in the order of their addresses."""
    rows = sorted(listing(lab)["servers"], key=lambda row: row["address"])
    return [(row["active"], row["inactive"]) for row in rows]


def states(lab):
    """Return the state of each connection."""
    return [row["state"] for row in json.loads(lab.lbq("conns", "--json").stdout)]


def queued(lab):
    """Return how many packets lbq has seen, but for SYNs that it had not answered for a second and got once more."""
    return tell(lab, "stats")["counters"]["packets"] - lab.client.counters()["TcpTCPSynRetrans"]


def picture_of(host):
    """Return all that lbq must leave as it was, conntrack's settings too."""
    settings = {name: host.call(Path(f"/proc/sys/net/netfilter/{name}").read_text)
                for name in ("nf_conntrack_acct", "nf_conntrack_events")}
    return picture(host) | settings


def test_round_robin_with_another_port(lab):
    start_nginx(lab, port=8080)
    lab.start_director(*OPTIONS, *reals(lab, 8080))

    assert [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(6)] == ["web02", "web01"] * 3
    assert queued(lab) == 6
    assert wait_until(lambda: states(lab) == ["TIME_WAIT"] * 6), states(lab)
    assert counts(lab) == [(0, 3), (0, 3)]


def test_a_client_on_the_director(lab):
    start_nginx(lab, port=8080)
    lab.start_director(*OPTIONS, *reals(lab, 8080))
    assert [curl(lab.director, f"http://{lab.vip}/").strip() for _ in range(4)] == ["web02", "web01"] * 2


def test_bulk_arrives_as_it_was_sent_and_is_counted(lab):
    start_endpoints(lab, "bulk", 8080)
    lab.start_director(*OPTIONS, "--real", f"{lab.servers[0].address}:8080")

    assert upload(lab.client, f"http://{lab.vip}/", SIZE) == digest_of(SIZE)
    assert download(lab.client, f"http://{lab.vip}/{SIZE}") == digest_of(SIZE)
    assert queued(lab) == 2
    settle(lab)             # the last ones of a connection, too, are counted in both rows
    row = listing(lab)
    stats = row["stats"]
    assert stats["conns"] == 2
    for direction in ("in", "out"):
        assert SIZE < stats[f"bytes_{direction}"] < SIZE * 1.1
    assert stats == row["servers"][0]["stats"]


def test_counters_are_what_the_server_saw(lab):
    """Of datagrams, which nobody puts together or sends again."""
    start_endpoints(lab, "echo", 5300)
    lab.start_director("--vip", f"{lab.vip}:53", "--udp", *OPTIONS, "--real", f"{lab.servers[0].address}:5300")
    with udp_socket(lab.client, lab.vip, 53) as sock:
        for size in range(1, 101):
            sock.send(bytes(size))
            assert sock.recv(200) == b"web01 " + bytes(size)
        assert counts(lab) == [(0, 1)]
        stats = listing(lab)["stats"]
    sent = sum(range(1, 101))
    assert stats == {"conns": 1, "packets_in": 100, "bytes_in": sent + 2800, "packets_out": 100,
                     "bytes_out": sent + 600 + 2800}
    assert queued(lab) == 1


def test_active_then_inactive_then_gone(lab):
    start_endpoints(lab, "hold")
    lab.start_director(*OPTIONS, *reals(lab, 80))
    names, held = zip(*(hold(lab.client, lab.vip) for _ in range(4)), strict=True)
    assert sorted(names) == ["web01"] * 2 + ["web02"] * 2
    assert wait_until(lambda: counts(lab) == [(2, 0), (2, 0)]), counts(lab)
    [row] = [row for row in json.loads(lab.lbq("conns", "--json").stdout) if row["cport"] == held[0].getsockname()[1]]
    assert row["state"] == "ESTABLISHED" and 800 < row["expires_seconds"] <= 900
    for sock in held:
        sock.close()
    assert wait_until(lambda: counts(lab) == [(0, 2), (0, 2)]), counts(lab)
    assert lab.director.call(conntrack.forget, AF_INET, lambda flow: flow.is_translated) == 4
    assert wait_until(lambda: counts(lab) == [(0, 0), (0, 0)]), counts(lab)
    assert tell(lab, "stats")["counters"]["connections"] == 0


def test_a_reset_is_seen(lab):
    start_endpoints(lab, "hold")
    lab.start_director(*OPTIONS, *reals(lab, 80))
    _, sock = hold(lab.client, lab.vip)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes.fromhex("0100000000000000"))
    sock.close()
    assert wait_until(lambda: sum(inactive for _, inactive in counts(lab)) == 1)
    assert states(lab) == ["CLOSE"]


def test_datagrams_that_nobody_answers_are_queued_once(lab):
    lab.start_director("--vip", f"{lab.vip}:514", "--udp", *OPTIONS, *reals(lab, 5140))
    with udp_server(lab.servers[1], "0.0.0.0", 5140) as log, udp_socket(lab.client, lab.vip, 514) as sock:
        for number in range(50):
            sock.send(str(number).encode())
            assert log.recv(100) == str(number).encode()
        assert queued(lab) == 1
        assert listing(lab)["stats"]["packets_in"] == 50
        with udp_socket(lab.client, lab.vip, 514) as other, udp_server(lab.servers[0], "0.0.0.0", 5140) as log:
            for number in range(50):        # as many as come before lbq has decided about the first
                other.send(str(number).encode())
            assert {log.recv(100) for _ in range(50)} == {str(number).encode() for number in range(50)}
    stats = listing(lab)["stats"]
    assert (stats["conns"], stats["packets_in"]) == (2, 100)


def test_many_short_connections(lab):
    start_nginx(lab, port=8080)
    lab.start_director(*OPTIONS, *reals(lab, 8080))
    answered = wrk(lab.client, f"http://{lab.vip}/", connections=20, seconds=10 if FULL else 2, close=True)

    assert answered > MANY
    assert wait_until(lambda: sum(active for active, _ in counts(lab)) == 0), counts(lab)
    conns = [row["stats"]["conns"] for row in listing(lab)["servers"]]
    assert abs(conns[1] - conns[0]) <= 1 and answered <= sum(conns) <= answered + 40
    assert sum(inactive for _, inactive in counts(lab)) == len(flows(lab))
    assert tell(lab, "stats")["counters"]["events_lost"] == 0


def test_a_deleted_servers_clients_hear_nothing_until_it_is_back(lab):
    start_endpoints(lab, "hold")
    lab.start_director(*OPTIONS, *reals(lab, 80))
    name, sock = hold(lab.client, lab.vip)
    server = {"web01": lab.servers[0], "web02": lab.servers[1]}[name]
    assert "1 (--on-delete end" in tell(lab, "delete_server", service=f"{lab.vip}:80", server=f"{server.address}:80")
    sock.settimeout(0.5)
    sock.sendall(b"hello")
    with pytest.raises(TimeoutError):
        sock.recv(10)
    assert "back with the connections it had: 1" in tell(lab, "add_server", service=f"{lab.vip}:80",
                                                         server=f"{server.address}:80")
    sock.settimeout(10)
    assert sock.recv(10) == b"hello"
    assert still_answers(sock)


def test_a_deleted_servers_clients_start_over_when_they_are_to(lab):
    start_endpoints(lab, "hold")
    lab.start_director(*OPTIONS, "--on-delete", "end", *reals(lab, 80))
    name, sock = hold(lab.client, lab.vip)
    server = {"web01": lab.servers[0], "web02": lab.servers[1]}[name]
    tell(lab, "delete_server", service=f"{lab.vip}:80", server=f"{server.address}:80")
    assert wait_until(lambda: flows(lab) == []), flows(lab)
    sock.sendall(b"hello")
    with pytest.raises(ConnectionResetError):
        sock.recv(10)
    other, _ = hold(lab.client, lab.vip)
    assert other != name


def test_ending_and_draining_are_conntracks_business_too(lab):
    start_endpoints(lab, "hold")
    lab.start_director(*OPTIONS, *reals(lab, 80))
    held = [hold(lab.client, lab.vip) for _ in range(4)]
    assert len(flows(lab)) == 4
    address = lab.servers[0].address
    assert tell(lab, "end_connections", server=address)["ended"] == 2
    assert wait_until(lambda: len(flows(lab)) == 2)
    tell(lab, "drain", service=f"{lab.vip}:80", server=f"{lab.servers[1].address}:80", end_after=0)
    assert wait_until(lambda: flows(lab) == []), flows(lab)
    assert counts(lab) == [(0, 0), (0, 0)]
    for _, sock in held:
        sock.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            sock.recv(10)


def test_a_persistent_client_stays_where_it_was(lab):
    start_nginx(lab)
    lab.start_director(*OPTIONS, "--persistent", "60", *reals(lab, 80))
    assert len({curl(lab.client, f"http://{lab.vip}/") for _ in range(5)}) == 1


def test_flows_from_before_the_service_are_no_way_past_it(lab):
    """A client that went on sending when there was no service comes to it as soon as there is one."""
    lab.start_director(*OPTIONS, *reals(lab, 80))
    start_endpoints(lab, "echo", 5300)
    with udp_socket(lab.client, lab.vip, 5300) as sock:
        sock.send(b"nobody")
        with pytest.raises(OSError):
            sock.recv(100)
        tell(lab, "add_service", service=f"udp:{lab.vip}:5300", data_path="offload")
        tell(lab, "add_server", service=f"udp:{lab.vip}:5300", server=lab.servers[0].address)
        sock.send(b"somebody")
        assert sock.recv(100) == b"web01 somebody"


def test_beside_a_service_of_every_port_and_one_that_is_not_offloaded(lab):
    start_nginx(lab)
    lab.start_director(*OPTIONS, "--real", f"{lab.servers[0].address}:80")
    tell(lab, "add_service", service=f"{lab.vip}:0", persistent=60)
    tell(lab, "add_server", service=f"{lab.vip}:0", server=lab.servers[1].address)
    assert [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(3)] == ["web01"] * 3
    assert curl(lab.client, f"http://{lab.vip}:80/").strip() == "web01"


def test_ipv6(lab):
    with_ipv6(lab)
    start_nginx(lab, port=8080, ipv6=True)
    lab.start_director("--vip", service(lab), *OPTIONS, *reals6(lab, port=8080))
    assert [curl(lab.client, url6(lab)).strip() for _ in range(4)] == ["web02", "web01"] * 2
    assert queued(lab) == 4
    assert wait_until(lambda: counts(lab) == [(0, 2), (0, 2)]), counts(lab)
    assert len(flows(lab, AF_INET6)) == 4 and flows(lab) == []
    tell(lab, "end_connections", service=service(lab))
    assert wait_until(lambda: flows(lab, AF_INET6) == [])


@pytest.mark.parametrize("ending", ["stop", "killed"])
def test_everything_is_as_it_was_after_the_end(lab, ending):
    with_ipv6(lab)
    start_endpoints(lab, "hold")
    before = picture_of(lab.director)
    director = lab.start_director(*OPTIONS, *reals(lab, 80))
    tell(lab, "add_service", service="[2001:db8::1]:80", data_path="offload")
    _, sock = hold(lab.client, lab.vip)
    tell(lab, "delete_server", service=f"{lab.vip}:80", server=f"{lab.servers[0].address}:80")
    assert picture_of(lab.director) != before
    assert "warning" not in lab.director.run(["nft", "list", "table", "ip", "lbq-offload"]).stderr.lower()
    if ending == "stop":
        director.stop()
        assert "connections that end with it: 1" in director.log.read_text()
    else:
        director.send_signal(signal.SIGKILL)
        director.wait(10)
        assert len(flows(lab)) == 1
        done = lab.lbq("cleanup").stdout
        assert "ip lbq-offload removed" in done and "flows of offloaded services that end: 1" in done
    assert picture_of(lab.director) == before
    assert flows(lab) == []
    sock.close()


def test_flows_go_on_when_the_director_is_killed_and_the_next_one_takes_them_over(lab):
    start_endpoints(lab, "hold")
    director = lab.start_director(*OPTIONS, *reals(lab, 80))
    tell(lab, "timeouts", tcp=1000)
    held = [hold(lab.client, lab.vip) for _ in range(4)]
    director.send_signal(signal.SIGKILL)
    director.wait(10)
    assert all(still_answers(sock) for _, sock in held)
    lab.start_director(*OPTIONS, "--real", f"{lab.servers[0].address}:80")
    assert wait_until(lambda: counts(lab) == [(2, 0)]), counts(lab)
    for name, sock in held:
        if name == "web01":
            assert still_answers(sock)
        else:
            sock.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                sock.recv(10)
    assert len(flows(lab)) == 2
    assert hold(lab.client, lab.vip)[0] == "web01"


def test_mistakes_are_one_line(lab):
    for words, complaint in (
            (["--mode", "dr", "--real", "192.168.20.1"], "cannot be offloaded: conntrack rewrites packets"),
            (["--vip", f"{lab.vip}:21"], "cannot be offloaded: FTP's messages"),
            (["--engine", "reference"], "--data-path offload is for --engine fast")):
        done = lab.lbq("--vip", f"{lab.vip}:80", *OPTIONS, *words, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and complaint in done.stderr, done.stderr


def test_what_was_not_heard_is_read(tmp_path):
    """Events find no room in a small buffer; of what there is a list tells, and of what is gone that it is in none."""
    service, server = ServiceKey(UDP, number(VIP), 53), (number(IPV4.inside), 5353)
    offloading = Offloading(AF_INET)
    director = FastDirector(max_connections=1000)
    director.add_service(service, "rr", OFFLOAD)
    director.add_server(service, *server, 1, NAT, 0, 0, Tunnel(), None, 7)
    with lone_host(tmp_path) as host:
        host.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"])
        host.call(offloading.put_in)
        host.call(offloading.add, 7, Target(UDP, *server, service.address, 53))
        director.attach_conntrack(*host.call(ctnetlink.open_sockets, 4096))
        with host.inside():
            clients = [socket.socket(AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
        for sock in clients:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7 << 8)
            sock.sendto(b"hello", (VIP, 53))
        follow(director, 1)
        counted = director.statistics()
        assert counted["events_lost"] == 1
        assert (counted["offloaded"], counted["connections"], counted["lists_read"]) == (200, 200, 1)
        assert host.call(conntrack.forget, AF_INET, lambda flow: flow.is_translated) == 200
        for second in range(3, 12, 3):
            follow(director, second)
        assert director.statistics()["connections"] == 0
        for sock in clients:
            sock.close()


def follow(director, seconds):
    """Let *director* take in all that conntrack has told."""
    while director.follow_once(seconds * NS):
        pass


# ---- The table alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_a_probe_leaves_nothing_and_finds_nothing_missing(tmp_path, family):
    with lone_host(tmp_path) as host:
        before = picture(host)
        assert host.call(Offloading(family).probe) == ""
        assert picture(host) == before


def test_both_variants_of_iptables_and_both_families(tmp_path, variant, place):
    with lone_host(tmp_path) as host:
        before = picture_of(host)
        setup = setup_for(host, variant)
        host.call(setup.install, [place.service], [(*place.server, 7, True)], [], [place.service])
        host.call(setup.close_server, *place.server[:3])
        saved = "\n".join(rules(host, variant, place))
        assert f"-A LBQ-REQUEST -m set --match-set {place.sets}-vip-offload dst,dst -g LBQ-OFFLOAD" in saved
        assert "! --ctstatus CONFIRMED -j NFQUEUE --queue-num 1" in saved
        with host.inside():
            cleanup(setup.directory)
        assert picture_of(host) == before


def test_the_table_is_taken_over_with_its_timeouts(tmp_path):
    with lone_host(tmp_path) as host:
        host.call(Offloading(AF_INET).put_in)
        first = host.run(["nft", "-a", "list", "table", "ip", "lbq-offload"]).stdout
        host.call(Offloading(AF_INET).put_in)
        second = host.run(["nft", "-a", "list", "table", "ip", "lbq-offload"]).stdout
        first_timeouts, timeouts = (re.findall(r"ct timeout \S+ \{ # handle \d+", text) for text in (first, second))
        assert len(timeouts) == 2 and timeouts == first_timeouts
        assert second.count("dnat to") == first.count("dnat to") == 4
