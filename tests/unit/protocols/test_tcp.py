"""lbq.protocols.tcp: the state table and what follows from it."""
from __future__ import annotations

import itertools

import pytest

from lbq.protocols import tcp

BITS = {"F": tcp.FIN, "S": tcp.SYN, "R": tcp.RST, "A": tcp.ACK, "P": 0x08, "U": 0x20}
DIRECTIONS = {"c": tcp.IN, "s": tcp.OUT, "i": tcp.INPUT_ONLY}


def bits(letters: str) -> int:
    """Return the header bits of ``SA``; ``-`` is none."""
    return sum(BITS[letter] for letter in letters if letter != "-")


def walk(story: str, state: int = tcp.NONE, secure: bool = False) -> list[str]:
    """Return the states after each segment of ``c:S s:SA c:A``: c client, s server, i client of DR or TUN."""
    states = []
    for segment in story.split():
        direction, _, letters = segment.partition(":")
        state = tcp.next_state(DIRECTIONS[direction], bits(letters), state, secure)
        states.append(tcp.NAMES[state])
    return states


# What running kernels 6.1.176 and 6.1.192 did.
@pytest.mark.parametrize(("story", "states"), [
    ("c:S s:SA c:A", "SYN_RECV SYN_RECV ESTABLISHED"),
    ("c:S s:SA c:A c:FA s:FA c:A", "SYN_RECV SYN_RECV ESTABLISHED CLOSE_WAIT TIME_WAIT TIME_WAIT"),
    ("c:S s:SA c:A s:FA c:FA s:A", "SYN_RECV SYN_RECV ESTABLISHED FIN_WAIT TIME_WAIT TIME_WAIT"),
    ("c:S c:R", "SYN_RECV SYN_RECV"),
    ("c:S c:A c:R", "SYN_RECV ESTABLISHED CLOSE"),
    ("c:S c:A s:RA", "SYN_RECV ESTABLISHED CLOSE"),
    ("c:S c:FA", "SYN_RECV TIME_WAIT"),
    ("c:SA c:A", "SYN_RECV ESTABLISHED"),
    ("c:S c:A c:-", "SYN_RECV ESTABLISHED CLOSE"),
    ("c:S c:A c:S", "SYN_RECV ESTABLISHED ESTABLISHED"),
    ("c:S c:A c:SFA c:SR", "SYN_RECV ESTABLISHED ESTABLISHED CLOSE"),
    ("i:S i:A i:FA i:A", "SYN_RECV ESTABLISHED FIN_WAIT FIN_WAIT"),
    ("i:S i:A i:R", "SYN_RECV ESTABLISHED CLOSE"),
    ("i:S i:FA", "SYN_RECV TIME_WAIT"),
    ("i:S i:A i:S", "SYN_RECV ESTABLISHED ESTABLISHED"),
    ("i:S s:SA c:A c:FA s:FA", "SYN_RECV SYN_RECV ESTABLISHED CLOSE_WAIT TIME_WAIT"),
    ("i:S s:SA c:A s:FA c:FA", "SYN_RECV SYN_RECV ESTABLISHED FIN_WAIT TIME_WAIT"),
])
def test_kernel_stories(story, states):
    assert walk(story) == states.split()


# A SYN that is not scheduled afresh starts the same connection again.
@pytest.mark.parametrize("state", ["CLOSE", "CLOSE_WAIT", "FIN_WAIT", "TIME_WAIT"])
def test_a_syn_in_a_finished_connection_means_syn_recv(state):
    assert walk("c:S", tcp.NAMES.index(state)) == ["SYN_RECV"]


def test_reset_wins_over_syn_over_fin_over_ack():
    for letters in itertools.product(*(["", letter] for letter in "FSRAPU")):
        flags = bits("".join(letters))
        named = ["R", "S", "F", "A"]
        first = next((name for name in named if flags & BITS[name]), None)
        for direction, state in itertools.product((tcp.IN, tcp.OUT, tcp.INPUT_ONLY), range(tcp.STATES)):
            expected = tcp.next_state(direction, BITS[first], state) if first else tcp.CLOSE
            assert tcp.next_state(direction, flags, state) == expected


def test_push_and_urgent_alone_are_no_event():
    assert walk("c:PU", tcp.ESTABLISHED) == ["CLOSE"]


def test_active_states_are_the_four_of_the_kernel():
    active = {tcp.NAMES[state] for state in range(tcp.STATES) if tcp.is_active(state)}

    assert active == {"ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"}


def test_timeouts_are_the_kernels():
    assert dict(zip(tcp.NAMES, tcp.TIMEOUTS, strict=True)) == {
        "NONE": 2, "ESTABLISHED": 900, "SYN_SENT": 120, "SYN_RECV": 60, "FIN_WAIT": 120, "TIME_WAIT": 120,
        "CLOSE": 10, "CLOSE_WAIT": 60, "LAST_ACK": 30, "LISTEN": 120, "SYNACK": 120}


# tcp_states[] of ip_vs_proto_tcp.c, typed a second time: one row per direction and event, one letter
# pair per state in the order of NAMES.
ROWS = {
    (tcp.IN, "S"): "SRESESSRSRSRSRSRSRSRSR", (tcp.IN, "F"): "CLCWSSTWTWTWCLCWLALITW",
    (tcp.IN, "A"): "ESESSSESFWTWCLCWCLLIES", (tcp.IN, "R"): "CLCLCLSRCLCLCLCLLALISR",
    (tcp.OUT, "S"): "SSESSSSRSSSSSSSSSSLISR", (tcp.OUT, "F"): "TWFWSSTWFWTWCLTWLALITW",
    (tcp.OUT, "A"): "ESESSSESFWTWCLCWLAESES", (tcp.OUT, "R"): "CLCLSSCLCLTWCLCLCLCLCL",
    (tcp.INPUT_ONLY, "S"): "SRESESSRSRSRSRSRSRSRSR", (tcp.INPUT_ONLY, "F"): "CLFWSSTWFWTWCLCWLALITW",
    (tcp.INPUT_ONLY, "A"): "ESESSSESFWTWCLCWCLLIES", (tcp.INPUT_ONLY, "R"): "CLCLCLSRCLCLCLCLLALICL",
}


@pytest.mark.parametrize(("row", "cells"), ROWS.items())
def test_every_cell_of_the_table(row, cells):
    direction, letter = row
    expected = [tcp.SHORT.index(cells[at:at + 2]) for at in range(0, len(cells), 2)]

    assert [tcp.next_state(direction, BITS[letter], state) for state in range(tcp.STATES)] == expected


@pytest.mark.parametrize(("letters", "answer"), [("S", True), ("SA", True), ("SF", True), ("SR", False),
                                                 ("R", False), ("A", False), ("FA", False), ("-", False)])
def test_what_opens_a_connection(letters, answer):
    assert bool(tcp.opens(bits(letters))) is answer


# ---- secure_tcp ----------------------------------------------------------------------------------------


# What running kernels 6.1.176 and 6.1.192 did.
@pytest.mark.parametrize(("story", "states"), [
    ("c:S s:SA c:A s:A", "SYN_RECV SYNACK SYNACK ESTABLISHED"),
    ("i:S i:A", "SYNACK ESTABLISHED"),
])
def test_kernel_stories_with_secure_tcp(story, states):
    assert walk(story, secure=True) == states.split()


# The rows of tcp_states_dos[] that differ from tcp_states[]; all others are the same.
SECURE_ROWS = {
    (tcp.IN, "S"): "SRESESSRSRSRSRSRSRSRSA", (tcp.IN, "F"): "CLCWSSTWTWTWCLCWLALISA",
    (tcp.IN, "A"): "ESESSSSRFWTWCLCWCLLISA", (tcp.IN, "R"): "CLCLCLSRCLCLCLCLLALICL",
    (tcp.OUT, "S"): "SSESSSSASSSSSSSSSSLISA", (tcp.INPUT_ONLY, "S"): "SAESESSRSASASASASASASA",
}


@pytest.mark.parametrize(("row", "cells"), {**ROWS, **SECURE_ROWS}.items())
def test_every_cell_of_the_secure_table(row, cells):
    direction, letter = row
    expected = [tcp.SHORT.index(cells[at:at + 2]) for at in range(0, len(cells), 2)]

    assert [tcp.next_state(direction, BITS[letter], state, True) for state in range(tcp.STATES)] == expected


def test_no_flags_mean_close_with_secure_tcp_too():
    assert walk("c:-", tcp.ESTABLISHED, secure=True) == ["CLOSE"]
