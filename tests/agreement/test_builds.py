"""Interpreted, the algorithms do what they do compiled: C integers wrap, Python's do not.

The compiled build runs here, the interpreted one in a process of its own with ``LBQ_PURE=1``.
"""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import sampled, trace

ROOT = Path(__file__).resolve().parents[2]
STORIES = max(4, sampled.STEPS // 10_000)


@pytest.mark.slow
def test_the_two_builds_agree():
    source_of_lbq = Path(trace.pkt.__file__).parents[1]
    environment = {**os.environ, "LBQ_PURE": "1", "PYTHONPATH": f"{source_of_lbq}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-P", "-m", "tests.helpers.trace", "7000", str(STORIES)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    form, *interpreted = done.stdout.splitlines()
    compiled = list(trace.lines(7000, STORIES))

    assert (form, trace.is_compiled()) == ("interpreted", True)
    assert interpreted == compiled
    sampled.COUNTED["builds: steps compared"] += len(compiled)
