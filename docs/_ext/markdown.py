"""Few lines of Markdown: a table, and a docstring as prose."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
                     for row in [titles, ["---"] * len(titles), *rows])


def prose(docstring: str) -> str:
    """Return *docstring* as Markdown: products keep their signs, and sources stay on lines of their own."""
    text = re.sub(r"(?<=\w)\*(?=\w)", r"\\*", docstring)
    return re.sub(r"(?<=[^\n])\n(?=[A-Z][a-z]+: )", "\\\\\n", text)


def block(lines: Iterable[str]) -> str:
    """Return *lines* as they are."""
    return "\n".join(["```text", *lines, "```"])
