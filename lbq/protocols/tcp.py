"""TCP as a director sees it: the state table of kernel IPVS, as data.

A director sees packets, not sequence numbers.  From each it takes one *event*, the first of RST, SYN,
FIN, ACK that is set, and the *direction*; the table says the next state.  No flag at all means CLOSE.
The three directions are IN (client to server), OUT (server to client), and INPUT_ONLY for connections
whose replies do not pass the director (DR and TUN).

With sysctl secure_tcp on, a second table applies: a SYN flood must not get connections that live for 900 s,
so ESTABLISHED needs an answer of the server (NAT), or a second packet of the client (DR and TUN).

Kernel: ip_vs_proto_tcp.c, tcp_states[], tcp_timeouts[], tcp_state_active_table[].
"""
from __future__ import annotations

import cython

if not cython.compiled:             # compiled, these numbers and arrays are C, in tcp.pxd
    NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT = range(6)
    CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK = range(6, 11)
    IN, OUT, INPUT_ONLY = range(3)
    EVENT_SYN, EVENT_FIN, EVENT_ACK, EVENT_RST, EVENT_NONE = range(5)
    FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10                     # header bits
    EVENTS = 4
    STATES = 11
    SECURE = 3 * EVENTS * STATES                                    # where the second table begins
    NEXT = [0] * (2 * SECURE)
    ACTIVE = [0] * STATES

NAMES = ("NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
         "LAST_ACK", "LISTEN", "SYNACK")
SHORT = ("NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA")
TIMEOUTS = (2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120)    # seconds, by state
ACTIVE_STATES = (ESTABLISHED, SYN_SENT, SYN_RECV, SYNACK)       # what wlc counts as active

TABLE = """
          NO ES SS SR FW TW CL CW LA LI SA
IN  syn   SR ES ES SR SR SR SR SR SR SR SR
IN  fin   CL CW SS TW TW TW CL CW LA LI TW
IN  ack   ES ES SS ES FW TW CL CW CL LI ES
IN  rst   CL CL CL SR CL CL CL CL LA LI SR
OUT syn   SS ES SS SR SS SS SS SS SS LI SR
OUT fin   TW FW SS TW FW TW CL TW LA LI TW
OUT ack   ES ES SS ES FW TW CL CW LA ES ES
OUT rst   CL CL SS CL CL TW CL CL CL CL CL
INO syn   SR ES ES SR SR SR SR SR SR SR SR
INO fin   CL FW SS TW FW TW CL CW LA LI TW
INO ack   ES ES SS ES FW TW CL CW CL LI ES
INO rst   CL CL CL SR CL CL CL CL LA LI CL
"""
SECURE_TABLE = """
          NO ES SS SR FW TW CL CW LA LI SA
IN  syn   SR ES ES SR SR SR SR SR SR SR SA
IN  fin   CL CW SS TW TW TW CL CW LA LI SA
IN  ack   ES ES SS SR FW TW CL CW CL LI SA
IN  rst   CL CL CL SR CL CL CL CL LA LI CL
OUT syn   SS ES SS SA SS SS SS SS SS LI SA
OUT fin   TW FW SS TW FW TW CL TW LA LI TW
OUT ack   ES ES SS ES FW TW CL CW LA ES ES
OUT rst   CL CL SS CL CL TW CL CL CL CL CL
INO syn   SA ES ES SR SA SA SA SA SA SA SA
INO fin   CL FW SS TW FW TW CL CW LA LI TW
INO ack   ES ES SS ES FW TW CL CW CL LI ES
INO rst   CL CL CL SR CL CL CL CL LA LI CL
"""


def _fill() -> None:
    cells = [SHORT.index(cell) for table in (TABLE, SECURE_TABLE)
             for row in table.split("\n")[2:-1] for cell in row.split()[2:]]
    for i, cell in enumerate(cells):
        NEXT[i] = cell
    for state in ACTIVE_STATES:
        ACTIVE[state] = 1


_fill()


def event(flags: int) -> int:
    """Return the event that a segment with header *flags* stands for."""
    if flags & RST:
        return EVENT_RST
    if flags & SYN:
        return EVENT_SYN
    if flags & FIN:
        return EVENT_FIN
    if flags & ACK:
        return EVENT_ACK
    return EVENT_NONE


def next_state(direction: int, flags: int, state: int, secure: bool = False) -> int:
    """Return the state after a segment with header *flags* went in *direction*; *secure* is sysctl secure_tcp."""
    happened = event(flags)
    if happened == EVENT_NONE:
        return CLOSE
    return NEXT[(SECURE if secure else 0) + (direction * EVENTS + happened) * STATES + state]


def is_active(state: int) -> bool:
    """Return True when a connection in *state* counts as active."""
    return ACTIVE[state] != 0


def opens(flags: int) -> bool:
    """Return True when a segment with *flags* may start a connection: SYN without RST."""
    return flags & (SYN | RST) == SYN
