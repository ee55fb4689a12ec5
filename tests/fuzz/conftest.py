"""The suite needs the sanitized build, and says at the end how much it played."""
from __future__ import annotations

import pytest

from tests.fuzz import sanitized
from tests.fuzz.test_fuzz import FULL_SECONDS, PLAYED, SECONDS


@pytest.fixture(scope="session", autouse=True)
def sanitized_build():
    """Fail, with what to do, when there is no build of these very sources."""
    if why := sanitized.why_not_usable():
        pytest.fail(why)


@pytest.fixture(scope="session", autouse=True)
def say_how_much(record_testsuite_property):
    """Write into the report how much of the full set this run was."""
    yield
    done = ", ".join(f"{PLAYED[name]:,} {name}" for name in ("packets", "messages", "answers", "words", "files"))
    record_testsuite_property("sampled", f"{SECONDS:,} of {FULL_SECONDS:,} s: {done}")
