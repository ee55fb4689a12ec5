"""Known flows through real schedulers: where each goes is worked out by hand, or is the scheduler's very promise."""
from __future__ import annotations

import io

import pytest

from lbq.grammar import parse_service
from lbq.model import DR, END_DELETED, NAT, PERSISTENT, TUN
from lbq.replay import capture, table
from lbq.replay.changes import Servers
from lbq.replay.measure import Measured
from lbq.replay.play import Player, Setup
from lbq.replay.traffic import Reader, Traffic, endpoint
from lbq.schedulers import BUILT_IN
from tests.helpers.captures import connection, csv, in_order, pcap, question, sctp
from tests.helpers.packets import tcp, udp

VIP, VIP6, DNS = "192.168.10.1:80", "[2001:db8::1]:80", "192.168.10.1:53"


def captured(*flows, wanted: str | None = None) -> Traffic:
    """Return what is to play of a capture of *flows*: those to the service that is *wanted*."""
    traffic, where = Traffic(), wanted and endpoint(parse_service(wanted))
    Reader(traffic, where).read(capture.Pieces(io.BytesIO(pcap(in_order(*flows))), "x.pcap"), lambda _: None)
    traffic.only(where or traffic.busiest())
    traffic.mark_ends()
    return traffic


def written(*lines: str, header: str = "start,client,duration") -> Traffic:
    """Return what is to play of a CSV file."""
    traffic = Traffic()
    table.read(io.BytesIO(csv(*lines, header=header).encode()), "flows.csv", traffic, None, lambda _: None)
    traffic.mark_ends()
    return traffic


def play(traffic: Traffic, scheduler: str, *servers: str, changes: tuple[str, ...] = (), mode: int = NAT,
         flags: int = 0, timeout: int = 0, slices: int = 4, service: str | None = None) -> Measured:
    """Return what *scheduler* made of *traffic*."""
    key = parse_service(service) if service else traffic.endpoints[0].key()
    chosen = Servers(key, mode)
    chosen.add(list(servers))
    begin, end = traffic.span()
    chosen.change(list(changes), end - begin)
    setup = Setup(key, flags, timeout, None, 0, chosen.all, chosen.changes, slices)
    return Player(traffic, setup, scheduler).play(lambda _: None)


def names(measured: Measured) -> str:
    """Return the letters of the servers that flows began at, in their order, - for none."""
    return "".join("-" if server < 0 else "ABCDEF"[server] for server in measured.chosen)


def one_by_one(count: int, vip: str = VIP) -> Traffic:
    """Return flows of a second each, one after another, each of another client."""
    host = "[2001:db8::{}]:4000" if vip.startswith("[") else "10.0.0.{}:4000"
    return captured(*(connection(host.format(number + 9), vip, 2 * number, 2 * number + 1) for number in range(count)))


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_rr_goes_round_the_list_which_begins_with_the_newest(vip):
    measured = play(one_by_one(7, vip), "rr", "3")

    assert names(measured) == "CBACBAC"
    assert measured.flows == [2, 2, 3] and measured.peak == [1, 1, 1]
    assert measured.packets == [12, 12, 18] and sum(measured.octets) == 7 * 6 * (60 if vip == VIP6 else 40)


def test_wrr_gives_shares_by_weight():
    measured = play(one_by_one(16), "wrr", "10.1.0.1,weight=3", "10.1.0.2,weight=1")

    assert measured.flows == [12, 4]
    assert [sum(piece.flows) for piece in measured.slices] == [4, 4, 4, 4]
    assert all(piece.flows == [3, 1] for piece in measured.slices)


def test_lc_counts_what_is_established_most():
    """Newest first, B: the first flow goes there.  It lasts, so the second goes to A and ends, which leaves A with one
    that is closing, 1 against 257; so does the third.  The fourth begins while the third lasts: 257 + 1 against 257."""
    flows = [connection(f"10.0.0.{number}:1", VIP, start, end)
             for number, start, end in ((1, 0, 20), (2, 1, 2), (3, 3, 9), (4, 4, 5), (5, 10, 11))]

    assert names(play(captured(*flows), "lc", "2")) == "BAABA"


def test_replies_change_states_too():
    """A server resets two flows at once, which their replies alone say: B has 2 closing, not 2 half open, so it gets
    the fourth flow as well, and A, with one that lasts, the fifth."""
    def flow(number, ends):
        client = f"10.0.0.{number}:1"
        return [(number, tcp(client, VIP, "S")), (number + 0.5, tcp(VIP, client, "R" if ends else "SA"))]

    reset = [flow(1, True), flow(2, False), flow(3, True), flow(4, False), flow(5, False)]
    assert names(play(captured(*reset), "lc", "2")) == "BABBA"
    assert names(play(captured(*reset), "lc", "2", mode=DR)) == "BABAB"      # there replies do not come by


def test_sh_keeps_a_client_and_nq_an_idle_server():
    same = [connection(f"10.0.0.1:{port}", VIP, port, port + 5) for port in range(1, 20)]

    assert len(set(play(captured(*same), "sh", "4").chosen)) == 1
    assert names(play(captured(*same[:3]), "nq", "3")) == "CBA"


def test_fo_and_none():
    assert names(play(one_by_one(3), "fo", "10.1.0.1,weight=2", "10.1.0.2,weight=1")) == "AAA"
    refused = play(one_by_one(3), "none", "2")
    assert names(refused) == "---" and refused.refused == 3 and refused.flows == [0, 0]


@pytest.mark.parametrize("scheduler", [name for name in BUILT_IN if name != "none"])
@pytest.mark.parametrize("mode", [NAT, DR])
def test_every_scheduler_finds_a_server_for_every_flow(scheduler, mode):
    measured = play(one_by_one(12), scheduler, "10.1.0.1,weight=12", "10.1.0.2,weight=12", mode=mode)

    assert sum(measured.flows) == 12 and measured.refused == measured.forgotten == measured.moved == 0


def test_luck_is_the_same_every_time():
    assert play(one_by_one(40), "twos", "4").chosen == play(one_by_one(40), "twos", "4").chosen


def test_udp_and_sctp():
    dns = captured(*(question(f"10.0.0.{number}:5353", DNS, number, number + 0.5) for number in range(1, 5)))
    assert names(play(dns, "rr", "2")) == "BABA"
    packets = [[(number, sctp(f"10.0.0.{number}:1", VIP, 1)), (number, sctp(VIP, f"10.0.0.{number}:1", 2)),
                (number + 3, sctp(f"10.0.0.{number}:1", VIP, 7))] for number in range(1, 5)]
    assert names(play(captured(*packets), "rr", "2")) == "BABA"
    six = captured([(0, udp("[2001:db8::9]:1", VIP6, b"?")), (1, udp(VIP6, "[2001:db8::9]:1", b"!"))])
    assert names(play(six, "rr", "2")) == "B"


def test_persistent_clients_stay():
    flows = [connection(f"10.0.0.{1 + number % 2}:{number + 1}", VIP, number, number + 1) for number in range(6)]

    assert names(play(captured(*flows), "rr", "3", flags=PERSISTENT, timeout=300)) == "CBCBCB"


def test_a_thresholds_server_takes_no_more():
    flows = [connection(f"10.0.0.{number}:1", VIP, number, 50) for number in range(1, 5)]

    assert names(play(captured(*flows), "rr", "10.1.0.1", "10.1.0.2,upper=1")).count("B") == 1


def test_flows_of_a_file_in_progress():
    """A takes all: from 0 to 10 s one, from 2 s two, from 3 to 4 s three."""
    measured = play(written("0,10.0.0.1,10", "2,10.0.0.2,2", "3,10.0.0.3,2"), "rr", "1", slices=1)

    assert measured.peak == [3] and measured.p99 == [3]
    assert measured.slices[0].load == [(10 + 2 + 2) * 10**9] and measured.slices[0].length_ns == 10 * 10**9


def test_the_packets_and_bytes_a_file_says():
    flows = written("0,10.0.0.1,10,7,700", "2,10.0.0.2,2,,", header="start,client,duration,packets,bytes")
    measured = play(flows, "rr", "2")

    assert measured.packets == [1, 7] and measured.octets == [0, 700]


# ---- Changes ---------------------------------------------------------------------------------------------


def test_a_quiesced_server_gets_nothing_new_and_keeps_what_it_has():
    flows = [connection(f"10.0.0.{number}:1", VIP, number, 30, data=5) for number in range(1, 9)]
    measured = play(captured(*flows), "rr", "2", changes=("t=3.5 quiesce A",))

    assert names(measured) == "BABABBBB" and measured.moved == measured.cut == 0
    assert [piece.weights for piece in measured.slices if piece.start_ns == 3_500_000_000] == [[0, 1]]
    assert sum(sum(piece.flows) for piece in measured.slices) == 8


def test_a_deleted_servers_flows_are_cut_and_an_added_one_takes_part():
    flows = [connection(f"10.0.0.{number}:1", VIP, number, 30, data=5) for number in range(1, 9)]
    measured = play(captured(*flows), "rr", "2", changes=("t=2.5 del A", "t=4.5 add 10.1.0.9"))

    assert names(measured)[:5] == "BABBB" and set(names(measured)[5:]) == {"B", "C"}
    assert measured.cut == 1 and measured.moved == 0 and measured.flows[0] == 1


def test_flows_of_a_deleted_server_start_over_where_that_was_said():
    asked = [packet for second in range(6) for packet in question("10.0.0.9:5353", DNS, 10 * second, 10 * second + 1)]
    measured = play(captured(asked), "rr", "2", changes=("t=15 del B",), flags=END_DELETED)

    assert names(measured) == "B" and measured.moved == 1 and measured.cut == 0
    assert measured.peak == [1, 1] and measured.flows == [0, 1]


def test_a_deleted_server_that_comes_back_has_its_flows_again():
    flow = connection("10.0.0.9:1", VIP, 0, 60, data=11)
    measured = play(captured(flow), "rr", "1", changes=("t=12 del A", "t=28 add A"))

    assert measured.cut == 1 and measured.moved == 0 and measured.slices[-1].load[0] > 0


def test_a_weight_changes_the_shares_from_then_on():
    measured = play(one_by_one(32), "wrr", "2", changes=("t=32 weight A 3",), slices=1)

    before, after = measured.slices
    assert before.flows == [8, 8] and after.flows == [12, 4] and after.weights == [3, 1]


def test_a_silent_flow_is_forgotten():
    late = [(0, tcp("10.0.0.9:1", VIP, "S")), (1000, tcp("10.0.0.9:1", VIP, "A"))]

    assert play(captured(late), "rr", "1").forgotten == 1


def test_a_pause_of_decades_takes_no_time():
    ends = [connection("10.0.0.9:1", VIP, 0, 1), connection("10.0.0.9:2", VIP, 3e9 - 1.7e9, 3e9 - 1.7e9 + 1)]

    assert names(play(captured(*ends), "lblc", "2")) in ("BB", "BA")


@pytest.mark.parametrize("place", ["127.0.0.{}:{}", "[::{}]:{}"])
@pytest.mark.parametrize("mode", [NAT, DR])
def test_a_capture_of_loopback(place, mode):
    local = captured(*(connection(place.format(1, 4000 + number), place.format(1, 80), number, number + 1)
                       for number in range(4)))

    assert names(play(local, "rr", "2", mode=mode)) == "BABA"


def test_the_service_can_be_any_port():
    ftp = captured(connection("10.0.0.9:1", "192.168.10.1:21", 0, 1, data=3))

    assert ftp.endpoints[0].key() == parse_service("192.168.10.1:21")
    assert names(play(ftp, "rr", "2")) == "B"


def every_port() -> Traffic:
    """Return flows of three clients, one after the other, to three ports of the VIP each, and one elsewhere."""
    flows = [connection(f"10.0.0.{client}:4000", f"192.168.10.1:{port}", 100 * client + port, 110 * client + port)
             for client in (1, 2, 3) for port in (80, 81, 88)]
    return captured(*flows, connection("10.0.0.1:1", "192.168.10.2:80", 0, 1), wanted="192.168.10.1:0")


@pytest.mark.parametrize("mode", [NAT, DR, TUN])
def test_a_service_of_every_port_keeps_each_client_at_one_server(mode):
    measured = play(every_port(), "rr", "3", mode=mode, flags=PERSISTENT, timeout=900, service="192.168.10.1:0")

    assert names(measured) == "CCCBBBAAA"
    assert measured.packets == [18, 18, 18] and measured.moved == measured.refused == measured.forgotten == 0


def test_replies_of_a_service_of_every_port_change_states():
    """They come from the port that was asked: a flow that a server has reset is not established, and counts little."""
    def flow(number, ends):
        client, vip = f"10.0.0.{number}:1", f"192.168.10.1:{number}"
        return [(number, tcp(client, vip, "S")), (number + 0.5, tcp(vip, client, "R" if ends else "SA"))]

    service = "192.168.10.1:0"
    flows = [flow(number, number in (1, 3)) for number in range(1, 6)]
    measured = play(captured(*flows, wanted=service), "lc", "2", flags=PERSISTENT, timeout=900, service=service)
    assert names(measured) == "BABBA"


@pytest.mark.parametrize(("vip", "servers"), [(VIP, ("[2001:db8::a]", "10.1.0.2", "[2001:db8::c]")),
                                              (VIP6, ("10.1.0.1", "[2001:db8::b]", "10.1.0.3"))])
def test_servers_of_the_other_ip_version_are_reached_in_a_tunnel(vip, servers):
    measured = play(one_by_one(6, vip), "rr", *servers, mode=TUN, changes=("t=7 del A", "t=9 add A"))

    assert names(measured) == "CBACBA" and measured.cut == measured.moved == 0
