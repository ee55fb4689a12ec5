"""Every exercise: the lab works, is broken by what is to be found, the check says so, the solution mends it."""
from __future__ import annotations

import pytest

from lbq.errors import ConfigError
from lbq.lab.exercises import EXERCISES, check, find, of, try_out
from lbq.lab.routed import RoutedLab
from lbq.lab.topology import Lab
from tests.helpers.topology import listing, new_lab

HANGS = "Every second request hangs until the browser gives up."
COMES_TRUE = {          # what users say, of eight requests
    HANGS: lambda seen: [seen.failed, seen.answers.total()] == [["timed out"] * 4, 4],
    "web01 has been bored since the maintenance yesterday; web02 groans.": lambda seen: seen.answers == {"web02": 8},
    "Since the security hardening nothing works any more.": lambda seen: seen.failed == ["timed out"] * 8,
    "Since the firewall was installed nothing works any more.": lambda seen: seen.failed == ["timed out"] * 8,
    "Every second request is refused at once.": lambda seen: seen.failed == ["Connection refused"] * 4,
    "web01 gets every request, whatever the weights say.": lambda seen: (seen.answers, seen.seen) == ({"web01": 8}, 0),
    "Pages load, but uploads hang.": lambda seen: (seen.failed, seen.large_failed) == ([], ["timed out"])}
TITLES = [f"{each.mode}-{each.title.replace(' ', '-')}" for each in EXERCISES]


@pytest.mark.parametrize("exercise", EXERCISES, ids=TITLES)
def test_it_is_broken_and_can_be_mended(exercise):
    with new_lab(*((Lab,) if exercise.mode == "nat" else (RoutedLab, exercise.mode))) as lab:
        lab.start_web_servers()
        lab.start_director("--mode", exercise.mode, "--scheduler", "rr", "--vip", f"{lab.vip}:80",
                           *(word for server in lab.servers for word in ("--real", f"{server.address}:80")))
        assert check(lab, exercise) == []
        exercise.break_it(lab)
        result = try_out(lab, exercise)
        assert COMES_TRUE[exercise.complaint](result), result
        assert result.trouble(["web01", "web02"]) != []
        exercise.mend(lab)
        assert check(lab, exercise) == [], try_out(lab, exercise)


def test_a_director_that_does_not_run_is_one_line_of_what_is_wrong(lab):
    assert check(lab, EXERCISES[0]) == [f"no director answers in {lab.director.name}"]


def test_exercises_are_found_by_number():
    assert find("nat", 1) is of("nat")[0]
    with pytest.raises(ConfigError, match="there is no exercise 99 for dr; there are 1 to"):
        find("dr", 99)


def test_each_request_is_a_connection_that_the_director_does_not_know():
    """Else it goes where the one before from its port went, and who answers is no matter of turns."""
    with new_lab(RoutedLab, "tun") as lab:
        lab.start_web_servers()
        lab.start_director("--mode", "tun", "--scheduler", "rr", "--vip", f"{lab.vip}:80",
                           *(word for server in lab.servers for word in ("--real", f"{server.address}:80")))
        lab.client.sysctl("net.ipv4.ip_local_port_range", "40000 40015")
        lab.client.sysctl("net.ipv4.tcp_max_tw_buckets", 0)         # it forgets at once which ones it had
        exercise = find("tun", 2)
        seen = [try_out(lab, exercise) for _ in range(2)]       # sixteen requests
        scheduled = listing(lab)["stats"]["conns"]

    assert scheduled == 16
    assert [(each.answers, each.failed, each.seen) for each in seen] == [({"web01": 4, "web02": 4}, [], 8)] * 2
