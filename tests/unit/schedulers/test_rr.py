"""Round-robin.  The histories are those of running kernels 6.1.176 and 6.1.192 (ip_vs_rr.c)."""
from __future__ import annotations


def test_rr_takes_the_newest_first_and_then_each_in_turn(farm):
    assert farm("rr", "A B C").picks(7) == "C B A C B A C"


def test_rr_goes_on_where_it_was_when_a_server_is_deleted_or_added(farm):
    service = farm("rr", "A B C")
    assert service.picks(7) == "C B A C B A C"

    service.delete("B")
    assert service.picks(4) == "A C A C"
    service.add("D")
    assert service.picks(6) == "A D C A D C"


def test_rr_a_deleted_server_comes_back_at_the_head(farm):
    service = farm("rr", "A B C D")
    service.delete("A")
    service.delete("B")

    service.add("A")
    service.add("B")

    assert service.picks(5) == "B A D C B"


def test_rr_ignores_weights(farm):
    assert farm("rr", "A9 B1").picks(4) == "B A B A"


def test_rr_passes_over_a_quiesced_server(farm):
    service = farm("rr", "A B C")
    service.edit("B0")
    assert service.picks(4) == "C A C A"

    service.edit("B1")
    assert service.picks(3) == "C B A"


def test_rr_passes_over_an_overloaded_server(farm):
    service = farm("rr", "A B C")
    service.server("C").overloaded = True

    assert service.picks(3) == "B A B"


def test_rr_may_choose_the_same_server_again(farm):
    service = farm("rr", "A B")
    service.edit("B0")

    assert service.picks(3) == "A A A"


def test_rr_without_a_usable_server_chooses_nobody_and_keeps_its_place(farm):
    service = farm("rr", "A B C")
    assert service.picks(1) == "C"
    for name in ("A0", "B0", "C0"):
        service.edit(name)
    assert service.picks(2) == "- -"

    for name in ("A1", "B1", "C1"):
        service.edit(name)
    assert service.picks(3) == "B A C"


def test_rr_in_an_empty_service_chooses_nobody(farm):
    assert farm("rr").picks(2) == "- -"


def test_rr_deleting_the_head_under_the_cursor_starts_at_the_new_head(farm):
    service = farm("rr", "A B C")
    assert service.picks(1) == "C"

    service.delete("C")

    assert service.picks(3) == "B A B"


def test_rr_deleting_the_server_under_the_cursor_skips_nobody(farm):
    service = farm("rr", "A B C")
    assert service.picks(2) == "C B"

    service.delete("B")

    assert service.picks(3) == "A C A"


def test_rr_deleting_the_last_server_of_all(farm):
    service = farm("rr", "A")
    assert service.picks(1) == "A"

    service.delete("A")
    assert service.picks(1) == "-"
    service.add("B")
    assert service.picks(2) == "B B"
