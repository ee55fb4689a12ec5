"""The command ``lbq bench``: its options, the order of measurements, and what a machine may lack."""
from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lbq import cli
from lbq.bench import run, series
from lbq.bench.columns import COLUMNS, Column
from lbq.bench.machine import Missing, Tools
from lbq.bench.progress import Progress, in_words
from lbq.bench.series import MILLION, Setting, setting_of
from lbq.bench.workloads import WORKLOADS, Failed
from lbq.errors import HostError


class Refusing(Column):
    """A column that this machine cannot start."""

    def start(self, service):
        raise HostError("no such table")


@pytest.fixture(autouse=True)
def signals_as_they_are(monkeypatch):
    """Leave this process's signals alone: the command ignores them at its end."""
    monkeypatch.setattr("lbq.lab.signals.listen", lambda: None)
    monkeypatch.setattr("lbq.lab.signals.ignore", lambda: None)


@pytest.fixture
def network(monkeypatch):
    """A network of nothing; what is started as server is not."""
    @contextmanager
    def build(columns):
        yield SimpleNamespace(directors=dict.fromkeys(columns))

    monkeypatch.setattr(run, "Network", build)
    monkeypatch.setattr(run, "start_server", lambda bench, service: None)
    monkeypatch.setattr(run.time, "sleep", lambda seconds: None)


def load(monkeypatch, name: str, measure) -> None:
    """Let *measure* be the load *name*, which then needs no program."""
    monkeypatch.setitem(WORKLOADS, name, WORKLOADS[name]._replace(measure=measure, programs={}, tool=""))


def bench(capsys, *words: str) -> dict:
    """Return what ``lbq bench WORDS`` has measured."""
    assert cli.main(["bench", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_most_machines_have_is_measured_when_nothing_is_said():
    chosen = run.options([])

    assert chosen.columns == [name for name in COLUMNS if "ipvs" not in name and name != "prototype"
                              and COLUMNS[name].method == "nat"]
    assert chosen.workloads == [*WORKLOADS, "memory", "services", "new-flow"]
    assert (chosen.rounds, chosen.seconds, chosen.plot) == (9, 1, None)


def test_options_choose():
    chosen = run.options(["--columns", "lbq,plain,lbq", "--workloads", "udp,memory", "--rounds", "3", "--quick"])

    assert (chosen.columns, chosen.workloads, chosen.rounds) == (["lbq", "plain"], ["udp", "memory"], 1)


def test_the_picture_lies_beside_the_numbers(tmp_path):
    assert run.options(["--output", f"{tmp_path}/today.json"]).plot == f"{tmp_path}/today.png"


@pytest.mark.parametrize(("words", "complaint"), [
    (["--columns", "plain,lqb"], "unknown column 'lqb'; did you mean 'lbq'?; there are plain, dnat"),
    (["--workloads", "blk"], "unknown workload 'blk'; did you mean 'bulk'?"),
    (["--columns", ""], "unknown column ''"),
    (["--columns", "prototype"], "the column prototype needs a program: --prototype PROGRAM"),
    (["--rounds", "0"], "--rounds '0' is not a number from 1"),
    (["--seconds", "1.5"], "--seconds '1.5' is not a number from 1"),
    (["--output", "today.txt"], "its name must end in .json"),
    (["--plot", "today.gif"], "its name must end in .png or .svg or .pdf"),
    (["--output", "/no/such/today.json"], "there is no folder /no/such"),
    (["--show", "/no/such/today.json"], "cannot read /no/such/today.json: No such file"),
    (["--show", __file__], "cannot read"),
    (["bulk"], "unrecognized arguments: bulk"),
])
def test_a_mistake_is_one_line_before_anything_is_measured(capsys, words, complaint):
    status = cli.main(["bench", *words])

    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert complaint in said.err and said.err.count("\n") == 1


def test_json_of_another_kind_is_not_shown(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text("[]")

    assert cli.main(["bench", "--show", str(other)]) == 2
    assert "is not what lbq bench --output has written" in capsys.readouterr().err


def test_without_root_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert cli.main(["bench", "--columns", "plain"]) == 2
    assert capsys.readouterr().err == "lbq: cannot make network namespaces: not root; run it with sudo\n"


def test_every_column_is_measured_once_a_round_in_another_order(network, monkeypatch, capsys):
    order = []
    load(monkeypatch, "bulk", lambda bench, column: order.append(column.title) or {"gbit_per_second": 1.0})
    for name in ("dnat", "nft", "floor"):
        monkeypatch.setitem(COLUMNS, name, type(name, (Column,), {"title": name}))

    kept = bench(capsys, "--columns", "plain,dnat,nft,floor", "--workloads", "bulk", "--rounds", "3")

    rounds = [order[at:at + 4] for at in range(4, 16, 4)]       # the first four warm up
    assert all(sorted(titles) == ["dnat", "floor", "nft", "plain forwarding"] for titles in rounds)
    assert len(set(map(tuple, rounds))) > 1
    assert [row["round"] for row in kept["measurements"]] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_column_that_does_not_start_is_empty_and_the_others_are_measured(network, monkeypatch, capsys):
    load(monkeypatch, "bulk", lambda bench, column: {"gbit_per_second": 1.0})
    monkeypatch.setitem(COLUMNS, "dnat", Refusing)

    kept = bench(capsys, "--columns", "plain,dnat", "--workloads", "bulk", "--quick")

    assert kept["missing"] == {"bulk dnat": "no such table"}
    assert [row["column"] for row in kept["measurements"]] == ["plain"]


def test_a_program_that_is_not_installed_is_named_with_its_package(network, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    kept = bench(capsys, "--columns", "plain,lbq", "--workloads", "bulk,requests,udp,pingpong", "--quick")

    assert kept["measurements"] == []
    assert {key: reason for key, reason in kept["missing"].items() if key.endswith("lbq")} == {
        "bulk lbq": "iperf3 is not installed (apt install iperf3)",
        "requests lbq": "wrk is not installed (apt install wrk)",
        "udp lbq": "cc is not installed (apt install gcc libc6-dev linux-libc-dev)",
        "pingpong lbq": "cc is not installed (apt install gcc libc6-dev linux-libc-dev)"}
    assert len(kept["missing"]) == 8


def test_a_load_that_breaks_off_costs_its_round_only(network, monkeypatch, capsys):
    answers = iter([{"gbit_per_second": 1.0}, {"gbit_per_second": 1.0}, Failed("iperf3: stuck"),
                    {"gbit_per_second": 3.0}])

    def measure(bench, column):
        answer = next(answers)
        if isinstance(answer, Failed):
            raise answer
        return answer

    load(monkeypatch, "bulk", measure)

    kept = bench(capsys, "--columns", "plain", "--workloads", "bulk", "--rounds", "3")

    assert [row["round"] for row in kept["measurements"]] == [0, 2]
    assert kept["missing"] == {"bulk plain": "iperf3: stuck"}


def test_what_is_measured_in_memory_needs_no_network(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(series, "run", lambda setting: asked.append(setting) or setting._asdict())

    kept = bench(capsys, "--workloads", "memory,services", "--rounds", "5")

    counts = {setting: asked.count(setting) for setting in asked}
    assert counts.pop(Setting(4 * MILLION)) == counts.pop(Setting(4 * MILLION, ipv6=True)) == 3
    assert set(counts.values()) == {5}
    assert {setting.services for setting in counts} == {1, 10, 100, 1_000, 10_000}
    assert [setting_of(row) for row in kept["memory"]] == asked


def test_a_setting_that_cannot_be_measured_is_told_and_the_others_are(monkeypatch, capsys):
    def measure(setting):
        if setting.flows > MILLION:
            raise Missing("too big")
        return setting._asdict()

    monkeypatch.setattr(series, "run", measure)

    kept = bench(capsys, "--workloads", "memory", "--quick")

    assert kept["missing"] == {"4,000,000 connections": "too big", "4,000,000 connections, IPv6": "too big"}
    assert len(kept["memory"]) == 5


def test_a_table_that_does_not_fit_is_not_tried(monkeypatch):
    monkeypatch.setattr(series, "available_bytes", lambda: 100 * 1024 * 1024)
    monkeypatch.setattr(series.subprocess, "run", lambda *words, **options: pytest.fail("it was tried"))

    with pytest.raises(Missing, match="4,000,000 connections do not fit"):
        series.run(Setting(4 * MILLION))


def test_a_helper_that_does_not_compile_says_why(monkeypatch, tmp_path):
    (tmp_path / "broken.c").write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr("lbq.bench.machine.HERE", tmp_path)

    with pytest.raises(Missing, match=r"cannot compile broken\.c .*.nothing. undeclared"):
        Tools(tmp_path).path("broken")


def test_the_pace_so_far_corrects_what_is_left():
    now = [0.0]
    progress = Progress(100, clock=lambda: now[0])
    assert progress.left() == "2 min"

    now[0] = 40
    progress.done(20)       # twice as slow as expected
    progress.drop(40)

    assert progress.left() == "80 s"


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (89, "89 s"), (91, "2 min"), (1500, "25 min")])
def test_a_duration_is_said_in_words(seconds, words):
    assert in_words(seconds) == words
