"""Flows written by hand or by another program: a CSV file with a line for each.

A flow is played as its packets would have been: an opening, a sign of life every four minutes, a close.  How many
packets and bytes it says it had is counted, not played: no decision depends on them.
"""
from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator
from heapq import heappop, heappush, heapreplace
from typing import BinaryIO

from lbq.errors import ConfigError
from lbq.grammar import (
    did_you_mean,
    format_service,
    parse_address,
    parse_port,
    parse_service,
    split_endpoint,
)
from lbq.model import SCTP, TCP, UDP, packed
from lbq.replay.traffic import ACK, FIN, REPLY, SECOND, SYN, Endpoint, Traffic, endpoint, has_room

NEEDED = ("start", "client", "duration")
COLUMNS = {"start": "seconds, from any beginning; decimals are welcome",
           "client": "CIP[:PORT]; without a port the flow gets one of its own",
           "duration": "seconds from its first packet to its last",
           "packets": "(optional) how many it had, both ways",
           "bytes": "(optional) how many bytes they were",
           "destination": "(optional) SERVICE that it went to, such as udp:192.168.10.1:53"}
DEFAULT_SERVICE = "tcp:192.0.2.1:80"        # of a file without destinations; the address is for documentation
ALIVE = 240 * SECOND                        # less than any timeout of an open connection
LONGEST = 31 * 24 * 3600
LATEST_START = 9 * 10**9                    # seconds: year 2255, and in nanoseconds still 63 bits
MOST = 10**15                               # packets or bytes of a flow
LONGEST_LINE = 1 << 16                      # characters
FIRST_PORT, PORTS = 1024, 64512
OPENING = {TCP: (SYN, REPLY | SYN | ACK, ACK), UDP: (0,), SCTP: (1, REPLY | 2, 10, REPLY | 11)}
CLOSING = {TCP: (FIN | ACK, REPLY | FIN | ACK, ACK), UDP: (0,), SCTP: (7, REPLY | 8, 14)}
LIVING = {TCP: (ACK, REPLY | ACK), UDP: (0,), SCTP: (0, REPLY)}
MOST_PACKETS = 7                            # of a flow's opening and close


def read(file: BinaryIO, name: str, traffic: Traffic, wanted: Endpoint | None, tell: Callable[[int], None]) -> None:
    """Read the flows in *file*, those to *wanted* when that is said; raises ConfigError with a bad line's number.

    *tell* is called now and then with how many bytes have been read.
    """
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")     # see _rows
    is_file = file.seekable()
    fallback = wanted or endpoint(parse_service(DEFAULT_SERVICE))
    ports = played = 0
    for line, row in _rows(text, name):
        try:
            start, duration = _seconds(row, "start", LATEST_START), _seconds(row, "duration", LONGEST)
            where = _destination(row) or fallback
            if not any(where.port):
                raise ConfigError(f"to which port of {format_service(where.key())} does it go? say it in a column "
                                  "'destination'")
            client, port = _client(row, where)
            packets, octets = _count(row, "packets", 1), _count(row, "bytes", 0)
        except ConfigError as error:
            raise ConfigError(f"{name}:{line}: {error}") from error
        if wanted is not None and not wanted.covers(where):
            traffic.ignored["elsewhere"] += 1
            continue
        if port is None:
            port = (FIRST_PORT + ports % PORTS).to_bytes(2)
            ports += 1
        number = traffic.flow(client + port, where, start, start + duration)
        traffic.packets[number], traffic.octets[number] = packets, octets
        played += MOST_PACKETS + len(LIVING[where.protocol]) * (duration // ALIVE)
        if not has_room(played, len(traffic.clients)):
            raise ConfigError(f"{name}:{line}: with this flow, {played:,} packets would have to be played, for which "
                              f"this machine has no memory; a flow has some each {ALIVE // SECOND} s; split the file")
        traffic.seen += 1
        if traffic.seen % 4096 == 0 and is_file:
            tell(file.tell())
    for moment, number, kind in _in_order(traffic):
        traffic.times.append(moment)
        traffic.numbers.append(number)
        traffic.kinds.append(kind)


def _in_order(traffic: Traffic) -> Iterator[tuple[int, int, int]]:
    """Give the packets of all flows by time, those of one moment in the order of the file: time, flow, kind."""
    waiting: list[tuple[int, int, int, Iterator[tuple[int, int]]]] = []     # a heap: each flow's next, and its rest
    first, last = traffic.first, traffic.last
    for number in sorted(range(len(first)), key=first.__getitem__):
        yield from _before((first[number], number), waiting)
        protocol = traffic.endpoints[traffic.places[number]].protocol
        rest = _packets(protocol, first[number], last[number] - first[number])
        moment, kind = next(rest)
        heappush(waiting, (moment, number, kind, rest))
    yield from _before((sys.maxsize, 0), waiting)


def _before(end: tuple[int, int], waiting: list) -> Iterator[tuple[int, int, int]]:
    """Give those *waiting* whose time and flow are before *end*, and what follows them until then."""
    while waiting and waiting[0] < end:
        moment, number, kind, rest = waiting[0]
        yield moment, number, kind
        following = next(rest, None)
        if following is None:
            heappop(waiting)
        else:
            heapreplace(waiting, (following[0], number, following[1], rest))


def _packets(protocol: int, start: int, duration: int) -> Iterator[tuple[int, int]]:
    """Give the packets of a flow: their times and kinds."""
    for kind in OPENING[protocol]:
        yield start, kind
    for moment in range(start + ALIVE, start + duration, ALIVE):
        for kind in LIVING[protocol]:
            yield moment, kind
    if duration or protocol != UDP:
        for kind in CLOSING[protocol]:
            yield start + duration, kind


def _rows(text: io.TextIOBase, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Give the lines that are not empty, by column, with their numbers."""
    reader = csv.reader(_lines(text, name), strict=True)
    columns: list[str] = []
    try:
        for fields in reader:
            fields = [field.strip() for field in fields]
            if not any(fields) or fields[0].startswith("#"):
                continue
            if any("\udc80" <= letter <= "\udcff" for field in fields if not field.isascii() for letter in field):
                raise ConfigError(f"{name}:{reader.line_num}: not text (UTF-8), and the file is no capture either; "
                                  "write a capture with tcpdump -w, or a CSV file with a line for each flow")
            if not columns:
                columns = _columns(fields, f"{name}:{reader.line_num}")
            elif len(fields) != len(columns):
                raise ConfigError(f"{name}:{reader.line_num}: {len(fields)} fields, and the first line names "
                                  f"{len(columns)} columns ({', '.join(columns)}); separate them by commas")
            else:
                yield reader.line_num, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{name}:{reader.line_num}: not a line of CSV: {error}") from error


def _lines(text: io.TextIOBase, name: str) -> Iterator[str]:
    """Give the lines; one without an end must not fill the memory."""
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise ConfigError(f"{name}:{number}: this line has {LONGEST_LINE:,} characters and more; a flow has a line "
                              "of its own")
        yield line


def _columns(fields: list[str], where: str) -> list[str]:
    names = [field.lower() for field in fields]
    for name in names:
        if name not in COLUMNS:
            raise ConfigError(f"{where}: unknown column '{name[:40]}'{did_you_mean(name, COLUMNS)}; the first line "
                              f"names the columns, of {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise ConfigError(f"{where}: column '{name}' is there twice; name it once")
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise ConfigError(f"{where}: no column {', '.join(missing)}; the first line names the columns, of which "
                          f"{', '.join(NEEDED)} must be there")
    return names


def _seconds(row: dict[str, str], column: str, most: int) -> int:
    """Return nanoseconds."""
    try:
        seconds = float(row[column])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= most:
        raise ConfigError(f"{column} '{row[column][:40]}' is not a number of seconds from 0 to {most}")
    return round(seconds * 1e9)


def _count(row: dict[str, str], column: str, default: int) -> int:
    text = row.get(column, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MOST):
        raise ConfigError(f"{column} '{text[:40]}' is not a number from 0 to {MOST}")
    return int(text)


def _destination(row: dict[str, str]) -> Endpoint | None:
    if not row.get("destination"):
        return None
    key = parse_service(row["destination"])
    if key.fwmark or not key.port:
        raise ConfigError(f"destination '{row['destination'][:40]}' is not [tcp:|udp:|sctp:]VIP:PORT")
    return endpoint(key)


def _client(row: dict[str, str], where: Endpoint) -> tuple[bytes, bytes | None]:
    """Return the client's address, and its port if that is said."""
    text, port = row["client"], None
    if text.startswith("[") or text.count(":") < 2:
        text, port = split_endpoint(text)
    address, family = parse_address(text)
    client = packed(address, family)
    if len(client) != len(where.address):
        raise ConfigError(f"client {row['client']} is not of the IP version of {format_service(where.key())}, where "
                          "it goes")
    return client, None if port is None else parse_port(port).to_bytes(2)
