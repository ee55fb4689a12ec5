"""SCTP as a director sees it: the state table of kernel IPVS, as data.

The event is the type of a packet's first chunk (and of the second, when a COOKIE chunk is followed by an ABORT).
Directions are those of ``tcp.py``.

Kernel: ip_vs_proto_sctp.c, sctp_states[], sctp_timeouts[], sctp_events[]; chunk types: RFC 9260, 3.2.
"""
from __future__ import annotations

import cython

from lbq import packet as pkt

NONE, INIT1, INIT, COOKIE_SENT, COOKIE_REPLIED, COOKIE_WAIT, COOKIE, COOKIE_ECHOED = range(8)
ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECEIVED, SHUTDOWN_ACK_SENT, REJECTED, CLOSED = range(8, 14)
NAMES = ("NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED", "ESTABLISHED", "S-SENT",
         "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED")
SHORT = ("NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL")
TIMEOUTS = (2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61)       # seconds, by state
EVENT_NAMES = ("d", "i", "ia", "ce", "ca", "s", "sa", "sc", "err", "ab")
(EVENT_DATA, EVENT_INIT, EVENT_INIT_ACK, EVENT_COOKIE_ECHO, EVENT_COOKIE_ACK, EVENT_SHUTDOWN, EVENT_SHUTDOWN_ACK,
 EVENT_SHUTDOWN_COMPLETE, EVENT_ERROR, EVENT_ABORT) = range(10)
CHUNKS = {1: EVENT_INIT, 2: EVENT_INIT_ACK, 6: EVENT_ABORT, 7: EVENT_SHUTDOWN, 8: EVENT_SHUTDOWN_ACK, 9: EVENT_ERROR,
          10: EVENT_COOKIE_ECHO, 11: EVENT_COOKIE_ACK, 14: EVENT_SHUTDOWN_COMPLETE}      # all others are data
HEADER = 12
CHUNK_HEADER = 4
ABORT = 6
COOKIE_ECHO = 10
COOKIE_ACK = 11
KINDS = 16

TABLE = """
          NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL
IN  d     ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
IN  i     I1 IN IN CS CR CW CO CE ES SS SR SA IN IN
IN  ia    CW CW CW CS CR CO CO CE ES SS SR SA RJ CL
IN  ce    CR IN IN CR CR CW CO CE ES SS SR SA RJ CL
IN  ca    ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL
IN  s     SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
IN  sa    CL IN IN CS CR CW CO CE ES CL SR CL RJ CL
IN  sc    CL CL CL CS CR CW CO CE ES SS SR CL RJ CL
IN  err   CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL
IN  ab    CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
OUT d     ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
OUT i     CW CW CW CW CW CW CW CW ES CW CW CW CW CW
OUT ia    CS CS CS CS CR CW CO CE ES SS SR SA RJ CL
OUT ce    CE CE CE CE CE CE CE CE ES SS SR SA RJ CL
OUT ca    ES ES ES ES ES ES ES ES ES SS SR SA RJ CL
OUT s     SS SS SS SS SS SS SS SS SS SS SR SA RJ CL
OUT sa    SA SA SA SA SA CW CO CE ES SA SA SA RJ CL
OUT sc    CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
OUT err   CL CL CL CL CL CW CO CE ES SS SR SA RJ CL
OUT ab    CL RJ CL CL CL CL CL CL CL CL CL CL CL CL
INO d     ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL
INO i     I1 IN IN IN IN IN CO CE ES SS SR SA IN IN
INO ia    CE CE CE CE CE CE CO CE ES SS SR SA RJ CL
INO ce    ES ES ES ES ES ES CO CE ES SS SR SA RJ CL
INO ca    ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL
INO s     SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
INO sa    CL IN IN CS CR CW CO CE CL CL SR CL RJ CL
INO sc    CL CL CL CL CL CW CO CE ES SS CL CL RJ CL
INO err   CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
INO ab    CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
"""
EVENTS = 10
STATES = 14

if cython.compiled:         # numbers with a C type are invisible to Python code; these are its copies
    globals().update(
        EVENT_DATA=EVENT_DATA, EVENT_INIT=EVENT_INIT, EVENT_ABORT=EVENT_ABORT, ESTABLISHED=ESTABLISHED,
        CLOSED=CLOSED, INIT=INIT, INIT1=INIT1, STATES=STATES, EVENTS=EVENTS)
else:                       # the compiled module declares these two as C arrays in sctp.pxd
    NEXT = [0] * (3 * EVENTS * STATES)
    EVENT_OF = [0] * KINDS


def _fill() -> None:
    cells = [SHORT.index(cell) for row in TABLE.split("\n")[2:-1] for cell in row.split()[2:]]
    for i, cell in enumerate(cells):
        NEXT[i] = cell
    for kind, happened in CHUNKS.items():
        EVENT_OF[kind] = happened


_fill()


def event(packet, at: int, end: int) -> int:
    """Return the event that an SCTP packet in [*at*, *end*) stands for, -1 when no chunk is there."""
    at += HEADER
    if at + CHUNK_HEADER > end:
        return -1
    kind = packet[at]
    if kind in (COOKIE_ECHO, COOKIE_ACK):
        size = pkt.get16(packet, at + 2)
        following = at + ((size + 3) & ~3)
        if size >= CHUNK_HEADER and following + CHUNK_HEADER <= end and packet[following] == ABORT:
            return EVENT_ABORT
    return EVENT_OF[kind] if kind < KINDS else EVENT_DATA


def next_state(direction: int, happened: int, state: int) -> int:
    """Return the state after a packet with this event went in *direction*; one without a chunk (-1) changes nothing."""
    if happened < 0:
        return state
    return NEXT[(direction * EVENTS + happened) * STATES + state]


def is_active(state: int) -> bool:
    """Return True when a connection in *state* counts as active."""
    return state == ESTABLISHED
