"""Connections that conntrack carries: the first packet, what is told of the rest, and what conntrack is told.

The lab shows that the kernel really says what ``tests/helpers/conntrack.py`` writes.
"""
from __future__ import annotations

import random
import socket

import pytest

from lbq.model import END_DELETED, NAT, OFFLOAD, PERSISTENT, Tunnel
from lbq.outcomes import ACCEPT, DROP, QUEUE
from tests.helpers import conntrack, engines
from tests.helpers.cases import client, server
from tests.helpers.conntrack import (
    CLOSE,
    CLOSE_INIT,
    CLOSE_WAIT,
    CONFIRMED,
    DELETE,
    DST_NAT,
    ESTABLISHED,
    FIN_WAIT,
    LAST_ACK,
    SEEN_REPLY,
    SYN_RECV,
    SYN_SENT,
    TIME_WAIT,
    told,
)
from tests.helpers.engines import NS, key
from tests.helpers.packets import endpoint

CIP, WEB, RIP, OTHER = "192.168.10.9:40000", "tcp:192.168.10.1:80", "192.168.20.1:8080", "192.168.20.2:8080"
CIP6, WEB6, RIP6 = "[2001:db8:c:1::9]:40000", "tcp:[2001:db8:1::1]:80", "[2001:db8:5::1]:8080"
DNS, RIP_DNS = "udp:192.168.10.1:53", "192.168.20.1:53"
HEADERS = 128
NUMBER = 7
ONE = (1, 60, 1, 60)        # a packet each way


class Conntrack:
    """A director, and the ends of its sockets to conntrack."""

    def __init__(self):
        from lbq._fastpath import FastDirector

        self.director = FastDirector(max_connections=100)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for pair in pairs:
            for end in pair:
                end.setblocking(False)
        (self.events, events), (self.lists, lists) = pairs
        self.director.attach_conntrack(events, lists)

    def serve(self, service, *servers, flags=0, timeout=0, steer=NUMBER):
        self.director.add_service(key(service), "rr", OFFLOAD | flags, timeout)
        for place in servers:
            self.director.add_server(key(service), *endpoint(place), 1, NAT, 0, 0, Tunnel(), None, steer)

    def open(self, seen, headers=HEADERS, now_ns=0):
        """Let the first packet of a connection through; return the verdict on it, which must not have been touched."""
        packet = bytearray(seen.packet)
        verdict = self.director.handle(packet, seen.hook, out_device=seen.out_device, headers=headers, now_ns=now_ns)
        assert packet == seen.packet
        return verdict

    def tell(self, *messages, now_ns=0):
        for message in messages:
            self.events.send(message)
        return self.director.follow_once(now_ns)

    def forgotten(self):
        """Return what the director asks conntrack to forget."""
        found = []
        while True:
            try:
                found.append(conntrack.read_delete(self.events.recv(4096)))
            except BlockingIOError:
                return found

    def close(self):
        for end in (self.events, self.lists):
            end.close()

    def row(self, service=WEB, server=RIP):
        return engines.servers(self.director, service)[server]

    def counts(self, service=WEB, server=RIP):
        row = self.row(service, server)
        return row["active"], row["inactive"]

    def traffic(self, service=WEB, server=RIP):
        row = self.row(service, server)["stats"]
        return row["conns"], row["packets_in"], row["bytes_in"], row["packets_out"], row["bytes_out"]


@pytest.fixture
def kernel():
    """A director that listens to conntrack."""
    kernel = Conntrack()
    yield kernel
    kernel.close()


@pytest.mark.parametrize(("service", "real_server", "cip"), [(WEB, RIP, CIP), (WEB6, RIP6, CIP6)])
def test_the_first_packet_is_answered_with_the_servers_number_and_the_rest_is_told(kernel, service, real_server, cip):
    kernel.serve(service, real_server)
    vip = service.removeprefix("tcp:")
    syn = client(cip, vip).syn()

    verdict = kernel.open(syn)
    assert (verdict.action, verdict.changed, verdict.steer) == (ACCEPT, False, NUMBER)
    assert kernel.counts(service, real_server) == (1, 0)
    kernel.tell(told(cip, service, real_server, state=SYN_SENT, timeout=60),
                told(cip, service, real_server, state=ESTABLISHED, timeout=900))
    [row] = engines.connections(kernel.director)
    assert (row["state"], row["expires_seconds"]) == ("ESTABLISHED", 900)
    kernel.tell(told(cip, service, real_server, kind=DELETE, counters=(9, 900, 7, 7000)))
    assert engines.connections(kernel.director) == []
    assert kernel.counts(service, real_server) == (0, 0)
    assert kernel.traffic(service, real_server) == (1, 9, 900, 7, 7000)
    assert kernel.forgotten() == []


@pytest.mark.parametrize(("state", "flags", "shown", "counts"), [
    (SYN_SENT, 0, "SYN_RECV", (1, 0)), (SYN_RECV, 0, "SYN_RECV", (1, 0)), (ESTABLISHED, 0, "ESTABLISHED", (1, 0)),
    (FIN_WAIT, CLOSE_INIT, "CLOSE_WAIT", (0, 1)), (FIN_WAIT, 0, "FIN_WAIT", (0, 1)),
    (CLOSE_WAIT, CLOSE_INIT, "CLOSE_WAIT", (0, 1)), (CLOSE_WAIT, 0, "FIN_WAIT", (0, 1)),
    (LAST_ACK, 0, "TIME_WAIT", (0, 1)), (TIME_WAIT, 0, "TIME_WAIT", (0, 1)), (CLOSE, 0, "CLOSE", (0, 1)),
    (9, 0, "SYN_RECV", (1, 0)), (0, 0, "SYN_RECV", (1, 0)), (200, 0, "SYN_RECV", (1, 0))])
def test_a_state_of_conntracks_is_one_of_ipvs(kernel, state, flags, shown, counts):
    kernel.serve(WEB, RIP)
    kernel.open(client().syn())
    kernel.tell(told(CIP, WEB, RIP, state=state, flags=flags))

    assert engines.connections(kernel.director)[0]["state"] == shown
    assert kernel.counts() == counts


def test_a_packet_that_came_whole_is_the_kernels_to_rewrite_as_well(kernel):
    """Its headers were too long for the other queue."""
    kernel.serve(WEB, RIP)
    assert kernel.open(client().syn(), headers=0).steer == NUMBER
    long = client(CIP6, "[2001:db8:1::1]:80", extensions=[(60, bytes([6, 15]) + bytes(126))]).syn()
    kernel.serve(WEB6, RIP6)
    assert kernel.open(long).action == QUEUE
    assert kernel.open(long, headers=0).steer == NUMBER


def test_a_server_without_a_number_gets_nothing(kernel):
    kernel.serve(WEB, RIP, steer=0)
    assert kernel.open(client().syn(), headers=0).action == DROP


def test_what_conntrack_never_tells_of_ends_by_the_timers(kernel):
    kernel.serve(WEB, RIP)
    kernel.open(client().syn(), now_ns=1)
    kernel.director.expire(59 * NS)
    assert kernel.counts() == (1, 0)
    kernel.director.expire(62 * NS)
    assert kernel.counts() == (0, 0)
    assert kernel.forgotten() == []


def test_what_conntrack_has_does_not_end_by_timers(kernel):
    kernel.serve(WEB, RIP)
    kernel.open(client().syn(), now_ns=1)
    kernel.tell(told(CIP, WEB, RIP, state=ESTABLISHED, timeout=900))
    kernel.director.expire(5000 * NS)
    assert kernel.counts() == (1, 0)
    kernel.tell(told(CIP, WEB, RIP, kind=DELETE))
    assert kernel.counts() == (0, 0)


def test_an_end_of_an_earlier_connection_ends_nothing(kernel):
    """Its end and the begin of the next one with the same addresses come in order, but one of them may be lost."""
    kernel.serve(WEB, RIP)
    kernel.open(client().syn())
    kernel.tell(told(CIP, WEB, RIP, number=7, state=ESTABLISHED))
    kernel.tell(told(CIP, WEB, RIP, number=8, state=ESTABLISHED))
    kernel.tell(told(CIP, WEB, RIP, number=7, kind=DELETE, counters=(5, 500, 5, 500)))
    assert kernel.counts() == (1, 0)
    kernel.tell(told(CIP, WEB, RIP, number=8, kind=DELETE, counters=(3, 180, 1, 60)))
    assert kernel.counts() == (0, 0)
    assert kernel.traffic() == (1, 1 + 3, 40 + 180, 1, 60)


def test_packets_that_were_queued_before_conntrack_knew_the_connection_are_its_own(kernel):
    """A burst: conntrack has told of the first while the others are still waiting for lbq."""
    kernel.serve(DNS, RIP_DNS)
    burst = client(vip="192.168.10.1:53").udp(b"who")
    kernel.open(burst)
    kernel.tell(told(CIP, DNS, RIP_DNS, timeout=300))
    for _ in range(4):
        assert kernel.open(burst).steer == NUMBER
    kernel.director.expire(1000 * NS)
    kernel.tell(told(CIP, DNS, RIP_DNS, kind=DELETE, counters=(9, 9 * 31, 0, 0)))
    assert engines.connections(kernel.director) == []
    assert kernel.traffic(DNS, RIP_DNS) == (1, 9, 9 * 31, 0, 0)


def test_counters_are_what_conntrack_counts_beyond_what_lbq_has_seen(kernel):
    kernel.serve(WEB, RIP)
    for _ in range(3):                              # the SYN is sent again before the first is through
        kernel.open(client().syn())
    assert kernel.traffic() == (1, 3, 120, 0, 0)
    kernel.tell(told(CIP, WEB, RIP, state=SYN_RECV))
    kernel.director.hear(told(CIP, WEB, RIP, counters=(2, 80, 1, 60), sequence=1), 0, True)
    assert kernel.traffic() == (1, 3, 120, 1, 60)
    for _ in range(2):
        kernel.director.hear(told(CIP, WEB, RIP, counters=(10, 1000, 20, 2000), sequence=1), 0, True)
    assert kernel.traffic() == (1, 10, 1000, 20, 2000)
    assert engines.connections(kernel.director)[0]["packets_in"] == 10


def test_udp_is_inactive_until_its_end(kernel):
    kernel.serve(DNS, RIP_DNS)
    kernel.open(client(vip="192.168.10.1:53").udp(b"who"))
    kernel.tell(told(CIP, DNS, RIP_DNS, status=CONFIRMED | DST_NAT | SEEN_REPLY, timeout=300))
    assert kernel.counts(DNS, RIP_DNS) == (0, 1)
    kernel.tell(told(CIP, DNS, RIP_DNS, kind=DELETE, counters=(4, 124, 4, 400)))
    assert kernel.counts(DNS, RIP_DNS) == (0, 0)
    assert kernel.traffic(DNS, RIP_DNS) == (1, 4, 124, 4, 400)


# ---- What conntrack is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("service", "real_server", "cip"), [(WEB, RIP, CIP), (WEB6, RIP6, CIP6)])
def test_a_connection_that_is_ended_is_forgotten_by_conntrack(kernel, service, real_server, cip):
    kernel.serve(service, real_server)
    vip = service.removeprefix("tcp:")
    kernel.open(client(cip, vip).syn())
    kernel.tell(told(cip, service, real_server, number=0x12345678, state=ESTABLISHED))
    (caddr, cport), (vaddr, vport), family = endpoint(cip), endpoint(vip), key(service).family

    assert kernel.director.end_connections([(6, caddr, cport, vaddr, vport, family)]) == 1
    assert kernel.forgotten() == [(cip, vip, 0x12345678)]
    kernel.tell(told(cip, service, real_server, number=0x12345678, kind=DELETE))
    assert kernel.counts(service, real_server) == (0, 0)


def test_one_that_conntrack_has_not_told_of_yet_is_forgotten_all_the_same(kernel):
    kernel.serve(WEB, RIP)
    kernel.open(client().syn())
    kernel.director.end_connections([(6, *endpoint(CIP), *endpoint("192.168.10.1:80"))])
    assert kernel.forgotten() == [(CIP, "192.168.10.1:80", 0)]


def test_connections_of_a_deleted_server_that_are_to_end(kernel):
    kernel.serve(WEB, RIP, flags=END_DELETED)
    kernel.open(client().syn())
    kernel.tell(told(CIP, WEB, RIP, state=ESTABLISHED))
    assert kernel.director.delete_server(key(WEB), *endpoint(RIP)) == 1
    kernel.director.expire(1)
    assert kernel.forgotten() == [(CIP, "192.168.10.1:80", 7)]
    assert engines.connections(kernel.director) == []


def test_connections_of_a_deleted_server_stay_until_conntrack_ends_them(kernel):
    kernel.serve(WEB, RIP)
    kernel.open(client().syn())
    kernel.tell(told(CIP, WEB, RIP, state=ESTABLISHED))
    assert kernel.director.delete_server(key(WEB), *endpoint(RIP)) == 1
    assert kernel.open(client().syn()).action == DROP
    kernel.tell(told(CIP, WEB, RIP, kind=DELETE, counters=(9, 999, 9, 999)))
    assert (kernel.forgotten(), engines.connections(kernel.director)) == ([], [])


def test_a_template_lives_as_long_as_what_it_governs(kernel):
    kernel.serve(WEB, RIP, OTHER, flags=PERSISTENT, timeout=50)
    first = kernel.open(client().syn())
    kernel.tell(told(CIP, WEB, OTHER, state=ESTABLISHED, timeout=900),
                told(CIP, WEB, RIP, state=ESTABLISHED, timeout=900))
    kernel.director.expire(500 * NS)
    rows = engines.connections(kernel.director, 500 * NS)
    assert len(rows) == 2 and first.steer == NUMBER


# ---- Lists --------------------------------------------------------------------------------------------------------


def begin_list(kernel, now_ns):
    """Let the director ask for a list; return the request's number."""
    assert kernel.director.follow_once(now_ns)
    request = kernel.lists.recv(4096)
    assert request[4:6] == (0x101).to_bytes(2, "little")
    return int.from_bytes(request[8:12], "little")


def send_list(kernel, number, *messages, now_ns=1):
    """Answer with a list, its end in a datagram of its own, and let the director read it."""
    if messages:
        kernel.lists.send(b"".join(messages))
    kernel.lists.send(conntrack.done(number))
    while kernel.director.follow_once(now_ns):
        pass


def test_what_is_there_at_the_start_is_adopted(kernel):
    kernel.serve(WEB, RIP)
    number = begin_list(kernel, 1)
    send_list(kernel, number,
              told(CIP, WEB, RIP, state=ESTABLISHED, timeout=800, counters=(100, 9999, 100, 9999), sequence=number),
              told("192.168.10.9:40001", WEB, "192.168.20.99:8080", state=ESTABLISHED, sequence=number),
              told("192.168.10.9:40002", "tcp:192.168.10.1:81", RIP, state=ESTABLISHED, sequence=number),
              told("192.168.10.9:40003", WEB, RIP, status=CONFIRMED, sequence=number),
              told("192.168.10.9:40004", WEB, RIP, state=ESTABLISHED, sequence=number + 1))
    [row] = engines.connections(kernel.director)
    assert (row["cport"], row["state"], row["expires_seconds"]) == (40000, "ESTABLISHED", 800)
    assert kernel.counts() == (1, 0)
    assert kernel.traffic() == (0, 0, 0, 0, 0)      # that is what the director before has counted
    kernel.tell(told(CIP, WEB, RIP, kind=DELETE, counters=(101, 10099, 102, 10199)))
    assert kernel.traffic() == (0, 1, 100, 2, 200)


def test_a_list_that_is_only_to_count_adopts_nothing(kernel):
    kernel.serve(WEB, RIP)
    send_list(kernel, begin_list(kernel, 1))
    assert kernel.director.ask_conntrack() == 2
    number = begin_list(kernel, 2)
    send_list(kernel, number, told(CIP, WEB, RIP, state=ESTABLISHED, sequence=number))
    assert kernel.director.told_by_conntrack() == 2
    assert engines.connections(kernel.director) == []


def test_an_event_about_an_unknown_connection_to_a_server_of_ours_is_believed(kernel):
    kernel.serve(WEB, RIP)
    kernel.tell(told(CIP, WEB, RIP, state=ESTABLISHED), told(CIP, WEB, OTHER, state=ESTABLISHED))
    assert kernel.counts() == (1, 0)


def test_what_is_in_no_list_any_more_has_ended(kernel):
    kernel.serve(WEB, RIP)
    send_list(kernel, begin_list(kernel, 1))
    kernel.open(client().syn())
    kernel.open(client("192.168.10.9:40001").syn())
    kernel.tell(told(CIP, WEB, RIP, state=ESTABLISHED), now_ns=2)
    for at in (10, 20):
        assert kernel.counts() == (2, 0)
        send_list(kernel, begin_list(kernel, at * NS), now_ns=at * NS)
    assert kernel.counts() == (1, 0)                # of the other one nothing was told: it has its timer
    assert kernel.forgotten() == []


def test_a_list_is_asked_for_when_somebody_wants_counters_and_every_two_seconds(kernel):
    kernel.serve(WEB, RIP)
    send_list(kernel, begin_list(kernel, 1), now_ns=1)
    assert not kernel.director.follow_once(100 * NS)        # nothing is offloaded, and nobody asks
    kernel.open(client().syn())
    begin_list(kernel, 200 * NS)


def test_a_list_that_does_not_go_on_is_given_up(kernel):
    kernel.serve(WEB, RIP)
    begin_list(kernel, 1)
    assert not kernel.director.follow_once(NS)
    assert not kernel.director.follow_once(6 * NS)
    number = begin_list(kernel, 12 * NS)
    assert number == 2
    send_list(kernel, number, told(CIP, WEB, RIP, state=ESTABLISHED, sequence=number), now_ns=12 * NS)
    assert kernel.counts() == (1, 0)                # it was to say what there is, and still is


# ---- Errors about connections, and hostile bytes ------------------------------------------------------------------


def test_errors_about_offloaded_connections_are_conntracks(kernel):
    kernel.serve(WEB, RIP)
    kernel.open(client().syn())
    for quoted, hook in ((server("192.168.10.1:80").synack(), 0), (client(vip=RIP).ack(), 4)):
        content = bytes([3, 1, 0, 0, 0, 0, 0, 0]) + quoted.packet
        header = bytearray.fromhex("45000000000040004001000000000000") + bytes(4)
        header[12:20] = quoted.packet[16:20] + quoted.packet[12:16]
        header[2:4] = (20 + len(content)).to_bytes(2, "big")
        packet = header + content
        before = bytes(packet)
        verdict = kernel.director.handle(packet, hook)
        assert (verdict.action, bytes(packet)) == (ACCEPT, before)
    assert kernel.director.statistics()["passed_icmp"] == 2


def test_any_bytes_are_harmless(kernel):
    choose = random.Random(3)
    kernel.serve(WEB, RIP)
    kernel.serve(WEB6, RIP6)
    for case in range(4000):
        if case % 50 == 0:
            kernel.open(client().syn())
            kernel.open(client(CIP6, "[2001:db8:1::1]:80").syn())
        service, server_, cip = choose.choice(((WEB, RIP, CIP), (WEB6, RIP6, CIP6)))
        message = bytearray(told(cip, service, server_, kind=choose.choice((conntrack.NEW, DELETE)),
                                 state=choose.randrange(12), timeout=choose.choice((0, 900, 0xFFFFFFFF)),
                                 counters=(choose.getrandbits(64), choose.getrandbits(64), 1, 2)))
        for _ in range(choose.randrange(6)):
            message[choose.randrange(len(message))] = choose.choice((0, 1, 255, choose.randrange(256)))
        if choose.random() < 0.3:
            del message[choose.randrange(len(message)):]
        kernel.director.hear(bytes(message), case * NS, choose.random() < 0.5)
    row = kernel.row()
    rows = [each for each in engines.connections(kernel.director) if each["vaddr"] == "192.168.10.1"]
    assert row["active"] + row["inactive"] == len(rows)


@pytest.mark.parametrize("length", range(0, 200, 3))
def test_a_message_that_is_cut_says_nothing_it_has_not(kernel, length):
    kernel.serve(WEB, RIP)
    whole = told(CIP, WEB, RIP, state=ESTABLISHED, timeout=900, counters=ONE)
    kernel.director.hear(whole[:length])
    assert engines.connections(kernel.director) == []
    cut = bytearray(whole[:length])
    cut[:4] = length.to_bytes(4, "little")[:len(cut[:4])]
    kernel.director.hear(bytes(cut))
    rows = engines.connections(kernel.director)
    assert [(row["cport"], row["dport"]) for row in rows] in ([], [(40000, 8080)])
    assert bool(rows) == (length > whole.index(bytes.fromhex("08000300")) + 7)
