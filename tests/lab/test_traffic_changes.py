"""Servers come, go and are quiesced while clients are connected."""
from __future__ import annotations

import signal

from tests.helpers.processes import wait_until
from tests.helpers.topology import (
    curl,
    hold,
    listing,
    resets_suffered,
    server_row,
    settle,
    start_endpoints,
    start_nginx,
    still_answers,
    wrk,
)


def start(lab, engine, *servers):
    """Run a director with *servers* behind VIP:80."""
    reals = [word for server in servers for word in ("--real", f"{server.address}:80")]
    lab.start_director("--mode", "nat", "--scheduler", "rr", "--engine", engine, *reals)


def test_quiesced_server_finishes_what_it_has_and_gets_nothing_new(lab, engine):
    web01, web02 = lab.servers
    start_endpoints(lab, "hold")
    start(lab, engine, web01, web02)
    held = dict(hold(lab.client, lab.vip) for _ in range(2))

    lab.lbq("set", "server", f"{lab.vip}:80", f"{web02.address}:80,weight=0")
    new = [hold(lab.client, lab.vip) for _ in range(4)]

    assert [name for name, _ in new] == ["web01"] * 4
    assert still_answers(held["web01"])
    assert still_answers(held["web02"])
    row = server_row(lab, web02)
    assert (row["weight"], row["active"], row["stats"]["conns"]) == (0, 1, 1)

    held["web02"].close()
    settle(lab)

    row = server_row(lab, web02)
    assert (row["active"], row["inactive"]) == (0, 1)
    assert resets_suffered(lab.client) == 0

    lab.lbq("set", "server", f"{lab.vip}:80", f"{web02.address}:80,weight=1")

    assert sorted(hold(lab.client, lab.vip)[0] for _ in range(4)) == ["web01", "web01", "web02", "web02"]


def test_added_server_takes_its_turn(lab, engine):
    web01, web02 = lab.servers
    start_nginx(lab)
    start(lab, engine, web01)
    alone = [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(3)]

    lab.lbq("add", "server", f"{lab.vip}:80", f"{web02.address}:80")
    together = [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(6)]

    assert alone == ["web01"] * 3
    assert (together.count("web01"), together.count("web02")) == (3, 3)


def test_deleted_server_gets_nothing_new_and_the_others_do_not_notice(lab, engine):
    web01, web02 = lab.servers
    start_endpoints(lab, "hold")
    start(lab, engine, web01, web02)
    held = dict(hold(lab.client, lab.vip) for _ in range(2))

    lab.lbq("del", "server", f"{lab.vip}:80", f"{web02.address}:80")
    new = [hold(lab.client, lab.vip)[0] for _ in range(4)]

    assert new == ["web01"] * 4
    assert still_answers(held["web01"])
    assert [row["address"] for row in listing(lab)["servers"]] == [web01.address]


def test_connection_of_a_deleted_server_lives_on_when_the_server_returns(lab, engine):
    """The kernel keeps a deleted server in its trash while it has connections, and takes it out again."""
    web01, web02 = lab.servers
    start_endpoints(lab, "hold")
    start(lab, engine, web01, web02)
    held = dict(hold(lab.client, lab.vip) for _ in range(2))

    lab.lbq("del", "server", f"{lab.vip}:80", f"{web02.address}:80")
    lab.lbq("add", "server", f"{lab.vip}:80", f"{web02.address}:80")

    assert still_answers(held["web02"])
    assert server_row(lab, web02)["active"] == 1


def test_servers_change_under_load_without_one_error(make_lab):
    """wrk keeps going while servers are added, weighted and quiesced: every request is answered."""
    lab = make_lab(servers=3)
    web01, web02, web03 = lab.servers
    start_nginx(lab)
    start(lab, "fast", web01)
    service = f"{lab.vip}:80"
    load = lab.client.popen(["wrk", "-t", 2, "-c", 100, "-d", "60s", "-H", "Connection: close",
                             f"http://{lab.vip}/"])

    lab.lbq("add", "server", service, f"{web02.address}:80")
    lab.lbq("add", "server", service, f"{web03.address}:80,weight=5")
    for weight in (0, 1, 0, 7, 0):
        lab.lbq("set", "server", service, f"{web01.address}:80,weight={weight}")
    wait_until(lambda: all(row["stats"]["conns"] > 0 for row in listing(lab)["servers"]))
    load.send_signal(signal.SIGINT)         # wrk reports what there was until then
    report = load.communicate(timeout=30)[0].decode()

    assert load.returncode == 0
    assert "requests in" in report
    assert "Socket errors" not in report and "Non-2xx" not in report
    assert resets_suffered(lab.client) == 0
    assert wrk(lab.client, f"http://{lab.vip}/", connections=10, seconds=1) > 0
