"""lbq-ipvsadm as its users have it: in scripts, under a link's name, behind ldirectord, with real traffic."""
from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from lbq.lab.topology import host_name, this_lbq
from tests.helpers.processes import wait_until
from tests.helpers.topology import curl, settle, start_nginx, tell

BIN = Path(sys.executable).parent
UNIT = Path(__file__).parents[2] / "packaging/lbq-ipvsadm.service"
LOG = Path("/var/log/lbq.log")
RULES = """\
-A -t 192.168.10.1:80 -s wrr
-a -t 192.168.10.1:80 -r 192.168.20.1:80 -m -w 3
-a -t 192.168.10.1:80 -r 192.168.20.2:80 -m -w 1
"""
DEPLOY = """\
#!/bin/bash
# NAT as in the article, with nothing of lbq's in it
set -e
VIP=192.168.10.1
ipvsadm -C
ipvsadm -A -t $VIP:80 -s wrr
ipvsadm -a -t $VIP:80 -r 192.168.20.1:80 -m -w 3
ipvsadm -a -t $VIP:80 -r 192.168.20.2:80 -m
ipvsadm --set 900 120 300
ipvsadm -Ln
ipvsadm -Sn >$RULES
"""
LDIRECTORD = """\
checktimeout=10
checkinterval=1
checkcount=1
autoreload=no
quiescent=no
virtual=192.168.10.1:80
\treal=192.168.20.1:80 masq 3
\treal=192.168.20.2:80 masq 1
\tservice=http
\tscheduler=wrr
\tprotocol=tcp
\tchecktype=connect
"""


class Machine:
    """The lab's director as a machine on which ``ipvsadm`` is ours."""

    def __init__(self, lab):
        self.lab = lab
        self.bin = lab.folder / "bin"
        self.bin.mkdir()
        (self.bin / "ipvsadm").symlink_to(BIN / "lbq-ipvsadm")
        self.rules = lab.folder / "ipvsadm.rules"

    def run(self, *words: str, check: bool = True, autostart: str = "1", **options):
        """Run a program that finds our ipvsadm first."""
        return self.lab.director.run(words, check=check, env=self.environment(autostart), **options)

    def environment(self, autostart: str = "1") -> dict[str, str]:
        """Return the environment of a user's shell."""
        return {**this_lbq(), "PATH": f"{self.bin}:{BIN}:{os.environ['PATH']}", "LBQ_AUTOSTART": autostart,
                "RULES": str(self.rules)}

    def names_answering(self, requests: int = 8) -> list[str]:
        """Return who answers the client's requests."""
        return sorted(curl(self.lab.client, f"http://{self.lab.vip}/").strip() for _ in range(requests))


@pytest.fixture
def machine(lab):
    machine = Machine(lab)
    yield machine
    lab.lbq("stop", check=False)


def test_without_a_director_one_line_says_how_to_start_one(machine):
    done = machine.run("ipvsadm", "-L", "-n", autostart="0", check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("ipvsadm: no director runs in this network namespace; start one with lbq serve, or set "
                           "LBQ_AUTOSTART=1 to have it started when it is needed\n")


def test_a_mistake_needs_no_director_and_starts_none(machine):
    done = machine.run("ipvsadm", "-A", "-t", "192.168.10.1", check=False)

    assert (done.returncode, done.stderr) == (2, "Zero port specified for non-persistent service\n")
    assert machine.run("ipvsadm", "-L", autostart="0", check=False).returncode == 2


def test_a_director_starts_when_needed_survives_clear_and_ends_with_lbq_stop(machine):
    logged = LOG.stat().st_size if LOG.exists() else 0
    machine.run("ipvsadm", "-A", "-t", "192.168.10.1:80")
    pid = tell(machine.lab, "status")["pid"]
    machine.run("ipvsadm", "-C")
    assert machine.run("ipvsadm", "-Sn", autostart="0").stdout == ""

    assert tell(machine.lab, "status")["pid"] == pid
    assert os.getsid(pid) == pid            # it ends with no terminal
    assert machine.run("lbq", "stop").stdout == "stopped; 0 connections ended with it\n"
    assert machine.run("ipvsadm", "-L", autostart="0", check=False).returncode == 2
    if not Path("/run/systemd/journal/stdout").exists():
        log = LOG.read_text()[logged:]
        assert "added service tcp:192.168.10.1:80" in log and "deleted all services: 1" in log


def test_two_that_start_one_at_once_get_the_same(machine):
    """The one that comes second waits until the first one's is ready."""
    commands = [machine.lab.director.popen([machine.bin / "ipvsadm", "-A", "-t", f"192.168.10.1:{port}"],
                                           env=machine.environment()) for port in (80, 81, 82)]

    assert [command.wait(60) for command in commands] == [0, 0, 0], [command.last_words() for command in commands]
    assert machine.run("ipvsadm", "-Sn", autostart="0").stdout.count("-A") == 3


def test_a_director_that_cannot_start_is_explained_in_one_line(machine):
    done = machine.lab.director.run([machine.bin / "ipvsadm", "-L"], check=False,
                                    env={**machine.environment(), "LBQ_KERNEL_PROFILE": "ancient"})

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "cannot start a director" in done.stderr


def test_a_deployment_script_works_as_it_is(machine):
    start_nginx(machine.lab)
    script = machine.lab.folder / "deploy.sh"
    script.write_text(DEPLOY)
    done = machine.run("bash", str(script))

    assert done.stderr == ""
    assert done.stdout.splitlines()[3:] == [
        "TCP  192.168.10.1:80 wrr",
        "  -> 192.168.20.1:80              Masq    3      0          0         ",
        "  -> 192.168.20.2:80              Masq    1      0          0         "]
    assert machine.rules.read_text() == RULES
    assert machine.names_answering() == ["web01"] * 6 + ["web02"] * 2
    machine.run("bash", str(script))        # once more: it clears first
    assert machine.names_answering() == ["web01"] * 6 + ["web02"] * 2
    settle(machine.lab)
    listed = machine.run("ipvsadm", "-Lnc").stdout.splitlines()
    assert len(listed) == 2 + 16
    expected = (r"TCP 0[01]:\d\d  TIME_WAIT +192\.168\.10\.100:\d+ +192\.168\.10\.1:80 +"
                r"192\.168\.20\.[12]:80$")
    assert all(re.match(expected, line) for line in listed[2:])


def unit(key: str) -> list[str]:
    """Return what the service unit says after *key*."""
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]


def test_the_service_unit_restores_at_start_and_saves_at_stop(machine):
    """Its commands, run as systemd runs them; systemd itself is not here."""
    start_nginx(machine.lab)
    machine.rules.write_text(f"# ipvsadm.rules\n{RULES}")
    [start], [after], [stop] = unit("ExecStart"), unit("ExecStartPost"), unit("ExecStop")
    director = machine.lab.director.popen(["sh", "-c", f"exec {start}"], env={**machine.environment("0"),
                                                                            "OPTIONS": ""})
    director.wait_for("ready")

    machine.run("sh", "-c", after, autostart="0")
    assert machine.names_answering(4) == ["web01"] * 3 + ["web02"]
    machine.run("ipvsadm", "-e", "-t", "192.168.10.1:80", "-r", "192.168.20.2", "-m", "-w", "7", "-x", "50")
    machine.run("ipvsadm", "--set", "100", "0", "0")
    machine.run("sh", "-c", stop, autostart="0")
    assert director.stop() == 0

    saved = machine.rules.read_text().splitlines()
    assert saved[1:] == ["--set 100 120 300", *RULES.splitlines()[:2],
                         "-a -t 192.168.10.1:80 -r 192.168.20.2:80 -m -w 7 -x 50"]
    director = machine.lab.director.popen(["sh", "-c", f"exec {start}"], env={**machine.environment("0"),
                                                                            "OPTIONS": ""})
    director.wait_for("ready")
    machine.run("sh", "-c", after, autostart="0")
    assert machine.run("lbq", "save").stdout.splitlines() == saved


def test_the_articles_own_unit_works_with_a_director_that_starts_by_itself(machine):
    machine.rules.write_text(RULES)
    for program in ("save", "restore"):
        (machine.bin / f"ipvsadm-{program}").symlink_to(BIN / f"lbq-ipvsadm-{program}")

    machine.run("bash", "-c", "exec ipvsadm-restore < $RULES")
    assert machine.run("ipvsadm", "-Sn").stdout == RULES
    machine.run("bash", "-c", "exec ipvsadm-save -n > $RULES.2")
    machine.run("ipvsadm", "-C")
    assert Path(f"{machine.rules}.2").read_text() == RULES


@pytest.fixture
def ldirectord(machine):
    """Return a function that runs ldirectord where /sbin/ipvsadm is ours, for its own eyes only."""
    config = machine.lab.folder / "ldirectord.cf"
    config.write_text(LDIRECTORD)
    log = machine.lab.folder / "ldirectord.log"
    config.write_text(f'logfile="{log}"\n{LDIRECTORD}')
    script = f"mount --bind {BIN / 'lbq-ipvsadm'} /sbin/ipvsadm && exec ldirectord -d {config} start"
    process = machine.lab.director.popen(["unshare", "-m", "bash", "-c", script], env=machine.environment())
    yield process
    process.stop()


def test_ldirectord_drives_it(machine, ldirectord):
    """It puts servers in that answer, takes those out that do not, and asks for listings all the time."""
    def servers() -> list[str]:
        done = machine.run("ipvsadm", "-Sn", autostart="0", check=False)
        return re.findall(r"-r 192\.168\.20\.(\d):80 -m -w (\d)", done.stdout)

    assert wait_until(lambda: "-A -t 192.168.10.1:80 -s wrr" in machine.run(
        "ipvsadm", "-Sn", autostart="0", check=False).stdout, 30), ldirectord.last_words()
    assert servers() == []
    start_nginx(machine.lab)
    wait_until(lambda: servers() == [("1", "3"), ("2", "1")], 30)
    assert machine.names_answering(4) == ["web01"] * 3 + ["web02"]

    [web02] = [server for server in machine.lab.servers if host_name(server) == "web02"]
    web02.stop_processes()
    wait_until(lambda: servers() == [("1", "3")], 30)
    assert machine.names_answering(4) == ["web01"] * 4
