"""The command ``lbq top``."""
from __future__ import annotations

import argparse
import json
import locale
import shutil
import sys
import time

from lbq.control.client import ControlClient
from lbq.errors import ConfigError, PermissionMissing
from lbq.host import setup
from lbq.options import Parser
from lbq.top.decisions import TracedDecisions
from lbq.top.keys import KEYS
from lbq.top.layout import ASCII, UTF8
from lbq.top.levels import SERVICE_COLUMNS
from lbq.top.model import Top
from lbq.top.watch import Watch

PATIENCE_SECONDS = 3            # with a director that does not answer; keys wait as long
LONGEST_INTERVAL = 3600
LONGEST_TRACED = 2              # seconds: the director ends a trace that was not read for three
NEWEST = 20                     # decisions in JSON

KEYS_HELP = "\n".join(f"  {keys:<14}{what}" for keys, what in KEYS)
HELP = f"""\
It asks the running director once every --interval, always for about as much: all totals, 256 lines of the listing and
2,048 connections.  What has more is read in turn, so ten thousand services cost the director no more than a hundred.

keys:
{KEYS_HELP}

--once looks twice, --interval apart, as what is new and what is lost a second are differences; COLUMNS and LINES say
how large its screen is.  NO_COLOR=1 draws without colours.

examples:
  lbq top                                       of all services, the busiest first
  lbq top --sort active --interval 5
  lbq top --trace                               and whatever is decided: who gets which server, and who none
  COLUMNS=132 LINES=60 lbq top --once >>top.log
  lbq top --json | jq .queue.waiting"""


def main(words: list[str]) -> int:
    """Do what ``lbq top WORDS`` says; return the exit status."""
    parser = Parser("lbq top", "Watch the running director: services, servers, connections, rates, queue health, "
                    "losses and the newest connections.", epilog=HELP)
    parser.add_argument("--interval", metavar="SECONDS", default="1", help="between two looks (default 1)")
    parser.add_argument("--sort", metavar="COLUMN", help="sort services by "
                        f"{', '.join(column.title.lower() for column in SERVICE_COLUMNS)} (default pkt/s)")
    parser.add_argument("--trace", action="store_true", help="show decisions in place of new connections: also those "
                        "of connections that are gone again, and why packets go nowhere; the director keeps records "
                        "for it (docs/trace.md says what that costs)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--once", action="store_true", help="print one screen as text and end; needs no terminal")
    form.add_argument("--json", action="store_true", help="print one JSON object and end")
    said = parser.parse_args(words)
    interval = _seconds(said.interval)
    if said.trace and interval > LONGEST_TRACED:
        raise ConfigError(f"--trace needs an --interval of at most {LONGEST_TRACED} seconds: a trace that nobody reads "
                          "ends")
    watch = Watch(lambda: ControlClient(setup.state_directory(), PATIENCE_SECONDS),
                  TracedDecisions() if said.trace else None)
    try:
        return _watch(said, watch, interval)
    finally:
        watch.end()


def _watch(said: argparse.Namespace, watch: Watch, interval: float) -> int:
    """Show *watch* as it was *said*; return the exit status."""
    top = Top(watch, interval, UTF8 if locale.getencoding().lower() == "utf-8" else ASCII, said.sort)
    if said.once or said.json:
        return _print(top, interval, said.json)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("cannot draw: input or output is no terminal; lbq top --once prints one screen as text, "
                          "lbq top --json one object")
    top.look(time.monotonic())
    if isinstance(watch.error, PermissionMissing):      # it would not go away
        raise watch.error
    from lbq.top import view  # curses: nobody else needs it

    view.run(top)
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= LONGEST_INTERVAL:
        raise ConfigError(f"--interval '{text}' is not a number of seconds from 0.1 to {LONGEST_INTERVAL}")
    return seconds


def _print(top: Top, interval: float, as_json: bool) -> int:
    """Look twice and print what there is."""
    watch = top.watch
    for pause in (interval, 0):
        top.look(time.monotonic())
        if watch.error is not None:
            raise watch.error
        time.sleep(pause)
    now = time.monotonic()
    if as_json:
        print(json.dumps(_object(watch, now)))
        return 0
    size = shutil.get_terminal_size()
    lines = [line.text.rstrip() for line in
             top.frame(size.columns, size.lines, now, time.strftime("%H:%M:%S"), is_live=False)]
    print("\n".join(lines).rstrip("\n"))
    return 0


def _object(watch: Watch, now: float) -> dict:
    """Return what is known as one object; *whole* says whether it is all services, and states of all connections."""
    services = sorted(watch.listing.services.values(), key=lambda service: service.place)
    return {"status": watch.status, **watch.totals, "losses_second": watch.losses_second,
            "services": [{**service.row, "servers": service.servers} for service in services],
            "states": watch.connections.states,
            "whole": {"services": watch.listing.rounds > 0, "states": watch.connections.are_states_whole},
            "newest": [{"seconds_ago": round(now - decision.at, 1), **dict(zip(decision._fields[1:], decision[1:],
                                                                               strict=True))}
                       for decision in watch.newest.newest(NEWEST)]}
