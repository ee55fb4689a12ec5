"""What a user can type wrong: one line, status 2, and the host is as it was.

As root, on a machine where everything would work, so that nothing but the mistake stops it.
"""
from __future__ import annotations

import json

import pytest

VIP = ("--vip", "192.168.10.1:80")
VIP6 = ("--vip", "[2001:db8:10::1]:80")
NAT = ("--mode", "nat")
SERVICE = "192.168.10.1:80"

FROM, TO = ("explain", "--from", "192.168.10.9:4"), ("--to", "192.168.10.1:80")
MISTAKES = [
    # what the doctor looks at
    (("doctor", "--wait", "0"), "--wait 0: say a number of seconds from 0.1 to 60"),
    (("doctor", "--service", "192.168.10.1"), "'192.168.10.1' has no port; write VIP:PORT"),
    # what is to be explained
    (("explain",), "say which packet: --from CIP:PORT --to VIP:PORT, or --pcap FILE"),
    ((*FROM, "--pcap", "x"), "a packet of --pcap is what it is"),
    (("explain", "--pcap", "/no/such"), "cannot read /no/such: No such file or directory"),
    (("explain", "--pcap", "/etc/passwd"), "/etc/passwd is no capture"),
    ((*FROM, "--to", "192.168.10.1"), "'192.168.10.1' has no port; write ADDRESS:PORT"),
    ((*FROM, "--to", "[2001:db8::1]:80"), "are not of one address family"),
    ((*FROM, *TO, "--proto", "icmp"), "--proto icmp: there are tcp, udp, sctp"),
    ((*FROM, *TO, "--flags", "X"), "'X' are no TCP flags; write letters out of SAFRPU"),
    ((*FROM, *TO, "--payload", "70000"), "--payload '70000' is not a number from 0 to 65000"),
    ((*FROM, *TO, "--mark", "-1"), "--mark '-1' is not a number from 0 to 4294967295"),
    ((*FROM, *TO, "--config", "/no/such"), "cannot read /no/such: No such file or directory"),
    # what would be, what is
    (("whatif",), "say which change, in quotes"),
    (("whatif", "--table", "/no/such", "drain a b"), "cannot read /no/such: No such file or directory"),
    (("replay", "/no/such.pcap"), "cannot read /no/such.pcap: No such file or directory"),
    (("replay", "/dev/null"), "/dev/null is empty: neither a capture nor a CSV file of flows"),
    (("replay", "/etc/passwd"), "/etc/passwd:1: unknown column"),
    (("trace", "--count", "0"), "--count '0' is not a number from 1 to"),
    (("trace", "--every", "x"), "--every 'x' is not a number from 1 to"),
    (("lab", "nat", "--exercise", "99"), "there is no exercise 99 for nat; there are 1 to 5"),
    (("lab", "nat", "--exercise", "x"), "--exercise 'x' is not a number"),
    (("lab", "nat", "--check"), "say lbq lab MODE --exercise N"),
    # the mode
    ((*VIP,), "no --mode: say how packets reach the real servers: --mode nat, dr or tun"),
    ((*VIP, "--mode", "natt"), "unknown mode 'natt'; did you mean 'nat'?"),
    ((*VIP, "--mode", "dr", "--real", "192.168.20.1:8080"), "8080 is not the service's port 80"),
    ((*VIP, "--mode", "tun", "--real", "192.168.20.1,tunnel=gue"), "tunnel=gue needs tunnel-port=N"),
    ((*VIP, "--mode", "tun", "--real", "192.168.20.1,tunnel=vxlan"), "unknown tunnel 'vxlan'; there are ipip, gue"),
    ((*VIP, *NAT, "--real", "192.168.20.1,upper=1,lower=2"), "lower=2 is above upper=1"),
    # the service
    ((*VIP, *NAT, "--persistent", "soon"), "--persistent soon: not a number"),
    ((*VIP, *NAT, "--netmask", "255.0.255.0"), "--netmask 255.0.255.0: netmask '255.0.255.0' is not a row of ones"),
    ((*VIP, *NAT, "--ops"), "--ops is for UDP services"),
    ((*VIP, *NAT, "--scheduler-flags", "sh-port"), "scheduler wlc has no flag sh-port"),
    ((*VIP, *NAT, "--scheduler", "no/such.py:Mine"), "there is no file no/such.py"),
    ((*VIP, *NAT, "--sysctl", "sync_ports=1"), "net.ipv4.vs.sync_ports means nothing here: lbq has no sync daemon yet"),
    ((*VIP, *NAT, "--on-delete", "restart"), "unknown --on-delete 'restart'; lbq has keep, end"),
    (("--vip", "fwmark:0", *NAT), "firewall mark '0' is not a number from 1"),
    # the scheduler, the engine
    ((*VIP, *NAT, "--scheduler", "wcl"), "unknown scheduler 'wcl'; did you mean 'wlc'?"),
    ((*VIP, *NAT, "--scheduler", ""), "unknown scheduler ''; lbq has dh, fo"),
    ((*VIP, *NAT, "--engine", "quick"), "unknown engine 'quick'; lbq has fast, reference"),
    ((*VIP, *NAT, "--kernel-profile", "old"), "unknown kernel profile 'old'; lbq has classic, new"),
    # the VIP
    (NAT, "no --vip"),
    (("--vip", "192.168.10.1", *NAT), "'192.168.10.1' has no port; write VIP:PORT"),
    (("--vip", "192.168.10:80", *NAT), "'192.168.10' is not an IPv4 address"),
    (("--vip", "192.168.10.1:0", *NAT), "a service of port 0, every port, needs --persistent"),
    (("--vip", "192.168.10.1:65536", *NAT), "port '65536' is not a number from 1 to 65535"),
    (("--vip", "www.example.com:80", *NAT), "lbq takes addresses, not names"),
    (("--vip", "[2001:db8::1]", *NAT), "'[2001:db8::1]' has no port; write VIP:PORT, such as 192.168.10.1:80 or [20"),
    (("--vip", "2001:db8::1:80", *NAT), "an IPv6 address is written in brackets"),
    (("--vip", "[2001:db8::g]:80", *NAT), "'[2001:db8::g]' is not an IPv6 address"),
    (("--vip", "[fe80::1]:80", *NAT), "a link-local address, which means another machine on each link"),
    (("--vip", "[::ffff:192.168.10.1]:80", *NAT), "an IPv4 address in the clothes of an IPv6 one; write 192.168.10.1"),
    (("--vip", "[ff02::1]:80", *NAT), "not the address of one host"),
    (("--vip", "fwmark:1/5", *NAT), "'fwmark:1/5': after the slash comes 4 or 6"),
    ((*VIP6, *NAT, "--netmask", "255.255.255.0"), "netmask of an IPv6 service '255.255.255.0' is not a number from 1"),
    (("--vip", "224.0.0.18:80", *NAT), "not the address of one host"),
    # real servers
    ((*VIP, *NAT, "--real", "192.168.20.1:0"), "--real 192.168.20.1:0: port '0' is not"),
    ((*VIP, *NAT, "--real", "192.168.20.1:65536"), "port '65536' is not"),
    ((*VIP, *NAT, "--real", "web01"), "lbq takes addresses, not names"),
    ((*VIP, *NAT, "--real", "2001:db8:20::1"), "an IPv6 address is written in brackets"),
    ((*VIP, *NAT, "--real", "[2001:db8:20::1]"), "[2001:db8:20::1]:80 is not of the service's IP version, and only"),
    ((*VIP6, *NAT, "--real", "192.168.20.1"), "192.168.20.1:80 is not of the service's IP version, and only tun"),
    ((*VIP6, *NAT, "--real", "[2001:db8:10:0::1]"), "is the virtual service tcp:[2001:db8:10::1]:80 itself"),
    ((*VIP6, *NAT, "--real", "[2001:db8::1]", "--real", "[2001:DB8::1]:80"), "[2001:db8::1]:80 is there twice"),
    ((*VIP, *NAT, "--real", "192.168.20.1,weight=-1"), "weight '-1' is not a number from 0"),
    ((*VIP, *NAT, "--real", "192.168.20.1,weight=2147483648"), "weight '2147483648' is not a number from 0"),
    ((*VIP, *NAT, "--real", "192.168.20.1,weight=big"), "weight 'big' is not a number from 0"),
    ((*VIP, *NAT, "--real", "192.168.20.1,wieght=1"), "did you mean 'weight'?"),
    ((*VIP, *NAT, "--real", "192.168.10.1"), "is the virtual service tcp:192.168.10.1:80 itself"),
    ((*VIP, *NAT, "--real", "192.168.10.1:80,weight=2"), "is the virtual service tcp:192.168.10.1:80 itself"),
    ((*VIP, *NAT, "--real", "192.168.20.1", "--real", "192.168.20.1:80"), "192.168.20.1:80 is there twice"),
    # numbers, leftovers
    ((*VIP, *NAT, "--queue", "65536"), "--queue 65536: not a number from 0 to 65535"),
    ((*VIP, *NAT, "--max-connections", "0"), "--max-connections 0: not a number from 1"),
    ((*VIP, *NAT, "--add-vip", "eth7"), "eth7"),
    ((*VIP, *NAT, "extra"), "unrecognized arguments: extra"),
    ((*VIP, *NAT, "--bogus=1"), "unrecognized arguments: --bogus=1"),
    ((), "nothing to do"),
    (("lits",), "unknown command 'lits'; did you mean 'list'?"),
    # commands
    (("list", "extra"), "unrecognized arguments: extra"),
    (("add", "servre", SERVICE, "192.168.20.1"), "cannot add 'servre'; did you mean 'server'?"),
    (("add", "server", SERVICE), "the following arguments are required: SERVER"),
    (("add", "server", "192.168.10.1", "192.168.20.1"), "has no port"),
    (("set", "server", SERVICE, "192.168.20.1"), "says nothing to set; write 192.168.20.1,weight=N"),
    (("del", "server", SERVICE, "192.168.20.1,weight=1"), "deleting takes no settings"),
    (("serve", "--vip", "192.168.10.1:80"), "unrecognized arguments: --vip 192.168.10.1:80"),
    (("serve", "--queue", "65536"), "--queue 65536: not a number from 0 to 65535"),
    (("list", "--tunnels", "--thresholds"), "not allowed with argument"),
    (("conns", "--state", "establshed"), "did you mean 'established'?"),
    (("conns", "--service", "192.168.10.1"), "has no port"),
    (("set", "service", SERVICE, "--netmask", "255.0.255.0"), "not a row of ones followed by zeros"),
    (("lab", "tnu"), "unknown mode 'tnu'; did you mean 'tun'?"),
    (("bench", "--columns", "lbq,ngninx"), "unknown column 'ngninx'; did you mean 'nginx'?"),
    (("add", "service", "192.168.10.1:80", "--mode", "drr"), "unknown mode 'drr'"),
    (("sysctl", "conn_reuse_mod=1"), "no sysctl net.ipv4.vs.conn_reuse_mod"),
    (("sysctl", "pmtu_disc=0", "sloppy_tcp=yes"), "net.ipv4.vs.sloppy_tcp=yes: not a number from 0 to"),
    (("sysctl", "net.ipv4.vs.pmtu_dics"), "no sysctl net.ipv4.vs.pmtu_dics; did you mean 'pmtu_disc'?"),
    (("sysctl", "drop_entry=4"), "net.ipv4.vs.drop_entry=4: not a number from 0 to 3"),
    (("timeouts", "--udp", "-1"), "udp"),
    (("drain", SERVICE, "192.168.20.1", "--wait", "long"), "--wait 'long' is not a number"),
    (("zero", "nonsense"), "'nonsense' has no port"),
    # better than the kernel
    ((*VIP, *NAT, "--on-quiesce", "leave"), "unknown --on-quiesce 'leave'; lbq has keep, move"),
    ((*VIP, *NAT, "--idle", "ten"), "--idle ten: not a number from 0"),
    ((*VIP, *NAT, "--ops-replies"), "--ops-replies is about the answers to --ops datagrams"),
    (("--vip", "fwmark:3", *NAT, "--ops", "--ops-replies"), "a firewall mark has none"),
    (("serve", "--on-delete", "end"), "unrecognized arguments: --on-delete end"),
    (("add", "service", SERVICE, "--on-delete", "drop"), "unknown --on-delete 'drop'; lbq has keep, end"),
    (("drain", SERVICE, "192.168.20.1", "--end-after", "-1"), "--end-after '-1' is not a number"),
    (("end",), "say which connections end"),
    (("end", "--client", "www.example.com"), "lbq takes addresses, not names"),
    (("end", "--state", "ESTAB"), "unknown state 'ESTAB'"),
    (("realserver", "nat", "--vip", "192.168.10.1"), "a real server is prepared for dr or tun"),
    (("realserver", "dr"), "no --vip"),
    (("realserver", "dr", "--undo", "--vip", "192.168.10.1"), "--undo puts everything back, so it takes no --vip"),
    ((*VIP, *NAT, "--scheduler", "no/such.py"), "it does not say which class; write no/such.py:ClassName"),
    (("realserver", "dr", "--vip", "[2001:db8::1]:80"), "'[2001:db8::1]:80' is not an IPv6 address"),
    (("decap", "--vip", "192.168.10.1", "--over", "6"), "unknown --over '6'; tunnels come over ipv4 or ipv6"),
    (("decap", "--vip", "fe80::99", "--type", "ipip6"), "unknown --type 'ipip6'"),
    (("realserver", "dr", "--vip", "fe80::99"), "link-local"),
    (("decap", "--vip", "192.168.10.99"), "192.168.10.99 is not an address of this host"),
    (("decap", "--vip", "2001:db8::99"), "2001:db8::99 is not an address of this host"),
]


def _title(value) -> str:
    return value[:40] if isinstance(value, str) else " ".join(value)


@pytest.mark.parametrize(("words", "saying"), MISTAKES, ids=_title)
def test_a_mistake_is_one_line_and_changes_nothing(shared_machine, words, saying):
    shared_machine.assert_refuses(*words, saying=saying)


@pytest.mark.parametrize("words", [
    ("list",), ("conns",), ("stats",), ("stop",), ("sysctl",), ("timeouts",), ("zero",), ("clear",),
    ("add", "service", SERVICE), ("del", "service", SERVICE), ("drain", SERVICE, "192.168.20.1"),
    ("end", "--client", "192.168.10.9"), ("whatif", "drain a b"), ("top", "--once"), ("top", "--json"), ("trace",),
    ("add", "server", SERVICE, "192.168.20.1"),
    ("set", "server", SERVICE, "192.168.20.1,weight=2"), ("del", "server", SERVICE, "192.168.20.1"),
], ids=" ".join)
def test_without_a_director_a_command_says_how_to_start_one(shared_machine, words):
    shared_machine.assert_refuses(*words, saying="no director runs in this network namespace; start one with "
                                                 "lbq --vip")


def test_a_wrong_profile_in_the_environment_is_named(shared_machine):
    shared_machine.assert_refuses(*VIP, *NAT, env={"LBQ_KERNEL_PROFILE": "6.1"},
                                  saying="unknown kernel profile '6.1'")


def test_the_json_log_tells_a_mistake_in_json(shared_machine):
    done = shared_machine.lbq(*VIP, "--mode", "natt", "--json-log")

    assert done.returncode == 2
    assert json.loads(done.stderr)["message"].startswith("unknown mode 'natt'")


def test_debugging_shows_where_a_mistake_was_found(shared_machine):
    done = shared_machine.lbq(*VIP, "--mode", "natt", env={"LBQ_DEBUG": "1"})

    assert done.returncode == 2
    assert "Traceback" in done.stderr and done.stderr.endswith("lbq has nat, dr, tun\n")
