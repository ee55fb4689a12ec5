"""What the tables of a run say: ratios, goals, empty cells, and whether the floors can be believed."""
from __future__ import annotations

import pytest

from lbq.bench import report
from lbq.bench.report import Goal, Results, Spread, judge

GBIT = "gbit_per_second"


def row_of(text: str, start: str) -> list[str]:
    """Return the cells of the one row of *text* whose first cell begins with *start*."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {start}")]
    assert len(rows) == 1, rows
    return rows[0]


def memory_row(**numbers) -> dict:
    return {"flows": 1_000_000, "services": 1, "servers": 4, "ipv6": False, "established_ns": 30.0,
            "opening_ns": 300.0, "bytes_per_flow": 90.0, **numbers}


def test_a_ratio_is_taken_within_each_round(make_run):
    """The median of the ratios, 0.75, is not the ratio of the medians, 0.67: the machine was slow in round 1."""
    run = make_run({"bulk plain": {GBIT: [20, 10]}, "bulk lbq": {GBIT: [10, 10]}})

    assert Results(run).ratio("bulk", GBIT, "lbq", "plain") == Spread(0.625, 0.75, 0.875)


def test_a_round_that_one_column_lacks_does_not_count(make_run):
    run = make_run({"bulk plain": {GBIT: [20, None]}, "bulk lbq": {GBIT: [10, 10]}})

    assert Results(run).ratio("bulk", GBIT, "lbq", "plain") == Spread(0.5, 0.5, 0.5)


def test_latency_is_shown_with_what_is_added_to_plain_forwarding(make_run):
    text = report.markdown(make_run({"pingpong plain": {"p50_us": [50, 60]}, "pingpong lbq": {"p50_us": [60, 75]}}))

    assert row_of(text, "TCP round trip")[2] == "67.5 [63.8–71.2]"
    assert row_of(text, "… more than plain")[1:] == ["0.0", "12.5 [11.2–13.8]"]


def test_nothing_is_added_to_a_column_that_was_not_measured(make_run):
    text = report.markdown(make_run({"pingpong lbq": {"p50_us": [60, 75]}}, columns=["dnat"],
                                    missing={"pingpong dnat": "no such table"}))

    assert "more than plain" not in text


def test_a_number_that_no_column_has_is_no_row(make_run):
    text = report.markdown(make_run({"flood plain": {"per_second": [1000.0]}}))

    assert row_of(text, "UDP 64 B, unpaced: packets/s")[1:] == ["1,000"]
    assert "director's CPU" not in text


@pytest.mark.parametrize(("limit", "at_most", "reached", "noise", "verdict"), [
    (0.95, False, 0.95, 0, "met"), (0.95, False, 1.2, 0, "met"), (0.95, False, 0.94, 0, "**missed**"),
    (0.95, False, 0.91, 0.05, "met within the spread"), (0.95, False, 0.90, 0.05, "**missed**"),
    (1.05, True, 1.05, 0, "met"), (1.05, True, 1.10, 0.04, "**missed**"),
    (1.05, True, 1.10, 0.05, "met within the spread"),
])
def test_a_goal_is_judged_by_what_was_reached_and_the_spread(limit, at_most, reached, noise, verdict):
    assert judge(Goal("bulk", GBIT, "lbq", "floor", limit, at_most), reached, noise) == verdict


def test_offload_is_held_against_dnat_and_no_floor_excuses_it(make_run):
    text = report.markdown(make_run({"requests offload": {"per_second": [90.0, 90.0]},
                                     "requests dnat": {"per_second": [100.0, 100.0]},
                                     "requests floor": {"per_second": [50.0, 50.0]},
                                     "requests floor-again": {"per_second": [50.0, 50.5]}}))

    assert row_of(text, "keep-alive requests/s: lbq offload ≥ 0.95 × iptables DNAT")[1:] == [
        "0.90", "± 1%", "**missed**"]


def test_the_spread_is_that_of_the_floor_against_itself(make_run):
    text = report.markdown(make_run({"bulk lbq": {GBIT: [9.1, 9.1]}, "bulk floor": {GBIT: [10, 10]},
                                     "bulk floor-again": {GBIT: [10.8, 9.6]}}))

    assert row_of(text, "bulk TCP, 1 stream: lbq rewrite ≥ 0.95 × floor")[1:] == [
        "0.91", "± 5%", "met within the spread"]


def test_a_goal_that_the_floor_itself_misses_says_so(make_run):
    text = report.markdown(make_run({"bulk lbq": {GBIT: [6]}, "bulk floor": {GBIT: [6.4]}, "bulk plain": {GBIT: [10]}}))

    assert row_of(text, "bulk TCP, 1 stream: lbq rewrite ≥ 0.65 × plain")[3] == "**missed** (the floor itself: 0.64)"


def test_without_the_floor_twice_there_is_no_resolution(make_run):
    text = report.markdown(make_run({"bulk lbq": {GBIT: [9.6]}, "bulk floor": {GBIT: [10]}}))

    assert row_of(text, "bulk TCP, 1 stream: lbq rewrite ≥ 0.95 × floor")[1:] == ["0.96", "", "met"]


def test_goals_whose_columns_are_missing_are_left_out(make_run):
    text = report.markdown(make_run({"bulk lbq": {GBIT: [6]}, "bulk haproxy": {GBIT: [3]}}))

    assert "goal" not in text and "resolution" not in text
    assert row_of(text, "bulk TCP, 1 stream, Gb/s")[1:] == ["6.00", "3.00"]


@pytest.mark.parametrize(("row", "goal", "reached", "verdict"), [
    ({"established_ns": 40.0}, "established packet in memory, ns; 1,000,000 connections ≤ 40", "40.0", "met"),
    ({"established_ns": 40.1}, "established packet in memory, ns; 1,000,000 connections ≤ 40", "40.1", "**missed**"),
    ({"established_ns": 70.1, "flows": 4_000_000}, "established packet in memory, ns; 4,000,000 connections ≤ 70",
     "70.1", "**missed**"),
    ({"bytes_per_flow": 96.1, "flows": 4_000_000},
     "resident memory of the packet process, bytes a connection; 4,000,000 connections ≤ 96", "96.1", "**missed**"),
    ({"bytes_per_flow": 159.0, "flows": 4_000_000, "ipv6": True},
     "resident memory of the packet process, bytes a connection; 4,000,000 connections, IPv6 ≤ 160", "159.0", "met"),
    ({"opening_ns": 501.0, "flows": 200_000, "servers": 16},
     "new connection in memory, ns; 200,000 connections, wlc over 16 servers ≤ 500", "501.0", "**missed**"),
])
def test_what_is_measured_in_memory_has_goals(make_run, row, goal, reached, verdict):
    text = report.markdown(make_run({}, memory=[memory_row(**row)]))

    assert row_of(text, goal)[1:] == [reached, "", verdict]


def test_rounds_in_memory_become_one_row_a_setting(make_run):
    text = report.markdown(make_run({}, memory=[
        memory_row(flows=1_000, established_ns=20.0), memory_row(flows=1_000, established_ns=22.0),
        memory_row(), memory_row(flows=100_000, services=10_000)]))

    assert row_of(text, "1,000 connections") == ["1,000 connections", "21.0 [20.5–21.5]", "300.0", "–"]
    assert row_of(text, "1,000,000 connections")[3] == "90.0"
    assert row_of(text, "100,000 connections, 10,000 services")[1] == "30.0"


def test_the_first_files_name_only_the_connections(make_run):
    text = report.markdown(make_run({}, memory=[
        {"flows": 1_000_000, "established_ns": 61.5, "bytes_per_flow": 96.4, "resident_bytes": 96_400_000}]))

    assert row_of(text, "1,000,000 connections") == ["1,000,000 connections", "61.5", "–", "96.4"]


@pytest.mark.parametrize(("floor", "headers", "line"), [
    (6.81, 9.01, "Floors valid, of plain forwarding's bulk TCP: floor 0.68 (at least 0.68), "
               "floor, headers only 0.90 (at least 0.90)."),
    (6.7, 9.01, "Floors **invalid**, of plain forwarding's bulk TCP: floor 0.67 (at least 0.68), "
               "floor, headers only 0.90 (at least 0.90)."),
    (6.81, 8.9, "Floors **invalid**, of plain forwarding's bulk TCP: floor 0.68 (at least 0.68), "
               "floor, headers only 0.89 (at least 0.90)."),
])
def test_floors_are_held_against_plain_forwarding(make_run, floor, headers, line):
    run = make_run({"bulk plain": {GBIT: [10]}, "bulk floor": {GBIT: [floor]}, "bulk floor-headers": {GBIT: [headers]}})

    assert line in report.markdown(run).splitlines()


def test_floors_are_not_judged_without_plain_forwarding(make_run):
    assert "Floors" not in report.markdown(make_run({"bulk floor": {GBIT: [7]}}))


def test_an_empty_cell_refers_to_the_reason(make_run):
    text = report.markdown(make_run({"udp lbq": {"director_us_per_packet": [5]}}, columns=["haproxy", "nginx"],
                                    missing={"udp haproxy": "HAProxy has no UDP", "udp nginx": "no module"}))

    assert row_of(text, "UDP 64 B, 50,000/s")[1:] == ["5.00", "– 1)", "– 2)"]
    assert "1) HAProxy has no UDP  \n2) no module" in text


def test_a_workload_that_no_column_could_run_is_a_row_all_the_same(make_run):
    text = report.markdown(make_run({}, columns=["plain", "lbq"],
                                    missing={f"requests {name}": "wrk is not installed" for name in ("plain", "lbq")}))

    assert row_of(text, "keep-alive requests/s")[1:] == ["– 1)", "– 1)"]
    assert "1) wrk is not installed" in text


def test_what_could_not_be_measured_in_memory_says_why(make_run):
    assert "not measured: too big" in report.markdown(make_run({}, missing={"4,000,000 connections": "too big"}))


def test_failed_requests_are_told(make_run):
    text = report.markdown(make_run({"requests lbq": {"per_second": [1000.0, 1000.0], "errors": [2, 3]}}))

    assert "keep-alive requests/s through lbq rewrite: 5 requests failed" in text
