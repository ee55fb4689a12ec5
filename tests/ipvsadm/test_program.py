"""The program around the commands: its name, its streams, what the director says, and what goes wrong."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lbq.errors import HostError, NotRunning, PeerError, PermissionMissing
from tests.helpers import transcripts


class Refusing:
    """A director in the way of whose client there is an error."""

    def __init__(self, error: Exception):
        self.error = error

    def connect(self):
        raise self.error


@pytest.mark.parametrize(("error", "complaint"), [
    (NotRunning("no director runs here"), "ipvsadm: no director runs here\n"),
    (HostError("cannot start:\na reason"), "ipvsadm: cannot start:\\na reason\n"),
    (PeerError("the answer is not JSON"), "ipvsadm: the answer is not JSON\n"),
    (PermissionMissing("cannot speak to the director"),
     "Can't initialize ipvs: Permission denied (you must be root)\n"
     "Are you sure that IP Virtual Server is built in the kernel or as module?\n"),
])
@pytest.mark.parametrize("line", ["-L -n", "-L -c", "-S", "-C", "-Z", "-A -t 1.2.3.4:80", "--set 1 2 3"])
def test_without_a_director_one_line_says_why(error, complaint, line):
    assert transcripts.run(Refusing(error), ["ipvsadm", *line.split()]) == ("", complaint, 2)


def test_a_restore_without_a_director_ends_at_its_first_line():
    director = Refusing(NotRunning("no director runs here"))

    assert transcripts.run(director, ["ipvsadm", "-R"], b"-C\n-C\n") == ("", "ipvsadm: no director runs here\n", 2)


def test_what_the_host_refuses_is_told_in_its_own_words(director, monkeypatch):
    async def refuse(*_):
        raise HostError("cannot add to the set LBQ_VIP: the set is full")

    monkeypatch.setattr(director.operations.host, "call", refuse)
    assert transcripts.run(director, ["lbq-ipvsadm", "-A", "-t", "1.2.3.4:80"]) == (
        "", "lbq-ipvsadm: cannot add to the set LBQ_VIP: the set is full\n", 2)
    monkeypatch.undo()
    assert transcripts.run(director, ["ipvsadm", "-S"]) == ("", "", 0)


@pytest.mark.parametrize(("program", "name"), [("ipvsadm", "ipvsadm"), ("/usr/sbin/ipvsadm", "ipvsadm"),
                                               ("lbq-ipvsadm", "lbq-ipvsadm")])
def test_the_hint_and_the_help_have_the_programs_base_name(director, program, name):
    assert transcripts.run(director, [program, "-Q"])[1] == (
        f"Try `{name} -h' or '{name} --help' for more information.\n")
    assert f"  {name} -C\n" in transcripts.run(director, [program, "-h"])[0]


def test_a_sync_daemon_is_refused_in_one_line_and_none_is_listed(director):
    assert transcripts.run(director, ["ipvsadm", "--start-daemon", "master", "--mcast-interface", "lo"]) == (
        "", "ipvsadm: lbq has no sync daemon: connections are not copied to another director\n", 255)
    assert transcripts.run(director, ["ipvsadm", "-L", "--daemon"]) == ("", "", 0)
    assert transcripts.run(director, ["ipvsadm", "--stop-daemon", "master"]) == ("", "No daemon is running\n", 255)


def run_as_a_program(*words: str | bytes, **options) -> subprocess.CompletedProcess:
    """Run ipvsadm in a process of its own, as root or as if."""
    code = "import os, sys; os.geteuid = lambda: 0; from lbq import ipvsadm; sys.exit(ipvsadm.main())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-P", "-c", code, *words], stdin=subprocess.DEVNULL, env=environment,
                          stderr=subprocess.PIPE, check=False, **options)


def test_a_reader_that_leaves_early_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = run_as_a_program("-h", stdout=writer)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


def test_words_that_are_no_text_are_told_as_they_are():
    done = run_as_a_program("-C", b"\xff\xfe", stdout=subprocess.DEVNULL)

    assert (done.returncode, done.stderr) == (2, b"unexpected argument \xff\xfe\n")


def test_words_that_are_no_text_are_no_address(director):
    assert transcripts.run(director, ["ipvsadm", "-R"], b"-A -t \xff\xfe:80\n")[1:] == (
        "illegal virtual server address[:port] specified\n", 2)
    assert transcripts.run(director, ["ipvsadm", "-A", "-t", "\udcff:80"])[1:] == (
        "illegal virtual server address[:port] specified\n", 2)
