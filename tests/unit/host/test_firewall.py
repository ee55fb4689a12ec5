"""One packet through FORWARD, as far as iptables-save tells."""
from __future__ import annotations

import ipaddress

import pytest

from lbq.host import firewall
from lbq.model import AF_INET, AF_INET6

RIP, VIP = int(ipaddress.IPv4Address("192.168.20.1")), int(ipaddress.IPv4Address("192.168.10.1"))
SERVER = (6, RIP, 8080)
REQUEST = firewall.request_to(AF_INET, SERVER, {"eth0"}, "eth1")
REPLY = firewall.reply_from(AF_INET, SERVER, {"eth0"}, "eth1")
SERVER6 = (6, int(ipaddress.IPv6Address("2001:db8:20::1")), 8080)
REQUEST6 = firewall.request_to(AF_INET6, SERVER6, {"eth0"}, "eth1")
REPLY6 = firewall.reply_from(AF_INET6, SERVER6, {"eth0"}, "eth1")


def drops(packet, *lines, policy="ACCEPT"):
    """Return what drops *packet* in a filter table of *lines*."""
    return firewall.dropped_by({"filter": [f":FORWARD {policy} [0:0]", *lines]}, packet)


def test_without_a_filter_table_nothing_is_dropped():
    assert firewall.dropped_by({}, REQUEST) is None


def test_the_policy_decides_when_no_rule_does():
    assert drops(REQUEST) is None
    assert drops(REQUEST, policy="DROP") == "policy DROP"


@pytest.mark.parametrize("rule", [
    "-p tcp -j ACCEPT",
    "-d 192.168.20.1/32 -p tcp -m tcp --dport 8080 -j ACCEPT",
    "-d 192.168.20.0/24 -j ACCEPT",
    "-d 192.0.20.0/255.0.255.0 -j ACCEPT",
    "-i eth0 -o eth1 -j ACCEPT",
    "-i eth+ -j ACCEPT",
    "! -i eth1 -j ACCEPT",
    "-p tcp -m multiport --dports 80,8000:8100 -j ACCEPT",
    "-m conntrack --ctstate NEW,UNTRACKED -j ACCEPT",
    "-m conntrack ! --ctstate INVALID -j ACCEPT",
    '-m comment --comment "-p udp -j DROP" -j ACCEPT',
    "-m set --match-set lbq-rip dst,dst -j ACCEPT",
])
def test_a_rule_that_surely_matches_a_request_accepts_it(rule):
    assert drops(REQUEST, f"-A FORWARD {rule}", policy="DROP") is None


@pytest.mark.parametrize("rule", [
    "-p udp -j ACCEPT",
    "-d 192.168.20.2/32 -j ACCEPT",
    "-i eth1 -o eth0 -j ACCEPT",
    "-p tcp -m tcp --dport 80 -j ACCEPT",
    "-p tcp -m tcp --sport 8080 -j ACCEPT",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-s 10.0.0.0/8 -j ACCEPT",
    "! -s 10.0.0.0/8 -j ACCEPT",
    "-m limit --limit 5/min -j ACCEPT",
    "-m set --match-set friends src -j ACCEPT",
    "-j LOG --log-prefix hello",
])
def test_a_rule_that_may_not_match_a_request_does_not_save_it(rule):
    assert drops(REQUEST, f"-A FORWARD {rule}", policy="DROP") == "policy DROP"


def test_a_rule_against_some_clients_is_no_reason_to_warn():
    assert drops(REQUEST, "-A FORWARD -s 203.0.113.0/24 -j DROP") is None


def test_a_rule_against_invalid_packets_does_not_concern_untracked_ones():
    assert drops(REPLY, "-A FORWARD -m conntrack --ctstate INVALID -j DROP") is None


def test_the_first_rule_that_matches_decides():
    lines = ["-A FORWARD -s 192.168.20.1/32 -j ACCEPT", "-A FORWARD -j REJECT --reject-with tcp-reset"]

    assert drops(REPLY, *lines) is None
    assert drops(REQUEST, *lines) == "rule " + lines[1]


def test_chains_are_followed_and_returned_from():
    lines = [":CHECK - [0:0]", ":DEEPER - [0:0]", "-A FORWARD -j CHECK", "-A FORWARD -j DROP",
             "-A CHECK -p udp -j ACCEPT", "-A CHECK -j DEEPER",
             "-A DEEPER -p tcp -j RETURN", "-A DEEPER -j ACCEPT"]

    assert drops(REQUEST, *lines) == "rule -A FORWARD -j DROP"


def test_goto_does_not_come_back():
    lines = [":CHECK - [0:0]", "-A FORWARD -g CHECK", "-A FORWARD -j DROP", "-A CHECK -p udp -j DROP"]

    assert drops(REQUEST, *lines) is None


def test_the_advised_rules_let_both_directions_pass():
    advised = firewall.rules_to_add("iptables", AF_INET, SERVER).split("; ")
    lines = [command.replace("iptables -I", "-A") for command in advised]

    assert drops(REQUEST, *lines, policy="DROP") is None
    assert drops(REPLY, *lines, policy="DROP") is None


@pytest.mark.parametrize("rule,named", [
    ("-p tcp -m tcp --dport 80 -j ACCEPT", True),
    ("-p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT", True),
    ("-s 10.0.0.0/8 -p tcp -m multiport --dports 22,80,443 -j DROP", True),
    ("-d 192.168.10.9/32 -p tcp -m tcp --dport 80 -j ACCEPT", False),
    ("-p udp -m udp --dport 80 -j ACCEPT", False),
    ("-p tcp -m tcp --dport 22 -j ACCEPT", False),
    ("-i lo -j ACCEPT", False),
])
def test_input_rules_for_the_services_port_are_found(rule, named):
    line = f"-A INPUT {rule}"

    assert firewall.input_rules_naming({"filter": [line]}, AF_INET, (6, VIP, 80)) == ([line] if named else [])


def test_input_rules_are_also_those_of_the_chains_that_input_leads_to():
    lines = [":INPUT DROP [0:0]", ":user - [0:0]", ":deeper - [0:0]", ":elsewhere - [0:0]", "-A INPUT -j user",
             "-A user -g deeper", "-A deeper -j user", "-A deeper -p tcp -m tcp --dport 80 -j DROP",
             "-A elsewhere -p tcp -m tcp --dport 80 -j DROP", "-A INPUT -j LOG"]

    assert firewall.input_rules_naming({"filter": lines}, AF_INET, (6, VIP, 80)) == [lines[7]]


@pytest.mark.parametrize(("rule", "accepts"), [
    ("-p tcp -m tcp --dport 80 -j ACCEPT", True),
    ("-d 192.168.10.1/32 -p tcp -m multiport --dports 80,443 -m conntrack --ctstate NEW -m comment --comment web "
     "-j ACCEPT", True),
    ("-p tcp -m tcp --dport 80 -j DROP", False),
    ("-s 10.0.0.0/8 -p tcp -m tcp --dport 80 -j ACCEPT", False),
    ("-i eth0 -p tcp -m tcp --dport 80 -j ACCEPT", False),
    ("-p tcp -m tcp --dport 80 -m limit --limit 5/sec -j ACCEPT", False),
    ("-p tcp -m tcp --dport 80 -j user", False),
])
def test_a_rule_may_accept_everybody(rule, accepts):
    assert firewall.accepts_everybody(f"-A INPUT {rule}") is accepts


@pytest.mark.parametrize(("rule", "why"), [
    ("-d 2001:db8:20::1/128 -p tcp -m tcp --dport 8080 -j ACCEPT", None),
    ("-d 2001:db8:20::/64 -j ACCEPT", None),
    ("-m set --match-set lbq6-rip dst,dst -j ACCEPT", None),
    ("-s ::/0 -j ACCEPT", None),
    ("-d 2001:db8:21::/64 -j ACCEPT", "policy DROP"),
    ("-m set --match-set lbq-rip dst,dst -j ACCEPT", "policy DROP"),
    ("-p ipv6-icmp -j ACCEPT", "policy DROP"),
])
def test_rules_of_ip6tables_are_read_alike(rule, why):
    assert drops(REQUEST6, f"-A FORWARD {rule}", policy="DROP") == why


def test_the_advised_rules_of_ip6tables_let_both_directions_pass():
    advised = firewall.rules_to_add("ip6tables", AF_INET6, SERVER6).split("; ")
    lines = [command.replace("ip6tables -I", "-A") for command in advised]

    assert drops(REQUEST6, *lines, policy="DROP") is None
    assert drops(REPLY6, *lines, policy="DROP") is None
