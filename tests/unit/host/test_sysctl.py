"""The order and the names of kernel settings, on a folder that stands for /proc/sys."""
from __future__ import annotations

import pytest

from lbq.host import sysctl
from lbq.model import AF_INET, AF_INET6


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A /proc/sys with two interfaces, one of them named like a VLAN."""
    for key, value in {"ip_forward": 0, "conf/all/forwarding": 0, "conf/all/accept_redirects": 1,
                       "conf/eth0.10/forwarding": 0, "conf/eth0.10/send_redirects": 1}.items():
        path = tmp_path / "net/ipv4" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    monkeypatch.setattr(sysctl, "ROOT", tmp_path)
    return tmp_path


def test_a_value_that_is_right_is_not_written(tree):
    assert sysctl.write(sysctl.IP_FORWARD, "0") is None
    assert sysctl.write(sysctl.IP_FORWARD, "1") == "net.ipv4.ip_forward 0 -> 1"
    assert sysctl.read(sysctl.IP_FORWARD) == "1"


def test_names_are_spoken_as_sysctl_writes_them(tree):
    line = sysctl.write("net/ipv4/conf/eth0.10/send_redirects", "0")

    assert line == "net.ipv4.conf.eth0/10.send_redirects 1 -> 0"


def test_a_vanished_interface_is_skipped(tree):
    assert sysctl.restore({"net/ipv4/conf/gone/forwarding": "1", sysctl.IP_FORWARD: "0"}) == []


def test_all_that_ip_forward_overwrites_is_read(tree):
    assert sysctl.forwarding_values() == {
        "net/ipv4/ip_forward": "0", "net/ipv4/conf/all/accept_redirects": "1",
        "net/ipv4/conf/all/forwarding": "0", "net/ipv4/conf/eth0.10/forwarding": "0"}


def test_ip_forward_is_restored_first_because_it_overwrites_the_others(tree):
    values = {"net/ipv4/conf/all/accept_redirects": "0", "net/ipv4/ip_forward": "1"}

    lines = sysctl.restore(values)

    assert lines == ["net.ipv4.ip_forward 0 -> 1", "net.ipv4.conf.all.accept_redirects 1 -> 0"]


IPV6 = {"all/forwarding": 0, "default/forwarding": 0, "eth0/forwarding": 0, "eth1/forwarding": 1, "lo/forwarding": 0,
        "all/accept_ra": 1, "default/accept_ra": 1, "eth0/accept_ra": 1, "eth1/accept_ra": 1, "eth2/accept_ra": 0,
        "lo/accept_ra": 1}


@pytest.fixture
def tree6(tree):
    """The same with IPv6: eth0 listens to router advertisements, eth1 forwards already."""
    for key, value in IPV6.items():
        path = tree / sysctl.INTERFACES6 / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return tree


def test_ipv6_is_forwarded_and_router_advertisements_are_still_heard(tree6):
    """Only where they were heard before: an interface that forwards ignores them unless accept_ra is 2."""
    wanted = sysctl.wanted_forwarding6(sysctl.forwarding6_values())

    assert list(wanted.items()) == [
        ("net/ipv6/conf/default/accept_ra", "2"), ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv6/conf/all/forwarding", "1")]


def test_where_ipv6_is_forwarded_already_nothing_is_wanted(tree6):
    (tree6 / "net/ipv6/conf/all/forwarding").write_text("1\n")

    assert sysctl.wanted_forwarding6(sysctl.forwarding6_values()) == {}


def test_forwarding_of_ipv6_is_restored_before_what_it_overwrites(tree6):
    values = {"net/ipv6/conf/eth1/forwarding": "0", "net/ipv6/conf/all/forwarding": "1",
              "net/ipv6/conf/eth0/accept_ra": "0"}

    assert sysctl.restore(values)[0] == "net.ipv6.conf.all.forwarding 0 -> 1"


def test_a_setting_belongs_to_one_family():
    assert [sysctl.family_of(key) for key in (sysctl.IP_FORWARD, sysctl.FORWARDING6)] == [AF_INET, AF_INET6]


def test_redirects_stop_on_all_and_on_the_device():
    assert sysctl.redirect_keys(["eth0"]) == ["net/ipv4/conf/all/send_redirects",
                                              "net/ipv4/conf/eth0/send_redirects"]
    assert sysctl.redirect_keys([]) == []
