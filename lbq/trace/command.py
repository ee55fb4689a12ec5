"""``lbq trace``: a line for each packet that the running director decides about, until Ctrl-C."""
from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice

from lbq.control.client import ControlClient
from lbq.errors import ConfigError, LbqError
from lbq.grammar import parse_number
from lbq.host.setup import state_directory
from lbq.options import MAX_SECONDS, Parser
from lbq.trace.capture import AFTER, BEFORE, Capture
from lbq.trace.records import MOST_EVERY, Traced, decode

DESCRIPTION = """\
Show what the running director decides, a line for each packet: who speaks to whom, the state of the connection, the
real server, and for every packet that goes nowhere, why.  What is said below narrows it down.  A director that nobody
traces pays nothing; one that is traced keeps 2,048 packets until they are read, and what comes meanwhile is counted and
not shown, so that tracing never holds packets up.
"""
EPILOG = """\
examples:
  lbq trace                                             everything
  lbq trace --client 192.168.10.9 --count 20            twenty packets from or to a client
  lbq trace --only-drops                                whatever does not get through, and why
  lbq trace --service 192.168.10.1:80 --only-new        which server each new connection gets
  lbq trace --pcap trace.pcapng                         and the packets before and after, for Wireshark
  lbq trace --every 100 --json
"""
INTERRUPTED = 130       # the exit status that a shell gives Ctrl-C
PAUSE = 0.05            # seconds between two looks when there was nothing


def main(words: list[str]) -> int:
    """Trace until told to stop; return the exit status."""
    parser = Parser("lbq trace", DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--client", metavar="CIP[:PORT]", help="packets from and to this client")
    parser.add_argument("--service", metavar="SERVICE", help="packets of this virtual service")
    parser.add_argument("--server", metavar="RIP[:PORT]", help="packets of connections with this real server")
    parser.add_argument("--state", metavar="STATE", help="packets after which the connection is in this state")
    parser.add_argument("--only-new", action="store_true", help="packets that begin a connection")
    parser.add_argument("--only-drops", action="store_true", help="packets that go nowhere")
    parser.add_argument("--every", metavar="N", default="1", help="one in N of them (default: 1)")
    parser.add_argument("--count", metavar="N", help="end after N packets")
    parser.add_argument("--seconds", metavar="S", help="end after S seconds")
    parser.add_argument("--pcap", metavar="FILE", help="also write the packets, as pcapng")
    parser.add_argument("--json", action="store_true", help="a JSON object for each packet")
    said = parser.parse_args(words)
    count, seconds = (None if text is None else parse_number(text, name, 1, most) for name, text, most in (
        ("--count", said.count, 1 << 31), ("--seconds", said.seconds, MAX_SECONDS)))
    every = parse_number(said.every, "--every", 1, MOST_EVERY)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    offset = time.time_ns() - time.monotonic_ns()
    shown, status = 0, INTERRUPTED      # until it has come to its end
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        client = stack.enter_context(ControlClient(state_directory()))
        begun = client.call("trace_start", client=said.client, service=said.service, server=said.server,
                            state=said.state, only_new=said.only_new, only_drops=said.only_drops, every=every)
        stack.callback(_stop, client, begun["trace"])
        capture = stack.enter_context(_capturing(said.pcap)) if said.pcap else None
        for packet in islice(_packets(client, begun, seconds), count):
            unix_ns = packet.now_ns + offset
            print(json.dumps({"unix_ns": unix_ns, **packet.facts()}) if said.json
                  else f"{_clock(unix_ns)}  {packet.line()}")
            if capture is not None:
                _keep(capture, packet, unix_ns)
            shown += 1
        status = 0
    if shown == 0:
        print("lbq: no packet was seen that matches", file=sys.stderr)
    return status


def _packets(client: ControlClient, begun: dict, seconds: int | None) -> Iterator[Traced]:
    """Give packets as they come, for so many *seconds*; say on standard error how many did not fit."""
    lost = 0
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        records, counters = client.call("trace_read", trace=begun["trace"])
        yield from decode(bytes.fromhex(records), begun["outcomes"])
        if counters["lost"] > lost:
            print(f"lbq: {counters['lost'] - lost} packets came too fast to be shown", file=sys.stderr)
            lost = counters["lost"]
        sys.stdout.flush()          # what was made of this page
        if deadline is not None and time.monotonic() >= deadline:
            return
        if not counters["waiting"]:
            time.sleep(PAUSE)


def _stop(client: ControlClient, trace: int) -> None:
    """End the trace; it may have ended by itself, or with its director, or Ctrl-C may have cut an answer in two."""
    with suppress(LbqError):
        client.call("trace_stop", trace=trace)


@contextmanager
def _capturing(path: str) -> Iterator[Capture]:
    """Give a new capture at *path*; what keeps it from being written is told in one line."""
    try:
        with open(path, "wb") as file:
            yield Capture(file)
    except BrokenPipeError:             # whoever reads our lines is gone
        raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _keep(capture: Capture, packet: Traced, unix_ns: int) -> None:
    capture.add(BEFORE, unix_ns, packet.before, packet.length, packet.line())
    if packet.after:
        capture.add(AFTER, unix_ns, packet.after, packet.length_after(), packet.line())


def _clock(unix_ns: int) -> str:
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 1_000_000:03}"
