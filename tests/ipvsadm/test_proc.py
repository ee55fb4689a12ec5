"""lbq proc: the kernel's files in /proc/net."""
from __future__ import annotations

import pytest

from lbq import cli
from lbq.show import proc
from lbq.show.ipvs import TRAFFIC
from tests.helpers import transcripts


@pytest.fixture(autouse=True)
def this_director(monkeypatch, director):
    monkeypatch.setattr(cli, "_client", director.connect)


def test_statistics_are_hexadecimal():
    """Recorded from a kernel."""
    total = {"shown": dict(zip(TRAFFIC, (0x18, 0x4A, 0x3C, 0x109A, 0x2554), strict=True)),
             "rates": dict(zip(TRAFFIC, (3, 9, 7, 0x213, 0x4AA), strict=True))}

    assert "\n".join(proc.statistics(total)) == """\
   Total Incoming Outgoing         Incoming         Outgoing
   Conns  Packets  Packets            Bytes            Bytes
      18       4A       3C             109A             2554

 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
       3        9        7              213              4AA"""


def test_services_of_every_kind(director, capsys):
    """Recorded from a kernel, but for the order of services."""
    for line in ("-A -t 1.1.1.1:80 -s mh -b mh-port -p -M 0.0.255.255", "-a -t 1.1.1.1:80 -r 10.0.0.1 -g",
                 "-A -f 9 -6 -s mh -b flag-3,flag-2 -o -p", "-A -u 1.1.1.2:80 -s rr -o", "-A -f 1 -s wlc"):
        assert transcripts.run(director, ["ipvsadm", *line.split()])[2] == 0

    assert cli.main(["proc", "ip_vs"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()[3:]) == [
        "  -> 0A000001:0050      Route   1      0          0         ",
        "FWM  00000001 wlc ", "FWM  00000009 mh ops persistent 36000 80000000",
        "TCP  01010101:0050 mh  persistent 36000 0000FFFF", "UDP  01010102:0050 rr ops  "]


@pytest.mark.parametrize(("name", "first"), [
    ("ip_vs", "IP Virtual Server version 1.2.1 (size=4096)"),
    ("ip_vs_conn", "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData"),
    ("ip_vs_stats", "   Total Incoming Outgoing         Incoming         Outgoing")])
def test_each_file_has_its_headers(capsys, name, first):
    assert cli.main(["proc", name]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first


def test_another_file_is_refused_in_one_line(capsys):
    assert cli.main(["proc", "ip_vs_con"]) == 2
    assert capsys.readouterr().err == (
        "lbq: no file 'ip_vs_con'; did you mean 'ip_vs_conn'?; there are ip_vs, ip_vs_conn, ip_vs_stats\n")
