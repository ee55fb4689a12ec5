"""Source hashing.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_sh.c)."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbq.model import SCTP, TCP, UDP
from lbq.schedulers import flag_names
from lbq.schedulers.hashing import hash32
from tests.unit.schedulers.conftest import CLIENT, Farm, flow

EIGHT = range(1, 9)
FALLBACK, PORT = flag_names("sh")["sh-fallback"], flag_names("sh")["sh-port"]


def test_sh_buckets_of_the_kernel():
    assert [hash32(CLIENT - 1 + number, 8) for number in EIGHT] == [192, 34, 131, 229, 71, 169, 11, 108]


def test_sh_gives_buckets_by_weight_round_and_round(farm):
    service = farm("sh", "A3 B2 C1")

    assert service.table_names() == ("CBBAAA" * 43)[:256]
    assert service.clients(EIGHT) == "C A A B A B A C"


def test_sh_without_the_port_flag_all_ports_of_a_client_are_one(farm):
    assert farm("sh", "A3 B2 C1").ports(range(40001, 40009)) == "C C C C C C C C"


@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_sh_port_spreads_the_connections_of_a_client(farm, protocol):
    service = farm("sh", "A3 B2 C1", flags=PORT)
    flows = [flow(CLIENT - 1 + number, 40000 + number, protocol=protocol) for number in EIGHT]

    assert service.ports(range(40001, 40009), protocol=protocol) == "C A A B A B A C"
    assert service.serve(*flows) == "C A A A B B B B"


def test_sh_port_does_not_look_for_ports_where_there_are_none(farm):
    service = farm("sh", "A3 B2 C1", flags=PORT)

    assert service.ports(range(40001, 40005), protocol=50) == service.ports([0] * 4)


def test_sh_a_quiesced_server_keeps_one_bucket_in_each_round_and_serves_nobody(farm):
    service = farm("sh", "A3 B2 C1")
    service.edit("A0")

    assert service.table_names() == ("CBBA" * 64)
    assert service.clients(EIGHT) == "C B - B - B - C"


def test_sh_an_overloaded_server_serves_nobody(farm):
    service = farm("sh", "A3 B2 C1")
    service.overload("A")

    assert service.clients(EIGHT) == "C - - B - B - C"


def test_sh_fallback_begins_at_twice_the_hash(farm):
    service = farm("sh", "A3 B2 C1", flags=FALLBACK)
    service.overload("A")

    assert service.clients(EIGHT) == "C B C B C B C C"


def test_sh_fallback_with_nobody_left(farm):
    service = farm("sh", "A3 B2 C1", flags=FALLBACK)
    service.overload("ABC")

    assert service.clients(EIGHT) == "- - - - - - - -"


def test_sh_flags_take_effect_at_the_next_packet(farm):
    service = farm("sh", "A3 B2 C1")
    service.overload("A")
    assert service.clients([2]) == "-"

    service.service.flags = FALLBACK
    assert service.clients([2]) == "B"
    service.service.flags = 0
    assert service.clients([2]) == "-"


def test_sh_every_change_makes_the_table_anew(farm):
    service = farm("sh", "A B")
    service.add("C2")
    assert service.table_names() == ("CCBA" * 64)
    service.edit("C1")
    assert service.table_names() == ("CBA" * 86)[:256]
    service.delete("B")
    assert service.table_names() == "CA" * 128
    service.delete("A")
    service.delete("C")
    assert service.table_names() == ""
    assert service.clients([1]) == "-"


def test_sh_a_weight_beyond_the_table_leaves_no_bucket_for_the_rest(farm):
    assert farm("sh", f"A1 B{2**31 - 1}").table_names() == "B" * 256


def test_sh_bound_late_knows_the_servers_that_are_there(farm):
    service = farm("rr", "A3 B2 C1")
    service.rebind("sh")

    assert service.clients(EIGHT) == "C A A B A B A C"


def kernels_choice(servers: list[tuple[str, int, bool]], flags: int, client: int, port: int) -> str:
    """Return whom ip_vs_sh.c chooses, bucket by bucket as it says it; *servers* in list order: name, weight, usable."""
    def bucket(offset: int) -> str:
        number = offset + ((port if flags & PORT else 0) + client) % 2**32 * 0x61C88647 % 2**32 // 2**24
        return table[number % 256]

    order = [name for name, weight, _ in servers for _ in range(max(1, weight))]
    table = [order[number % len(order)] for number in range(256)]
    usable = {name: weight > 0 and is_usable for name, weight, is_usable in servers}
    if usable[bucket(0)]:
        return bucket(0)
    first = ((port if flags & PORT else 0) + client) % 2**32 * 0x61C88647 % 2**32 // 2**24
    probes = [bucket((first + offset) % 256) for offset in range(256)] if flags & FALLBACK else []
    return next((name for name in probes if usable[name]), "-")


@given(st.lists(st.tuples(st.integers(0, 70), st.booleans()), min_size=1, max_size=9),
       st.sampled_from([0, PORT, FALLBACK, PORT | FALLBACK]), st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_sh_chooses_as_a_model_of_it_does(made, flags, client, port):
    names = "ABCDEFGHI"[:len(made)]
    servers = [(name, *each) for name, each in zip(names, made, strict=True)]
    service = Farm("sh", " ".join(f"{name}{weight}" for name, weight, _ in servers), flags=flags)
    service.overload([name for name, _, usable in servers if not usable])

    assert service.serve(flow(client, port)) == kernels_choice(servers[::-1], flags, client, port)
