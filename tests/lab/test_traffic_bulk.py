"""Bulk TCP through real NFQUEUE: a gigabyte arrives as it was sent, whoever cuts it into segments."""
from __future__ import annotations

import pytest

from lbq.lab.topology import GATEWAY
from tests.helpers.endpoints import digest_of
from tests.helpers.topology import (
    FULL,
    IN_SOCKETS,
    download,
    iperf3,
    resets_suffered,
    start_endpoint,
    start_endpoints,
    upload,
)

MIB = 1 << 20
# The reference engine reads each packet into Python; it proves the same thing with less.
SIZES = {"fast": 1024 * MIB, "reference": (256 if FULL else 16) * MIB}


@pytest.fixture
def url(make_lab, engine):
    """Return where the bulk servers are, behind a director."""
    lab = make_lab(servers=1)
    start_endpoints(lab, "bulk")
    lab.start_director("--mode", "nat", "--engine", engine, "--real", f"{lab.servers[0].address}:80")
    return lab, f"http://{lab.vip}/", SIZES[engine]


def assert_undisturbed(lab):
    """No connection was reset, none given up."""
    assert [resets_suffered(host) for host in lab.namespaces] == [0] * len(lab.namespaces)


def test_download_arrives_intact(url):
    lab, address, size = url

    assert download(lab.client, f"{address}{size}") == digest_of(size)
    assert_undisturbed(lab)


def test_upload_arrives_intact(url):
    lab, address, size = url

    assert upload(lab.client, address, size) == digest_of(size)
    assert_undisturbed(lab)


def test_download_by_a_client_on_the_director_arrives_intact(url):
    lab, address, size = url

    assert download(lab.director, f"{address}{size}") == digest_of(size)
    assert_undisturbed(lab)


def test_upload_by_a_client_on_the_director_arrives_intact(url):
    lab, address, size = url

    assert upload(lab.director, address, size // 8) == digest_of(size // 8)
    assert_undisturbed(lab)


@pytest.mark.parametrize("where", ["client", "director"])
def test_real_server_on_the_director_itself(make_lab, engine, where):
    """The director is one of its own real servers: what it gets and gives never leaves the machine."""
    size = SIZES[engine] // 8
    lab = make_lab(servers=1)
    # NFQUEUE shows at most 65,531 bytes of a packet.  On the loopback device, whose MTU is 65,536, TCP
    # makes packets of two segments, 128 KB; with half of that MTU two of them fit.
    lab.director.run(["ip", "link", "set", "lo", "mtu", 32000])
    start_endpoint(lab.director, "bulk", 8080)
    lab.start_director("--mode", "nat", "--engine", engine, "--real", f"{GATEWAY}:8080")
    address = f"http://{lab.vip}/"

    assert download(getattr(lab, where), f"{address}{size}") == digest_of(size)
    assert upload(getattr(lab, where), address, size) == digest_of(size)
    assert_undisturbed(lab)


@pytest.mark.parametrize("features", ["tx off", "tso off gso off", "gro on"])
def test_it_does_not_matter_who_makes_segments_and_checksums(make_lab, engine, features, forgiven):
    """Without checksum offload packets come summed, without segmentation small, with GRO merged again."""
    if "tso off" in features:
        forgiven.add("TcpPAWSEstab")        # plain forwarding has some, too, where nobody makes segments
    size = SIZES[engine] // 16
    lab = make_lab(servers=1)
    for host in (lab.client, *lab.servers):
        host.run(["ethtool", "-K", "eth0", *features.split()])
    for side in ("clients", "servers"):
        lab.director.run(["ethtool", "-K", side, *features.split()])
    start_endpoints(lab, "bulk")
    lab.start_director("--mode", "nat", "--engine", engine, "--real", f"{lab.servers[0].address}:80")
    address = f"http://{lab.vip}/"

    assert download(lab.client, f"{address}{size}") == digest_of(size)
    assert upload(lab.client, address, size) == digest_of(size)
    assert download(lab.director, f"{address}{size}") == digest_of(size)
    assert_undisturbed(lab)


@pytest.mark.parametrize("direction", [[], ["--reverse"], ["--bidir"]], ids=["up", "down", "both"])
def test_iperf3_runs_over_tcp(make_lab, direction):
    lab = make_lab(servers=1)
    server = lab.servers[0].popen(["iperf3", "--server", "--forceflush"])
    server.wait_for("Server listening")
    real = f"{lab.servers[0].address}:5201"
    lab.start_director("--vip", f"{lab.vip}:5201", "--mode", "nat", "--real", real)

    end = iperf3(lab.client, lab.vip, *direction)

    assert end["sum_received"]["bytes"] > MIB
    assert end["sum_sent"]["bytes"] - end["sum_received"]["bytes"] <= IN_SOCKETS
