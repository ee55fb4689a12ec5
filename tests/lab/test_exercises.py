"""Every exercise: the lab works, is broken by what is to be found, the check says so, the solution mends it."""
from __future__ import annotations

import pytest

from lbq.errors import ConfigError
from lbq.lab.exercises import EXERCISES, check, find, of, try_out
from lbq.lab.routed import RoutedLab
from lbq.lab.topology import Lab
from tests.helpers.topology import new_lab

TITLES = [f"{each.mode}-{each.title.replace(' ', '-')}" for each in EXERCISES]


@pytest.mark.parametrize("exercise", EXERCISES, ids=TITLES)
def test_it_is_broken_and_can_be_mended(exercise):
    with new_lab(*((Lab,) if exercise.mode == "nat" else (RoutedLab, exercise.mode))) as lab:
        lab.start_web_servers()
        lab.start_director("--mode", exercise.mode, "--scheduler", "rr", "--vip", f"{lab.vip}:80",
                           *(word for server in lab.servers for word in ("--real", f"{server.address}:80")))
        assert check(lab, exercise) == []
        exercise.break_it(lab)
        assert check(lab, exercise) != []
        exercise.mend(lab)
        assert check(lab, exercise) == [], try_out(lab, exercise)


def test_exercises_are_found_by_number():
    assert find("nat", 1) is of("nat")[0]
    with pytest.raises(ConfigError, match="there is no exercise 99 for dr; there are 1 to"):
        find("dr", 99)
