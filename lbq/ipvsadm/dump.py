"""Saved rules: what ``lbq save`` writes, and ``lbq import`` reads as a whole before anything is changed.

A dump is command lines of ipvsadm, one for each service, each server and the timeouts; ``ipvsadm-restore`` reads it,
too.  ``#`` begins a comment.  Unlike the real tool's, a dump is complete: thresholds and timeouts are in it.

What the real tool takes without a word, and would have done something else than was meant, is a mistake here.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator

from lbq import __version__
from lbq.errors import ConfigError
from lbq.grammar import format_address, format_endpoint, format_service
from lbq.ipvsadm.popt import Unreadable
from lbq.ipvsadm.words import Command, Hint, Mistake, parse
from lbq.model import AF_INET, PERSISTENT
from lbq.show import ipvs

FORMAT = 1
TIMEOUTS = ("tcp", "tcpfin", "udp")


def write(rows: Iterable[dict], timeouts: dict[str, int]) -> Iterator[str]:
    """Give the lines that make services and *timeouts* again."""
    yield f"# lbq {__version__}, saved rules {FORMAT}"
    yield f"--set {' '.join(str(timeouts[name]) for name in TIMEOUTS)}"
    yield from ipvs.rules(rows, complete=True)


class Dump:
    """The services and timeouts that lines of text say, and every mistake in them as (line number, what)."""

    def __init__(self, lines: Iterable[str]):
        self.services: dict[tuple, dict] = {}       # rows, by what names them
        self.timeouts: dict[str, int] = {}
        self.mistakes: list[tuple[int, str]] = []
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if words and words[0].rpartition("/")[2] in ("ipvsadm", "lbq-ipvsadm"):
                words = words[1:]
            if words:
                try:
                    self._take(parse(words))
                except Hint:
                    self.mistakes.append((number, f"'{words[0]}' is no rule; rules are -A, -a and --set"))
                except (Mistake, Unreadable) as mistake:
                    self.mistakes.append((number, str(mistake).strip()))

    def _take(self, command: Command) -> None:
        if command.name == "set":
            self.timeouts = dict(zip(TIMEOUTS, command.seconds, strict=True))
        elif command.name == "add-service":
            self._take_service(command)
        elif command.name == "add-server":
            self._take_server(command)
        elif command.name != "flush":               # a dump stands for all there is in any case
            raise Mistake(f"{command.name} is no rule; rules are -A, -a and --set")

    def _take_service(self, command: Command) -> None:
        key = command.key()
        if key in self.services:
            raise Mistake(f"service {format_service(key)} is there twice")
        if command.flags & PERSISTENT and key.family == AF_INET:
            inverted = ~command.netmask & 0xFFFFFFFF
            if inverted & (inverted + 1):
                raise Mistake(f"netmask {format_address(command.netmask)} is not a row of ones followed by zeros, "
                              "such as 255.255.255.0")
        self.services[key] = {**command.service(), "servers": []}

    def _take_server(self, command: Command) -> None:
        key = command.key()
        if key not in self.services:
            raise Mistake(f"service {format_service(key)} is not there; its -A comes before its -a")
        if command.server_port != command.typed_port:
            raise Mistake(f"real server port {command.typed_port} is not the service's port {command.port}, "
                          "and only -m can change ports")
        if command.lower > command.upper:
            raise Mistake(f"lower threshold {command.lower} is above the upper one, {command.upper}")
        row, servers = command.server(), self.services[key]["servers"]
        if any(ipvs.compare_servers(row, other) == 0 for other in servers):
            name = format_endpoint(command.server_address, command.server_port, command.server_family)
            raise Mistake(f"server {name} of {format_service(key)} is there twice")
        servers.append(row)


def read_file(path: str) -> Dump:
    """Return what the file *path* says, - for standard input; its mistakes are in it."""
    try:
        with open(0 if path == "-" else path, closefd=path != "-") as file:
            return Dump(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
