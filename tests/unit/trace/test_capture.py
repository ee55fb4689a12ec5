"""The capture that a trace writes, read by a program that is not ours."""
from __future__ import annotations

import io

import dpkt
from scapy.utils import PcapNgReader

from lbq.trace.capture import AFTER, BEFORE, Capture
from tests.helpers.packets import tcp

NS = 1_000_000_000


def test_other_programs_read_packets_times_and_comments(tmp_path):
    path = tmp_path / "trace.pcapng"
    before, after = bytes(tcp("192.168.10.9:1", "192.168.10.1:80")), bytes(tcp("192.168.10.9:1", "192.168.20.1:80"))
    with open(path, "wb") as file:
        capture = Capture(file)
        capture.add(BEFORE, 1_700_000_000 * NS + 5, before, 1500, "TCP … → rewritten")
        capture.add(AFTER, 1_700_000_000 * NS + 6, after[:37], 37, "")

    first, second = PcapNgReader(str(path))
    assert bytes(first) == before and first.comments[0] == "TCP … → rewritten".encode()
    assert first.wirelen == 1500 and int(first.time * NS) - 1_700_000_000 * NS == 5
    assert bytes(second) == after[:37] and second.sniffed_on == "after"
    with open(path, "rb") as file:
        assert [packet for _, packet in dpkt.pcapng.Reader(file)] == [before, after[:37]]


def test_an_empty_capture_is_one():
    file = io.BytesIO()
    Capture(file)
    file.seek(0)
    assert list(dpkt.pcapng.Reader(file)) == []
