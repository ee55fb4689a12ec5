"""``lbq lab nat``: what it shows, and that nothing of it is left however it ends.

The command's names are fixed, so each test gives it a ``/run`` of its own (a mount namespace): a lab that
somebody keeps on this machine is neither in the way nor in danger.
"""
from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.namespaces import machines
from tests.helpers.private_run import TIMEOUT, PrivateRun

NAMESPACES = ["lbq-client", "lbq-director", "lbq-web01", "lbq-web02"]


@pytest.fixture
def private():
    """Return a place with a /run of its own."""
    with PrivateRun() as place:
        yield place


def test_it_builds_tries_shows_and_takes_down(private):
    done = private.lbq("lab", "nat")

    assert (done.returncode, done.stderr) == (0, "")
    answers = re.findall(r"from (192\.168\.10\.100):(\d+) .* (web\d\d)$", done.stdout, re.MULTILINE)
    assert [name for _, _, name in answers] == ["web02", "web01"] * 5
    assert len({port for _, port, _ in answers}) == 10
    assert "web01 answered 5, web02 answered 5" in done.stdout
    table = done.stdout.partition("(lbq list):")[2]
    for address in ("192.168.10.1:80", "192.168.20.1:80", "192.168.20.2:80"):
        assert address in table
    assert done.stdout.rstrip().endswith("and every program in them.")
    assert private.leftovers() == []


@pytest.mark.parametrize("line", ["Building", "  client", "  web servers", "  director", "   1.", "What "])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_at_any_stage_leaves_nothing(private, line, number, status):
    lab = private.start("lab", "nat")
    try:
        for printed in lab.stdout:
            if printed.startswith(line):
                break
        lab.send_signal(number)
        time.sleep(0.01)
        lab.send_signal(number)         # an impatient user does no harm
        _, errors = lab.communicate(timeout=TIMEOUT)
    finally:
        lab.kill()
        lab.wait()

    assert (lab.returncode, errors) == (status, "")
    assert private.leftovers() == []


def test_a_signal_is_heard_when_the_links_of_a_machine_are_closed(tmp_path):
    """While they are open, pyroute2 would lose the exception, and the lab with it."""
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with machines(tmp_path, "m") as (machine,), machine.links() as links:
            os.kill(os.getpid(), signal.SIGINT)
            assert [link.get("ifname") for link in links.get_links()] == ["lo"]
            assert heard == []
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_failure_is_one_line_and_leaves_nothing(private):
    """Without iptables the director refuses to start; the lab repeats its words and is gone."""
    assert private.call("mount", "-t", "tmpfs", "none", "/usr/sbin").returncode == 0
    before = private.leftovers()

    done = private.lbq("lab", "nat")

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "iptables" in line
    assert private.leftovers() == before


def test_kept_lab_can_be_played_with_and_taken_down(private):
    kept = private.lbq("lab", "nat", "--keep")
    assert (kept.returncode, kept.stderr) == (0, "")
    assert private.namespaces() == NAMESPACES

    curl = ("ip", "netns", "exec", "lbq-client", "curl", "-sS", "-m", 10, "http://192.168.10.1/")
    answers = [private.call(*curl).stdout for _ in range(2)]
    refused = private.lbq("lab", "nat")
    again = private.call(*curl).stdout
    suggested = re.findall(r"ip netns exec \S.*", kept.stdout)
    played = [(command, private.call(*command.split())) for command in suggested]
    down = private.lbq("lab", "nat", "--down")

    assert answers == ["web02\n", "web01\n"]
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert "lbq-client" in line and "lbq lab nat --down" in line
    assert again == "web02\n"
    assert len(suggested) >= 6
    assert [(command, done.stderr) for command, done in played if done.returncode != 0] == []
    assert (down.returncode, down.stderr) == (0, "")
    assert private.leftovers() == []


def test_killed_lab_stops_its_programs_and_down_removes_the_rest(private):
    lab = private.start("lab", "nat")
    try:
        for printed in lab.stdout:
            if printed.startswith("   1."):
                break
    finally:
        lab.kill()
        lab.communicate(timeout=TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    while private.processes() and time.monotonic() < deadline:
        time.sleep(0.02)

    assert private.processes() == []
    assert private.namespaces() == NAMESPACES
    assert private.lbq("lab", "nat", "--down").returncode == 0
    assert private.leftovers() == []


def test_down_without_a_lab_says_so(private):
    done = private.lbq("lab", "nat", "--down")

    assert done.returncode == 0
    assert done.stdout.startswith("no lab is up")


def test_without_root_it_is_one_line():
    # Python itself may lie where only root can read, so the user changes after the imports.
    program = ("import os, sys, lbq.cli, lbq.lab.tour; "
               "os.setgroups([]); os.setegid(65534); os.seteuid(65534); "
               "sys.exit(lbq.cli.main(['lab', 'nat']))")

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT,
                          check=False)

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "root" in line


@pytest.mark.parametrize(("mode", "way"), [("dr", "Route"), ("tun", "Tunnel")])
def test_the_lab_of_dr_and_tun_shows_that_replies_bypass_the_director(private, mode, way):
    done = private.lbq("lab", mode)

    assert done.returncode == 0, done.stderr
    assert "web01 answered 5, web02 answered 5" in done.stdout
    assert re.search(r"seen on the director's device +0 ", done.stdout)
    assert int(re.search(r"seen on the router +(\d+)", done.stdout)[1]) >= 10 * 3       # SYN ACK, answer, FIN
    assert done.stdout.count(way) == 2
    assert ("protocol 4 (IPIP)" in done.stdout) == (mode == "tun")
    assert "Taken down" in done.stdout


def test_an_exercise_is_begun_checked_mended_and_taken_down(private):
    """The solution that is printed is commands, and they mend it."""
    begun = private.lbq("lab", "nat", "--exercise", "1")
    assert begun.returncode == 0, begun.stderr
    assert "Every second request hangs" in begun.stdout and "without a way back" not in begun.stdout
    assert private.namespaces() == NAMESPACES
    again = private.lbq("lab", "nat", "--exercise", "2")
    assert again.returncode == 2 and "exists already" in again.stderr

    other = private.lbq("lab", "nat", "--exercise", "2", "--check")
    assert (other.returncode, other.stdout) == (2, "")
    assert "the lab that is up is exercise 1 of nat, not exercise 2 of nat" in other.stderr
    wrong = private.lbq("lab", "nat", "--exercise", "1", "--check")
    assert wrong.returncode == 1 and "web02 answered none of them" in wrong.stdout
    assert "ip route" in private.lbq("lab", "nat", "--exercise", "1", "--hint").stdout
    solution = private.lbq("lab", "nat", "--exercise", "1", "--solution").stdout.splitlines()
    assert solution[0] == "It is a real server without a way back."
    assert private.call(*solution[1].split()).returncode == 0
    mended = private.lbq("lab", "nat", "--exercise", "1", "--check")
    assert mended.returncode == 0 and mended.stdout.startswith("It works:"), mended.stdout
    assert private.lbq("lab", "nat", "--down").returncode == 0
    assert private.namespaces() == []


def test_commands_of_an_exercise_are_those_of_this_lbq(private):
    """Also where lbq is not found by its name, as under sudo: how it was called is what is shown."""
    begun = private.lbq("lab", "nat", "--exercise", "2")
    director = next(line for line in begun.stdout.splitlines() if line.strip().startswith("the director"))
    command = director.partition("the director")[2].partition("(or")[0].split()
    solution = private.lbq("lab", "nat", "--exercise", "2", "--solution").stdout.splitlines()
    played = [private.call(*words) for words in (command, solution[1].split())]

    assert [(done.returncode, done.stderr) for done in played] == [(0, ""), (0, "")]
    assert "192.168.10.1:80" in played[0].stdout
    assert private.lbq("lab", "nat", "--exercise", "2", "--check").returncode == 0
    assert private.lbq("lab", "nat", "--down").returncode == 0


def test_a_lab_that_is_no_exercise_is_not_checked(private):
    assert private.lbq("lab", "nat", "--keep").returncode == 0
    done = private.lbq("lab", "nat", "--exercise", "1", "--check")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the lab that is up is no exercise" in done.stderr
    assert private.lbq("lab", "nat", "--down").returncode == 0
