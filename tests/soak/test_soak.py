"""A director for everyday use, a day in a minute (``LBQ_FULL=1``: half an hour): nothing is lost, nothing grows.

NAT, DR and TUN, in IPv4, in IPv6 and one in the other, TCP and UDP, persistence and one-packet scheduling under load,
while servers are emptied, deleted and added, settings and sysctls change and listings are asked for all the time.
"""
from __future__ import annotations

import re

from tests.soak.clients import HELD, HOLDERS, TCP_SERVICES, UDP_SERVICES
from tests.soak.run import SECONDS, Soak, grown

LEAST_A_SECOND = 10         # requests; a test that hardly asked proves nothing
LEAST_CHANGES_A_SECOND = 1
GROWTH = {"front": 1 << 20, "worker": 512 << 10}        # bytes: more than that is no noise
# Counters that also tell something else: a SYN-ACK that comes twice when a busy machine was late (bad sums are counted
# apart), also when its timestamp is older than what has come since, and a sender's own packets that are too large once
# it has heard of a tunnel's smaller MTU.
NOT_BROKEN = ("TcpInErrs", "TcpPAWSEstab", "IpFragFails", "Ip6FragFails")
COMPLAINT = re.compile(r"warning|error|Traceback", re.IGNORECASE)
EXPECTED_IN_LOG = re.compile(r"the real server of its connection was deleted|not the first packet of a connection|"
                             r"no real server yet|replies of no known connection|no virtual service yet|"
                             r"refused by sysctl nat_icmp_send|too long for the way to the real server")


def test_every_service_was_asked_all_the_time(soaked: Soak):
    assert set(soaked.answered) >= {*TCP_SERVICES, *UDP_SERVICES}
    assert sum(soaked.answered.values()) > LEAST_A_SECOND * SECONDS
    assert soaked.changes > LEAST_CHANGES_A_SECOND * SECONDS
    assert soaked.listed > 0
    assert soaked.errors == []


def test_no_request_was_lost_but_those_of_a_server_deleted_under_them(soaked: Soak):
    unexplained = [lost for lost in soaked.lost if not is_explained(*lost[:3], soaked.deletions)]

    assert unexplained == []


def is_explained(service: str, began: float, ended: float, deletions: list[tuple[float, float]]) -> bool:
    """Return True when a request was under way while the victim lost a server with its connections."""
    return service == "victim" and any(began <= done and begun <= ended for begun, done in deletions)


def test_held_connections_lived_to_the_end(soaked: Soak):
    assert {service: soaked.answered[f"held {service}"] for service in HELD} == dict.fromkeys(HELD, HOLDERS)


def test_no_packet_was_broken_and_none_lost_in_the_queue(soaked: Soak):
    broken = {name: count for name, count in soaked.broken.items() if not name.endswith(NOT_BROKEN)}

    assert (broken, soaked.dropped) == ({}, {})


def test_memory_stays_what_it_is(soaked: Soak):
    for process, bytes_grown in grown(soaked).items():
        assert bytes_grown <= GROWTH[process], [
            (round(sample.seconds), sample.connections, sample.resident) for sample in soaked.samples]


def test_no_descriptor_is_left_open(soaked: Soak):
    assert soaked.after.descriptors == soaked.idle.descriptors


def test_every_connection_ends(soaked: Soak):
    assert soaked.left == []
    assert soaked.connections_at_last == 0


def test_the_host_is_as_it_was_before(soaked: Soak):
    assert soaked.status == 0
    assert soaked.after_stop == soaked.before_start
    assert not soaked.state_left


def test_the_log_complains_of_nothing_else(soaked: Soak):
    complaints = [line for line in soaked.log.splitlines() if COMPLAINT.search(line)]

    assert [line for line in complaints if not EXPECTED_IN_LOG.search(line)] == []
