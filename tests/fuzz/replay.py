"""Plays one case again in the sanitized build, telling each step before it happens.

    python -m tests.fuzz.replay TARGET CASE
"""
from __future__ import annotations

import sys

from tests.fuzz import sanitized

if __name__ == "__main__":
    process = sanitized.start("-m", "tests.fuzz.worker", *sys.argv[1:3])
    said, complained = process.communicate()
    print(said, complained, sep="\n")
    sys.exit(process.returncode)
