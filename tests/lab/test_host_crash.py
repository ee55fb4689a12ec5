"""A director that was killed: cleanup puts the host back, and so does a new start with a normal stop."""
from __future__ import annotations

import json
import signal
import sys

import pytest

from lbq.host.setup import HostSetup, cleanup
from lbq.queues import Queues
from tests.helpers.namespaces import (
    IPV4,
    IPV6,
    SERVER,
    SERVICE,
    VARIANTS,
    install,
    lone_host,
    number,
    picture,
    rules,
    setup_for,
)

pytestmark = pytest.mark.lab

KILLED = """
import os, signal, sys
from pathlib import Path
from lbq.host.setup import HostSetup
from lbq.model import ServiceKey
from lbq.queues import Queues
setup = HostSetup(Path(sys.argv[1]), Queues(0), restore=sys.argv[2], accept_forward=True, add_vip="eth0")
key = ServiceKey(6, int(sys.argv[4]), 80, int(sys.argv[3]))
setup.install([key], [(key, int(sys.argv[5]), 80, 0)])
os.kill(os.getpid(), signal.SIGKILL)
"""
KILLS_ITS_CALLER = """\
#!/bin/sh
# The director is killed at the worst moment: rules half in, nothing noted since.
[ "$1" = --version ] && exec {real} --version
sed '/^\\*mangle/,$d' | {real} "$@"
kill -9 $PPID
"""


@pytest.fixture
def host(tmp_path):
    """A director with two networks, where the user has set what ip_forward would overwrite."""
    with lone_host(tmp_path) as host:
        host.sysctl("net.ipv4.conf.all.accept_redirects", 0)
        host.sysctl("net.ipv4.conf.eth1.forwarding", 1)
        host.sysctl("net.ipv6.conf.eth1.forwarding", 1)
        yield host


def killed_director(host, restore, place=IPV4):
    """Run a process inside *host* that prepares it and is killed; return the folder of its record."""
    folder = host.folder / "state"
    process = host.popen([sys.executable, "-c", KILLED, folder, restore, place.family, number(place.vip),
                          number(place.rip)])
    process.wait(30)
    assert process.returncode == -signal.SIGKILL, process.log.read_text()
    return folder


def test_cleanup_after_kill_puts_everything_back(host, variant, place):
    before = picture(host)
    folder = killed_director(host, f"iptables-{variant}-restore", place)
    assert picture(host) != before

    lines = host.call(cleanup, folder)

    assert f"{place.forwarding} 1 -> 0" in lines
    assert f"{place.vip}/{place.bits} removed from eth0" in lines
    assert picture(host) == before


def test_cleanup_after_a_kill_in_the_middle_of_the_rules(host, variant, place):
    before = picture(host)
    real = f"/usr/sbin/{place.iptables}-{variant}"
    wrapper = host.folder / f"{place.iptables}-restore"
    wrapper.write_text(KILLS_ITS_CALLER.format(real=f"{real}-restore"))
    wrapper.chmod(0o755)
    (host.folder / f"{place.iptables}-save").symlink_to(f"{real}-save")
    folder = killed_director(host, str(host.folder / "iptables-restore"), place)
    assert "LBQ-NOTRACK" in "".join(rules(host, variant, place))
    wrapper.unlink()
    wrapper.symlink_to(f"{real}-restore")

    host.call(cleanup, folder)

    assert picture(host) == before


def test_cleanup_twice_is_the_same_as_once(host, variant, place):
    before = picture(host)
    setup = install(host, variant, place)
    host.call(cleanup, setup.directory)

    lines = host.call(cleanup, setup.directory)

    assert lines == []
    assert picture(host) == before


def test_cleanup_does_the_rest_when_some_of_it_is_gone(host, variant):
    before = picture(host)
    setup = install(host, variant)
    host.run([f"iptables-{variant}", "-t", "mangle", "-F"])
    host.run([f"iptables-{variant}", "-t", "mangle", "-X"])
    host.run([f"iptables-{variant}", "-t", "raw", "-D", "OUTPUT", "-j", "LBQ-NOTRACK"])
    host.run(["ipset", "destroy", "lbq-rip"], check=False)
    host.sysctl("net.ipv4.ip_forward", 0)
    host.run(["ip", "link", "delete", "eth0"])

    host.call(cleanup, setup.directory)

    after = picture(host)
    for part in ("nft", "legacy", "ruleset", "sets"):
        assert after[part] == before[part]
    assert after["sysctls"].items() <= before["sysctls"].items()


def test_cleanup_without_its_record_still_removes_the_rules(host, variant, place):
    """Somebody deleted undo.json; a VIP that stays closed for ever would be the worse answer."""
    setup = install(host, variant, place)
    (setup.directory / "undo.json").unlink()

    host.call(cleanup, setup.directory)

    assert not any("LBQ" in line for line in rules(host, variant, place))
    assert host.run(["ipset", "save"]).stdout == ""


def test_a_start_over_a_crash_keeps_the_first_values(host, variant):
    before = picture(host)
    install(host, variant, accept_forward=True, add_vip="eth0")

    setup = install(host, variant, add_vip="eth0")
    host.call(setup.undo)

    assert picture(host) == before


def test_the_first_values_outlive_what_happened_between_crash_and_start(host):
    """Switching forwarding off overwrites the user's own values; only the record still has them."""
    before = picture(host)
    install(host, "nft")
    host.sysctl("net.ipv4.ip_forward", 0)
    assert host.sysctl("net.ipv4.conf.all.accept_redirects") == "1"

    setup = install(host, "nft")
    host.call(setup.undo)

    assert picture(host) == before


def test_a_start_over_a_crash_adds_no_rule_twice(host, variant, place):
    setup = install(host, variant, place)
    once, sets = rules(host, variant, place), host.run(["ipset", "save"]).stdout

    host.call(setup_for(host, variant).install, [place.service], [place.server])

    assert rules(host, variant, place) == once
    assert host.run(["ipset", "save"]).stdout == sets
    host.call(setup.undo)


def test_a_start_over_a_crash_follows_the_new_command_line(host, variant):
    install(host, variant, accept_forward=True)
    other = SERVICE._replace(port=8080)
    setup = HostSetup(host.folder / "state", Queues(5), restore=f"iptables-{variant}-restore")

    host.call(setup.install, [other], [(other, SERVER[1], 8080, 0)])

    text = "\n".join(rules(host, variant))
    assert "LBQ-FORWARD" not in text
    assert "--queue-num 5" in text and "--queue-num 0" not in text
    sets = host.run(["ipset", "save"]).stdout
    assert "tcp:8080" in sets and "tcp:80\n" not in sets


def test_rules_stay_in_place_while_a_new_start_takes_them_over(host):
    """At no moment may a packet of the service pass unqueued: chains are refilled in one transaction."""
    install(host, "nft")
    wrapper = host.folder / "iptables-restore"
    wrapper.write_text('#!/bin/sh\n[ "$1" = --version ] || iptables-nft-save > $0.seen\n'
                       'exec /usr/sbin/iptables-nft-restore "$@"\n')
    wrapper.chmod(0o755)
    (host.folder / "iptables-save").symlink_to("/usr/sbin/iptables-nft-save")
    edit = json.loads((host.folder / "state" / "undo.json").read_text())
    edit["programs"]["inet"] = str(wrapper)
    (host.folder / "state" / "undo.json").write_text(json.dumps(edit))
    setup = setup_for(host, "nft")
    setup.restore = str(wrapper)

    host.call(setup.install, [SERVICE], [SERVER])

    assert "-A LBQ-REQUEST -m set --match-set lbq-vip" in (host.folder / "iptables-restore.seen").read_text()


def test_a_start_with_the_other_variant_replaces_the_old_rules(host, variant, place):
    before = picture(host)
    install(host, variant, place)
    other = next(name for name in VARIANTS if name != variant)

    setup = install(host, other, place)

    assert not any("LBQ" in line for line in rules(host, variant, place))
    assert any("LBQ" in line for line in rules(host, other, place))
    host.call(setup.undo)
    after = picture(host)
    assert after == before


@pytest.mark.parametrize("field,value", [("boot_id", "00000000-0000-0000-0000-000000000000"),
                                         ("netns_cookie", 1)])
def test_a_record_of_another_boot_or_namespace_is_not_believed(host, field, value):
    """An inode number is used again: the folder may hold what a dead namespace left."""
    folder = host.folder / "state"
    folder.mkdir()
    setup = install(host, "nft")
    foreign = json.loads((folder / "undo.json").read_text())
    host.call(setup.undo)
    before = picture(host)
    foreign[field] = value
    foreign["sysctls"]["net/ipv4/ip_default_ttl"] = "99"
    (folder / "undo.json").write_text(json.dumps(foreign))

    setup = install(host, "nft")
    host.call(setup.undo)

    assert picture(host) == before


def test_a_record_cut_short_is_not_believed(host):
    before = picture(host)
    folder = host.folder / "state"
    folder.mkdir()
    (folder / "undo.json").write_text('{"boot_id": "…')

    setup = install(host, "nft")
    host.call(setup.undo)

    assert picture(host) == before


def test_a_start_for_one_family_over_a_crash_of_both_takes_the_other_out(host, variant):
    """What was the other's is of no use to the new director, and would only be in the way."""
    before = picture(host)
    setup = install(host, variant)
    host.call(setup.add_service, IPV6.service)
    assert host.sysctl(IPV6.forwarding) == "1"

    again = install(host, variant)

    assert host.sysctl(IPV6.forwarding) == "0"
    assert not any("LBQ" in line for line in rules(host, variant, IPV6))
    assert any("LBQ" in line for line in rules(host, variant, IPV4))
    assert "lbq6" not in host.run(["ipset", "save"]).stdout
    host.call(again.undo)
    assert picture(host) == before
