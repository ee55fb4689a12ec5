"""Scenarios through a kernel: boots a guest for them and hands out the transcripts as they are done."""
from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.guest import Guest, GuestError

ROOT = Path(__file__).resolve().parents[2]
# What a guest may take: to boot, and for each step at its slowest, waits overlapping.
BOOT_SECONDS = {"classic": 60, "new": 180}
STEP_SECONDS = {"classic": 0.05, "new": 0.1}


def transcripts(kind: str, scenarios: list[dict], agent: str = "agent",
                step_seconds: float | None = None) -> Iterator[tuple[dict, dict]]:
    """Let *agent* play *scenarios* in a guest of this *kind*; yield each with its transcript, in the order they end.

    Of one that the machine was too busy for, as much as went as it is meant.
    """
    steps = sum(len(scenario["steps"]) for scenario in scenarios)
    seconds = BOOT_SECONDS[kind] + int((step_seconds or STEP_SECONDS[kind]) * steps) + 60
    with tempfile.TemporaryDirectory(prefix="lbq-kernel-", dir="/var/tmp") as scratch:
        todo, done = Path(scratch, "scenarios"), Path(scratch, "transcripts")
        todo.write_text("".join(json.dumps(scenario) + "\n" for scenario in scenarios))
        done.touch()
        program = [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}); from tests.kernel.{agent} "
                   f"import main; main({kind!r}, {str(todo)!r}, {str(done)!r})"]
        with Guest(kind, program, seconds=seconds) as guest, open(done) as lines:
            count = 0
            while True:
                running = guest.is_running()            # before reading: what it wrote last is read, too
                for line in complete_lines(lines):
                    transcript = json.loads(line)
                    count += 1
                    scenario = scenarios[transcript["number"]]
                    if transcript.get("late"):
                        scenario = {**scenario, "steps": scenario["steps"][:len(transcript["results"])]}
                    yield scenario, transcript
                if not running:
                    break
                time.sleep(0.1)
            guest.check_success()
            if count != len(scenarios):
                raise GuestError(f"the {kind} guest played {count} of {len(scenarios)} scenarios")


def complete_lines(file) -> Iterator[str]:
    """Yield the lines that are complete by now and leave *file* after the last of them."""
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(position, os.SEEK_SET)
            return
        yield line
