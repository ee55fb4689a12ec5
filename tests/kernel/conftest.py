"""Prints the report table: scheduler x profile x decisions compared x differences."""
from __future__ import annotations

import signal

import pytest

from tests.kernel.report import COMMANDS, FULL, REPORTS


def pytest_configure():
    """End guests, too, when the run is ended."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def say_how_much(record_testsuite_property):
    """Write into the report how much of the full set this run was."""
    yield
    parts = [f"{report.decisions.total():,} of {FULL[which]:,} decisions ({report.name()})"
             for which, report in REPORTS.items()]
    if COMMANDS.lines:
        parts.append(f"{COMMANDS.lines:,} of {COMMANDS.full:,} command lines")
    record_testsuite_property("sampled", ", ".join(parts))


def pytest_terminal_summary(terminalreporter):
    """Show what was compared."""
    for report in REPORTS.values():
        terminalreporter.section(f"kernel IPVS ({report.name()}) and lbq ({', '.join(report.engines)})")
        terminalreporter.write_line(report.table())
    if COMMANDS.lines:
        terminalreporter.section("the real ipvsadm and lbq-ipvsadm")
        terminalreporter.write_line(COMMANDS.table())
