"""What lbq's own options of a service change, where users suffer from the kernel's behaviour (docs/better.md)."""
from __future__ import annotations

import pytest

from lbq.model import END_DELETED, MOVE_QUIESCED, NAT, OPS, OPS_REPLIES, PERSISTENT, SCTP, UDP
from tests.helpers import engines, packets
from tests.helpers.cases import (
    CLIENT,
    DNS,
    WEB,
    Case,
    call,
    client,
    comes_from,
    command,
    connection,
    connections,
    dropped,
    passed,
    persistent,
    refused,
    server,
    service,
    shows,
    sysctl,
    to,
    wait,
)
from tests.helpers.engines import key
from tests.helpers.packets import address, endpoint

ONE, TWO = "192.168.20.1:80", "192.168.20.2:80"
DNS_ONE, DNS_TWO = "192.168.20.1:53", "192.168.20.2:53"
RESOLVER = client(vip="192.168.10.1:53")


def at(port):
    """Return the client with another port."""
    return client(f"192.168.10.9:{port}")


def with_flags(name, *servers, flags=0, idle=0):
    """Configure a round-robin service that has more than its scheduler."""
    def step(world):
        world.engine.add_service(key(name), "rr", flags, 0, 0xFFFFFFFF, idle)
        for each in servers:
            world.engine.add_server(key(name), *endpoint(each))

    return step


def ends(*keys, count):
    """End connections by what they are found by; expect so many to end."""
    def step(world):
        assert world.engine.end_connections(list(keys)) == count

    return step


def a_connection(name, source, port):
    """Return what the connection of *source* is found by."""
    service_key = key(name)
    return service_key.protocol, address(source), port, service_key.address, service_key.port


CASES = [
    Case("end-deleted: a deleted server's client starts over, whatever the sysctl says",
         with_flags(WEB, ONE, TWO, flags=END_DELETED), at(1).syn() >> to(TWO), at(2).syn() >> to(ONE),
         command("delete_server", WEB, TWO), at(1).ack() >> passed("not_opening"), at(1).syn() >> to(ONE),
         connections(2)),
    Case("end-deleted: all of its connections end by the next tick, with their templates",
         persistent(WEB, ONE, TWO, flags=PERSISTENT | END_DELETED), client().syn() >> to(TWO),
         client("192.168.10.8:7").syn() >> to(ONE), command("delete_server", WEB, TWO), wait(1),
         connections(2), client().syn() >> to(ONE)),
    Case("end-deleted: UDP moves with its next datagram",
         with_flags(DNS, DNS_ONE, DNS_TWO, flags=END_DELETED), RESOLVER.udp() >> to(DNS_TWO),
         command("delete_server", DNS, DNS_TWO), RESOLVER.udp() >> to(DNS_ONE), connections(1)),
    Case("end-deleted: a server that is added again has nothing of what it had",
         with_flags(WEB, ONE, TWO, flags=END_DELETED), at(1).syn() >> to(TWO), command("delete_server", WEB, TWO),
         wait(1), command("add_server", WEB, TWO), shows(WEB, TWO, active=0, inactive=0, persistent=0),
         at(1).ack() >> passed("not_opening")),
    Case("end-deleted: also when the whole service is deleted",
         with_flags(WEB, ONE, flags=END_DELETED), service(DNS), at(1).syn() >> to(ONE),
         command("delete_service", WEB), wait(1), connections(0)),
    Case("end-deleted concerns its own service only",
         with_flags(DNS, DNS_ONE, flags=END_DELETED), service(WEB, ONE), at(1).syn() >> to(ONE),
         RESOLVER.udp() >> to(DNS_ONE), command("delete_server", WEB, ONE), command("delete_server", DNS, DNS_ONE),
         wait(1), connections(1), at(1).ack() >> dropped("server_gone")),
    Case("end-deleted is asked when the server is deleted, not later",
         service(WEB, ONE, TWO), at(1).syn() >> to(TWO), command("delete_server", WEB, TWO),
         call("set_service", key(WEB), "rr", END_DELETED, 0, 0xFFFFFFFF), wait(1),
         at(1).ack() >> dropped("server_gone")),

    Case("move-quiesced: UDP leaves a quiesced server with its next datagram",
         with_flags(DNS, DNS_ONE, DNS_TWO, flags=MOVE_QUIESCED), RESOLVER.udp() >> to(DNS_TWO),
         command("set_server", DNS, DNS_TWO, 0), RESOLVER.udp() >> to(DNS_ONE), RESOLVER.udp() >> to(DNS_ONE),
         connections(1), shows(DNS, DNS_TWO, inactive=0), shows(DNS, DNS_ONE, inactive=1, conns=1)),
    Case("move-quiesced: TCP finishes what it has, and begins anew elsewhere",
         with_flags(WEB, ONE, TWO, flags=MOVE_QUIESCED), client().syn() >> to(TWO),
         command("set_server", WEB, TWO, 0), client().ack() >> to(TWO), client().fin() >> to(TWO),
         client().syn() >> to(ONE), connections(1)),
    Case("move-quiesced: without another server a client stays",
         with_flags(DNS, DNS_ONE, flags=MOVE_QUIESCED), RESOLVER.udp() >> to(DNS_ONE),
         command("set_server", DNS, DNS_ONE, 0), RESOLVER.udp() >> to(DNS_ONE),
         connection(CLIENT, packets_in=2), client("192.168.10.8:9", vip="192.168.10.1:53").udp() >> refused),
    Case("move-quiesced: persistence forgets a quiesced server",
         persistent(WEB, ONE, TWO, flags=PERSISTENT | MOVE_QUIESCED), at(1).syn() >> to(TWO),
         at(2).syn() >> to(TWO), command("set_server", WEB, TWO, 0), at(3).syn() >> to(ONE), at(4).syn() >> to(ONE),
         at(1).ack() >> to(TWO)),
    Case("move-quiesced: UDP under persistence moves too",
         persistent(DNS, DNS_ONE, DNS_TWO, flags=PERSISTENT | MOVE_QUIESCED), RESOLVER.udp() >> to(DNS_TWO),
         command("set_server", DNS, DNS_TWO, 0), RESOLVER.udp() >> to(DNS_ONE)),
    Case("without it UDP stays with a quiesced server, as in the kernel, also with expire_nodest_conn",
         service(DNS, DNS_ONE, DNS_TWO), sysctl("expire_nodest_conn", 1), RESOLVER.udp() >> to(DNS_TWO),
         command("set_server", DNS, DNS_TWO, 0), RESOLVER.udp() >> to(DNS_TWO)),

    Case("ops-replies: an answer to a one-packet datagram comes from the VIP, and is counted",
         with_flags(DNS, "192.168.20.1:5353", flags=OPS | OPS_REPLIES), RESOLVER.udp() >> to("192.168.20.1:5353"),
         server("192.168.20.1:5353").udp() >> comes_from("192.168.10.1:53"),
         shows(DNS, "192.168.20.1:5353", conns=1, packets_in=1, packets_out=1, bytes_out=36), connections(0)),
    Case("ops-replies: a service of every port answers from the port that was asked",
         persistent("udp:192.168.10.1:0", "192.168.20.1:0", flags=PERSISTENT | OPS | OPS_REPLIES),
         client(vip="192.168.10.1:99").udp() >> to("192.168.20.1:99"),
         server("192.168.20.1:99").udp() >> comes_from("192.168.10.1:99")),
    Case("ops-replies: what two services may have sent is not guessed",
         with_flags(DNS, DNS_ONE, flags=OPS | OPS_REPLIES),
         with_flags("udp:192.168.10.2:53", DNS_ONE, flags=OPS | OPS_REPLIES),
         server(DNS_ONE).udp() >> passed("no_connection")),
    Case("ops-replies: only UDP, only its servers, only their ports",
         with_flags(DNS, DNS_ONE, flags=OPS | OPS_REPLIES), server(DNS_ONE).ack() >> passed("no_connection"),
         server(DNS_TWO).udp() >> passed("no_connection"), server("192.168.20.1:54").udp() >> passed("no_connection")),
    Case("ops-replies: without one-packet scheduling there are connections for that",
         with_flags(DNS, DNS_ONE, flags=OPS_REPLIES), server(DNS_ONE).udp() >> passed("no_connection")),
    Case("ops-replies: a deleted server answers no more",
         with_flags(DNS, DNS_ONE, flags=OPS | OPS_REPLIES), command("delete_server", DNS, DNS_ONE),
         server(DNS_ONE).udp() >> passed("no_connection")),
    Case("without it the answer leaves as it is, as in the kernel",
         with_flags(DNS, DNS_ONE, flags=OPS), RESOLVER.udp() >> to(DNS_ONE),
         server(DNS_ONE).udp() >> passed("no_connection")),

    Case("idle: an established connection ends after as many seconds as its service says",
         with_flags(WEB, ONE, idle=30), client().syn() >> to(ONE), connection(CLIENT, expires_seconds=60),
         client().ack() >> to(ONE), connection(CLIENT, expires_seconds=30), wait(31), connections(0)),
    Case("idle: it may also be longer than the director's",
         with_flags(WEB, ONE, idle=7200), client().syn() >> to(ONE), client().ack() >> to(ONE), wait(7199),
         connections(1), client().fin() >> to(ONE), connection(CLIENT, state="CLOSE_WAIT", expires_seconds=60)),
    Case("idle: a UDP connection likewise, from both sides",
         with_flags(DNS, DNS_ONE, idle=5), RESOLVER.udp() >> to(DNS_ONE), wait(4),
         server(DNS_ONE).udp() >> comes_from("192.168.10.1:53"), connection(CLIENT, expires_seconds=5), wait(6),
         connections(0)),
    Case("idle: other services have the director's timeouts",
         with_flags(WEB, ONE, idle=5), service(DNS, DNS_ONE), RESOLVER.udp() >> to(DNS_ONE),
         connection(CLIENT, expires_seconds=300)),
    Case("idle: a change holds for a connection from its next packet on",
         service(WEB, ONE), client().syn() >> to(ONE), client().ack() >> to(ONE),
         call("set_service", key(WEB), "rr", 0, 0, 0xFFFFFFFF, 9), connection(CLIENT, expires_seconds=900),
         client().ack() >> to(ONE), connection(CLIENT, expires_seconds=9),
         call("set_service", key(WEB), "rr", 0, 0, 0xFFFFFFFF), client().ack() >> to(ONE),
         connection(CLIENT, expires_seconds=900)),
    Case("idle: a server added later has it, too",
         with_flags(WEB, idle=9), command("add_server", WEB, ONE), client().syn() >> to(ONE), client().ack() >> to(ONE),
         connection(CLIENT, expires_seconds=9)),

    Case("a connection that is ended starts over",
         service(WEB, ONE, TWO), at(1).syn() >> to(TWO), at(2).syn() >> to(ONE),
         ends(a_connection(WEB, "192.168.10.9", 1), a_connection(WEB, "192.168.10.9", 3), count=1), connections(1),
         shows(WEB, TWO, active=0, inactive=0), at(1).ack() >> passed("not_opening"), at(1).syn() >> to(TWO)),
    Case("a template ends only when it governs nothing",
         persistent(WEB, ONE, TWO), client().syn() >> to(TWO), connections(2),
         ends(a_connection(WEB, "192.168.10.9", 0), count=0), connections(2),
         ends(a_connection(WEB, "192.168.10.9", 40000), a_connection(WEB, "192.168.10.9", 0), count=1), connections(0),
         client().syn() >> to(ONE)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_better(engine, case):
    case.play(engine)


def test_an_assured_template_is_ended_after_its_connections(engine):
    Case("", persistent(WEB, ONE, TWO), client().syn() >> to(TWO), client().ack() >> to(TWO),
         ends(a_connection(WEB, "192.168.10.9", 40000), count=1), connections(1),
         ends(a_connection(WEB, "192.168.10.9", 0), count=1), connections(0)).play(engine)


def test_sctp_leaves_a_quiesced_server_with_its_init(engine):
    name = "sctp:192.168.10.1:80"

    def init(world):
        source, vip = address("192.168.10.9"), address("192.168.10.1")
        header = (7).to_bytes(2, "big") + (80).to_bytes(2, "big") + bytes(8)
        packet = packets.ipv4(SCTP, source, vip, header + bytes([1, 0, 0, 4]))
        world.engine.handle(bytearray(packet), 0, 0, 0, world.now_ns)

    Case("", with_flags(name, ONE, TWO, flags=MOVE_QUIESCED), init, shows(name, TWO, inactive=1),
         call("set_server", key(name), *endpoint(TWO), 0), init, shows(name, TWO, inactive=0),
         shows(name, ONE, inactive=1)).play(engine)


def test_what_starts_over_is_counted(engine):
    Case("", service(WEB, ONE), client().syn() >> to(ONE), client().rst() >> to(ONE), client().ack() >> to(ONE),
         client().fin() >> to(ONE)).play(engine)
    assert engine.statistics()["started_over"] == 0

    Case("", sysctl("expire_nodest_conn", 1), command("set_server", WEB, ONE, 0), command("add_server", WEB, TWO),
         client().syn() >> to(TWO)).play(engine)
    assert engine.statistics()["started_over"] == 1


def test_adding_and_deleting_say_how_many_connections_the_server_has(engine):
    Case("", service(WEB, ONE), at(1).syn() >> to(ONE), at(2).syn() >> to(ONE)).play(engine)

    assert engine.delete_server(key(WEB), *endpoint(ONE)) == 2
    assert engine.add_server(key(WEB), *endpoint(ONE), 1, NAT) == 2
    assert engine.add_server(key(WEB), *endpoint(TWO)) == 0


def test_the_listing_tells_what_a_service_asks_for(engine):
    engine.add_service(key(DNS), "rr", OPS | OPS_REPLIES | END_DELETED | MOVE_QUIESCED, 0, 0xFFFFFFFF, 7)
    engine.add_server(key(DNS), *endpoint(DNS_ONE), 1, NAT, 1, 0)
    Case("", client(vip="192.168.10.1:53").udp() >> to(DNS_ONE)).play(engine)

    row, = engines.services(engine)

    assert row["protocol"] == "udp" and key(DNS).protocol == UDP
    assert row["flags"] == ["ops", "end-deleted", "move-quiesced", "ops-replies"]
    assert row["idle"] == 7
    assert row["servers"][0]["overloaded"] is False     # its one packet is over


def test_a_server_over_its_threshold_is_listed_so(engine):
    engine.add_service(key(WEB), "rr")
    engine.add_server(key(WEB), *endpoint(ONE), 1, NAT, 1, 0)
    Case("", client().syn() >> to(ONE)).play(engine)

    assert engines.servers(engine, WEB)[ONE]["overloaded"] is True
