"""What each check says of facts that are made up: nothing of a healthy host, and the cure of a sick one."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lbq.doctor import CHECKS, finding
from lbq.doctor.facts import (
    DIRECTOR,
    NO_DIRECTOR,
    OPEN,
    PROBES,
    REFUSED,
    SILENT,
    Device,
    Facts,
    NftChain,
    Ruleset,
    Server,
    Service,
    Vip,
)
from lbq.doctor.gather import grown, read_rules
from lbq.doctor.rules import rules_hit
from lbq.host import rules
from lbq.model import AF_INET, TCP, UDP, ServiceKey
from lbq.queues import Queues

DOCS = Path(__file__).parents[3] / "docs" / "doctor.md"
VIP, RIP, CLIENT = 0xC0A80A01, 0xC0A81401, 0xC0A80A64
KEY = ServiceKey(TCP, VIP, 80)
MAC, OTHER_MAC = "020000000001", "020000000099"
SYSCTLS = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0/forwarding": "1", "net/ipv4/conf/eth1/forwarding": "1",
           "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "0",
           "net/ipv4/conf/all/send_redirects": "1", "net/ipv4/conf/eth1/send_redirects": "1"}


def nat_server(**changes) -> Server:
    """Return a real server of NAT with which all is well."""
    return replace(Server(KEY, RIP, 80, device="eth1", source=0xC0A814FE, mtu=1500, mac=MAC, echo=1500, packets_in=9,
                          packets_out=8, connect=OPEN, connect_from_vip=OPEN), **changes)


def installed() -> Ruleset:
    """Return the rules of a director, no packet of which was met."""
    return read_rules(AF_INET, "iptables", saved(rules.install_text(AF_INET, Queues(0), False, {})))


def saved(text: str) -> str:
    """Return what ``iptables-save -c`` says after iptables-restore has read *text*."""
    return "\n".join(f"[0:0] {line}" if line.startswith("-A") else line for line in text.splitlines())


def healthy(*servers: Server, **changes) -> Facts:
    """Return the facts of a host with which all is well."""
    servers = servers or (nat_server(),)
    facts = Facts(
        status={"queue": 0}, services=[Service(KEY, list(servers))], queues=[0], bound={0: 4711}, release="6.1.0",
        sysctls=dict(SYSCTLS), devices={name: Device(name, mac=MAC[:-1] + name[-1]) for name in ("eth0", "eth1")},
        vips=[Vip(VIP, device="eth0", is_local=True, links=["eth0"])], client_devices={AF_INET: {"eth0"}},
        rulesets=[installed()], seconds=1.0)
    return replace(facts, **changes)


def found(facts: Facts) -> dict[str, finding.Finding]:
    """Return the findings by check."""
    return {one.check: one for one in finding.examine(facts, CHECKS).findings}


@pytest.mark.parametrize("mode", ["nat", "dr", "tun"])
def test_nothing_is_said_of_a_healthy_host(mode):
    server = nat_server() if mode == "nat" else nat_server(mode=mode, connect=None, connect_from_vip=None,
                                                           vip_echo=True, packets_out=0)
    report = finding.examine(healthy(server), CHECKS)

    assert (report.findings, report.unknown) == ([], [])
    assert {name for name, _ in report.fine} | set(report.idle) == {check.name for check in CHECKS}


SICK = [
    ("queue_bound", {"bound": {}}, "restart the director"),
    ("queue_drops", {"counters": {"queue_dropped": 5}, "grown": {"queue_dropped": 2}}, "--workers"),
    ("socket_overruns", {"counters": {"user_dropped": 5}}, "rmem_max"),
    ("losses", {"counters": {"dropped_table_full": 1}}, "--max-connections"),
    ("kernel_races", {"queues": [0, 1], "release": "6.18.20"}, "6.18.24"),
    ("nfqueue", {"unsupported": {AF_INET: "this kernel has no NFQUEUE; load its module (modprobe xt_NFQUEUE)"}},
     "modprobe xt_NFQUEUE"),
    ("rules_present", {"rulesets": []}, "lbq import"),
    ("set_members", {"wanted": [("lbq-vip", (TCP, VIP, 80), Service(KEY))]}, "ipset add lbq-vip 192.168.10.1,tcp:80"),
    ("ip_forward", {"sysctls": SYSCTLS | {"net/ipv4/ip_forward": "0"}}, "sysctl -w net.ipv4.ip_forward=1"),
    ("ip_forward", {"sysctls": SYSCTLS | {"net/ipv4/conf/eth1/forwarding": "0"}},
     "sysctl -w net.ipv4.conf.eth1.forwarding=1"),
    ("rp_filter", {"sysctls": SYSCTLS | {"net/ipv4/conf/eth0/rp_filter": "1"}, "reverse_path_drops": 3,
                   "towards": {(CLIENT, AF_INET): "eth1"}}, "net.ipv4.conf.eth0.rp_filter=2"),
    ("client_route", {"towards": {(CLIENT, AF_INET): None}}, "ip route add 192.168.10.100 via"),
    ("send_redirects", {"client_devices": {AF_INET: {"eth0", "eth1"}}},
     "sysctl -w net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth1.send_redirects=0"),
    ("vip_address", {"vips": [Vip(VIP, links=["eth0"], unanswered="eth0")]}, "ip addr add 192.168.10.1/32 dev eth0"),
    ("vip_address", {"vips": [Vip(VIP, gateway="10.0.0.1")]}, "ip route add unreachable 192.168.10.1"),
    ("vip_answers", {"vips": [Vip(VIP, links=["eth0"], answers={OTHER_MAC: "eth0"})]}, "02:00:00:00:00:99"),
    ("vip_answers", {"vips": [Vip(VIP, links=["eth0"], answers={MAC: "eth1"})]}, "a NAT server does not have the VIP"),
    ("vip_announced", {"vips": [Vip(VIP, announcers={MAC: "eth1"})]}, "arp_announce=2"),
    ("device_offloads", {"devices": {"eth0": Device("eth0", features=frozenset({"rx-lro"}))}},
     "ethtool -K eth0 lro off"),
    ("input_rules", {"rulesets": [installed(), read_rules(
        AF_INET, "iptables", "*filter\n[1:60] -A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT")]},
     "FORWARD"),
    ("input_rules", {"rulesets": [installed(), read_rules(
        AF_INET, "iptables", "*filter\n:ufw-user-input - [0:0]\n[0:0] -A INPUT -j ufw-user-input\n"
        "[0:0] -A ufw-user-input -p tcp -m tcp --dport 80 -j DROP\nCOMMIT")]}, "FORWARD"),
]


@pytest.mark.parametrize(("check", "changes", "cure"), SICK, ids=[f"{row[0]}-{at}" for at, row in enumerate(SICK)])
def test_what_is_sick_is_found_alone_and_has_a_cure(check, changes, cure):
    said = found(healthy(**changes))

    assert list(said) == [check]
    assert cure in said[check].what + said[check].fix and said[check].why


SERVERS = [
    ("server_reachable", nat_server(mtu=-1, device=None, connect=None, connect_from_vip=None, echo=None), "no route"),
    ("server_reachable", nat_server(mac="", echo=0, connect=SILENT, connect_from_vip=SILENT), "not answer on eth1"),
    ("server_listens", nat_server(connect=REFUSED, connect_from_vip=REFUSED), "refuses connections"),
    ("server_listens", nat_server(connect=SILENT, connect_from_vip=SILENT), "no SYN from this host"),
    ("return_path", nat_server(connect_from_vip=SILENT, vip_echo=False), "ip route replace default via 192.168.20.254"),
    ("return_path", nat_server(trying=[CLIENT], connect=None, echo=None), "waiting: 192.168.10.100"),
    ("return_path", nat_server(trying=[CLIENT]), "ip route replace 192.168.10.100 via 192.168.20.254"),
    ("path_mtu", nat_server(echo=1280), "mtu 1280"),
    ("vip_on_server", nat_server(mode="dr", vip_echo=False), "lbq realserver dr --vip 192.168.10.1"),
    ("vip_on_server", nat_server(mode="tun", vip_echo=False), "lbq decap --vip 192.168.10.1"),
]


@pytest.mark.parametrize(("check", "server", "words"), SERVERS, ids=[f"{row[0]}-{n}" for n, row in enumerate(SERVERS)])
def test_what_is_wrong_with_a_real_server_is_found_alone(check, server, words):
    said = found(healthy(server, towards={(CLIENT, AF_INET): "eth0"}))

    assert list(said) == [check]
    assert words in said[check].what + said[check].fix
    assert said[check].service == "tcp:192.168.10.1:80"


@pytest.mark.parametrize("server", [
    nat_server(trying=[CLIENT], grown_out=3),                           # others are answered: clients that gave up
    nat_server(waiting=[CLIENT]),                                       # it gave up before what it met was mended
    nat_server(packets_out=0, connect=None, echo=None),                 # it may have been mended since
    nat_server(connect_from_vip=SILENT, vip_echo=True),                 # a SYN that got lost
    nat_server(weight=0, connect=REFUSED, connect_from_vip=REFUSED),    # it is being mended
    nat_server(weight=0, mac="", echo=0, connect=SILENT, connect_from_vip=SILENT, vip_echo=False),
    nat_server(echo=0, connect=OPEN),                                   # it does not answer echo requests, and works
    nat_server(mode="dr", echo=0, vip_echo=False),                      # nor one of DR: then nothing can be said
    nat_server(connect=SILENT, connect_from_vip=SILENT, grown_out=2),   # it lets clients in, and not this host
    nat_server(connect=None, connect_from_vip=None, vip_echo=False, grown_out=2),       # nor echo requests from the VIP
    nat_server(mac="", echo=0),                                         # it has forgotten its neighbour meanwhile
    nat_server(device="wg0", mac="", echo=0, connect=SILENT, connect_from_vip=SILENT),  # nobody has a MAC there
])
def test_what_can_have_another_reason_is_not_found(server):
    facts = healthy(server)
    facts.devices["wg0"] = Device("wg0", is_ethernet=False)
    assert found(facts) == {}


LOSSES = {"dropped_no_server": "losses", "queue_dropped": "queue_drops", "user_dropped": "socket_overruns",
          "dropped_too_big": "tunnel_mtu"}


@pytest.mark.parametrize(("seconds", "is_said"), [(5.0, True), (3600.0, False)])
def test_a_loss_that_is_long_ago_may_have_been_cured(seconds, is_said):
    """Counters stay as long as the director runs; a status of 1 for ever would be of no use to scripts."""
    server = nat_server(mode="tun", connect=None, connect_from_vip=None, vip_echo=True)
    facts = healthy(server, counters=dict.fromkeys(LOSSES, 3), last_lost=dict.fromkeys(LOSSES, seconds))

    assert set(found(facts)) == (set(LOSSES.values()) if is_said else set())


@pytest.mark.parametrize("rule", ["-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT",
                                  "-A INPUT -p tcp -m multiport --dports 80,443 -m conntrack --ctstate NEW -j ACCEPT"])
def test_a_rule_that_accepts_everybody_is_of_no_use_and_hurts_nobody(rule):
    assert found(with_rule("filter", rule)) == {}


def test_datagrams_joined_by_a_device_concern_dr_and_tun_alone():
    devices = {"eth0": Device("eth0", features=frozenset({"rx-udp-gro-forwarding"}))}
    datagrams = ServiceKey(UDP, VIP, 53)
    for mode, expected in (("nat", []), ("dr", ["device_offloads"])):
        server = nat_server(service=datagrams, mode=mode, vip_echo=True)
        facts = healthy(services=[Service(datagrams, [server])], devices=devices)
        assert list(found(facts)) == expected


def test_answers_through_a_director_that_has_the_vip_need_accept_local():
    vip = Vip(VIP, device="eth0", is_local=True, links=["eth0"], passing={MAC: "eth1"})
    facts = healthy(nat_server(mode="dr", vip_echo=True), vips=[vip])

    assert "real server 192.168.20.1 sends its answers" in found(facts)["accept_local"].what
    facts.sysctls["net/ipv4/conf/eth1/accept_local"] = "1"
    assert found(facts) == {}


def test_a_server_that_announces_the_vip_is_not_said_to_lack_it():
    """Our own kernel does not answer who calls itself by its address, so no echo comes back."""
    vip = Vip(VIP, device="eth0", is_local=True, links=["eth0"], announcers={MAC: "eth1"})

    assert list(found(healthy(nat_server(mode="dr", vip_echo=False), vips=[vip]))) == ["vip_announced"]


def with_rule(table: str, rule: str) -> Facts:
    """Return a healthy host with one rule before lbq's."""
    text = rules.install_text(AF_INET, Queues(0), False, {})
    if f"*{table}" not in text:
        text += f"*{table}\nCOMMIT\n"
    text = text.replace(f"*{table}\n", f"*{table}\n{rule}\n")
    return healthy(rulesets=[read_rules(AF_INET, "iptables", saved(text))])


@pytest.mark.parametrize(("table", "rule", "check"), [
    ("mangle", "-A PREROUTING -p tcp -m tcp --dport 80 -j ACCEPT", "before_lbq"),
    ("mangle", "-A PREROUTING -d 192.168.10.0/24 -i eth0 -j DROP", "before_lbq"),
    ("mangle", "-A PREROUTING -p tcp -j TPROXY --on-port 3128 --on-ip 0.0.0.0", "before_lbq"),
    ("mangle", "-A PREROUTING -s 10.0.0.0/8 -j DROP", None),            # some clients: nobody can tell
    ("mangle", "-A PREROUTING -m conntrack --ctstate INVALID -j DROP", None),
    ("mangle", "-A PREROUTING -p udp -j DROP", None),
    ("raw", "-A PREROUTING -i eth0 -j DROP", "before_lbq"),
    ("raw", "-A PREROUTING -j ACCEPT", "conntrack"),
    ("filter", "-A FORWARD -j DROP", "forward"),
    ("filter", ":FORWARD DROP [0:0]", "forward"),
    ("filter", "-A FORWARD -o eth9 -j DROP", None),
])
def test_rules_before_lbqs(table, rule, check):
    assert list(found(with_rule(table, rule))) == ([] if check is None else [check])


def test_a_firewall_for_some_clients_is_not_found_while_their_answers_pass():
    facts = with_rule("filter", ":FORWARD DROP [0:0]\n-A FORWARD -s 192.168.10.0/24 -j ACCEPT")
    assert list(found(facts)) == ["forward"]
    facts.services[0].servers[0].grown_out = 3
    assert found(facts) == {}


@pytest.mark.parametrize(("check", "reason", "changes"), [
    ("ip_forward", "net.ipv4.ip_forward is 0", {"sysctls": SYSCTLS | {"net/ipv4/ip_forward": "0"}}),
    ("ip_forward", "net.ipv4.conf.eth0.forwarding is 0", {"sysctls": SYSCTLS | {"net/ipv4/conf/eth0/forwarding": "0"}}),
    ("forward", "FORWARD drops them", {"nft": [NftChain("inet", "x", "f", "forward", policy="drop")]}),
])
def test_clients_that_wait_for_what_this_host_stops_tell_nothing_of_the_way_back(check, reason, changes):
    waiting = nat_server(waiting=[CLIENT], trying=[CLIENT])
    report = finding.examine(healthy(waiting, towards={(CLIENT, AF_INET): "eth0"}, **changes), CHECKS)

    assert [one.check for one in report.findings] == [check]
    [(unknown, why)] = report.unknown
    assert unknown == "return_path" and reason in why
    asked = finding.examine(healthy(nat_server(connect_from_vip=SILENT, vip_echo=False), **changes), CHECKS)
    assert [one.check for one in asked.findings] == [check, "return_path"]      # there are two causes then


def test_a_rule_that_drops_what_is_invalid_makes_it_worse():
    facts = with_rule("raw", "-A PREROUTING -j ACCEPT")
    facts.rulesets[0].tables["filter"] = ["-A INPUT -m conntrack --ctstate INVALID -j DROP"]

    assert "drops what is INVALID" in found(facts)["conntrack"].what


@pytest.mark.parametrize("chain", [chain for table in ("raw", "mangle") for chain in rules.CHAINS[table][:3]])
def test_a_chain_that_was_emptied_is_found_though_the_jump_to_it_is_there(chain):
    facts = healthy()
    for lines in facts.rulesets[0].tables.values():
        lines[:] = [line for line in lines if not line.startswith(f"-A {chain} ")]
    said = found(facts)

    assert list(said) == ["rules_present"]
    assert f"{chain} has 0 of " in said["rules_present"].what and "lbq import" in said["rules_present"].fix


def test_of_a_vip_with_every_port_icmp_is_seen_and_not_queued():
    text = saved(rules.install_text(AF_INET, Queues(0), False, {}, every_port=True))
    facts = healthy(rulesets=[read_rules(AF_INET, "iptables", text)])
    for rule in facts.rulesets[0].hits:
        facts.rulesets[0].grown[rule] = 6 if rule[0] == "raw" and "lbq-vip-any" in rule[1] else 0
    assert found(facts) == {}


def test_what_services_need_beyond_the_usual_rules_is_missed_as_well():
    """Of a mark, of a service that is steered, and of one with every port; those of workers."""
    marked, any_port = ServiceKey(TCP, 0, 0, AF_INET, 7), ServiceKey(TCP, VIP, 0)
    for changes, wanted in (({"services": [Service(marked)]}, []), ({"status": {"queue": 0, "workers": 2}}, []),
                            ({}, [(name, (TCP, VIP, 80), Service(KEY)) for name in ("lbq-vip", "lbq-vip-steer")]),
                            ({}, [("lbq-vip-any", VIP, Service(any_port))])):
        facts = healthy(**changes, wanted=wanted, members={name: {member} for name, member, _ in wanted})
        assert "rules of lbq are gone" in found(facts)["rules_present"].what, changes


def test_what_conntrack_carries_passes_by_its_states_and_what_lbq_rewrites_does_not():
    chain = NftChain("inet", "firewalld", "filter_FORWARD", "forward", policy="drop", rules=[
        [{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, {"accept": None}]])
    stateful = [":FORWARD DROP [0:0]", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A FORWARD -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT"]
    for path, expected in (("rewrite", ["forward", "forward"]), ("offload", [])):
        facts = with_rule("filter", "\n".join(stateful))
        facts.services[0].data_path, facts.nft = path, [chain]
        facts.sysctls |= {"net/netfilter/nf_conntrack_acct": "1"}
        assert [one.check for one in finding.examine(facts, CHECKS).findings] == expected


@pytest.mark.parametrize(("used", "needs"), [
    ("lbq-vip", {}), ("lbq-vip-steer", {"whole": False, "steered": True}),
    ("lbq-vip-offload", {"whole": False, "offloaded": True})])
def test_packets_that_disappear_between_the_tables_are_found_by_the_counters(used, needs):
    text = saved(rules.install_text(AF_INET, Queues(0), False, {}, **needs))
    facts = healthy(rulesets=[read_rules(AF_INET, "iptables", text)], wanted=[(used, (TCP, VIP, 80), Service(KEY))])
    for rule in facts.rulesets[0].hits:
        facts.rulesets[0].grown[rule] = 0 if used not in rule[1] else 100 if rule[0] == "raw" else 3

    [what] = [one.what for one in finding.examine(facts, [rules_hit]).findings]
    assert "100 packets" in what and "and 3 to" in what


def test_what_rules_met_before_the_look_says_nothing():
    """Somebody may have had one table count anew, and a rule that took packets may be gone again."""
    facts = healthy()
    for rule in facts.rulesets[0].hits:
        facts.rulesets[0].hits[rule] = 100 if rule[0] == "raw" and "lbq-vip dst" in rule[1] else 0
    assert found(facts) == {}


@pytest.mark.parametrize(("after", "expected"), [
    ({"raw": 9, "mangle": 8}, {"raw": 4, "mangle": 3}), ({"raw": 9, "mangle": 1}, {}), ({"raw": 5, "new": 2},
                                                                                       {"raw": 0, "new": 2})])
def test_rules_that_begin_to_count_anew_during_the_look_say_nothing(after, expected):
    assert grown({"raw": 5, "mangle": 5}, after) == expected


FIREWALLS = {       # what they leave in the filter table: chains of their own, and a policy
    "ufw": [":FORWARD DROP [0:0]", ":ufw-before-forward - [0:0]", "-A FORWARD -j ufw-before-forward",
            "-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
    "docker": [":FORWARD DROP [0:0]", ":DOCKER-USER - [0:0]", ":DOCKER-FORWARD - [0:0]", "-A FORWARD -j DOCKER-USER",
               "-A FORWARD -j DOCKER-FORWARD", "-A DOCKER-FORWARD -i docker0 -j ACCEPT"],
    "firewalld": [":FORWARD ACCEPT [0:0]", ":FORWARD_OUT_ZONES - [0:0]", "-A FORWARD -j FORWARD_OUT_ZONES",
                  "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"],
    "libvirt": [":FORWARD DROP [0:0]", ":LIBVIRT_FWI - [0:0]", "-A FORWARD -j LIBVIRT_FWI",
                "-A LIBVIRT_FWI -o virbr0 -j REJECT"],
}


STATEFUL = [":INPUT DROP [0:0]", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
STATEFUL_NFT = NftChain("inet", "filter", "input", "input", policy="drop", rules=[
    [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": None}]])


@pytest.mark.parametrize(("lines", "chains"), [(STATEFUL, []), ([":INPUT ACCEPT [0:0]"], [STATEFUL_NFT])])
def test_a_firewall_that_keeps_answers_from_this_host_is_not_taken_for_a_servers(lines, chains):
    """What it does not hear of says nothing; what comes by before the firewall still does."""
    facts = with_rule("filter", "\n".join(lines))
    facts.nft = chains
    facts.services[0].servers = [nat_server(connect=SILENT, connect_from_vip=SILENT, vip_echo=True)]
    assert found(facts) == {}
    facts.services[0].servers = [nat_server(connect=SILENT, connect_from_vip=SILENT, vip_echo=False)]
    assert list(found(facts)) == ["return_path"]


@pytest.mark.parametrize("name", FIREWALLS)
def test_whose_firewall_it_is_is_said(name):
    said = found(with_rule("filter", "\n".join(FIREWALLS[name])))

    assert list(said) == ["forward"]
    assert f"(of {name})" in said["forward"].what


def test_the_rules_of_kube_proxy_are_in_nobodys_way():
    """They look for services of its own, and drop what is INVALID: lbq's packets are UNTRACKED."""
    assert found(with_rule("filter", "\n".join([
        ":FORWARD ACCEPT [0:0]", ":KUBE-FORWARD - [0:0]", "-A FORWARD -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT"]))) == {}


@pytest.mark.parametrize(("chain", "expected"), [
    (NftChain("inet", "x", "f", "forward", policy="drop"), ["forward"]),
    (NftChain("ip", "x", "p", "prerouting", -300, rules=[[{"drop": None}]]), ["before_lbq"]),
    (NftChain("ip", "x", "p", "prerouting", -100, rules=[[{"drop": None}]]), []),
    (NftChain("ip6", "x", "f", "forward", policy="drop"), []),
])
def test_chains_of_nf_tables(chain, expected):
    assert list(found(healthy(nft=[chain]))) == expected


def test_without_a_director_the_rest_is_still_looked_at():
    facts = Facts(missing={DIRECTOR: NO_DIRECTOR}, rulesets=[installed()])
    report = finding.examine(facts, CHECKS)

    assert [one.check for one in report.findings] == ["queue_bound"]
    assert "lbq cleanup" in report.findings[0].fix
    assert {reason for _, reason in report.unknown} == {NO_DIRECTOR}


def test_what_could_not_be_looked_at_is_said_with_the_reason():
    report = finding.examine(healthy(missing={PROBES: "cannot look: no more sockets"}), CHECKS)

    assert report.findings == []
    assert ("vip_answers", "cannot look: no more sockets") in report.unknown


def test_a_rule_that_nobody_understands_leaves_its_check_unmade():
    report = finding.examine(with_rule("mangle", "-A PREROUTING -d 10.0.0.0/eight -j DROP"), CHECKS)

    assert report.findings == []
    assert [name for name, _ in report.unknown] == ["before_lbq"]


def test_a_thousand_like_findings_are_a_few_lines():
    servers = [nat_server(address=RIP + at, connect=REFUSED, connect_from_vip=REFUSED) for at in range(1000)]
    report = finding.examine(healthy(*servers), CHECKS)

    assert len(report.findings) == finding.MOST
    assert report.findings[-1].what.endswith(f"(and the like {1000 - finding.MOST} more times)")


def test_every_check_has_its_place_in_the_documentation():
    text = DOCS.read_text()

    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert [check.name for check in CHECKS if f"### {check.name}\n" not in text] == []
    assert [line for line in text.splitlines() if line.startswith("### ")
            and line[4:] not in {check.name for check in CHECKS}] == []
