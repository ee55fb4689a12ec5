"""The commands against a control server with invented answers, and how mistakes are told."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lbq import __version__, cli
from lbq.errors import NoSuchServer
from tests.helpers.control import serving

ROW = {"protocol": "tcp", "address": "192.168.10.1", "port": 80, "scheduler": "wlc", "servers": [],
       "family": "inet", "fwmark": 0, "flags": [], "timeout": 0, "netmask": "255.255.255.255",
       "stats": dict.fromkeys(("conns", "packets_in", "packets_out", "bytes_in", "bytes_out"), 0)}
CONNECTION = {"protocol": "tcp", "caddr": "192.168.10.100", "cport": 40000,
              "vaddr": "192.168.10.1", "vport": 80,
              "daddr": "192.168.20.1", "dport": 80, "state": "ESTABLISHED", "expires_seconds": 900, "fwmark": 0}
COUNTERS = {"packets": 0, "rewritten": 0, "icmp_sent": 0, "connections": 0, "connections_max": 1}


@pytest.fixture
def asked():
    return []


@pytest.fixture
def director(tmp_path, monkeypatch, asked):
    """A director that answers what it is asked and writes it down."""
    async def answer_list() -> list:
        return [ROW]

    async def connections(cursor: int, limit: int) -> dict:
        return {"connections": [CONNECTION], "next": cursor + 1 if cursor < 2 else None}

    async def stats() -> dict:
        return {"services": [ROW], "counters": COUNTERS, "queue": None}

    async def change(service: str, server: str) -> str:
        asked.append((service, server))
        if server == "10.0.0.9":
            raise NoSuchServer("cannot delete 10.0.0.9: it is not there")
        return "done"

    async def end_connections(service: str | None, server: str | None, client: str | None, state: str | None) -> dict:
        asked.append((service, server, client, state))
        return {"ended": 3}

    async def drain(service: str, server: str, end_after: int | None, delete: bool) -> str:
        asked.append((service, server, end_after, delete))
        return "draining"

    monkeypatch.setattr("lbq.host.setup.state_directory", lambda: tmp_path)
    with serving(tmp_path, {"list": answer_list, "connections": connections, "stats": stats,
                            "add_server": change, "set_server": change, "delete_server": change,
                            "end_connections": end_connections, "drain": drain}):
        yield


def run(capsys, *words) -> tuple[int, str, str]:
    status = cli.main(list(words))
    said = capsys.readouterr()
    return status, said.out, said.err


def test_list_prints_a_table_or_its_rows(director, capsys):
    status, out, err = run(capsys, "list")
    assert (status, err) == (0, "")
    assert out.splitlines()[2] == "TCP  192.168.10.1:80 wlc"

    assert json.loads(run(capsys, "list", "--json")[1]) == [ROW]


def test_conns_joins_the_pages(director, capsys):
    assert len(run(capsys, "conns")[1].splitlines()) == 1 + 3
    assert json.loads(run(capsys, "conns", "--json")[1]) == [CONNECTION] * 3


@pytest.mark.parametrize(("words", "shown"), [
    (["--service", "192.168.10.1:80"], True), (["--service", "udp:192.168.10.1:80"], False),
    (["--service", "192.168.10.1:0"], True), (["--service", "192.168.10.1:81"], False),
    (["--service", "fwmark:1"], False),
    (["--server", "192.168.20.1"], True), (["--server", "192.168.20.1:80"], True),
    (["--server", "192.168.20.1:81"], False), (["--server", "192.168.20.2"], False),
    (["--client", "192.168.10.100"], True), (["--client", "192.168.10.100:40001"], False),
    (["--client", "192.168.10.100:0"], False),
    (["--state", "established"], True), (["--state", "TIME_WAIT"], False),
    (["--state", "established", "--server", "192.168.20.2"], False),
])
def test_conns_shows_those_that_all_words_fit(director, capsys, words, shown):
    status, out, _ = run(capsys, "conns", "--json", *words)

    assert (status, json.loads(out)) == (0, [CONNECTION] * 3 if shown else [])


def test_stats_prints_a_table_or_all_counters(director, capsys):
    assert "nothing was lost" in run(capsys, "stats")[1]
    assert json.loads(run(capsys, "stats", "--json")[1])["counters"] == COUNTERS


@pytest.mark.parametrize(("verb", "server"), [("add", "10.0.0.1,weight=2"), ("set", "10.0.0.1,weight=0"),
                                              ("del", "10.0.0.1")])
def test_changes_pass_the_words_on_and_say_what_was_done(director, asked, capsys, verb, server):
    assert run(capsys, verb, "server", "192.168.10.1:80", server) == (0, "done\n", "")
    assert asked == [("192.168.10.1:80", server)]


def test_end_passes_on_what_is_to_end(director, asked, capsys):
    assert run(capsys, "end", "--client", "192.168.10.100", "--state", "established") == (
        0, "ended connections: 3\n", "")
    assert asked == [(None, None, "192.168.10.100", "established")]


@pytest.mark.parametrize(("words", "passed_on"), [
    ([], (None, False)), (["--end-after", "60"], (60, False)), (["--delete"], (None, True)),
    (["--end-after", "0", "--delete"], (0, True)),
])
def test_drain_leaves_the_rest_to_the_director(director, asked, capsys, words, passed_on):
    assert run(capsys, "drain", "192.168.10.1:80", "192.168.20.1", *words) == (0, "draining\n", "")
    assert asked == [("192.168.10.1:80", "192.168.20.1", *passed_on)]


def test_drain_can_wait_for_the_end(director, capsys):
    assert run(capsys, "drain", "192.168.10.1:80", "192.168.20.1", "--wait", "0") == (
        0, "draining\nconnections left: 0\n", "")


def test_what_the_director_refuses_is_one_line_and_status_2(director, capsys):
    assert run(capsys, "del", "server", "192.168.10.1:80", "10.0.0.9") == (
        2, "", "lbq: cannot delete 10.0.0.9: it is not there\n")


@pytest.mark.parametrize(("words", "complaint"), [
    ([], "nothing to do"),
    (["lst"], "unknown command 'lst'; did you mean 'list'?"),
    (["add", "sever", "192.168.10.1:80", "10.0.0.1"], "cannot add 'sever'; did you mean 'server'?"),
    (["add", "server", "192.168.10.1:80"], "required: SERVER; lbq add --help explains"),
    (["add", "server", "192.168.10.1", "10.0.0.1"], "has no port"),
    (["add", "server", "192.168.10.1:80", "web01"], "names"),
    (["set", "server", "192.168.10.1:80", "10.0.0.1"], "nothing to set; write 10.0.0.1,weight=N"),
    (["del", "server", "192.168.10.1:80", "10.0.0.1,weight=1"], "deleting takes no settings; write 10.0.0.1"),
    (["list", "--jason"], "unrecognized arguments: --jason; lbq list --help explains"),
    (["list", "--tunnels", "--thresholds"], "not allowed with argument"),
    (["conns", "--state", "establshed"], "unknown state 'establshed'; did you mean 'established'?"),
    (["conns", "--client", "10.0.0.1:x"], "port 'x' is not a number"),
    (["conns", "--server", "web01"], "names"),
    (["list", "all"], "unrecognized arguments: all"),
    (["stop", "now"], "unrecognized arguments: now"),
    (["lab", "drr"], "unknown mode 'drr'; did you mean 'dr'?"),
    (["add", "service", "192.168.10.1:0"], "needs --persistent"),
    (["set", "service", "192.168.10.1:80", "--scheduler", "wcl"], "did you mean 'wlc'?"),
    (["sysctl", "pmtu_dics=1"], "no sysctl net.ipv4.vs.pmtu_dics"),
    (["timeouts", "--tcp", "x"], "--tcp 'x' is not a number"),
    (["drain", "192.168.10.1:80", "10.0.0.1,weight=1"], "draining takes no settings"),
    (["drain", "192.168.10.1:80", "10.0.0.1", "--end-after", "soon"], "--end-after 'soon' is not a number"),
    (["end"], "say which connections end: --service, --server, --client or --state"),
    (["end", "--client", "web01"], "names"),
    (["end", "--state", "closd"], "did you mean 'closed'?"),
    (["add", "service", "192.168.10.1:80", "--on-quiesce", "leave"], "unknown --on-quiesce 'leave'; lbq has keep"),
    (["add", "service", "udp:192.168.10.1:53", "--ops-replies"], "--ops-replies is about the answers to --ops"),
    (["add", "service", "fwmark:1", "--ops", "--ops-replies"], "a firewall mark has none"),
    (["set", "service", "192.168.10.1:80", "--idle", "-1"], "--idle -1: not a number from 0"),
    (["zero", "nonsense"], "nonsense"),
    (["realserver", "nat"], "unknown mode 'nat'"),
    (["realserver", "dr"], "no --vip"),
    (["decap"], "no --vip"),
    (["decap", "--vip", "10.0.0.1", "--port", "7"], "--port is the UDP port of gue; ipip has none"),
    (["add", "server", "192.168.10.1:80", "10.0.0.1,weight"], "setting 'weight' has no value; write weight=VALUE"),
    (["decap", "--vip", "10.0.0.1", "--type", "vxlan"], "unknown --type 'vxlan'"),
    (["lab", "nat", "--keep", "--down"], "not allowed with"),
    (["lab", "nat", "--bare", "--keep"], "not allowed with"),
    (["lab", "nat", "--bare", "--report", "lab.html"], "say one of --bare and --report"),
    (["lab", "nat", "--bare", "--exercise", "1"], "say lbq lab MODE --exercise N"),
    (["x\n\x1b[31m"], r"unknown command 'x\n\x1b[31m'"),
])
def test_a_mistake_is_one_line_and_asks_no_director(director, asked, capsys, words, complaint):
    status, out, err = run(capsys, *words)

    assert (status, out, asked) == (2, "", [])
    assert err.startswith("lbq: ") and err.count("\n") == 1
    assert complaint in err


def test_debugging_adds_where_it_came_from(monkeypatch, capsys):
    monkeypatch.setenv("LBQ_DEBUG", "1")

    status, _, err = run(capsys, "lst")

    assert status == 2
    assert err.startswith("Traceback") and err.endswith("did you mean 'list'?; lbq has "
                                                        f"{', '.join(cli.COMMANDS)}\n")


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_help_needs_nothing_and_ends_well(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: lbq")


def test_help_is_a_command_too(capsys):
    with pytest.raises(SystemExit):
        cli.main(["help"])
    assert "examples:" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"lbq {__version__}\n"


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def written(request):
    """What comes of ``lbq WORDS`` whose output goes into *file*: status and standard error."""
    def run_into(file, *words: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "lbq", *words], stdout=file, stderr=subprocess.PIPE, text=True,
                              check=False, env={**os.environ, "PYTHONUNBUFFERED": request.param})
        return done.returncode, done.stderr

    return run_into


@pytest.mark.parametrize("words", [("replay", "flows.csv", "--scheduler", "rr"), ("explain", "--help")])
def test_a_reader_that_has_gone_is_no_mistake(written, tmp_path, monkeypatch, words):
    (tmp_path / "flows.csv").write_text("start,client,duration\n0,10.0.0.9,1\n")
    monkeypatch.chdir(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert written(writer, *words)[1] == ""
    finally:
        os.close(writer)


def test_a_full_disk_is_told_in_one_line(written, tmp_path, monkeypatch):
    (tmp_path / "flows.csv").write_text("start,client,duration\n0,10.0.0.9,1\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules").write_text("-A -t 192.168.10.1:80 -s rr\n")
    with open("/dev/full", "w") as full:
        for words in (("replay", "flows.csv", "--scheduler", "rr"),
                      ("explain", "--config", "rules", "--from", "192.168.10.9:4000", "--to", "192.168.10.1:80")):
            assert written(full, *words) == (2, "lbq: cannot write the output: No space left on device; make room, or "
                                                "write elsewhere\n")
