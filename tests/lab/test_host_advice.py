"""What lbq says at start about a firewall or an address that will be in the way; its own cure cures it."""
from __future__ import annotations

import re

import pytest

from lbq.model import AF_INET6
from tests.helpers.namespaces import IPV6, PLACES, install, lone_host, number, setup_for

pytestmark = pytest.mark.lab


@pytest.fixture
def host(tmp_path):
    """A director with two networks that has the VIPs."""
    with lone_host(tmp_path) as host:
        for place in PLACES.values():
            host.run(["ip", "address", "add", f"{place.vip}/{place.bits}", "dev", "eth0"])
        yield host


def warnings(host, setup):
    """Return what lbq warns of."""
    return host.call(setup.warnings)


def test_an_open_host_gets_no_warning(host, variant, place):
    assert warnings(host, install(host, variant, place)) == []


def test_forward_drop_is_reported_with_rules_that_cure_it(host, variant, place):
    host.run([f"{place.iptables}-{variant}", "-P", "FORWARD", "DROP"])
    setup = install(host, variant, place)

    (line,) = warnings(host, setup)

    assert f"real server {place.endpoint(place.rip, 80)} (policy DROP)" in line and "--accept-forward" in line
    commands = re.findall(rf"{place.iptables}\S* -I FORWARD [^;]*ACCEPT", line)
    assert len(commands) == 2
    for command in commands:
        host.run([f"{place.iptables}-{variant}", *command.split()[1:]])
    assert warnings(host, setup) == []


def test_accept_forward_cures_it_as_well(host, variant, place):
    host.run([f"{place.iptables}-{variant}", "-P", "FORWARD", "DROP"])

    assert warnings(host, install(host, variant, place, accept_forward=True)) == []


def test_a_stateful_firewall_drops_untracked_packets(host, variant, place):
    """The usual three rules of a router: what conntrack does not know meets the policy."""
    for rule in ("-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", "-i eth1 -o eth0 -j ACCEPT",
                 "-j REJECT"):
        host.run([f"{place.iptables}-{variant}", "-A", "FORWARD", *rule.split()])

    (line,) = warnings(host, install(host, variant, place))

    assert "rule -A FORWARD -j REJECT" in line


def test_input_rules_that_name_the_services_port_are_reported(host, variant, place):
    for rule in (f"-p tcp --dport 80 -s {place.other} -j DROP", "-p tcp --dport 22 -j ACCEPT"):
        host.run([f"{place.iptables}-{variant}", "-A", "INPUT", *rule.split()])

    (line,) = warnings(host, install(host, variant, place))

    assert "--dport 80" in line and place.endpoint(place.vip, 80) in line and "FORWARD" in line


def test_an_nft_firewall_with_policy_drop_is_reported(host, place):
    host.run(["nft", "add table inet firewall; add chain inet firewall forward "
                     "{ type filter hook forward priority 0; policy drop; }"])

    (line,) = warnings(host, install(host, "nft", place))

    assert line.startswith("nft table inet firewall drops forwarded packets")


def test_a_vip_on_the_link_that_nobody_answers_for_is_reported(host, place):
    host.run(["ip", "address", "delete", f"{place.vip}/{place.bits}", "dev", "eth0"])
    setup = install(host, "nft", place)

    (line,) = warnings(host, setup)

    asked = "neighbour solicitations" if place.family == AF_INET6 else "ARP"
    assert f"nobody answers {asked} for {place.vip} on eth0" in line and "--add-vip eth0" in line
    assert host.call(setup.describe_vips) == [
        f"{place.vip} is not an address of this host; its packets must be routed here"]
    host.run(["ip", "neigh", "add", "proxy", place.vip, "dev", "eth0"])
    if place.family == AF_INET6:        # unlike with ARP, the entry alone does nothing
        assert warnings(host, setup) == [line]
        host.sysctl("net.ipv6.conf.eth0.proxy_ndp", 1)
    assert warnings(host, setup) == []


def test_an_ipv6_vip_on_another_device_is_not_answered_for(host):
    """ARP is answered for any address of the host, a neighbour solicitation only for one of its own device."""
    for place in PLACES.values():
        host.run(["ip", "address", "delete", f"{place.vip}/{place.bits}", "dev", "eth0"])
        host.run(["ip", "address", "add", f"{place.vip}/{place.bits}", "dev", "lo"])
    setup = setup_for(host, "nft")
    host.call(setup.install, [place.service for place in PLACES.values()], [])

    (line,) = warnings(host, setup)

    assert f"nobody answers neighbour solicitations for {IPV6.vip} on eth0" in line
    assert host.call(setup.describe_vips) == [f"{place.vip} is an address of this host (lo)"
                                              for place in PLACES.values()]
    host.call(setup.undo)
    cured = setup_for(host, "nft", add_vip="eth0")
    lines = host.call(cured.install, [IPV6.service], [])
    assert f"{IPV6.vip}/128 added to eth0" in lines
    assert warnings(host, cured) == []


@pytest.mark.parametrize("vip", ["203.0.113.1", "2001:db8:113::1"])
@pytest.mark.parametrize(("command", "saying"), [
    ("ip address add {}/{} dev lo", "is an address of this host (lo)"),
    ("ip route add local {} dev lo", "is delivered on this host by a local route"),
    ("true", "is not an address of this host; its packets must be routed here"),
])
def test_where_the_vip_lives_is_said(host, vip, command, saying):
    place = PLACES["ipv6" if ":" in vip else "ipv4"]
    host.run(command.format(vip, place.bits).split())
    setup = setup_for(host, "nft")
    host.call(setup.install, [place.service._replace(address=number(vip))], [])

    assert host.call(setup.describe_vips) == [f"{vip} {saying}"]
    assert warnings(host, setup) == []


@pytest.mark.parametrize("vip", ["203.0.113.1", "2001:db8:113::1"])
def test_a_vip_whose_packets_would_go_back_to_where_they_came_from_is_reported(host, vip):
    place = PLACES["ipv6" if ":" in vip else "ipv4"]
    host.run(["ip", "route", "add", "default", "via", place.other])
    setup = setup_for(host, "nft")
    host.call(setup.install, [place.service._replace(address=number(vip), port=0)], [])

    (line,) = warnings(host, setup)

    assert f"{vip} that are for no service leave again for {place.other}" in line
    host.run(line.partition("end that with: ")[2].split())
    assert warnings(host, setup) == []
