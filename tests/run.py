"""Run the test suites one after another, and say what each took and how much of its full set it sampled.

    python tests/run.py [--full] [SUITE ...]

A suite fails when a test fails, when a test was skipped, or when it ran no test at all: a suite that
should have run and did not is no success.  Tests say how much they sampled with pytest's
``record_testsuite_property("sampled", "5,000 of 100,000 packets")``.
"""
from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SUITES = {
    "unit": (["unit"], {}),
    "pure": (["unit", "packets"], {"LBQ_PURE": "1"}),
    "packets": (["packets"], {}),
    "ipvsadm": (["ipvsadm"], {}),
    "docs": (["docs"], {}),
    "agreement": (["agreement"], {}),
    "errors": (["errors"], {}),
    "lab": (["lab"], {}),
    "fuzz": (["fuzz"], {}),
    "soak": (["soak"], {}),
    "kernel": (["kernel"], {}),
}


class Outcome(NamedTuple):
    """What one suite came to."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    sampled: list[str]

    def is_good(self) -> bool:
        return self.passed > 0 and self.failed == 0 and self.skipped == 0


def run(name: str, full: bool) -> Outcome:
    """Run the suite *name* and return what its JUnit report says."""
    folders, environment = SUITES[name]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-o", "junit_family=xunit1",
                   *(str(HERE / folder) for folder in folders)]
        started = time.monotonic()
        # Not from the checkout, whose plain lbq/ would be imported instead of the installed one.
        status = subprocess.run(command, cwd=scratch, check=False, env={
            **os.environ, **environment, "LBQ_FULL": "1" if full else "", "PYTHONPATH": ""}).returncode
        seconds = time.monotonic() - started
        if not report.exists():
            return Outcome(0, 1, 0, seconds, [f"pytest ended with status {status} and no report"])
        return read(ElementTree.parse(report).getroot(), status, seconds)


def read(root: ElementTree.Element, status: int, seconds: float) -> Outcome:
    """Add up a JUnit report; a bad exit status counts as a failure even when no test says so."""
    def total(key: str) -> int:
        return sum(int(suite.get(key, 0)) for suite in root.iter("testsuite"))

    failed = total("failures") + total("errors")
    skipped = total("skipped")
    passed = total("tests") - failed - skipped
    sampled = [entry.get("value", "") for entry in root.iter("property") if entry.get("name") == "sampled"]
    return Outcome(passed, failed or (1 if status else 0), skipped, seconds, sampled)


def main() -> int:
    """Run the suites that were asked for, or all; return the exit status."""
    parser = argparse.ArgumentParser(description="Run lbq's test suites and say what each took.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)} (default: all)")
    parser.add_argument("--full", action="store_true", help="run the sampled suites in full length")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite called {', '.join(unknown)}; there are {', '.join(SUITES)}")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)   # a CI may have started us with some ignored; tests send them
    outcomes = {}
    for name in arguments.suites or SUITES:
        print(f"\n=== {name}", flush=True)
        outcomes[name] = run(name, arguments.full)

    print(f"\n{'suite':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}   sampled")
    for name, outcome in outcomes.items():
        print(f"{name:<12}{outcome.passed:>8}{outcome.failed:>8}{outcome.skipped:>9}{outcome.seconds:>9.0f}   "
              f"{'; '.join(outcome.sampled) or 'all of it'}")
    bad = [name for name, outcome in outcomes.items() if not outcome.is_good()]
    if bad:
        print(f"not good: {', '.join(bad)} (a skipped test counts: see its reason above)")
    print(f"{sum(o.passed for o in outcomes.values())} passed, "
          f"{sum(o.failed for o in outcomes.values())} failed, {sum(o.skipped for o in outcomes.values())} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
