"""A capture that several tests play."""
from __future__ import annotations

import pytest

from tests.helpers.captures import connection, in_order, pcap, question, write

VIP = "192.168.10.1:80"


@pytest.fixture
def web(tmp_path) -> str:
    """Return a capture of eight web connections and a question to a name server."""
    flows = [connection(f"10.0.0.{number}:4000", VIP, number, number + 2) for number in range(8)]
    return write(tmp_path / "web.pcap", pcap(in_order(*flows, question("10.0.0.9:1", "192.168.10.1:53", 3, 4))))
