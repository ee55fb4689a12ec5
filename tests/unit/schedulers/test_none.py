"""The scheduler that is none."""
from __future__ import annotations


def test_none_chooses_nobody(farm):
    assert farm("none", "A1 B2").picks(3) == "- - -"


def test_none_hears_of_changes_without_complaint(farm):
    service = farm("none", "A1")
    service.edit("A5")
    service.delete("A")

    assert service.picks(1) == "-"
