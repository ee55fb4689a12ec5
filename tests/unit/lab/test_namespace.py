"""Programs of a lab: they are ended whatever else the one who ends them has open."""
from __future__ import annotations

import os
import resource
import signal
import subprocess
from contextlib import ExitStack

import pytest

from lbq.lab.namespace import stop_pids


@pytest.fixture
def many_open_files():
    """Have more files open than select() has numbers for."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, before[1]))
    with ExitStack() as stack:
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_program_is_ended_however_many_files_are_open(many_open_files):
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as program:
        try:
            stop_pids([program.pid])
        finally:
            program.kill()

    assert program.returncode == -signal.SIGTERM
