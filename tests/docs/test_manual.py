"""The manual pages: everything the parsers know is in them, and man has nothing to complain about."""
from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import manual
import pytest

from lbq import cli
from tests.helpers.sphinx import build


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """Return the folder with the manual pages."""
    return build("man", tmp_path_factory.mktemp("man"))


def shown(page: Path) -> str:
    """Return what man shows of *page*, on wide lines and without marks."""
    done = subprocess.run(["man", "-E", "UTF-8", "--warnings", "-l", page], capture_output=True, text=True, check=True,
                          env={**os.environ, "MANWIDTH": "200", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"})
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_man_shows_every_command_and_every_option(pages):
    text = shown(pages / "lbq.1")
    assert text.split("\n")[2:4] == ["NAME", "       lbq - the Linux Virtual Server in user space"]
    headings = re.findall(r"^   lbq (.*)$", text, re.MULTILINE)
    assert headings == [" ".join(words) for words in manual.commands()]
    assert {heading.split()[0] for heading in headings} == set(cli.COMMANDS)
    sections = re.split(r"^   lbq .*$", text, flags=re.MULTILINE)
    for words, section in zip([[], *manual.commands()], sections, strict=True):
        options = {option for action in manual.parser_of(words)._actions for option in action.option_strings}
        assert options - {"-h", "--help"} <= set(re.findall(r"--[a-z0-9-]*[a-z0-9]|-[a-zA-Z]\b", section)), words


@pytest.mark.slow
def test_man_shows_the_usage_of_ipvsadm(pages):
    text = shown(pages / "lbq-ipvsadm.8")
    assert "lbq-ipvsadm -a|e virtual-service -r server-address [options]" in text
    assert "LBQ_AUTOSTART\n" in text


def test_what_markdown_understands_is_escaped():
    assert manual.escaped(" <a_b> *c* [d] `e` ") == r"\<a\_b\> \*c\* \[d\] \`e\`"
