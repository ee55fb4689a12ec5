"""From captured frames to the steps of a story: hops in order, changed fields, and who changed them."""
from __future__ import annotations

import pytest

from lbq.explain.show import formula
from lbq.lab.report import story
from lbq.lab.report.capture import Frame
from lbq.lab.report.places import PICTURES
from lbq.lab.report.recording import Recording
from lbq.trace.records import CHANGED, SENT, Traced
from tests.helpers.packets import address, ipv4, tcp

CLIENT, VIP, SERVER = "192.168.10.100:40001", "192.168.10.1:80", "192.168.20.2:80"
OTHER_VIP, OTHER_SERVER = "172.16.10.1:80", "172.16.10.12:80"
MACS = {"client": "0a0000000001", "director": "0a0000000002", "web02": "0a0000000003", "router": "0a0000000004",
        "port": "0a0000000005"}
FRAME = ("Ethernet", "destination MAC"), ("Ethernet", "source MAC")
IP_SUM, TCP_SUM = ("IP", "IP checksum"), ("TCP", "TCP checksum")


def interface(machine: str, name: str, is_port: bool = False) -> dict:
    digits = MACS["port" if is_port else machine]
    return {"machine": machine, "name": name, "mac": ":".join(digits[at:at + 2] for at in range(0, 12, 2)),
            "addresses": ["192.168.20.2"] if machine == "web02" else [], "is_port": is_port}


INTERFACES = [interface("client", "eth0"), interface("director", "clients"), interface("director", "servers"),
              interface("director", "to-web02", is_port=True), interface("web02", "eth0")]


class Network:
    """Frames in the order in which they are made, a microsecond apart."""

    def __init__(self):
        self.frames: list[Frame] = []

    def see(self, machine: str, device: str, packet: bytes, *, sent: bool = False, macs: str = "",
            for_another: bool = False) -> None:
        self.frames.append(Frame(1_000_000 + 1000 * len(self.frames), machine, device, sent, for_another, macs,
                                 bytes(packet)))

    def wire(self, source: str, out: str, target: str, into: str, packet: bytes) -> None:
        """Send a packet from one machine to another."""
        macs = MACS[target] + MACS[source]
        self.see(source, out, packet, sent=True, macs=macs)
        self.see(target, into, packet, macs=macs)


def traced(before: bytes, after: bytes, state: str, was: str = "", **its) -> Traced:
    facts = {"now_ns": 0, "hook": "PREROUTING", "outcome": "rewritten", "is_new": not was, "state_before": was,
             "state_after": state, "server": SERVER, "method": "nat", "length": len(before), "mark": 0, "steer": 0,
             "before": bytes(before), "after": bytes(after), "what_after": CHANGED, "sent": 0, "next_hop": ""}
    return Traced(**{**facts, **its})


def record(network: Network, seen: list[Traced], mode: str = "nat", vip: str = VIP) -> Recording:
    explained = {"steps": [{"step": "service", "text": "tcp"}, {"step": "scheduler", "text": "rr", "candidates": []},
                           {"step": "state", "text": "not shown"}]}
    return Recording(mode, ("192.168.10.100", 40001), (vip.partition(":")[0], 80), network.frames, seen, explained,
                     INTERFACES, "web02")


def nat_syn(network: Network) -> Traced:
    """Send a SYN by NAT; return what lbq said of it."""
    syn, rewritten = tcp(CLIENT, VIP, "S"), tcp(CLIENT, SERVER, "S")
    network.wire("client", "eth0", "director", "clients", syn)
    routed = tcp(CLIENT, SERVER, "S", ttl=63)
    macs = MACS["web02"] + MACS["director"]
    network.see("director", "servers", routed, sent=True, macs=macs)
    network.see("director", "to-web02", routed, sent=True, macs=macs)
    network.see("web02", "eth0", routed, macs=macs)
    return traced(syn, rewritten, "SYN_RECV")


def nat_answer(network: Network) -> Traced:
    """Answer it; the host routes the answer before lbq sees it."""
    network.see("web02", "eth0", tcp(SERVER, CLIENT, "SA"), sent=True, macs=MACS["director"] + MACS["web02"])
    network.see("director", "to-web02", tcp(SERVER, CLIENT, "SA"), for_another=True,
                macs=MACS["director"] + MACS["web02"])
    network.see("director", "servers", tcp(SERVER, CLIENT, "SA"), macs=MACS["director"] + MACS["web02"])
    routed, rewritten = tcp(SERVER, CLIENT, "SA", ttl=63), tcp(VIP, CLIENT, "SA", ttl=63)
    network.wire("director", "clients", "client", "eth0", rewritten)
    return traced(routed, rewritten, "SYN_RECV", "SYN_RECV", hook="POSTROUTING")


def changes(step: dict) -> dict:
    """Return who changed which field."""
    return {(row["header"], row["field"]): row["by"] for row in step["rows"] if "by" in row}


def row_of(step: dict, header: str, field: str) -> dict:
    [row] = [row for row in step["rows"] if (row["header"], row["field"]) == (header, field)]
    return row


@pytest.fixture
def nat_story():
    """Return the story of a SYN and its answer by NAT."""
    network = Network()
    return story.tell(record(network, [nat_syn(network), nat_answer(network)]))


def test_nat_goes_through_the_director_both_ways(nat_story):
    assert [(step["packet"], step["kind"], step["way"]) for step in nat_story["steps"]] == [
        (0, "wire", ["client", "director"]), (0, "lbq", ["director"]), (0, "wire", ["director", "switch", "web02"]),
        (1, "wire", ["web02", "switch", "director"]), (1, "lbq", ["director"]), (1, "wire", ["director", "client"])]
    assert [(packet["name"], packet["is_reply"]) for packet in nat_story["packets"]] == [("SYN", False),
                                                                                         ("SYN,ACK", True)]


def test_lbq_rewrites_and_the_host_routes(nat_story):
    sent, decided, routed = nat_story["steps"][:3]
    assert changes(sent) == {}
    assert changes(decided) == {("IP", "destination"): ("lbq",), IP_SUM: ("lbq",), TCP_SUM: ("lbq",)}
    assert (row_of(decided, "IP", "destination")["before"], row_of(decided, "IP", "destination")["value"]) == (
        "192.168.10.1", "192.168.20.2")
    assert changes(routed) == {**dict.fromkeys(FRAME, ("host",)), ("IP", "TTL"): ("host",), IP_SUM: ("host",)}
    assert row_of(routed, *FRAME[0])["value"] == "0a:00:00:00:00:03 (web02)"


def test_what_the_host_did_before_lbq_saw_an_answer_is_not_lbqs(nat_story):
    decided, sent = nat_story["steps"][4:]
    assert changes(decided) == {("IP", "TTL"): ("host",), ("IP", "source"): ("lbq",), IP_SUM: ("host", "lbq"),
                                TCP_SUM: ("lbq",)}
    assert changes(sent) == dict.fromkeys(FRAME, ("host",))


def test_the_table_has_nothing_until_lbq_makes_an_entry(nat_story):
    first, decided, *later = nat_story["steps"]
    assert first["entry"] is None
    assert decided["entry"] == {"client": CLIENT, "virtual service": VIP, "real server": SERVER, "forwarding": "nat",
                                "state": "SYN_RECV", "expires": "in 60 s, if nothing else comes"}
    assert all(step["entry"]["state"] == "SYN_RECV" for step in later)


def test_reasons_are_told_once_and_only_those_of_the_choice(nat_story):
    told = [step["reasons"] for step in nat_story["steps"] if step.get("reasons")]
    assert [[reason["step"] for reason in reasons] for reasons in told] == [["service", "scheduler"]]


def test_the_arithmetic_ends_in_the_checksum_that_is_there(nat_story):
    decided = nat_story["steps"][1]
    assert [line.rpartition(" = ")[2] for line in decided["arithmetic"]] == [
        row_of(decided, *IP_SUM)["value"], row_of(decided, *TCP_SUM)["value"]]


def test_frames_of_others_and_flooded_ones_are_left_out():
    network = Network()
    seen = [nat_syn(network)]
    network.see("web01", "eth0", tcp(CLIENT, SERVER, "S", ttl=63), for_another=True)
    network.see("client", "eth0", tcp("192.168.10.100:40002", VIP, "S"), sent=True)
    network.see("client", "eth0", b"\x45" + bytes(19), sent=True)
    network.see("client", "eth0", ipv4(17, address("192.168.10.100"), address("192.168.10.1"), bytes(8)), sent=True)
    assert len(story.tell(record(network, seen))["steps"]) == 3


def test_a_packet_that_is_sent_again_is_another_one():
    network = Network()
    seen = [nat_syn(network), nat_syn(network)]
    told = story.tell(record(network, seen))
    assert [step["packet"] for step in told["steps"]] == [0, 0, 0, 1, 1, 1]
    assert [step["kind"] for step in told["steps"]] == ["wire", "lbq", "wire"] * 2


def test_dr_changes_the_frame_and_the_ttl_and_the_answer_goes_past_the_director():
    network = Network()
    here, sent = (bytes(tcp(CLIENT, OTHER_VIP, "S", ttl=ttl)) for ttl in (63, 62))
    network.wire("router", "segment", "director", "eth0", here)
    network.wire("director", "eth0", "web02", "eth0", sent)
    network.wire("web02", "eth0", "router", "segment", tcp(OTHER_VIP, CLIENT, "SA"))
    its = {"server": OTHER_SERVER, "method": "dr", "outcome": "forwarded", "what_after": SENT,
           "next_hop": "172.16.10.12"}
    told = story.tell(record(network, [traced(here, sent, "SYN_RECV", **its)], "dr", OTHER_VIP))

    assert [(step["kind"], step["way"]) for step in told["steps"]] == [
        ("wire", ["router", "switch", "director"]), ("lbq", ["director"]), ("wire", ["director", "switch", "web02"]),
        ("wire", ["web02", "switch", "router"])]
    assert changes(told["steps"][1]) == {("IP", "TTL"): ("lbq",), IP_SUM: ("lbq",)}
    assert changes(told["steps"][2]) == dict.fromkeys(FRAME, ("lbq",))
    assert changes(told["steps"][3]) == {} and "past the director" in told["steps"][3]["text"]


def test_tun_wraps_and_the_server_unwraps():
    network = Network()
    here, within = (bytes(tcp(CLIENT, OTHER_VIP, "S", ttl=ttl)) for ttl in (63, 62))
    ends = address("172.16.10.10"), address("10.20.2.1")
    wrapped = bytes(ipv4(4, *ends, within))
    network.wire("router", "segment", "director", "eth0", here)
    network.wire("director", "eth0", "router", "segment", wrapped)
    network.wire("router", "net2", "web02", "eth0", ipv4(4, *ends, within, ttl=63))
    network.see("web02", "tunl0", within)
    its = {"server": "10.20.2.1:80", "method": "tun", "outcome": "forwarded", "what_after": SENT,
           "next_hop": "10.20.2.1"}
    told = story.tell(record(network, [traced(here, wrapped, "SYN_RECV", **its)], "tun", OTHER_VIP))

    assert [step["kind"] for step in told["steps"]] == ["wire", "lbq", "wire", "wire", "unwrap"]
    decided, sent, routed, unwrapped = told["steps"][1:]
    outer = {name for name in changes(decided) if name[0] == story.TUNNEL}
    assert len(outer) == 7 and set(changes(decided).values()) == {("lbq",)}
    assert set(changes(sent)) == set(FRAME)
    assert changes(routed)[story.TUNNEL, "TTL"] == ("host",) and ("IP", "TTL") not in changes(routed)
    assert changes(unwrapped) == dict.fromkeys(outer, ("server",))
    assert all(row["value"] is None for row in unwrapped["rows"] if "by" in row)


def test_a_payload_is_shown_where_it_is_text():
    network = Network()
    network.wire("client", "eth0", "director", "clients", tcp(CLIENT, VIP, "PA", b"GET / HTTP/1.1\r\n\r\n\xff"))
    [packet] = story.tell(record(network, []))["packets"]
    assert packet["name"] == "ACK,PSH: GET / HTTP/1.1"
    assert packet["text"].endswith("\ufffd")


def test_a_recording_of_nothing_is_a_story_of_nothing():
    told = story.tell(record(Network(), []))
    assert (told["packets"], told["steps"]) == ([], [])
    assert {row["question"]: row["nat"] for row in story.compare([told])}["way of the request"] == ""


def test_what_differs_is_read_off_the_stories(nat_story):
    answers = {row["question"]: row["nat"] for row in story.compare([nat_story])}
    assert answers == {"way of the request": "client → director → web02",
                       "way of the answer": "web02 → director → client",
                       "packets that lbq sees": "2 of 2: 1 of the client's, 1 of the real server's",
                       "lbq changes in the SYN": "destination, IP checksum, TCP checksum",
                       "states of the connection": "SYN_RECV"}


def test_a_formula_names_every_word():
    step = {"before": "0x0001", "computed": "0x0003", "words": [["0x0004", "0x0002"]]}
    assert formula(step) == "~(~0x0001 + ~0x0004 + 0x0002) = 0x0003"


@pytest.mark.parametrize("mode", PICTURES)
def test_a_picture_has_room_for_its_machines(mode):
    picture = PICTURES[mode]
    names = {place.name for place in picture.places}
    assert {name for cable in picture.cables for name in cable} == names
    boxes = [(place.x - 55, place.y - 26, place.x + 55, place.y + 26)
             for place in picture.places if not place.is_switch]
    assert all(left >= -4 and top >= 0 and right <= 444 and bottom <= 250 for left, top, right, bottom in boxes)
    assert not any(a is not b and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
                   for a in boxes for b in boxes)


def test_a_way_goes_through_switches_only():
    assert PICTURES["dr"].way("director", "web01") == ["director", "switch", "web01"]
    assert PICTURES["nat"].way("client", "web01") == ["client", "web01"]       # no cable: the director is between
