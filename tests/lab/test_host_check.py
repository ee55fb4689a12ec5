"""What a machine may lack, and the one line that says so; the host stays untouched."""
from __future__ import annotations

import subprocess
import sys

import pytest

from lbq.errors import HostError, RulesNotApplied
from lbq.host import iptables, probes
from lbq.model import AF_INET, AF_INET6
from tests.helpers.namespaces import IPV4, IPV6, PLACES, lone_host, picture, setup_for

pytestmark = pytest.mark.lab

CHECK = """
import sys
from pathlib import Path
from lbq.host.setup import HostSetup
from lbq.queues import Queues
try:
    HostSetup(Path(sys.argv[1]), Queues(0)).check()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def host(tmp_path):
    """A director with two networks."""
    with lone_host(tmp_path) as host:
        yield host


def test_check_passes_here_and_changes_nothing(host, variant, place):
    before = picture(host)

    host.call(setup_for(host, variant, accept_forward=True, add_vip="eth0").check, place.family)

    assert picture(host) == before
    assert not (host.folder / "state").exists()


@pytest.mark.parametrize("lost", ["net_admin", "net_raw"])
def test_a_missing_capability_is_named(host, lost):
    program = [sys.executable, "-c", CHECK, host.folder]
    said = host.run(["setpriv", "--bounding-set", f"-{lost}", *program]).stdout

    assert said.startswith("PermissionMissing ")
    assert f"CAP_{lost.upper()} missing" in said and "sudo" in said
    assert said.count("\n") == 1


def test_missing_iptables_names_the_package(host, place):
    setup = setup_for(host, "nft")
    setup.restore = "iptables-of-the-future-restore"

    with pytest.raises(HostError, match=rf"cannot find {place.iptables}-of-the-future-restore.*apt install iptables"):
        host.call(setup.check, place.family)


@pytest.mark.parametrize("kind", [probes.MATCH, probes.TARGET])
def test_the_kernel_says_which_extensions_it_has(host, variant, place, kind):
    known = "set" if kind == probes.MATCH else "NFQUEUE"

    assert host.call(probes.extension_is_known, variant, kind, known, place.family)
    assert not host.call(probes.extension_is_known, variant, kind, "LBQFUTURE", place.family)


def test_a_kernel_without_the_target_is_told_which_module(host, variant, place, monkeypatch):
    monkeypatch.setattr(probes, "EXTENSIONS", ((probes.TARGET, "LBQFUTURE", "does it all", "xt_LBQFUTURE"),))

    with pytest.raises(HostError, match=rf"no {place.iptables} target LBQFUTURE, .*modprobe xt_LBQFUTURE"):
        host.call(setup_for(host, variant).check, place.family)


def test_tables_that_only_nft_can_write_are_refused_before_the_start(host, place):
    table = "ip6 mangle" if place.family == AF_INET6 else "ip mangle"
    host.run(["nft", f"add table {table}; add chain {table} own; add rule {table} own ct mark set meta mark"])
    before = picture(host)

    with pytest.raises(RulesNotApplied, match=r"table mangle: .*only nft.*LBQ_IPTABLES_RESTORE"):
        host.call(setup_for(host, "nft").check, place.family)

    assert picture(host) == before


def test_an_unknown_device_for_the_vip_is_refused(host):
    with pytest.raises(HostError, match="cannot add the VIP to eth9: there is no such network device"):
        host.call(setup_for(host, "nft", add_vip="eth9").check)


def test_the_environment_names_another_iptables(monkeypatch):
    monkeypatch.setenv("LBQ_IPTABLES_RESTORE", "iptables-legacy-restore")

    for place in PLACES.values():
        found = iptables.find(None, place.family)
        assert (found.variant, found.command()) == (iptables.LEGACY, f"{place.iptables}-legacy")


def test_the_default_is_what_the_host_itself_uses(monkeypatch):
    monkeypatch.delenv("LBQ_IPTABLES_RESTORE", raising=False)
    version = subprocess.run(["iptables", "--version"], capture_output=True, text=True, check=True).stdout

    assert (iptables.find(None, AF_INET).variant == iptables.NFT) == ("nf_tables" in version)


def test_ipv6_that_is_switched_off_is_one_clear_line(host):
    """Nothing of IPv4 is the worse for it."""
    host.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    before = picture(host)
    setup = setup_for(host, "nft")

    with pytest.raises(HostError, match=r"IPv6: it is switched off on every interface; switch it on \(sysctl net"):
        host.call(setup.check, AF_INET6)
    host.call(setup.check, AF_INET)
    host.call(setup.install, [IPV4.service], [IPV4.server])
    during = picture(host)
    with pytest.raises(HostError, match="IPv6: it is switched off on every interface"):
        host.call(setup.check_service, IPV6.service)

    assert picture(host) == during
    host.call(setup.undo)
    assert picture(host) == before


def test_a_machine_without_ipv6_is_one_clear_line(host, monkeypatch, tmp_path):
    """As with ipv6.disable=1, /proc/sys/net/ipv6 is not there."""
    monkeypatch.setattr(probes.sysctl, "ROOT", tmp_path)

    with pytest.raises(HostError, match=r"cannot balance IPv6: this machine has none; boot it without ipv6\.disable=1"):
        host.call(setup_for(host, "nft").check, AF_INET6)
