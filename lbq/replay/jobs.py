"""Several plays at a time, each in a process of its own that shares the traffic it was forked with."""
from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from lbq.errors import HostError
from lbq.replay.measure import Measured
from lbq.replay.play import Player, Setup
from lbq.replay.traffic import Traffic

WORTH_IT = 200_000          # packets to play in all; fewer are played before another process has started
LOOK_SECONDS = 0.2
Play = tuple[Setup, str]    # and the scheduler's name

_forked: dict[str, Any] = {}    # what the processes find


def play(traffic: Traffic, plays: list[Play], tell: Callable[[int], None]) -> list[Measured]:
    """Return what came of each of *plays*; *tell* is called now and then with how many more packets were played."""
    processes = min(len(plays), len(os.sched_getaffinity(0)))
    if processes == 1 or len(traffic.times) * len(plays) < WORTH_IT:
        return [Player(traffic, *each).play(tell) for each in plays]
    context = multiprocessing.get_context("fork")
    played = context.Value("Q", 0)
    _forked.update(traffic=traffic, played=played)
    told = 0
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting = [pool.submit(_play, each) for each in plays]
        try:
            while wait(waiting, timeout=LOOK_SECONDS).not_done:
                tell(played.value - told)
                told = played.value
            return [future.result() for future in waiting]
        except BrokenProcessPool as error:
            raise HostError("a process that played was killed; if memory is short, play fewer packets: editcap -c N "
                            "FILE PART, or one scheduler at a time") from error
        finally:
            for future in waiting:
                future.cancel()
            _forked.clear()


def _play(each: Play) -> Measured:
    """Play in a forked process."""
    played = _forked["played"]

    def tell(packets: int) -> None:
        with played.get_lock():
            played.value += packets

    return Player(_forked["traffic"], *each).play(tell)
