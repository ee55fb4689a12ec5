"""Numbers in five characters, names that keep their port, and columns that fit."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbq.top.layout import ASCII, UTF8, Column, cut, duration, fit, flow, short, table

NAME = Column("NAME", 9, lambda row: row["name"], str, 8)
COUNT = Column("COUNT", 5, lambda row: row["count"])
NOTE = Column("NOTE", 1, lambda row: row["note"], str, 4)
COLUMNS = (NAME, COUNT, NOTE)
ROW = {"name": "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", "count": 123456, "note": "odd"}


@pytest.mark.parametrize(("number", "text"), [
    (0, "0"), (99_999, "99999"), (100_000, "100k"), (9_999_999, "9999k"), (10_000_000, "10M"), (34 * 10**9, "34G"),
    (10**13, "10T"), (10**20, "9999T")])
def test_a_number_has_at_most_five_characters(number, text):
    assert short(number) == text and len(text) <= 5


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0 s"), (59, "59 s"), (60, "1:00"), (899, "14:59"), (3600, "1:00:00"), (90_061, "1 d 1:01:01")])
def test_a_duration_is_as_long_as_it_must_be(seconds, text):
    assert duration(seconds) == text


def test_what_is_cut_keeps_its_port():
    assert cut(ROW["name"], 20, "…") == "[2001:db8:…678]:65535"[:10] + "…" + "678]:65535"[-9:]
    assert cut("10.0.0.1:80", 11, "…") == "10.0.0.1:80"


def test_words_are_wrapped_between_each_other():
    assert flow(["one", "two three", "four"], 14, 5) == ["one  two three", "four"]
    assert flow(["one", "two", "three"], 5, 2) == ["one", "two"]
    assert flow(["longer than that"], 6, 1) == ["longer"]


def test_numbers_are_on_the_right_and_text_is_on_the_left():
    rows = [{"name": "10.0.0.1:80", "count": 7, "note": "odd"}, {"name": "10.0.0.11:80", "count": 10, "note": ""}]

    assert list(table(COLUMNS, rows, 80, UTF8)) == ["NAME          COUNT NOTE",
                                                    "10.0.0.1:80       7 odd ",
                                                    "10.0.0.11:80     10     "]


def test_a_narrow_terminal_loses_the_least_important_columns():
    assert [number for number, _ in fit(COLUMNS, [["a" * 8, "1", "odd"]], 20)] == [0, 1, 2]
    assert [number for number, _ in fit(COLUMNS, [["a" * 8, "1", "odd"]], 19)] == [0, 1]
    assert fit(COLUMNS, [["a" * 8, "1", "odd"]], 14) == [(0, 8)]
    assert fit(COLUMNS, [["a" * 8, "1", "odd"]], 5) == [(0, 5)]


def test_a_long_name_gets_half_of_the_terminal_and_what_is_left_over():
    cells = [[ROW["name"], "123k", "odd"]]

    assert fit(COLUMNS, cells, 40)[0] == (0, 28)
    assert fit(COLUMNS, cells, 200)[0] == (0, len(ROW["name"]))


@pytest.mark.parametrize(("is_reversed", "marks", "title"), [
    (False, UTF8, "▲COUNT"), (True, UTF8, "▼COUNT"), (True, ASCII, "vCOUNT")])
def test_the_sorted_column_is_marked(is_reversed, marks, title):
    assert title in next(table(COLUMNS, [ROW], 80, marks, 1, is_reversed))


@given(st.integers(1, 200), st.lists(st.tuples(st.text(min_size=1, max_size=60), st.integers(0, 10**15),
                                               st.text(max_size=20)), max_size=5))
def test_no_line_is_longer_than_the_terminal_is_wide(width, rows):
    rows = [dict(zip(("name", "count", "note"), row, strict=True)) for row in rows]

    assert all(len(line) <= width for line in table(COLUMNS, rows, width, UTF8, 0))
