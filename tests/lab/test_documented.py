"""The commands of the documentation that need a lab show there what the documentation shows."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lbq.realserver import tunnel_is_up
from tests.helpers.documented import Command, commands, pattern, shown
from tests.helpers.private_run import LBQ, TIMEOUT, PrivateRun
from tests.helpers.sphinx import DOCS

DIFFERENT_EACH_TIME = {r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}|not resolved yet": "MAC", r"\bpid \d+": "pid N",
                       r"(?<![\d.])\d\d:\d\d(:\d\d)?\b": "TIME", r"(192\.168\.10\.100):\d+": r"\1:PORT",
                       r"(after|expires) \d+": r"\1 N", r"^((?:Tcp|Ip)\w+ +)[1-9]\d*( +0\.0)$": r"\1N\2",
                       r"^(installing|compiling) .*\n": ""}


def lasting(text: str) -> str:
    """Return *text* without what is different each time: addresses of cards, ports, times, what make does first."""
    for varying, name in DIFFERENT_EACH_TIME.items():
        text = re.sub(varying, name, text, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n"))


def is_shown(command: Command, output: str) -> bool:
    """Return whether *output* is what the page shows below *command*."""
    return bool(re.fullmatch(pattern(lasting(command.output)), lasting(output)))


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


class Reader:
    """Does what a page says, with one shell: what was defined stays, and what ends with ``&`` goes on."""

    def __init__(self, private: PrivateRun, folder: Path):
        self.private = private
        self.folder = folder
        self.definitions: list[str] = []
        self.running: list[subprocess.Popen] = []

    def do(self, command: Command) -> str:
        """Do *command*, and return what the shell shows."""
        if re.match(r"\w+\(\) ", command.line):
            self.definitions.append(command.line)
            return ""
        if command.line.endswith(" &"):
            return self.begin(command)
        return self.private.call(*self.shell(command.line)).stdout

    def shell(self, line: str) -> list[str]:
        return ["bash", "-c", "\n".join(["exec 2>&1", *self.definitions, line])]

    def begin(self, command: Command) -> str:
        """Start what goes on, and return what it has said, as soon as that is what is shown."""
        log = self.folder / f"{len(self.running)}.log"
        with log.open("w") as output:
            self.running.append(subprocess.Popen(self.private.command(*self.shell(command.line.removesuffix(" &"))),
                                                 stdin=subprocess.DEVNULL, stdout=output))
        until = time.monotonic() + TIMEOUT / 4
        while not is_shown(command, log.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        return log.read_text()

    def leave(self) -> None:
        """Take down what may be up; the machines of TUN are those of all labs."""
        self.private.lbq("lab", "tun", "--down")
        for program in self.running:
            program.wait(TIMEOUT)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Return a reader who has nothing set up."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    with PrivateRun() as private:
        someone = Reader(private, tmp_path)
        try:
            yield someone
        finally:
            someone.leave()


def test_the_tutorial_can_be_followed_to_its_end(reader):
    for command in commands(DOCS / "tutorial.md"):
        if " lbq decap " in command.line and tunnel_is_up() is not None:
            continue                    # this kernel ends tunnels itself, as the page says
        output = reader.do(command)
        assert is_shown(command, output), f"{command.line}\n{output}"
    assert reader.private.namespaces() == []
