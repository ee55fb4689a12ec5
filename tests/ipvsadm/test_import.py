"""lbq save and lbq import: complete, all or nothing, and every mistake with its line."""
from __future__ import annotations

import io

import pytest

from lbq import cli
from lbq.errors import HostError
from tests.helpers import transcripts

RULES = """\
--set 100 20 30
-A -t 192.168.0.100:80 -s rr
-a -t 192.168.0.100:80 -r 10.0.0.11:80 -m -w 5 -x 100 -y 50
-a -t 192.168.0.100:80 -r 10.0.0.12:8080 -m -w 1
-A -t 192.168.0.100:443 -s sh -p 360 -M 255.255.255.0 -b sh-port
-a -t 192.168.0.100:443 -r 10.0.0.11:443 -g -w 0
-A -u 192.168.0.100:53 -s wlc -o
-a -u 192.168.0.100:53 -r 10.0.0.11:53 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -f 7 -s rr -p 60 --pe sip
-A -f 4294967295 -s wrr
"""


@pytest.fixture(autouse=True)
def this_director(monkeypatch, director):
    monkeypatch.setattr(cli, "_client", director.connect)


@pytest.fixture
def lbq(capsys, tmp_path):
    """Return a function that runs lbq on a file with the given rules, and returns status, output, complaints."""
    def run(command: str, rules: str | None = None, *options: str) -> tuple[int, list[str], list[str]]:
        words = [command]
        if rules is not None:
            (tmp_path / "rules").write_text(rules)
            words += [str(tmp_path / "rules"), *options]
        status = cli.main(words)
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.replace(str(tmp_path), "").splitlines()

    return run


def listing(director) -> str:
    return transcripts.run(director, ["ipvsadm", "-S", "-n"])[0]


def test_what_was_saved_is_imported_and_is_the_same_again(lbq, director):
    assert lbq("import", RULES)[0] == 0
    status, saved, _ = lbq("save")

    assert (status, saved[0].startswith("# lbq "), "\n".join(saved[1:]) + "\n") == (0, True, RULES.replace(
        "-A -f 4294967295 -s wrr\n", "").replace("--set 100 20 30\n", "--set 100 20 30\n-A -f 4294967295 -s wrr\n"))
    assert lbq("import", "\n".join(saved)) == (0, ["nothing to do"], [])


def test_a_dump_is_read_by_the_real_tools_language_too(lbq, director):
    lbq("import", RULES)
    saved = "\n".join(lbq("save")[1])
    before = listing(director)

    assert transcripts.run(director, ["ipvsadm-restore"], saved.encode()) == ("", "", 0)
    assert listing(director) == before


@pytest.mark.parametrize("line", ["# a comment", "", "ipvsadm -A -t 1.2.3.4:80  # with a comment", "-C",
                                  "/sbin/ipvsadm -A -t 1.2.3.4:80 -s wlc"])
def test_what_scripts_have_around_rules_is_understood(lbq, line):
    assert lbq("import", line)[::2] == (0, [])


def test_every_mistake_is_told_with_its_line_and_nothing_is_changed(lbq, director):
    lbq("import", RULES)
    before = listing(director)

    status, out, mistakes = lbq("import", """\
-A -t 192.168.0.100:80 -s rr
-A -t 192.168.0.100:80 -s wrr
-a -t 192.168.0.100:81 -r 10.0.0.11 -m
-a -t 192.168.0.100:80 -r 10.0.0.11:8080 -g
-a -t 192.168.0.100:80 -r 10.0.0.11 -m -y 5
-a -t 192.168.0.100:80 -r 10.0.0.12 -m
-a -t 192.168.0.100:80 -r 10.0.0.12 -m
-A -t 192.168.0.100:82 -p -M 24
-L -n
hello world
-A -t 192.168.0.100:83 --nosuch
-A -t 192.168.0.100:bad
""")

    assert (status, out) == (2, [])
    assert [mistake.removeprefix("lbq: /rules:") for mistake in mistakes] == [
        "2: service tcp:192.168.0.100:80 is there twice",
        "3: service tcp:192.168.0.100:81 is not there; its -A comes before its -a",
        "4: real server port 8080 is not the service's port 80, and only -m can change ports",
        "5: lower threshold 5 is above the upper one, 0",
        "7: server 10.0.0.12:80 of tcp:192.168.0.100:80 is there twice",
        "8: netmask 0.0.0.24 is not a row of ones followed by zeros, such as 255.255.255.0",
        "9: list is no rule; rules are -A, -a and --set",
        "10: 'hello' is no rule; rules are -A, -a and --set",
        "11: --nosuch: unknown option",
        "12: illegal virtual server address[:port] specified"]
    assert listing(director) == before


@pytest.mark.parametrize("rules", ["-A -t 1.2.3.4:80 -s nosuch",
                                   "-A -t 1.2.3.4:80\n-a -t 1.2.3.4:80 -r 224.0.0.1 -m"])
def test_what_only_the_director_knows_is_refused_in_one_line_and_nothing_is_changed(lbq, director, rules):
    lbq("import", RULES)
    before = listing(director)

    status, out, complaints = lbq("import", rules)

    assert (status, out, len(complaints)) == (2, [], 1)
    assert listing(director) == before


@pytest.mark.parametrize("failing", range(8))
def test_an_import_that_fails_half_way_is_taken_back(lbq, director, monkeypatch, failing):
    """The host refuses the change with the number *failing*, whatever that is."""
    lbq("import", RULES)
    before = listing(director)
    calls = []

    async def call(name, *args):
        calls.append(name)
        if name == "is_broadcast":
            return False
        if len([name for name in calls if name != "is_broadcast"]) == failing + 1:
            raise HostError("the set is full")
        return None

    monkeypatch.setattr(director.operations.host, "call", call)
    status, _, complaints = lbq("import", """\
-A -t 192.168.0.100:80 -s wlc
-a -t 192.168.0.100:80 -r 10.0.0.11:80 -g
-a -t 192.168.0.100:80 -r 10.0.0.13:80 -m
-A -t 192.168.0.101:80
-a -t 192.168.0.101:80 -r 10.0.0.11:80 -m
-a -t 192.168.0.101:80 -r 10.0.0.12:80 -i
""")

    if status == 0:                 # it never came to that
        assert len(calls) - calls.count("is_broadcast") <= failing
    else:
        assert (status, complaints) == (2, ["lbq: the set is full"])
        assert sorted(listing(director).splitlines()) == sorted(before.splitlines())


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(lbq, director):
    lbq("import", RULES)
    before = listing(director)
    plan = lbq("import", "-A -t 192.168.0.100:80 -s wlc\n-a -t 192.168.0.100:80 -r 10.0.0.11:80 -m", "--dry-run")

    assert plan == (0, [
        "service tcp:192.168.0.100:80 has other settings now",
        "server 10.0.0.11:80 of tcp:192.168.0.100:80 has other settings now",
        "deleted server 10.0.0.12:8080 of tcp:192.168.0.100:80",
        "deleted service tcp:192.168.0.100:443", "deleted service udp:192.168.0.100:53", "deleted service fwmark:7",
        "deleted service fwmark:4294967295"], [])
    assert listing(director) == before


def test_a_server_that_stays_is_not_touched(lbq, director):
    lbq("import", RULES)
    servers = [server for service in director.engine.services.by_key.values() for server in service.servers]
    lbq("import", RULES + "-A -t 192.168.0.102:80\n")

    assert servers == [server for service in director.engine.services.by_key.values() for server in service.servers]


def test_a_file_that_cannot_be_read_gets_one_line(lbq, capsys, tmp_path):
    assert cli.main(["import", str(tmp_path / "nosuch")]) == 2
    assert capsys.readouterr().err == f"lbq: cannot read {tmp_path}/nosuch: No such file or directory\n"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert cli.main(["import", str(tmp_path / "binary")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_rules_come_from_standard_input(lbq, director, monkeypatch):
    lbq("import", RULES)
    before = listing(director)
    transcripts.run(director, ["ipvsadm", "-C"])
    monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO(RULES))

    assert cli.main(["import", "-"]) == 0
    assert listing(director) == before
