"""What the recorded sessions do not show of the listings: contradictory order, long names, large numbers."""
from __future__ import annotations

import itertools

import pytest

from lbq.show import ipvs
from tests.helpers import transcripts

ZERO = dict.fromkeys(ipvs.TRAFFIC, 0)


def row(address: str, protocol: str = "tcp", port: int = 80, fwmark: int = 0) -> dict:
    return {"protocol": protocol, "address": address, "port": port, "fwmark": fwmark, "scheduler": "rr", "flags": [],
            "timeout": 0, "netmask": "255.255.255.255", "servers": [], "shown": ZERO}


def server(address: str, port: int = 80) -> dict:
    return {"address": address, "port": port, "mode": "nat", "weight": 1, "active": 0, "inactive": 0, "shown": ZERO}


# Recorded from the real tool: addresses that are 2^31 apart come the wrong way round.
SORTED = ["192.168.0.1", "250.0.0.1", "1.0.0.1", "10.0.0.1", "128.0.0.1"]
SORTED_SERVERS = [("5.5.5.5", 79), ("5.5.5.5", 80), ("5.5.5.5", 443), ("5.5.5.5", 8080), ("10.0.0.1", 80),
                  ("10.0.0.2", 80), ("128.0.0.1", 80), ("250.0.0.1", 80), ("1.0.0.1", 80)]


def test_what_compares_the_wrong_way_round_in_the_real_tool_does_here():
    assert ipvs.compare_services(row("192.168.0.1"), row("10.0.0.1")) < 0
    assert ipvs.compare_services(row("10.0.0.1"), row("128.0.0.1")) < 0
    assert ipvs.compare_services(row("ffff::1"), row("1::1")) < 0
    assert ipvs.compare_services(row("0.0.0.0", fwmark=2**32 - 1), row("0.0.0.0", fwmark=1)) < 0
    assert ipvs.compare_services(row("0.0.0.0", fwmark=2**32 - 1), row("10.0.0.1")) < 0


def test_the_recorded_order_is_one_that_sorting_gives():
    """Which one depends on the order before, for the comparison contradicts itself."""
    services = [row(address, protocol) for protocol in ("tcp", "udp") for address in SORTED]
    orders = set()
    for before in itertools.permutations(services[:5]):
        orders.add(tuple(each["address"] for each in ipvs.sort([*before, *services[5:]])[:5]))

    assert tuple(SORTED) in orders and len(orders) > 1
    assert [(each["address"], each["port"]) for each in ipvs.merge_sort(
        [server(*each) for each in SORTED_SERVERS], ipvs.compare_servers)] == SORTED_SERVERS


def test_services_come_by_mark_family_protocol_address_and_port():
    rows = [row("0.0.0.0", fwmark=3), row("::", fwmark=1), row("2001:db8::1"), row("10.0.0.1", "sctp"),
            row("10.0.0.1", "udp"), row("10.0.0.2"), row("10.0.0.1", port=443), row("10.0.0.1")]

    assert ipvs.sort(rows) == [*rows[:2:-1], rows[2], rows[1], rows[0]]


def test_names_are_cut_but_those_of_ipv6_are_not(monkeypatch):
    """The first two are recorded."""
    def long_name(address, port, protocol):
        return ("averyveryverylonghostname.subdomain:8080" if address == "10.9.9.1"
                else "another-very-long-hostname.example:8080" if address == "10.9.9.2" else f"[{'x' * 50}]:80")

    service = {**row("10.9.9.1", port=8080), "servers": [server("10.9.9.2", 8080), server("2001:db8::1")]}
    assert list(ipvs.lines(service, "plain", long_name)) == [
        "TCP  averyveryverylonghostname.su rr",
        "  -> another-very-long-hostname.e Masq    1      0          0         ",
        f"  -> [{'x' * 50}]:80 Masq    1      0          0         "]


def test_a_name_has_at_most_59_characters(monkeypatch):
    monkeypatch.setattr(ipvs.socket, "gethostbyaddr", lambda address: ("h" * 80, [], []))

    assert ipvs.resolved("10.0.0.1", 80, "tcp") == "h" * 59


@pytest.mark.parametrize(("number", "short", "exact"), [
    (0, "        0", "        0"), (99_999_999, " 99999999", " 99999999"), (100_000_000, "  100000K", " 100000000"),
    (134_686_887, "  134686K", " 134686887"), (999_999_999, "  999999K", " 999999999"),
    (10**9, "    1000M", " 1000000000"), (1_121_983_348, "    1121M", " 1121983348"),
    (10**11 - 1, "   99999M", " 99999999999"), (10**11, "     100G", " 100000000000"),
    (10**14 - 1, "   99999G", " 99999999999999"), (10**14, "     100T", " 100000000000000"),
])
def test_large_numbers_are_cut_or_exact(number, short, exact):
    service = {**row("10.0.0.1"), "shown": {**ZERO, "bytes_out": number}}

    assert next(ipvs.lines(service, "stats")) == f"{'TCP  10.0.0.1:80':<33}" + "        0" * 4 + short
    assert next(ipvs.lines(service, "stats", exact=True)).endswith("        0" * 4 + exact)


def test_rates_of_servers_are_never_cut_but_for_bytes():
    rates = dict.fromkeys(ipvs.TRAFFIC, 10**9)
    service = {**row("10.0.0.1"), "rates": rates, "servers": [{**server("10.0.0.2"), "rates": rates}]}

    assert [line[33:] for line in ipvs.lines(service, "rate")] == [
        "    1000M" * 5, " 1000000000" * 3 + "    1000M" * 2]


@pytest.mark.parametrize("line", ["-L -n --nosort", "-L -n -t 192.168.0.100:80", "-S -n"])
def test_nosort_leaves_servers_newest_first(director, line):
    for words in ("-A -t 192.168.0.100:80", "-a -t 192.168.0.100:80 -r 10.0.0.1 -m",
                  "-a -t 192.168.0.100:80 -r 10.0.0.2 -m"):
        transcripts.run(director, ["ipvsadm", *words.split()])
    servers = [word for word in transcripts.run(director, ["ipvsadm", *line.split()])[0].split() if
               word.startswith("10.")]

    assert servers == (["10.0.0.2:80", "10.0.0.1:80"] if "nosort" in line else ["10.0.0.1:80", "10.0.0.2:80"])
