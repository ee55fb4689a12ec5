"""A packet out of a capture, whatever the capture holds."""
from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils import PcapNgWriter, PcapWriter

from lbq.errors import ConfigError
from lbq.explain.packets import from_capture
from lbq.trace.capture import BEFORE, Capture
from tests.helpers.captures import pcap
from tests.helpers.packets import tcp, udp

SYN = bytes(tcp("192.168.10.9:40000", "192.168.10.1:80", "S"))
HEADER = bytes.fromhex("d4c3b2a1 02000400 00000000 00000000 00000400 65000000")     # of a pcap file of IP packets
SIX = bytes(udp("[2001:db8::9]:40000", "[2001:db8::1]:53", b"hello"))


@pytest.mark.parametrize("writer", [PcapWriter, PcapNgWriter])
def test_the_packet_that_is_named_or_the_first_that_can_be_explained(tmp_path, writer):
    path = str(tmp_path / "capture")
    file = writer(path)
    for frame in (Ether() / ARP(), Ether() / IP(SYN), Ether() / Dot1Q(vlan=7) / IP(SYN), Ether(type=0x86DD) / SIX):
        file.write(frame)
    file.close()
    assert from_capture(path, None) == from_capture(path, 2) == from_capture(path, 3) == SYN
    assert from_capture(path, 4) == SIX
    with pytest.raises(ConfigError, match="is no IP packet"):
        from_capture(path, 1)
    with pytest.raises(ConfigError, match="has no packet 5"):
        from_capture(path, 5)


def test_what_was_not_kept_is_zeros(tmp_path):
    long = bytes(tcp("192.168.10.9:40000", "192.168.10.1:80", "PA", bytes(range(1, 201))))
    with open(tmp_path / "trace", "wb") as file:
        Capture(file).add(BEFORE, 0, long[:60], len(long), "")
    assert from_capture(str(tmp_path / "trace"), None) == long[:60] + bytes(len(long) - 60)


def test_what_the_capture_has_not_kept_of_the_header_is_not_made_up(tmp_path):
    with open(tmp_path / "trace", "wb") as file:
        trace = Capture(file)
        for kept in (20, 33, 40):
            trace.add(BEFORE, 0, SYN[:kept], len(SYN), "")
    path = str(tmp_path / "trace")
    assert from_capture(path, None) == from_capture(path, 3) == SYN
    with pytest.raises(ConfigError, match=r"of packet 2 of .* only 33 bytes were captured, too few"):
        from_capture(path, 2)


@pytest.mark.parametrize("number", [None, 1])
def test_frames_of_another_network_are_not_said_to_be_no_ip(tmp_path, number):
    path = tmp_path / "wlan.pcap"
    path.write_bytes(pcap([(0, bytes(80))], link=105))
    with pytest.raises(ConfigError, match="has link type 105, which lbq does not read"):
        from_capture(str(path), number)


@pytest.mark.parametrize(("content", "what"), [(b"", "no capture"), (b"hello", "no capture"),
                                               (b"\xd4\xc3\xb2\xa1\x02", "cut off.*capture it again"),
                                               (HEADER + b"\x00" * 5, "was not copied whole$"), (None, "no packet in")])
def test_what_is_no_capture_is_a_mistake(tmp_path, content, what):
    path = tmp_path / "capture"
    if content is None:
        file = PcapWriter(str(path))
        file.write(Ether() / ARP())
        file.close()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=what):
        from_capture(str(path), None)
