"""Prints how much was sampled."""
from __future__ import annotations

import pytest

from tests.helpers import sampled
from tests.helpers.engines import PURE
from tests.kernel.mutants import mutants

# Interpreted, there is nothing compiled to compare with; the run on the compiled build has these.
collect_ignore = ["test_batches.py", "test_builds.py", "test_directors.py"] if PURE else []


@pytest.fixture(scope="session", autouse=True)
def say_how_much(record_testsuite_property):
    """Write into the report how much of the full set this run was."""
    yield
    done = sampled.COUNTED["directors: steps"]
    noticed = sampled.COUNTED["mutants"]
    record_testsuite_property("sampled", f"{done:,} of {sampled.FULL_STEPS:,} steps, "
                                         f"{noticed} of {len(mutants())} mutants")


def pytest_terminal_summary(terminalreporter):
    """Show the counters behind the results."""
    if sampled.COUNTED:
        terminalreporter.section(f"sampled (LBQ_AGREEMENT_STEPS={sampled.STEPS})")
        for line in sampled.report():
            terminalreporter.write_line(line)
