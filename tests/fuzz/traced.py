"""A trace beside the packets of a case: what it keeps of each is what was decided, and whatever came can be shown."""
from __future__ import annotations

import json
import random

from lbq.model import Verdict
from lbq.outcomes import DROP
from lbq.trace.records import CHANGED, SNAP, Traced, decode, wanted
from tests.helpers.steered import HEADERS

FILTERS = ({"only_new": True}, {"only_drops": True}, {"state": "established"}, {"service": "fwmark:1/6"}, {"every": 3},
           {"service": "udp:192.168.10.1:53"}, {"client": "[2001:db8::9]"}, {"server": "192.168.20.1:80"})


class Watched:
    """An engine of which everything, or what passes some filter, is traced from now on."""

    def __init__(self, choose: random.Random, engine):
        self.engine = engine
        self.words = choose.choice(({}, choose.choice(FILTERS)))
        self.names = engine.trace_start(wanted(**self.words))
        self.conns = 0

    def see(self, content: bytes, verdict: Verdict) -> None:
        """Hold what is told of a packet against what is known of it."""
        records, counters = self.engine.trace_read(64)
        shown = decode(records, self.names)
        for packet in shown:
            assert packet.line() and json.dumps(packet.facts())
        assert counters["lost"] == 0
        conns, self.conns = self.conns, self.engine.statistics()["conns"]
        if not self.words:
            self._compare(shown[-1], content, verdict, self.conns > conns)

    def _compare(self, packet: Traced, content: bytes, verdict: Verdict, is_new: bool) -> None:
        assert packet.length == len(content) and content.startswith(packet.before), packet
        assert len(packet.before) in (len(content), SNAP, HEADERS), packet
        assert not packet.is_dropped() or verdict.action == DROP, packet
        assert packet.is_new or not is_new, packet
        assert (packet.what_after == CHANGED or packet.steer > 0) == verdict.changed, packet
