"""lbq.thresholds: when a server is overloaded, in both kernel profiles (ip_vs_conn.c, ip_vs_ctl.c)."""
from __future__ import annotations

import pytest

from lbq.thresholds import after_bind, after_edit, after_unbind, lower_of

CLASSIC, NEW = False, True


def history(new, upper, lower, steps):
    """Return the flag after each of *steps*, +1 for a connection that comes and -1 for one that goes."""
    total, flag, flags = 0, False, []
    for step in steps:
        total += step
        flag = (after_bind if step > 0 else after_unbind)(new, upper, lower, total, False, flag)
        flags.append(flag)
    return flags


@pytest.mark.parametrize("new", [CLASSIC, NEW], ids=["classic", "new"])
@pytest.mark.parametrize(("upper", "lower", "steps", "flags"), [
    (4, 0, [1, 1, 1, 1, -1, -1], [0, 0, 0, 1, 1, 0]),          # set at 4, still at 3, cleared at 2
    (4, 2, [1, 1, 1, 1, -1, -1, -1], [0, 0, 0, 1, 1, 1, 0]),   # below 2, not at 2
    (1, 0, [1, -1], [1, 0]),
    (0, 0, [1, 1, 1, -1], [0, 0, 0, 0]),
])
def test_a_server_fills_and_empties(new, upper, lower, steps, flags):
    assert history(new, upper, lower, steps) == [bool(flag) for flag in flags]


def test_a_template_that_comes_sets_the_flag_only_in_the_classic_profile():
    assert after_bind(CLASSIC, 4, 0, 5, True, False)
    assert not after_bind(NEW, 4, 0, 4, True, False)


def test_a_template_that_goes_clears_the_flag_only_in_the_classic_profile():
    assert not after_unbind(CLASSIC, 4, 0, 2, True, True)
    assert after_unbind(NEW, 4, 0, 2, True, True)


def test_without_thresholds_the_classic_profile_clears_with_the_next_connection_that_goes():
    assert not after_unbind(CLASSIC, 0, 0, 9, False, True)


def test_the_new_profile_looks_only_at_the_step_that_crosses():
    assert not after_bind(NEW, 4, 0, 5, False, False)
    assert after_bind(CLASSIC, 4, 0, 5, False, False)
    assert after_unbind(NEW, 4, 0, 1, False, True)
    assert not after_unbind(CLASSIC, 4, 0, 1, False, True)


@pytest.mark.parametrize(("new", "upper", "before", "total", "flag", "after"), [
    (CLASSIC, 2, 4, 3, False, False),       # lowered below what there is: the next connection sets it
    (NEW, 2, 4, 3, False, True),            # at once
    (CLASSIC, 9, 4, 8, True, False),        # raised: cleared without a look at the total
    (NEW, 9, 4, 8, True, True),             # kept between L' and U
    (NEW, 9, 4, 6, True, False),
    (CLASSIC, 0, 4, 8, True, False),
    (NEW, 0, 4, 8, True, False),
    (CLASSIC, 4, 4, 4, True, True),         # unchanged
    (NEW, 4, 4, 1, True, True),
])
def test_an_edit(new, upper, before, total, flag, after):
    assert after_edit(new, upper, 0, before, 0, total, flag) is after


def test_a_lower_threshold_alone_is_an_edit_in_the_new_profile():
    assert not after_edit(NEW, 9, 7, 9, 2, 5, True)
    assert after_edit(CLASSIC, 9, 7, 9, 2, 5, True)


@pytest.mark.parametrize(("upper", "lower", "effective"), [(4, 0, 3), (5, 0, 4), (1, 0, 1), (100, 0, 75), (9, 2, 2)])
def test_without_a_lower_threshold_it_is_three_quarters_rounded_up(upper, lower, effective):
    assert lower_of(upper, lower) == effective
