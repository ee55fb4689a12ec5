"""Random command lines of ipvsadm, legal and illegal, by seed: what is given to the real tool and to lbq-ipvsadm.

A sequence works on a handful of services and servers, so that most lines meet something; a fifth of the lines is
spoilt: words are left out, doubled, swapped, replaced or added.  After every 20th line come full listings.
"""
from __future__ import annotations

import random
import re

from lbq.ipvsadm import words
from lbq.ipvsadm.popt import VALUE, Unreadable

LINES = 200             # in a sequence
LISTED = 20             # lines between full listings
LISTINGS = (["-L", "-n"], ["-S", "-n"], ["-L", "-n", "--stats"], ["-L", "-n", "-c"])
SPOILT = 0.22

VIPS = ["10.0.0.1", "10.0.0.2", "192.168.7.7", "250.0.0.1", "[2001:db8::1]", "[2001:db8::2]"]
PORTS = ["80", "80", "81", "443", "21", "http", "domain"]
MARKS = ["1", "2", "7", "4294967295", "2147483648"]
SERVERS = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "127.0.0.1", "250.0.0.9", "[fd00::1]", "[fd00::2]"]
ODD_SERVERS = ["224.0.0.1", "0.0.0.0", "255.255.255.255", "127.255.255.255", "[fe80::1]", "[ff02::1]", "[::]",
               "[::ffff:10.1.0.1]", "localhost", "10.1", "fd00::1", "0x0a010001"]
SCHEDULERS = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "none"]
MASKS = ["255.255.255.0", "255.255.255.255", "24", "64", "128", "0.0.0.0"]
FLAGS = ["sh-port", "sh-fallback", "mh-port", "mh-fallback", "flag-1", "flag-2", "flag-3", "sh-port,sh-fallback",
         "flag-3,flag-1", "nosuch", "flag-1,"]
JUNK = ["", "-", "--", "x", "-1", "0", "1", "7", "80", "65535", "65536", "2147483647", "2147483648", "4294967296",
        "99999999999999999999", "1.5", " 5", "+5", "0x10", "5x", "-Q", "--nosuch", "--sort", "-6", "-n", "-X", "-c",
        "--stats", "--exact", "rr", "nosuch", "255.255.255.0", "10.0.0.1:80", "[::1]:80", "[::1]", "::1", "[x", "a=b",
        "-p=5", "-sfo", "--scheduler=rr", "--numeric=1", "-nc", "-Ln", "extra", "é"]
VALUES = {"tcp-service": ["10.0.0.1:80", "[2001:db8::1]:80"], "udp-service": ["10.0.0.1:80"],
          "sctp-service": ["10.0.0.2:81"], "fwmark-service": MARKS, "scheduler": SCHEDULERS, "persistent": ["60"],
          "netmask": ["255.255.0.0", "24", "64"], "real-server": SERVERS, "weight": ["1", "0", "5"],
          "u-threshold": ["9"], "l-threshold": ["3"], "pe": ["sip"], "sched-flags": FLAGS, "syncid": ["1"],
          "tun-type": ["gue", "gre", "ipip"], "tun-port": ["6080"], "mcast-interface": ["lo"],
          "mcast-group": ["224.0.0.81"], "mcast-port": ["8848"], "mcast-ttl": ["1"], "sync-maxlen": ["1400"]}


def sequence(seed: int, lines: int = LINES, plain: bool = False) -> dict:
    """Return a sequence of *lines* lines, and the listings between them.

    In *plain* ones no listing depends on the order in the kernel's table, into which a pointer is mixed.
    """
    writer = Writer(random.Random(seed), plain)
    steps = []
    for number in range(1, lines + 1):
        steps.append(writer.step())
        if number % LISTED == 0:
            steps += [{"words": listing} for listing in LISTINGS]
    return {"seed": seed, "steps": steps}


def sequences(seed: int, lines: int) -> list[dict]:
    """Return as many sequences as make *lines* lines."""
    return [sequence(seed * 1000 + number) for number in range(max(1, lines // LINES))]


class Writer:
    """Writes one line after the other."""

    def __init__(self, chance: random.Random, plain: bool = False):
        self.chance = chance
        self.plain = plain

    def step(self) -> dict:
        """Return one line that both can carry out: neither a sync daemon's start nor what crashes the real tool."""
        while True:
            line = self.line()
            if self.chance.random() < 0.04:
                text = "".join(" ".join(self.line()) + "\n" for _ in range(self.chance.randint(1, 6)))
                if all(is_comparable(words.split()) for words in text.splitlines()):
                    return {"words": ["-R"], "stdin": self.spoil_text(text)}
            elif is_comparable(line) and not (self.plain and "--nosort" in line):
                return {"words": line}

    def line(self) -> list[str]:
        """Return the words of a line, spoilt or not."""
        write = self.chance.choices(
            (self.add_service, self.edit_service, self.delete_service, self.add_server, self.edit_server,
             self.delete_server, self.show, self.zero, self.timeouts, self.odd),
            (18, 8, 6, 26, 9, 8, 12, 3, 3, 4))[0]
        line = write()
        return self.spoil(line) if self.chance.random() < SPOILT else line

    def maybe(self, likely: float, *line: str) -> list[str]:
        return list(line) if self.chance.random() < likely else []

    def selector(self) -> list[str]:
        if self.chance.random() < 0.2:
            return ["-f", self.chance.choice(MARKS[:3] if self.plain else MARKS), *self.maybe(0.4, "-6")]
        option = self.chance.choice(["-t", "-t", "-t", "-u", "-u", "--sctp-service", "--tcp-service"])
        vips = [vip for vip in VIPS if not vip.startswith("250")] if self.plain else VIPS
        return [option, f"{self.chance.choice(vips)}:{self.chance.choice(PORTS)}"]

    def settings(self) -> list[str]:
        line = self.maybe(0.7, "-s", self.chance.choice(SCHEDULERS))
        line += self.maybe(0.25, "-p", *self.maybe(0.6, str(self.chance.choice([1, 60, 360, 2678400]))))
        line += self.maybe(0.2, "-M", self.chance.choice(MASKS))
        line += self.maybe(0.08, "-o") + self.maybe(0.05, "--pe", self.chance.choice(["sip", "sip", "nosuch"]))
        return line + self.maybe(0.15, "-b", self.chance.choice(FLAGS))

    def add_service(self) -> list[str]:
        return ["-A", *self.selector(), *self.settings()]

    def edit_service(self) -> list[str]:
        return ["-E", *self.selector(), *self.settings()]

    def delete_service(self) -> list[str]:
        return ["-D", *self.selector()] if self.chance.random() < 0.95 else ["-C"]

    def server(self) -> list[str]:
        likely = SERVERS[:4] + SERVERS[5:] if self.plain else SERVERS
        address = self.chance.choice(likely if self.chance.random() < 0.9 else ODD_SERVERS)
        port = self.chance.choice([":80", ":80", ":8080", ":81", ":http", ""])
        return ["-r", f"{address}{port}" if port or not address.startswith("[") else address[1:-1]]

    def server_settings(self) -> list[str]:
        line = self.chance.choice([["-m"], ["-m"], ["-m"], ["-g"], [], self.tunnel()])
        line += self.maybe(0.5, "-w", str(self.chance.choice([0, 1, 5, 100, 65536, 2**31 - 1])))
        return line + self.maybe(0.15, "-x", "100") + self.maybe(0.1, "-y", self.chance.choice(["50", "100", "101"]))

    def tunnel(self) -> list[str]:
        line = ["-i", *self.maybe(0.6, "--tun-type", self.chance.choice(["ipip", "gue", "gre"]))]
        line += self.maybe(0.5, "--tun-port", "6080")
        return line + self.maybe(0.4, self.chance.choice(["--tun-nocsum", "--tun-csum", "--tun-remcsum"]))

    def add_server(self) -> list[str]:
        return ["-a", *self.selector(), *self.server(), *self.server_settings()]

    def edit_server(self) -> list[str]:
        return ["-e", *self.selector(), *self.server(), *self.server_settings()]

    def delete_server(self) -> list[str]:
        return ["-d", *self.selector(), *self.server()]

    def show(self) -> list[str]:
        line = [self.chance.choice(["-L", "-L", "-l", "-S", "--list", "-Ln"])]
        line += self.maybe(0.6, "-n") + self.maybe(0.3, *self.selector())
        for option in ("--stats", "--rate", "--thresholds", "--persistent-conn", "--tun-info", "--exact", "-c",
                       "--timeout", "--daemon", "--sort", "--nosort"):
            line += self.maybe(0.1, option)
        return line

    def zero(self) -> list[str]:
        return ["-Z", *self.maybe(0.7, *self.selector())]

    def timeouts(self) -> list[str]:
        return ["--set", *(str(self.chance.choice([0, 0, 1, 100, 900, 2678400, 2678401])) for _ in range(3))]

    def odd(self) -> list[str]:
        return self.chance.choice([[], ["-h"], ["-v"], ["--stop-daemon", "master"], ["--start-daemon", "x"], ["-R"],
                                   ["--restore"], ["-n"], ["foo"], ["--add"], ["-L", "--", "x"]])

    def option(self) -> list[str]:
        """Return any option of the language, with a value that is right by itself."""
        option = self.chance.choice(words.EVERYTHING)
        short = (option.letter and self.chance.random() < 0.5) or not option.long
        name = f"-{option.letter}" if short else f"--{option.long}"
        if option.takes != VALUE:
            return [name]
        values = VALUES.get(option.long, ["master"])
        value = self.chance.choice(values[:3] if self.plain else values)
        return [f"{name}={value}"] if self.chance.random() < 0.2 else [name, value]

    def spoil(self, line: list[str]) -> list[str]:
        """Return *line* with one thing, sometimes two, changed for the worse."""
        for _ in range(self.chance.choice([1, 1, 2])):
            at = self.chance.randrange(len(line) + 1)
            kind = self.chance.randrange(7)
            if kind == 0:
                line = [*line[:at], *line[at + 1:]]
            elif kind == 1:
                line = [*line[:at], self.chance.choice(JUNK), *line[at + 1:]]
            elif kind == 2:
                line = [*line[:at], self.chance.choice(JUNK), *line[at:]]
            elif kind == 3:
                line = [*line[:at], *self.option(), *line[at:]]
            elif kind == 4:
                line = [*line[:at], *line[at:at + 1], *line[at:]]
            elif kind == 5 and at + 1 < len(line):
                line = [*line[:at], line[at] + line[at + 1], *line[at + 2:]]
            else:
                line = [*line[:1], *self.chance.sample(line[1:], len(line[1:]))]
        return line

    def spoil_text(self, text: str) -> str:
        """Return what is given to -R: with other blanks, the word ipvsadm, without a last newline."""
        kind = self.chance.randrange(8)
        changed = {0: text.replace(" ", "\t"), 1: text.replace("\n", "\r\n"), 2: text.replace("-A", "ipvsadm -A"),
                   3: text.rstrip("\n"), 4: "\n" + text, 5: "# comment\n" + text}
        return changed.get(kind, text)


def is_comparable(line: list[str]) -> bool:
    """Return False for a line that starts a sync daemon, which lbq has not, or crashes the real tool (``-b ,``)."""
    if any(re.fullmatch(r"(-\w*b|--sched-flags)?=?,+", word) for word in line):
        return False
    try:
        command = words.parse(line)
    except (words.Mistake, Unreadable):
        return True
    return command.name != "start-daemon"
