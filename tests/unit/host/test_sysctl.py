"""The order and the names of kernel settings, on a folder that stands for /proc/sys."""
from __future__ import annotations

import pytest

from lbq.host import sysctl


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


def test_redirects_stop_on_all_and_on_the_device():
    assert sysctl.redirect_keys(["eth0"]) == ["net/ipv4/conf/all/send_redirects",
                                              "net/ipv4/conf/eth0/send_redirects"]
    assert sysctl.redirect_keys([]) == []
