"""Real TCP through real NFQUEUE: who answers, what is counted, and that nothing breaks under load."""
from __future__ import annotations

import pytest

from lbq.lab.topology import GATEWAY
from tests.helpers.topology import (
    FULL,
    curl,
    grown,
    hold,
    listing,
    resets_suffered,
    server_row,
    settle,
    start_endpoint,
    start_endpoints,
    start_nginx,
    still_answers,
    wrk,
)


def start(lab, engine="fast", *options, scheduler="rr"):
    """Run a director with all servers of *lab* behind VIP:80."""
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:80")]
    return lab.start_director("--mode", "nat", "--scheduler", scheduler, "--engine", engine, *reals, *options)


def who_answers(host, url, times):
    """Return the names that *times* new connections are answered with."""
    return [curl(host, url).strip() for _ in range(times)]


@pytest.mark.parametrize("vip_local", [True, False], ids=["vip-local", "vip-routed"])
def test_round_robin_takes_the_newest_server_first_then_each_in_turn(make_lab, engine, vip_local):
    lab = make_lab(vip_local=vip_local, servers=3)
    start_nginx(lab)
    start(lab, engine)

    answers = who_answers(lab.client, f"http://{lab.vip}/", 9)

    assert answers == ["web03", "web02", "web01"] * 3


@pytest.mark.parametrize("vip_local", [True, False], ids=["vip-local", "vip-routed"])
def test_client_on_the_director_itself_is_balanced(make_lab, engine, vip_local):
    lab = make_lab(vip_local=vip_local)
    start_nginx(lab)
    start(lab, engine)

    answers = who_answers(lab.director, f"http://{lab.vip}/", 6)

    assert answers == ["web02", "web01"] * 3


def test_clients_share_the_turns_of_one_service(make_lab, engine):
    lab = make_lab(clients=2)
    start_nginx(lab)
    start(lab, engine)

    answers = [who_answers(client, f"http://{lab.vip}/", 1)[0] for client in lab.clients * 3]

    assert answers == ["web02", "web01"] * 3


def test_port_is_translated(lab, engine):
    start_nginx(lab, port=8080)
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:8080")]
    lab.start_director("--mode", "nat", "--scheduler", "rr", "--engine", engine, *reals)

    answers = who_answers(lab.client, f"http://{lab.vip}/", 4)
    from_the_director = who_answers(lab.director, f"http://{lab.vip}/", 2)

    assert answers == ["web02", "web01"] * 2
    assert from_the_director == ["web02", "web01"]


def test_weights_divide_the_connections(lab, engine):
    start_nginx(lab)
    lab.start_director("--mode", "nat", "--scheduler", "wrr", "--engine", engine,
                       "--real", f"{lab.servers[0].address}:80",
                       "--real", f"{lab.servers[1].address}:80,weight=2")

    answers = who_answers(lab.client, f"http://{lab.vip}/", 12)

    assert (answers.count("web01"), answers.count("web02")) == (4, 8)


def test_counts_are_what_the_servers_saw(lab, engine):
    """Connections, packets and bytes of ``lbq list`` against the servers' own kernel counters."""
    start_nginx(lab)
    start(lab, engine)
    before = {server.name: server.counters() for server in lab.servers}

    who_answers(lab.client, f"http://{lab.vip}/", 30)
    settle(lab)

    for server in lab.servers:
        stats = server_row(lab, server)["stats"]
        saw = grown(server, before[server.name], "TcpPassiveOpens", "IpInReceives", "IpInOctets",
                    "IpOutRequests", "IpOutOctets")
        counted = [stats[name] for name in ("conns", "packets_in", "bytes_in", "packets_out", "bytes_out")]
        assert counted == list(saw)
        assert stats["conns"] == 15


def test_thousand_connections_at_once_are_all_carried_and_all_counted(lab):
    """A thousand open connections: counted as active, all alive, and inactive once they are closed."""
    start_endpoints(lab, "hold")
    start(lab)

    held = [hold(lab.client, lab.vip) for _ in range(1000)]
    names = [name for name, _ in held]
    open_rows = listing(lab)["servers"]
    alive = [still_answers(connection) for _, connection in held]
    for _, connection in held:
        connection.close()
    settle(lab)
    closed_rows = listing(lab)["servers"]

    assert names == ["web02", "web01"] * 500
    assert [row["active"] for row in open_rows] == [500, 500]
    assert all(alive)
    assert [(row["active"], row["inactive"]) for row in closed_rows] == [(0, 500), (0, 500)]
    assert [row["stats"]["conns"] for row in closed_rows] == [500, 500]
    counted = {host.name: host.counters() for host in lab.namespaces}
    for name, counters in counted.items():
        assert (name, counters["TcpAttemptFails"], counters["TcpEstabResets"]) == (name, 0, 0)
    # A server may refuse the second acknowledgement of a FIN that it sent twice because the machine was busy.
    for host in (lab.client, lab.director):
        assert (host.name, counted[host.name]["TcpOutRsts"]) == (host.name, 0)


@pytest.mark.timeout(600)
def test_hundred_thousand_requests_of_a_thousand_clients(lab):
    """wrk, with kept connections and with one request a connection in turn, until 100,000 were answered."""
    start_nginx(lab)
    start(lab, scheduler="wlc")
    url = f"http://{lab.vip}/"

    wanted = 1_000_000 if FULL else 100_000
    answered = 0
    for _ in range(100):
        answered += wrk(lab.client, url, connections=1000, seconds=3)
        answered += wrk(lab.client, url, connections=1000, seconds=2, close=True)
        if answered >= wanted:
            break

    assert answered >= wanted
    assert resets_suffered(lab.client) == 0
    assert lab.client.counters()["TcpAttemptFails"] == 0
    assert all(row["stats"]["conns"] > 1000 for row in listing(lab)["servers"])


def test_reference_engine_under_load(lab):
    """The readable director is slow, not wrong: a hundred clients at once, kept-alive and not."""
    start_nginx(lab)
    start(lab, "reference")
    url = f"http://{lab.vip}/"

    kept = wrk(lab.client, url, connections=100, seconds=2)
    closed = wrk(lab.client, url, connections=100, seconds=2, close=True)

    assert kept > 100
    assert closed > 100
    assert resets_suffered(lab.client) == 0


@pytest.mark.parametrize("where", ["client", "director"])
def test_the_director_is_one_of_its_own_servers(lab, engine, where):
    start_endpoints(lab, "hold")
    start_endpoint(lab.director, "hold", 8080)
    lab.start_director("--mode", "nat", "--scheduler", "rr", "--engine", engine,
                       "--real", lab.servers[0].address, "--real", f"{GATEWAY}:8080")

    held = [hold(getattr(lab, where), lab.vip) for _ in range(4)]

    assert [name for name, _ in held] == ["director", "web01"] * 2
    assert all(still_answers(sock) for _, sock in held)
    assert [row["active"] for row in listing(lab)["servers"]] == [2, 2]
