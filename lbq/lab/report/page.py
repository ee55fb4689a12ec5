"""The HTML file: page.html with its style, its script and the data put in; whoever has the file needs nothing else."""
from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from lbq import __version__
from lbq.errors import HostError
from lbq.lab import MODES
from lbq.lab.report import contest, story
from lbq.lab.report.recording import Recording


def write(path: Path, recordings: list[Recording]) -> None:
    """Write the page of *recordings*, of which the first is shown first, to *path*."""
    stories = {recording.mode: story.tell(recording) for recording in recordings}
    ordered = [stories[mode] for mode in MODES if mode in stories]
    try:
        path.write_text(render(ordered, recordings[0].mode, contest.run()), encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def render(stories: list[dict], first: str, schedulers: dict) -> str:
    """Return the page as text; of its *stories* the one of mode *first* is shown first."""
    data = {"stories": stories, "first": first, "differences": story.compare(stories), "contest": schedulers}
    parts = {"{{version}}": __version__, "{{css}}": _part("page.css"), "{{js}}": _part("page.js"),
             "{{data}}": as_script(data)}
    page = _part("page.html")
    for name, content in parts.items():
        before, after = page.split(name)        # each is there once
        page = before + content + after
    return page


def as_script(data: dict) -> str:
    """Return *data* as JSON that nothing in it can end the script element of."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return resources.files("lbq.lab.report").joinpath(name).read_text(encoding="utf-8")
