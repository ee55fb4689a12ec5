"""The command ``lbq``: what the words mean, and how a mistake is told.

The first word says it all: a command (``list``, ``add server`` …) or, when it begins with ``--``, the options
of a director to run.  Everything is validated here before anything is touched; only this file prints errors
and chooses the exit status: 0 done, 1 the director failed, 2 the user or the machine said something wrong.
"""
from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module

from lbq import sysctls
from lbq.errors import ConfigError, HostError, LbqError
from lbq.grammar import did_you_mean, format_address, parse_number, parse_server, parse_service, refuse_settings
from lbq.log import configure, debugging, one_line
from lbq.model import FAMILY_NAMES, PROTOCOL_NAMES
from lbq.options import (
    MAX_SECONDS,
    Options,
    Parser,
    add_service_options,
    check_service,
    director_parser,
    mode_of,
    parse_sysctl,
    serve_parser,
    service_words,
    validate,
    validate_serve,
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)        # of what keeps output from being written


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            status = _dispatch(argv)
        except SystemExit:          # help and version
            _write_out()
            raise
        _write_out()
        return status
    except LbqError as error:
        _tell(error, as_json="--json-log" in argv)
        return 2
    except BrokenPipeError:         # `lbq conns | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _tell(HostError(f"cannot write the output: {error.strerror}; make room, or write elsewhere"),
              as_json="--json-log" in argv)
        return 2
    except KeyboardInterrupt:
        return 130


def _write_out() -> None:
    """Write what is still to be written: what fails when Python ends is told in its words."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _tell(error: LbqError, as_json: bool) -> None:
    """Say on one line of standard error what is wrong; LBQ_DEBUG=1 adds where it came from."""
    if as_json:
        configure(as_json)
        logging.getLogger("lbq").error("%s", error, exc_info=debugging())
        return
    if debugging():
        traceback.print_exception(error)
    print(f"lbq: {one_line(str(error))}", file=sys.stderr)


def _dispatch(argv: list[str]) -> int:
    if not argv:
        raise ConfigError("nothing to do: say --vip VIP:PORT --mode nat to run a director, or a command "
                          "such as list; lbq --help explains")
    if argv[0] == "help":
        argv = ["--help"]
    if argv[0].startswith("-"):
        return _run_director(argv)
    command, *words = argv
    if command not in COMMANDS:
        raise ConfigError(f"unknown command '{command}'{did_you_mean(command, COMMANDS)}; "
                          f"lbq has {', '.join(COMMANDS)}")
    return COMMANDS[command](words)


def _run_director(argv: list[str]) -> int:
    words = director_parser().parse_args(argv)
    return _run(words, validate(words))


def _serve(argv: list[str]) -> int:
    words = serve_parser().parse_args(argv)
    return _run(words, validate_serve(words))


def _run(words: argparse.Namespace, options: Options) -> int:
    configure(words.json_log)
    from lbq import daemon  # asyncio and all: only a director needs it

    return daemon.run(options)


# ---- lbq COMMAND: ask or change the running director --------------------------------------------------


def _client():
    from lbq.control.client import ControlClient
    from lbq.host.setup import state_directory

    return ControlClient(state_directory())


SERVICE_FORM = "[tcp:|udp:|sctp:]VIP:PORT or fwmark:N[/6]"
LIST_FORMS = {"thresholds": "upper and lower thresholds of the servers", "persistent": "clients bound to each server",
              "tunnels": "how each server's packets are wrapped"}


def _show(parser: Parser, words: list[str]) -> argparse.Namespace:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(words)


def _print(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    return 0


def _list(words: list[str]) -> int:
    from lbq.show import table

    parser = Parser("lbq list", "Show the virtual services, their real servers and how many connections each has.")
    forms = parser.add_mutually_exclusive_group()
    for name, meaning in LIST_FORMS.items():
        forms.add_argument(f"--{name}", dest="form", action="store_const", const=name, default="services",
                           help=meaning)
    said = _show(parser, words)
    lines = table.json_lines if said.json else getattr(table, said.form)
    with _client() as client:
        return _print(lines(client.call("list")))


def _conns(words: list[str]) -> int:
    from lbq import filters
    from lbq.show import table

    parser = Parser("lbq conns", "Show connections: state, time left, client, VIP, real server.  Those of client port "
                    "0 are templates: they bind a client to its server (--persistent).")
    _add_filters(parser)
    said = _show(parser, words)
    wanted = filters.chosen(**_filters(said))
    lines = table.json_lines if said.json else table.connections
    with _client() as client:
        return _print(lines(filter(wanted, client.connections())))


def _add_filters(parser: Parser) -> None:
    parser.add_argument("--service", metavar="SERVICE", help=SERVICE_FORM)
    parser.add_argument("--server", metavar="RIP[:PORT]", help="those of one real server")
    parser.add_argument("--client", metavar="CIP[:PORT]", help="those of one client")
    parser.add_argument("--state", metavar="STATE", help="such as ESTABLISHED or TIME_WAIT")


def _filters(said: argparse.Namespace) -> dict[str, str | None]:
    return {name: getattr(said, name) for name in ("service", "server", "client", "state")}


def _end(words: list[str]) -> int:
    from lbq import filters

    parser = Parser("lbq end", "End connections, and the templates that bind clients to a server: those that match all "
                    "of what is said.  A TCP client's next segment is answered by this host (a reset, where the VIP "
                    "is its own), a datagram is scheduled anew.", epilog="""\
examples:
  lbq end --client 192.168.10.100          this client begins anew, with whoever the scheduler says
  lbq end --server 192.168.20.1            what is left at this server""")
    _add_filters(parser)
    said = _filters(parser.parse_args(words))
    filters.chosen(**said)
    if set(said.values()) == {None}:
        raise ConfigError("say which connections end: --service, --server, --client or --state; lbq end --help tells")
    with _client() as client:
        print(f"ended connections: {client.call('end_connections', **said)['ended']}")
    return 0


def _stats(words: list[str]) -> int:
    from lbq.show import table

    parser = Parser("lbq stats", "Show packets and bytes by service and server, and every reason for a lost packet.")
    parser.add_argument("--rate", action="store_true",
                        help="connections, packets and bytes a second: an average, as in kernel IPVS, in which each "
                             "two seconds count a quarter")
    said = _show(parser, words)
    lines = table.json_lines if said.json else table.rates if said.rate else table.statistics
    with _client() as client:
        return _print(lines(client.call("stats")))


PROC_FILES = ("ip_vs", "ip_vs_conn", "ip_vs_stats")


def _proc(words: list[str]) -> int:
    from lbq.show import ipvs, proc

    parser = Parser("lbq proc", "Print what the kernel's file of this name in /proc/net would say of this director: "
                    f"{', '.join(PROC_FILES)}.")
    parser.add_argument("file", metavar="FILE")
    said = parser.parse_args(words)
    if said.file not in PROC_FILES:
        raise ConfigError(f"no file '{said.file}'{did_you_mean(said.file, PROC_FILES)}; "
                          f"there are {', '.join(PROC_FILES)}")
    with _client() as client:
        if said.file == "ip_vs_conn":
            return _print(proc.connections(client.connections()))
        if said.file == "ip_vs_stats":
            return _print(proc.statistics(client.call("stats")["total"]))
        return _print(proc.services(ipvs.kernel_order(client.call("list"))))


def _change(verb: str) -> Callable[[list[str]], int]:
    """Return the command ``lbq VERB service|server …``."""

    def command(words: list[str]) -> int:
        kinds = ("service", "server")
        if not words or words[0] not in (*kinds, "--help", "-h"):
            what = words[0] if words else ""
            raise ConfigError(f"cannot {verb} '{what}'{did_you_mean(what, kinds)}; "
                              f"write lbq {verb} server SERVICE SERVER, or lbq {verb} service SERVICE")
        return (_change_service if words[0] == "service" else _change_server)(verb, words)

    return command


SERVER_FORMS = {"add": "RIP[:PORT][,SETTING=VALUE]...", "set": "RIP[:PORT],SETTING=VALUE...", "del": "RIP[:PORT]"}
METHODS = {"add": "add", "set": "set", "del": "delete"}
SERVER_HELP = """\
SETTINGs: weight (0: finish what you have, take nothing new), mode (nat, dr, tun), upper and lower (connection
thresholds: nothing new from upper on, until there are fewer than lower), tunnel (ipip, gue, gre), tunnel-port (of gue),
tunnel-csum (no, yes, remcsum).  `set` changes what is named and nothing else.

A deleted server's clients: the service's --on-delete says what becomes of them; lbq drain lets them finish first.
examples:
  lbq add server 192.168.10.1:80 192.168.20.3,weight=2
  lbq set server 192.168.10.1:80 192.168.20.3,weight=0"""


def _change_server(verb: str, words: list[str]) -> int:
    form = SERVER_FORMS[verb]
    parser = Parser(f"lbq {verb}", f"lbq {verb} server SERVICE {form}: change what runs, now.  Services: lbq {verb} "
                    "service --help.", usage=f"lbq {verb} server SERVICE {form}", epilog=SERVER_HELP)
    parser.add_argument("what", metavar="server", help="what to change; the word server")
    parser.add_argument("service", metavar="SERVICE", help=SERVICE_FORM)
    parser.add_argument("server", metavar="SERVER", help=form)
    said = parser.parse_args(words)
    server = parse_server(said.server, parse_service(said.service))
    if verb == "set" and not server.says_something():
        raise ConfigError(f"'{said.server}' says nothing to set; write {said.server},weight=N")
    if verb == "del":
        refuse_settings(server, said.server, "deleting")
    with _client() as client:
        print(client.call(f"{METHODS[verb]}_server", service=said.service, server=said.server))
    return 0


SERVICE_HELPS = {
    "add": """\
PORT 0 is every port of the VIP and needs --persistent.  fwmark:N is whatever carries the mark N of iptables, any
protocol, address and port; the mark must be there before lbq's own rules, which go last when the service is added:
  iptables -t raw -A PREROUTING -d 192.168.10.1 -p tcp -m multiport --dports 80,443 -j MARK --set-mark 7
  lbq add service fwmark:7 --persistent
Where kernel IPVS makes users suffer, --on-delete, --on-quiesce, --ops-replies and --idle do better (docs/better.md).

examples:
  lbq add service 192.168.10.1:443 --scheduler sh --scheduler-flags sh-fallback
  lbq add service udp:192.168.10.1:53 --on-delete end --on-quiesce move""",
    "set": """\
Changes what is named and nothing else; another scheduler starts with the servers as they are now.

examples:
  lbq set service 192.168.10.1:80 --persistent 600 --on-quiesce move
  lbq set service 192.168.10.1:80 --scheduler mh --scheduler-flags mh-port,mh-fallback""",
    "del": """\
Its servers go, too; their connections do as --on-delete of the service says.""",
}


def _change_service(verb: str, words: list[str]) -> int:
    parser = Parser(f"lbq {verb} service", "A virtual service of the running director: what clients connect to.",
                    usage=f"lbq {verb} service SERVICE" + ("" if verb == "del" else " [OPTION]..."),
                    epilog=SERVICE_HELPS[verb])
    parser.add_argument("what", metavar="service", help="what to change; the word service")
    parser.add_argument("service", metavar="SERVICE", help=SERVICE_FORM)
    settings = {}
    if verb != "del":
        add_service_options(parser)
        parser.add_argument("--mode", metavar="MODE",
                            help="nat, dr or tun: of servers added to it that do not say their own (default nat)")
    if verb == "set":
        parser.add_argument("--no-ops", dest="ops", action="store_const", const=False, help="UDP: connections again")
        parser.add_argument("--no-ops-replies", dest="ops_replies", action="store_const", const=False,
                            help="answers leave as the real server sends them")
        parser.add_argument("--no-persistent", dest="persistent", action="store_const", const="0",
                            help="clients go where the scheduler says, each time")
    said = parser.parse_args(words)
    key = parse_service(said.service)
    if verb != "del":
        settings = {name: value for name, value in vars(service_words(said, key.family)).items() if value is not None}
        if said.mode is not None:
            settings["mode"] = mode_of(said.mode)
    if verb == "add":
        check_service(key, service_words(said, key.family))
    with _client() as client:
        print(client.call(f"{METHODS[verb]}_service", service=said.service, **settings))
    return 0


def _sysctl(words: list[str]) -> int:
    lines = "\n".join(f"  {name:<26}{entry.default:>6}  {entry.meaning}" for name, entry in sysctls.TABLE.items())
    others = "\n".join(f"  {name:<26}{why}" for name, why in sysctls.ELSEWHERE.items())
    parser = Parser("lbq sysctl", "Show or set what kernel IPVS calls net.ipv4.vs.NAME; without a name, all of them.",
                    epilog=f"net.ipv4.vs. may be left away.  All are looked at before one is set.  Names, defaults, "
                           f"meanings:\n{lines}\nThe kernel's others mean nothing here and are refused, with the "
                           f"reason:\n{others}")
    parser.add_argument("settings", metavar="NAME[=VALUE]", nargs="*", help="shown, or set; such as conn_reuse_mode=0")
    parser.add_argument("--json", action="store_true", help="print JSON")
    said = parser.parse_args(words)
    for text in said.settings:
        parse_sysctl(text)
    with _client() as client:
        values = client.call("sysctl", settings=said.settings)
    print(json.dumps(values) if said.json else "\n".join(f"{name} = {value}" for name, value in values.items()))
    return 0


def _timeouts(words: list[str]) -> int:
    parser = Parser("lbq timeouts", "Show or set the timeouts of established TCP, closing TCP (FIN_WAIT) and UDP "
                    "connections; a new one holds for a connection from its next packet on.")
    for name, meaning in (("tcp", "established TCP (900)"), ("tcpfin", "TCP in FIN_WAIT (120)"), ("udp", "UDP (300)")):
        parser.add_argument(f"--{name}", metavar="SECONDS", default="0", help=f"{meaning}; 0 leaves it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    said = parser.parse_args(words)
    values = {name: parse_number(getattr(said, name), f"--{name}", 0, MAX_SECONDS) for name in ("tcp", "tcpfin", "udp")}
    with _client() as client:
        values = client.call("timeouts", **values)
    print(json.dumps(values) if said.json else
          "\n".join(f"{name} {seconds} s" for name, seconds in values.items()))
    return 0


def _zero(words: list[str]) -> int:
    parser = Parser("lbq zero", "Start the counters of a service and its servers, or of all services, from zero.  What "
                    "became of packets, at the end of lbq stats, counts on.")
    parser.add_argument("service", metavar="SERVICE", nargs="?", help=f"{SERVICE_FORM}; all when none is said")
    said = parser.parse_args(words)
    if said.service is not None:
        parse_service(said.service)
    with _client() as client:
        print(client.call("zero", service=said.service))
    return 0


def _clear(words: list[str]) -> int:
    Parser("lbq clear", "Delete all virtual services and their servers; connections get no more packets."
           ).parse_args(words)
    with _client() as client:
        print(client.call("clear"))
    return 0


def _drain(words: list[str]) -> int:
    parser = Parser("lbq drain", "Let a real server finish what it has and take nothing new: weight 0.  The director "
                    "sees to the rest, also when this command has ended; giving the server weight again calls it off.",
                    epilog="""\
UDP and persistent clients stay with a server of weight 0 unless the service says --on-quiesce move.
examples:
  lbq drain 192.168.10.1:80 192.168.20.1 --wait                      before a reboot
  lbq drain 192.168.10.1:80 192.168.20.1 --end-after 60 --delete     it goes, in a minute at the latest""")
    parser.add_argument("service", metavar="SERVICE", help=SERVICE_FORM)
    parser.add_argument("server", metavar="RIP[:PORT]", help="the real server; no port: the service's")
    parser.add_argument("--end-after", metavar="SECONDS",
                        help="end what it still has after so long (default: its connections last as long as they do)")
    parser.add_argument("--delete", action="store_true", help="delete the server when it has none left")
    parser.add_argument("--wait", metavar="SECONDS", nargs="?", const="3600",
                        help="return when its last connection is gone, with status 1 after so long (3600)")
    said = parser.parse_args(words)
    key = parse_service(said.service)
    server = parse_server(said.server, key)
    refuse_settings(server, said.server, "draining")
    limit, end_after = (None if text is None else parse_number(text, name, 0, MAX_SECONDS)
                        for name, text in (("--wait", said.wait), ("--end-after", said.end_after)))
    with _client() as client:
        print(client.call("drain", service=said.service, server=said.server, end_after=end_after, delete=said.delete),
              flush=True)
        return 0 if limit is None else _wait_until_idle(client, key, server, limit)


def _wait_until_idle(client, key, server, limit: int) -> int:
    """Return 0 when *server* has no connection any more, 1 when it still has after *limit* seconds."""
    row_key = (PROTOCOL_NAMES[key.protocol], format_address(key.address, key.family), key.port, key.fwmark,
               FAMILY_NAMES[key.family])
    until, last = time.monotonic() + limit, -1
    while True:
        rows = [found for row in client.call("list")
                if (row["protocol"], row["address"], row["port"], row["fwmark"], row["family"]) == row_key
                for found in row["servers"] if (found["address"], found["port"]) == (
                    format_address(server.address, server.family), server.port)]
        left = sum(row["active"] + row["inactive"] for row in rows)
        if left != last:
            print("connections left:", left, flush=True)
            last = left
        if left == 0:
            return 0
        if time.monotonic() >= until:
            return 1
        time.sleep(0.5)


def _save(words: list[str]) -> int:
    from lbq.ipvsadm import dump
    from lbq.show import ipvs

    Parser("lbq save", "Print services, servers and timeouts as command lines of ipvsadm, for lbq import and "
           "ipvsadm-restore.").parse_args(words)
    with _client() as client:
        rows = ipvs.sort(ipvs.kernel_order(client.call("list")))
        return _print(dump.write(rows, client.call("timeouts")))


def _import(words: list[str]) -> int:
    from lbq.ipvsadm.dump import read_file

    parser = Parser("lbq import", "Make the running director's services those of FILE, which lbq save or ipvsadm -S "
                    "has written; all of it or, when anything in it is wrong, nothing.  What is in both stays, with "
                    "its connections.")
    parser.add_argument("file", metavar="FILE", help="- for standard input")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    said = parser.parse_args(words)
    dump = read_file(said.file)
    for number, mistake in dump.mistakes:
        print(one_line(f"lbq: {said.file}:{number}: {mistake}"), file=sys.stderr)
    if dump.mistakes:
        return 2
    with _client() as client:
        done = client.call("replace", services=list(dump.services.values()), timeouts=dump.timeouts,
                           dry_run=said.dry_run)
    return _print(done or ["nothing to do"])


def _stop(words: list[str]) -> int:
    Parser("lbq stop", "End the director of this network namespace; rules and sysctls go back to what they "
           "were.").parse_args(words)
    with _client() as client:
        connections = client.call("stop")["connections"]
        client.wait_for_end()
    print(f"stopped; {connections} connections ended with it")
    return 0


# ---- Commands that need no director -------------------------------------------------------------------


def _cleanup(words: list[str]) -> int:
    Parser("lbq cleanup", "Take out what a killed director left in this network namespace: rules, sets, "
           "sysctls.").parse_args(words)
    from lbq.daemon import clean_up_after_crash

    lines = clean_up_after_crash()
    print("\n".join(lines or ["nothing to clean up in this network namespace"]))
    return 0


LAB_EXAMPLES = """\
examples:
  sudo lbq lab nat                              ten requests, and what became of them
  sudo lbq lab dr --keep                        and leave it up, to play with
  sudo lbq lab dr --bare                        bare machines, to set all of it up yourself
  sudo lbq lab nat --report lab.html            and a page to click through, hop by hop, and NAT beside DR and TUN
  sudo lbq lab nat --exercise 1                 a lab in which something is wrong: find it, mend it
"""


def _lab(words: list[str]) -> int:
    parser = Parser("lbq lab", "Build the LVS article's network in namespaces, balance ten requests, show it "
                    "and take it down.", epilog=LAB_EXAMPLES)
    parser.add_argument("mode", metavar="MODE", help="nat, dr or tun")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--keep", action="store_true", help="leave it up, and print commands to play with")
    end.add_argument("--bare", action="store_true", help="build the machines with their addresses and web servers, and "
                     "leave them up; what a balancer needs is yours to do, as the tutorial says")
    end.add_argument("--down", action="store_true", help="take down a lab that was left up")
    parser.add_argument("--report", metavar="FILE", help="write a page that shows one request packet by packet, in the "
                        "labs of all modes, MODE's first; one HTML file, for a browser without a network")
    parser.add_argument("--only", action="store_true", help="with --report: run no other lab than MODE's")
    parser.add_argument("--exercise", metavar="N", help="build it broken, and leave it up to be repaired (nat has 5 "
                        "exercises, dr 2, tun 3); --exercise N --check, --hint and --solution go on from there")
    ask = parser.add_mutually_exclusive_group()
    for name, meaning in (("check", "whether the exercise is solved"), ("hint", "where to look"),
                          ("solution", "what it was, and what mends it")):
        ask.add_argument(f"--{name}", dest="ask", action="store_const", const=name, help=f"with --exercise: {meaning}")
    said = parser.parse_args(words)
    from lbq import lab

    if said.exercise is not None or said.ask:
        if said.exercise is None or said.keep or said.bare or said.down or said.report or said.only:
            raise ConfigError("say lbq lab MODE --exercise N, with --check, --hint or --solution or none of them")
        return lab.exercise(mode_of(said.mode), parse_number(said.exercise, "--exercise", 1, 99), said.ask)
    return lab.main(mode_of(said.mode), keep=said.keep, down=said.down, report=said.report, only=said.only,
                    bare=said.bare)


def _of(module: str) -> Callable[[list[str]], int]:
    """Return the command that is a module's ``main``; what it needs, nothing else of lbq needs to start."""
    def command(words: list[str]) -> int:
        return import_module(module).main(words)

    return command


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": _list,
    "conns": _conns,
    "stats": _stats,
    "top": _of("lbq.top.command"),
    "add": _change("add"),
    "set": _change("set"),
    "del": _change("del"),
    "drain": _drain,
    "end": _end,
    "proc": _proc,
    "zero": _zero,
    "clear": _clear,
    "sysctl": _sysctl,
    "timeouts": _timeouts,
    "save": _save,
    "import": _import,
    "serve": _serve,
    "stop": _stop,
    "cleanup": _cleanup,
    "doctor": _of("lbq.doctor.command"),
    "lab": _lab,
    "explain": _of("lbq.explain.command"),
    "trace": _of("lbq.trace.command"),
    "whatif": _of("lbq.whatif.command"),
    "bench": _of("lbq.bench.run"),
    "replay": _of("lbq.replay"),
    "realserver": _of("lbq.realserver"),
    "decap": _of("lbq.decap"),
}
