"""Any words on the command line: one line that says what is wrong, exit status 2, and nothing touched.

The commands that speak to a director find none; those that change the host are not called.  What the parsers accept
means the same when it is written back and read again.  ``lbq-ipvsadm`` speaks to a director in this process, by its
words and by what it is given to restore.
"""
from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections import Counter
from pathlib import Path

import lbq.host.setup
from lbq import cli, grammar, ipvsadm, options
from lbq._fastpath import FastDirector
from lbq.errors import LbqError
from lbq.model import AF_INET6, DR, NAT, TCP, TUN, ServiceKey
from tests.fuzz import control
from tests.fuzz.family import NASTY
from tests.helpers.local_director import LocalDirector

LINES = 60
COMMANDS = ("list", "conns", "stats", "add", "set", "del", "drain", "zero", "clear", "sysctl", "timeouts", "stop")
WORDS = ("service", "server", "--json", "--vip", "--mode", "nat", "dr", "tun", "--udp", "--real", "--scheduler", "mh",
         "wlc", NASTY, "nobody.py:X", "--scheduler-flags", "mh-port,mh-fallback", "--persistent", "300", "--netmask",
         "24", "--ops", "--engine", "fast", "--queue", "7", "--max-connections", "100", "--kernel-profile",
         "classic", "--on-delete", "end", "--sysctl", "conn_reuse_mode=0", "--add-vip", "eth0", "--json-log",
         "--accept-forward", "--wait", "--help", "--version", "--", "-", "",
         *control.SERVICES, *control.SERVERS, *control.SYSCTLS)
IPVSADM = ("-A", "-E", "-D", "-a", "-e", "-d", "-C", "-L", "-S", "-Z", "-R", "--set", "-t", "-u", "-f", "-r", "-s",
           "-p", "-M", "-g", "-i", "-m", "-w", "-x", "-y", "-n", "-c", "--stats", "--rate", "--exact", "--sort",
           "--tun-type", "-O", "-b", "--tun-port", "--pe", "--start-daemon", "--add-service", "--tcp-service",
           "--real-server=10.0.0.1", "[2001:db8::1]:80", "[2001:db8:20::1]:80", "[2001:db8:20::2]", "2001:db8::1",
           "-6", "64", "128", "192.168.10.1:80", "10.0.0.1:80", "10.0.0.2", "http", "rr", "wlc", "mh",
           "flag-1,mh-port", "300", "0", "-1", "255.0.255.0", "gue", "6080", "master", "99999999999", "-tln",
           "--help", "")
IPVSADM_STATUSES = (0, 1, 2, 255)
LETTERS = "0123456789.:,=-[]/%\0\n\t éλ\ud800٣x"


def play(seed: int, counted: Counter, tell=lambda words: None) -> None:
    """Play case *seed*; *tell* is called with the words of each line."""
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lbq.host.setup.state_directory = lambda: Path(folder)       # where no director runs
        local = LocalDirector(FastDirector(max_connections=10))
        for _ in range(LINES):
            if choose.random() < 0.3:
                drop_in(choose, local, counted)
            words = [word(choose) for _ in range(choose.randrange(9))]
            tell(words)
            command(choose.choice(COMMANDS), words)
            director(words)
            for text in words:
                parsers(choose, text)
            counted["words"] += len(words)
        local.close()


def drop_in(choose: random.Random, local: LocalDirector, counted: Counter) -> None:
    """Give lbq-ipvsadm a line, or many to restore; expect an end like any other."""
    lines = [[word(choose, IPVSADM) for _ in range(choose.randrange(9))] for _ in range(choose.choice((0, 0, 1, 5)))]
    words = ["-R"] if lines else [word(choose, IPVSADM) for _ in range(choose.randrange(12))]
    told = "\n".join(map(" ".join, lines)).encode(errors="surrogatepass")
    streams = ipvsadm.Streams(io.BytesIO(told), io.StringIO(), io.StringIO())
    assert ipvsadm.main(["ipvsadm", *words], streams, local.connect) in IPVSADM_STATUSES, words
    assert "in the packet process" not in streams.stderr.getvalue(), (words, streams.stderr.getvalue())
    counted["words"] += sum(map(len, (words, *lines)))


def word(choose: random.Random, known: tuple[str, ...] = WORDS) -> str:
    """Return a word that belongs there, or one with a few letters wrong."""
    text = choose.choice(known)
    for _ in range(choose.choice((0, 0, 0, 1, 2, 5))):
        at = choose.randrange(len(text) + 1)
        text = text[:at] + choose.choice((choose.choice(LETTERS), text[:9], "")) + text[at + choose.randrange(3):]
    return text


def command(name: str, words: list[str]) -> None:
    """Expect that a command ends with help, or with one line about what is wrong."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            status = cli.main([name, *words])
        except SystemExit as end:           # argparse has printed its help
            status = end.code
    assert status in (0, 2), (status, name, words)
    if status == 0:
        assert said.getvalue() and not complained.getvalue()
    else:
        line = complained.getvalue()
        assert line.startswith(("lbq: ", "{")) and line.endswith("\n") and line.count("\n") == 1, line


def director(words: list[str]) -> None:
    """Expect options that are right, or one mistake."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(LbqError, SystemExit):
        said = options.director_parser().parse_args(words)
        assert 0 <= options.validate(said).queue <= 65535


def parsers(choose: random.Random, text: str) -> None:
    """Let every parser of single words read *text*."""
    with contextlib.suppress(LbqError):
        key = grammar.parse_service(text)
        assert grammar.parse_service(grammar.format_service(key)) == key
    with contextlib.suppress(LbqError):
        key = choose.choice((ServiceKey(TCP, 0xC0A80A01, 80), ServiceKey(TCP, 0x20010DB8 << 96 | 1, 80, AF_INET6)))
        server = grammar.parse_server(text, key)
        again = grammar.parse_server(grammar.format_endpoint(*server.place()), key)
        assert again.place() == server.place() != (key.address, key.port, key.family)
        grammar.check_server(server, key, mode := choose.choice((NAT, DR, TUN)))
        assert mode == TUN or server.family == key.family
    with contextlib.suppress(LbqError):
        address, family = grammar.parse_address(text)
        assert grammar.parse_address(grammar.format_address(address, family)) == (address, family)
        assert 0 < address < 1 << (128 if family == AF_INET6 else 32)
    with contextlib.suppress(LbqError):
        mask = grammar.parse_netmask(text)
        assert 0 < mask <= 0xFFFFFFFF and (mask | mask - 1) == 0xFFFFFFFF
    with contextlib.suppress(LbqError):
        assert 1 <= grammar.parse_netmask(text, AF_INET6) <= 128
    with contextlib.suppress(LbqError):
        name, value = options.parse_sysctl(text)
        assert "=" not in name and (value is None or value >= 0)
    for parse, most in ((grammar.parse_port, 65535), (grammar.parse_weight, grammar.MAX_WEIGHT)):
        with contextlib.suppress(LbqError):
            number = parse(text)
            assert 0 <= number <= most and text.lstrip("0") == str(number).lstrip("0")
