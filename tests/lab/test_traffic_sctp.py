"""SCTP through NAT: associations by the kernel where it has SCTP, else by a little SCTP over raw sockets."""
from __future__ import annotations

import sys

import pytest

from lbq.lab.topology import Lab, host_name
from tests.helpers import sctp
from tests.helpers.topology import listing, new_lab, settle

PORT, OTHER_PORT = 3868, 3869


@pytest.fixture(scope="module")
def network(record_testsuite_property):
    """Return the article's network with an SCTP server on each of its two machines."""
    if not sctp.kernel_has_sctp():
        record_testsuite_property("sampled", "SCTP over raw sockets: this kernel has none")
    with new_lab(Lab) as lab:
        for server, port in zip(lab.servers, (PORT, OTHER_PORT), strict=True):
            server.popen([sys.executable, sctp.__file__, port, host_name(server)]).wait_for("ready")
        yield lab


@pytest.fixture
def lab(network, lend, engine):
    """Lend the network to one test, with a director that must change the port for one of the servers."""
    lab = lend(network)
    if engine == "reference" and sctp.kernel_has_sctp():
        # Without GSO, which NetfilterQueue cannot ask for, the kernel finishes a checksum before it queues a packet,
        # and takes SCTP's for one of TCP's kind.
        for host in (lab.client, *lab.servers):
            host.run(["ethtool", "-K", "eth0", "tx-checksum-sctp", "off"])
    web01, web02 = lab.servers
    lab.start_director("--vip", f"sctp:{lab.vip}:{PORT}", "--mode", "nat", "--scheduler", "rr", "--engine", engine,
                       "--real", web01.address, "--real", f"{web02.address}:{OTHER_PORT}")
    return lab


def test_associations_are_balanced_and_end_in_order(lab):
    held = [sctp.associate(lab.client, lab.vip, PORT) for _ in range(4)]

    assert [association.name for association in held] == ["web02", "web01"] * 2
    assert all(association.echoes(b"%d" % number * 100) for number, association in enumerate(held))
    assert [(row["active"], row["inactive"]) for row in listing(lab)["servers"]] == [(2, 0)] * 2

    for association in held:
        association.close()
    settle(lab)

    assert [(row["active"], row["inactive"]) for row in listing(lab)["servers"]] == [(0, 2)] * 2
