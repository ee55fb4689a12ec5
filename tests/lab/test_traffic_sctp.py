"""SCTP through NAT: associations by the kernel where it has SCTP, else by a little SCTP over raw sockets."""
from __future__ import annotations

import sys

import pytest

from lbq.lab.topology import Lab, host_name
from tests.helpers import sctp
from tests.helpers.dual import v6, with_ipv6
from tests.helpers.topology import listing, new_lab, settle

PORT, OTHER_PORT = 3868, 3869


@pytest.fixture(scope="module")
def network(record_testsuite_property):
    """Return the article's network with an SCTP server on each of its two machines, in both families."""
    if not sctp.kernel_has_sctp():
        record_testsuite_property("sampled", "SCTP over raw sockets: this kernel has none")
    with new_lab(Lab) as lab:
        with_ipv6(lab)
        for server, port in zip(lab.servers, (PORT, OTHER_PORT), strict=True):
            for family in ([], ["ipv6"]):
                server.popen([sys.executable, sctp.__file__, port, host_name(server), *family]).wait_for("ready")
        yield lab


@pytest.fixture
def lab(network, lend, engine):
    """Lend the network to one test."""
    lab = lend(network)
    if engine == "reference" and sctp.kernel_has_sctp():
        # Without GSO, which NetfilterQueue cannot ask for, the kernel finishes a checksum before it queues a packet,
        # and takes SCTP's for one of TCP's kind.
        for host in (lab.client, *lab.servers):
            host.run(["ethtool", "-K", "eth0", "tx-checksum-sctp", "off"])
    return lab


@pytest.fixture(params=["ipv4", "ipv6"])
def vip(lab, engine, request):
    """Return the VIP of a director that must change the port for one of the servers."""
    web01, web02 = lab.servers
    if request.param == "ipv6":
        vip, reals = v6(lab.vip), (f"[{v6(web01.address)}]", f"[{v6(web02.address)}]:{OTHER_PORT}")
    else:
        vip, reals = lab.vip, (web01.address, f"{web02.address}:{OTHER_PORT}")
    service = f"sctp:[{vip}]:{PORT}" if request.param == "ipv6" else f"sctp:{vip}:{PORT}"
    lab.start_director("--vip", service, "--mode", "nat", "--scheduler", "rr", "--engine", engine,
                       *(word for real in reals for word in ("--real", real)))
    return vip


def test_associations_are_balanced_and_end_in_order(lab, vip):
    held = [sctp.associate(lab.client, vip, PORT) for _ in range(4)]

    assert [association.name for association in held] == ["web02", "web01"] * 2
    assert all(association.echoes(b"%d" % number * 100) for number, association in enumerate(held))
    assert [(row["active"], row["inactive"]) for row in listing(lab)["servers"]] == [(2, 0)] * 2

    for association in held:
        association.close()
    settle(lab)

    assert [(row["active"], row["inactive"]) for row in listing(lab)["servers"]] == [(0, 2)] * 2
