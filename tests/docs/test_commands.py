"""The commands that the documentation shows do what it shows.

A block whose lines begin with ``$ `` is executed, in a folder of its page, and compared with the output below it; a
line ``…`` stands for any lines, and ``$ cat FILE`` of a file that is not there makes it out of what is shown.  All
other lines of blocks that begin with ``lbq`` must be words that lbq understands.
"""
from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import manual
import pytest

from lbq import cli
from lbq.options import director_parser, validate
from tests.helpers.engines import ENGINES
from tests.helpers.sphinx import DOCS
from tests.helpers.tables import filled, taken

README = DOCS.parent / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
NOT_YET = {                 # what needs a lab, or a capture that is not kept; it may only become less
    ("README.md", "make lab"), ("README.md", "make test"), ("doctor.md", "lbq doctor"),
    ("replay.md", "lbq replay web.pcap --scheduler rr,wrr,wlc,sed,sh,mh"),
    ("replay.md", "lbq replay web.pcap --scheduler mh"),
}
OWN_MODULES = {"top", "lab", "bench", "replay", "trace", "whatif", "explain", "realserver", "decap", "cleanup",
               "doctor"}


class Asked(Exception):
    """The words were understood, and a director would be asked now."""


class Command(NamedTuple):
    """A command, and what is shown below it."""

    page: str
    line: str
    output: str

    def is_not_yet(self) -> bool:
        return any(page == self.page and self.line.startswith(begin) for page, begin in NOT_YET)


def blocks(page: Path) -> list[list[str]]:
    """Return the lines of all blocks of *page*, fenced and indented."""
    found, inside, indented = [], False, []
    for line in page.read_text().split("\n"):
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append([])
        elif inside:
            found[-1].append(line)
        elif line.startswith("    "):
            indented.append(line.strip())
    return [*found, indented]


def commands(page: Path) -> list[Command]:
    """Return the commands of *page* that begin with ``$ ``."""
    found = []
    for lines in blocks(page):
        text = "\n".join(lines).replace("\\\n", "")
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.append(Command(page.name, line, output.rstrip("\n")))
    return found


def pattern(output: str) -> str:
    """Return the pattern of *output*, in which a line ``…`` stands for any lines."""
    return "\n".join("(?s:.*)" if line == "…" else re.escape(line) for line in output.split("\n"))


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_do_what_is_shown(page, tmp_path):
    if page.name == "whatif.md":
        director = ENGINES["reference"](max_connections=1024, profile="new")
        (tmp_path / "table.json").write_text(json.dumps(taken(filled(director))))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    for command in commands(page):
        if command.is_not_yet():
            continue
        name = command.line.removeprefix("cat ")
        if name != command.line and not (tmp_path / name).exists():
            (tmp_path / name).write_text(command.output + "\n")
            continue
        done = subprocess.run(["bash", "-c", command.line], cwd=tmp_path, env=environment, capture_output=True,
                              text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command.line
        assert re.fullmatch(pattern(command.output), done.stdout.rstrip("\n")), f"{command.line}\n{done.stdout}"


def test_what_is_not_executed_yet_becomes_less():
    left = [command.line for page in PAGES for command in commands(page) if command.is_not_yet()]
    assert len(left) == len(NOT_YET) == 5


def spoken() -> list[tuple[str, str]]:
    """Return page and words of every line ``lbq …`` without a prompt; what stands two spaces behind it explains it."""
    found = []
    for page in PAGES:
        for line in (line.strip() for lines in blocks(page) for line in lines):
            said = re.split(r" {2,}", line)[0].split("; ")
            found += [(page.name, re.split(r" \| | >", words)[0]) for words in said
                      if words.startswith("lbq ") and "[--" not in words and "…" not in words]
    return found


@pytest.mark.parametrize(("page", "line"), spoken(), ids=lambda text: text)
def test_lbq_understands(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rules").write_text("-A -t 192.168.10.1:80 -s rr\n")
    Path("office.py").write_text(re.search(r"```python\n(.*?)```", (DOCS / "schedulers.md").read_text(), re.DOTALL)[1])
    words = shlex.split(line)[1:]
    if words[0].startswith("-"):
        validate(director_parser().parse_args(words))
    elif words[0] in OWN_MODULES:
        manual.parser_of(words[:1]).parse_args(words[1:])
    else:
        with patch.object(cli, "_client", side_effect=Asked), pytest.raises(Asked):
            cli.main(words)
