"""lbq.modes.dr: one hop more, and nothing else."""
from __future__ import annotations

from lbq.modes import dr
from tests.helpers import packets


def test_only_the_ttl_and_the_header_checksum_change():
    before = packets.tcp("192.168.10.9:40000", "192.168.10.1:80", "PA", b"data", ttl=64, ip_options=b"\x01" * 4)
    after = bytearray(before)

    dr.to_real_server(after)

    assert after[8] == 63
    assert packets.ones_complement_sum(after[:24]) == 0xFFFF
    assert {at for at in range(len(before)) if before[at] != after[at]} <= {8, 10, 11}
