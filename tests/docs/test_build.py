"""The documentation builds, and Sphinx has nothing to complain about."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.sphinx import DOCS, build


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """Return the folder with the pages."""
    return build("html", tmp_path_factory.mktemp("docs"))


@pytest.mark.slow
def test_every_page_is_reached_from_the_first(html):
    first = (html / "index.html").read_text()
    pages = {page.stem for page in DOCS.glob("*.md")}
    assert pages - {link.partition(".")[0] for link in re.findall(r'href="([a-z0-9-]+\.html)', first)} <= {"index"}


@pytest.mark.slow
def test_pages_ask_nothing_of_the_network(html):
    loaded = re.compile(r'<(?:script|img|link)[^>]+(?:src|href)="(?:https?:)?//[^"]+"')
    assert {page.name: loaded.findall(page.read_text()) for page in html.rglob("*.html")
            if loaded.search(page.read_text())} == {}
