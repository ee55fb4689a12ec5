"""Plays in processes of their own: they come to the same, and end with the program whatever ends that."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from lbq import cli
from lbq.replay import jobs
from tests.helpers.processes import is_alive, wait_until

ENDLESS = """
import os, sys, time
from lbq import cli
from lbq.replay import jobs

def play(player, tell):
    os.write(1, f"{os.getpid()}\\n".encode())      # at once, whatever print() does
    while True:
        time.sleep(0.01)
        tell(1)

jobs.WORTH_IT = 0
jobs.os.sched_getaffinity = lambda _: {0, 1}
jobs.Player.play = play
sys.exit(cli.main(sys.argv[1:]))
"""
# Ctrl-C comes when the second process runs, and nobody has noted that yet.
INTERRUPTED = """
from multiprocessing.process import BaseProcess
start = BaseProcess.start

def interrupted(process):
    start(process)
    if process.name.endswith("-2"):
        raise KeyboardInterrupt

BaseProcess.start = interrupted
""" + ENDLESS


@pytest.fixture
def two_processes(monkeypatch):
    """Have even little be played by two processes."""
    monkeypatch.setattr(jobs, "WORTH_IT", 0)
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: {0, 1})


def played(capsys, web: str) -> list[dict]:
    """Return what came out by scheduler, without how long it took."""
    assert cli.main(["replay", web, "--change", "t=3.5 del A", "--json", "--scheduler", "rr,wlc,twos"]) == 0
    return [{**each, "seconds_to_play": 0} for each in json.loads(capsys.readouterr().out)["schedulers"]]


def mistake(capsys, web: str) -> str:
    """Return the line that a replay ends with."""
    assert cli.main(["replay", web]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_processes_play_what_one_does(capsys, web, request):
    alone = played(capsys, web)
    request.getfixturevalue("two_processes")

    assert played(capsys, web) == alone and [each["scheduler"] for each in alone] == ["rr", "wlc", "twos"]


def test_a_process_that_is_killed_is_one_line(capsys, web, monkeypatch, two_processes):
    monkeypatch.setattr(jobs.Player, "play", lambda *_: os.kill(os.getpid(), signal.SIGKILL))

    assert "lbq: a process that played was killed; if memory is short, play fewer packets" in mistake(capsys, web)


def test_memory_that_ends_in_a_process_is_one_line(capsys, web, monkeypatch, two_processes):
    def play(*_):
        raise MemoryError

    monkeypatch.setattr(jobs.Player, "play", play)
    assert f"lbq: there is not enough memory for {web}; play fewer packets" in mistake(capsys, web)


def test_a_bug_in_a_process_is_told_with_its_place(web, monkeypatch, two_processes):
    def play(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(jobs.Player, "play", play)
    with pytest.raises(ZeroDivisionError) as caught:
        cli.main(["replay", web])
    assert "in play" in caught.value.__notes__[0]


@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), [
    (lambda process: os.killpg(process.pid, signal.SIGINT), 130),                   # Ctrl-C reaches all of them
    (lambda process: process.terminate(), -signal.SIGTERM), (lambda process: process.kill(), -signal.SIGKILL)])
def test_no_process_is_left_behind(web, end, status):
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, "replay", web], text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    playing = [int(process.stdout.readline()) for _ in range(2)]
    end(process)
    _, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (status, "")
    wait_until(lambda: not any(map(is_alive, playing)))


@pytest.mark.slow
def test_ctrl_c_while_a_process_is_being_started_leaves_none_behind(web):
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, "replay", web], text=True, capture_output=True,
                           timeout=60, check=False)

    assert (ended.returncode, ended.stderr) == (130, "")
    wait_until(lambda: not any(is_alive(int(pid)) for pid in ended.stdout.split()))
