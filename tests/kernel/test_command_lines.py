"""What the real ipvsadm says to random command lines, lbq-ipvsadm says, byte for byte.

LBQ_KERNEL_LINES asks for so many lines, LBQ_KERNEL_SEED for others; with LBQ_FULL=1 it is 20,000, and 500 of them
as processes of their own with a running director.
"""
from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from lbq.show import ipvs
from tests.helpers import transcripts
from tests.helpers.engines import ENGINES
from tests.helpers.local_director import LocalDirector
from tests.helpers.namespaces import machines
from tests.helpers.processes import director_in
from tests.kernel import session
from tests.kernel.command_lines import LISTINGS, sequence, sequences
from tests.kernel.report import COMMANDS

FULL = os.environ.get("LBQ_FULL") == "1"
LINES = int(os.environ.get("LBQ_KERNEL_LINES", COMMANDS.full if FULL else COMMANDS.slice))
SEED = int(os.environ.get("LBQ_KERNEL_SEED", "1"))
KEEP = Path(os.environ.get("LBQ_KERNEL_KEEP", tempfile.gettempdir()))
SHOWN = 5               # differences in full
STEP_SECONDS = 0.3      # for a process in a guest on a busy machine


@pytest.fixture(autouse=True)
def no_name_server(monkeypatch):
    """Know the names that a guest knows: those of /etc/hosts."""
    def by_address(address):
        if address == "127.0.0.1":
            return "localhost", [], [address]
        raise socket.herror(1, "Unknown host")

    def by_name(name, *_):
        if name == b"localhost":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyaddr", by_address)
    monkeypatch.setattr(socket, "getaddrinfo", by_name)


@pytest.mark.timeout(3600)
def test_command_lines_are_answered_as_by_the_real_tool():
    for given, transcript in session.transcripts("classic", sequences(SEED, LINES), "command_agent",
                                                      STEP_SECONDS):
        for name, engine in ENGINES.items():
            compare(given, transcript, name, engine)

    assert not COMMANDS.differences, "\n".join(COMMANDS.differences[:SHOWN])
    assert COMMANDS.lines >= LINES * 0.9


@pytest.mark.timeout(3600)
def test_processes_answer_as_those_of_the_real_tool(tmp_path):
    """The same with a director that runs, and a process for each line, called through a link named ipvsadm."""
    link = tmp_path / "ipvsadm"
    link.symlink_to(Path(sys.executable).with_name("lbq-ipvsadm"))
    wanted = sequence(SEED, COMMANDS.processes if FULL else COMMANDS.processes_slice, plain=True)
    [(_, transcript)] = session.transcripts("classic", [wanted], "command_agent", STEP_SECONDS)
    with machines(tmp_path, "i") as (host,), director_in(host, "serve", "--kernel-profile", "classic"):
        for step, expected in zip(wanted["steps"], transcript["results"], strict=True):
            done = host.run([link, *step["words"]], check=False, input=step.get("stdin", ""))
            assert [done.stdout, done.stderr, done.returncode] == expected, script_line(step)


def compare(given: dict, transcript: dict, name: str, engine) -> None:
    """Give one sequence to lbq-ipvsadm over *engine*; note the first difference."""
    ipvs.SALT = transcript["salt"]
    director = LocalDirector(engine(profile="classic"))
    for number, (step, expected) in enumerate(zip(given["steps"], transcript["results"], strict=True)):
        answer = list(transcripts.run(director, ["ipvsadm", *step["words"]], step.get("stdin", "").encode()))
        if step["words"] not in LISTINGS:
            COMMANDS.lines += name == "reference"
        COMMANDS.answers[expected[2]] += 1
        if answer != expected:
            path = KEEP / f"lbq-commands-{given['seed']}.sh"
            path.write_text("".join(map(script_line, given["steps"][:number + 1])))
            COMMANDS.differences.append(f"{path.name} ({name}): {script_line(step)}  real: {expected}\n"
                                        f"  lbq:  {answer}")
            break
    director.close()


def script_line(step: dict) -> str:
    """Return a step for a shell."""
    line = f"ipvsadm {shlex.join(step['words'])}\n"
    return f"printf %s {shlex.quote(step['stdin'])} | {line}" if "stdin" in step else line
