"""The command: what it prints, and that every mistake is one line."""
from __future__ import annotations

import io
import json
import sys

import pytest

from lbq import cli, replay
from lbq.bench import plot as charts
from lbq.bench.machine import Missing
from lbq.replay import table
from lbq.replay.bar import Bar
from tests.helpers.captures import connection, csv, in_order, pcap, pcapng, question, write
from tests.helpers.packets import ipv4, tcp

VIP = "192.168.10.1:80"


def run(capsys, *words: str) -> str:
    """Return what ``lbq replay WORDS`` prints."""
    assert cli.main(["replay", *words]) == 0
    return capsys.readouterr().out


def mistake(capsys, *words: str) -> str:
    """Return the line that ``lbq replay WORDS`` ends with."""
    assert cli.main(["replay", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("lbq: ")
    return err[5:-1]


def test_the_tables(capsys, web):
    """By hand: B gets 6 flows of 8, where 1 of the first 4 and all of the others were due: 6/5.

    In progress are, until 3.5 s, 2.5 flow seconds at A and 3.5 at B, where 1.5 are due, and 1.5 and 8.5 later:
    (2.33 · 6 + 0.85 · 10) / 16 = 1.41.
    """
    assert run(capsys, web, "--scheduler", "rr,lc", "--servers", "10.1.0.1,weight=3", "10.1.0.2:8080",
               "--change", "t=3.5 del A", "--slices", "1") == f"""\
{web}: 8 flows to tcp:192.168.10.1:80 (the busiest of 2 destinations), 48 packets in 9.0 s; servers reached by nat
not played: packets that are 2 not to or from the service
servers: A 10.1.0.1:80 (weight 3)  B 10.1.0.2:8080
change: t=3.5 del A

share of new flows, %; and what the worst server got, ÷ what its weight is due: of new flows, of flows in progress
scheduler     A     B    new  in progress
rr         25.0  75.0  ×1.20        ×1.41
lc         25.0  75.0  ×1.20        ×1.41

flows in progress: most at a time, and for 99 % of the time no more than
scheduler    A    B  refused
rr         1/1  2/2        0
lc         1/1  2/2        0

the changes: flows in progress that went on at another server (moved) or lost theirs (cut);
flows that began later, how many of them went elsewhere than without the changes, and how many of these had to
scheduler  moved  cut  later  elsewhere  had to
rr             0    1      4          2       2
lc             0    1      4          2       2
"""


def test_a_chart_in_the_terminal(capsys, web):
    out = run(capsys, web, "--scheduler", "rr", "--servers", "2", "--slices", "3", "--terminal", "--change",
              "t=4.5 weight A 0")

    assert out.endswith(f"""
rr: to whom new flows went, over time
        t       new  in progress
      0.0         3          1.7  {"A" * 20 + "B" * 40}
      3.0         2          2.0  {"A" * 30 + "B" * 30}
      4.5  weight A 0
      4.5         1          2.0  {"B" * 60}
      6.0         2          1.7  {"B" * 60}
""")


def test_json_has_everything_over_time(capsys, web):
    told = json.loads(run(capsys, web, "--json", "--scheduler", "rr", "--servers", "2", "--slices", "2"))

    assert told["service"] == "tcp:192.168.10.1:80" and told["service_was"] == "busiest" and told["destinations"] == 2
    assert told["flows"] == 8 and told["packets"] == 48 and told["ignored"] == {"elsewhere": 2}
    assert told["servers"][1] == {"name": "B", "address": "198.51.100.2", "port": 80, "weight": 1, "mode": "nat",
                                  "added": False}
    rr, = told["schedulers"]
    assert rr["imbalance_flows"] == 1.0 and "displaced" not in rr
    assert rr["servers"][0] == {"name": "A", "flows": 4, "share": 0.5, "packets": 24, "bytes": 960, "peak": 1, "p99": 1}
    assert [(piece["t"], piece["seconds"], piece["flows"]) for piece in rr["over_time"]] == [
        (0, 4.5, [2, 3]), (4.5, 4.5, [2, 1])]
    assert rr["over_time"][0]["in_progress"] == pytest.approx([(2 + 1.5) / 4.5, (2 + 2 + 0.5) / 4.5])


def test_all_schedulers_by_default(capsys, web):
    out = run(capsys, web)

    assert [line.split()[0] for line in out.splitlines()[5:20]] == ["scheduler", *replay.ALL]
    assert "none" not in replay.ALL and len(replay.ALL) == 14


def test_a_service_that_is_said(capsys, web):
    assert "1 flows to udp:192.168.10.1:53, 2 packets in 1.0 s" in run(
        capsys, web, "--service", "udp:192.168.10.1:53", "--scheduler", "rr")


def test_a_service_of_every_port_and_servers_of_the_other_ip_version(capsys, web):
    told = run(capsys, web, "--service", "192.168.10.1:0", "--persistent", "60", "--scheduler", "rr", "--mode", "tun",
               "--servers", "10.0.0.1", "[2001:db8::2]")

    assert "8 flows to tcp:192.168.10.1:0, 48 packets in 9.0 s; servers reached by tun" in told
    assert "servers: A 10.0.0.1:0  B [2001:db8::2]:0" in told and "rr         50.0  50.0" in told


def test_a_capture_without_replies_is_of_dr(capsys, tmp_path):
    syns = write(tmp_path / "syns.pcapng", pcapng([(number, tcp(f"10.0.0.9:{number + 1}", VIP, "S"))
                                                   for number in range(3)]))

    assert "servers reached by dr" in run(capsys, syns, "--scheduler", "rr")
    assert "servers reached by tun" in run(capsys, syns, "--scheduler", "rr", "--mode", "tun")


def test_flows_out_of_a_file_and_standard_input(capsys, tmp_path, monkeypatch):
    flows = csv("0,10.0.0.1,10", "1,10.0.0.2,5")
    from_file = run(capsys, write(tmp_path / "flows.csv", flows), "--scheduler", "rr")
    assert "2 flows to tcp:192.0.2.1:80, 12 packets in 10.0 s" in from_file
    path = write(tmp_path / "in", flows)
    with open(path, "rb") as file:
        monkeypatch.setattr(replay, "STANDARD_INPUT", file.fileno())
        assert run(capsys, "-", "--scheduler", "rr") == from_file.replace(str(tmp_path / "flows.csv"), "-")


def test_options_of_the_service(capsys, tmp_path):
    flows = [connection(f"10.0.0.9:{number}", VIP, number, number + 2) for number in range(1, 7)]
    path = write(tmp_path / "x.pcap", pcap(in_order(*flows)))
    def shares(*words):
        return [server["flows"] for server in json.loads(
            run(capsys, path, "--json", "--servers", "2", *words))["schedulers"][0]["servers"]]

    assert shares("--scheduler", "rr") == [3, 3]
    assert 6 in shares("--scheduler", "rr", "--persistent")
    assert 6 in shares("--scheduler", "sh")
    assert 6 not in shares("--scheduler", "sh", "--scheduler-flags", "sh-port")


@pytest.mark.parametrize("mode", ["nat", "dr"])
def test_datagrams_one_by_one(capsys, tmp_path, mode):
    asked = in_order(*(question("10.0.0.9:5353", "192.168.10.1:53", second, second + 0.5) for second in range(8)))
    path = write(tmp_path / "dns.pcap", pcap(asked))
    words = path, "--scheduler", "rr", "--servers", "2", "--mode", mode

    assert "1 flows to udp:192.168.10.1:53, 16 packets" in run(capsys, *words)
    told = json.loads(run(capsys, *words, "--ops", "--json"))
    assert [server["flows"] for server in told["schedulers"][0]["servers"]] == [4, 4]
    assert [server["peak"] for server in told["schedulers"][0]["servers"]] == [1, 1]
    assert told["schedulers"][0]["moved"] == told["schedulers"][0]["forgotten"] == 0


def test_single_datagrams_are_of_udp_and_of_captures(capsys, tmp_path, web):
    assert mistake(capsys, web, "--ops") == "tcp:192.168.10.1:80: --ops is for UDP services"
    flows = write(tmp_path / "flows.csv", csv("0,10.0.0.1,10"))
    assert mistake(capsys, flows, "--ops").startswith(f"{flows} is no capture; --ops plays single datagrams")


def test_what_is_before_the_damage_can_be_played(capsys, web):
    with open(web, "rb") as file:
        cut = file.read()[:-5]
    with open(web, "wb") as file:
        file.write(cut)
    assert mistake(capsys, web).endswith("--partial plays the packets before it")
    assert cli.main(["replay", web, "--partial", "--scheduler", "rr"]) == 0
    out, err = capsys.readouterr()
    assert "8 flows" in out and "47 packets" in out
    assert err == (f"lbq: {web} is cut off in packet 50, at byte {24 + 47 * 56 + 2 * 45}: the capture did not end "
                   "properly, or was not copied whole\n")


def test_mistakes_about_files(capsys, tmp_path, web):
    here = str(tmp_path)
    empty, odd = write(tmp_path / "empty", b""), write(tmp_path / "odd", b"\x7fELF\2\1\1\0")
    gzip, nothing = write(tmp_path / "x.gz", b"\x1f\x8b\x08\0"), write(tmp_path / "nothing.pcap", pcap([]))
    arp = write(tmp_path / "arp.pcap", pcap([(0, bytes(12) + b"\x08\x06" + bytes(28))], link=1))
    icmp = write(tmp_path / "icmp.pcap", pcap([(0, ipv4(1, 1 << 24, 2 << 24, bytes(8)))]))
    middle = write(tmp_path / "middle.pcap", pcap([(0, tcp("10.0.0.9:1", VIP, "A"))]))
    usb = write(tmp_path / "usb.pcap", pcap([(0, b"x")], link=189))
    bare, bad = write(tmp_path / "bare.csv", "start,client,duration\n"), write(tmp_path / "bad.csv", csv("0,10.0.0.9"))

    for path, said in (
            (f"{here}/no", "No such file or directory"), (here, "Is a directory"), (empty, "is empty"),
            (odd, "neither a capture (pcap, pcapng) nor a CSV file of flows"),
            (gzip, "it is compressed: gunzip it first"),
            (nothing, "holds no packet, or no flow; capture while there is traffic"),
            (arp, "holds no flow of TCP, UDP or SCTP from its beginning (of its packets: 1 not IP)"),
            (icmp, "(of its packets: 1 neither TCP nor UDP nor SCTP)"),
            (middle, "(of its packets: 1 of connections that had begun before); capture whole connections"),
            (usb, "has link type 189, which lbq does not read"), (bare, "holds no packet, or no flow"),
            (bad, f"{bad}:2: 2 fields")):
        told = mistake(capsys, path)
        assert path in told and said in told

    assert mistake(capsys, web, "--service", "10.0.0.1:80") == (
        f"{web} holds no flow to tcp:10.0.0.1:80 from its beginning (of its packets or flows: 50 not to or from the "
        "service); leave --service away to play what most flows go to")


@pytest.mark.parametrize(("words", "said"), [
    (["--scheduler", "wcl"], "unknown scheduler 'wcl'; did you mean 'wlc'?"),
    (["--scheduler", ""], "unknown scheduler ''"), (["--scheduler", "no.py:Such"], "cannot load scheduler no.py:Such"),
    (["--servers", "x"], "--servers x:"), (["--change", "t=1 weight Q 0"], "there is no server Q"),
    (["--change", "t=1000 del A"], "the last packet comes at t=9"), (["--mode", "nta"], "unknown mode 'nta'"),
    (["--service", "fwmark:1"], "--service fwmark:1: a capture does not tell marks"),
    (["--slices", "0"], "--slices '0'"),
    (["--service", "192.168.10.1:0"], "a service of port 0, every port, needs --persistent"),
    (["--service", "192.168.10.1:0", "--persistent", "9", "--servers", "10.0.0.1:81", "10.0.0.1:82"],
     "10.0.0.1:82 is there already"),
    (["--plot", "x.gif"], "must end in"),
    (["--persistent", "x"], "--persistent x: not a number"), (["--wrong"], "unrecognized arguments"),
    (["--netmask", "x"], "netmask 'x'"),
    (["--scheduler", "rr,mh", "--scheduler-flags", "mh-port,sh-port"],
     "--scheduler-flags sh-port: none of rr, mh has this flag; it is of sh")])
def test_mistakes_about_options(capsys, web, words, said):
    assert said in mistake(capsys, web, *words)


def test_many_servers_are_told_in_several_lines(capsys, web):
    lines = run(capsys, web, "--scheduler", "rr", "--servers", "20").splitlines()
    servers = lines[lines.index("", 1) - 4:lines.index("", 1)]

    assert servers[0].startswith("servers: A 198.51.100.1:80  B 198.51.100.2:80  ")
    assert servers[-1].startswith("         ") and servers[-1].endswith("  T 198.51.100.20:80")
    assert max(map(len, servers)) <= 120
    assert lines[lines.index("") + 2].split() == ["scheduler", *"ABCDEFGHIJKLMNOP", "…", "new", "in", "progress"]


def test_a_users_own_scheduler(capsys, web, tmp_path):
    write(tmp_path / "mine.py", "from lbq.schedulers.base import Scheduler\nclass Mine(Scheduler):\n"
                                "    def schedule(self, service, flow):\n        return service.servers[-1]\n")

    out = json.loads(run(capsys, web, "--scheduler", f"{tmp_path}/mine.py:Mine", "--json"))
    assert [server["flows"] for server in out["schedulers"][0]["servers"]] == [8, 0, 0, 0]


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        cli.main(["replay", "--help"])
    told = capsys.readouterr().out
    assert "examples:" in told and "t=30 weight A 0" in told
    assert all(f"\n  {column} " in told for column in table.COLUMNS)
    assert max(map(len, told.splitlines())) <= 120


class Paper:
    """Stands in for matplotlib's figure and axes: remembers what is drawn, and takes anything else."""

    def __init__(self, **_):
        self.lines: dict[str, tuple[list, list]] = {}
        self.axes: list[list[Paper]] = []
        self.saved = None

    def subplots(self, rows, columns, **_):
        self.axes = [[Paper() for _ in range(columns)] for _ in range(rows)]
        return self.axes

    def plot(self, times, numbers, label):
        self.lines[label] = list(times), list(numbers)

    def savefig(self, path, **_):
        self.saved = str(path)

    def __getattr__(self, _):
        return lambda *_, **__: None


def test_a_picture_has_shares_and_flows_in_progress_of_each_scheduler(capsys, web, monkeypatch):
    paper = Paper()
    monkeypatch.setattr(charts, "picture", lambda **_: paper)
    run(capsys, web, "--scheduler", "rr,lc", "--servers", "2", "--slices", "2", "--plot", "x.png")

    assert paper.saved == "x.png" and len(paper.axes) == 2
    share, load = paper.axes[0]
    assert share.lines["A"] == ([2.25, 6.75], [40, pytest.approx(200 / 3)])
    assert load.lines["B"] == ([2.25, 6.75], [4.5 / 4.5, pytest.approx(3.5 / 4.5)])


def test_flags_reach_the_schedulers_that_have_them(capsys, web):
    """sh and rr in one replay: the flag is for sh alone, and rr plays without it."""
    assert "\nsh " in run(capsys, web, "--scheduler", "rr,sh", "--scheduler-flags", "sh-port")


def test_charts_that_cannot_be_drawn_are_one_line_and_the_tables_stay(capsys, web, monkeypatch):
    def missing(*_, **__):
        raise Missing("matplotlib is not installed (pip install matplotlib)")

    monkeypatch.setattr(charts, "picture", missing)
    assert cli.main(["replay", web, "--scheduler", "rr", "--plot", "x.png"]) == 0
    out, err = capsys.readouterr()
    assert "share of new flows" in out
    assert err == "lbq: no charts: matplotlib is not installed (pip install matplotlib)\n"


def test_a_picture_that_cannot_be_written_is_one_line_and_the_tables_stay(capsys, web, tmp_path, monkeypatch):
    (tmp_path / "x.png").mkdir()
    paper = Paper()
    paper.savefig = lambda path, **_: path.write_bytes(b"")
    monkeypatch.setattr(charts, "picture", lambda **_: paper)
    assert cli.main(["replay", web, "--scheduler", "rr", "--plot", f"{tmp_path}/x.png"]) == 0
    out, err = capsys.readouterr()
    assert "share of new flows" in out
    assert err == f"lbq: no charts: cannot write {tmp_path}/x.png: Is a directory\n"


def test_memory_that_ends_while_reading_is_one_line(capsys, web, monkeypatch):
    def read(*_, **__):
        raise MemoryError

    monkeypatch.setattr(replay, "read", read)
    assert mistake(capsys, web) == f"there is not enough memory for {web}; play fewer packets (editcap -c N FILE PART)"


def test_the_bar_is_for_terminals(monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    bar = Bar("reading x", 200)
    bar._shown -= 1
    bar.to(100)
    bar.end()

    assert shown.getvalue().startswith("\rreading x [###############...............]  50% ")
    assert shown.getvalue().endswith("\r\x1b[K")


def test_of_a_pipe_the_bar_says_how_much_came():
    bar = Bar("reading -", 0)
    bar.to(12345)

    assert bar.line() == "reading - 12,345 bytes"
