"""A packet's fields, what changed, and the arithmetic of checksums, against packets made without lbq's own."""
from __future__ import annotations

import pytest

from lbq.explain import fields, packets, words
from lbq.explain.show import packet_line
from lbq.model import AF_INET, AF_INET6, SCTP, TCP, UDP
from lbq.outcomes import DROPPED, PASSED
from tests.helpers.packets import endpoint, read, tcp, udp


def test_every_outcome_has_a_meaning():
    assert set(words.MEANING) == {"rewritten", "forwarded", *(f"passed_{name}" for name in PASSED),
                                  *(f"dropped_{name}" for name in DROPPED)}


@pytest.mark.parametrize(("source", "target"), [("192.168.10.9:40000", "192.168.10.1:80"),
                                                ("[2001:db8::9]:40000", "[2001:db8::1]:80")])
@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
@pytest.mark.parametrize("payload", [0, 5, 1400])
def test_a_described_packet_is_a_right_one(source, target, protocol, payload):
    family = AF_INET6 if source.startswith("[") else AF_INET
    packet = packets.build(protocol, endpoint(source), endpoint(target), family, "S", payload)
    if protocol != SCTP:
        found = read(packet)
        assert (found.source, found.destination) == (source, target) and found.checksums_right
    said = fields.fields(packet)
    assert (said["source port"], said["destination port"], said["length"]) == (40000, 80, len(packet))


@pytest.mark.parametrize("make", [lambda *ends: tcp(*ends, "PA", b"hello"), lambda *ends: udp(*ends, b"odd")])
@pytest.mark.parametrize("ends", [(("192.168.10.9:40000", "192.168.10.1:80"), ("192.168.10.9:40000", "10.1.2.3:8080")),
                                  (("[2001:db8::9]:40000", "[2001:db8::1]:80"),
                                   ("[2001:db8::9]:40000", "[2001:db8:1::2]:8080"))])
def test_the_arithmetic_comes_to_the_checksum_that_is_there(make, ends):
    before, after = make(*ends[0]), make(*ends[1])
    steps = fields.arithmetic(before, after)
    assert len(steps) == (2 if before[0] >> 4 == 4 else 1)
    for step in steps:
        assert step["computed"] == step["after"] != step["before"] and step["words"]
    changed = [change["field"] for change in fields.changes(before, after)]
    assert {"destination", "destination port"} <= set(changed)
    assert not {"source", "source port", "protocol"} & set(changed)


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(20), b"\x60" + bytes(39), b"\x45" + bytes(19), b"\xff" * 60,
                                    b"\x4f" + bytes(30), b"\x60" + bytes(5) + b"\x06" + bytes(33)])
def test_any_bytes_have_fields(packet):
    assert packet_line({"fields": fields.fields(packet)}).endswith(f"{len(packet)} bytes")
