"""What `lbq trace` shows of what a director says, until it has enough."""
from __future__ import annotations

import json

import pytest

from lbq import cli
from lbq.errors import HostError
from lbq.trace import command
from lbq.trace.records import CHANGED, FIELDS, RECORD
from tests.helpers.control import serving
from tests.helpers.packets import tcp

SYN = bytes(tcp("192.168.10.9:40000", "192.168.10.1:80", "S"))
VALUES = dict.fromkeys(FIELDS, 0) | {
    "protocol": 6, "before": SYN, "before_length": len(SYN), "after": SYN, "after_length": len(SYN),
    "length": len(SYN), "what_after": CHANGED, "has_entry": 1, "state_after": 3, "has_server": 1,
    "rip": bytes([192, 168, 20, 1]) + bytes(12), "rport": 80, "next_hop": bytes(16)}


@pytest.fixture
def director(monkeypatch, tmp_path):
    """Give a director with three packets that are read one by one; what it was told is in the list."""
    told, lost = [], [0, 4, 4, 9]

    async def trace_start(client: str | None, service: str | None, server: str | None, state: str | None,
                          only_new: bool, only_drops: bool, every: int) -> dict:
        told.append(("start", client, every))
        return {"trace": 7, "outcomes": ["rewritten"]}

    async def trace_read(trace: int) -> list:
        if not lost:
            raise HostError("the trace was ended, because nobody read it")
        record = RECORD.pack(*({**VALUES, "now_ns": len(lost)}[name] for name in FIELDS)) if len(lost) > 1 else b""
        return [record.hex(), {"lost": lost.pop(0), "waiting": len(lost)}]

    async def trace_stop(trace: int) -> None:
        told.append(("stop", trace))
        raise HostError("it has ended by itself")

    monkeypatch.setattr(command, "state_directory", lambda: tmp_path)
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    with serving(tmp_path, {"trace_start": trace_start, "trace_read": trace_read, "trace_stop": trace_stop}):
        yield told


def test_there_is_a_line_for_each_and_a_word_about_those_that_did_not_fit(director, capsys):
    assert cli.main(["trace", "--client", "192.168.10.9", "--every", "3"]) == 2
    said = capsys.readouterr()

    assert len(said.out.splitlines()) == 3
    assert said.out.splitlines()[0].endswith("  TCP  SYN  192.168.10.9:40000 → 192.168.10.1:80  40 B  new → SYN_RECV  "
                                             "nat 192.168.20.1:80")
    assert said.err.splitlines() == ["lbq: 4 packets came too fast to be shown",
                                     "lbq: 5 packets came too fast to be shown",
                                     "lbq: the trace was ended, because nobody read it"]
    assert director == [("start", "192.168.10.9", 3), ("stop", 7)]


def test_two_are_enough_where_two_are_wanted(director, capsys):
    assert cli.main(["trace", "--json", "--count", "2"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())

    assert (first["server"], first["what_after"], first["fields"]["flags"]) == ("192.168.20.1:80", "changed", "SYN")
    assert second["unix_ns"] - first["unix_ns"] == second["now_ns"] - first["now_ns"] == -1
    assert director[-1] == ("stop", 7)


@pytest.mark.parametrize("words", [("--count", "0"), ("--every", "0"), ("--seconds", "x"), ("--every", "9999999999")])
def test_a_number_that_is_none_is_one_line_before_anybody_is_asked(director, capsys, words):
    assert cli.main(["trace", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and director == []
