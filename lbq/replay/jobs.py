"""Several plays at a time, each in a process of its own that shares the traffic it was forked with.

Whatever ends the program, they end with it: they are killed when something is raised here, and notice by themselves
when they have lost their parent.
"""
from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, MutableSequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from lbq.errors import HostError
from lbq.replay.measure import Measured
from lbq.replay.play import Player, Setup
from lbq.replay.traffic import FEWER, Traffic

WORTH_IT = 200_000          # packets to play in all; fewer are played before another process has started
LOOK_SECONDS = 0.2
Play = tuple[Setup, str]    # and the scheduler's name


def play(traffic: Traffic, plays: list[Play], tell: Callable[[int], None]) -> list[Measured]:
    """Return what came of each of *plays*; *tell* is called now and then with how many more packets were played."""
    processes = min(len(plays), len(os.sched_getaffinity(0)))
    if processes == 1 or len(traffic.times) * len(plays) < WORTH_IT:
        return [Player(traffic, *each).play(tell) for each in plays]
    context = multiprocessing.get_context("fork")
    played = context.RawArray("Q", len(plays))      # without a lock, which a process that is killed would keep
    measured: dict[int, Measured] = {}
    running: dict[Connection, tuple[int, multiprocessing.process.BaseProcess]] = {}
    waiting, told = list(range(len(plays))), 0
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                number = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                # daemon: one that Ctrl-C kept from being among the running is ended at exit, not waited for.
                process = context.Process(target=_play, daemon=True, args=(traffic, plays[number], played, number,
                                                                           theirs, os.getpid()))
                process.start()
                theirs.close()
                running[ours] = number, process
            for ready in wait(list(running), LOOK_SECONDS):
                number, process = running[ready]
                measured[number] = _result(ready)
                process.join()
                del running[ready]
                ready.close()
            tell(sum(played) - told)
            told = sum(played)
    finally:
        for ours, (_, process) in running.items():
            process.kill()
            process.join()
            ours.close()
    return [measured[number] for number in range(len(plays))]


def _result(ours: Connection) -> Measured:
    """Return what a process has measured, or raise what it raised."""
    try:
        result = ours.recv()
    except EOFError as error:
        raise HostError(f"a process that played was killed; if memory is short, {FEWER}, or one scheduler at a "
                        "time") from error
    if isinstance(result, Exception):
        raise result
    return result


def _play(traffic: Traffic, each: Play, played: MutableSequence[int], number: int, theirs: Connection,
          parent: int) -> None:
    """Play in a forked process, and send what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is the parent's, which kills this process then

    def tell(packets: int) -> None:
        played[number] += packets
        if os.getppid() != parent:
            os._exit(1)

    try:
        result = Player(traffic, *each).play(tell)
    except Exception as error:
        error.add_note(traceback.format_exc())
        result = error
    with suppress(OSError):             # the parent has gone
        theirs.send(result)
