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
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import manual
import pytest

from lbq import cli
from lbq.options import director_parser, validate
from tests.helpers.documented import IN_LAB, PAGES, Command, blocks, commands, pattern
from tests.helpers.engines import ENGINES
from tests.helpers.sphinx import DOCS
from tests.helpers.tables import filled, taken

NOT_YET = {("README.md", "make test")}      # runs all tests; it may only become less
OWN_MODULES = {"top", "lab", "bench", "replay", "trace", "whatif", "explain", "realserver", "decap", "cleanup",
               "doctor"}


class Asked(Exception):
    """The words were understood, and a director would be asked now."""


def is_one_of(command: Command, others: set[tuple[str, str]]) -> bool:
    """Return True when *command* begins like one of *others*, which are pages and words."""
    return any(page == command.page and command.line.startswith(words) for page, words in others)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_do_what_is_shown(page, tmp_path):
    if page.name == "whatif.md":
        director = ENGINES["reference"](max_connections=1024, profile="new")
        (tmp_path / "table.json").write_text(json.dumps(taken(filled(director))))
    if page.name == "replay.md":
        shutil.copy(DOCS / "examples" / "web_pcap.py", tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    for command in commands(page):
        if is_one_of(command, NOT_YET | IN_LAB):
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
    left = [command for page in PAGES for command in commands(page) if is_one_of(command, NOT_YET)]
    assert len(left) == len(NOT_YET) == 1


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
