"""What each sysctl changes for packets, and the counters that the listings show."""
from __future__ import annotations

import pytest

from lbq.model import Verdict
from tests.helpers import engines
from tests.helpers.cases import (
    WEB,
    Case,
    call,
    client,
    comes_from,
    command,
    connection,
    connections,
    dropped,
    local_addresses,
    passed,
    refused,
    server,
    service,
    shows,
    sysctl,
    to,
    wait,
)
from tests.helpers.engines import NS, key

ONE, TWO, VIP = "192.168.20.1:80", "192.168.20.2:80", "192.168.10.1:80"
MARK = key(WEB)._replace(address=0, port=0, fwmark=7)


def at(port):
    """Return the client with another port."""
    return client(f"192.168.10.9:{port}")


def bypassed(result):
    """Expect the packet as it was, with a connection of its own, to be routed as if it had no mark."""
    assert (result.verdict, result.came_out) == (Verdict(1, unmarked=True), result.sent)
    assert result.counted["passed_bypass"] == 1


def shown(conns):
    """Expect so many connections in the counters that ipvsadm would show."""
    def step(world):
        assert engines.servers(world.engine, WEB)[ONE]["shown"]["conns"] == conns

    return step


CASES = [
    Case("expire_nodest_conn: a SYN of a deleted server's client is scheduled afresh, its other packets go on",
         service(WEB, ONE, TWO), at(1).syn() >> to(TWO), at(2).syn() >> to(ONE), at(3).syn() >> to(TWO),
         command("delete_server", WEB, TWO), sysctl("expire_nodest_conn", 1),
         at(1).ack() >> passed("not_opening"), at(3).syn() >> to(ONE), connections(2)),
    Case("expire_nodest_conn: connections of a server that is deleted end with the next tick",
         service(WEB, ONE, TWO), sysctl("expire_nodest_conn", 1),
         at(1).syn() >> to(TWO), at(2).syn() >> to(ONE),
         command("delete_server", WEB, TWO), wait(1), connections(1)),
    Case("expire_nodest_conn: a SYN to a quiesced server starts over, an ACK does not",
         service(WEB, ONE, TWO), sysctl("expire_nodest_conn", 1), at(1).syn() >> to(TWO),
         command("set_server", WEB, TWO, 0), at(1).ack() >> to(TWO), at(1).syn() >> to(ONE), connections(1)),
    Case("conn_reuse_mode=0: a finished connection stays with its server",
         service(WEB, ONE, TWO), sysctl("conn_reuse_mode", 0),
         at(1).syn() >> to(TWO), at(1).fin() >> to(TWO), at(1).syn() >> to(TWO),
         connection("192.168.10.9:1", state="SYN_RECV", packets_in=3)),
    Case("sloppy_tcp: any segment but a reset opens a connection, in the state it says",
         service(WEB, ONE), sysctl("sloppy_tcp", 1),
         at(1).ack() >> to(ONE), connection("192.168.10.9:1", state="ESTABLISHED"),
         at(2).fin() >> to(ONE), connection("192.168.10.9:2", state="CLOSE"),
         at(3).rst() >> passed("not_opening")),
    Case("secure_tcp: only the server's own word establishes a connection",
         service(WEB, ONE), sysctl("secure_tcp", 3),
         at(1).syn() >> to(ONE), server(to_client="192.168.10.9:1").synack() >> comes_from(VIP),
         connection("192.168.10.9:1", state="SYNACK"), at(1).ack() >> to(ONE),
         connection("192.168.10.9:1", state="SYNACK"),
         server(to_client="192.168.10.9:1").ack() >> comes_from(VIP),
         connection("192.168.10.9:1", state="ESTABLISHED")),
    Case("drop_packet: the first of every three new connections is dropped, known ones never",
         service(WEB, ONE), sysctl("am_droprate", 3), sysctl("drop_packet", 3),
         at(1).syn() >> dropped("defence"), at(2).syn() >> to(ONE), at(3).syn() >> to(ONE),
         at(2).ack() >> to(ONE), at(4).syn() >> dropped("defence"), at(5).syn() >> to(ONE)),
    Case("cache_bypass: without a server a marked packet goes on to where it wanted, and is remembered",
         call("add_service", MARK, "rr"), at(1).syn().marked(7) >> refused,
         sysctl("cache_bypass", 1), at(1).syn().marked(7) >> bypassed,
         connection("192.168.10.9:1", daddr="0.0.0.0", dport=0, state="SYN_RECV"),
         at(2).syn() >> passed("no_service")),
    Case("cache_bypass: what is for the director itself is refused all the same",
         call("add_service", MARK, "rr"), sysctl("cache_bypass", 1), local_addresses("192.168.10.1"),
         at(1).syn().marked(7) >> refused),
    Case("a mark comes before the address, and without a service of its own does not matter",
         service(WEB, ONE), call("add_service", MARK, "rr"), call("add_server", MARK, *engines.endpoint(TWO)),
         at(1).syn().marked(7) >> to(TWO), at(2).syn().marked(8) >> to(ONE), at(3).syn() >> to(ONE)),
    Case("counters shown stand still between rounds, and with run_estimation=0",
         service(WEB, ONE), wait(2), at(1).syn() >> to(ONE), shown(0), wait(2), shown(1),
         sysctl("run_estimation", 0), at(2).syn() >> to(ONE), wait(4), shown(1), shows(WEB, ONE, conns=2)),
    Case("zeroing starts from the last snapshot: what came since shows all the same",
         service(WEB, ONE), at(1).syn() >> to(ONE), wait(2), at(2).syn() >> to(ONE),
         call("zero"), shows(WEB, ONE, conns=1), shown(0), wait(2), shown(1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sysctls(case, engine):
    case.play(engine)


def test_drop_entry_ends_half_open_connections_and_no_busy_ones(engine):
    Case("", service(WEB, ONE), sysctl("drop_entry", 3),
         *[at(port).syn() >> to(ONE) for port in range(1, 41) if port != 20],
         at(1).ack() >> to(ONE)).play(engine)
    start_ns = 1_000 * NS

    for tick in range(2000):
        engine.tick(start_ns + tick)

    (left,) = engines.connections(engine)
    assert (left["cport"], left["state"]) == (1, "ESTABLISHED")
