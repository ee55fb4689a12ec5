"""Rates as kernel IPVS shows them: an exponential average over rounds of two seconds, in integers.

Every round takes the difference since the last one and moves the average a quarter of the way towards it:

    connections and packets   a 2^10th of one a second;   bytes   a 2^5th

so that one burst of 100 packets shows as 12, 9, 7, 5, 4, 3 a second, round by round.

Kernel: ip_vs_est.c, estimation_timer() and ip_vs_read_estimator().
"""
from __future__ import annotations

ROUND_NS = 2_000_000_000


def step(average: int, before: int, now: int, scale: int) -> int:
    """Return the scaled *average* after a round in which a counter went from *before* to *now*."""
    return average + ((((now - before) << scale) - average) >> 2)


def count_step(average: int, before: int, now: int) -> int:
    """Return the scaled average of connections or packets after a round."""
    return step(average, before, now, 9)


def byte_step(average: int, before: int, now: int) -> int:
    """Return the scaled average of bytes after a round."""
    return step(average, before, now, 4)


def count_rate(average: int) -> int:
    """Return connections or packets a second."""
    return (average + 0x1FF) >> 10


def byte_rate(average: int) -> int:
    """Return bytes a second."""
    return (average + 0xF) >> 5
