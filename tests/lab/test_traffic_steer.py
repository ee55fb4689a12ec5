"""What the kernel rewrites when lbq tells it a number: the rules in nf_tables, checksums, what is seen whole, undoing.

That steered services balance as all others do is shown by every test that takes ``engine``: it comes here, too.
"""
from __future__ import annotations

import json
import signal
import socket
import sys

import pytest

from lbq.host.setup import cleanup
from lbq.host.steering import Steering
from lbq.lab.routed import RoutedLab
from lbq.model import AF_INET, AF_INET6
from tests.helpers.endpoints import digest_of
from tests.helpers.namespaces import enable_ipv6, lone_host, picture, setup_for
from tests.helpers.routed import BULK, with_servers
from tests.helpers.routed import start as start_routed
from tests.helpers.topology import (
    FULL,
    curl,
    features,
    listing,
    new_lab,
    start_endpoint,
    start_endpoints,
    start_nginx,
    tell,
    udp_socket,
    upload,
)

SIZE = (256 if FULL else 32) << 20
SO_NO_CHECK = 11                        # <asm-generic/socket.h>
STEER = ("--mode", "nat", "--scheduler", "rr", "--data-path", "steer")
IP_OPTIONS = bytes.fromhex("01" * 40)   # forty times nothing


def counter(lab, name):
    """Return one of the director's counters."""
    return tell(lab, "stats")["counters"][name]


def test_rules_and_maps_are_the_same_number_however_many_servers_there_are(lab):
    start_nginx(lab, port=8080)
    lab.start_director(*STEER, *(word for server in lab.servers for word in ("--real", f"{server.address}:8080")))
    before = json.loads(lab.director.run(["nft", "-j", "list", "table", "ip", "lbq-steer"]).stdout)["nftables"]
    for number in range(100):
        tell(lab, "add_server", service=f"{lab.vip}:80", server=f"192.168.20.{100 + number},weight=0")
    after = json.loads(lab.director.run(["nft", "-j", "list", "table", "ip", "lbq-steer"]).stdout)["nftables"]

    assert [next(iter(entry)) for entry in after] == [next(iter(entry)) for entry in before]
    assert sum("chain" in entry for entry in after) == 4 and sum("map" in entry for entry in after) == 5
    elements = {entry["map"]["name"]: len(entry["map"].get("elem", [])) for entry in after if "map" in entry}
    assert elements == {"rip": 102, "rport": 102, "vip": 102, "vport": 102, "direct": 0}
    assert [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(4)] == ["web02", "web01"] * 2
    assert counter(lab, "passed_whole") == 0


@pytest.mark.parametrize("what", ["tx off", "tso off gso off", "gro off"])
def test_it_does_not_matter_who_makes_segments_and_checksums(lab, what):
    start_endpoints(lab, "bulk")
    lab.start_director(*STEER, "--real", f"{lab.servers[0].address}:80")

    with features(lab.client, what), features(lab.servers[0], what):
        assert upload(lab.client, f"http://{lab.vip}/", SIZE // 8) == digest_of(SIZE // 8)


def test_a_long_datagram_without_checksum_stays_without(lab):
    """Kernel IPVS gives it one, and lbq does; the rules of nf_tables do not.  The first one lbq sees whole."""
    start_endpoints(lab, "echo", 5300)
    reals = [word for server in lab.servers for word in ("--real", f"{server.address}:5300")]
    lab.start_director("--vip", f"{lab.vip}:5300", "--udp", *STEER, *reals)

    with udp_socket(lab.client, lab.vip, 5300) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        for length in (11, 200, 200, 11):
            sock.send(b"x" * length)
            assert sock.recv(300) == b"web02 " + b"x" * length


def test_headers_longer_than_what_is_copied_are_seen_whole(lab):
    """60 bytes of IP header and a TCP header with timestamps are within 128; those of IPv6 need not be."""
    start_nginx(lab)
    lab.start_director(*STEER, "--real", f"{lab.servers[0].address}:80")

    with lab.client.inside(), socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, IP_OPTIONS)
        sock.settimeout(10)
        sock.connect((lab.vip, 80))
        sock.send(b"GET / HTTP/1.0\r\nx: " + b"x" * 200 + b"\r\n\r\n")
        assert b"web01" in sock.recv(65536)
    assert counter(lab, "passed_whole") == 0


def test_a_real_server_of_a_steered_service_and_of_another(lab):
    """Its replies are seen whole, whichever service they are of."""
    start_nginx(lab)
    lab.start_director(*STEER, "--real", f"{lab.servers[0].address}:80")
    tell(lab, "add_service", service=f"{lab.vip}:81", scheduler="rr")
    tell(lab, "add_server", service=f"{lab.vip}:81", server=f"{lab.servers[0].address}:80")

    assert curl(lab.client, f"http://{lab.vip}/").strip() == "web01"
    assert curl(lab.client, f"http://{lab.vip}:81/").strip() == "web01"
    tell(lab, "delete_service", service=f"{lab.vip}:80")
    assert curl(lab.client, f"http://{lab.vip}:81/").strip() == "web01"


def test_the_users_bits_of_the_mark_stay(lab):
    start_nginx(lab)
    lab.director.run(["iptables", "-t", "mangle", "-A", "PREROUTING", "-s", lab.client.address, "-j", "MARK",
                      "--set-mark", "0x10000005"])
    lab.director.run(["iptables", "-t", "mangle", "-A", "FORWARD", "-m", "mark", "--mark", "0x10000005"])
    lab.start_director(*STEER, "--mark-mask", "0xff00", "--real", f"{lab.servers[0].address}:80")

    assert curl(lab.client, f"http://{lab.vip}/").strip() == "web01"
    rule = lab.director.run(["iptables", "-t", "mangle", "-vnxL", "FORWARD"]).stdout.splitlines()[2]
    assert int(rule.split()[0]) >= 4


def test_a_server_changes_from_nat_to_dr_and_back(lab):
    start_nginx(lab)
    web01 = lab.servers[0]
    lab.start_director(*STEER, "--real", f"{web01.address}:80")
    for mode, in_dr in (("nat", 0), ("dr", 1), ("nat", 0)):
        tell(lab, "set_server", service=f"{lab.vip}:80", server=f"{web01.address},mode={mode}")
        assert lab.director.run(["nft", "list", "map", "ip", "lbq-steer", "direct"]).stdout.count("elements") == in_dr
        assert listing(lab)["servers"][0]["mode"] == mode
    assert curl(lab.client, f"http://{lab.vip}/").strip() == "web01"


def test_direct_routing_is_sent_by_the_kernel_to_the_servers_machine():
    with new_lab(RoutedLab, "dr") as network:
        lab = with_servers(network)
        start_routed(lab, "fast", BULK, "--data-path", "steer")

        assert upload(lab.client, f"http://{lab.vip}:{BULK}/", SIZE) == digest_of(SIZE)
        counters = tell(lab, "stats")["counters"]
        assert counters["forwarded"] > 100 and counters["passed_whole"] == 0
        chain = lab.director.run(["nft", "list", "chain", "ip", "lbq-steer", "prerouting"]).stdout
        assert "dup to" in chain


def test_auto_says_what_it_chose_and_why(lab):
    director = lab.start_director("--mode", "nat", "--data-path", "auto", "--real", "192.168.20.1")
    for service in (f"udp:{lab.vip}:53", f"sctp:{lab.vip}:80", f"{lab.vip}:21"):
        tell(lab, "add_service", service=service, data_path="auto")
    log = director.log.read_text()

    assert "data path of tcp:192.168.10.1:80: steer" in log
    assert "data path of udp:192.168.10.1:53: steer" in log
    assert "data path of sctp:192.168.10.1:80: rewrite, because it cannot be steered: the kernel does not" in log
    assert "data path of tcp:192.168.10.1:21: rewrite" in log
    rows = tell(lab, "list")
    assert {(row["protocol"], row["port"]): row["data_path"] for row in rows} == {
        ("tcp", 80): "steer", ("udp", 53): "steer", ("sctp", 80): "rewrite", ("tcp", 21): "rewrite"}


def test_the_second_queue_may_be_somebody_elses(lab):
    """Then nothing is changed, and what cannot be had is said."""
    start_endpoint(lab.client, "echo", 9)
    before = picture(lab.director)
    other = lab.director.popen([sys.executable, "-P", "-c", OTHER_QUEUE.format(number=6)])
    other.wait_for("bound")
    done = lab.lbq("--vip", f"{lab.vip}:80", "--queue", "5", *STEER, "--real", "192.168.20.1", check=False)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot bind NFQUEUE 6: another program holds it" in done.stderr
    other.stop()
    assert picture(lab.director) == before


OTHER_QUEUE = """
from lbq.netlink import open_queue
held = open_queue({number}, 100, 1 << 16)
print("bound", flush=True)
import time
time.sleep(60)
"""


@pytest.mark.parametrize("ending", ["stop", "killed"])
def test_everything_is_as_it_was_after_the_end(lab, ending):
    enable_ipv6(lab.director)
    before = picture(lab.director)
    director = lab.start_director(*STEER, "--real", "192.168.20.1")
    tell(lab, "add_service", service="[2001:db8::1]:80", data_path="steer")
    assert picture(lab.director) != before
    if ending == "stop":
        director.stop()
    else:
        director.send_signal(signal.SIGKILL)
        director.wait(10)
        assert "lbq-steer" in lab.director.run(["nft", "list", "tables"]).stdout
        assert "ip lbq-steer removed" in lab.lbq("cleanup").stdout
    assert picture(lab.director) == before


def test_a_killed_directors_numbers_are_not_the_next_ones(lab):
    start_nginx(lab)
    reals = [f"{server.address}:80" for server in lab.servers]
    director = lab.start_director(*STEER, "--real", reals[0], "--real", reals[1])
    assert curl(lab.client, f"http://{lab.vip}/").strip() == "web02"
    director.send_signal(signal.SIGKILL)
    director.wait(10)
    lab.start_director(*STEER, "--real", reals[1])

    assert [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(3)] == ["web02"] * 3
    assert lab.director.run(["nft", "list", "map", "ip", "lbq-steer", "rip"]).stdout.count(" : 192") == 1


# ---- The table alone ----------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path):
    """Return one machine."""
    with lone_host(tmp_path) as host:
        yield host


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
def test_a_probe_leaves_nothing_and_finds_nothing_missing(host, family):
    before = picture(host)
    assert host.call(Steering(family).probe) == ""
    assert picture(host) == before


def test_while_another_program_has_a_queue_the_chains_stay_without_rules(host):
    """To remove them would drop what waits in its queue."""
    before = picture(host)
    other = host.popen([sys.executable, "-P", "-c", OTHER_QUEUE.format(number=6)])
    other.wait_for("bound")
    steering = Steering(AF_INET)
    host.call(steering.put_in)
    with host.inside():
        setup = setup_for(host, "nft")
        lines = cleanup(setup.directory)
    assert any("ip lbq-steer is empty but stays: queue 6 is in use" in line for line in lines), lines
    assert "daddr" not in host.run(["nft", "list", "ruleset"]).stdout
    other.stop()
    with host.inside():
        cleanup(setup.directory)
    assert picture(host) == before
