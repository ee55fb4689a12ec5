"""A page for each scheduler: its docstring, its code, and what it makes of the same eight connections."""
from __future__ import annotations

import ast
from pathlib import Path

import worked
from markdown import block, prose, table

from lbq.explain.show import table as candidates
from lbq.schedulers import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
INTRODUCTION = """\
# Each scheduler, with its code

One page each, made out of the scheduler's own file in `lbq/schedulers/`.  [Schedulers](../../schedulers.md) says
which one to take, what they have in common, and how to write your own.
"""


def pages() -> dict[str, str]:
    """Return the overview and a page for each scheduler, by path."""
    return {"schedulers/index.md": overview(),
            **{f"schedulers/{name}.md": page(name) for name in BUILT_IN}}


def source(name: str) -> Path:
    """Return the file of the scheduler *name*."""
    return ROOT / (BUILT_IN[name].partition(":")[0].replace(".", "/") + ".py")


def read(name: str) -> tuple[str, str, int]:
    """Return title and text of the docstring of a scheduler's file, and the line where its code begins."""
    tree = ast.parse(source(name).read_text())
    title, _, text = ast.get_docstring(tree).partition("\n")
    code = next(node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom))
    decorators = getattr(code, "decorator_list", [])
    return title.rstrip("."), text.strip(), decorators[0].lineno if decorators else code.lineno


def overview() -> str:
    """Return the page that compares them."""
    titles = [(name, read(name)[0]) for name in BUILT_IN]
    rows = [[f"[`{name}`]({name}.md)", title.partition(": ")[2] or title] for name, title in titles]
    choices = [[f"[`{name}`]({name}.md)", *("–" if step.chosen == "nobody" else step.chosen
                                            for step in worked.steps(name))] for name in BUILT_IN]
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *(f"{name} <{name}>" for name in BUILT_IN), "```"])
    return "\n\n".join([
        INTRODUCTION + "\n" + table(["name", "in a sentence"], rows), "## The same eight connections", worked.SAID,
        table(["", *(str(number + 1) for number in range(len(worked.CLIENTS)))], choices),
        f"A dash is nobody: the client gets an ICMP error.  `twos` draws with seed {worked.SEED} here.",
        toctree]) + "\n"


def page(name: str) -> str:
    """Return the page of one scheduler."""
    title, text, first = read(name)
    path = source(name).relative_to(ROOT)
    return "\n\n".join([
        f"# {prose(title)}", prose(text), "## The code",
        f"`{path}`, without its docstring and imports:",
        f"```{{literalinclude}} /../{path}\n:language: python\n:lines: {first}-\n```",
        "## Worked example", *example(name)]) + "\n"


def example(name: str) -> list[str]:
    """Return the eight connections as a table, and the reasons of the last."""
    steps = worked.steps(name)
    names = list(reversed(worked.SERVERS))
    rows = [[str(number), step.client, step.destination,
             *(f"**{candidate.score}**" if candidate.chosen and candidate.score else candidate.score
               for candidate in step.reasons.candidates), f"**{step.chosen}**"]
            for number, step in enumerate(steps, 1)]
    last = steps[-1].reasons
    return [worked.SAID,
            f"What `{name}` goes by, at the last of them: {last.rule}.",
            table(["", "client", "to", *(f"{name}, weight {worked.SERVERS[name]}" for name in names), "chosen"], rows),
            "Why the last one goes there, as `lbq explain` says it:",
            block([*last.steps, *candidates([candidate._asdict() for candidate in last.candidates])])]
