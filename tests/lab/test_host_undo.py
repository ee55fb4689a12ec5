"""Whatever a host looked like before lbq, it looks like that after: rules, sets, sysctls, addresses."""
from __future__ import annotations

import sys

import pytest

from lbq.errors import RulesNotApplied
from lbq.host.setup import cleanup
from lbq.model import AF_INET, AF_INET6
from tests.helpers.namespaces import (
    IPV6,
    PLACES,
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

USER_RULES = """\
*raw
-A PREROUTING -s {somebody} -j DROP
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
-A INPUT -m set --match-set blocked{family} src -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m comment --comment "it's -j LBQ-REPLY" -j ACCEPT
COMMIT
"""
SOMEBODY = {AF_INET: "203.0.113.9/32", AF_INET6: "2001:db8:113::9/128"}
SYSCTLS = [
    {},
    {"net.ipv4.ip_forward": 1},
    {"net.ipv4.conf.all.accept_redirects": 0},
    {"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.accept_redirects": 1},
    {"net.ipv4.conf.eth0.forwarding": 1, "net.ipv4.conf.default.forwarding": 1},
    {"net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.eth1.send_redirects": 0},
]
SYSCTLS6 = [
    {},
    {"net.ipv6.conf.all.forwarding": 1},
    {"net.ipv6.conf.eth0.forwarding": 1, "net.ipv6.conf.default.forwarding": 1},
    {"net.ipv6.conf.eth0.accept_ra": 0, "net.ipv6.conf.eth1.accept_ra": 2},
    {"net.ipv6.conf.all.forwarding": 1, "net.ipv6.conf.eth1.forwarding": 0, "net.ipv6.conf.eth1.accept_ra": 1},
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
SAVE = PASSES = "#!/bin/sh\nexec {real} \"$@\"\n"


@pytest.fixture
def host(tmp_path):
    """A director with two networks."""
    with lone_host(tmp_path) as host:
        yield host


def add_user_rules(host, variant, *places):
    """Give *host* a firewall, NAT and marks of its own."""
    for place in places or PLACES.values():
        host.run(["ipset", "create", f"blocked{place.family}", "hash:ip", "family",
                  "inet6" if place.family == AF_INET6 else "inet"])
        host.run(["ipset", "add", f"blocked{place.family}", place.other])
        host.run([f"{place.iptables}-{variant}-restore"],
                 input=USER_RULES.format(somebody=SOMEBODY[place.family], family=place.family))


def wrap(host, variant, place, template, **values):
    """Return an iptables-restore made of *template* for one family, with a working iptables-save beside it."""
    for program, text in (("restore", template), ("save", SAVE)):
        path = host.folder / f"{place.iptables}-{program}"
        path.write_text(text.format(real=f"/usr/sbin/{place.iptables}-{variant}-{program}", **values))
        path.chmod(0o755)
    return str(host.folder / "iptables-restore")


def test_install_changes_the_host_and_undo_puts_it_back(host, variant, place):
    before = picture(host)

    setup = install(host, variant, place)
    during = picture(host)
    host.call(setup.undo)

    changed = {part for part in before if before[part] != during[part]}
    assert {variant, "sets", "sysctls"} <= changed
    assert picture(host) == before
    assert not (setup.directory / "undo.json").exists()


def test_what_is_not_balanced_is_not_touched(host, variant, place):
    """Who balances IPv4 alone does not begin to forward IPv6, nor the other way round."""
    [other] = [other for other in PLACES.values() if other is not place]
    before = picture(host), rules(host, variant, other)

    install(host, variant, place)

    during = picture(host)
    changed = {key for key, value in before[0]["sysctls"].items() if during["sysctls"][key] != value}
    names = {AF_INET: "/proc/sys/net/ipv4/", AF_INET6: "/proc/sys/net/ipv6/"}
    assert changed and all(key.startswith(names[place.family]) for key in changed)
    assert rules(host, variant, other) == before[1]
    assert f"create {place.sets}-vip " in during["sets"] and f"create {other.sets}-vip " not in during["sets"]


def test_the_other_family_is_put_in_with_its_first_service_and_undone_with_the_rest(host, variant, place):
    [other] = [other for other in PLACES.values() if other is not place]
    add_user_rules(host, variant)
    before = picture(host)
    setup = install(host, variant, place)

    host.call(setup.add_service, other.service)
    host.call(setup.add_server, *other.server)

    assert host.sysctl(other.forwarding) == "1"
    assert f"add {other.sets}-vip {other.vip},tcp:80" in picture(host)["sets"]
    assert any("LBQ-REQUEST" in line for line in rules(host, variant, other))
    host.call(setup.remove_service, other.service)
    assert any("LBQ-REQUEST" in line for line in rules(host, variant, other))
    host.call(setup.undo)
    assert picture(host) == before


@pytest.mark.parametrize("template", [FAILING, HALF], ids=["refused", "half applied"])
def test_a_family_that_cannot_be_put_in_leaves_the_other_alone(host, variant, place, template):
    [other] = [other for other in PLACES.values() if other is not place]
    setup = setup_for(host, variant)
    wrap(host, variant, place, PASSES)
    setup.restore = wrap(host, variant, other, template, nth=1, log=host.folder / "calls")
    before = picture(host)
    host.call(setup.install, [place.service], [place.server])
    during = picture(host)

    with pytest.raises(RulesNotApplied, match="-restore refused"):
        host.call(setup.add_service, other.service)

    after = picture(host)
    if variant == "nft":        # empty tables stay until the end: removing them would drop what waits in the queue
        during.pop("ruleset"), after.pop("ruleset")
        during["nft"], after["nft"] = rules(host, variant, place), [
            line for line in after["nft"] if line in during["nft"]]
    assert {part: after[part] for part in during if part != "nft"} == {
        part: during[part] for part in during if part != "nft"}
    host.call(setup.undo)
    assert picture(host) == before


def test_undo_says_what_it_put_back(host, variant, place):
    setup = install(host, variant, place)

    lines = host.call(setup.undo)

    assert f"{place.iptables}-{variant} rules removed" in lines
    assert f"{place.forwarding} 1 -> 0" in lines


@pytest.mark.parametrize("accept_forward", [False, True])
def test_the_users_own_rules_and_sets_stay(host, variant, place, accept_forward):
    add_user_rules(host, variant)
    before, own = picture(host), rules(host, variant, place)

    setup = install(host, variant, place, accept_forward=accept_forward)
    during = rules(host, variant, place)
    host.call(setup.undo)

    assert set(own) <= set(during)
    assert picture(host) == before


@pytest.mark.parametrize("other", VARIANTS)
def test_rules_of_the_other_variant_stay(host, variant, place, other):
    add_user_rules(host, other)
    before = picture(host)

    setup = install(host, variant, place)
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


@pytest.mark.parametrize("values", SYSCTLS6, ids=lambda values: ",".join(values) or "none")
def test_sysctls_of_ipv6_return_to_what_the_user_had_set(host, values):
    for key, value in values.items():
        host.sysctl(key, value)
    before = picture(host)

    setup = install(host, "nft", IPV6)
    assert host.sysctl("net.ipv6.conf.all.forwarding") == "1"
    host.call(setup.undo)

    assert picture(host) == before


def test_nothing_that_is_right_already_is_touched(host, place):
    host.sysctl(place.forwarding, 1)
    setup = setup_for(host, "nft")

    lines = host.call(setup.install, [place.service], [place.server])

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


def test_a_vip_is_added_and_taken_away_again(host, variant, place):
    before = picture(host)

    setup = setup_for(host, variant, add_vip="eth0")
    lines = host.call(setup.install, [place.service], [place.server])

    assert f"{place.vip}/{place.bits} added to eth0" in lines
    assert f"{place.vip}/{place.bits}" in picture(host)["addresses"]
    host.call(setup.undo)
    assert picture(host) == before


def test_a_vip_that_the_host_had_already_stays(host, place):
    host.run(["ip", "address", "add", f"{place.vip}/{place.bits}", "dev", "eth0"])
    before = picture(host)

    setup = setup_for(host, "nft", add_vip="eth0")
    lines = host.call(setup.install, [place.service], [place.server])

    assert not any("added to" in line for line in lines)
    host.call(setup.undo)
    assert picture(host) == before


def test_rules_that_somebody_adds_meanwhile_survive(host, variant, place):
    setup = install(host, variant, place)
    somebody = SOMEBODY[place.family]
    for table, chain in (("raw", "PREROUTING"), ("mangle", "INPUT"), ("mangle", "FORWARD")):
        host.run([f"{place.iptables}-{variant}", "-t", table, "-A", chain, "-s", somebody, "-j", "DROP"])

    host.call(setup.undo)

    left = [line for line in rules(host, variant, place) if line.startswith("-")]
    assert sorted(left) == [f"-A {chain} -s {somebody} -j DROP" for chain in ("FORWARD", "INPUT", "PREROUTING")]
    assert not any("LBQ" in line for line in rules(host, variant, place))


def test_a_set_that_a_users_rule_looks_into_stays_and_is_empty(host, variant, place):
    setup = install(host, variant, place)
    host.run([f"{place.iptables}-{variant}", "-A", "INPUT",
              "-m", "set", "--match-set", f"{place.sets}-rip", "src,src", "-j", "DROP"])

    lines = host.call(setup.undo)

    assert f"set {place.sets}-rip is empty but stays: a rule that is not lbq's uses it" in lines
    listed = host.run(["ipset", "save"]).stdout
    assert f"create {place.sets}-rip" in listed and "add " not in listed and f"{place.sets}-vip" not in listed


BIND = """
import time
from lbq.netlink import open_queue
queue = open_queue(7, 64, 65536)
print("ready", flush=True)
time.sleep(60)
"""


def test_empty_tables_stay_while_another_program_has_a_queue(host, place):
    """Deleting a base chain would drop what waits in that program's queue."""
    before = picture(host)
    setup = install(host, "nft", place)
    other = host.popen([sys.executable, "-c", BIND])
    other.wait_for("ready")

    lines = host.call(setup.undo)

    assert "empty tables stay: queue 7 is in use, and removing them would drop its packets" in lines
    assert "mangle {" in picture(host)["ruleset"]
    assert not any(line.startswith("-") for line in rules(host, "nft", place))
    assert picture(host)["sysctls"] == before["sysctls"]


@pytest.mark.parametrize("template", [FAILING, HALF], ids=["refused", "half applied"])
def test_a_failing_iptables_leaves_the_host_untouched(host, variant, place, template):
    add_user_rules(host, variant)
    before = picture(host)
    wrapper = wrap(host, variant, place, template, nth=1, log=host.folder / "calls")
    setup = setup_for(host, variant, add_vip="eth0")
    setup.restore = wrapper

    with pytest.raises(RulesNotApplied, match=f"{place.iptables}-restore refused") as caught:
        host.call(setup.install, [place.service], [place.server])

    assert "\n" not in str(caught.value)
    assert picture(host) == before
    assert not (setup.directory / "undo.json").exists()


def test_when_undo_fails_too_the_record_stays_for_cleanup(host, variant, place):
    before = picture(host)
    setup = setup_for(host, variant)
    setup.restore = wrap(host, variant, place, FAILING, nth=2, log=host.folder / "calls")
    host.call(setup.install, [place.service], [place.server])

    with pytest.raises(RulesNotApplied, match=r"cannot undo everything.*not today"):
        host.call(setup.undo)

    assert picture(host) != before
    host.call(cleanup, setup.directory)
    assert picture(host) == before


def test_undo_says_so_when_nft_has_made_a_table_unreadable(host, place):
    """iptables-nft then lists nothing of that table, which must not be taken for "nothing to remove"."""
    before = picture(host)
    setup = install(host, "nft", place)
    table = "ip6 mangle" if place.family == AF_INET6 else "ip mangle"
    host.run(["nft", f"add chain {table} own; add rule {table} own ct mark set meta mark"])

    with pytest.raises(RulesNotApplied, match="cannot take lbq's rules out of table mangle"):
        host.call(setup.undo)

    assert picture(host)["sysctls"] == before["sysctls"]
    host.run(["nft", f"flush chain {table} own; delete chain {table} own"])
    host.call(cleanup, setup.directory)
    assert picture(host) == before


def test_a_real_server_shared_by_two_services_stays_until_both_let_go(host, place):
    setup = install(host, "nft", place)
    host.call(setup.add_server, *place.server)

    host.call(setup.remove_server, *place.server)
    assert f"add {place.sets}-rip {place.rip},tcp:80" in host.run(["ipset", "save"]).stdout
    host.call(setup.remove_server, *place.server)
    assert f"add {place.sets}-rip {place.rip}," not in host.run(["ipset", "save"]).stdout


def test_a_hundred_services_need_no_more_rules_than_one(host, variant, place):
    setup = install(host, variant, place)
    count = len(rules(host, variant, place))

    for port in range(1000, 1100):
        host.call(setup.add_service, place.service._replace(port=port))
        host.call(setup.add_server, place.service._replace(port=port), number(place.rip), port)

    assert len(rules(host, variant, place)) == count
    assert host.run(["ipset", "save"]).stdout.count(f"add {place.sets}-vip") == 101
    host.call(setup.remove_service, place.service._replace(port=1000))
    assert host.run(["ipset", "save"]).stdout.count(f"add {place.sets}-vip") == 100
