"""The words of `lbq explain`: each mistake is one line, and none is passed over in silence."""
from __future__ import annotations

import json

import pytest

from lbq import cli

RULES = "-A -t 192.168.10.1:80 -s rr\n-a -t 192.168.10.1:80 -r 192.168.20.1:80 -m -w 1\n"
ENDS = ("--from", "192.168.10.9:40000", "--to", "192.168.10.1:80")


@pytest.fixture
def rules(tmp_path) -> str:
    path = tmp_path / "rules"
    path.write_text(RULES)
    return str(path)


@pytest.mark.parametrize(("words", "told"), [
    ((), "say which packet"), (ENDS[:2], "say which packet"), ((*ENDS, "--packet", "3"), "say --pcap FILE, too"),
    (("--pcap", "x", "--flags", "A"), "--pcap is what it is"), (("--pcap", "x", *ENDS), "--pcap is what it is"),
    ((*ENDS, "--proto", "udp", "--flags", "S"), "a packet of udp has none"), ((*ENDS, "--proto", "icmp"), "there are"),
    ((*ENDS, "--payload", ""), "--payload ''"), ((*ENDS, "--proto", "sctp", "--flags", ""), "no SCTP chunk"),
    ((*ENDS, "--flags", "X"), "no TCP flags"), ((*ENDS, "--payload", "70000"), "--payload"),
    (("--pcap", "x", "--packet", ""), "--packet ''"), ((*ENDS, "--mark", "0x1"), "--mark '0x1'"),
    (("--from", "[2001:db8::1]:1", *ENDS[2:]), "not of one address family"), (("--pcap", "/nowhere"), "cannot read"),
])
def test_a_mistake_is_one_line(rules, capsys, words, told):
    assert cli.main(["explain", "--config", rules, *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and told in said.err


def test_a_running_director_has_a_profile_of_its_own(capsys):
    assert cli.main(["explain", *ENDS, "--kernel-profile", "classic"]) == 2
    assert "--kernel-profile is for --config" in capsys.readouterr().err


def test_what_is_left_away_is_a_syn(rules, capsys):
    assert cli.main(["explain", "--config", rules, "--json", *ENDS]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["packet"]["fields"]["flags"], said["packet"]["fields"]["length"]) == ("SYN", 40)
    assert said["outcome"] == "rewritten" and said["ways"] == []
    assert cli.main(["explain", "--config", rules, "--json", *ENDS, "--flags", ""]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "passed_not_opening"      # a segment without any
    for protocol in ("udp", "sctp"):
        assert cli.main(["explain", "--config", rules, "--json", "--proto", protocol, *ENDS]) == 0
        assert json.loads(capsys.readouterr().out)["outcome"] == "passed_no_service"
