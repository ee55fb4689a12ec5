"""The capture that a trace writes, read by a program that is not ours."""
from __future__ import annotations

import io

import dpkt
from scapy.utils import PcapNgReader

from lbq.trace import command
from lbq.trace.capture import AFTER, BEFORE, Capture
from lbq.trace.records import CHANGED, FIELDS, RECORD, decode
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


def test_of_a_long_packet_that_goes_on_the_beginning_is_kept_and_the_length_told():
    whole = bytes(tcp("192.168.10.9:1", "192.168.20.1:80", payload=bytes(1400)))
    values = dict.fromkeys(FIELDS, 0) | {"before": whole[:192], "after": whole[:192], "after_length": 192,
                                             "before_length": 192, "length": len(whole), "what_after": CHANGED,
                                             "rip": bytes(16), "next_hop": bytes(16)}
    (traced,) = decode(RECORD.pack(*(values[name] for name in FIELDS)), ["rewritten"])
    file = io.BytesIO()
    command._keep(Capture(file), traced, 0)
    file.seek(0)

    assert [len(packet) for packet in PcapNgReader(file)] == [192, 192]
    file.seek(0)
    assert [packet.wirelen for packet in PcapNgReader(file)] == [1440, 1440]


def test_an_empty_capture_is_one():
    file = io.BytesIO()
    Capture(file)
    file.seek(0)
    assert list(dpkt.pcapng.Reader(file)) == []
