"""``lbq doctor``: each thing broken for real, and named; and in the healthy lab nothing is said."""
from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lbq.doctor import CHECKS
from lbq.doctor.finding import Finding, examine
from lbq.doctor.gather import gather
from lbq.host.netlink import HEADER, NLM_F_REQUEST, attribute
from lbq.host.probes import verdicts_race
from lbq.lab.namespace import Namespace, Process
from lbq.lab.routed import DIRECTOR, RoutedLab
from lbq.lab.topology import GATEWAY, Lab, lbq_command, this_lbq
from lbq.netlink import NFNL_SUBSYS_QUEUE, NFQA_CFG_QUEUE_MAXLEN, NFQNL_MSG_CONFIG, bound_queues
from tests.helpers import dual
from tests.helpers.dual import v6, with_ipv6
from tests.helpers.processes import is_alive, wait_until, worker_of
from tests.helpers.topology import connect, curl, features, new_lab, tell, udp_socket
from tests.helpers.tunnels import TUNNELS, ending

SECONDS = 0.2       # of a look: the lab's hosts answer at once
RETRIED = 1.5       # … in which a client that waits sends its SYN again: a second after the first
LONGER = "1.5"      # for a look at traffic that a test makes meanwhile
SYS_PIDFD_GETFD = 438


@contextmanager
def running(kind, *arguments, mode: str) -> Iterator[Lab]:
    """Give a lab with web servers and a director, for a whole module; several stand beside each other."""
    with kind(*arguments, prefix=f"lbqt{os.getpid()}-{mode}-") as lab:
        lab.start_web_servers()
        reals = [word for server in lab.servers for word in ("--real", server.address)]
        lab.start_director("--vip", f"{lab.vip}:80", "--mode", mode, "--scheduler", "rr", *reals)
        yield lab


@pytest.fixture(scope="module")
def nat() -> Iterator[Lab]:
    """Give the lab of NAT with a director."""
    with running(Lab, mode="nat") as lab:
        yield lab


@pytest.fixture(scope="module")
def dr() -> Iterator[Lab]:
    """Give the lab of DR with a director."""
    with running(RoutedLab, "dr", mode="dr") as lab:
        yield lab


@pytest.fixture(scope="module")
def tun() -> Iterator[Lab]:
    """Give the lab of TUN with a director."""
    with running(RoutedLab, "tun", mode="tun") as lab:
        yield lab


def doctor(lab: Lab, *words: str) -> dict:
    """Return what the doctor says of the director of *lab*."""
    done = lab.lbq("doctor", "--json", "--wait", SECONDS, *words, check=False)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == said["status"], done.stderr
    return said


def found_in(lab: Lab, name: str | None = None, passive: bool = False, seconds: float = SECONDS) -> list[Finding]:
    """Return what is found; the same without a process of its own."""
    return examine(lab.director.call(gather, name, seconds, passive), CHECKS).findings


def findings(lab: Lab, name: str | None = None, passive: bool = False, seconds: float = SECONDS) -> dict[str, str]:
    """Return what is found, in words, by check."""
    return {found.check: " | ".join((found.what, found.why, found.fix))
            for found in found_in(lab, name, passive, seconds)}


@contextmanager
def setting(host: Namespace, name: str, value: object) -> Iterator[None]:
    """Give a sysctl of *host* another *value* for the length of a ``with`` block."""
    before = host.sysctl(name)
    host.sysctl(name, value)
    try:
        yield
    finally:
        host.sysctl(name, before)


@contextmanager
def instead(host: Namespace, there: str, gone: str) -> Iterator[None]:
    """Run a command on *host*, and at the end another that takes it back."""
    host.run(there.split())
    try:
        yield
    finally:
        host.run(gone.split())


@contextmanager
def rule(host: Namespace, words: str, program: str = "iptables") -> Iterator[None]:
    """Put a rule, ``-t TABLE -I CHAIN …``, in on *host* for the length of a ``with`` block."""
    with instead(host, f"{program} {words}", f"{program} " + words.replace(" -I ", " -D ").replace(" -A ", " -D ")):
        yield


@contextmanager
def service(lab: Lab, name: str, *servers: str, **settings) -> Iterator[None]:
    """Have the director of *lab* balance one more service for the length of a ``with`` block."""
    tell(lab, "add_service", service=name, **settings)
    try:
        for server in servers:
            tell(lab, "add_server", service=name, server=server)
        yield
    finally:
        tell(lab, "delete_service", service=name)


@contextmanager
def connecting(host: Namespace, address: str, port: int, source: str = "", connections: int = 1) -> Iterator[None]:
    """Have *host* begin connections, whatever comes of them."""
    with ExitStack() as stack:
        with host.inside():
            socks = [stack.enter_context(socket.socket()) for _ in range(connections)]
        for sock in socks:
            sock.setblocking(False)
            if source:
                sock.bind((source, 0))
            sock.connect_ex((address, port))
        yield


@contextmanager
def waiting(lab: Lab, source: str = "", connections: int = 1) -> Iterator[None]:
    """Have the client begin connections to the VIP, whatever comes of them; at the end they are forgotten."""
    with connecting(lab.client, lab.vip, 80, source, connections):
        yield
    tell(lab, "end_connections", service=f"{lab.vip}:80")


def found_beside(lab: Lab, make_traffic: Callable[[], None]) -> dict[str, str]:
    """Return what the doctor finds while traffic is made, again and again until it has looked."""
    process = lab.director.popen(lbq_command("doctor", "--json", "--wait", LONGER), env=this_lbq())
    while process.poll() is None:
        make_traffic()
    report, _ = process.communicate(timeout=20)
    return {one["check"]: " | ".join((one["what"], one["why"], one["fix"])) for one in json.loads(report)["findings"]}


@pytest.mark.parametrize("mode", ["nat", "dr", "tun"])
def test_nothing_is_wrong_in_a_healthy_lab(mode, request):
    """Not while clients come and go, either."""
    lab = request.getfixturevalue(mode)
    client = lab.client.popen(["sh", "-c", f"while curl -sS -o /dev/null http://{lab.vip}/; do :; done"])

    said = doctor(lab)
    client.stop()

    assert (said["findings"], said["not_looked_at"], said["status"]) == ([], [], 0)


@pytest.mark.parametrize(("name", "server", "settings"), [
    ("192.168.10.1:8080", "192.168.20.1:80", {"data_path": "steer"}),
    ("192.168.10.1:8080", "192.168.20.1:80", {"data_path": "offload"}),
    ("192.168.10.1:0", "192.168.20.1", {"persistent": 300}),
    ("192.168.10.1:21", "192.168.20.1:80", {}),
    ("fwmark:7", "192.168.20.1", {}),
    ("udp:192.168.10.1:53", "192.168.20.1:53", {"ops": True}),
])
def test_nothing_is_wrong_with_healthy_services_of_other_kinds(nat, name, server, settings):
    if settings.get("data_path") == "offload":          # conntrack sees all replies of a server or none
        server = "192.168.20.2:8080"
        nat.servers[1].popen([sys.executable, "-P", "-m", "lbq.lab.web", "web02", "8080"], env=this_lbq()
                             ).wait_for("ready")
    with service(nat, name, server, **settings):
        assert findings(nat) == {}


CURED = [       # the lab, where it is broken, by what, the check that finds it, and what it says to do
    ("nat", "director", "sysctl -w net.ipv4.ip_forward=0", "ip_forward", "sysctl -w net.ipv4.ip_forward=1"),
    ("nat", "director", "iptables -t mangle -D POSTROUTING -j LBQ-REPLY", "rules_present",
     "iptables -t mangle -A POSTROUTING -j LBQ-REPLY"),
    ("nat", "director", "ipset del lbq-vip 192.168.10.1,tcp:80", "set_members",
     "ipset add lbq-vip 192.168.10.1,tcp:80"),
    ("nat", "web01", "ip route del default", "return_path", f"ip route replace default via {GATEWAY}"),
    ("nat", "director", "iptables -t mangle -I PREROUTING -p tcp -m tcp --dport 80 -j ACCEPT", "before_lbq",
     "iptables -t mangle -D PREROUTING -p tcp -m tcp --dport 80 -j ACCEPT"),
    ("dr", "web01", "sysctl -w net.ipv4.conf.all.arp_ignore=0", "vip_answers",
     "lbq realserver dr --vip 172.16.10.1"),
    ("dr", "web01", "ip address del 172.16.10.1/32 dev lo", "vip_on_server", "lbq realserver dr --vip 172.16.10.1"),
    ("tun", "web01", "ip address del 172.16.10.1/32 dev lo", "vip_on_server", "lbq realserver tun --vip 172.16.10.1"),
]


@pytest.mark.parametrize(("mode", "where", "broken", "check", "cure"), CURED)
def test_what_hurts_is_found_and_the_fix_that_is_named_mends_it(mode, where, broken, check, cure, request):
    lab = request.getfixturevalue(mode)
    host = lab.director if where == "director" else lab.servers[0]
    # A port of a client that came in a test before may come again, and would go to who had it then.
    tell(lab, "end_connections", service=f"{lab.vip}:80")
    host.run(broken.split())

    if check != "vip_answers":          # which hurts when the router has forgotten who has the VIP
        answers = [lab.client.run(["curl", "-sS", "--max-time", "0.5", f"http://{lab.vip}/"], check=False).returncode
                   for _ in lab.servers]
        assert any(answers), "it hurts nobody"
        tell(lab, "end_connections", service=f"{lab.vip}:80")
    [found] = found_in(lab)
    assert found.check == check
    assert found.fix.startswith(cure if host is lab.director else f"on {host.address}: {cure}")
    command = cure.split()
    host.run([*lbq_command(), *command[1:]] if command[0] == "lbq" else command, env=this_lbq())

    assert found_in(lab) == []
    for _ in lab.servers:
        curl(lab.client, f"http://{lab.vip}/", timeout=3)


def test_conntrack_and_a_rule_against_what_is_invalid(nat):
    """Either alone does no harm; together they do, and it is the first that is to go."""
    with rule(nat.director, "-t filter -I FORWARD -m conntrack --ctstate INVALID -j DROP"):
        nat.director.run(["iptables", "-t", "raw", "-I", "PREROUTING", "-j", "ACCEPT"])
        request = ["curl", "-sS", "--max-time", "0.5", f"http://{nat.vip}/"]
        assert nat.client.run(request, check=False).returncode != 0
        tell(nat, "end_connections", service=f"{nat.vip}:80")
        [found] = found_in(nat)
        nat.director.run(found.fix.partition(";")[0].split())

        assert found.check == "conntrack"
        assert "drops what is INVALID: -A FORWARD -m conntrack --ctstate INVALID -j DROP" in found.what
        assert found_in(nat) == []
        assert nat.client.run(request, check=False).returncode == 0


def test_forwarding_that_is_off_on_one_device(nat):
    with setting(nat.director, "net.ipv4.conf.clients.forwarding", 0):
        found = findings(nat)

    assert list(found) == ["ip_forward"]
    assert "sysctl -w net.ipv4.conf.clients.forwarding=1" in found["ip_forward"]


def test_a_missing_gateway_is_seen_by_services_of_datagrams(nat):
    """It does not answer what comes from the VIP; a service of datagrams has no SYNs to tell."""
    web01 = nat.servers[0]
    udp = f"udp:{nat.vip}:53"
    with instead(web01, "ip route del default", f"ip route add default via {GATEWAY}"), \
            service(nat, udp, web01.address):
        found = findings(nat, udp)

    assert list(found) == ["return_path"]
    assert f"on {web01.address}: ip route replace default via {GATEWAY}" in found["return_path"]


def test_a_client_on_the_link_of_its_real_server_is_answered_directly(nat):
    """The gateway is right, and of no use: the way is shorter without it."""
    web01, web02 = nat.servers
    vip = f"{GATEWAY}:8080"
    with service(nat, vip, f"{web01.address}:80"):
        with connecting(web02, GATEWAY, 8080):
            [found] = found_in(nat, vip, seconds=RETRIED)
        tell(nat, "end_connections", service=vip)
        web01.run(found.fix.removeprefix(f"on {web01.address}: ").split())
        answer = curl(web02, f"http://{vip}/", timeout=3)
        web01.run(["ip", "route", "del", web02.address])

    assert (found.check, answer.strip()) == ("return_path", "web01")
    assert found.fix == f"on {web01.address}: ip route replace {web02.address} via {GATEWAY}"


def test_syns_without_a_syn_ack_tell_of_a_missing_gateway_as_well(nat):
    web01 = nat.servers[0]
    with instead(web01, "ip route del default", f"ip route add default via {GATEWAY}"), \
            waiting(nat, connections=2):
        found = findings(nat, passive=True, seconds=RETRIED)

    assert list(found) == ["return_path"]
    assert web01.address in found["return_path"] and f"waiting: {nat.client.address}" in found["return_path"]


@pytest.mark.parametrize(("broken", "check"), [
    ("sysctl -w net.ipv4.ip_forward=0", "ip_forward"), ("iptables -P FORWARD DROP", "forward")])
def test_what_this_host_stops_is_one_finding_while_clients_wait(nat, broken, check):
    with instead(nat.director, broken, broken.replace("=0", "=1").replace("DROP", "ACCEPT")), \
            waiting(nat, connections=2):
        report = examine(nat.director.call(gather, None, RETRIED, False), CHECKS)

    assert {found.check for found in report.findings} == {check}
    assert [name for name, _ in report.unknown] == ["return_path"]


def test_clients_that_gave_up_before_it_was_mended_say_nothing(nat):
    with instead(nat.servers[0], "ip route del default", f"ip route add default via {GATEWAY}"), \
            connecting(nat.client, nat.vip, 80, connections=2):
        pass
    found = findings(nat, seconds=1)
    tell(nat, "end_connections", service=f"{nat.vip}:80")

    assert found == {}


def test_packets_that_disappear_between_our_rules(nat):
    """By a rule that cannot be judged by reading: it has a limit."""
    limited = "-t raw -A PREROUTING -p tcp --dport 80 -m limit --limit 1000/s -j DROP"
    client = nat.client.popen(["sh", "-c", f"while :; do curl -s -m 0.05 -o /dev/null http://{nat.vip}/; done"])
    with rule(nat.director, limited):
        found = findings(nat, seconds=1)
    client.stop()
    after = findings(nat)
    tell(nat, "end_connections", service=f"{nat.vip}:80")

    assert list(found) == ["rules_hit"]
    assert after == {}


@pytest.mark.parametrize("table", ["raw", "mangle"])
def test_a_table_that_somebody_has_count_anew(nat, table):
    for _ in range(3):
        curl(nat.client, f"http://{nat.vip}/")
    nat.director.run(["iptables", "-t", table, "-Z"])

    assert findings(nat) == {}


def test_a_strict_reverse_path_filter_that_drops_clients(nat):
    far = "10.99.0.5"
    with instead(nat.client, f"ip address add {far}/32 dev eth0", f"ip address del {far}/32 dev eth0"):
        with setting(nat.director, "net.ipv4.conf.clients.rp_filter", 1), waiting(nat, far):
            strict = findings(nat)
        with instead(nat.director, f"ip route add {far} dev servers", f"ip route del {far} dev servers"), \
                setting(nat.director, "net.ipv4.conf.clients.rp_filter", 1), waiting(nat, far):
            elsewhere = findings(nat)

    assert set(strict) == {"rp_filter", "client_route"}
    assert f"ip route add {far} via GATEWAY" in strict["client_route"]
    assert set(elsewhere) == {"rp_filter"}
    assert f"the way back to the client {far} leaves by servers" in elsewhere["rp_filter"]
    assert "sysctl -w net.ipv4.conf.clients.rp_filter=2" in elsewhere["rp_filter"]


def test_redirects_where_clients_and_servers_share_a_link(nat):
    with service(nat, f"{GATEWAY}:8080", f"{nat.servers[0].address}:80"):
        assert findings(nat) == {}
        with setting(nat.director, "net.ipv4.conf.servers.send_redirects", 1):
            found = findings(nat)

    assert list(found) == ["send_redirects"]
    assert "sysctl -w net.ipv4.conf.servers.send_redirects=0" in found["send_redirects"]


def test_a_vip_that_nobody_answers_for(nat):
    with service(nat, "192.168.10.77:80"):
        found = findings(nat)

    assert list(found) == ["vip_address"]
    assert "ip addr add 192.168.10.77/32 dev clients" in found["vip_address"]


def test_a_vip_whose_other_ports_run_in_circles(nat):
    vip = "10.50.0.1"
    with service(nat, f"{vip}:80"), instead(nat.director, f"ip route add default via {nat.client.address}",
                                            "ip route del default"):
        [found] = found_in(nat)
        nat.director.run(found.fix.split())
        after = found_in(nat)
        nat.director.run(["ip", "route", "del", "unreachable", vip])

    assert (found.check, found.fix) == ("vip_address", f"ip route add unreachable {vip}")
    assert f"leave again for {nat.client.address}" in found.what
    assert after == []


def test_a_real_server_behind_a_device_on_which_nobody_has_a_mac(nat):
    """It may be there, and answer no echo requests."""
    with instead(nat.director, "ip tuntap add dev p2p mode tun", "ip link del p2p"):
        for words in ("link set p2p up", "addr add 10.77.0.1/24 dev p2p"):
            nat.director.run(["ip", *words.split()])
        with service(nat, f"{nat.vip}:83", "10.77.0.2:80"):
            assert findings(nat) == {}


def test_another_host_that_has_the_vip_is_found(nat):
    with instead(nat.client, f"ip address add {nat.vip}/32 dev lo", f"ip address del {nat.vip}/32 dev lo"):
        found = findings(nat)

    assert list(found) == ["vip_answers"]
    mac = nat.client.run(["ip", "-o", "link", "show", "eth0"]).stdout.partition("link/ether ")[2].split()[0]
    assert f"a host with the MAC {mac} answers ARP for {nat.vip} on clients" in found["vip_answers"]


@pytest.mark.parametrize(("server", "check", "words"), [
    ("192.168.20.99:80", "server_reachable", "does not answer on servers"),
    ("192.168.20.1:81", "server_listens", "192.168.20.1:81 refuses connections"),
    ("10.1.1.1:80", "server_reachable", "no route to real server 10.1.1.1"),
])
def test_real_servers_that_are_not_there(nat, server, check, words):
    with service(nat, f"{nat.vip}:82", server):
        found = findings(nat)

    assert list(found) == [check]
    assert words in found[check]


def test_a_firewall_on_a_real_server(nat):
    with rule(nat.servers[0], "-t filter -I INPUT -p tcp --dport 80 -j DROP"):
        found = findings(nat)

    assert list(found) == ["server_listens"]


def test_a_syn_that_gets_lost_tells_nothing(nat):
    """The first from each of the two addresses; each is 60 bytes long."""
    with rule(nat.servers[0], "-t filter -I INPUT -p tcp --dport 80 -m quota --quota 120 -j DROP"):
        found = findings(nat)
        dropped = nat.servers[0].run(["iptables", "-nvxL", "INPUT"]).stdout.splitlines()[2].split()[:2]

    assert (found, dropped) == ({}, ["2", "120"])


def test_a_path_that_is_narrower_than_it_says(nat):
    with instead(nat.servers[0], "ip link set eth0 mtu 1300", "ip link set eth0 mtu 1500"):
        found = findings(nat)

    assert list(found) == ["path_mtu"]
    assert "those of 1280 do" in found["path_mtu"]


def test_a_narrow_path_whose_router_says_so_is_nothing_wrong(tun):
    with instead(tun.router, "ip link set net1 mtu 1300", "ip link set net1 mtu 1500"):
        found = findings(tun)
    tun.director.run(["ip", "route", "flush", "cache"])

    assert found == {}


@pytest.mark.parametrize(("words", "check"), [
    ("-t filter -I FORWARD -j REJECT", "forward"),
    ("-t mangle -I PREROUTING -p tcp --dport 80 -j ACCEPT", "before_lbq"),
    ("-t raw -I PREROUTING -p tcp --dport 80 -j DROP", "before_lbq"),
    ("-t raw -I PREROUTING -j ACCEPT", "conntrack"),
    ("-t filter -I INPUT -p tcp --dport 80 -j DROP", "input_rules"),
    ("-t filter -I INPUT -p tcp --dport 80 -j ACCEPT", None),           # nobody is refused by it
])
def test_rules_of_other_programs(nat, words, check):
    with rule(nat.director, words):
        found = findings(nat)

    assert list(found) == ([] if check is None else [check])


@pytest.mark.parametrize("table", ["raw", "mangle"])
def test_tables_that_another_program_has_flushed(nat, table):
    """The chains are still there, and empty: jumps alone would bring nothing back."""
    rules = nat.director.run(["iptables-save", "-c", "-t", table]).stdout
    nat.director.run(["iptables", "-t", table, "-F"])
    [found] = found_in(nat)
    nat.director.run(["iptables-restore", "-c"], input=rules)

    assert found.check == "rules_present" and "has 0 of" in found.what
    assert found_in(nat) == []
    for _ in nat.servers:
        curl(nat.client, f"http://{nat.vip}/", timeout=3)


def test_the_program_whose_rule_it_is_is_named(nat):
    with instead(nat.director, "iptables -N DOCKER-USER", "iptables -X DOCKER-USER"), \
            rule(nat.director, "-t filter -A DOCKER-USER -j DROP"), \
            rule(nat.director, "-t filter -I FORWARD -j DOCKER-USER"):
        found = findings(nat)

    assert list(found) == ["forward"]
    assert "(of docker)" in found["forward"] and "--accept-forward" in found["forward"]


@pytest.mark.parametrize(("hook", "rule_words", "check"), [
    ("forward priority filter", "ct state established,related accept", "forward"),      # the policy drops
    ("forward priority filter", "iifname clients goto zone", "forward"),
    ("prerouting priority raw", "tcp dport 80 drop", "before_lbq"),
])
def test_rules_of_nf_tables(nat, hook, rule_words, check):
    policy = "drop" if "established" in rule_words else "accept"
    with instead(nat.director, "nft add table inet firewalld", "nft delete table inet firewalld"):
        for words in ("add chain inet firewalld zone", "add rule inet firewalld zone reject",
                      f"add chain inet firewalld base {{ type filter hook {hook}; policy {policy}; }}",
                      f"add rule inet firewalld base {rule_words}"):
            nat.director.run(["nft", words])
        found = findings(nat)

    assert list(found) == [check]
    assert "(of firewalld)" in found[check]


def test_the_rules_that_are_named_open_a_chain_of_nf_tables(nat):
    with instead(nat.director, "nft add table inet mine", "nft delete table inet mine"):
        nat.director.run(["nft", "add chain inet mine base { type filter hook forward priority 0; policy drop; }"])
        closed = found_in(nat)
        for found in closed:
            for command in found.fix.split(" && "):
                nat.director.run(command.split())
        opened = found_in(nat)
        for _ in nat.servers:
            curl(nat.client, f"http://{nat.vip}/", timeout=3)

    assert [found.check for found in closed] == ["forward", "forward"]
    assert opened == []


@pytest.mark.parametrize("feature", ["rx-udp-gro-forwarding", "rx-gro-list"])
def test_a_device_that_joins_datagrams(nat, feature):
    with service(nat, f"udp:{nat.vip}:5300", nat.servers[0].address, mode="dr"):
        before = findings(nat)
        with instead(nat.director, f"ethtool -K clients {feature} on", f"ethtool -K clients {feature} off"):
            found = findings(nat)

    assert list(before) == ["vip_on_server"]         # indeed: a NAT server has no VIP
    assert set(found) - set(before) == {"device_offloads"}
    assert f"ethtool -K clients {feature} off" in found["device_offloads"]


@pytest.mark.parametrize("name_of_setting", ["acct", "events"])
def test_conntrack_that_no_longer_counts_or_tells_of_what_it_carries(nat, name_of_setting):
    setting_name = f"net.netfilter.nf_conntrack_{name_of_setting}"
    name = f"{nat.vip}:8081"
    with service(nat, name, f"{nat.servers[1].address}:8081", data_path="offload"), \
            setting(nat.director, setting_name, 0):
        found = findings(nat, name, passive=True)

    assert list(found) == ["conntrack_settings"]
    assert f"sysctl -w {setting_name}=1" in found["conntrack_settings"]


def test_a_dr_server_that_announces_the_vip(dr):
    web01 = dr.servers[0]
    with setting(web01, "net.ipv4.conf.all.arp_announce", 0), setting(web01, "net.ipv4.conf.lo.arp_announce", 0):
        for _ in range(5):      # it is seen when the server asks, which it need not when the router has just asked it
            curl(dr.client, f"http://{dr.vip}/")
            web01.run(["ip", "neigh", "flush", "dev", "eth0"])
            found = findings(dr)
            if found:
                break

    for host, device in ((dr.router, "segment"), (web01, "eth0")):      # it may have an answer pending, and ask on
        host.run(["ip", "neigh", "flush", "dev", device])
    assert list(found) == ["vip_announced"]
    assert "arp_announce=2" in found["vip_announced"] and web01.address in found["vip_announced"]


def test_a_director_of_dr_needs_no_way_to_clients_that_wait(dr):
    """Its servers are silent, and answer clients themselves."""
    with ExitStack() as stack:
        for server in dr.servers:
            stack.enter_context(rule(server, "-t filter -I INPUT -p tcp --dport 80 -j DROP"))
        stack.enter_context(instead(dr.director, "ip route del default", "ip route add default via 172.16.10.254"))
        stack.enter_context(waiting(dr, connections=2))
        assert tell(dr, "connections")["connections"] != []
        found = findings(dr)

    assert found == {}


def test_answers_of_a_dr_server_that_come_through_the_director(dr):
    web01 = dr.servers[0]

    def two_clients_come() -> None:
        with waiting(dr, connections=2):
            time.sleep(0.2)

    with instead(web01, f"ip route replace default via {DIRECTOR}", "ip route replace default via 172.16.10.254"):
        found = found_beside(dr, two_clients_come)

    assert list(found) == ["accept_local"]
    assert f"real server {web01.address} sends its answers from {dr.vip} through this host" in found["accept_local"]
    assert "net.ipv4.conf.eth0.accept_local=1" in found["accept_local"]


@pytest.mark.parametrize("tunnel", [kind for kind in TUNNELS if kind.kind != "ipip"], ids=str)
def test_the_vip_is_asked_for_in_the_tunnel_of_the_service(tun, tunnel):
    """Not in one with checksums, which the doctor does not make."""
    name, web01 = f"{tun.vip}:81", tun.servers[0]
    with service(tun, name, web01.address + tunnel.settings(), mode="tun"):
        found = findings(tun, name)
        if not tunnel.checksum:
            with ending(tun, tunnel, [web01]):
                assert findings(tun, name) == {}

    assert list(found) == ([] if tunnel.checksum else ["vip_on_server"])


def test_uploads_that_are_too_long_for_a_tunnel(tun):
    """Last of its lab: the director counts such packets as long as it runs."""
    with features(tun.client, "tso off gso off"), connect(tun.client, tun.vip) as sock:
        sock.sendall(bytes(6000))
        found = findings(tun)

    assert list(found) == ["tunnel_mtu"]
    assert "takes 1480 bytes of 1500" in found["tunnel_mtu"] and "advmss 1440" in found["tunnel_mtu"]


@pytest.mark.parametrize("mode", ["dr", "tun"])
def test_the_vip_of_ipv6_on_servers_of_dr_and_tun(mode):
    with new_lab(RoutedLab, mode) as lab:
        with_ipv6(lab)
        lab.start_director("--vip", dual.service(lab), "--mode", mode, *dual.reals(lab))
        vip, web01 = v6(lab.vip), lab.servers[0]
        quiet = findings(lab)
        with instead(web01, f"ip address del {vip}/128 dev lo", f"ip address add {vip}/128 dev lo"):
            without = findings(lab)
        with instead(web01, f"ip address add {vip}/128 dev eth0 nodad", f"ip address del {vip}/128 dev eth0"):
            answered = findings(lab)

    assert quiet == {}
    assert list(without) == ["vip_on_server"]
    assert list(answered) == (["vip_answers"] if mode == "dr" else [])         # with TUN it is on another link
    if answered:
        assert f"real server {v6(web01.address)} (" in answered["vip_answers"]


@pytest.mark.parametrize("options", [("--engine", "reference"), ("--workers", "2", "--sysctl", "nat_icmp_send=1")])
def test_nothing_is_wrong_with_other_healthy_directors(options):
    with new_lab(Lab) as lab:
        lab.start_web_servers()
        lab.start_director("--mode", "nat", "--real", lab.servers[0].address, *options)
        found = found_in(lab)
        races = [one for one in found if one.check == "kernel_races"]           # of which this kernel may be one
        found = [one for one in found if one not in races]
        with instead(lab.servers[0], "ip route del default", f"ip route add default via {GATEWAY}"):
            lost = {one.check for one in found_in(lab)} - {"kernel_races"}

    assert found == []
    assert lost == {"return_path"}
    assert len(races) == ("--workers" in options and verdicts_race(os.uname().release))


def test_ipv6_is_looked_at_as_well():
    with new_lab(Lab) as lab:
        with_ipv6(lab)
        lab.director.sysctl("net.ipv4.ip_forward", 1)
        lab.start_director("--vip", dual.service(lab), "--mode", "nat", *dual.reals(lab))
        vip = v6(lab.vip)
        quiet = findings(lab)
        with setting(lab.director, "net.ipv6.conf.all.forwarding", 0):
            forwarding = findings(lab)
        with setting(lab.director, "net.ipv6.conf.clients.forwarding", 0):      # which stops no packet
            one_device = findings(lab)
            with pytest.raises(ConnectionRefusedError):
                connect(lab.client, vip, timeout=3)
        with instead(lab.client, f"ip address add {vip}/128 dev eth0 nodad", f"ip address del {vip}/128 dev eth0"):
            answered = findings(lab)
        with rule(lab.director, "-t filter -I FORWARD -j DROP", "ip6tables"):
            dropped = findings(lab)
        with instead(lab.servers[0], "ip -6 route del default",
                     f"ip -6 route add default via {v6(GATEWAY)}"):
            path = findings(lab)

    assert list(quiet) == list(one_device) == ["server_listens"]        # nobody listens in this lab
    assert "net.ipv6.conf.all.forwarding is 0" in forwarding["ip_forward"]
    assert f"answers neighbour solicitations for {vip} on clients" in answered["vip_answers"]
    assert f"ip6tables -I FORWARD -p tcp -d {v6(lab.servers[0].address)}" in dropped["forward"]
    assert f"on {v6(lab.servers[0].address)}: ip route replace default via {v6(GATEWAY)}" in path["return_path"]


def test_what_a_director_leaves_that_was_killed():
    with new_lab(Lab) as lab:
        director = lab.start_director("--mode", "nat", "--real", lab.servers[0].address)
        overrun(lab, director)
        crowded = findings(lab)
        lab.lbq("set", "server", f"{lab.vip}:80", f"{lab.servers[0].address},weight=0")
        with waiting(lab):
            refused = findings(lab)
        last = wait_until(lambda: tell(lab, "totals")["last_lost"].get("dropped_no_server"))
        worker = worker_of(director)
        director.kill()
        director.wait()
        wait_until(lambda: not is_alive(worker))
        said = doctor(lab)
        lab.lbq("cleanup")
        after = doctor(lab)

    assert {"queue_drops", "socket_overruns"} <= set(crowded)
    assert 0 < last < 60
    assert "losses" in refused and "dropped_no_server" in refused["losses"]
    [found] = said["findings"]
    assert found["check"] == "queue_bound" and "lbq cleanup" in found["fix"]
    assert (after["findings"], after["status"], after["director"]) == ([], 3, None)
    assert {one["why"] for one in after["not_looked_at"]} == {"no director runs in this network namespace"}


def overrun(lab: Lab, director: Process) -> None:
    """Send more than the queue and its socket hold while nobody reads."""
    tell(lab, "add_service", service=f"udp:{lab.vip}:5300")
    worker = worker_of(director)
    with udp_socket(lab.client, lab.vip, 5300) as sock, queue_socket(lab, worker) as queue:
        os.kill(worker, signal.SIGSTOP)
        try:
            queue.send(maximal_length(8))
            for _ in range(20):
                sock.send(b"more than eight")
            queue.send(maximal_length(1000))
            queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            for _ in range(20):
                sock.send(b"more than fit")
        finally:
            os.kill(worker, signal.SIGCONT)


def queue_socket(lab: Lab, worker: int) -> socket.socket:
    """Return the director's own socket of its queue, which the kernel lets nobody else set up."""
    port = lab.director.call(bound_queues)[0]
    libc, pid = ctypes.CDLL(None, use_errno=True), os.pidfd_open(worker)
    for name in os.listdir(f"/proc/{worker}/fd"):
        if os.readlink(f"/proc/{worker}/fd/{name}").startswith("socket:"):
            sock = socket.socket(fileno=libc.syscall(SYS_PIDFD_GETFD, pid, int(name), 0))
            if sock.family == socket.AF_NETLINK and sock.getsockname()[0] == port:
                os.close(pid)
                return sock
            sock.close()
    raise LookupError("the packet process has no such socket")


def maximal_length(packets: int) -> bytes:
    """Return the message that lets NFQUEUE 0 hold so many *packets*."""
    body = struct.pack("!BBH", 0, 0, 0) + attribute(NFQA_CFG_QUEUE_MAXLEN, struct.pack("!I", packets))
    return HEADER.pack(HEADER.size + len(body), NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_REQUEST, 1, 0) + body


def ufw(lab: Lab, *lines: str) -> None:
    """Run commands of ufw on the director, with a configuration of its own: this machine's is not touched."""
    folder = lab.folder / "ufw"
    if not folder.exists():
        shutil.copytree("/etc/ufw", folder / "etc", symlinks=True)
        default = re.sub("(?m)^IPV6=.*", "IPV6=no", Path("/etc/default/ufw").read_text())
        (folder / "default").write_text(default)
    lab.director.run(["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join((
        f"mount --bind {folder}/etc /etc/ufw", f"mount --bind {folder}/default /etc/default/ufw", *lines))])


def test_ufw_as_it_is_installed():
    """Its policy drops what is forwarded, and its own chains decide who may come in to this host."""
    with new_lab(Lab, servers=1) as lab:
        lab.start_web_servers()
        lab.start_director("--mode", "nat", "--real", lab.servers[0].address)
        ufw(lab, "ufw --force enable", "ufw allow 80/tcp")
        request = ["curl", "-sS", "--max-time", "0.5", f"http://{lab.vip}/"]
        assert lab.client.run(request, check=False).returncode != 0, "it hurts nobody"
        tell(lab, "end_connections", service=f"{lab.vip}:80")
        [closed] = found_in(lab)
        for command in closed.fix.removeprefix("start the director with --accept-forward; or: ").split("; "):
            lab.director.run(command.split())
        opened, answer = found_in(lab), curl(lab.client, f"http://{lab.vip}/", timeout=3)
        ufw(lab, "ufw deny from 192.168.10.0/24 to any port 80 proto tcp")
        [denied] = found_in(lab)

    assert closed.check == "forward" and "(of ufw)" in closed.what
    assert (opened, answer.strip()) == ([], "web01")
    assert denied.check == "input_rules" and "-A ufw-user-input -s 192.168.10.0/24" in denied.what


BUS = """\
<busconfig>
  <type>custom</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
"""


def firewalld(lab: Lab) -> Callable:
    """Run firewalld on the director, with a bus and a configuration of its own; return what runs firewall-cmd."""
    folder = lab.folder / "firewalld"
    shutil.copytree("/etc/firewalld", folder)
    (folder / "bus.conf").write_text(BUS.format(folder=folder))
    environment = os.environ | {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus"}
    lab.director.popen(["dbus-daemon", "--nofork", "--print-address", f"--config-file={folder}/bus.conf"]
                       ).wait_for("unix:path")
    lab.director.popen(["firewalld", "--nofork", "--nopid", "--system-config", folder, "--log-file", folder / "log"],
                       env=environment)

    def command(*words: str, check: bool = True):
        return lab.director.run(["firewall-cmd", *words], env=environment, check=check)

    wait_until(lambda: command("--state", check=False).returncode == 0, timeout=30)
    return command


def test_firewalld_as_it_is_installed():
    """It rejects what is forwarded from zone to zone; its policies let it pass.  A reload flushes iptables as well."""
    with new_lab(Lab, servers=1) as lab:
        lab.start_web_servers()
        command = firewalld(lab)
        director = ("--mode", "nat", "--real", lab.servers[0].address)
        lab.start_director(*director)
        request = ["curl", "-sS", "--max-time", "0.5", f"http://{lab.vip}/"]
        assert lab.client.run(request, check=False).returncode != 0, "it hurts nobody"
        tell(lab, "end_connections", service=f"{lab.vip}:80")
        closed = found_in(lab)
        for zone, device in (("public", "clients"), ("internal", "servers")):
            command("--permanent", "--zone", zone, "--add-interface", device)
        for name, zones in (("there", ("public", "internal")), ("back", ("internal", "public"))):
            command("--permanent", "--new-policy", name)
            for word, value in (("--add-ingress-zone", zones[0]), ("--add-egress-zone", zones[1]),
                                ("--set-target", "ACCEPT")):
                command("--permanent", "--policy", name, word, value)
        command("--reload")
        flushed = found_in(lab)
        lab.lbq("stop")
        lab.start_director(*director)
        opened, answer = found_in(lab), curl(lab.client, f"http://{lab.vip}/", timeout=3)

    assert [found.check for found in closed] == ["forward"]
    assert "(of firewalld)" in closed[0].what and "--new-policy" in closed[0].fix
    assert [found.check for found in flushed] == ["rules_present"]
    assert (opened, answer.strip()) == ([], "web01")


def test_a_host_that_cannot_queue_packets(nat):
    done = nat.director.run(lbq_command("doctor", "--json", "--passive", "--wait", SECONDS), check=False,
                            env=this_lbq() | {"LBQ_IPTABLES_RESTORE": "iptables-of-the-future-restore"})

    found, *others = json.loads(done.stdout)["findings"]
    assert others == []
    assert (found["check"], done.returncode) == ("nfqueue", 1)
    assert "cannot find iptables-of-the-future-restore" in found["what"]


def test_mistakes_are_one_line_and_status_2(nat):
    for words in (("--service", "192.168.10.1:81"), ("--service", "nonsense"), ("--wait", "0"), ("--wait", "x")):
        done = nat.lbq("doctor", *words, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), words


def test_who_may_not_look_is_told_so(nat):
    done = nat.director.run(["setpriv", "--bounding-set", "-net_admin", "--", *lbq_command("doctor")], check=False,
                            env=this_lbq())

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "CAP_NET_ADMIN missing" in done.stderr


def test_people_read_it_without_signs_where_those_cannot_be_shown(nat):
    with setting(nat.director, "net.ipv4.ip_forward", 0):
        done = nat.lbq("doctor", "--wait", SECONDS, check=False)

    assert done.returncode == 1
    assert "WRONG   ip_forward" in done.stdout and "fix:" in done.stdout and "✗" not in done.stdout
