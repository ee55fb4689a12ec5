"""lbq.protocols.udp: one state."""
from __future__ import annotations

from lbq.protocols import udp


def test_one_state_of_five_minutes():
    assert udp.NAMES[udp.NORMAL] == "UDP"
    assert udp.TIMEOUTS[udp.NORMAL] == 300
