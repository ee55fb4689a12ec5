"""What the doctor prints, and the exit status for scripts."""
from __future__ import annotations

import io
import json

import pytest

from lbq.doctor import command, show
from lbq.doctor.facts import DIRECTOR, NO_DIRECTOR, PASSIVE, Facts
from lbq.doctor.finding import Finding, Report
from lbq.errors import ConfigError

SICK = Finding("it is ill", "it hurts", "drink tea; " + "and rest " * 20, "tcp:10.0.0.1:80", "health")


def report(*findings: Finding, unknown=()) -> Report:
    return Report(list(findings), [("a", "b holds")], list(unknown), ["c"])


@pytest.mark.parametrize(("made", "status"), [
    (report(), 0), (report(SICK), 1), (report(unknown=[("y", PASSIVE)]), 0),
    (report(unknown=[("x", NO_DIRECTOR), ("y", PASSIVE)]), 3), (report(SICK, unknown=[("x", NO_DIRECTOR)]), 1),
    (report(unknown=[("x", NO_DIRECTOR), ("y", "cannot look: no more sockets")]), 2),
    (report(unknown=[("x", "cannot look: no more sockets")]), 2),
    (report(SICK, unknown=[("x", "cannot look: no more sockets")]), 1),
])
def test_the_exit_status_is_for_scripts(made, status):
    assert command.status_of(made) == status


def test_people_read_what_why_and_fix():
    lines = list(show.text(Facts(status={"version": "0.1"}), report(SICK, unknown=[("x", "no"), ("y", "no")]),
                           signs=False))

    assert lines[:4] == ["director 0.1 on no iptables, no real server: no service",
                         "ok      a: b holds", "unknown not looked at, no: x, y", "WRONG   health (tcp:10.0.0.1:80)"]
    assert lines[4:6] == ["      what: it is ill", "      why:  it hurts"]
    assert lines[6].startswith("      fix:  drink tea") and lines[7].startswith("            rest and rest")
    assert lines[-1] == "1 wrong, 1 fine, 2 not looked at; nothing to look at for c"
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(("reason", "first", "more"), [
    (NO_DIRECTOR, "No director runs in this network namespace: only the host itself is looked at.", []),
    ("the director has not answered in 10 s", "The director has not answered in 10 s: only the host itself is looked "
     "at.", ["unknown not looked at, the director has not answered in 10 s: x"])])
def test_a_director_that_is_not_there_and_one_that_does_not_answer_are_told_apart(reason, first, more):
    facts, made = Facts(missing={DIRECTOR: reason}), report(unknown=[("x", reason)])
    assert list(show.text(facts, made, signs=False)) == [
        first, "ok      a: b holds", *more, "0 wrong, 1 fine, 1 not looked at; nothing to look at for c"]
    assert json.loads(show.as_json(facts, made, 3))["director"] is None


def test_signs_are_for_terminals_that_know_them(monkeypatch):
    lines = list(show.text(Facts(), report(SICK), signs=True))
    assert lines[1].startswith("✓ a") and lines[2].startswith("✗ health")

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    for encoding, knows in (("utf-8", True), ("ascii", False)):
        monkeypatch.setattr("sys.stdout", Terminal(io.BytesIO(), encoding=encoding))
        assert show.can_show_signs() is knows
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert not show.can_show_signs()


def test_what_an_odd_host_says_cannot_play_with_the_terminal():
    odd = SICK._replace(what="a rule \x1b[2J\nof two lines")
    lines = list(show.text(Facts(), report(odd), signs=False))

    assert not any("\x1b" in line or "\n" in line for line in lines)


def test_programs_read_json():
    said = json.loads(show.as_json(Facts(), report(SICK, unknown=[("x", "no")]), 1))

    assert said["findings"] == [SICK._asdict()] and said["status"] == 1
    assert said["not_looked_at"] == [{"check": "x", "why": "no"}]
    assert (said["fine"], said["nothing_to_look_at"]) == (["a"], ["c"])


@pytest.mark.parametrize("text", ["0", "61", "-1", "nan", "inf", "soon", ""])
def test_a_look_has_a_length(text):
    with pytest.raises(ConfigError, match="say a number of seconds"):
        command._seconds(text)
