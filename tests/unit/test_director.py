"""lbq.director: reading a packet, and the queue it borrows.  What it decides is in tests/packets."""
from __future__ import annotations

import sys

import pytest

from lbq.director import Director, Parsed, parse
from lbq.errors import HostError
from lbq.model import TCP, UDP
from tests.helpers import packets
from tests.helpers.packets import address

CLIENT, VIP = "192.168.10.9:40000", "192.168.10.1:80"
ENDS = {"source": address("192.168.10.9"), "source_port": 40000,
        "destination": address("192.168.10.1"), "destination_port": 80}


@pytest.mark.parametrize("ip_options", [b"", b"\x01" * 4, b"\x01" * 40])
def test_a_tcp_segment_is_read(ip_options):
    packet = packets.tcp(CLIENT, VIP, "SA", b"data", ip_options=ip_options)

    assert parse(packet) == Parsed(protocol=TCP, flags=0x12, length=44 + len(ip_options),
                                   header=20 + len(ip_options), **ENDS)


@pytest.mark.parametrize("ip_options", [b"", b"\x01" * 4, b"\x01" * 40])
def test_a_udp_datagram_is_read_and_has_no_flags(ip_options):
    packet = packets.udp(CLIENT, VIP, b"\xff" * 20, ip_options=ip_options)

    assert parse(packet) == Parsed(protocol=UDP, flags=0, length=48 + len(ip_options),
                                   header=20 + len(ip_options), **ENDS)


def test_padding_is_not_part_of_the_packet():
    assert parse(packets.udp(CLIENT, VIP) + b"padding").length == 28


def test_reading_changes_nothing():
    packet = packets.tcp(CLIENT, VIP, "S")
    before = bytes(packet)

    parse(packet)

    assert packet == before


def test_the_queue_needs_the_netfilterqueue_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "netfilterqueue", None)

    with pytest.raises(HostError, match="NetfilterQueue"):
        Director().open_queue(0)


def test_run_is_the_queues():
    class FakeQueue:
        def run(self, wake_fd):
            self.woken_by = wake_fd

    director = Director()
    director.queue = FakeQueue()

    director.run(7)

    assert director.queue.woken_by == 7
