"""The pages that are made out of lbq's own code, each time Sphinx begins: into docs/generated, which git ignores."""
from __future__ import annotations

from pathlib import Path

import manual
import scheduler_pages
import state_pages
import tutorial_pages


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir, "generated"), pages()))
    return {"parallel_read_safe": True}


def pages() -> dict[str, str]:
    """Return every page by its path below docs/generated."""
    return {**scheduler_pages.pages(), **state_pages.pages(), **manual.pages(), **tutorial_pages.pages()}


def write(folder: Path, files: dict[str, str]) -> None:
    """Make *folder* hold *files* and nothing else; one that has not changed is left, so that Sphinx keeps it, too."""
    for old in folder.rglob("*"):
        if old.is_file() and str(old.relative_to(folder)) not in files:
            old.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
