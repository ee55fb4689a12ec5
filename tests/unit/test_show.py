"""Tables an LVS person can read without looking up a column."""
from __future__ import annotations

import json

import pytest

from lbq.show import table

STATS = {"conns": 8, "packets_in": 38, "packets_out": 35, "bytes_in": 2144, "bytes_out": 6993}
ZERO = dict.fromkeys(STATS, 0)
PLAIN = {"fwmark": 0, "family": "inet", "flags": [], "timeout": 0, "netmask": "255.255.255.255"}
SERVICES = [
    {"protocol": "tcp", "address": "192.168.0.100", "port": 80, "scheduler": "rr", "stats": STATS, **PLAIN,
     "servers": [
        {"address": "10.0.0.11", "port": 80, "mode": "nat", "weight": 1, "active": 0, "inactive": 12,
         "stats": STATS},
        {"address": "10.0.0.12", "port": 8080, "mode": "nat", "weight": 65535, "active": 4, "inactive": 0,
         "stats": ZERO}]},
    {"protocol": "udp", "address": "192.168.0.100", "port": 53, "scheduler": "wlc", "stats": ZERO, **PLAIN,
     "servers": []},
]
MARKED = {"protocol": "tcp", "family": "inet", "address": "0.0.0.0", "port": 0, "fwmark": 7, "scheduler": "sh",
          "stats": ZERO, "flags": ["persistent", "sched2"], "timeout": 300, "netmask": "255.255.255.0", "servers": [
              {"address": "10.0.0.11", "port": 0, "mode": "dr", "weight": 1, "active": 0, "inactive": 0,
               "stats": ZERO}]}


def test_a_mark_persistence_and_flags_are_shown():
    assert list(table.services([MARKED]))[2:] == [
        "FWM  7 sh (sh-port) persistent 300 mask 255.255.255.0",
        "  -> 10.0.0.11:0                  Route   1      0          0"]


def test_what_only_lbq_can_do_is_shown_too():
    own = {**MARKED, "flags": ["ops", "end-deleted", "move-quiesced", "ops-replies"], "idle": 30}

    assert list(table.services([own]))[2] == "FWM  7 sh ops end-deleted move-quiesced ops-replies idle 30"


TUNNELLED = {**MARKED, "servers": [
    {**MARKED["servers"][0], "port": 80, "mode": mode, "tunnel": tunnel, "tunnel_port": port, "tunnel_flags": flags,
     "upper": 100, "lower": 20, "persistent": 3}
    for mode, tunnel, port, flags in (("tun", "gue", 99, "nocsum"), ("tun", "gre", 0, "csum"),
                                      ("tun", "ipip", 0, "nocsum"), ("nat", "ipip", 0, "nocsum"))]}


def test_tunnels_are_listed_as_ipvsadm_does():
    """The first and the last are rows of `ipvsadm -L -n --tun-info`, recorded on a real kernel."""
    assert list(table.tunnels([TUNNELLED]))[3:] == [
        "  -> 10.0.0.11:80                 Tunnel  gue:99:-c     1      0          0",
        "  -> 10.0.0.11:80                 Tunnel  gre:+c        1      0          0",
        "  -> 10.0.0.11:80                 Tunnel  ipip          1      0          0",
        "  -> 10.0.0.11:80                 Masq    n/a           1      0          0"]


def test_thresholds_and_bound_clients_have_their_own_tables():
    assert list(table.thresholds([TUNNELLED]))[3] == (
        "  -> 10.0.0.11:80                 100        20         0          0")
    full = {**TUNNELLED, "servers": [TUNNELLED["servers"][0] | {"overloaded": True}]}
    assert list(table.thresholds([full]))[3] == (
        "  -> 10.0.0.11:80                 100        20         0          0  full")
    assert list(table.persistent([TUNNELLED]))[3] == (
        "  -> 10.0.0.11:80                 1         3           0          0")


def test_rates_are_those_of_a_second():
    row = SERVICES[1] | {"rates": ZERO | {"conns": 5, "bytes_in": 134_686_887}}

    assert list(table.rates({"services": [row]}))[2].split() == [
        "UDP", "192.168.0.100:53", "5", "0", "0", "134686K", "0"]


def test_services_are_listed_as_ipvsadm_does():
    """The rows of `ipvsadm -L -n`, recorded on a real kernel, without its blanks at the end of a line."""
    assert list(table.services(SERVICES)) == [
        "Prot LocalAddress:Port Scheduler Flags",
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
        "TCP  192.168.0.100:80 rr",
        "  -> 10.0.0.11:80                 Masq    1      0          12",
        "  -> 10.0.0.12:8080               Masq    65535  4          0",
        "UDP  192.168.0.100:53 wlc",
    ]


PLAIN6 = PLAIN | {"family": "inet6", "netmask": "128", "stats": ZERO}
IDLE = {"weight": 1, "active": 0, "inactive": 0, "stats": ZERO, "upper": 0, "lower": 0, "persistent": 0}
SERVICES6 = [
    {"protocol": "tcp", "address": "2001:db8::100", "port": 80, "scheduler": "rr", **PLAIN6, "servers": [
        {"address": "10.0.0.11", "port": 80, "mode": "tun", **IDLE},
        {"address": "2001:db8:1::11", "port": 80, "mode": "nat", **IDLE},
        {"address": "2001:db8:1:2222:3333:4444:5555:6666", "port": 8080, "mode": "nat", **IDLE, "weight": 5}]},
    {"protocol": "udp", "address": "2001:db8::100", "port": 53, "scheduler": "wrr", **PLAIN6, "flags": ["persistent"],
     "timeout": 120, "netmask": "56", "servers": [{"address": "2001:db8:1::11", "port": 53, "mode": "dr", **IDLE}]},
    {"protocol": "tcp", "address": "::", "port": 0, "scheduler": "rr", **PLAIN6, "fwmark": 2, "flags": ["persistent"],
     "timeout": 600, "netmask": "64", "servers": []},
]


def test_services_of_ipv6_are_listed_as_ipvsadm_does():
    """Rows of `ipvsadm -L -n`, `--thresholds`, `--persistent-conn` and `--stats`, recorded on a real kernel."""
    assert list(table.services(SERVICES6))[2:] == [
        "TCP  [2001:db8::100]:80 rr",
        "  -> 10.0.0.11:80                 Tunnel  1      0          0",
        "  -> [2001:db8:1::11]:80          Masq    1      0          0",
        "  -> [2001:db8:1:2222:3333:4444:5555:6666]:8080 Masq    5      0          0",
        "UDP  [2001:db8::100]:53 wrr persistent 120 mask 56",
        "  -> [2001:db8:1::11]:53          Route   1      0          0",
        "FWM  2 IPv6 rr persistent 600 mask 64",
    ]
    assert list(table.thresholds(SERVICES6))[4:6] == [
        "  -> [2001:db8:1::11]:80          0          0          0          0",
        "  -> [2001:db8:1:2222:3333:4444:5555:6666]:8080 0          0          0          0"]
    lines = list(table.statistics({"services": SERVICES6, "counters": counters(), "queue": None}))
    assert lines[2:6] == [
        "TCP  [2001:db8::100]:80                  0        0        0        0        0",
        "  -> 10.0.0.11:80                        0        0        0        0        0",
        "  -> [2001:db8:1::11]:80                 0        0        0        0        0",
        "  -> [2001:db8:1:2222:3333:4444:5555:6666]:8080        0        0        0        0        0"]


def test_connections_are_listed_as_ipvsadm_does():
    """Rows of `ipvsadm -L -n -c`, recorded on a real kernel."""
    rows = [
        {"protocol": "udp", "caddr": "192.168.0.2", "cport": 41010, "vaddr": "192.168.0.100", "vport": 5060,
         "daddr": "10.0.0.11", "dport": 5060, "state": "UDP", "expires_seconds": 299},
        {"protocol": "tcp", "caddr": "192.168.0.2", "cport": 40003, "vaddr": "192.168.0.100", "vport": 80,
         "daddr": "10.0.0.11", "dport": 80, "state": "TIME_WAIT", "expires_seconds": 118},
        {"protocol": "tcp", "caddr": "192.168.100.200", "cport": 40040,
         "vaddr": "192.168.0.100", "vport": 8001,
         "daddr": "10.0.0.12", "dport": 8001, "state": "ESTABLISHED", "expires_seconds": 100 * 60},
    ]

    assert list(table.connections(rows)) == [
        "pro expire state       source             virtual            destination",
        "UDP 04:59  UDP         192.168.0.2:41010  192.168.0.100:5060 10.0.0.11:5060",
        "TCP 01:58  TIME_WAIT   192.168.0.2:40003  192.168.0.100:80   10.0.0.11:80",
        "TCP 100:00 ESTABLISHED 192.168.100.200:40040 192.168.0.100:8001 10.0.0.12:8001",
    ]


def test_connections_of_ipv6_are_listed_as_ipvsadm_does():
    """A row of `ipvsadm -L -n -c`, recorded on a real kernel (there with names)."""
    row = {"protocol": "tcp", "caddr": "2001:db8::2", "cport": 42000, "vaddr": "2001:db8::100", "vport": 80,
           "daddr": "2001:db8:1::12", "dport": 8080, "state": "TIME_WAIT", "expires_seconds": 119}
    short = {**row, "caddr": "::2", "vaddr": "::100", "daddr": "10.0.0.1"}

    assert list(table.connections([row, short]))[1:] == [
        "TCP 01:59  TIME_WAIT   [2001:db8::2]:42000 [2001:db8::100]:80 [2001:db8:1::12]:8080",
        "TCP 01:59  TIME_WAIT   [::2]:42000        [::100]:80         10.0.0.1:8080"]


def counters(**happened) -> dict:
    return {"packets": 73, "rewritten": 70, "icmp_sent": 0, "connections": 2, "connections_max": 1024,
            "dropped_no_server": 0, "passed_no_connection": 0} | happened


def test_statistics_show_traffic_as_ipvsadm_does():
    """Rows of `ipvsadm -L -n --stats`, recorded on a real kernel."""
    lines = list(table.statistics({"services": SERVICES[:1], "counters": counters(), "queue": None}))

    assert lines[:4] == [
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
        "  -> RemoteAddress:Port",
        "TCP  192.168.0.100:80                    8       38       35     2144     6993",
        "  -> 10.0.0.11:80                        8       38       35     2144     6993",
    ]


def test_statistics_name_what_was_lost_in_words_and_by_counter():
    text = "\n".join(table.statistics({
        "services": [], "counters": counters(dropped_no_server=4, passed_no_connection=2),
        "queue": {"waiting": 1, "queue_dropped": 5, "user_dropped": 0}}))

    assert "4  lost: no real server can take the connection (dropped_no_server)" in text
    assert "5  lost: the kernel's queue was full (queue_dropped)" in text
    assert "2  passed untouched: replies of no known connection (passed_no_connection)" in text
    assert "1  waiting in the kernel's queue" in text
    assert "user_dropped" not in text and "nothing was lost" not in text


def test_statistics_say_when_nothing_was_lost():
    stats = {"services": [], "counters": counters(), "queue": None}

    assert "nothing was lost" in list(table.statistics(stats))


@pytest.mark.parametrize(("number", "shown"), [
    (99_999_999, "99999999"), (134_686_887, "134686K"), (1_121_983_348, "1121M"), (10**12, "1000G"),
    (10**15, "1000T"),
])
def test_large_numbers_are_shortened_as_ipvsadm_does(number, shown):
    row = SERVICES[1] | {"stats": ZERO | {"bytes_in": number}}
    line = list(table.statistics({"services": [row], "counters": counters(), "queue": None}))[2]

    assert line.split()[5] == shown


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": 1}, {"b": "é\n"}], {"a": [1]}])
def test_json_is_one_document_with_a_row_a_line(rows):
    lines = list(table.json_lines(rows if isinstance(rows, dict) else iter(rows)))

    assert json.loads("\n".join(lines)) == rows
    assert len(lines) == (1 if isinstance(rows, dict) else max(len(rows) + 1, 1))


def test_a_listing_streams():
    """A million connections must not be collected before the first is shown."""
    def rows():
        yield {"a": 1}
        raise AssertionError("asked for the second row before the first was printed")

    assert next(table.json_lines(rows())) == '[{"a": 1}'
