"""``lbq top`` in a real terminal, in front of a director's control socket: what is seen, keys, signals, restarts."""
from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.helpers.control import serving
from tests.helpers.terminal import Terminal

pytestmark = pytest.mark.slow
VIP, SIX = "192.168.10.1:80", "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"
PROGRAM = """
import sys
from pathlib import Path
from lbq.host import setup
setup.state_directory = lambda: Path(sys.argv[1])
from lbq.cli import main
sys.exit(main(sys.argv[2:]))
"""


class Place:
    """A folder with a director's control socket, and ``lbq`` in front of it."""

    def __init__(self, folder, watched):
        self.folder = folder
        self.watched = watched
        self.running = ExitStack()

    def start(self) -> None:
        """Let the director be there."""
        self.running.enter_context(serving(self.folder, self.watched.director.operations.methods()))

    def stop(self) -> None:
        """Let it be gone."""
        self.running.close()

    def command(self, *words: str) -> list[str]:
        """Return the command line of ``lbq top WORDS``."""
        return [sys.executable, "-c", PROGRAM, str(self.folder), "top", *words]

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """Run ``lbq top WORDS`` without a terminal."""
        return subprocess.run(self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60, check=False, env={**os.environ, "LBQ_DEBUG": "", **environment})

    def terminal(self, *words: str, **options) -> Terminal:
        """Return a terminal in which it runs; it looks five times a second."""
        return Terminal(self.command("--interval", "0.2", *words), **options)


@pytest.fixture
def place(tmp_path, watched):
    watched.add(VIP, "192.168.20.1", "192.168.20.2,weight=0")
    watched.add(SIX, "[2001:db8:1::1]:65535")
    place = Place(tmp_path, watched)
    place.start()
    yield place
    place.stop()


def test_it_shows_goes_in_and_out_and_ends(place):
    with place.terminal() as terminal:
        lines = terminal.wait_for("services: 2")
        assert lines[0].startswith("lbq top") and lines[-1].startswith("h help  q quit")
        assert any(line.startswith(f"tcp:{VIP}") for line in lines)
        terminal.wait_for("none yet")
        place.watched.open("192.168.10.100:40000", VIP)
        terminal.wait_for("→ 192.168.20.1:80")

        terminal.press("enter")
        terminal.wait_for("quiesced")
        terminal.press("down", "enter")
        terminal.wait_for("connections: 1")
        assert any(line.startswith("192.168.10.100:40000 SYN_RECV") for line in terminal.lines)
        terminal.press("escape")
        terminal.wait_for("servers: 2")
        terminal.press("left")
        terminal.wait_for("services: 2")
        terminal.press("/", "2001", "enter")
        terminal.wait_for("with '2001': 1")
        terminal.press("h")
        terminal.wait_for("turn the order round")
        terminal.press("h", "q")
        assert terminal.end() == 0
        assert terminal.is_restored()


def test_a_director_that_goes_away_and_comes_back_is_followed(place):
    with place.terminal() as terminal:
        terminal.wait_for("services: 2")
        place.stop()
        lines = terminal.wait_for("no director runs in this network namespace")
        assert any(line.startswith(f"tcp:{VIP}") for line in lines)

        place.watched.call("clear")
        place.watched.director.operations.facts["pid"] += 1
        place.start()
        terminal.wait_for("services: 0")
        assert "no director" not in "\n".join(terminal.lines)
        place.watched.add("192.168.10.7:80")
        terminal.wait_for("tcp:192.168.10.7:80")


def test_it_can_be_started_before_the_director(place):
    place.stop()
    with place.terminal() as terminal:
        terminal.wait_for("no director runs in this network namespace")
        place.start()
        terminal.wait_for("services: 2")


def test_a_window_may_change_its_size(place):
    with place.terminal() as terminal:
        terminal.wait_for("CONN/S")
        terminal.resize(40, 12)
        lines = terminal.wait_until(
            lambda lines: "ACTIVE ▼PKT/S" in "\n".join(lines) and lines[-1].startswith("h help"))
        assert max(map(len, lines)) <= 40 and "CONN/S" not in "\n".join(lines)

        terminal.resize(150, 40)
        lines = terminal.wait_for("UP/ALL")
        assert any(line.startswith(f"tcp:{SIX} ") for line in lines)


@pytest.mark.parametrize(("environment", "has_colour", "sign"), [
    ({}, True, "▼"), ({"NO_COLOR": "1"}, False, "▼"), ({"TERM": "vt100"}, False, "▼"), ({"LC_ALL": "C"}, True, "v"),
    # as ssh brings along, and this machine has not
    ({"LC_ALL": "xx_XX.UTF-8"}, True, "v"), ({"LC_ALL": "", "LANG": "xx_XX.UTF-8"}, True, "▼")])
def test_colours_and_signs_are_the_terminals(place, environment, has_colour, sign):
    with place.terminal(**environment) as terminal:
        lines = terminal.wait_for("PKT/S")
        coloured = any(character.fg != "default" for line in terminal.screen.buffer.values()
                       for character in line.values())

        assert f"{sign}PKT/S" in "\n".join(lines)
        assert coloured == has_colour
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize(("end", "status"), [
    (lambda terminal: terminal.press("ctrl-c"), 130), (lambda terminal: terminal.signal(signal.SIGTERM), 143),
    (lambda terminal: terminal.signal(signal.SIGHUP), 129)])
def test_a_signal_ends_it_and_the_terminal_is_as_before(place, end, status):
    with place.terminal() as terminal:
        terminal.wait_for("services: 2")
        assert not terminal.is_restored()
        end(terminal)

        assert terminal.end() == status
        assert terminal.is_restored()
        assert "Traceback" not in "\n".join(terminal.lines)


def test_it_ends_with_its_terminal_even_where_nobody_tells_it(place):
    """Under nohup a program does not hear SIGHUP."""
    quoted = shlex.join(place.command("--interval", "0.2"))
    with Terminal(["bash", "-c", f"trap '' HUP; exec {quoted} 2>{place.folder}/errors"]) as terminal:
        terminal.wait_for("services: 2")
        terminal.hang_up()

        assert (terminal.process.wait(20), (place.folder / "errors").read_text()) == (0, "")


def test_it_can_be_stopped_and_continued(place):
    with Terminal(["bash", "--norc", "--noprofile", "-i"]) as terminal:
        terminal.wait_for("$")
        terminal.press(shlex.join(place.command("--interval", "0.2")), "enter")
        terminal.wait_for("services: 2")
        terminal.press("ctrl-z")
        terminal.wait_for("Stopped")
        terminal.press("stty -a", "enter")
        assert " icanon" in "\n".join(terminal.wait_for(" echo "))

        terminal.press("clear; fg", "enter")
        terminal.wait_for("services: 2")
        terminal.press("enter")
        terminal.wait_for("servers: 2")
        terminal.press("q")
        terminal.press("echo is $((6*7))", "enter")
        terminal.wait_for("is 42")


@pytest.mark.parametrize(("environment", "saying"), [
    ({"TERM": "dumb"}, "kind 'dumb': it cannot move its cursor"), ({"TERM": "nonsense"}, "kind 'nonsense'")])
def test_a_terminal_that_cannot_be_drawn_on_is_one_line(place, environment, saying):
    with place.terminal(columns=200, **environment) as terminal:
        assert terminal.end() == 2
        lines = [line for line in terminal.lines if line]

        assert len(lines) == 1 and lines[0].startswith("lbq: ") and saying in lines[0]


def test_without_a_terminal_it_says_what_to_use(place):
    done = place.run()

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "lbq top --once" in done.stderr


def test_once_prints_a_screen(place):
    done = place.run("--once", "--interval", "0.1", COLUMNS="100", LINES="20", LC_ALL="C.UTF-8")
    lines = done.stdout.splitlines()

    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].startswith("lbq top  ") and "services: 2" in lines and "\x1b" not in done.stdout
    assert any(line.startswith(f"tcp:{VIP} ") for line in lines)
    assert "newest connections: none yet" in lines and len(lines) <= 20


def test_json_is_one_object(place):
    place.watched.open("192.168.10.100:40000", VIP)
    done = place.run("--json", "--interval", "0.1")
    said = json.loads(done.stdout)

    assert done.stdout.count("\n") == 1
    assert [service["address"] for service in said["services"]] == ["192.168.10.1", SIX[1:-7]]
    assert [server["weight"] for server in said["services"][0]["servers"]] == [0, 1]
    assert said["states"] == {"SYN_RECV": 1} and said["whole"] == {"services": True, "states": True}
    assert said["status"]["pid"] == 4711 and said["queue"] is None and said["newest"] == []


@pytest.mark.parametrize(("words", "saying"), [
    (("--once", "--interval", "0"), "--interval '0' is not a number of seconds from 0.1 to 3600"),
    (("--once", "--interval", "nan"), "--interval 'nan' is not a number"),
    (("--once", "--trace", "--interval", "5"), "--trace needs an --interval of at most 2 seconds"),
    (("--once", "--sort", "speed"), "no column 'speed'"), (("--once", "--json"), "not allowed with"),
    (("web",), "unrecognized arguments: web")])
def test_a_mistake_is_one_line(place, words, saying):
    done = place.run(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert saying in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("--once",), ("--json",)])
def test_once_without_a_director_is_one_line(place, words):
    place.stop()
    done = place.run(*words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("lbq: no director runs in this network namespace; "
                           "start one with lbq --vip VIP:PORT --mode nat\n")
