"""Whatever a host looked like before lbq, it looks like that after: rules, sets, sysctls, addresses."""
from __future__ import annotations

import sys

import pytest

from lbq.errors import RulesNotApplied
from lbq.host.setup import cleanup
from tests.helpers.namespaces import (
    RIP,
    SERVER,
    SERVICE,
    VARIANTS,
    VIP,
    install,
    lone_host,
    number,
    picture,
    rules,
    setup_for,
)

pytestmark = pytest.mark.lab

USER_RULES = """\
*raw
-A PREROUTING -s 203.0.113.0/24 -j DROP
COMMIT
*mangle
:MARKS - [0:0]
-A PREROUTING -i eth0 -j MARKS
-A MARKS -p tcp -m tcp --dport 22 -j MARK --set-xmark 0x7/0xffffffff
-A POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*nat
-A POSTROUTING -o eth1 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
-A INPUT -m set --match-set blocked src -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m comment --comment "it's -j LBQ-REPLY" -j ACCEPT
COMMIT
"""
SYSCTLS = [
    {},
    {"net.ipv4.ip_forward": 1},
    {"net.ipv4.conf.all.accept_redirects": 0},
    {"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.accept_redirects": 1},
    {"net.ipv4.conf.eth0.forwarding": 1, "net.ipv4.conf.default.forwarding": 1},
    {"net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.eth1.send_redirects": 0},
]
FAILING = """\
#!/bin/sh
# A broken iptables-restore: says no the {nth} time it is given rules.
[ "$1" = --version ] && exec {real} --version
echo >> {log}
[ $(wc -l < {log}) -eq {nth} ] && {{ echo "sorry, not today" >&2; exit 1; }}
exec {real} "$@"
"""
HALF = """\
#!/bin/sh
# A kernel without NFQUEUE: the first table goes in, the second is refused.
[ "$1" = --version ] && exec {real} --version
sed 's/-j NFQUEUE/-j NFQUEUEUE/' | {real} "$@"
"""
SAVE = "#!/bin/sh\nexec {real} \"$@\"\n"


@pytest.fixture
def host(tmp_path):
    """A director with two networks."""
    with lone_host(tmp_path) as host:
        yield host


def add_user_rules(host, variant):
    """Give *host* a firewall, NAT and marks of its own."""
    host.run(["ipset", "create", "blocked", "hash:ip"])
    host.run(["ipset", "add", "blocked", "198.51.100.7"])
    host.run([f"iptables-{variant}-restore"], input=USER_RULES)


def wrap(host, variant, template, **values):
    """Return an iptables-restore made of *template*, with a working iptables-save beside it."""
    for program, text in (("restore", template), ("save", SAVE)):
        path = host.folder / f"iptables-{program}"
        path.write_text(text.format(real=f"/usr/sbin/iptables-{variant}-{program}", **values))
        path.chmod(0o755)
    return str(host.folder / "iptables-restore")


def test_install_changes_the_host_and_undo_puts_it_back(host, variant):
    before = picture(host)

    setup = install(host, variant)
    during = picture(host)
    host.call(setup.undo)

    changed = {part for part in before if before[part] != during[part]}
    assert {variant, "sets", "sysctls"} <= changed
    assert picture(host) == before
    assert not (setup.directory / "undo.json").exists()


def test_undo_says_what_it_put_back(host, variant):
    setup = install(host, variant)

    lines = host.call(setup.undo)

    assert f"iptables-{variant} rules removed" in lines
    assert "net.ipv4.ip_forward 1 -> 0" in lines


@pytest.mark.parametrize("accept_forward", [False, True])
def test_the_users_own_rules_and_sets_stay(host, variant, accept_forward):
    add_user_rules(host, variant)
    before = picture(host)

    setup = install(host, variant, accept_forward=accept_forward)
    during = rules(host, variant)
    host.call(setup.undo)

    assert set(before[variant] if variant == "nft" else before[variant].splitlines()) <= set(during)
    assert picture(host) == before


@pytest.mark.parametrize("other", VARIANTS)
def test_rules_of_the_other_variant_stay(host, variant, other):
    add_user_rules(host, other)
    before = picture(host)

    setup = install(host, variant)
    host.call(setup.undo)

    assert picture(host) == before


@pytest.mark.parametrize("values", SYSCTLS, ids=lambda values: ",".join(values) or "none")
def test_sysctls_return_to_what_the_user_had_set(host, values):
    for key, value in values.items():
        host.sysctl(key, value)
    before = picture(host)

    setup = install(host, "nft")
    assert host.sysctl("net.ipv4.ip_forward") == "1"
    host.call(setup.undo)

    assert picture(host) == before


def test_nothing_that_is_right_already_is_touched(host):
    host.sysctl("net.ipv4.ip_forward", 1)
    setup = setup_for(host, "nft")

    lines = host.call(setup.install, [SERVICE], [SERVER])

    assert lines == []


def test_one_armed_nat_stops_redirects_on_the_shared_device(host):
    before = picture(host)
    setup = setup_for(host, "nft")

    lines = host.call(setup.install, [SERVICE], [(SERVICE, number("192.168.10.77"), 80, 0)])

    assert "net.ipv4.conf.eth0.send_redirects 1 -> 0" in lines
    assert host.sysctl("net.ipv4.conf.all.send_redirects") == "0"
    assert host.sysctl("net.ipv4.conf.eth1.send_redirects") == "1"
    host.call(setup.undo)
    assert picture(host) == before


def test_a_server_added_later_on_the_clients_link_stops_redirects_too(host):
    before = picture(host)
    setup = install(host, "nft")
    assert host.sysctl("net.ipv4.conf.all.send_redirects") == "1"

    host.call(setup.add_server, SERVICE, number("192.168.10.77"), 80)

    assert host.sysctl("net.ipv4.conf.all.send_redirects") == "0"
    assert host.sysctl("net.ipv4.conf.eth0.send_redirects") == "0"
    host.call(setup.undo)
    assert picture(host) == before


def test_an_interface_that_went_away_is_no_obstacle(host):
    setup = setup_for(host, "nft")
    host.call(setup.install, [SERVICE], [(SERVICE, number("192.168.10.77"), 80, 0)])
    host.run(["ip", "link", "delete", "eth0"])

    host.call(setup.undo)

    assert host.sysctl("net.ipv4.ip_forward") == "0"
    assert host.sysctl("net.ipv4.conf.all.send_redirects") == "1"


def test_an_interface_that_came_meanwhile_forwards_no_longer(host):
    setup = install(host, "nft")
    host.run(["ip", "link", "add", "new0", "type", "veth", "peer", "name", "new1"])

    host.call(setup.undo)

    assert host.sysctl("net.ipv4.conf.new0.forwarding") == "0"


def test_a_vip_is_added_and_taken_away_again(host, variant):
    before = picture(host)

    setup = setup_for(host, variant, add_vip="eth0")
    lines = host.call(setup.install, [SERVICE], [SERVER])

    assert f"{VIP}/32 added to eth0" in lines
    assert f"{VIP}/32" in picture(host)["addresses"]
    host.call(setup.undo)
    assert picture(host) == before


def test_a_vip_that_the_host_had_already_stays(host):
    host.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"])
    before = picture(host)

    setup = setup_for(host, "nft", add_vip="eth0")
    lines = host.call(setup.install, [SERVICE], [SERVER])

    assert not any("added to" in line for line in lines)
    host.call(setup.undo)
    assert picture(host) == before


def test_rules_that_somebody_adds_meanwhile_survive(host, variant):
    setup = install(host, variant)
    for table, chain in (("raw", "PREROUTING"), ("mangle", "INPUT"), ("mangle", "FORWARD")):
        host.run([f"iptables-{variant}", "-t", table, "-A", chain, "-s", "203.0.113.9", "-j", "DROP"])

    host.call(setup.undo)

    left = [line for line in rules(host, variant) if line.startswith("-")]
    assert sorted(left) == ["-A FORWARD -s 203.0.113.9/32 -j DROP", "-A INPUT -s 203.0.113.9/32 -j DROP",
                            "-A PREROUTING -s 203.0.113.9/32 -j DROP"]
    assert not any("LBQ" in line for line in rules(host, variant))


def test_a_set_that_a_users_rule_looks_into_stays_and_is_empty(host, variant):
    setup = install(host, variant)
    host.run([f"iptables-{variant}", "-A", "INPUT",
              "-m", "set", "--match-set", "lbq-rip", "src,src", "-j", "DROP"])

    lines = host.call(setup.undo)

    assert "set lbq-rip is empty but stays: a rule that is not lbq's uses it" in lines
    listed = host.run(["ipset", "save"]).stdout
    assert "create lbq-rip" in listed and "add " not in listed and "lbq-vip" not in listed


BIND = """
import time
from lbq.netlink import open_queue
queue = open_queue(7, 64, 65536)
print("ready", flush=True)
time.sleep(60)
"""


def test_empty_tables_stay_while_another_program_has_a_queue(host):
    """Deleting a base chain would drop what waits in that program's queue."""
    before = picture(host)
    setup = install(host, "nft")
    other = host.popen([sys.executable, "-c", BIND])
    other.wait_for("ready")

    lines = host.call(setup.undo)

    assert "empty tables stay: queue 7 is in use, and removing them would drop its packets" in lines
    assert "table ip mangle" in picture(host)["ruleset"]
    assert not any(line.startswith("-") for line in rules(host, "nft"))
    assert picture(host)["sysctls"] == before["sysctls"]


@pytest.mark.parametrize("template", [FAILING, HALF], ids=["refused", "half applied"])
def test_a_failing_iptables_leaves_the_host_untouched(host, variant, template):
    add_user_rules(host, variant)
    before = picture(host)
    wrapper = wrap(host, variant, template, nth=1, log=host.folder / "calls")
    setup = setup_for(host, variant, add_vip="eth0")
    setup.restore = wrapper

    with pytest.raises(RulesNotApplied, match="iptables-restore refused") as caught:
        host.call(setup.install, [SERVICE], [SERVER])

    assert "\n" not in str(caught.value)
    assert picture(host) == before
    assert not (setup.directory / "undo.json").exists()


def test_when_undo_fails_too_the_record_stays_for_cleanup(host, variant):
    before = picture(host)
    setup = setup_for(host, variant)
    setup.restore = wrap(host, variant, FAILING, nth=2, log=host.folder / "calls")
    host.call(setup.install, [SERVICE], [SERVER])

    with pytest.raises(RulesNotApplied, match=r"cannot undo everything.*not today"):
        host.call(setup.undo)

    assert picture(host) != before
    host.call(cleanup, setup.directory)
    assert picture(host) == before


def test_undo_says_so_when_nft_has_made_a_table_unreadable(host):
    """iptables-nft then lists nothing of that table, which must not be taken for "nothing to remove"."""
    before = picture(host)
    setup = install(host, "nft")
    host.run(["nft", "add chain ip mangle own; add rule ip mangle own ct mark set meta mark"])

    with pytest.raises(RulesNotApplied, match="cannot take lbq's rules out of table mangle"):
        host.call(setup.undo)

    assert picture(host)["sysctls"] == before["sysctls"]
    host.run(["nft", "flush chain ip mangle own; delete chain ip mangle own"])
    host.call(cleanup, setup.directory)
    assert picture(host) == before


def test_a_real_server_shared_by_two_services_stays_until_both_let_go(host):
    setup = install(host, "nft")
    host.call(setup.add_server, *SERVER)

    host.call(setup.remove_server, *SERVER)
    assert f"add lbq-rip {RIP},tcp:80" in host.run(["ipset", "save"]).stdout
    host.call(setup.remove_server, *SERVER)
    assert f"add lbq-rip {RIP},tcp:80" not in host.run(["ipset", "save"]).stdout


def test_a_hundred_services_need_no_more_rules_than_one(host, variant):
    setup = install(host, variant)
    count = len(rules(host, variant))

    for port in range(1000, 1100):
        host.call(setup.add_service, SERVICE._replace(port=port))
        host.call(setup.add_server, SERVICE._replace(port=port), number(RIP), port)

    assert len(rules(host, variant)) == count
    assert host.run(["ipset", "save"]).stdout.count("add lbq-vip") == 101
    host.call(setup.remove_service, SERVICE._replace(port=1000))
    assert host.run(["ipset", "save"]).stdout.count("add lbq-vip") == 100
