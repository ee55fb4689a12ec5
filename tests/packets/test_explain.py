"""What `lbq explain` foretells beyond the kernel's scenarios, held against what both engines then do (Explained)."""
from __future__ import annotations

import pytest

from lbq.model import OPS, OPS_REPLIES, PERSISTENT
from tests.helpers.engines import ENGINES, POSTROUTING, PREROUTING, add_service, endpoint, key
from tests.helpers.explained import SEEN, Explained
from tests.helpers.packets import read, tcp, udp

VIP, WEB, OTHER_WEB = "192.168.10.1:80", "192.168.20.1:80", "192.168.20.2:80"
DNS, DNS_SERVER = "udp:192.168.10.1:53", "192.168.20.1:53"


@pytest.fixture(params=[name for name in ENGINES if name in ("reference", "fast")])
def make(request):
    """Return a function that makes an explained engine; at the end every packet must have been explained."""
    SEEN.clear()

    def make(**options) -> Explained:
        engine = Explained(engine=ENGINES[request.param], **options)
        engine.limit_icmp(False)
        return engine

    yield make
    assert set(SEEN) <= {"explained", "errors"} and SEEN["explained"]


def test_a_full_table_has_no_room_for_one_more(make):
    engine = make(max_connections=3)
    add_service(engine, f"tcp:{VIP}", WEB)
    for port in range(1, 6):
        engine.handle(tcp(f"192.168.10.9:{port}", VIP, "S"), PREROUTING)
    assert engine.statistics()["dropped_table_full"] == 2


def test_a_persistent_client_takes_two_places(make):
    engine = make(max_connections=3)
    engine.add_service(key(f"tcp:{VIP}"), "rr", PERSISTENT, 300)
    engine.add_server(key(f"tcp:{VIP}"), *endpoint(WEB))
    for client in range(1, 4):
        engine.handle(tcp(f"192.168.10.{client}:1", VIP, "S"), PREROUTING)
    assert engine.statistics()["dropped_table_full"] == 2


def test_whom_twos_draws_next(make):
    engine = make(max_connections=1000)
    add_service(engine, f"tcp:{VIP}", f"{WEB},3", f"{OTHER_WEB},1", "192.168.20.3:80,0", scheduler="twos")
    for port in range(1, 101):
        engine.handle(tcp(f"192.168.10.9:{port}", VIP, "S"), PREROUTING)
    assert SEEN["explained"] == 100


def test_an_answer_to_a_datagram_that_was_scheduled_by_itself_comes_from_the_vip(make):
    engine = make(max_connections=10)
    engine.add_service(key(DNS), "rr", OPS | OPS_REPLIES)
    engine.add_server(key(DNS), *endpoint(DNS_SERVER))
    answer = udp(DNS_SERVER, "192.168.10.9:40000", b"hello")
    engine.handle(answer, POSTROUTING)
    assert read(answer).source == "192.168.10.1:53"


@pytest.mark.parametrize("told", [0, 1])
def test_what_a_server_sends_outside_of_connections(make, told):
    engine = make(max_connections=10)
    add_service(engine, f"tcp:{VIP}", WEB)
    engine.set_sysctl("nat_icmp_send", told)
    engine.handle(tcp(WEB, "192.168.10.9:40000", "SA"), POSTROUTING)
    assert engine.statistics()["dropped_nat_icmp" if told else "passed_no_connection"] == 1
