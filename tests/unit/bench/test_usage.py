"""Processor time of a director: all of its processes count, also where the kernel does not list children."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lbq.bench import usage


def test_children_are_found_where_the_kernel_does_not_list_them(tmp_path):
    task = tmp_path / str(os.getpid())
    task.mkdir()
    with subprocess.Popen(["sleep", "60"]) as child:
        found = usage._children(task)
        child.kill()

    assert child.pid in found
    assert os.getpid() not in found and os.getppid() not in found


def test_what_a_child_has_used_is_its_parents_too():
    busy = "import time\nwhile time.process_time() < 0.1: pass\nprint('used', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert usage._process_seconds(os.getpid()) >= usage._process_seconds(child.pid) >= 0.09
        child.kill()


def test_a_process_that_has_ended_has_no_parent():
    assert usage._parent(Path("/proc/nobody")) is None
