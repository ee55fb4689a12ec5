"""Runs the director and its clients once; the tests look at what came of it."""
from __future__ import annotations

import os

import pytest

from tests.soak.run import FULL_SECONDS, SECONDS, Soak, grown, soak


def pytest_collection_modifyitems(items):
    """Mark what is in this folder, and skip it, saying why, where it cannot run."""
    for item in items:
        if "/tests/soak/" in str(item.path):
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.timeout(SECONDS + 400))
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: it makes network namespaces"))


@pytest.fixture(scope="session")
def soaked(record_testsuite_property) -> Soak:
    """Return what a director did for a while."""
    soaked = soak()
    sizes = ", ".join(f"{process} {size // 1024:+,} KiB" for process, size in grown(soaked).items())
    record_testsuite_property("sampled", f"{SECONDS:,} of {FULL_SECONDS:,} s: {sum(soaked.answered.values()):,} "
                                         f"requests, {soaked.changes:,} changes; {sizes}")
    return soaked
