"""Sphinx over this checkout's docs, as `make docs` calls it."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def build(builder: str, into: Path) -> Path:
    """Build the documentation with *builder*, every warning an error, and return the folder it is in."""
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", builder,
                           "-d", into / "doctrees", DOCS, into / builder],
                          cwd=into, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return into / builder
