"""What the end of a tunnel lets in: packets for a VIP, out of whatever they travelled in."""
from __future__ import annotations

import pytest

from lbq.decap import read_inner, why_not
from lbq.grammar import parse_address
from lbq.model import AF_INET, AF_INET6

VIP, VIP6 = parse_address("192.0.2.1"), parse_address("2001:db8::1")
INNER = bytes.fromhex("4500001c") + bytes(12) + VIP[0].to_bytes(4) + b"payload!"
INNER6 = bytes.fromhex("60000000" "0008" "1140") + bytes(16) + VIP6[0].to_bytes(16) + b"payload!"
OUTER = bytes.fromhex("46") + bytes(23)         # an IPv4 header with an option; a raw IPv6 socket shows none
GRE, GRE6 = bytes.fromhex("00000800"), bytes.fromhex("000086dd")
GUE, GUE6 = bytes.fromhex("00040000"), bytes.fromhex("00290000")

TUNNELS = [
    ("ipip", AF_INET, OUTER, b""), ("ipip", AF_INET6, b"", b""),
    ("gre", AF_INET, OUTER, GRE), ("gre", AF_INET6, b"", GRE6),
    ("gre", AF_INET6, b"", bytes.fromhex("b00086dd") + bytes(12)),
    ("gue", AF_INET, b"", GUE), ("gue", AF_INET6, b"", GUE6),
    ("gue", AF_INET6, b"", bytes.fromhex("01290000") + bytes(4)),
]


@pytest.mark.parametrize("inner", [INNER, INNER6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("kind", "family", "outer", "between"), TUNNELS)
def test_either_family_comes_out_of_every_tunnel_over_either(kind, family, outer, between, inner):
    found = read_inner(outer + between + inner, kind, family)

    assert found == inner
    assert why_not(found, {VIP, VIP6}) is None


@pytest.mark.parametrize(("inner", "vips", "reason"), [
    (INNER, {VIP6}, "not for a VIP"), (INNER6, {VIP}, "not for a VIP"),
    (INNER, {(VIP[0], AF_INET6)}, "not for a VIP"),
    (INNER[:27], {VIP}, "no IP packet inside"), (INNER6[:47], {VIP6}, "no IP packet inside"),
    (INNER6[:39], {VIP6}, "no IP packet inside"), (b"", {VIP}, "no IP packet inside"),
    (b"\x45\0\0\x0c" + INNER[4:], {VIP}, "no IP packet inside"), (b"\x50" + INNER[1:], {VIP}, "no IP packet inside"),
])
def test_what_is_not_for_a_vip_or_not_whole_stays_out(inner, vips, reason):
    assert why_not(inner, vips) == reason


@pytest.mark.parametrize(("kind", "header"), [
    ("gre", "00000806"), ("gre", "40000800"), ("gre", "00010800"), ("gre", "0000"),
    ("gue", "20040000"), ("gue", "00060000"), ("gue", "00"), ("gue", "1f040000"),
])
def test_what_is_no_data_of_ours_has_nothing_inside(kind, header):
    assert why_not(read_inner(bytes.fromhex(header), kind, AF_INET6), {VIP, VIP6}) == "no IP packet inside"


@pytest.mark.parametrize("kind", ["ipip", "gre", "gue"])
def test_nothing_comes_out_of_nothing(kind):
    assert {read_inner(b"", kind, family) for family in (AF_INET, AF_INET6)} == {b""}
