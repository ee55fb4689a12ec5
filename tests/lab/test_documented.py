"""The commands of the documentation that need a lab show there what the documentation shows."""
from __future__ import annotations

import re

from tests.helpers.documented import pattern, shown
from tests.helpers.private_run import LBQ, PrivateRun


def lasting(text: str) -> list[str]:
    """Return the lines of *text* that are the same each time: ports and times are not, nor what make installs first."""
    text = re.sub(r"\d\d:\d\d:\d\d", "TIME", re.sub(r"(from [\d.]+):\d+", r"\1:PORT", text))
    return [line for line in text.rstrip("\n").split("\n") if not line.startswith(("installing ", "compiling "))]


def test_make_lab_shows_what_the_readme_shows():
    with PrivateRun() as private:
        done = private.lbq("lab", "nat")

    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(done.stdout) == lasting(shown("README.md", "make lab"))


def test_the_doctor_finds_the_missing_gateway_of_its_page():
    with PrivateRun() as private:
        assert private.lbq("lab", "nat", "--exercise", "1").returncode == 0
        done = private.call("ip", "netns", "exec", "lbq-director", *LBQ, "doctor")
        assert private.lbq("lab", "nat", "--down").returncode == 0

    assert (done.returncode, done.stderr) == (1, "")
    assert re.fullmatch(pattern(shown("doctor.md", "lbq doctor")), done.stdout.rstrip("\n")), done.stdout
