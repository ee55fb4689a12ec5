"""A director in this process, watched, and a screen of it."""
from __future__ import annotations

import pytest

from lbq.director import Director
from lbq.top.layout import UTF8
from lbq.top.model import Top
from lbq.top.watch import Watch
from tests.helpers.engines import PREROUTING
from tests.helpers.local_director import LocalDirector
from tests.helpers.packets import tcp

FACTS = {"pid": 4711, "started": 0, "engine": "reference", "data_path": "rewrite", "workers": 1}


class Watched:
    """The director, what is known of it, and the keys and lines of ``lbq top``."""

    def __init__(self):
        self.director = LocalDirector(Director())
        self.director.operations.facts.update(FACTS)
        self.now = 100.0
        self.asked: list[tuple[str, dict]] = []
        self.watch = Watch(self.connect)
        self.top = Top(self.watch, 1.0, UTF8)

    def connect(self):
        """Return a client that writes down what is asked."""
        client = self.director.connect()
        call = client.call

        def written(method, **params):
            self.asked.append((method, params))
            return call(method, **params)

        client.call = written
        return client

    def call(self, method: str, **params):
        """Change the director."""
        return self.director.connect().call(method, **params)

    def add(self, service: str, *servers: str, **settings) -> None:
        """Add a service with servers."""
        self.call("add_service", service=service, **settings)
        for server in servers:
            self.call("add_server", service=service, server=server)

    def open(self, client: str, vip: str) -> None:
        """Let a client open a connection."""
        self.director.engine.handle(tcp(client, vip, "S"), PREROUTING)

    def look(self, seconds: float = 1.0) -> None:
        """Look again, so many seconds later."""
        self.now += seconds
        self.asked.clear()
        self.top.look(self.now)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.top.press(key)

    def lines(self, width: int = 80, height: int = 24, **options) -> list[str]:
        """Return what is on the screen."""
        return [line.text.rstrip() for line in self.top.frame(width, height, self.now, "12:00:00", **options)]

    def rows(self, width: int = 80, height: int = 24) -> list[list[str]]:
        """Return the words of the rows on the screen."""
        self.lines(width, height)
        lines = self.lines(width, height)
        heading = next(number for number, line in enumerate(lines)
                       if line.startswith(("SERVICE", "SERVER", "CLIENT")))
        rows = []
        for line in lines[heading + 1:]:
            if not line or line.startswith("newest"):
                break
            rows.append(line.split())
        return rows


@pytest.fixture
def watched():
    watched = Watched()
    yield watched
    watched.director.close()
