"""What an operator does while flows are played: ``--change "t=30 weight A 0"``; and the servers it is done to.

    t=SECONDS weight SERVER N       a new weight
    t=SECONDS quiesce SERVER        the same with 0
    t=SECONDS del SERVER            gone, with connections still in progress
    t=SECONDS add SERVER            one that was deleted, or a new one: RIP[:PORT][,SETTING=VALUE]...

A server is called by its letter (A is the first of --servers, and those that are added go on where these end) or by
its address.
"""
from __future__ import annotations

import math
from string import ascii_uppercase

from lbq.errors import ConfigError
from lbq.grammar import (
    DEFAULT_WEIGHT,
    ServerWords,
    check_server,
    did_you_mean,
    format_endpoint,
    parse_server,
    parse_weight,
)
from lbq.model import AF_INET, AF_INET6, ServiceKey
from lbq.replay.play import Change, Server
from lbq.replay.traffic import SECOND

WORDS = {"weight": 2, "quiesce": 1, "del": 1, "add": 1}     # and how many words follow
FORM = '"t=SECONDS weight SERVER N", "t=SECONDS quiesce|del|add SERVER"'
NETWORKS = {AF_INET: 0xC6336400, AF_INET6: 0x20010DB8 << 96 | 0x200 << 64}     # 198.51.100.0, 2001:db8:0:200::
MOST_SERVERS = 250


def letters(number: int) -> str:
    """Return A for 0, Z for 25, AA for 26."""
    name = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        name = ascii_uppercase[letter] + name
    return name


class Servers:
    """The real servers of a replay, and what is done to them."""

    def __init__(self, service: ServiceKey, mode: int):
        self.service = service
        self.mode = mode
        self.all: list[Server] = []
        self.changes: list[Change] = []

    def add(self, texts: list[str]) -> None:
        """Have the servers that *texts* name; a single number is how many."""
        if len(texts) == 1 and texts[0].isascii() and texts[0].isdigit():
            network = NETWORKS[self.service.family]
            if not (len(texts[0]) < 4 and 1 <= int(texts[0]) <= MOST_SERVERS):
                raise ConfigError(f"--servers {texts[0]}: say how many, from 1 to {MOST_SERVERS}, or their addresses")
            texts = [format_endpoint(network + number, 0, self.service.family).removesuffix(":0")
                     for number in range(1, int(texts[0]) + 1)]
        for text in texts:
            try:
                self._add(text, present=True)
            except ConfigError as error:
                raise ConfigError(f"--servers {text}: {error}") from error

    def change(self, texts: list[str], end_ns: int) -> None:
        """Do what *texts* say, in the order of time; the last packet comes at *end_ns*."""
        said = sorted(((_time(text), text) for text in texts), key=lambda change: change[0])
        present = {number for number, server in enumerate(self.all) if server.present}
        for time_ns, text in said:
            if time_ns > end_ns:
                raise ConfigError(f"--change '{text}': the last packet comes at t={end_ns / SECOND:g}, so it would "
                                  "change nothing; say an earlier time")
            try:
                change = self._change(time_ns, text, present)
            except ConfigError as error:
                raise ConfigError(f"--change '{text}': {error}") from error
            self.changes.append(change)

    def _add(self, text: str, *, present: bool) -> int:
        words = parse_server(text, self.service)
        server = _server(words, letters(len(self.all)), self.mode, present)
        check_server(words, self.service, server.mode)
        if any(self._reached(server) == self._reached(other) for other in self.all):
            raise ConfigError(f"{format_endpoint(*words.place())} is there already; say it once")
        self.all.append(server)
        return len(self.all) - 1

    def _reached(self, server: Server) -> tuple[int, int, int]:
        """Return where packets to *server* go; a service of every port keeps the port that was asked."""
        return server.address, server.family, self.service.port and server.port

    def _change(self, time_ns: int, text: str, present: set[int]) -> Change:
        what, *words = text.split()[1:]
        if what in ("add", "del") and words[:1] == ["server"]:
            del words[0]
        if len(words) != WORDS[what]:
            raise ConfigError(f"write {FORM}")
        number = self._find(words[0], may_be_new=what == "add")
        server = self.all[number]
        if what == "add" and number in present:
            raise ConfigError(f"server {words[0]} is there already at that time")
        if what != "add" and number not in present:
            raise ConfigError(f"server {words[0]} is not there at that time")
        weight = {"weight": lambda: parse_weight(words[1]), "add": lambda: server.weight}.get(what, lambda: 0)()
        (present.discard if what == "del" else present.add)(number)
        return Change(time_ns, {"quiesce": "weight"}.get(what, what), number, weight, f"{what} {' '.join(words)}")

    def _find(self, word: str, *, may_be_new: bool) -> int:
        """Return the number of the server that *word* names."""
        named = {server.name: number for number, server in enumerate(self.all)}
        if word in named:
            return named[word]
        if not word.isalpha():
            place = parse_server(word, self.service).place()
            for number, server in enumerate(self.all):
                if (server.address, server.port, server.family) == place:
                    return number
            if may_be_new:
                return self._add(word, present=False)
        known = (f"{server.name} ({format_endpoint(server.address, server.port, server.family)})"
                 for server in self.all)
        raise ConfigError(f"there is no server {word}{did_you_mean(word, named)}; there are {', '.join(known)}")


def _time(text: str) -> int:
    """Return when a change is, in nanoseconds; raises ConfigError for one that is not even of the right form."""
    words = text.split()
    moment = words[0] if words else ""
    try:
        seconds = float(moment.removeprefix("t=").removesuffix("s"))
    except ValueError:
        seconds = math.nan
    if not moment.startswith("t=") or not 0 <= seconds < 1e9:
        raise ConfigError(f"--change '{text}': it begins with the time, t=SECONDS after the first packet; write {FORM}")
    if len(words) < 2 or words[1] not in WORDS:
        what = words[1] if len(words) > 1 else ""
        raise ConfigError(f"--change '{text}': unknown change '{what}'{did_you_mean(what, WORDS)}; write {FORM}")
    return round(seconds * SECOND)


def _server(words: ServerWords, name: str, mode: int, present: bool) -> Server:
    return Server(name, words.address, words.port, DEFAULT_WEIGHT if words.weight is None else words.weight,
                  mode if words.mode is None else words.mode, words.upper or 0, words.lower or 0, words.family,
                  present)
