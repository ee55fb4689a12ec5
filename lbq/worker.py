"""The packet process: one engine, its queues, and nothing else in memory.

    python -m lbq.worker DESCRIPTOR OPTIONS        started by the front only (control/channel.py)

``engine.run`` handles packets until the channel is readable; then one command is done, between two
batches, in the thread that owns the decisions: a scheduler never sees half a change.  With ``--workers`` there are more
threads, which the engine has by itself.
It ends when the channel closes.  Signals are the front's business: Ctrl-C and systemd send theirs to every
process, and packets must flow until the front has taken the rules out.
"""
from __future__ import annotations

import _thread
import errno
import json
import os
import signal
import socket
import sys
import time

from lbq.errors import HostError, LbqError
from lbq.explain.look import look
from lbq.model import ServiceKey

QUESTION_BYTES = 65536
KEYED = ("add_service", "set_service", "delete_service", "add_server", "set_server", "delete_server", "zero")
COMMANDS = (*KEYED, "flush", "set_sysctl", "sysctls", "set_timeouts", "timeouts", "set_local_addresses", "set_routes",
            "set_local_addresses6", "set_routes6", "set_largest_mtu", "set_memory", "open_headers_queue",
            "open_conntrack", "ask_conntrack", "told_by_conntrack", "tick", "end_connections", "list_services",
            "list_connections", "look", "statistics", "totals",
            "trace_start", "trace_read", "trace_stop")


def main() -> None:
    """Serve the channel given on the command line until it closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    try:
        engine = build(options)
        if options["engine"] == "fast":     # before workers are given their processors
            _thread.start_new_thread(engine.claim_ahead, ())    # never takes the GIL
        engine.open_queue(options["queue"], workers=options["workers"])
    except (LbqError, MemoryError, OSError) as error:
        channel.send(failure(error))
        return
    channel.send(json.dumps({"ok": engine.port()}).encode())
    try:
        serve(engine, channel)
    finally:
        engine.close()


def build(options: dict):
    """Return the engine that *options* ask for."""
    if options["engine"] == "reference":
        from lbq.director import Director

        return Director(max_connections=options["max_connections"], profile=options["profile"])
    if os.environ.get("LBQ_PURE") == "1":
        raise HostError("cannot start --engine fast: LBQ_PURE=1 leaves compiled code out; "
                        "unset it, or use --engine reference")
    try:
        from lbq._fastpath import FastDirector
    except ImportError as error:        # not compiled, or compiled from other sources
        raise HostError(f"cannot start --engine fast: {error}; "
                        "install lbq with a C compiler (pip install .), or use --engine reference") from error
    try:
        return FastDirector(max_connections=options["max_connections"], profile=options["profile"])
    except (MemoryError, OSError) as error:
        raise HostError(f"cannot make a table for {options['max_connections']} connections: {error}; "
                        "ask for fewer with --max-connections") from error


def serve(engine, channel: socket.socket) -> None:
    """Handle packets; answer one command whenever there is one; return when the channel closes."""
    while True:
        engine.run(channel.fileno())
        question = channel.recv(QUESTION_BYTES)
        if not question:
            return
        try:
            channel.send(answer(engine, question))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                return                          # the front is gone
            channel.send(failure(HostError("the answer is longer than one message holds")))


def answer(engine, question: bytes) -> bytes:
    """Do what *question* asks and return the answer's message."""
    try:
        asked = json.loads(question)
        do, args = asked["do"], asked["args"]
        if do not in COMMANDS:
            raise HostError(f"the packet process knows no command {do!r}")
        if do == "tick":
            args = [time.monotonic_ns()]
        if do in KEYED and args:
            args[0] = ServiceKey(*args[0])
        value = look(engine, *args) if do == "look" else getattr(engine, do)(*args)
    except (Exception, SystemExit) as error:    # a user's own scheduler may raise anything; packets must go on
        return failure(error)
    if do == "list_connections":
        page, cursor = value
        head = {"ok": cursor, "bytes": len(page), "now": time.monotonic_ns()}
        return json.dumps(head).encode() + b"\n" + page
    return json.dumps({"ok": value}, default=bytes.hex).encode()


def failure(error: BaseException) -> bytes:
    """Return the message that says *error*: ours by its name, any other with its name in the message."""
    kind = type(error).__name__
    message = str(error) if isinstance(error, LbqError) else f"{kind} in the packet process: {error}"
    return json.dumps({"error": kind, "message": message}).encode()


if __name__ == "__main__":
    main()
