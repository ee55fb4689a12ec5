"""lbq.protocols.sctp: which event a packet is, and the state table."""
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbq.protocols import sctp, tcp

DIRECTIONS = {"c": tcp.IN, "s": tcp.OUT, "i": tcp.INPUT_ONLY}
CHUNKS = {"data": 0, "init": 1, "init-ack": 2, "sack": 3, "heartbeat": 4, "abort": 6, "shutdown": 7, "shutdown-ack": 8,
          "error": 9, "cookie-echo": 10, "cookie-ack": 11, "shutdown-complete": 14}
HEADER = bytes.fromhex("9c40005000000000deadbeef")


def chunk(name: str | int, content: bytes = b"", length: int | None = None) -> bytes:
    """Return a chunk, padded to four bytes; *length* is what it says of itself, when that is wrong."""
    kind = name if isinstance(name, int) else CHUNKS[name]
    length = 4 + len(content) if length is None else length
    return bytes([kind, 0]) + length.to_bytes(2, "big") + content + bytes(-len(content) % 4)


def event(*chunks: bytes) -> int:
    """Return the event of a packet with these chunks, behind 20 bytes of something else."""
    packet = bytearray(20) + HEADER + b"".join(chunks)
    return sctp.event(packet, 20, len(packet))


def walk(story: str) -> list[str]:
    """Return the states after each packet of ``c:init s:init-ack``: c client, s server, i client of DR or TUN."""
    states, state = [], sctp.NAMES.index("NONE")
    for packet in story.split():
        direction, _, name = packet.partition(":")
        state = sctp.next_state(DIRECTIONS[direction], event(chunk(name)), state)
        states.append(sctp.NAMES[state])
    return states


# The first two are what running kernels 6.1.176 and 6.1.192 did.
@pytest.mark.parametrize(("story", "states"), [
    ("c:init s:init-ack c:cookie-echo s:cookie-ack c:data c:shutdown s:shutdown-ack c:shutdown-complete",
     "INIT1 C-SENT C-REPLIED ESTABLISHED ESTABLISHED S-RECEIVED S-ACK-SENT CLOSED"),
    ("i:init i:cookie-echo i:data i:shutdown", "INIT1 ESTABLISHED ESTABLISHED S-RECEIVED"),
    ("c:init c:init c:abort", "INIT1 INIT CLOSED"),
    ("c:init s:abort c:init", "INIT1 REJECTED INIT"),
    ("c:init s:init-ack c:cookie-echo s:cookie-ack s:shutdown c:shutdown-ack s:shutdown-complete",
     "INIT1 C-SENT C-REPLIED ESTABLISHED S-SENT CLOSED CLOSED"),
    ("c:init s:init", "INIT1 C-WAIT"),
])
def test_kernel_stories(story, states):
    assert walk(story) == states.split()


@pytest.mark.parametrize(("name", "expected"), [
    ("data", "d"), ("sack", "d"), ("heartbeat", "d"), (5, "d"), (12, "d"), (13, "d"), ("init", "i"), ("init-ack", "ia"),
    ("cookie-echo", "ce"), ("cookie-ack", "ca"), ("shutdown", "s"), ("shutdown-ack", "sa"), ("shutdown-complete", "sc"),
    ("error", "err"), ("abort", "ab"), (15, "d"), (16, "d"), (0x80, "d"), (0xFF, "d")])
def test_the_first_chunk_is_the_event(name, expected):
    assert sctp.EVENT_NAMES[event(chunk(name, b"abc"), chunk("abort"))] == (
        "ab" if name in ("cookie-echo", "cookie-ack") else expected)
    assert sctp.EVENT_NAMES[event(chunk(name, b"abcd"))] == expected


@pytest.mark.parametrize("first", ["cookie-echo", "cookie-ack"])
def test_an_abort_right_behind_a_cookie_wins(first):
    cookie = CHUNKS[first]

    assert event(chunk(first, b"12345"), chunk("abort")) == sctp.EVENT_ABORT
    assert event(chunk(first, b"12345"), chunk("data")) == sctp.CHUNKS[cookie]
    assert event(chunk(first, b"12345"), chunk("data"), chunk("abort")) == sctp.CHUNKS[cookie]
    assert event(chunk(first, b"12345"), chunk("abort")[:3]) == sctp.CHUNKS[cookie]
    assert event(chunk(first, length=3), chunk("abort")) == sctp.CHUNKS[cookie]
    assert event(chunk(first, length=0), chunk("abort")) == sctp.CHUNKS[cookie]
    assert event(chunk(first, length=0xFFFF), chunk("abort")) == sctp.CHUNKS[cookie]


@pytest.mark.parametrize("length", range(12, 16))
def test_a_packet_without_a_whole_chunk_header_is_no_event_and_changes_nothing(length):
    packet = bytearray(HEADER + chunk("init"))[:length]

    assert sctp.event(packet, 0, length) == -1
    for direction in DIRECTIONS.values():
        assert [sctp.next_state(direction, -1, state) for state in range(sctp.STATES)] == list(range(sctp.STATES))


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_make_it_read_outside(content):
    packet = bytearray(HEADER + content)
    happened = sctp.event(packet, 0, len(packet))

    assert -1 <= happened < sctp.EVENTS
    for beyond in (b"\x06", b"\x0a", b"\xff"):
        assert sctp.event(packet + beyond * 70_000, 0, len(packet)) == happened


def test_every_cell_of_the_table_is_where_the_text_has_it():
    rows = [row.split() for row in sctp.TABLE.strip().split("\n")]
    columns = rows[0]
    directions = {"IN": tcp.IN, "OUT": tcp.OUT, "INO": tcp.INPUT_ONLY}

    assert len(rows) == 1 + 3 * sctp.EVENTS
    for direction, name, *cells in rows[1:]:
        happened = sctp.EVENT_NAMES.index(name)
        found = [sctp.next_state(directions[direction], happened, state) for state in range(sctp.STATES)]
        assert [columns[state] for state in found] == cells


def test_timeouts_are_the_kernels():
    assert dict(zip(sctp.NAMES, sctp.TIMEOUTS, strict=True)) == {
        "NONE": 2, "INIT1": 4, "INIT": 61, "C-SENT": 61, "C-REPLIED": 61, "C-WAIT": 61, "COOKIE": 61, "C-ECHOED": 61,
        "ESTABLISHED": 900, "S-SENT": 61, "S-RECEIVED": 61, "S-ACK-SENT": 61, "REJECTED": 4, "CLOSED": 61}


def test_only_established_is_active():
    assert [sctp.NAMES[state] for state in range(sctp.STATES) if sctp.is_active(state)] == ["ESTABLISHED"]
