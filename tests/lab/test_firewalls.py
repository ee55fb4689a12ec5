"""Beside somebody else's rules: their firewall, NAT and counters keep working, and so does the director."""
from __future__ import annotations

import re
import socket

import pytest

from tests.helpers.endpoints import digest_of
from tests.helpers.topology import (
    connect,
    curl,
    download,
    hold,
    resets_suffered,
    settle,
    start_endpoint,
    start_endpoints,
    start_nginx,
    still_answers,
    upload,
)

BULK = 60_000_000
INVALID_DROP = [f"-A {chain} -m conntrack --ctstate INVALID -j DROP"
                for chain in ("INPUT", "FORWARD", "OUTPUT")]
STATEFUL = [
    "-P FORWARD DROP",
    "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-A FORWARD -p tcp --dport 8080 -m conntrack --ctstate NEW -j ACCEPT",
]
FIREWALLS = {
    "nothing": [],
    "masquerade": ["-t nat -A POSTROUTING -j MASQUERADE"],
    "invalid-drop": INVALID_DROP,
    "masquerade-and-invalid-drop": ["-t nat -A POSTROUTING -j MASQUERADE", *INVALID_DROP],
    "stateful": [*STATEFUL, *INVALID_DROP],
}


def set_up(lab, rules):
    """Give the director somebody else's rules."""
    for rule in rules:
        lab.director.run(["iptables", *rule.split()])


def start(lab, *options, engine="fast"):
    """Run a director with the servers of *lab* behind VIP:80."""
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:80")]
    return lab.start_director("--mode", "nat", "--scheduler", "rr", "--engine", engine, *reals, *options)


@pytest.mark.parametrize("vip_local", [True, False], ids=["vip-local", "vip-routed"])
@pytest.mark.parametrize("rules", FIREWALLS.values(), ids=FIREWALLS)
def test_bulk_is_intact_beside(make_lab, rules, vip_local):
    lab = make_lab(servers=1, vip_local=vip_local)
    set_up(lab, rules)
    start_endpoints(lab, "bulk")
    start(lab, "--accept-forward")
    url = f"http://{lab.vip}/"

    assert download(lab.client, f"{url}{BULK}") == digest_of(BULK)
    assert upload(lab.client, url, BULK) == digest_of(BULK)
    assert download(lab.director, f"{url}{BULK}") == digest_of(BULK)
    assert [resets_suffered(host) for host in lab.namespaces] == [0, 0, 0]


def test_forward_drop_is_named_and_not_touched_unless_asked(make_lab):
    """lbq opens no firewall by itself: it says which rules would, and those rules do."""
    lab = make_lab(servers=1)
    set_up(lab, ["-P FORWARD DROP"])
    start_nginx(lab)
    director = start(lab)

    with pytest.raises(TimeoutError):
        connect(lab.client, lab.vip, timeout=2)
    advice = re.findall(r"(iptables\S* -I FORWARD .*?-j ACCEPT)", director.log.read_text())
    assert len(advice) == 2     # to the server and from it
    for command in advice:
        lab.director.run(command.split())

    assert curl(lab.client, f"http://{lab.vip}/") == "web01\n"


def test_accept_forward_opens_the_firewall_for_the_service_alone(lab, engine):
    set_up(lab, ["-P FORWARD DROP"])
    start_nginx(lab)
    for server in lab.servers:
        start_endpoint(server, "hold", 8080)
    start(lab, "--accept-forward", engine=engine)

    answers = [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(4)]

    assert answers == ["web02", "web01"] * 2
    with pytest.raises(TimeoutError):
        connect(lab.client, lab.servers[0].address, 8080, timeout=2)


def test_stateful_rules_still_decide_about_everything_else(lab):
    """Direct traffic to a real server passes the firewall by its states, as without lbq."""
    set_up(lab, [*STATEFUL, *INVALID_DROP])
    start_nginx(lab)
    for server in lab.servers:
        start_endpoint(server, "hold", 8080)
    start(lab, "--accept-forward")

    direct, connection = hold(lab.client, lab.servers[1].address, 8080)

    assert direct == "web02"
    assert still_answers(connection)
    assert curl(lab.client, f"http://{lab.vip}/") == "web02\n"
    with pytest.raises(TimeoutError):
        connect(lab.client, lab.servers[0].address, 9090, timeout=2)


def test_masquerade_still_hides_the_servers(lab):
    """A server that opens a connection itself leaves with the director's address, as without lbq."""
    set_up(lab, ["-t nat -A POSTROUTING -o clients -j MASQUERADE"])
    start_nginx(lab)
    start(lab)
    with lab.client.call(socket.create_server, ("", 9090)) as listener:
        listener.settimeout(5)
        outgoing = connect(lab.servers[0], lab.client.address, 9090)
        incoming, (peer, _) = listener.accept()

    outgoing.sendall(b"hello")
    assert incoming.recv(100) == b"hello"
    assert peer == lab.vip
    assert curl(lab.client, f"http://{lab.vip}/") == "web02\n"


def test_other_ports_of_the_vip_are_the_hosts_own(lab, engine):
    start_nginx(lab)
    start_endpoint(lab.director, "hold", 2222)
    start(lab, engine=engine)

    name, connection = hold(lab.client, lab.vip, 2222)

    assert name == "director"
    assert still_answers(connection)
    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.vip, 81)


@pytest.mark.parametrize("rules", [[], INVALID_DROP], ids=["open", "invalid-drop"])
def test_direct_traffic_to_a_real_server_is_left_alone(lab, engine, rules):
    """The very port that is balanced, asked directly: nobody translates it."""
    set_up(lab, rules)
    start_nginx(lab)
    start(lab, engine=engine)

    answers = [curl(lab.client, f"http://{server.address}/").strip() for server in lab.servers * 2]
    from_the_director = [curl(lab.director, f"http://{server.address}/").strip() for server in lab.servers]

    assert answers == ["web01", "web02"] * 2
    assert from_the_director == ["web01", "web02"]


def test_other_mangle_rules_keep_counting(lab):
    """A rule that only counts, in every chain a balanced packet passes, counts each of them as before."""
    chains = {"PREROUTING": "-p tcp", "FORWARD": "-p tcp", "POSTROUTING": "-p tcp"}
    set_up(lab, [f"-t mangle -A {chain} {match}" for chain, match in chains.items()])
    start_nginx(lab)
    start(lab)
    settle(lab)
    before = lab.client.counters()

    for _ in range(10):
        curl(lab.client, f"http://{lab.vip}/")
    settle(lab)

    after = lab.client.counters()
    packets = sum(after[name] - before[name] for name in ("IpInReceives", "IpOutRequests"))
    for chain in chains:
        listed = lab.director.run(["iptables", "-t", "mangle", "-nvxL", chain]).stdout
        [counted] = re.findall(r"^ *(\d+) +\d+ +(?:tcp|6) ", listed, re.MULTILINE)
        assert int(counted) == packets, listed
