"""Where a packet is seen, what the kernel does with it, and what comes next."""
from __future__ import annotations

import pytest

from lbq.errors import ConfigError
from lbq.explain import decision, fields
from lbq.explain.twin import of_rows
from lbq.forwarding import Route, icmp_error
from lbq.model import AF_INET, OPS, TUN, TUNNEL_NAMES, Tunnel
from lbq.sysctls import defaults
from tests.helpers.engines import NS, endpoint, key
from tests.helpers.packets import address, read, tcp, udp

CLIENT, VIP, WEB = "192.168.10.9:40000", "192.168.10.1:80", "192.168.20.1:80"


def twin_of(*, own: str = "192.168.10.1", flags: int = 0, protocol: str = "tcp"):
    """Return a twin with one service, on a host that has *own* for an address, and the way to its server."""
    twin = of_rows([], defaults(), decision.TIMEOUTS)
    twin.add_service(key(f"{protocol}:{VIP}"), "rr", flags)
    twin.add_server(key(f"{protocol}:{VIP}"), *endpoint(WEB))
    twin.set_local_addresses([address(own)])
    route = address("192.168.20.1"), 1500, address("192.168.20.254"), 1, "020000000001"
    twin.set_routes([route])
    return twin, {(AF_INET, route[0]): Route(*route)}


def decide(twin, ways, packet) -> dict:
    return decision.decide(twin, packet, 0, NS, ways)


@pytest.fixture(autouse=True)
def on_link(monkeypatch):
    """The server is on a link of the host, whatever routes this machine has."""
    monkeypatch.setattr(decision, "gateway_towards", lambda destination, family: None)


def test_segments_that_the_kernel_has_joined_are_not_too_long(monkeypatch):
    said = decide(*twin_of(), tcp(CLIENT, VIP, "SA", bytes(8000)))
    assert (said["outcome"], said["verdict"]) == ("rewritten", "ACCEPT")
    assert "longer than the 1500 bytes" in said["caveats"][0]
    assert [step["field"] for step in said["checksums"]] == ["IP checksum"]
    assert all(step["computed"] == step["after"] for step in said["checksums"])
    assert decide(*twin_of(), tcp(CLIENT, VIP, "S", bytes(1400)))["caveats"] == []


def test_a_datagram_that_is_too_long_is_too_long():
    said = decide(*twin_of(protocol="udp"), udp(CLIENT, VIP, bytes(8000)))
    assert said["outcome"] == "dropped_too_big" and "one ICMP error a second" in said["caveats"][0]


def test_the_next_hop_is_there_for_programs_too():
    said = decide(*twin_of(), tcp(CLIENT, VIP, "S"))
    assert said["ways"] == [{"to": "192.168.20.1", "device": "lo", "gateway": None, "mtu": 1500,
                             "mac": "02:00:00:00:00:01"}]
    assert said["next"] == ["the host routes it again: FORWARD rules, then out of lo to 192.168.20.1, MAC of the next "
                            "hop 02:00:00:00:00:01, MTU 1500"]


def test_a_gateway_on_the_way_is_named(monkeypatch):
    monkeypatch.setattr(decision, "gateway_towards", lambda destination, family: "192.168.20.250")
    said = decide(*twin_of(), tcp(CLIENT, VIP, "S"))
    assert "to 192.168.20.1 through 192.168.20.250, MAC" in said["next"][0]


def test_a_client_on_this_host_is_seen_in_output_and_its_answers_in_input():
    twin, ways = twin_of(own="192.168.10.9")
    syn = tcp(CLIENT, VIP, "S")
    said = decide(twin, ways, syn)
    assert said["packet"]["hook"] == "OUTPUT" and "no FORWARD rules" in said["next"][0]
    said = decide(twin, ways, tcp(WEB, CLIENT, "SA"))
    assert said["packet"]["hook"] == "INPUT" and "delivered on this host" in said["next"][0]


def test_a_real_server_on_this_host_gets_it_by_input():
    said = decide(*twin_of(own="192.168.20.1"), tcp(CLIENT, VIP, "S"))
    assert said["next"] == ["the host delivers it: INPUT rules, then the program that listens here"]
    assert said["ways"] == []


def test_what_a_server_sends_of_no_connection_is_seen_on_its_way_out():
    said = decide(*twin_of(), tcp(WEB, CLIENT, "SA"))
    assert (said["packet"]["hook"], said["outcome"]) == ("POSTROUTING", "passed_no_connection")


def test_a_connection_of_ipv6_is_told_as_it_is_written():
    twin = of_rows([], defaults(), decision.TIMEOUTS)
    twin.add_service(key("tcp:[2001:db8::1]:80"), "rr")
    twin.add_server(key("tcp:[2001:db8::1]:80"), *endpoint("[2001:db8:20::1]:80"))
    for flags in ("S", "A"):
        said = decide(twin, None, tcp("[2001:db8::9]:40000", "[2001:db8::1]:80", flags))
    told = said["steps"][0]["text"]
    assert "in the table: tcp [2001:db8::9]:40000 → [2001:db8::1]:80 at [2001:db8:20::1]:80," in told


@pytest.mark.parametrize("kind", TUNNEL_NAMES, ids=TUNNEL_NAMES.values())
def test_what_is_in_a_tunnel_is_compared_not_what_is_around_it(kind):
    twin = of_rows([], defaults(), decision.TIMEOUTS)
    twin.add_service(key(f"tcp:{VIP}"), "rr")
    twin.add_server(key(f"tcp:{VIP}"), address("192.168.20.1"), 80, mode=TUN, tunnel=Tunnel(kind, 6080))
    twin.set_routes([(address("192.168.20.1"), 1500, address("192.168.20.254"), 1, "020000000001")])
    [sent] = decide(twin, None, tcp(CLIENT, VIP, "S"))["sent"]
    assert sent["fields"]["source"] == "192.168.20.254" and sent["fields"]["destination"] == "192.168.20.1"
    assert sent["inner"]["destination"] == "192.168.10.1" and sent["inner"]["flags"] == "SYN"
    assert {each["field"] for each in sent["changes"]} == {"TTL", "IP checksum"}


@pytest.mark.parametrize(("settings", "told"), [
    ({}, []), ({"drop_packet": 1}, []), ({"drop_packet": 3, "am_droprate": 0}, []),
    ({"drop_packet": 3}, ["one new connection in 10"]), ({"drop_packet": 2}, ["some new connections"])])
def test_a_new_connection_may_meet_the_defence_and_who_takes_it_otherwise_is_said(settings, told):
    twin, ways = twin_of()
    for name, value in settings.items():
        twin.set_sysctl(name, value)

    said = decide(twin, ways, tcp(CLIENT, VIP, "S"))
    assert said["outcome"] == "rewritten"
    assert [text[:len(start)] for text, start in zip(said["caveats"], told, strict=True)] == told

    twin.caveats.clear()
    assert decide(twin, ways, tcp(CLIENT, VIP, "A"))["caveats"] == []       # of the connection that there is now


def test_a_defence_that_takes_every_new_connection_is_foretold():
    twin, ways = twin_of()
    twin.set_sysctl("am_droprate", 1)
    twin.set_sysctl("drop_packet", 3)
    said = decide(twin, ways, tcp(CLIENT, VIP, "S"))
    assert (said["outcome"], said["caveats"]) == ("dropped_defence", [])


def test_an_answer_is_within_limits_of_which_a_running_director_alone_has_used_any():
    twin, ways = twin_of()
    twin.delete_server(key(f"tcp:{VIP}"), *endpoint(WEB))
    said = decide(twin, ways, tcp(CLIENT, VIP, "S"))
    assert said["outcome"] == "dropped_no_server" and "one ICMP error a second" in said["caveats"][0]

    twin.caveats.clear()
    assert decide(twin, None, tcp(CLIENT, VIP, "S"))["caveats"] == []


def test_a_connection_of_one_packet_ends_with_it():
    packet = udp(CLIENT, VIP)
    said = decide(*twin_of(protocol="udp", flags=OPS), packet)
    [state] = [step["text"] for step in said["steps"] if step["step"] == "state"]
    assert "ends with this packet" in state and read(packet).destination == WEB


def answered() -> tuple:
    """Return a twin with a connection, the client's packet as it went on, and the server's as it went on."""
    twin, ways = twin_of()
    syn, answer = tcp(CLIENT, VIP, "S"), tcp(WEB, CLIENT, "SA")
    decide(twin, ways, syn)
    decide(twin, ways, answer)
    return twin, ways, syn, answer


def test_an_error_about_what_the_client_sent_speaks_of_the_vip():
    twin, ways, syn, _ = answered()
    said = decide(twin, ways, bytearray(icmp_error(3, 4, 1300, syn, len(syn))))
    assert (said["packet"]["hook"], said["outcome"]) == ("POSTROUTING", "rewritten")
    assert [step["step"] for step in said["steps"]] == ["about", "connection"]
    assert said["steps"][1]["found"]["state"] == "SYN_RECV"
    assert {"field": "quoted destination", "before": "192.168.20.1", "after": "192.168.10.1"} in said["changes"]


def test_an_error_about_what_the_server_sent_speaks_of_the_server():
    twin, ways, _, answer = answered()
    error = bytearray(icmp_error(3, 1, 0, answer, len(answer)))
    assert decision.read(error)[1:5] == (*endpoint(CLIENT), *endpoint(VIP))
    said = decide(twin, ways, error)
    assert (said["packet"]["hook"], said["outcome"]) == ("PREROUTING", "rewritten")
    assert {"field": "quoted source", "before": "192.168.10.1", "after": "192.168.20.1"} in said["changes"]
    assert "out of lo to 192.168.20.1" in said["next"][0]


def test_an_error_about_nobodys_packet_is_the_hosts():
    nobodys = tcp("10.0.0.1:1", "10.0.0.2:2")
    said = decide(*twin_of(), bytearray(icmp_error(3, 3, 0, nobodys, len(nobodys))))
    assert said["outcome"] == "passed_icmp" and said["steps"][1]["found"] is None


def test_what_a_gue_tunnel_may_be_about_is_said_with_a_but():
    ours = udp("192.168.10.1:4711", "192.168.20.9:6080")
    said = decide(*twin_of(), bytearray(icmp_error(3, 4, 1300, ours, len(ours))))
    assert "GUE" in said["caveats"][0]


@pytest.mark.parametrize("kind", [0, 8, 3])
def test_of_icmp_that_is_about_no_packet_with_ports_there_is_nothing_to_decide(kind):
    tunnelled = tcp("10.0.0.1:1", "10.0.0.2:2")
    tunnelled[9] = 4
    packet = bytearray(icmp_error(3, 4, 1300, tunnelled, len(tunnelled)))
    packet[20] = kind
    with pytest.raises(ConfigError, match="nothing to decide"):
        decision.read(packet)


def test_an_error_about_an_error_about_an_error_is_read_once():
    packet = tcp(CLIENT, VIP)
    for _ in range(2000):
        packet = bytearray(b"\x45" + bytes(8) + b"\x01" + bytes(10) + b"\x03" + bytes(7)) + packet
    found = fields.fields(bytes(packet))
    assert found["quoted type"] == 3 and not [name for name in found if "quoted quoted" in name]
