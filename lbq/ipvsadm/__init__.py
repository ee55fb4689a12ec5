"""The command ``lbq-ipvsadm``: ipvsadm 1.31, word for word, for a director in place of the kernel.

It is the same program when it is called through a link named ``ipvsadm``; called as ``…-save`` and ``…-restore``
it is the two scripts that come with it.

    words.py        what can be said, and every mistake in saying it      popt.py   how words become options
    show/ipvs.py    what is printed                                       usage.py  the help
    control/kernel.py   what is done: the director changes services as the kernel would, not as `lbq set` does

Differs from IPVS: the help and the version need neither root nor a director; there is no sync daemon to start; only
the base name of the program is told in the help and the hint, which is all a script knows of how it was called.
"""
from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, TextIO

from lbq.errors import (
    LbqError,
    NoSuchServer,
    NoSuchService,
    NotUnicast,
    PermissionMissing,
    ServerExists,
    ServiceError,
    ServiceExists,
    ThresholdsReversed,
    UnknownScheduler,
)
from lbq.ipvsadm import usage
from lbq.ipvsadm.popt import Unreadable
from lbq.ipvsadm.words import Command, Hint, Mistake, parse
from lbq.log import one_line
from lbq.show import ipvs

REFUSED = 255           # also what cannot be read as an option: C's -1
UNREAD = 1              # a listing that could not be made
NOT_THERE = 2           # no director, or not allowed to speak to it
KILLED = 128 + 13       # by SIGPIPE, to a shell
BARE = ("-h", "--help", "-v", "--version")      # what needs no root
NOT_ROOT = """\
Can't initialize ipvs: Permission denied (you must be root)
Are you sure that IP Virtual Server is built in the kernel or as module?"""
NO_DAEMON = "lbq has no sync daemon: connections are not copied to another director"
SAVE_USAGE = """\
{0}: Script to save the IPVS table to stdout.
   With the -n option, prints out the table in numeric format."""
SERVICE_REFUSALS = {ServiceExists: "Service already exists", NoSuchService: "No such service",
                    UnknownScheduler: "Scheduler or persistence engine not found"}
SERVER_REFUSALS = {NoSuchService: "Service not defined", ServerExists: "Destination already exists",
                   NoSuchServer: "No such destination", ThresholdsReversed: "Numerical result out of range",
                   NotUnicast: "Invalid operation.  Possibly wrong module version, address not unicast, ..."}
FORMS = ("stats", "rate", "thresholds", "persistent-conn", "tun-info")      # the first that is said counts


class Streams(NamedTuple):
    """Where commands come from and where answers go."""

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO


def main(argv: list[str] | None = None, streams: Streams | None = None, connect: Callable | None = None) -> int:
    """Do what *argv*, the program's name included, says and return the exit status.

    *connect* returns the client of a director; without it, the one of this network namespace is asked.
    """
    program, *words = sys.argv if argv is None else argv
    streams = streams or _standard_streams()
    run = Run(os.path.basename(program), streams, connect or _connect)
    try:
        if connect is None and os.geteuid() and words[:1] not in [[word] for word in BARE]:
            raise PermissionMissing(NOT_ROOT)
        status = _carry_out(run, words)
        streams.stdout.flush()
    except Mistake as mistake:
        run.complain(str(mistake))
        status = mistake.status
    except PermissionMissing:
        run.complain(NOT_ROOT)
        status = NOT_THERE
    except LbqError as error:
        run.complain(f"{run.program}: {one_line(str(error))}")
        status = NOT_THERE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = KILLED
    except KeyboardInterrupt:
        status = 130
    finally:
        run.close()
    return status


def _standard_streams() -> Streams:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="surrogateescape")        # what was typed is told as it was
    return Streams(sys.stdin.buffer, sys.stdout, sys.stderr)


def _connect():
    from lbq.autostart import connect

    return connect()


def _carry_out(run: Run, words: list[str]) -> int:
    """Be the program of this name."""
    try:
        if run.program.endswith("-save"):
            return run.save_script(words)
        return run.restore_script() if run.program.endswith("-restore") else run.line(words)
    except Finished:
        return 0


class Finished(Exception):
    """Ends the program well, a restore too."""


class Unlisted(Mistake):
    """What should have been listed is not there."""

    status = UNREAD


class Run:
    """One run of the program: a command line, or with -R many."""

    def __init__(self, program: str, streams: Streams, connect: Callable):
        self.program = program
        self.stdin, self.stdout, self.stderr = streams
        self.connect = connect
        self.client = None
        self.restoring = False

    def line(self, words: list[str]) -> int:
        """Carry out one command line; return its exit status, or raise what ends the whole run."""
        try:
            command = parse(words) if words else Command("list")
        except Unreadable as error:
            self.complain(str(error))
            return REFUSED
        except Hint:
            self._hint()
        if command.name in ("help", "version"):
            text = usage.USAGE.replace("%s", self.program) if command.name == "help" else usage.VERSION + "\n"
            self.stdout.write(text)
            raise Finished
        return DO[command.name](self, command)

    def complain(self, text: str) -> None:
        """Say what is wrong."""
        print(text, file=self.stderr)

    def close(self) -> None:
        """Hang up."""
        if self.client is not None:
            self.client.close()

    def _hint(self) -> None:
        raise Hint(f"Try `{self.program} -h' or '{self.program} --help' for more information.")

    def _print(self, lines: Iterable[str]) -> int:
        for line in lines:
            print(line, file=self.stdout)
        return 0

    def _call(self, method: str, **params):
        if self.client is None:
            self.client = self.connect()
        return self.client.call(method, **params)

    def _change(self, refusals: dict[type, str], method: str, **params) -> int:
        """Let the director change something; when it refuses, say so in the words of the real tool."""
        try:
            self._call(method, **params)
        except ServiceError as error:
            self.complain(refusals.get(type(error)) or one_line(str(error)))
            return REFUSED
        return 0

    # ---- Changes -----------------------------------------------------------------------------------------

    def service(self, command: Command) -> int:
        """Add, edit, delete or zero one service; without one, zero all."""
        if "service-address" not in command.said:
            return self._change({}, "zero")
        do = command.name.removesuffix("-service")
        return self._change(SERVICE_REFUSALS, "kernel_service", do=do, service=command.service())

    def server(self, command: Command) -> int:
        """Add, edit or delete a real server."""
        do = command.name.removesuffix("-server")
        return self._change(SERVER_REFUSALS, "kernel_server", do=do, service=command.service(),
                            server=command.server())

    def clear(self, command: Command) -> int:
        """Delete all services."""
        return self._change({}, "clear")

    def timeouts(self, command: Command) -> int:
        """Set the timeouts."""
        return self._change({}, "timeouts", **dict(zip(("tcp", "tcpfin", "udp"), command.seconds, strict=True)))

    def start_daemon(self, command: Command) -> int:
        """Say that there is no sync daemon."""
        self.complain(f"{self.program}: {NO_DAEMON}")
        return REFUSED

    def stop_daemon(self, command: Command) -> int:
        """Say that no sync daemon runs."""
        self.complain("No daemon is running")
        return REFUSED

    # ---- Listings ----------------------------------------------------------------------------------------

    def list(self, command: Command) -> int:
        """List services, one service, connections, timeouts or daemons."""
        names = ipvs.numeric if "numeric" in command.said else ipvs.resolved
        if "daemon" in command.said:
            return 0
        if "timeout" in command.said:
            values = self._call("timeouts")
            return self._print([f"Timeout (tcp tcpfin udp): {values['tcp']} {values['tcpfin']} {values['udp']}"])
        if "connection" in command.said:
            return self._print(ipvs.connections(self._connections(), names, "persistent-conn" in command.said))
        rows = self._rows(command)
        if "service-address" not in command.said:
            self._print([ipvs.VERSION])
        form = next((form for form in FORMS if form in command.said), "plain")
        return self._print(ipvs.listing(rows, form, names, "exact" in command.said))

    def save(self, command: Command) -> int:
        """Print the command lines that make what there is."""
        return self._print(ipvs.rules(self._rows(command),
                                      ipvs.numeric if "numeric" in command.said else ipvs.resolved))

    def _rows(self, command: Command) -> list[dict]:
        rows = ipvs.kernel_order(self._call("list"))
        if "service-address" in command.said:
            wanted = command.service()
            rows = [row for row in rows if all(row[name] == wanted[name] for name in ipvs.IDENTITY)]
            if not rows:
                raise Unlisted("No such service")
        if "nosort" in command.said:
            return rows
        return ipvs.sort(rows)

    def _connections(self) -> Iterator[dict]:
        if self.client is None:
            self.client = self.connect()
        return self.client.connections()

    # ---- Many lines --------------------------------------------------------------------------------------

    def restore(self, command: Command) -> int:
        """Carry out the lines of standard input; what the tool itself finds wrong ends it, a refusal does not."""
        if self.restoring:
            self._hint()
        return self._restore(self.stdin)

    def _restore(self, lines: Iterable[bytes]) -> int:
        self.restoring = True
        status = 0
        for line in lines:
            words = [os.fsdecode(word) for word in re.split(rb"[ \t\r\n]+", line) if word not in (b"", b"ipvsadm")]
            if words:
                status = self.line(words)
        return status

    def save_script(self, words: list[str]) -> int:
        """Be ipvsadm-save."""
        if any(word.startswith("-") and word != "-n" for word in words):
            raise Unlisted(SAVE_USAGE.format(self.program))
        return self.line(["-S", "-n"] if "-n" in words else ["-S"])

    def restore_script(self) -> int:
        """Be ipvsadm-restore: forget what there is, and leave comments out."""
        self.program = self.program.removesuffix("-restore")
        lines = [line for line in self.stdin if not line.startswith(b"#")]
        self.line(["-C"])
        return self._restore(lines)


DO: dict[str, Callable[[Run, Command], int]] = {
    **dict.fromkeys(("add-service", "edit-service", "delete-service", "zero"), Run.service),
    **dict.fromkeys(("add-server", "edit-server", "delete-server"), Run.server),
    "flush": Run.clear, "list": Run.list, "save": Run.save, "set": Run.timeouts, "restore": Run.restore,
    "start-daemon": Run.start_daemon, "stop-daemon": Run.stop_daemon,
}
