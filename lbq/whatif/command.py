"""``lbq whatif``: the fate of every connection under a change, counted, before the change is made."""
from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict

from lbq.control.client import ControlClient
from lbq.errors import ConfigError
from lbq.host.setup import state_directory
from lbq.options import Parser
from lbq.whatif import changes, effects, table

DESCRIPTION = """\
Say what a change would do to the connections there are, before it is made: which stay, which move to another server,
which are cut (their clients get a reset), and which are stranded (their packets are dropped, and nobody is told).  The
running director is only asked what it has (root); or a table that was saved before is taken.
"""
EPILOG = f"""\
changes, as after lbq:
  {"; ".join(changes.FORMS)}

examples:
  lbq whatif "del server 192.168.10.1:80 192.168.20.1"
  lbq whatif "set server 192.168.10.1:80 192.168.20.1,weight=0"
  lbq whatif "sysctl expire_nodest_conn=1" "del server 192.168.10.1:80 192.168.20.1" --list
  lbq whatif --save table.json; lbq whatif --table table.json "del service 192.168.10.1:80"
"""


def main(words: list[str]) -> int:
    """Tell what the changes do; return the exit status."""
    parser = Parser("lbq whatif", DESCRIPTION, epilog=EPILOG)
    parser.add_argument("changes", metavar="CHANGE", nargs="*", help="in quotes; several are made one after the other")
    parser.add_argument("--table", metavar="FILE", help="a table that --save wrote, instead of the running director's")
    parser.add_argument("--save", metavar="FILE", help="write the running director's table, for later")
    parser.add_argument("--list", action="store_true", help="every connection that does not stay, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    said = parser.parse_args(words)
    if not said.changes and not said.save:
        raise ConfigError('say which change, in quotes: lbq whatif "del server VIP:PORT RIP"; '
                          "lbq whatif --help tells")
    known = table.read(said.table) if said.table else _ask()
    if said.save:
        _save(known, said.save)
    if not said.changes:
        return 0
    engine = table.copy(known)
    for change in said.changes:
        changes.make(engine, change)
    fates = list(effects.of_connections(engine, known["connections"], _progress("looking at connections")))
    clients = Counter()
    if effects.keeps_clients(known["services"]):
        before, after = table.copy(known), table.copy(known)
        for change in said.changes:
            changes.make(after, change)
        clients = effects.of_clients(before, after, known["connections"])
    _progress("")(0)
    if said.json:
        print(json.dumps({"changes": said.changes, "fates": _counts(Counter(each.fate for each in fates)),
                          "servers": [{"service": service, "server": server, **_counts(counts)}
                                      for (service, server), counts in _by_server(fates)],
                          "clients": {"stay": clients[True], "move": clients[False]},
                          "connections": [each._asdict() for each in fates if each.fate != "stays"]}))
        return 0
    print("\n".join(summary(said.changes, fates, clients)))
    if said.list:
        for each in fates:
            if each.fate != "stays":
                print(f"  {each.fate:9} {each.protocol} {each.client} → {each.vip} at {each.server}"
                      + (f", then {each.then}" if each.then else ""))
    return 0


def summary(made: list[str], fates: list[effects.Fate], clients: Counter) -> list[str]:
    """Return the lines that say how many connections have which fate, by server."""
    total = Counter(each.fate for each in fates)
    lines = [f"if: {'; '.join(made)}"]
    rows = [("service", "server", *effects.FATES)]
    rows += [(*place, *(str(counts[fate]) for fate in effects.FATES)) for place, counts in _by_server(fates)]
    rows.append(("all", "", *(str(total[fate]) for fate in effects.FATES)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                        for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    if not fates:
        lines.append("there are no connections")
    if clients.total():
        lines.append(f"of {clients.total()} clients of services that are persistent or hash them, "
                     f"{clients[False]} would begin their next connection at another server")
    return lines


def _by_server(fates: list[effects.Fate]) -> list[tuple[tuple[str, str], Counter]]:
    """Return for each service and server how many connections have which fate."""
    found: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for each in fates:
        found[f"{each.protocol}:{each.vip}", each.server][each.fate] += 1
    return sorted(found.items())


def _counts(counted: Counter) -> dict[str, int]:
    """Return how many have each fate, also those that nobody has."""
    return {fate: counted[fate] for fate in effects.FATES}


def _ask() -> dict:
    with ControlClient(state_directory()) as client:
        return table.take(client, _progress("reading connections"))


def _save(known: dict, path: str) -> None:
    try:
        with open(path, "w") as file:
            json.dump(known, file)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    print(f"saved {len(known['connections'])} connections of {len(known['services'])} services in {path}")


def _progress(what: str):
    """Return what tells on a terminal's standard error how far it is."""
    def tell(number: int) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{what and f'{what}: {number:,}'}", end="", file=sys.stderr, flush=True)

    return tell
