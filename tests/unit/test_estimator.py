"""lbq.estimator: the kernel's averages, number for number."""
from __future__ import annotations

import pytest

from lbq import estimator


def rounds(step, counts):
    """Return the scaled averages of a counter that grows by each of *counts* in turn."""
    average, before, found = 0, 0, []
    for count in counts:
        average = step(average, before, before + count)
        before += count
        found.append(average)
    return found


# Kernel: ip_vs_est.c; the bursts were seen on a running 6.1.
@pytest.mark.parametrize(("counts", "averages", "shown"), [
    ([100] * 4, [12800, 22400, 29600, 35000], [12, 22, 29, 34]),
    ([100, 0, 0, 0, 0, 0], [12800, 9600, 7200, 5400, 4050, 3037], [12, 9, 7, 5, 4, 3]),
])
def test_connections_and_packets(counts, averages, shown):
    found = rounds(estimator.count_step, counts)

    assert found == averages
    assert [estimator.count_rate(average) for average in found] == shown


@pytest.mark.parametrize(("counts", "averages", "shown"), [
    ([10_000] * 3, [40000, 70000, 92500], [1250, 2187, 2891]),
    ([10_000, 0, 0, 0, 0, 0], [40000, 30000, 22500, 16875, 12656, 9492], [1250, 937, 703, 527, 395, 297]),
])
def test_bytes(counts, averages, shown):
    found = rounds(estimator.byte_step, counts)

    assert found == averages
    assert [estimator.byte_rate(average) for average in found] == shown


def test_a_steady_stream_shows_its_rate_a_second_in_the_end():
    assert estimator.count_rate(rounds(estimator.count_step, [100] * 100)[-1]) == 50
    assert estimator.byte_rate(rounds(estimator.byte_step, [10_000] * 100)[-1]) == 5000


def test_a_counter_that_stands_still_is_forgotten():
    assert estimator.count_rate(rounds(estimator.count_step, [1000] + [0] * 60)[-1]) == 0
