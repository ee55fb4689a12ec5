"""``lbq trace``: a line for each packet that the running director decides about, until Ctrl-C."""
from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

from lbq.control.client import ControlClient
from lbq.errors import ConfigError
from lbq.grammar import parse_number
from lbq.host.setup import state_directory
from lbq.options import MAX_SECONDS, Parser
from lbq.trace.capture import AFTER, BEFORE, Capture
from lbq.trace.records import Traced, decode

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
PAUSE = 0.05            # seconds between two looks when there was nothing
PAGE = 64               # records; a page leaves the packet process in under 200 µs


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
    every = parse_number(said.every, "--every", 1, 1 << 31)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        client = stack.enter_context(ControlClient(state_directory()))
        names = client.call("trace_start", client=said.client, service=said.service, server=said.server,
                            state=said.state, only_new=said.only_new, only_drops=said.only_drops, every=every)
        stack.callback(client.call, "trace_stop")
        capture = None
        if said.pcap:
            try:
                capture = Capture(stack.enter_context(open(said.pcap, "wb")))
            except OSError as error:
                raise ConfigError(f"cannot write {said.pcap}: {error.strerror}") from error
        try:
            shown = _follow(client, names, said.json, count, seconds, capture)
        except KeyboardInterrupt:
            return 130
    if shown == 0:
        print("lbq: no packet was seen that matches", file=sys.stderr)
    return 0


def _follow(client: ControlClient, names: list[str], as_json: bool, count: int | None, seconds: int | None,
            capture: Capture | None) -> int:
    """Print packets until there are enough; return how many there were."""
    shown, lost = 0, 0
    offset = time.time_ns() - time.monotonic_ns()
    for packets, counters in _pages(client, names, seconds):
        for packet in packets:
            print(json.dumps(packet.facts()) if as_json else f"{_clock(packet.now_ns + offset)}  {packet.line()}")
            if capture is not None:
                _keep(capture, packet, packet.now_ns + offset)
            shown += 1
            if shown == count:
                break
        if counters["lost"] > lost:
            print(f"lbq: {counters['lost'] - lost} packets came too fast to be shown", file=sys.stderr)
            lost = counters["lost"]
        sys.stdout.flush()
        if shown == count:
            break
    return shown


def _pages(client: ControlClient, names: list[str], seconds: int | None) -> Iterator[tuple[list[Traced], dict]]:
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        records, counters = client.call("trace_read", limit=PAGE)
        yield decode(bytes.fromhex(records), names), counters
        if deadline is not None and time.monotonic() >= deadline:
            return
        if not counters["waiting"]:
            time.sleep(PAUSE)


def _keep(capture: Capture, packet: Traced, unix_ns: int) -> None:
    capture.add(BEFORE, unix_ns, packet.before, packet.length, packet.line())
    if packet.after:
        capture.add(AFTER, unix_ns, packet.after, len(packet.after), packet.line())


def _clock(unix_ns: int) -> str:
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 1_000_000:03}"
