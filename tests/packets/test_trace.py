"""What a trace keeps of each packet, which packets it keeps, and that it never holds any up."""
from __future__ import annotations

import pytest

from lbq._fastpath import FastDirector
from lbq.errors import ConfigError
from lbq.model import AF_INET6, DR, NAT, OPS, OPS_REPLIES, SCTP, TCP, TUN
from lbq.trace.records import ANSWER, CHANGED, NOTHING, RECORD, SENT, decode, wanted
from tests.helpers.captures import sctp
from tests.helpers.engines import LOCAL_IN, POSTROUTING, PREROUTING, add_service, endpoint, family_of, key
from tests.helpers.packets import address, icmp_error, read, tcp, udp
from tests.helpers.sctp import COOKIE_ACK, COOKIE_ECHO, INIT, INIT_ACK

CLIENT, OTHER, VIP, WEB = "192.168.10.9:40000", "192.168.10.8:40000", "192.168.10.1:80", "192.168.20.1:80"
RING = 2048


@pytest.fixture
def engine():
    """Return a director with one service, without a trace."""
    director = FastDirector(max_connections=1000)
    director.limit_icmp(False)
    add_service(director, f"tcp:{VIP}", WEB)
    return director


def traced(engine, *packets, mark=0, headers=0, **words):
    """Let the engine handle (packet, hook) each under a trace; return what was kept."""
    names = engine.trace_start(wanted(**words))
    for packet, hook in packets:
        engine.handle(bytearray(packet), hook, now_ns=7, mark=mark, headers=headers)
    found, counters = b"", {"waiting": 1}
    while counters["waiting"]:
        page, counters = engine.trace_read(64)
        found += page
    engine.trace_stop()
    return decode(found, names)


def handshake():
    return [(tcp(CLIENT, VIP, "S"), PREROUTING), (tcp(WEB, CLIENT, "SA"), POSTROUTING),
            (tcp(CLIENT, VIP, "A"), PREROUTING)]


def test_a_handshake_packet_by_packet(engine):
    syn, answer, ack = traced(engine, *handshake())

    assert (syn.is_new, syn.state_before, syn.state_after) == (True, "", "SYN_RECV")
    assert (answer.is_new, answer.state_before, answer.state_after) == (False, "SYN_RECV", "SYN_RECV")
    assert (ack.state_before, ack.state_after, ack.server, ack.method) == ("SYN_RECV", "ESTABLISHED", WEB, "nat")
    assert [each.hook for each in (syn, answer, ack)] == ["PREROUTING", "POSTROUTING", "PREROUTING"]
    assert (read(syn.before).destination, read(syn.after).destination) == (VIP, WEB)
    assert (read(answer.before).source, read(answer.after).source) == (WEB, VIP)
    assert {each.what_after for each in (syn, answer, ack)} == {CHANGED} and syn.now_ns == 7
    assert syn.line() == f"TCP  SYN  {CLIENT} → {VIP}  40 B  new → SYN_RECV  nat {WEB}"


def test_what_goes_nowhere_says_why(engine):
    engine.delete_server(key(f"tcp:{VIP}"), *endpoint(WEB))
    late, syn = traced(engine, (tcp(CLIENT, VIP, "A"), PREROUTING), (tcp(CLIENT, VIP, "S"), PREROUTING))
    assert late.outcome == "passed_not_opening" and late.what_after == NOTHING and not late.is_dropped()
    assert syn.outcome == "dropped_no_server" and syn.what_after == ANSWER and syn.after[20] == 3
    assert "  ICMP to its sender  DROP dropped_no_server: it finds no real server" in syn.line()
    (broken,) = traced(engine, (bytearray(b"\x45\0\0\x14" + bytes(10)), PREROUTING))
    assert broken.outcome == "dropped_malformed" and broken.line()


@pytest.mark.parametrize("mode", [DR, TUN])
def test_what_leaves_by_dr_and_tun_is_kept_as_it_left(engine, mode):
    engine.add_server(key(f"tcp:{VIP}"), *endpoint("192.168.20.2:80"), mode=mode)
    (syn,) = traced(engine, (tcp(CLIENT, VIP, "S"), PREROUTING))
    assert (syn.what_after, syn.sent, syn.next_hop, syn.outcome) == (SENT, 1, "192.168.20.2", "forwarded")
    assert len(syn.after) == (40 if mode == DR else 60)


@pytest.mark.parametrize(("client", "vip", "web"), [
    (CLIENT, "192.168.10.1:53", "192.168.20.1:53"),
    ("[2001:db8::9]:40000", "[2001:db8::1]:53", "[2001:db8:20::1]:53")])
@pytest.mark.parametrize(("mode", "method"), [(NAT, "nat"), (DR, "dr"), (TUN, "tun")])
def test_a_datagram_that_is_scheduled_by_itself_names_its_server(engine, mode, method, client, vip, web):
    engine.add_service(key(f"udp:{vip}"), "rr", OPS)
    engine.add_server(key(f"udp:{vip}"), *endpoint(web), mode=mode, family=family_of(web))
    (one,) = traced(engine, (udp(client, vip), PREROUTING))
    assert (one.server, one.method, one.state_after) == (web, method, "")
    assert one.next_hop == ("" if mode == NAT else web.rpartition(":")[0].strip("[]"))
    assert f"  {client} → {vip}  " in one.line() and f"  {method} {web}" in one.line()


def test_programs_read_in_words_what_became_of_a_packet(engine):
    syn, _, _ = traced(engine, *handshake())
    (unknown,) = traced(engine, (udp(OTHER, "192.168.10.1:53"), PREROUTING))
    assert (syn.facts()["what_after"], unknown.facts()["what_after"]) == ("changed", "")
    assert syn.facts()["fields"]["destination port"] == 80


@pytest.mark.parametrize(("words", "kept"), [
    ({}, 6), ({"client": "192.168.10.9"}, 3), ({"client": "192.168.10.9:40001"}, 0), ({"service": VIP}, 5),
    ({"service": "192.168.10.1:81"}, 0), ({"service": f"udp:{VIP}"}, 0), ({"server": "192.168.20.1"}, 4),
    ({"server": WEB}, 4), ({"server": "192.168.20.1:81"}, 0), ({"only_new": True}, 2), ({"only_drops": True}, 0),
    ({"state": "established"}, 1), ({"state": "syn_recv"}, 3), ({"every": 2}, 3), ({"every": 7}, 0),
    ({"client": "192.168.10.8", "only_new": True}, 1), ({"client": "[2001:db8::1]"}, 0)])
def test_only_what_is_wanted_is_kept(engine, words, kept):
    packets = [*handshake(), (tcp(OTHER, VIP, "S"), PREROUTING), (tcp("192.168.10.7:1", VIP, "A"), PREROUTING),
               (udp(OTHER, "192.168.10.1:53"), PREROUTING)]
    assert len(traced(engine, *packets, **words)) == kept


@pytest.mark.parametrize(("words", "told"), [
    ({"client": "web"}, "a name"), ({"service": "fwmark:x"}, "mark"), ({"state": "OPEN"}, "unknown state"),
    ({"state": "establish"}, "did you mean 'established'"), ({"state": "assured"}, "unknown state"),    # a template's
    ({"server": "10.0.0.1:x"}, "port 'x'"), ({"client": "10.0.0.1:"}, "port ''"), ({"every": 0}, "one packet in 0"),
    ({"service": f"udp:{VIP}", "state": "ESTABLISHED"}, "its states are UDP")])
def test_a_filter_that_means_nothing_is_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        wanted(**words)


def kept_by(engine, packet, hook, filters, **how):
    """Return which of the *filters*, each said alone, show a packet that the engine decides the same way each time."""
    return [words for words in filters if traced(engine, (packet, hook), **how, **words)]


def test_a_connection_that_starts_over_is_new_and_says_what_was_there(engine):
    closed = [*handshake(), (tcp(CLIENT, VIP, "FA"), PREROUTING), (tcp(WEB, CLIENT, "FA"), POSTROUTING)]
    assert traced(engine, *closed)[-1].state_after == "TIME_WAIT"
    (again,) = traced(engine, (tcp(CLIENT, VIP, "S"), PREROUTING), (tcp(WEB, CLIENT, "SA"), POSTROUTING), only_new=True)
    assert (again.is_new, again.state_before, again.state_after) == (True, "TIME_WAIT", "SYN_RECV")
    assert "  TIME_WAIT, new → SYN_RECV  nat " in again.line()


@pytest.mark.parametrize(("client", "vip", "web"), [
    (CLIENT, "192.168.10.1:53", "192.168.20.1:53"),
    ("[2001:db8::9]:40000", "[2001:db8::1]:53", "[2001:db8:20::1]:53")])
def test_datagrams_of_one_packet_connections_are_found_both_ways(engine, client, vip, web):
    engine.add_service(key(f"udp:{vip}"), "rr", OPS | OPS_REPLIES)
    engine.add_server(key(f"udp:{vip}"), *endpoint(web), family=family_of(web))
    host = client.rpartition(":")[0]
    both = [{}, {"service": f"udp:{vip}"}, {"client": host}, {"client": client}, {"server": web}]
    others = [{"service": f"udp:{vip}1"}, {"client": f"{host}:1"}, {"server": f"{web}1"}, {"only_drops": True},
              {"state": "UDP"}]         # a connection that is gone with its packet is in no state

    assert kept_by(engine, udp(client, vip), PREROUTING, [*both, {"only_new": True}, *others]) == [
        *both, {"only_new": True}]
    assert kept_by(engine, udp(web, client), POSTROUTING, [*both, {"only_new": True}, *others]) == both


def test_replies_that_the_kernel_rewrites_are_found_by_the_service(engine):
    engine.add_service(key("tcp:192.168.10.1:81"), "rr")
    engine.add_server(key("tcp:192.168.10.1:81"), *endpoint("192.168.20.1:81"), steer=7)
    traced(engine, (tcp(CLIENT, "192.168.10.1:81", "S"), PREROUTING))
    answer = tcp("192.168.20.1:81", CLIENT, "SA", bytes(200))
    found = [{"service": "192.168.10.1:81"}, {"client": CLIENT}, {"server": "192.168.20.1:81"}, {"state": "syn_recv"}]
    assert kept_by(engine, answer, POSTROUTING, [*found, {"service": VIP}, {"only_new": True}], headers=128) == found
    (steered,) = traced(engine, (answer, POSTROUTING), headers=128)
    assert (steered.steer > 0, steered.what_after) == (True, NOTHING)


@pytest.mark.parametrize(("client", "vip", "web", "router"), [
    (CLIENT, VIP, WEB, "10.1.1.1"),
    ("[2001:db8::9]:40000", "[2001:db8::1]:80", "[2001:db8:20::1]:80", "[2001:db8:30::1]")])
def test_icmp_errors_are_found_by_the_connection_that_they_are_about(engine, client, vip, web, router):
    if family_of(vip) == AF_INET6:
        add_service(engine, f"tcp:{vip}", web)
    traced(engine, (tcp(client, vip, "S"), PREROUTING))
    host, where, real = (text.rpartition(":")[0] for text in (client, vip, web))
    kind, code = (1, 4) if family_of(vip) == AF_INET6 else (3, 3)
    filters = [{"client": client}, {"client": host}, {"service": vip}, {"server": real}, {"server": web},
               {"state": "SYN_RECV"}]
    others = [{"client": router}, {"service": f"udp:{vip}"}, {"only_new": True}, {"state": "ESTABLISHED"}]

    to_server = icmp_error(router.strip("[]"), where.strip("[]"), kind, code, tcp(vip, client, "SA"))
    assert kept_by(engine, to_server, PREROUTING, [*filters, *others]) == filters
    to_client = icmp_error(real.strip("[]"), host.strip("[]"), kind, code, tcp(client, web, "S"))
    assert kept_by(engine, to_client, POSTROUTING, [*filters, *others]) == filters

    (seen,) = traced(engine, (to_server, PREROUTING))
    assert (seen.server, seen.state_before, seen.state_after, seen.is_new) == (web, "SYN_RECV", "SYN_RECV", False)
    unknown = icmp_error(real.strip("[]"), host.strip("[]"), kind, code, tcp(client, f"{web}1", "S"))
    assert kept_by(engine, unknown, POSTROUTING, [{}, {"client": host}, *filters[2:]]) == [{}, {"client": host}]


def test_an_icmp_error_that_opens_a_connection_is_new(engine):
    engine.set_sysctl("schedule_icmp", 1)
    error = icmp_error("10.1.1.1", "192.168.10.1", 3, 3, tcp(VIP, CLIENT, "SA"))
    (first,) = traced(engine, (error, PREROUTING), only_new=True, service=VIP, client=CLIENT, server=WEB)
    assert (first.is_new, first.state_before, first.state_after) == (True, "", "NONE")


def test_an_error_about_a_tunnel_is_found_by_the_connection_inside(engine):
    engine.set_server(key(f"tcp:{VIP}"), *endpoint(WEB), 0)
    engine.add_server(key(f"tcp:{VIP}"), *endpoint("192.168.20.2:80"), mode=TUN)
    (syn,) = traced(engine, (tcp(CLIENT, VIP, "S"), PREROUTING))
    engine.set_local_addresses({address("192.168.20.254")})
    error = icmp_error("10.1.1.1", "192.168.20.254", 3, 1, bytes(syn.after))
    filters = [{"client": CLIENT}, {"service": VIP}, {"server": "192.168.20.2"}]
    assert kept_by(engine, error, LOCAL_IN, [*filters, {"server": "192.168.20.1"}]) == filters
    (told,) = traced(engine, (error, LOCAL_IN))
    assert told.what_after == ANSWER and f"ICMP to {CLIENT.partition(':')[0]}  DROP dropped_icmp_ours" in told.line()


def test_a_service_by_mark_is_found_by_its_mark_and_family(engine):
    engine.add_service(key("fwmark:7"), "rr")
    engine.add_server(key("fwmark:7"), *endpoint(WEB))
    syn = tcp(CLIENT, "192.168.10.3:80", "S")
    filters = [{"service": "fwmark:7"}, {"service": "fwmark:8"}, {"service": "fwmark:7/6"}]
    assert kept_by(engine, syn, PREROUTING, filters, mark=7) == [{"service": "fwmark:7"}]
    assert kept_by(engine, tcp(WEB, CLIENT, "SA"), POSTROUTING, filters) == [{"service": "fwmark:7"}]


def test_what_is_too_short_for_addresses_is_nobodys(engine):
    traced(engine, *[(tcp(CLIENT, VIP, "S"), PREROUTING)] * RING)       # every place of the ring has this client
    filters = [{}, {"client": CLIENT.rpartition(":")[0]}, {"only_drops": True}]
    assert kept_by(engine, b"\x45\0\0\x14", PREROUTING, filters) == [filters[0], filters[2]]


def test_an_answer_behind_more_headers_than_are_kept_is_found(engine):
    client, vip, web = "[2001:db8::9]:40000", "[2001:db8::1]:53", "[2001:db8:20::1]:53"
    engine.add_service(key(f"udp:{vip}"), "rr", OPS | OPS_REPLIES)
    engine.add_server(key(f"udp:{vip}"), *endpoint(web), family=AF_INET6)
    answer = udp(web, client, extensions=[(60, bytes([0, 127]) + bytes(1022))])
    filters = [{"service": f"udp:{vip}"}, {"server": web}, {"service": f"udp:{vip}1"}]
    assert kept_by(engine, answer, POSTROUTING, filters) == filters[:2]


def test_a_state_that_two_protocols_have_is_found_in_both(engine):
    service, client = "192.168.10.1:99", "192.168.10.9:40000"
    for protocol in ("tcp", "sctp"):
        add_service(engine, f"{protocol}:{service}", "192.168.20.1:99")
    packets = [(tcp(client, service, "S"), PREROUTING), (tcp("192.168.20.1:99", client, "SA"), POSTROUTING),
               (tcp(client, service, "A"), PREROUTING)]
    packets += [(sctp(client, service, chunk), PREROUTING) for chunk in (INIT, COOKIE_ECHO)]
    packets.insert(4, (sctp("192.168.20.1:99", client, INIT_ACK), POSTROUTING))
    packets.append((sctp("192.168.20.1:99", client, COOKIE_ACK), POSTROUTING))
    shown = traced(engine, *packets, state="established")
    assert [each.before[9] for each in shown] == [TCP, SCTP]


def test_a_full_ring_counts_what_it_cannot_keep_and_packets_go_on(engine):
    engine.trace_start(wanted())
    for number in range(RING + 100):
        packet = udp(f"192.168.10.9:{number + 1}", "192.168.10.1:53")
        assert engine.handle(packet, PREROUTING).action == 1
    page, counters = engine.trace_read(64)
    assert len(page) == 64 * RECORD.size
    assert counters == {"matched": RING, "kept": RING, "lost": 100, "waiting": RING - 64}
    engine.trace_stop()
    assert engine.trace_read(64) == (b"", {})


def test_a_trace_changes_no_decision(engine):
    plain = FastDirector(max_connections=1000)
    add_service(plain, f"tcp:{VIP}", WEB)
    engine.trace_start(wanted(every=3))
    for (one, hook), (other, _) in zip(handshake() * 3, handshake() * 3, strict=True):
        assert engine.handle(one, hook, now_ns=9) == plain.handle(other, hook, now_ns=9)
        assert one == other
    assert engine.statistics() == plain.statistics()
