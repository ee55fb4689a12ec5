"""``lbq explain``: which packet, decided by whom, told how."""
from __future__ import annotations

import json

from lbq.control.client import ControlClient
from lbq.errors import ConfigError
from lbq.explain import decision, show
from lbq.explain.packets import build, from_capture
from lbq.grammar import MAX_MARK, PROTOCOLS, parse_endpoint, parse_number
from lbq.host.setup import state_directory
from lbq.ipvsadm.dump import read_file
from lbq.model import NEW, SCTP, TCP
from lbq.options import PROFILES, Parser

DESCRIPTION = """\
Say what becomes of one packet, and why: which service, whether it is in the connection table, every candidate server
with its score and why it lost, the state before and after, the bytes that change, the verdict, and what the kernel does
next.  The running director is asked what it knows (root); nothing changes there.  With --config no director is needed,
and no root: a fresh one is imagined.
"""
EPILOG = """\
examples:
  lbq explain --from 192.168.10.9:40000 --to 192.168.10.1:80                  a SYN
  lbq explain --from 192.168.10.9:40000 --to 192.168.10.1:80 --flags A        what follows it
  lbq explain --from 192.168.20.1:80 --to 192.168.10.9:40000 --flags SA       a real server's reply
  lbq explain --from 10.0.0.9:5353 --to 10.0.0.1:53 --proto udp --json
  lbq explain --pcap trace.pcapng --packet 17
  lbq save > rules; lbq explain --config rules --from 192.168.10.9:40000 --to 192.168.10.1:80
"""
MOST_PAYLOAD = 65000
MOST = 9_999_999_999        # packets of a capture


def main(words: list[str]) -> int:
    """Explain one packet; return the exit status."""
    parser = Parser("lbq explain", DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--from", dest="source", metavar="CIP:PORT", help="who sends it")
    parser.add_argument("--to", metavar="VIP:PORT", help="where it goes")
    parser.add_argument("--pcap", metavar="FILE", help="a captured packet instead of --from and --to (pcap, pcapng)")
    parser.add_argument("--packet", metavar="N", help="which one, as Wireshark counts (default: the first that can be)")
    parser.add_argument("--proto", metavar="PROTOCOL", help=f"{', '.join(PROTOCOLS)} (default: tcp)")
    parser.add_argument("--flags", metavar="LETTERS",
                        help="of SAFRPU, TCP (default: S); SCTP's first chunk: I D A F (default: I)")
    parser.add_argument("--payload", metavar="BYTES", help="(default: 0)")
    parser.add_argument("--mark", metavar="N", default="0", help="the packet's firewall mark (default: 0)")
    parser.add_argument("--config", metavar="FILE", help="what lbq save or ipvsadm -S wrote, instead of a director")
    parser.add_argument("--kernel-profile", choices=PROFILES, help=f"with --config (default: {NEW})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    said = parser.parse_args(words)
    packet = _packet(said)
    mark = parse_number(said.mark, "--mark", 0, MAX_MARK)
    if said.config:
        dump = read_file(said.config)
        for number, mistake in dump.mistakes:
            raise ConfigError(f"cannot use {said.config}: line {number}: {mistake}")
        found = decision.by_configuration(list(dump.services.values()), dump.timeouts, packet, mark,
                                          said.kernel_profile or NEW)
    elif said.kernel_profile:
        raise ConfigError("--kernel-profile is for --config; a running director has one of its own")
    else:
        with ControlClient(state_directory()) as client:
            found = decision.by_director(client, packet, mark)
    print(json.dumps(found) if said.json else "\n".join(show.lines(found)))
    return 0


def _packet(said) -> bytearray:
    """Return the packet that the command line describes."""
    described = said.source, said.to, said.proto, said.flags, said.payload
    if said.pcap:
        if described != (None,) * len(described):
            raise ConfigError("a packet of --pcap is what it is; --from, --to, --proto, --flags and --payload describe "
                              "another")
        return from_capture(said.pcap, None if said.packet is None else parse_number(said.packet, "--packet", 1, MOST))
    if not (said.source and said.to):
        raise ConfigError("say which packet: --from CIP:PORT --to VIP:PORT, or --pcap FILE; lbq explain --help tells")
    if said.packet is not None:
        raise ConfigError("--packet is one of a capture; say --pcap FILE, too")
    name = said.proto or "tcp"
    if name not in PROTOCOLS:
        raise ConfigError(f"--proto {name}: there are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if said.flags is not None and protocol not in (TCP, SCTP):
        raise ConfigError(f"--flags {said.flags}: a packet of {name} has none")
    (source, source_port, family), (destination, port, other) = map(parse_endpoint, (said.source, said.to))
    if family != other:
        raise ConfigError(f"--from {said.source} and --to {said.to} are not of one address family")
    payload = 0 if said.payload is None else parse_number(said.payload, "--payload", 0, MOST_PAYLOAD)
    flags = "S" if said.flags is None else said.flags
    return build(protocol, (source, source_port), (destination, port), family, flags, payload)
