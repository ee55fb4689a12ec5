"""What is measured: each number by hand."""
from __future__ import annotations

import pytest

from lbq.replay.measure import Measured, Meter, Slice, compare, imbalance, shares

S = 10**9


def test_flows_in_progress_their_peak_and_their_p99():
    """0 s: 1 flow, 1 s: 2, 2 s: 3, 3 s: 2, 4 s: 1, to 1,000 s: more than two only for a thousandth of the time."""
    meter = Meter(1)
    for now, step in ((0, meter.begin), (1, meter.begin), (2, meter.begin), (3, meter.leave), (4, meter.leave)):
        step(0, now * S)
    meter.cut(1000 * S, [1])

    assert meter.peak == [3] and meter.p99() == [1] and meter.live == [1]
    assert meter.slices == [Slice(0, 1000 * S, [1], [3], [(1 + 2 + 3 + 2 + 996) * S])]


def test_p99_counts_time_not_flows():
    meter = Meter(1)
    for now in range(50):
        meter.begin(0, now * S)
    meter.cut(100 * S, [1])

    assert meter.p99() == [50] == meter.peak        # half of the time


def test_flows_without_duration_have_a_peak_all_the_same():
    meter = Meter(2)
    meter.begin(0, 0)
    meter.begin(0, 0)
    meter.leave(0, 0)
    meter.cut(0, [1, 1])

    assert meter.peak == [2, 0] == meter.p99() and meter.slices[0].flows == [2, 0]


def test_an_empty_slice_of_no_length_is_none():
    meter = Meter(1)
    meter.cut(0, [1])
    meter.cut(S, [1])
    meter.cut(S, [0])

    assert [(piece.start_ns, piece.length_ns) for piece in meter.slices] == [(0, S)]


def test_shares():
    assert shares([3, 1]) == [0.75, 0.25] and shares([0, 0]) == [0, 0]


def test_imbalance_of_flows_is_against_weights():
    even = Slice(0, S, [3, 1], [30, 10], [0, 0])
    skewed = Slice(0, S, [3, 1], [20, 20], [0, 0])

    assert imbalance([even], "flows") == 1.0
    assert imbalance([skewed], "flows") == 2.0          # 20 where 10 were due
    assert imbalance([even, skewed], "flows") == 1.5    # 30 where 20 were


def test_a_quiesced_server_is_due_nothing():
    before, after = Slice(0, S, [1, 1], [10, 10], [0, 0]), Slice(S, S, [0, 1], [0, 20], [0, 0])

    assert imbalance([before, after], "flows") == 1.0


def test_imbalance_of_load_is_a_mean_in_which_busy_slices_count_more():
    quiet, busy = Slice(0, S, [1, 1], [0, 0], [2, 0]), Slice(S, S, [1, 1], [0, 0], [3, 3])

    assert imbalance([quiet, busy], "load") == pytest.approx((2 * 2 + 1 * 6) / 8)


def test_nothing_to_divide_has_no_imbalance():
    assert imbalance([Slice(0, S, [0, 0], [0, 0], [0, 0])], "flows") is None
    assert imbalance([], "load") is None


def measured(chosen: list[int], slices: list[Slice]) -> Measured:
    """Return a play in which flows began at the servers *chosen*."""
    return Measured("rr", [], [], [], [], [], slices, chosen=chosen)


def test_what_a_change_displaced():
    """At 10 s server 0 is quiesced; of four later flows three went elsewhere, two of them because they had to."""
    slices = [Slice(0, 10 * S, [1, 1], [], []), Slice(10 * S, 10 * S, [0, 1], [], [])]
    changed = measured([0, 1, 1, -1, 0, 1], slices)
    compare(changed, measured([1, 0, 0, 0, 1, 1], slices), [0, 10 * S, 11 * S, 12 * S, 13 * S, 14 * S], 0, 10 * S)

    assert (changed.later, changed.displaced, changed.had_to) == (5, 4, 3)


def test_who_had_to_go_is_told_by_the_weights_of_the_time_whenever_the_capture_began():
    """Server 0 is quiesced from 10 to 20 s: of both flows that go elsewhere, one when it is back, the first had to."""
    slices = [Slice(0, 10 * S, [1, 1], [], []), Slice(10 * S, 10 * S, [0, 1], [], []),
              Slice(20 * S, 10 * S, [1, 1], [], [])]
    for origin in (0, 1_700_000_000 * S):
        changed = measured([1, 1], slices)
        compare(changed, measured([0, 0], slices), [origin + 11 * S, origin + 21 * S], origin, 10 * S)

        assert (changed.later, changed.displaced, changed.had_to) == (2, 2, 1)
