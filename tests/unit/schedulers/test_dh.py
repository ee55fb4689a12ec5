"""Destination hashing.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_dh.c)."""
from __future__ import annotations

import pytest

from lbq.model import fold
from lbq.schedulers.hashing import hash32

EIGHT = range(1, 9)


def test_dh_buckets_of_the_kernel():
    assert [hash32(0x0A000000 + number, 8) for number in EIGHT] == [39, 137, 235, 77, 174, 16, 114, 212]


def test_fold_an_ipv6_address_is_the_xor_of_its_words():
    assert fold(0x0A000001) == 0x0A000001
    assert fold(0xFFFFFFFF) == 0xFFFFFFFF
    assert fold(0xFD00_0010_0000_0000_0000_0000_0000_0001) == 0xFD000010 ^ 1
    assert fold(0x11111111_22222222_44444444_88888888) == 0xFFFFFFFF
    assert fold(1 << 32) == 1


def test_dh_gives_destinations_to_servers_in_list_order_whatever_the_weights(farm):
    service = farm("dh", "A3 B2 C1")

    assert service.destinations(EIGHT) == "C A B A C B C A"
    assert service.table_names() == ("CBA" * 86)[:256]


def test_dh_a_quiesced_servers_destinations_have_nobody_and_the_others_stay(farm):
    service = farm("dh", "A3 B2 C1")
    service.edit("A0")
    assert service.destinations(EIGHT) == "C - B - C B C -"

    service.edit("A1")
    assert service.destinations(EIGHT) == "C A B A C B C A"


def test_dh_an_overloaded_servers_destinations_have_nobody(farm):
    service = farm("dh", "A3 B2 C1")
    service.overload("B")

    assert service.destinations(EIGHT) == "C A - A C - C A"


def test_dh_makes_its_table_anew_when_a_server_goes_or_comes(farm):
    service = farm("dh", "A B C")
    service.delete("B")
    assert service.table_names() == "CA" * 128

    service.add("B0")
    assert service.table_names() == ("BCA" * 86)[:256]


def test_dh_bound_late_knows_the_servers_that_are_there(farm):
    service = farm("rr", "A B C")
    service.rebind("dh")

    assert service.destinations(EIGHT) == "C A B A C B C A"


def test_dh_does_not_look_at_the_client(farm):
    service = farm("dh", "A B C")

    assert service.clients(range(1, 20)) == " ".join("C" * 19)


def test_dh_with_more_servers_than_buckets_uses_the_first(farm):
    service = farm("dh")
    for number in range(300):
        service.table.add_server(service.service.key, 1000 + number, 80)

    assert [server.address for server in service.scheduler.table] == list(range(1299, 1043, -1))


@pytest.mark.parametrize("servers", ["", "A0"])
def test_dh_without_a_usable_server_chooses_nobody(farm, servers):
    assert farm("dh", servers).destinations(EIGHT) == "- - - - - - - -"


def test_dh_when_the_last_server_goes_nobody_is_left(farm):
    service = farm("dh", "A")
    service.delete("A")

    assert service.destinations([1]) == "-"
