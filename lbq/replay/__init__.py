"""``lbq replay``: captured connections through the real schedulers and a real director, offline, in virtual time.

    capture  traffic  table     a file becomes flows and their packets
    changes                     servers, and what is done to them meanwhile
    play  jobs                  the packets through a director that is told their time
    measure                     what is counted
    show  plot  bar             what people and programs see
"""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from lbq.bench import plot as charts
from lbq.control.operations import service_arguments
from lbq.errors import ConfigError, HostError
from lbq.grammar import MODES, format_service, parse_number, parse_service
from lbq.model import NAT, ServiceKey
from lbq.options import ALL_FLAGS, Parser, add_client_options, check_service, mode_of, scheduler_of, service_words
from lbq.replay import capture, jobs, measure, plot, show, table
from lbq.replay.bar import Bar
from lbq.replay.changes import Servers
from lbq.replay.play import Setup
from lbq.replay.traffic import FEWER, IGNORED, REPLY, SECOND, Endpoint, Reader, Traffic, endpoint
from lbq.schedulers import BUILT_IN, flag_names

ALL = [name for name in BUILT_IN if name != "none"]
DEFAULT_SERVERS = "4"
STANDARD_INPUT = 0
LONGEST_NAME = 20           # of a file beside the bar, in characters: both fit into 80


def _parser() -> Parser:
    columns = "\n".join(f"  {name:<13}{meaning}" for name, meaning in table.COLUMNS.items())
    parser = Parser("lbq replay", """\
Play captured connections through lbq's schedulers and see what each would have made of them: every server's
share over time, how even that is, flows in progress, and what a change moves.  Nothing is sent; no root, no
network; time is the capture's.""", usage="lbq replay FILE [OPTION]...", epilog=f"""\
FILE is a capture (pcap or pcapng: Ethernet, VLANs, Linux cooked, raw IP, loopback; IPv4 and IPv6; TCP, UDP and SCTP),
or a CSV file whose first line names its columns, of
{columns}
Times are sorted; empty lines, and those that begin with #, mean nothing.

What is played is what goes to one service, and its replies; connections that had begun before the capture are not.  The
packets pass the same director that balances live ones: states, timeouts, persistence, thresholds.

Servers are called A, B, C … in the order of --servers.  Changes come at a time after the first packet played:
  --change "t=30 weight A 0"        another weight ("t=30 quiesce A" is the same)
  --change "t=30 del B"             its connections go on as --on-delete says
  --change "t=60 add B"             back again; or a new one: "t=60 add 10.0.0.9,weight=2"
With a change, every scheduler plays twice, without it, too: what goes elsewhere is what the change moved.

examples:
  lbq replay web.pcap                                             all schedulers, four servers
  lbq replay web.pcap --scheduler wlc,mh --servers 10.0.0.1,weight=3 10.0.0.2 --change "t=30 del A"
  lbq replay dns.pcapng --service udp:192.168.10.1:53 --plot dns.png
  tcpdump -w - -c 100000 port 80 | lbq replay - --scheduler rr --json
docs/replay.md has one explained, number by number.""")
    add = parser.add_argument
    add("file", metavar="FILE", help="a capture, or a CSV file of flows; - for standard input")
    add("--scheduler", metavar="NAME,...", default="all",
        help=f"some of {', '.join(BUILT_IN)}, or path/to/file.py:Class (default all, but none)")
    add("--servers", metavar="SERVER", nargs="+", default=[DEFAULT_SERVERS],
        help="RIP[:PORT][,SETTING=VALUE]... of each, as for lbq add server; or one number: how many (default 4)")
    add("--service", metavar="SERVICE",
        help="[tcp:|udp:|sctp:]VIP:PORT, whose flows are played; port 0: of every port, with --persistent (default: "
             "the destination of most flows)")
    add("--change", metavar="WORDS", action="append", default=[], help='such as "t=30 weight A 0"; again for each one')
    add("--mode", metavar="MODE", help="nat, dr or tun (default nat; dr when the capture has no replies, which then "
                                       "did not come by)")
    add_client_options(parser)
    add("--ops", action="store_true", help="UDP: every datagram of a client is scheduled by itself, and is a flow")
    add("--slices", metavar="N", default="20", help="pieces that time is cut into, for shares over time (default 20)")
    add("--partial", action="store_true", help="of a damaged capture, play what is before the damage")
    add("--json", action="store_true", help="print every number, over time, too")
    add("--plot", metavar="FILE.png", help="draw shares and flows in progress over time")
    add("--terminal", action="store_true", help="charts of the shares after the tables")
    return parser


def main(words: list[str]) -> int:
    """Do what ``lbq replay WORDS`` says; return the exit status."""
    said = _parser().parse_args(words)
    schedulers = _schedulers(said.scheduler)
    _check_flags(said.scheduler_flags, schedulers)
    slices = parse_number(said.slices, "--slices", 1, 1000)
    if said.plot:
        charts.check_file("--plot", Path(said.plot), charts.PICTURES)
    wanted = None if said.service is None else _service(said.service)
    mode = None if said.mode is None else MODES[mode_of(said.mode)]
    try:
        traffic, among = read(said.file, wanted, partial=said.partial, ops=said.ops)
        key = wanted or traffic.endpoints[traffic.places[0]].key()
        replay = _play(said, traffic, key, among, mode, schedulers, slices)
    except MemoryError as error:
        raise HostError(f"there is not enough memory for {said.file}; {FEWER}") from error
    print(json.dumps(show.as_dict(replay), indent=1) if said.json else "\n".join(show.tables(replay)), flush=True)
    if said.terminal:
        print("\n".join(show.over_time(replay)), flush=True)
    if said.plot and charts.chart(plot.draw, replay, Path(said.plot)):
        print(f"charts are in {said.plot}", file=sys.stderr)
    return 0


def _schedulers(text: str) -> list[str]:
    """Return the schedulers that are named, each once."""
    names = [name for word in text.split(",") for name in (ALL if word == "all" else [scheduler_of(word)])]
    return list(dict.fromkeys(names))


def _check_flags(text: str | None, schedulers: list[str]) -> None:
    """Raise ConfigError for flags that none of *schedulers* has: they would do nothing."""
    known = {flag for name in schedulers for flag in flag_names(name)}
    for flag in (text or "").split(","):
        if flag in ALL_FLAGS and flag not in known:
            raise ConfigError(f"--scheduler-flags {flag}: none of {', '.join(schedulers)} has this flag; it is of "
                              f"{flag.partition('-')[0]}")


def _service(text: str) -> ServiceKey:
    key = parse_service(text)
    if key.fwmark:
        raise ConfigError(f"--service {text}: a capture does not tell marks; say [tcp:|udp:|sctp:]VIP:PORT")
    return key


# ---- Reading ---------------------------------------------------------------------------------------------


def read(path: str, wanted: ServiceKey | None, *, partial: bool = False, ops: bool = False) -> tuple[Traffic, int]:
    """Return the flows in *path* to the *wanted* service or the busiest, and among how many (0: it was said).

    With *ops* each datagram of a client is one.
    """
    traffic = Traffic()
    where = None if wanted is None else endpoint(wanted)
    try:
        with open(STANDARD_INPUT if path == "-" else path, "rb", closefd=path != "-") as file:
            size = os.fstat(file.fileno()).st_size
            bar = Bar(f"reading {os.path.basename(path)[-LONGEST_NAME:]}", size)
            try:
                _read(file, path, traffic, where, bar.to, ops)
            finally:
                bar.end()
    except capture.Damaged as damage:
        if not partial:
            raise
        print(f"lbq: {damage}".partition("; --partial")[0], file=sys.stderr)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    if not traffic.clients:
        raise ConfigError(_nothing(path, traffic, wanted))
    among = 0 if where else len(set(traffic.places))
    traffic.only(where or traffic.busiest())
    traffic.mark_ends()
    return traffic, among


def _read(file: BinaryIO, path: str, traffic: Traffic, wanted: Endpoint | None, tell: Callable[[int], None],
          ops: bool) -> None:
    begin = file.peek(4)[:64]
    if not begin:
        raise ConfigError(f"{path} is empty: neither a capture nor a CSV file of flows; capture with tcpdump -w {path}")
    if capture.is_capture(begin):
        Reader(traffic, wanted, ops).read(capture.Pieces(file, path), tell)
        return
    if any(byte < 32 and byte not in b"\t\r\n" for byte in begin):
        raise ConfigError(f"{path} is neither a capture (pcap, pcapng) nor a CSV file of flows; " + (
            "it is compressed: gunzip it first" if begin.startswith(b"\x1f\x8b") else
            "capture with tcpdump -w, or write one as lbq replay --help says"))
    if ops:
        raise ConfigError(f"{path} is no capture; --ops plays single datagrams, of which a CSV file of flows tells "
                          "nothing")
    table.read(file, path, traffic, wanted, tell)


def _nothing(path: str, traffic: Traffic, wanted: ServiceKey | None) -> str:
    """Say why there is nothing to play."""
    if not traffic.seen and not traffic.ignored.total():
        return f"{path} holds no packet, or no flow; capture while there is traffic"
    found = "; ".join(f"{number:,} {IGNORED[name]}" for name, number in traffic.ignored.items() if number)
    if wanted is not None:
        return (f"{path} holds no flow to {format_service(wanted)} from its beginning (of its packets or flows: "
                f"{found}); leave --service away to play what most flows go to")
    return (f"{path} holds no flow of TCP, UDP or SCTP from its beginning (of its packets: {found}); capture whole "
            "connections, with their SYN")


# ---- Playing ---------------------------------------------------------------------------------------------


def _play(said: argparse.Namespace, traffic: Traffic, key: ServiceKey, among: int, mode: int | None,
          schedulers: list[str], slices: int) -> show.Replay:
    """Return what all *schedulers* made of *traffic*."""
    begin, end = traffic.span()
    if mode is None:
        mode = NAT if any(kind & REPLY for kind in traffic.kinds) else MODES["dr"]
    servers = Servers(key, mode)
    servers.add([word for text in said.servers for word in text.split()])
    servers.change(said.change, end - begin)
    settings = service_words(argparse.Namespace(**{**vars(said), "scheduler": None, "ops_replies": None,
                                                   "data_path": None}), key.family)
    check_service(key, replace(settings, scheduler_flags=None))      # each scheduler gets those that it has
    plays = []
    for name in schedulers:
        flags = [flag for flag in settings.scheduler_flags or [] if flag in flag_names(name)]
        words = replace(settings, scheduler=name, scheduler_flags=flags, persistent=settings.persistent or 0,
                        idle=settings.idle or 0)
        for changes in [servers.changes, []] if servers.changes else [[]]:
            plays.append((Setup(key, *service_arguments(words)[1:], servers.all, changes, slices), name))
    bar = Bar("playing", len(traffic.times) * len(plays))
    try:
        measured = jobs.play(traffic, plays, bar.more)
    finally:
        bar.end()
    if servers.changes:
        measured, without = measured[::2], measured[1::2]
        for changed, plain in zip(measured, without, strict=True):
            measure.compare(changed, plain, traffic.first, begin, servers.changes[0].time_ns)
    return show.Replay(said.file, key, among, next(name for name, number in MODES.items() if number == mode),
                       (end - begin) / SECOND, len(traffic.clients), len(traffic.times), traffic.loopback,
                       dict(traffic.ignored), servers.all, servers.changes, measured)
