"""The state diagrams show the tables that the engines use."""
from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
import state_pages
from state_pages import DIRECTIONS, TABLES, changes, reachable, rows

from lbq.protocols import sctp, tcp

SVG = "{http://www.w3.org/2000/svg}"
FLAGS = {"syn": tcp.SYN, "fin": tcp.FIN, "ack": tcp.ACK, "rst": tcp.RST}


@pytest.mark.parametrize(("title", "text"), [(title, text) for title, _, protocol, text in TABLES if protocol is tcp])
def test_tcp_is_what_the_engines_make_of_a_segment(title, text):
    for row in rows(text, tcp):
        assert row.cells == [tcp.NAMES[tcp.next_state(list(DIRECTIONS).index(row.direction), FLAGS[row.event], state,
                                                      "secure" in title)] for state in range(len(tcp.NAMES))]


def test_sctp_is_what_the_engines_make_of_a_chunk():
    for row in rows(sctp.TABLE, sctp):
        happened = sctp.EVENT_NAMES.index(row.event)
        assert row.cells == [sctp.NAMES[sctp.next_state(list(DIRECTIONS).index(row.direction), happened, state)]
                             for state in range(len(sctp.NAMES))]


def test_a_known_way_is_drawn():
    its = rows(tcp.TABLE, tcp)
    assert changes(its, tcp.NAMES, "IN")["NONE", "SYN_RECV"] == "syn"
    assert changes(its, tcp.NAMES, "IN")["NONE", "CLOSE"] == "fin rst"
    assert changes(its, tcp.NAMES, "OUT")["CLOSE_WAIT", "TIME_WAIT"] == "fin"
    assert ("ESTABLISHED", "ESTABLISHED") not in changes(its, tcp.NAMES, "IN")
    assert "LAST_ACK" not in reachable(its, tcp.NAMES, ("IN", "OUT"))       # the kernel's table never leads there


def test_every_change_has_an_arrow_and_a_label_inside_its_picture():
    files = state_pages.pages()
    for title, name, protocol, text in TABLES:
        for direction in DIRECTIONS:
            picture = ElementTree.fromstring(files[f"states/{name}-{direction.lower()}.svg"])
            wanted = changes(rows(text, protocol), protocol.NAMES, direction)
            labels = [found for found in picture.iter(f"{SVG}text") if found.get("paint-order")]
            assert len(picture.findall(f"{SVG}path")) == len(wanted), title
            assert sorted(label.text for label in labels) == sorted(wanted.values())
            _, _, width, height = (float(number) for number in picture.get("viewBox").split())
            assert all(0 < float(label.get("x")) < width and 0 < float(label.get("y")) < height for label in labels)
