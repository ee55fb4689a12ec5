"""`lbq explain` beside the running director: what it foretells comes true, and asking changes nothing."""
from __future__ import annotations

import json

import pytest

from lbq.forwarding import icmp_error
from lbq.lab.routed import RoutedLab
from lbq.trace.capture import BEFORE, Capture
from tests.helpers.packets import tcp
from tests.helpers.routed import start as start_routed
from tests.helpers.topology import curl, hold, listing, new_lab, start_endpoints, start_nginx, tell, visit


def explain(lab, source: str, target: str, *options: str) -> dict:
    """Return what `lbq explain --json` says in the director's namespace."""
    return json.loads(lab.lbq("explain", "--from", source, "--to", target, "--json", *options).stdout)


def start(lab, scheduler: str, *options: str) -> None:
    reals = [word for number, server in enumerate(lab.servers, 1)
             for word in ("--real", f"{server.address}:80,weight={number}")]
    lab.start_director("--mode", "nat", "--scheduler", scheduler, *reals, *options)


@pytest.mark.parametrize("options", [("rr",), ("wrr",), ("wlc",), ("sh",), ("mh", "--scheduler-flags", "mh-port"),
                                     ("lblcr",), ("rr", "--persistent", "60")], ids=" ".join)
def test_who_is_foretold_answers(make_lab, options):
    lab = make_lab(servers=3)
    start_nginx(lab)
    start(lab, *options)
    names = {f"{server.address}:80": f"web0{number}" for number, server in enumerate(lab.servers, 1)}

    for port in range(41000, 41008):
        foretold = explain(lab, f"{lab.client.address}:{port}", f"{lab.vip}:80")
        conns = listing(lab)["stats"]["conns"]
        assert explain(lab, f"{lab.client.address}:{port}", f"{lab.vip}:80") == foretold        # no turn is taken
        assert listing(lab)["stats"]["conns"] == conns
        to = next(step["to"] for step in foretold["steps"] if step["step"] == "forward")
        assert curl(lab.client, f"http://{lab.vip}/", "--local-port", str(port)).strip() == names[to]


def test_every_step_of_a_connection_is_told(lab):
    start_endpoints(lab, "hold")
    start(lab, "rr")
    _, held = hold(lab.client, lab.vip)
    client = "{}:{}".format(*held.getsockname())
    connection = next(row for row in tell(lab, "connections")["connections"])
    server = f"{connection['daddr']}:{connection['dport']}"

    said = explain(lab, client, f"{lab.vip}:80", "--flags", "A")
    assert [step["step"] for step in said["steps"]] == ["connection", "state", "forward"]
    assert said["steps"][0]["found"]["state"] == "ESTABLISHED"
    assert said["outcome"] == "rewritten" and said["verdict"] == "ACCEPT"
    assert {"field": "destination", "before": lab.vip, "after": connection["daddr"]} in said["changes"]
    assert all(step["computed"] == step["after"] for step in said["checksums"]) and len(said["checksums"]) == 2
    assert lab.servers[0].address.rpartition(".")[0] in said["next"][0] and "MTU 1500" in said["next"][0]

    fin = explain(lab, client, f"{lab.vip}:80", "--flags", "FA")
    assert (fin["steps"][1]["before"], fin["steps"][1]["after"]) == ("ESTABLISHED", "CLOSE_WAIT")
    reply = explain(lab, server, client, "--flags", "A")
    assert reply["packet"]["hook"] == "POSTROUTING"
    assert {"field": "source", "before": connection["daddr"], "after": lab.vip} in reply["changes"]
    other = explain(lab, client, f"{lab.vip}:81")
    assert other["outcome"] == "passed_no_service"
    assert next(iter(tell(lab, "connections")["connections"]))["state"] == "ESTABLISHED"

    tell(lab, "delete_server", service=f"{lab.vip}:80", server=server)
    gone = explain(lab, client, f"{lab.vip}:80", "--flags", "A")
    assert gone["outcome"] == "dropped_server_gone" and "(deleted)" in gone["steps"][0]["text"]
    text = lab.lbq("explain", "--from", client, "--to", f"{lab.vip}:80").stdout
    assert "verdict     DROP (dropped_server_gone)" in text
    held.close()


def test_a_servers_own_packet_and_an_error_are_seen_on_their_way_to_the_client(lab, tmp_path):
    start_endpoints(lab, "hold")
    start(lab, "rr")
    _, held = hold(lab.client, lab.vip)
    client = "{}:{}".format(*held.getsockname())
    [connection] = tell(lab, "connections")["connections"]
    server = f"{connection['daddr']}:{connection['dport']}"

    stranger = explain(lab, server, f"{lab.client.address}:1", "--flags", "SA")
    assert (stranger["packet"]["hook"], stranger["outcome"]) == ("POSTROUTING", "passed_no_connection")
    sent = tcp(client, server)
    error = icmp_error(3, 4, 1300, sent, len(sent))
    with open(tmp_path / "error.pcapng", "wb") as file:
        Capture(file).add(BEFORE, 0, error, len(error), "")
    said = json.loads(lab.lbq("explain", "--pcap", str(tmp_path / "error.pcapng"), "--packet", "1", "--json").stdout)
    assert (said["packet"]["hook"], said["outcome"]) == ("POSTROUTING", "rewritten")
    assert {"field": "quoted destination", "before": connection["daddr"], "after": lab.vip} in said["changes"]
    held.close()


@pytest.mark.parametrize(("path", "word"), [("steer", "128 bytes"), ("offload", "conntrack")])
def test_what_the_kernel_does_instead_is_said(lab, path, word):
    start(lab, "rr", "--data-path", path)
    said = explain(lab, f"{lab.client.address}:41000", f"{lab.vip}:80")
    assert len(said["caveats"]) == 1 and word in said["caveats"][0]


@pytest.fixture(params=["dr", "tun"])
def routed_lab(request, forgiven):
    """Return the network of DR or TUN, examined after the test."""
    with new_lab(RoutedLab, request.param) as lab, visit(lab, forgiven):
        start_nginx(lab)
        yield lab


def test_what_leaves_by_dr_and_tun_is_shown_with_its_next_hop(routed_lab):
    lab = routed_lab
    start_routed(lab, "fast")
    for _ in lab.servers:                               # then the neighbours are known
        curl(lab.client, f"http://{lab.vip}/")

    said = explain(lab, f"{lab.client.address}:41000", f"{lab.vip}:80")
    assert (said["outcome"], said["verdict"]) == ("forwarded", "DROP")
    (sent,) = said["sent"]
    assert sent["next_hop"] in [server.address for server in lab.servers]
    assert sent["fields"]["destination"] == (lab.vip if lab.mode == "dr" else sent["next_hop"])
    assert "not resolved" not in said["next"][0]


def test_no_director_is_one_line(lab):
    result = lab.lbq("explain", "--from", "192.168.10.9:1", "--to", f"{lab.vip}:80", check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("lbq: no director runs in this network namespace")
