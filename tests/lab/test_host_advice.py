"""What lbq says at start about a firewall or an address that will be in the way; its own cure cures it."""
from __future__ import annotations

import re

import pytest

from tests.helpers.namespaces import RIP, SERVICE, VIP, install, lone_host, setup_for

pytestmark = pytest.mark.lab


@pytest.fixture
def host(tmp_path):
    """A director with two networks that has the VIP."""
    with lone_host(tmp_path) as host:
        host.run(["ip", "address", "add", f"{VIP}/32", "dev", "eth0"])
        yield host


def warnings(host, setup):
    """Return what lbq warns of."""
    return host.call(setup.warnings)


def test_an_open_host_gets_no_warning(host, variant):
    assert warnings(host, install(host, variant)) == []


def test_forward_drop_is_reported_with_rules_that_cure_it(host, variant):
    host.run([f"iptables-{variant}", "-P", "FORWARD", "DROP"])
    setup = install(host, variant)

    (line,) = warnings(host, setup)

    assert f"real server {RIP}:80 (policy DROP)" in line and "--accept-forward" in line
    commands = re.findall(r"iptables\S* -I FORWARD [^;]*ACCEPT", line)
    assert len(commands) == 2
    for command in commands:
        host.run([f"iptables-{variant}", *command.split()[1:]])
    assert warnings(host, setup) == []


def test_accept_forward_cures_it_as_well(host, variant):
    host.run([f"iptables-{variant}", "-P", "FORWARD", "DROP"])

    assert warnings(host, install(host, variant, accept_forward=True)) == []


def test_a_stateful_firewall_drops_untracked_packets(host, variant):
    """The usual three rules of a router: what conntrack does not know meets the policy."""
    for rule in ("-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-i eth1 -o eth0 -j ACCEPT",
                 "-j REJECT"):
        host.run([f"iptables-{variant}", "-A", "FORWARD", *rule.split()])

    (line,) = warnings(host, install(host, variant))

    assert "rule -A FORWARD -j REJECT" in line


def test_input_rules_that_name_the_services_port_are_reported(host, variant):
    for rule in ("-p tcp --dport 80 -s 203.0.113.0/24 -j DROP", "-p tcp --dport 22 -j ACCEPT"):
        host.run([f"iptables-{variant}", "-A", "INPUT", *rule.split()])

    (line,) = warnings(host, install(host, variant))

    assert "--dport 80" in line and f"{VIP}:80" in line and "FORWARD" in line


def test_an_nft_firewall_with_policy_drop_is_reported(host):
    host.run(["nft", "add table inet firewall; add chain inet firewall forward "
                     "{ type filter hook forward priority 0; policy drop; }"])

    (line,) = warnings(host, install(host, "nft"))

    assert line.startswith("nft table inet firewall drops forwarded packets")


def test_a_vip_on_the_link_that_nobody_answers_for_is_reported(host):
    host.run(["ip", "address", "delete", f"{VIP}/32", "dev", "eth0"])
    setup = install(host, "nft")

    (line,) = warnings(host, setup)

    assert f"nobody answers ARP for {VIP} on eth0" in line and "--add-vip eth0" in line
    assert host.call(setup.describe_vips) == [
        f"{VIP} is not an address of this host; its packets must be routed here"]
    host.run(["ip", "neigh", "add", "proxy", VIP, "dev", "eth0"])
    assert warnings(host, setup) == []


@pytest.mark.parametrize("command,line", [
    (["ip", "address", "add", "203.0.113.1/32", "dev", "lo"], "203.0.113.1 is an address of this host (lo)"),
    (["ip", "route", "add", "local", "203.0.113.1", "dev", "lo"],
     "203.0.113.1 is delivered on this host by a local route"),
    (["true"], "203.0.113.1 is not an address of this host; its packets must be routed here"),
])
def test_where_the_vip_lives_is_said(host, command, line):
    host.run(command)
    setup = setup_for(host, "nft")
    host.call(setup.install, [SERVICE._replace(address=0xCB007101)], [])

    assert host.call(setup.describe_vips) == [line]
    assert warnings(host, setup) == []


def test_a_vip_whose_packets_would_go_back_to_where_they_came_from_is_reported(host):
    host.run(["ip", "route", "add", "default", "via", "192.168.10.99"])
    setup = setup_for(host, "nft")
    host.call(setup.install, [SERVICE._replace(address=0xCB007101, port=0)], [])

    (line,) = warnings(host, setup)

    assert "203.0.113.1 that are for no service leave again for 192.168.10.99" in line
    host.run(line.partition("end that with: ")[2].split())
    assert warnings(host, setup) == []
