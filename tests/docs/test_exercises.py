"""The page of exercises lists those there are, and gives none of them away."""
from __future__ import annotations

import re

import pytest

from lbq import cli
from lbq.lab.exercises import EXERCISES, of
from tests.helpers.sphinx import DOCS

PAGE = (DOCS / "exercises.md").read_text()


def test_every_exercise_is_listed_with_what_users_say():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)

    assert rows == [(each.mode, str(of(each.mode).index(each) + 1), each.complaint) for each in EXERCISES]


def test_what_it_is_is_not_said():
    assert [each.title for each in EXERCISES if each.title in PAGE] == []


def test_help_says_how_many_there_are(capsys):
    with pytest.raises(SystemExit):
        cli.main(["lab", "--help"])

    told = " ".join(capsys.readouterr().out.split())
    assert f"nat has {len(of('nat'))} exercises, dr {len(of('dr'))}, tun {len(of('tun'))}" in told
