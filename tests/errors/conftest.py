"""A director's machine for every test of a mistake, and the proof that the mistake has not touched it."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.namespaces import lone_host, picture

STATE = Path("/run/lbq")
GOOD = ("--vip", "192.168.10.1:80", "--mode", "nat", "--real", "192.168.20.1")


class Machine:
    """A namespace with two networks, and ``lbq`` run in it as a user does."""

    def __init__(self, host):
        self.host = host
        self.before = self.picture()

    def picture(self) -> dict:
        """Return everything a mistake must leave as it was."""
        state = STATE / str(self.host.inode)
        return {**picture(self.host), "state": sorted(state.iterdir()) if state.exists() else None}

    def lbq(self, *words: str, before: tuple[str, ...] = (), **options) -> subprocess.CompletedProcess:
        """Run ``lbq WORDS`` (after the words in *before*, such as setpriv) to its end."""
        environment = {**os.environ, "LBQ_DEBUG": "", **options.pop("env", {})}
        return self.host.run([*before, sys.executable, "-m", "lbq", *words], timeout=30, check=False,
                             env=environment, **options)

    def assert_refuses(self, *words: str, saying: str, **options) -> None:
        """Assert that ``lbq WORDS`` ends with status 2 and one line that contains *saying*; no traces."""
        done = self.lbq(*words, **options)

        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert saying in done.stderr
        assert done.stderr.startswith("lbq: ") and done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert self.picture() == self.before


@pytest.fixture(scope="session", autouse=True)
def needs_root():
    """Say why nothing here can run without."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces to prove that mistakes leave them alone")


@pytest.fixture(scope="module")
def shared_machine(tmp_path_factory):
    """One machine for a whole file: every test proves that it is as before."""
    with lone_host(tmp_path_factory.mktemp("machine")) as host:
        yield Machine(host)


@pytest.fixture
def machine(tmp_path):
    """A machine of its own, for a test that prepares it."""
    with lone_host(tmp_path) as host:
        yield Machine(host)
