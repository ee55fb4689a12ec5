"""The options of a director (``lbq --vip …``): what they are called, what they mean, and which are wrong.

Everything is validated here before anything is touched, and needs no root.  Values stay words until
``validate``, so that every mistake is told in the same way: which option, what was said, what would be right.
"""
from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lbq import __version__
from lbq.errors import ConfigError
from lbq.grammar import ServerWords, did_you_mean, format_endpoint, parse_server, parse_service
from lbq.model import CLASSIC, NEW, ServiceKey
from lbq.schedulers import BUILT_IN, DEFAULT, names

MODES = ("nat",)
MODES_TO_COME = {"dr": "direct routing", "tun": "IPIP tunnelling"}
ENGINES = ("fast", "reference")
PROFILES = (CLASSIC, NEW)
MAX_CONNECTIONS = 1 << 27       # the table's indices have 32 bits, its file 8 GiB

USAGE = """\
lbq --vip VIP:PORT --mode nat [--real RIP[:PORT][,weight=N]]... [OPTION]...
       lbq COMMAND …"""
DESCRIPTION = """\
Balance TCP and UDP over real servers, in user space: the Linux Virtual Server over NFQUEUE.
The options run one virtual service in the foreground, until Ctrl-C or lbq stop."""
EPILOG = """\
commands that speak to the running director (each has its own --help):
  lbq list | conns | stats [--json]             what it balances; its connections; its counters
  lbq add server SERVICE RIP[:PORT][,weight=N]  one more real server, now
  lbq set server SERVICE RIP[:PORT],weight=N    another weight; 0 lets it finish and take nothing new
  lbq del server SERVICE RIP[:PORT]             no more packets for it
  lbq stop                                      rules out, sysctls back, end
other commands:
  lbq cleanup                                   put the host back after a director was killed
  lbq lab nat [--keep | --down]                 try all of it in network namespaces, in a minute

examples:
  lbq --vip 192.168.10.1:80 --mode nat --real 192.168.20.1 --real 192.168.20.2:8080,weight=2
  lbq --vip 192.168.10.1:53 --udp --mode nat --scheduler rr --real 192.168.20.1
  lbq add server 192.168.10.1:80 192.168.20.3
  ip netns exec blue lbq list                   the director of another network namespace

SERVICE is [tcp:|udp:]VIP:PORT, tcp when nothing is said.  Addresses are IPv4, never names.
Real servers must route their replies through this machine (their default gateway, as a rule).
State: /run/lbq/<inode of the network namespace>/ (control socket, lock, undo.json).
Log: standard error; the one line on standard output starts with "ready".  LBQ_DEBUG=1 tells more.
Read next: README.md, then lbq/director.py: the way of one packet.
"""


@dataclass
class Options:
    """A director to run, validated."""

    service: ServiceKey
    mode: str
    scheduler: str
    servers: list[ServerWords]
    engine: str
    queue: int
    profile: str
    max_connections: int
    accept_forward: bool
    add_vip: str | None


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help in two columns, wide enough for our longest option."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=35, width=105)


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are raised as ours."""

    def __init__(self, prog: str, description: str, **options):
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=_Help, **options)

    def error(self, message: str):
        """Raise ConfigError instead of printing usage and exiting."""
        raise ConfigError(f"{message}; {self.prog} --help explains")


def director_parser() -> Parser:
    """Return the parser of ``lbq --vip …``, whose help is also the program's."""
    parser = Parser("lbq", DESCRIPTION, epilog=EPILOG, usage=USAGE)
    add = parser.add_argument
    add("--vip", metavar="VIP:PORT", help="the address and port that clients connect to")
    add("--mode", metavar="MODE", help="how packets reach the real servers: nat")
    add("--udp", action="store_true", help="a UDP service (default: TCP)")
    add("--scheduler", metavar="NAME", default=DEFAULT,
        help=f"who chooses the real server: {', '.join(BUILT_IN)} (default {DEFAULT})")
    add("--real", metavar="RIP[:PORT][,weight=N]", action="append", default=[],
        help="a real server; again for each one (no port: the service's; weight 1)")
    add("--engine", metavar="ENGINE", default=ENGINES[0],
        help="fast (default), or reference: the readable one")
    add("--queue", metavar="N", default="0", help="NFQUEUE number, 0 to 65535 (default 0)")
    add("--max-connections", metavar="N", default=str(1 << 20),
        help=f"room in the connection table (default {1 << 20})")
    add("--kernel-profile", metavar="PROFILE", default=os.environ.get("LBQ_KERNEL_PROFILE", NEW),
        help="decide as IPVS of kernels up to 6.1.176 (classic) or of newer ones (new, default)")
    add("--accept-forward", action="store_true",
        help="let the service's packets through a FORWARD DROP policy")
    add("--add-vip", metavar="DEV", help="put the VIP on this device while the director runs")
    add("--json-log", action="store_true", help="log one JSON object a line")
    add("--version", action="version", version=f"lbq {__version__}")
    return parser


def validate(words: argparse.Namespace) -> Options:
    """Return the options that *words* say, or raise for the first that is wrong."""
    if words.vip is None:
        raise ConfigError("no --vip: say which address and port to balance, such as --vip 192.168.10.1:80; "
                          "lbq --help explains")
    service = _about("--vip", parse_service, words.vip, "udp" if words.udp else None)
    return Options(
        service=service,
        mode=mode_of(words.mode),
        scheduler=_scheduler(words.scheduler),
        servers=_servers(words.real, service),
        engine=_one_of("engine", words.engine, ENGINES),
        queue=_number("--queue", words.queue, 0, 65535),
        profile=_one_of("kernel profile", words.kernel_profile, PROFILES),
        max_connections=_number("--max-connections", words.max_connections, 1, MAX_CONNECTIONS),
        accept_forward=words.accept_forward,
        add_vip=words.add_vip,
    )


def mode_of(mode: str | None) -> str:
    """Return *mode* when this version has it."""
    if mode is None:
        raise ConfigError("no --mode: say how packets reach the real servers; this version has --mode nat")
    if mode in MODES_TO_COME:
        raise ConfigError(f"--mode {mode}: {MODES_TO_COME[mode]} is not there yet; "
                          "this version has --mode nat")
    return _one_of("mode", mode, MODES)


def _scheduler(name: str) -> str:
    """Return *name* when there is such a scheduler; plugged-in ones are only looked for when needed."""
    return name if name in BUILT_IN else _one_of("scheduler", name, names())


def _servers(texts: list[str], service: ServiceKey) -> list[ServerWords]:
    """Return the real servers of --real, each once."""
    servers = []
    for text in texts:
        server = _about("--real", parse_server, text, service)
        if any(server[:2] == other[:2] for other in servers):
            raise ConfigError(f"--real {text}: {format_endpoint(*server[:2])} is there twice; "
                              "say it once, with a weight if it is to get more")
        servers.append(server)
    return servers


def _about(option: str, parse: Callable, text: str, *args):
    """Return what *parse* makes of *text*, or raise with the option's name in front of what is wrong."""
    try:
        return parse(text, *args)
    except ConfigError as error:
        raise ConfigError(f"{option} {text}: {error}") from error


def _one_of(what: str, word: str, known: Iterable[str]) -> str:
    if word not in known:
        raise ConfigError(f"unknown {what} '{word}'{did_you_mean(word, known)}; lbq has {', '.join(known)}")
    return word


def _number(option: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise ConfigError(f"{option} {text}: not a number from {least} to {most}")
    return int(text)
