"""The command ``lbq``: what the words mean, and how a mistake is told.

The first word says it all: a command (``list``, ``add server`` …) or, when it begins with ``--``, the options
of a director to run.  Everything is validated here before anything is touched; only this file prints errors
and chooses the exit status: 0 done, 1 the director failed, 2 the user or the machine said something wrong.
"""
from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable

from lbq.errors import ConfigError, LbqError
from lbq.grammar import did_you_mean, parse_server, parse_service
from lbq.log import configure, debugging, one_line
from lbq.options import Parser, director_parser, mode_of, validate


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(argv)
    except LbqError as error:
        _tell(error, as_json="--json-log" in argv)
        return 2
    except BrokenPipeError:         # `lbq conns | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


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
    options = validate(words)
    configure(words.json_log)
    from lbq import daemon  # asyncio and all: only a director needs it

    return daemon.run(options)


# ---- lbq COMMAND: ask or change the running director --------------------------------------------------


def _client():
    from lbq.control.client import ControlClient
    from lbq.host.setup import state_directory

    return ControlClient(state_directory())


def _show(command: str, description: str, words: list[str], rows: Callable, form: str) -> int:
    """Print what *rows* gets from the director: in the table *form* for people, or as JSON."""
    from lbq.show import table

    parser = Parser(f"lbq {command}", description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = parser.parse_args(words).json
    lines = table.json_lines if as_json else getattr(table, form)
    with _client() as client:
        for line in lines(rows(client)):
            print(line)
    return 0


def _list(words: list[str]) -> int:
    return _show("list", "Show the virtual services, their real servers and how many connections each has.",
                 words, lambda client: client.call("list"), "services")


def _conns(words: list[str]) -> int:
    return _show("conns", "Show every connection: state, time left, client, VIP, real server.",
                 words, lambda client: client.connections(), "connections")


def _stats(words: list[str]) -> int:
    return _show("stats", "Show packets and bytes by service and server, and every reason for a lost packet.",
                 words, lambda client: client.call("stats"), "statistics")


def _change(verb: str, method: str, server_form: str, example: str) -> Callable[[list[str]], int]:
    """Return the command ``lbq VERB server SERVICE SERVER``."""

    def command(words: list[str]) -> int:
        parser = Parser(f"lbq {verb}", f"example: lbq {verb} server {example}",
                        usage=f"lbq {verb} server SERVICE {server_form}")
        parser.add_argument("what", metavar="server", help="what to change; the word server")
        parser.add_argument("service", metavar="SERVICE", help="[tcp:|udp:]VIP:PORT")
        parser.add_argument("server", metavar="SERVER", help=server_form)
        said = parser.parse_args(words)
        if said.what != "server":
            raise ConfigError(f"cannot {verb} '{said.what}'{did_you_mean(said.what, ['server'])}; "
                              f"write lbq {verb} server SERVICE {server_form}")
        service = parse_service(said.service)
        weight = parse_server(said.server, service).weight
        if verb == "set" and weight is None:
            raise ConfigError(f"'{said.server}' says nothing to set; write {said.server},weight=N")
        if verb == "del" and weight is not None:
            raise ConfigError(f"'{said.server}': deleting takes no weight; "
                              f"write {said.server.partition(',')[0]}")
        with _client() as client:
            print(client.call(method, service=said.service, server=said.server))
        return 0

    return command


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


def _lab(words: list[str]) -> int:
    parser = Parser("lbq lab", "Build the LVS article's network in namespaces, balance ten requests, show it "
                    "and take it down.")
    parser.add_argument("mode", metavar="MODE", help="nat")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--keep", action="store_true", help="leave it up, and print commands to play with")
    end.add_argument("--down", action="store_true", help="take down a lab that was kept")
    said = parser.parse_args(words)
    from lbq import lab

    return lab.main(mode_of(said.mode), keep=said.keep, down=said.down)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": _list,
    "conns": _conns,
    "stats": _stats,
    "add": _change("add", "add_server", "RIP[:PORT][,weight=N]", "192.168.10.1:80 192.168.20.3,weight=2"),
    "set": _change("set", "set_server", "RIP[:PORT],weight=N", "192.168.10.1:80 192.168.20.3,weight=0"),
    "del": _change("del", "delete_server", "RIP[:PORT]", "192.168.10.1:80 192.168.20.3"),
    "stop": _stop,
    "cleanup": _cleanup,
    "lab": _lab,
}
