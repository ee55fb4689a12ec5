"""Processor time and memory, from /proc: of a director's processes, and time of the whole machine."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
IDLE_FIELDS = (3, 4)        # of /proc/stat's first line: idle and iowait


class Usage:
    """Processor seconds from the making of the object to ``stop()``."""

    def __init__(self, process: subprocess.Popen | None):
        self._director = process.pid if process else None
        self._director_seconds = -_process_seconds(self._director)
        self._machine_seconds = -_machine_seconds()

    def stop(self) -> None:
        """Take the second reading."""
        self._machine_seconds += _machine_seconds()
        self._director_seconds += _process_seconds(self._director)

    def each(self, count: float, what: str) -> dict[str, float]:
        """Return microseconds for each of *count* things called *what*; no process, no number."""
        numbers = {f"machine_us_per_{what}": self._machine_seconds / count * 1e6}
        if self._director is not None:
            numbers[f"director_us_per_{what}"] = self._director_seconds / count * 1e6
        return numbers


def _process_seconds(pid: int | None) -> float:
    """Return what *pid* and its descendants have used; they must live on until the second reading.

    schedstat counts nanoseconds; /proc/PID/stat counts hundredths of a second.
    """
    if pid is None:
        return 0.0
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0]) / 1e9
        total += sum(_process_seconds(child) for child in _children(task))
    return total


def _children(task: Path) -> list[int]:
    """Return the processes that the thread *task* has started."""
    listed = task / "children"
    if listed.exists():
        return [int(word) for word in listed.read_text().split()]
    return [int(child.name) for child in Path("/proc").glob("[0-9]*") if _parent(child) == int(task.name)]


def _parent(process: Path) -> int | None:
    """Return who started *process*: a kernel without CONFIG_PROC_CHILDREN lists it nowhere else."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:       # it has ended
        return None


def _machine_seconds() -> float:
    """Return what all processors have used, interrupts included, time stolen by the host not."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:8]]
    return (sum(fields[:7]) - sum(fields[at] for at in IDLE_FIELDS)) / TICKS


def resident_bytes(process: subprocess.Popen | None) -> int:
    """Return what *process* and its descendants have in memory, shared pages counted for each; 0 without one."""
    return sum(_resident_pages(pid) for pid in _family(process.pid)) * PAGE if process else 0


def _family(pid: int) -> list[int]:
    children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    return [pid, *(member for child in children for member in _family(child))]


def _resident_pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
