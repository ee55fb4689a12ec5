"""Maglev.  The histories and numbers are those of running kernels 6.1.176 and 6.1.192 (ip_vs_mh.c)."""
from __future__ import annotations

from collections import Counter
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq.errors import ServiceError
from lbq.model import SCTP, TCP, UDP
from lbq.schedulers import flag_names
from lbq.schedulers.mh import hashed, siphash
from tests.unit.schedulers.conftest import CLIENT, KEY, SERVERS, Farm, flow

EIGHT = range(1, 9)
SIZE = 4093
FALLBACK, PORT = flag_names("mh")["mh-fallback"], flag_names("mh")["mh-port"]
OFFSET_KEY, SKIP_KEY = 2654435761, 2654446892


# The first and second hash, offset and skip of 10.1.0.1:80 and its neighbours.
@pytest.mark.parametrize(("server", "first", "second", "offset", "skip"), [
    (1, 0x17C87AC9, 0x61487D80, 310, 1461),
    (2, 0x96828D0D, 0x86F5FC4B, 2769, 572),
    (3, 0x41CFF02C, 0x41BA9D68, 2424, 45),
])
def test_mh_hashes_of_the_kernel(server, first, second, offset, skip):
    assert hashed(SERVERS + server, 80, OFFSET_KEY, 0) == first
    assert hashed(SERVERS + server, 80, SKIP_KEY, 0) == second
    assert (first % SIZE, second % (SIZE - 1) + 1) == (offset, skip)


def test_mh_hash_wraps_at_32_bits():
    assert hashed(0xFFFFFFFF, 65535, OFFSET_KEY, 4092) == hashed(65534 + 4092, 0, OFFSET_KEY, 0)


def published_siphash(data: bytes, k0: int, k1: int, rounds: int, final_rounds: int) -> int:
    """Return SipHash as its paper has it (Aumasson, Bernstein 2012), for any data and number of rounds."""
    def rotate(word: int, by: int) -> int:
        return (word << by | word >> 64 - by) % 2**64

    def round_of(a, b, c, d):
        a = (a + b) % 2**64
        b = rotate(b, 13) ^ a
        a = rotate(a, 32)
        c = (c + d) % 2**64
        d = rotate(d, 16) ^ c
        a = (a + d) % 2**64
        d = rotate(d, 21) ^ a
        c = (c + b) % 2**64
        b = rotate(b, 17) ^ c
        return a, b, rotate(c, 32), d

    v = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at:at + 8], "little")
        v = (*v[:3], v[3] ^ word)
        for _ in range(rounds):
            v = round_of(*v)
        v = (v[0] ^ word, *v[1:])
    v = (*v[:2], v[2] ^ 0xFF, v[3])
    for _ in range(final_rounds):
        v = round_of(*v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_published_siphash_is_that_of_its_paper():
    key = bytes(range(16))
    halves = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")

    assert published_siphash(bytes(range(15)), *halves, 2, 4) == 0xA129CA6149BE45E5


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_mh_siphash_is_the_published_one_with_one_round_and_three(value, key):
    assert siphash(value, key) == published_siphash(value.to_bytes(4, "little"), key, key, 1, 3)


def test_mh_table_of_the_kernel(farm):
    names = farm("mh", "A3 B2 C1").table_names()

    assert names[:16] == "CAAACBABBABACAAA"
    assert Counter(names) == {"A": 2046, "B": 1364, "C": 683}


def test_mh_scales_large_weights_down(farm):
    assert Counter(farm("mh", "A1000 B100 C1").table_names()) == {"A": 3673, "B": 360, "C": 60}


def test_mh_clients_of_the_kernel(farm):
    assert farm("mh", "A3 B2 C1").clients(EIGHT) == "B C A A A A C A"


@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_mh_port_spreads_the_connections_of_a_client(farm, protocol):
    flows = [flow(CLIENT - 1 + number, 40000 + number, protocol=protocol) for number in EIGHT]

    assert farm("mh", "A3 B2 C1", flags=PORT).serve(*flows) == "A B B B C A A A"
    assert farm("mh", "A3 B2 C1").serve(*flows) == "B C A A A A C A"


def test_mh_quiescing_moves_nobody(farm):
    service = farm("mh", "A3 B2 C1")
    before = service.table_names()
    service.edit("A0")

    assert service.table_names() == before
    assert service.clients(EIGHT) == "B C - - - - C -"
    service.edit("A3")
    assert service.clients(EIGHT) == "B C A A A A C A"


def test_mh_an_overloaded_server_serves_nobody(farm):
    service = farm("mh", "A3 B2 C1")
    service.overload("A")

    assert service.clients(EIGHT) == "B C - - - - C -"


def test_mh_fallback_hashes_again(farm):
    service = farm("mh", "A3 B2 C1", flags=FALLBACK)
    service.overload("A")

    assert service.clients(EIGHT) == "B C C B B B C B"


def test_mh_fallback_with_nobody_left(farm):
    service = farm("mh", "A3 B2 C1", flags=FALLBACK)
    service.overload("ABC")

    assert service.clients([1, 2]) == "- -"


def test_mh_flags_take_effect_at_the_next_packet(farm):
    service = farm("mh", "A3 B2 C1")
    service.overload("A")
    assert service.clients([3]) == "-"

    service.service.flags = FALLBACK
    assert service.clients([3]) == "C"


def test_mh_a_server_added_with_weight_0_has_no_slots_until_it_has_a_weight(farm):
    service = farm("mh", "A1 B0")
    assert Counter(service.table_names()) == {"A": SIZE}

    service.edit("B1")
    assert Counter(service.table_names()) == {"A": 2046, "B": 2047}


def test_mh_few_clients_move_when_a_server_goes(farm):
    service = farm("mh", "A B C D E F G H I J")
    before = service.table_names()
    service.delete("E")
    after = service.table_names()

    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert before.count("E") <= moved < 2 * before.count("E")


def test_mh_comes_back_to_the_same_table(farm):
    service = farm("mh", "A3 B2 C1")
    before = service.table_names()
    service.delete("C")
    service.add("C1")

    assert service.table_names() == before


def test_mh_a_deleted_server_that_is_added_again_with_weight_0_has_no_slots(farm):
    service = farm("mh", "A1 B1")
    service.delete("B")
    service.add("B0")

    assert service.table_names() == "A" * SIZE


@pytest.mark.parametrize("servers", ["", "A0", "A0 B0"])
def test_mh_without_a_usable_server_chooses_nobody(farm, servers):
    service = farm("mh", servers, flags=FALLBACK)

    assert service.table_names() == ""
    assert service.clients([1]) == "-"


def test_mh_bound_late_knows_the_servers_that_are_there(farm):
    service = farm("rr", "A3 B2 C1")
    service.rebind("mh")

    assert service.clients(EIGHT) == "B C A A A A C A"


def crowd(farm, count: int) -> Farm:
    """Return a service of so many servers, bound to rr."""
    service = farm("rr")
    for number in range(count):
        service.table.add_server(KEY, SERVERS + number, 80)
    return service


@pytest.mark.slow
def test_mh_with_as_many_servers_as_slots_every_server_has_one(farm):
    service = crowd(farm, SIZE)
    service.rebind("mh")

    assert sorted(server.address for server in service.scheduler.table) == [SERVERS + number for number in range(SIZE)]


@pytest.mark.slow
def test_mh_with_more_servers_than_slots_keeps_its_table(farm):
    service = crowd(farm, SIZE)
    service.rebind("mh")
    before = list(service.scheduler.table)

    service.table.add_server(KEY, SERVERS + SIZE, 80)
    service.table.set_server(KEY, SERVERS, 80, 7)
    assert service.scheduler.table == before
    service.table.delete_server(KEY, SERVERS + 5, 80)
    addresses = {server.address for server in service.scheduler.table}
    assert SERVERS + SIZE in addresses and SERVERS + 5 not in addresses


@pytest.mark.slow
def test_mh_a_server_that_is_gone_but_still_in_the_table_gets_nobody(farm):
    """Differs from IPVS, which goes on sending it new clients."""
    service = crowd(farm, SIZE)
    service.rebind("mh")
    for number in range(2):
        service.table.add_server(KEY, SERVERS + SIZE + number, 80)
    asked = flow()
    chosen = service.scheduler.schedule(service.service, asked)
    service.table.delete_server(KEY, chosen.address, 80)

    assert service.scheduler.schedule(service.service, asked) is None
    service.service.flags = FALLBACK
    assert service.scheduler.schedule(service.service, asked).available


@pytest.mark.slow
def test_mh_cannot_be_chosen_for_more_servers_than_slots(farm):
    service = crowd(farm, SIZE + 1)

    with pytest.raises(ServiceError, match="has 4094 servers, and mh's table has room for 4093"):
        service.table.set_service(KEY, "mh", 0, 0, 0xFFFFFFFF)
    assert service.scheduler.name == "rr"


def kernels_table(weights: dict[str, int]) -> str:
    """Return the table as section 3.4 of the Maglev paper and ip_vs_mh.c make it; *weights* in list order."""
    divisor = gcd(*weights.values())
    if divisor == 0:
        return ""
    shift = max(0, (max(weights.values()) // divisor).bit_length() - 6)
    turns = {name: (weight // divisor >> shift) or (1 if weight else 0) for name, weight in weights.items()}

    def preferences(name):
        word = (SERVERS + ord(name) - 64 + 80).to_bytes(4, "little")
        offset, skip = (published_siphash(word, key, key, 1, 3) % 2**32 for key in (OFFSET_KEY, SKIP_KEY))
        return iter([(offset + step * (skip % (SIZE - 1) + 1)) % SIZE for step in range(SIZE)])

    orders = {name: preferences(name) for name in weights}
    table = {}
    while True:
        for name, order in orders.items():
            for _ in range(turns[name]):
                slot = next(slot for slot in order if slot not in table)
                table[slot] = name
                if len(table) == SIZE:
                    return "".join(table[slot] for slot in range(SIZE))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**31 - 1)), min_size=1, max_size=6))
def test_mh_makes_the_table_that_a_model_of_it_makes(weights):
    named = dict(zip("ABCDEF", weights, strict=False))
    service = Farm("mh", " ".join(f"{name}{weight}" for name, weight in named.items()))

    assert service.table_names() == kernels_table(dict(reversed(named.items())))
