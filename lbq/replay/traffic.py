"""What there is to play: flows, and their packets in the order of time; and how it gets out of captured packets.

A *flow* is what a connection is in a capture: the packets of one client's address and port to one destination, both
ways, until it is closed and opened anew, or (UDP) was silent for as long as lbq remembers a flow.  A packet is a time,
its flow's number and its *kind*: the direction, and all that a state table looks at (TCP's flags, SCTP's first chunk).
"""
from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable
from itertools import accumulate, compress
from pathlib import Path
from typing import NamedTuple

from lbq.errors import ConfigError
from lbq.model import AF_INET, AF_INET6, SCTP, TCP, UDP, ServiceKey, packed
from lbq.replay import capture

SECOND = 1_000_000_000
REPLY = 0x100               # bits of a kind: from the service to the client ...
LAST = 0x200                # ... and a flow's last packet; below them are flags or a chunk's type
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
INIT, ABORT, COOKIES, SHUTDOWN_COMPLETE = 1, 6, (10, 11), 14
UDP_SILENCE = 300 * SECOND      # after which a datagram begins another flow: lbq's timeout
SYN_SILENCE = 120 * SECOND      # after which a SYN is no repetition any more
OPENING_BITS = {TCP: REPLY | ACK | SYN | RST | FIN, UDP: REPLY, SCTP: REPLY | 0xFF}   # of a kind: what is looked at ...
OPENINGS = {TCP: SYN, UDP: 0, SCTP: INIT}                                   # ... and what it is when it opens a flow
SILENCES = {TCP: SYN_SILENCE, UDP: UDP_SILENCE, SCTP: SYN_SILENCE}
LATEST = 1 << 62
# A director takes nothing from loopback; captures of it are played as 10.0.0.0/8 and a00::1.
LOOPBACK_NETWORK, PRIVATE_NETWORK = 127, 10
LOOPBACK6 = bytes(15) + b"\x01"
MULTICAST, MULTICAST6 = 224, 0xFF       # first byte of an address, and broadcast's
ROUND = 1 << 14             # packets between two looks at the progress
PACKET_BYTES, FLOW_BYTES = 14, 500      # that one takes, read and played
FEWER = "play fewer packets (editcap -c N FILE PART)"
EXTENSIONS = (0, 43, 60, 135)
FRAGMENT = 44
IGNORED = {"elsewhere": "not to or from the service", "before": "of connections that had begun before",
           "other": "neither TCP nor UDP nor SCTP", "many": "to many hosts at once", "port": "to port 0",
           "not_ip": "not IP", "fragments": "later fragments",
           "short": "captured without their ports"}


def memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return how many bytes this machine has, or may use where a container's *limit* is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        said = limit.read_text().strip()
    except OSError:
        return whole
    return min(whole, int(said)) if said.isdigit() else whole       # or it is max


MEMORY = memory()


def has_room(packets: int, flows: int) -> bool:
    """Return True when so much fits into this machine's memory."""
    return packets * PACKET_BYTES + flows * FLOW_BYTES < MEMORY


class Endpoint(NamedTuple):
    """Where flows go to: protocol, and address and port as they are in a packet."""

    protocol: int
    address: bytes
    port: bytes

    def covers(self, other: Endpoint) -> bool:
        """Return True for *other* that is the same, or any port of it where this is one of every port."""
        return self == other or (not any(self.port) and self[:2] == other[:2])

    def key(self) -> ServiceKey:
        """Return it as the service of that address and port."""
        return ServiceKey(self.protocol, int.from_bytes(self.address), int.from_bytes(self.port),
                          AF_INET if len(self.address) == 4 else AF_INET6)


def endpoint(key: ServiceKey) -> Endpoint:
    """Return the address and port of a service as they are in a packet."""
    return Endpoint(key.protocol, packed(key.address, key.family), key.port.to_bytes(2))


class Traffic:
    """The flows of a file: by number who and where to, when it ends, what it carries; and all packets."""

    def __init__(self):
        self.times = array("q")         # of packets: nanoseconds since the first
        self.numbers = array("I")       # their flows
        self.kinds = array("H")
        self.clients: list[bytes] = []  # of flows: address and port
        self.places: list[int] = []     # index of where they go to in *endpoints*
        self.first = array("q")         # when the first packet came
        self.last = array("q")          # and the last so far
        self.packets = array("Q")
        self.octets = array("Q")
        self.endpoints: list[Endpoint] = []
        self.loopback = 0               # flows of clients that were given another address
        self.ignored: Counter = Counter()
        self.seen = 0                   # packets of the file
        self._index: dict[Endpoint, int] = {}

    def flow(self, client: bytes, where: Endpoint, first: int, last: int) -> int:
        """Begin a flow and return its number."""
        if (client[0] == LOOPBACK_NETWORK and len(client) == 6) or client[:-2] == LOOPBACK6:
            self.loopback += 1
            client = bytes([PRIVATE_NETWORK]) + client[1:]
        place = self._index.get(where)
        if place is None:
            place = self._index[where] = len(self.endpoints)
            self.endpoints.append(where)
        self.clients.append(client)
        self.places.append(place)
        self.first.append(first)
        self.last.append(last)
        self.packets.append(0)
        self.octets.append(0)
        return len(self.clients) - 1

    def busiest(self) -> Endpoint:
        """Return where most flows go to; of several, what was seen first."""
        return self.endpoints[max(Counter(self.places).items(), key=lambda item: (item[1], -item[0]))[0]]

    def only(self, where: Endpoint) -> None:
        """Forget the flows that go elsewhere."""
        kept = {place for place, endpoint in enumerate(self.endpoints) if where.covers(endpoint)}
        if len(kept) == len(self.endpoints):
            return
        wanted = bytes(its in kept for its in self.places)
        mask = bytes(map(wanted.__getitem__, self.numbers))
        self.ignored["elsewhere"] += mask.count(0)
        renumbered = array("I", accumulate(wanted, initial=0))
        self.numbers = array("I", map(renumbered.__getitem__, compress(self.numbers, mask)))
        self.times = array("q", compress(self.times, mask))
        self.kinds = array("H", compress(self.kinds, mask))
        for name in ("clients", "places", "first", "last", "packets", "octets"):
            column = getattr(self, name)
            kept = list(compress(column, wanted))
            setattr(self, name, kept if isinstance(column, list) else array(column.typecode, kept))

    def mark_ends(self) -> None:
        """Mark the last packet of each flow."""
        ended, numbers, kinds = bytearray(len(self.clients)), self.numbers, self.kinds
        for i in range(len(numbers) - 1, -1, -1):
            if not ended[numbers[i]]:
                ended[numbers[i]] = 1
                kinds[i] |= LAST

    def span(self) -> tuple[int, int]:
        """Return the times of the first and the last packet."""
        return self.times[0], self.times[-1]


class Reader:
    """Makes flows out of captured packets, one at a time; with *ops* each datagram of a client is one."""

    def __init__(self, traffic: Traffic, wanted: Endpoint | None = None, ops: bool = False):
        self.traffic = traffic
        self._wanted = wanted
        self._silences = {**SILENCES, UDP: 0} if ops else SILENCES
        self._known: dict[int, dict[bytes, int]] = {TCP: {}, UDP: {}, SCTP: {}}
        self._closed = bytearray()          # of flows: has a FIN, RST or the like been seen

    def read(self, pieces: capture.Pieces, tell: Callable[[int], None]) -> None:
        """Read a whole capture; *tell* is called now and then with how many bytes it has gone through."""
        traffic, known, closed = self.traffic, self._known, self._closed
        times, numbers, kinds = traffic.times, traffic.numbers, traffic.kinds
        last, packets, octets = traffic.last, traffic.packets, traffic.octets
        bits, opening, silence = OPENING_BITS, OPENINGS, self._silences
        links, ignored = capture.LINKS, traffic.ignored
        first, now, count = None, 0, 0
        for count, (time, link, data, start, end, length) in enumerate(capture.records(pieces), start=1):
            if count % ROUND == 0:
                traffic.seen = count
                tell(pieces.position())
                if not has_room(len(times), len(traffic.clients)):
                    raise ConfigError(f"{pieces.name} does not fit into this machine's memory: {len(times):,} packets "
                                      f"of {len(traffic.clients):,} flows, and there are more; {FEWER}, or one "
                                      "--service")
            if first is None:
                first = time
            elif now < time - first < LATEST:
                now = time - first
            strip = links.get(link)
            if strip is None:
                raise ConfigError(capture.unread_link(pieces.name, link))
            at = strip(data, start, end)
            if at < 0 or end - at < 20:
                ignored["not_ip"] += 1
                continue
            begin = data[at]
            if 0x45 <= begin <= 0x4F:
                protocol = data[at + 9]
                header = at + (begin & 15) * 4
                if data[at + 6] & 0x1F or data[at + 7]:
                    ignored["fragments"] += 1
                    continue
                if begin == 0x45:
                    key = data[at + 12:at + 24]
                else:
                    key = data[at + 12:at + 20] + data[header:header + 4]
            elif begin >> 4 == 6 and end - at >= 40:
                protocol, header = transport6(data, at, end)
                if protocol < 0:
                    ignored["fragments"] += 1
                    continue
                key = data[at + 8:at + 40] + data[header:header + 4]
            else:
                ignored["not_ip"] += 1
                continue
            table = known.get(protocol)
            if table is None:
                ignored["other"] += 1
                continue
            if protocol == TCP:
                if header + 14 > end:
                    ignored["short"] += 1
                    continue
                kind = data[header + 13]
            elif header + 8 > end:
                ignored["short"] += 1
                continue
            else:
                kind = 0 if protocol == UDP else chunk(data, header, end)
            number = table.get(key)
            if number is None:
                number = table.get(turned(key))
                if number is not None:
                    kind |= REPLY
            if number is None:
                number = self._begin(protocol, key, kind, now)
                if number < 0:
                    continue
            elif kind & bits[protocol] == opening[protocol] and (
                    now - last[number] >= silence[protocol] or (protocol != UDP and closed[number])):
                number = self._begin(protocol, key, kind, now)
            if protocol == TCP:
                if kind & (FIN | RST):
                    closed[number] = 1
            elif protocol == SCTP and kind & 0xFF in (ABORT, SHUTDOWN_COMPLETE):
                closed[number] = 1
            times.append(now)
            numbers.append(number)
            kinds.append(kind)
            last[number] = now
            packets[number] += 1
            octets[number] += (length if length > end - start else end - start) - (at - start)
        traffic.seen = count

    def _begin(self, protocol: int, key: bytes, kind: int, now: int) -> int:
        """Begin a flow with a packet of no known one, and return its number; -1 for a packet that does not count."""
        half = 16 if len(key) == 36 else 4
        target = Endpoint(protocol, key[half:2 * half], key[-2:])
        source = Endpoint(protocol, key[:half], key[-4:-2])
        is_wanted = self._wanted is None or self._wanted.covers(target)
        if not is_wanted and not self._wanted.covers(source):
            self.traffic.ignored["elsewhere"] += 1
            return -1
        if target.address[0] >= (MULTICAST if half == 4 else MULTICAST6):
            self.traffic.ignored["many"] += 1
            return -1
        if not any(target.port):
            self.traffic.ignored["port"] += 1
            return -1
        if kind & OPENING_BITS[protocol] != OPENINGS[protocol] or not is_wanted:
            self.traffic.ignored["before"] += 1
            return -1
        number = self._known[protocol][key] = self.traffic.flow(source.address + source.port, target, now, now)
        self._closed.append(0)
        return number


def turned(key: bytes) -> bytes:
    """Return the addresses and ports of *key* with the two ends exchanged."""
    if len(key) == 12:
        return key[4:8] + key[:4] + key[10:] + key[8:10]
    return key[16:32] + key[:16] + key[34:] + key[32:34]


def transport6(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the protocol in an IPv6 packet, -1 for a later fragment, and where its header starts."""
    protocol, header = data[at + 6], at + 40
    while header + 8 <= end:
        if protocol in EXTENSIONS:
            protocol, header = data[header], header + data[header + 1] * 8 + 8
        elif protocol == FRAGMENT:
            if data[header + 2] or data[header + 3] & 0xF8:
                return -1, 0
            protocol, header = data[header], header + 8
        else:
            break
    return protocol, header


def chunk(data: bytes, header: int, end: int) -> int:
    """Return the type of an SCTP packet's first chunk, or ABORT when one follows a COOKIE chunk; 0 for none."""
    at = header + 12
    if at + 4 > end:
        return 0
    kind = data[at]
    if kind in COOKIES:
        following = at + (data[at + 2] << 8 | data[at + 3]) + 3 & ~3
        if at < following < end and data[following] == ABORT:
            return ABORT
    return kind
