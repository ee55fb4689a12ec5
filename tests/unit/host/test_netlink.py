"""Netlink attributes: what is packed is what is found again."""
from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from lbq.host import netlink

ATTRIBUTES = st.lists(st.tuples(st.integers(1, netlink.ATTRIBUTE_TYPE_MASK), st.binary(max_size=40)))


@given(ATTRIBUTES)
def test_walk_finds_what_was_packed(attributes):
    packed = b"".join(netlink.attribute(kind, value) for kind, value in attributes)

    assert netlink.walk(packed) == attributes
    assert len(packed) % 4 == 0


@given(st.binary(max_size=200))
def test_walk_ends_on_any_bytes(data):
    assert len(netlink.walk(data)) <= len(data) // netlink.ATTRIBUTE.size


def test_flags_of_an_attribute_are_not_its_type():
    packed = netlink.nested(7, netlink.number(1 | netlink.NLA_F_NET_BYTEORDER, 5))

    ((kind, inner),) = netlink.walk(packed)

    assert kind == 7
    assert netlink.walk(inner) == [(1, b"\0\0\0\5")]


def test_asking_for_the_addresses_of_this_host_includes_loopback():
    """No privilege needed, and the answer comes in several messages."""
    from lbq.host.addresses import local_addresses
    from lbq.model import AF_INET

    assert int.from_bytes(socket.inet_aton("127.0.0.1"), "big") in local_addresses(AF_INET)
