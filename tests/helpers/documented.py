"""The commands that README.md and docs/*.md show, and what is shown below them."""
from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.helpers.sphinx import DOCS

PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
IN_LAB = {("README.md", "make lab"), ("doctor.md", "lbq doctor"),       # tests/lab/test_documented.py executes these,
          ("tutorial.md", ""), ("manual.md", "lbq ")}                   # this page, and test_manual.py that one


class Command(NamedTuple):
    """A command, and what is shown below it."""

    page: str
    line: str
    output: str


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


def shown(page: str, line: str) -> str:
    """Return what *page* shows below the one command *line*."""
    [output] = [command.output for path in PAGES for command in commands(path) if command[:2] == (page, line)]
    return output


def pattern(output: str) -> str:
    """Return the pattern of *output*, in which a line ``…`` stands for any lines."""
    return "\n".join("(?s:.*)" if line == "…" else re.escape(line) for line in output.split("\n"))
