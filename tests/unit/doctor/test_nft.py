"""Reading the rules of nf_tables as ``nft -j list ruleset`` tells them."""
from __future__ import annotations

import pytest

from lbq.doctor import nft
from lbq.host.firewall import Packet
from lbq.model import AF_INET, TCP

REQUEST = Packet(AF_INET, TCP, None, None, 0xC0A81401, 80, frozenset({"eth0"}), frozenset({"eth1"}))


def match(left: dict, right, op: str = "==") -> dict:
    """Return a condition."""
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str) -> dict:
    return {"payload": {"protocol": protocol, "field": field}}


def ruleset(*rules: list, policy: str = "accept") -> dict:
    """Return a table with a chain for forwarded packets, and one that it may jump to, which drops."""
    base = {"family": "inet", "table": "t", "name": "f", "hook": "forward", "prio": 0, "policy": policy}
    other = {"family": "inet", "table": "t", "name": "other"}
    place = {"family": "inet", "table": "t", "chain": "f"}
    return {"nftables": [{"metainfo": {}}, {"chain": base}, {"chain": other},
                         {"rule": {**place, "chain": "other", "expr": [{"counter": {}}, {"reject": {}}]}},
                         *({"rule": {**place, "expr": rule}} for rule in rules)]}


DROP, ACCEPT = {"drop": None}, {"accept": None}


@pytest.mark.parametrize(("rule", "drops"), [
    ([DROP], True),
    ([match(payload("tcp", "dport"), 80), DROP], True),
    ([match(payload("tcp", "dport"), {"set": [22, {"range": [79, 81]}]}), DROP], True),
    ([match(payload("tcp", "dport"), 80, "!="), DROP], False),
    ([match(payload("udp", "dport"), 80), DROP], False),
    ([match(payload("th", "dport"), 443), DROP], False),
    ([match(payload("ip", "daddr"), {"prefix": {"addr": "192.168.20.0", "len": 24}}), DROP], True),
    ([match(payload("ip", "daddr"), {"range": ["192.168.20.0", "192.168.20.9"]}), DROP], True),
    ([match(payload("ip", "daddr"), "192.168.20.2"), DROP], False),
    ([match(payload("ip", "daddr"), "@blocked"), DROP], False),         # a set: nobody has looked
    ([match(payload("ip", "saddr"), "10.0.0.1"), DROP], False),         # some client
    ([match(payload("ip", "saddr"), "10.0.0.1", "!="), DROP], False),
    ([match({"meta": {"key": "iifname"}}, "eth*"), DROP], True),
    ([match({"meta": {"key": "oifname"}}, "eth9"), DROP], False),
    ([match({"meta": {"key": "l4proto"}}, "tcp"), DROP], True),
    ([match({"meta": {"key": "nfproto"}}, "ipv6"), DROP], False),
    ([match({"meta": {"key": "mark"}}, 1), DROP], False),
    ([match({"ct": {"key": "state"}}, ["established", "related"], "in"), DROP], False),
    ([match({"ct": {"key": "state"}}, ["invalid", "untracked"], "in"), DROP], True),
    ([match("nobody knows", 1), DROP], False),
    ([{"limit": {"rate": 5}}, DROP], False),
    ([{"jump": {"target": "other"}}], True),
    ([{"goto": {"target": "other"}}], True),
    ([{"jump": {"target": "nowhere"}}], False),
])
def test_a_rule_drops_what_it_is_known_to_match(rule, drops):
    why = nft.dropped_by(list(nft.chains_of(ruleset(rule))), "forward", REQUEST)

    assert (why is not None) is drops


def test_a_policy_drops_what_no_rule_accepts():
    chains = list(nft.chains_of(ruleset([match({"ct": {"key": "state"}}, "established"), ACCEPT], policy="drop")))
    assert nft.dropped_by(chains, "forward", REQUEST) == "nft table inet t, chain f: policy drop"

    accepting = list(nft.chains_of(ruleset([match(payload("tcp", "dport"), 80), ACCEPT], policy="drop")))
    assert nft.dropped_by(accepting, "forward", REQUEST) is None
    assert nft.dropped_by(accepting, "prerouting", REQUEST) is None
