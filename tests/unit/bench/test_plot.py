"""What is drawn of a run, and what is said when it cannot be."""
from __future__ import annotations

import json
import sys

import pytest

from lbq import cli
from lbq.bench import plot
from lbq.bench.plot import Bars, Lines
from lbq.bench.report import Spread

GBIT = "gbit_per_second"


def memory_row(flows: int, nanoseconds: float, services: int = 1, **other) -> dict:
    return {"flows": flows, "services": services, "servers": 4, "ipv6": False, "established_ns": nanoseconds,
            "opening_ns": 10 * nanoseconds, **other}


def alone(value: float) -> Spread:
    return Spread(value, value, value)


def test_bars_are_relative_to_plain_forwarding(make_run):
    run = make_run({"bulk plain": {GBIT: [20, 10]}, "bulk lbq": {GBIT: [10, 10]}, "bulk haproxy": {GBIT: [10, 5]}})

    assert plot.charts(run) == [Bars("bulk TCP, 1 stream, Gb/s ÷ plain forwarding", {
        "plain forwarding": alone(1), "lbq rewrite": Spread(0.625, 0.75, 0.875), "HAProxy TCP": alone(0.5)})]


def test_bars_of_processor_time_are_relative_to_the_floor(make_run):
    cpu = "director_us_per_packet"
    run = make_run({"udp lbq": {cpu: [6]}, "udp floor": {cpu: [5]}}, columns=["plain"])

    assert plot.charts(run) == [Bars("UDP 64 B, 50,000/s: director's CPU, µs a packet ÷ floor, less is better",
                                     {"lbq rewrite": alone(1.2), "floor": alone(1)})]


def test_less_latency_is_better(make_run):
    [chart] = plot.charts(make_run({"pingpong plain": {"p50_us": [50]}}))

    assert chart.title.endswith(", less is better")


def test_a_workload_without_what_it_is_relative_to_is_left_out(make_run):
    assert plot.charts(make_run({"bulk lbq": {GBIT: [10]}, "bulk floor": {GBIT: [10]}})) == []


def test_cost_is_drawn_by_size_and_by_services(make_run):
    run = make_run({}, memory=[memory_row(1_000, 20), memory_row(100_000, 25), memory_row(100_000, 27, services=10),
                               memory_row(200_000, 1, servers=16)])

    assert plot.charts(run) == [
        Lines("cost against the size of the table, ns", "connections", {
            "established packet": {1_000: alone(20), 100_000: alone(25)},
            "new connection": {1_000: alone(200), 100_000: alone(250)}}),
        Lines("cost against the number of services, ns", "services", {
            "established packet": {1: alone(25), 10: alone(27)}, "new connection": {1: alone(250), 10: alone(270)}})]


def test_a_family_is_a_line_of_its_own(make_run):
    sizes = (1_000_000, 4_000_000)
    run = make_run({}, memory=[memory_row(flows, ns, ipv6=ipv6) for flows, ns in zip(sizes, (30, 60), strict=True)
                               for ipv6 in (False, True)])

    assert list(plot.charts(run)[0].lines) == ["established packet", "established packet, IPv6", "new connection",
                                               "new connection, IPv6"]


def test_one_point_is_no_line(make_run):
    assert plot.charts(make_run({}, memory=[memory_row(1_000, 20)])) == []


@pytest.mark.parametrize(("library", "option", "cure"), [
    ("matplotlib", "--plot", "matplotlib is not installed (pip install matplotlib)"),
    ("plotext", "--terminal", "plotext 6 is not installed (pip install 'plotext>=6')"),
])
def test_without_the_library_the_table_is_printed_all_the_same(make_run, tmp_path, monkeypatch, capsys, library, option,
                                                               cure):
    monkeypatch.setitem(sys.modules, library, None)
    kept = tmp_path / "run.json"
    kept.write_text(json.dumps(make_run({"bulk plain": {GBIT: [20]}})))
    picture = tmp_path / "run.png"

    status = cli.main(["bench", "--show", str(kept), option, *([str(picture)] if option == "--plot" else [])])

    said = capsys.readouterr()
    assert (status, said.err) == (0, f"lbq: no charts: {cure}\n")
    assert "| bulk TCP, 1 stream, Gb/s | 20.00 |" in said.out
    assert not picture.exists()


def test_a_run_with_nothing_to_draw_says_why(make_run, tmp_path, capsys):
    kept = tmp_path / "run.json"
    kept.write_text(json.dumps(make_run({"bulk lbq": {GBIT: [20]}})))

    assert cli.main(["bench", "--show", str(kept), "--terminal"]) == 0

    assert "nothing to draw" in capsys.readouterr().err
