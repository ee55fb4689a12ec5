"""The comparison with kernel IPVS in guests: which goals are met, what is compared with what, what runs in a guest."""
from __future__ import annotations

import io
import json
import subprocess

import pytest

from bench import ipvs
from lbq.bench import run
from lbq.bench.report import Results
from tests.unit.bench.test_report import row_of

PPS, GBIT = "per_second", "gbit_per_second"
NAT = "UDP packets/s without loss: lbq ≥ 1.0 × kernel IPVS NAT"
DR = "UDP packets/s without loss: lbq ≥ 1.0 × kernel IPVS DR"


class Ending:
    """A guest that says *lines* one by one, each while it runs but for the last."""

    def __init__(self, path, lines: list[str]):
        self.path, self.lines = path, lines

    def is_running(self) -> bool:
        with open(self.path, "a") as file:
            file.write(self.lines.pop(0))
        return bool(self.lines)


def goal(run: dict, what: str) -> list[str]:
    """Return what is said of the goal *what*: rewrite, steer, resolution, verdict."""
    return row_of("\n".join(ipvs.goals_table(Results(run))), what)[1:]


def test_the_better_data_path_meets_a_goal(make_run):
    measured = make_run({"window ipvs": {PPS: [100, 200]}, "window lbq": {PPS: [80, 160]},
                         "window steer": {PPS: [105, 210]}})

    assert goal(measured, NAT) == ["0.80", "1.05", "", "met"]


def test_a_data_path_that_the_kernel_lacks_is_an_empty_cell(make_run):
    measured = make_run({"window ipvs": {PPS: [100]}, "window lbq": {PPS: [100]}}, columns=["steer"],
                        missing={"window steer": "Operation not supported"})

    assert goal(measured, NAT) == ["1.00", "–", "", "met"]


def test_the_resolution_is_that_of_the_floor_of_the_better_path(make_run):
    measured = make_run({
        "window ipvs": {PPS: [100, 100]}, "window lbq": {PPS: [50, 50]}, "window steer": {PPS: [96, 96]},
        "window floor": {PPS: [100, 100]}, "window floor-again": {PPS: [100, 100]},
        "window floor-headers": {PPS: [100, 100]}, "window floor-headers-again": {PPS: [105, 95]}})

    assert goal(measured, NAT) == ["0.50", "0.96", "± 3%", "**missed**"]


@pytest.mark.parametrize(("again", "verdict"), [([105, 105], "met within the spread"),
                                                ([100, 100], "**missed** (the floor itself: 0.98)")])
def test_a_goal_missed_by_less_than_the_floor_differs_from_itself_is_met(make_run, again, verdict):
    measured = make_run({"window ipvs": {PPS: [100, 100]}, "window lbq": {PPS: [96, 96]},
                         "window floor": {PPS: [98, 98]}, "window floor-again": {PPS: again}})

    assert goal(measured, NAT)[3] == verdict


def test_the_floor_excuses_nothing_of_direct_routing(make_run):
    measured = make_run({"window ipvs-dr": {PPS: [100]}, "window lbq-dr": {PPS: [50]}, "window floor": {PPS: [40]}})

    assert goal(measured, DR)[3] == "**missed**"


@pytest.mark.parametrize(("ours", "verdict"), [(90, ipvs.UNDECIDED), (110, ipvs.UNDECIDED), (160, "met"),
                                               (50, "**missed**")])
def test_on_a_busy_machine_a_goal_that_is_close_is_not_decided(make_run, ours, verdict):
    """Equal columns differ by 40 %: neither a little more nor a little less means anything."""
    measured = make_run({"window ipvs": {PPS: [100, 100]}, "window lbq": {PPS: [ours, ours]},
                         "window floor": {PPS: [100, 100]}, "window floor-again": {PPS: [140, 140]}})

    assert goal(measured, NAT)[3] == verdict


def test_a_goal_that_nothing_was_measured_for_says_so(make_run):
    measured = make_run({"window ipvs": {PPS: [100]}}, columns=["lbq"], missing={"window lbq": "no such table"})

    assert goal(measured, NAT) == ["–", "–", "", "not measured"]


def test_without_kernel_ipvs_there_are_no_goals(make_run):
    assert ipvs.goals_table(Results(make_run({"window lbq": {PPS: [100]}}))) == []


def test_each_method_is_held_against_its_own_and_each_floor_against_itself(make_run):
    measured = make_run({
        "window ipvs": {PPS: [100]}, "window ipvs-dr": {PPS: [200]}, "window lbq": {PPS: [90]},
        "window lbq-dr": {PPS: [100]}, "window floor": {PPS: [80]}, "window floor-again": {PPS: [84]},
        "bulk ipvs": {GBIT: [4]}, "bulk lbq": {GBIT: [1]}})

    text = "\n".join(ipvs.ratios_table(Results(measured)))

    assert row_of(text, "pair by pair")[1:] == ["bulk TCP, 1 stream", "UDP packets/s without loss"]
    assert row_of(text, "lbq rewrite ÷ kernel IPVS NAT")[1:] == ["0.25", "0.90"]
    assert row_of(text, "lbq rewrite DR ÷ kernel IPVS DR")[1:] == ["–", "0.50"]
    assert row_of(text, "floor ÷ kernel IPVS NAT")[1:] == ["–", "0.80"]
    assert row_of(text, "floor again ÷ floor")[1:] == ["–", "1.05"]
    assert "TUN" not in text and "headers" not in text


def test_a_guest_that_cannot_be_booted_is_the_reason_and_the_other_one_is_shown(make_run):
    text = ipvs.present({"classic": {"missing": "linux.uml not found; apt-get install user-mode-linux"},
                         "new": make_run({"bulk ipvs": {GBIT: [4]}, "bulk lbq": {GBIT: [1]}})})

    assert "(classic)\n\nNot measured: linux.uml not found; apt-get install user-mode-linux\n" in text
    assert row_of(text, "lbq rewrite ÷ kernel IPVS NAT")[1:] == ["0.25"]


def test_the_benchmark_knows_all_columns_and_loads():
    chosen = run.options(["--columns", ",".join(ipvs.COLUMNS), "--workloads", ",".join(ipvs.MEASURED)])

    assert chosen.columns == ipvs.COLUMNS
    for reference, columns in ipvs.PEERS.items():
        assert {reference, *columns} <= set(ipvs.COLUMNS)
    assert {*ipvs.AGAIN, *ipvs.AGAIN.values()} <= set(ipvs.COLUMNS)
    assert {goal.workload for goal in ipvs.GOALS} <= set(ipvs.MEASURED)


def test_numbers_and_progress_leave_a_guest_apart_and_a_failure_is_not_hidden(tmp_path):
    numbers, progress = tmp_path / "numbers", tmp_path / "progress"
    said = ["sh", "-c", 'echo "round 1" >&2; echo "{\\"who\\": \\"$WHO\\"}"; exit 3']

    done = subprocess.run(ipvs.in_guest(said, {"WHO": "it is I"}, numbers, progress), capture_output=True, check=False)

    assert done.returncode == 3
    assert json.loads(numbers.read_text()) == {"who": "it is I"}
    assert progress.read_text() == "round 1\n"


def test_what_a_guest_says_last_is_read_too_and_a_line_is_never_half(tmp_path, monkeypatch):
    monkeypatch.setattr(ipvs.time, "sleep", lambda seconds: None)
    path = tmp_path / "progress"
    path.touch()

    with open(path) as lines:
        assert list(ipvs.follow(Ending(path, ["a\nb", "b\n", "c\n"]), lines)) == ["a\n", "bb\n", "c\n"]


def test_a_run_that_was_kept_is_shown_again(make_run, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"classic": make_run({"window ipvs": {PPS: [100]}, "window lbq": {PPS: [120]}})}))
    monkeypatch.setattr("sys.argv", ["bench/ipvs.py", "--show", str(kept)])

    assert ipvs.main() == 0
    assert row_of(capsys.readouterr().out, NAT)[1] == "1.20"


def test_guests_run_one_after_the_other_and_numbers_are_kept_at_once(make_run, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "kept.json"
    seen = []

    def measure(kind, said):
        seen.append((kind, json.loads(kept.read_text()) if kept.exists() else None))
        if kind == "new":
            raise ipvs.GuestError("the new guest did not finish")
        return make_run({"bulk ipvs": {GBIT: [4]}})

    monkeypatch.setattr(ipvs, "measure", measure)
    monkeypatch.setattr(ipvs.signal, "signal", lambda number, what: None)
    monkeypatch.setattr("sys.argv", ["bench/ipvs.py", "--output", str(kept)])
    monkeypatch.setattr("sys.stdout", io.StringIO())

    assert ipvs.main() == 1
    assert [kind for kind, _ in seen] == ["classic", "new"]
    assert set(seen[1][1]) == {"classic"}
    assert json.loads(kept.read_text())["new"] == {"missing": "the new guest did not finish"}
