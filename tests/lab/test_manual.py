"""The operator's manual, docs/manual.md: its commands, its unit, and what it says of a director's end."""
from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lbq.lab.routed import RoutedLab
from lbq.lab.topology import Lab, this_lbq
from tests.helpers.documented import commands, pattern
from tests.helpers.namespaces import picture
from tests.helpers.processes import wait_until
from tests.helpers.routed import HOLD
from tests.helpers.sphinx import DOCS
from tests.helpers.topology import curl, hold, new_lab, start_endpoints, start_nginx, still_answers

PAGE = DOCS / "manual.md"
BIN = Path(sys.executable).parent
INSTALLED = "/usr/local/sbin"
ENVIRONMENT = {**this_lbq(), "PATH": f"{BIN}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
NAT = ("--mode", "nat", "--scheduler", "rr", "--real", "192.168.20.1", "--real", "192.168.20.2")


def unit() -> str:
    """Return the unit of the manual."""
    return re.search(r"```ini\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


def said(key: str) -> list[str]:
    """Return the values of *key* in the unit."""
    return re.findall(rf"^{key}=(.*)$", unit().replace("\\\n", ""), re.MULTILINE)


def test_its_commands_do_what_it_shows(lab):
    start_endpoints(lab, "hold", 80)
    lab.start_director(*NAT)
    held = [hold(lab.client, lab.vip) for _ in range(2)]

    for command in commands(PAGE):
        done = lab.director.run(["bash", "-c", command.line], check=False, env=ENVIRONMENT)
        assert (done.returncode, done.stderr) == (0, ""), command.line
        assert re.fullmatch(pattern(command.output), done.stdout.rstrip("\n")), f"{command.line}\n{done.stdout}"
    assert [name for name, sock in held if still_answers_or_is_reset(sock)] == ["web01"]


def still_answers_or_is_reset(sock) -> bool:
    """Return True when a held connection goes on, False when it was reset."""
    try:
        return still_answers(sock)
    except ConnectionResetError:
        return False


def test_systemd_understands_its_unit(tmp_path):
    path = tmp_path / "lbq.service"
    path.write_text(unit().replace(INSTALLED, str(BIN)))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_its_unit_needs_two_capabilities_and_leaves_nothing(lab):
    """Its commands, run as systemd runs them; systemd itself is not here."""
    start_nginx(lab)
    before = picture(lab.director)
    [start], [powers] = said("ExecStart"), said("CapabilityBoundingSet")
    kept = ",".join(name.lower().replace("cap_", "+") for name in powers.split())
    limited = ["setpriv", f"--bounding-set=-all,{kept}", "--no-new-privs"]

    director = lab.director.popen([*limited, *shlex.split(start.replace(INSTALLED, str(BIN)))], env=ENVIRONMENT)
    director.wait_for("ready")
    for command in said("ExecStartPost"):
        lab.director.run([*limited, *shlex.split(command.replace(INSTALLED, str(BIN)))], env=ENVIRONMENT)

    assert {curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(4)} == {"web01", "web02"}
    assert "UDP  192.168.10.1:53 wlc move-quiesced idle 30" in lab.lbq("list").stdout
    assert director.stop() == 0
    assert picture(lab.director) == before


def test_its_line_for_cron_tells_of_what_is_wrong_and_of_a_director_that_is_gone(lab):
    start_nginx(lab)
    [line] = [line for line in PAGE.read_text().split("\n") if line.startswith("*/5 ")]
    command = ["sh", "-c", line.partition(" root ")[2].replace(INSTALLED, str(BIN))]
    director = lab.start_director(*NAT)

    done = lab.director.run(command, env=ENVIRONMENT)
    assert (done.stdout, done.stderr) == ("", "")
    lab.director.sysctl("net.ipv4.ip_forward", 0)
    assert "WRONG   ip_forward" in lab.director.run(command, env=ENVIRONMENT).stdout
    assert director.stop() == 0
    gone = lab.director.run(command, env=ENVIRONMENT)
    assert (gone.stdout.partition(":")[0], gone.stderr) == ("No director runs in this network namespace", "")


def kill(director) -> None:
    """End a director as a crash would."""
    director.send_signal(signal.SIGKILL)
    director.wait(10)


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_connections_end_with_their_director(lab, end):
    start_endpoints(lab, "hold", 80)
    director = lab.start_director(*NAT)
    _, sock = hold(lab.client, lab.vip)
    kill(director) if end == "killed" else director.stop()
    lab.start_director(*NAT)

    assert not still_answers_or_is_reset(sock)


@pytest.mark.parametrize("mode", ["nat", "dr"])
def test_what_can_go_on_after_a_kill(mode):
    """A scheduler that goes by the client's address, and sloppy_tcp."""
    with (new_lab(Lab) if mode == "nat" else new_lab(RoutedLab, mode)) as lab:
        start_endpoints(lab, "hold", HOLD)
        options = ["--vip", f"{lab.vip}:{HOLD}", "--mode", mode, "--scheduler", "mh", "--sysctl", "sloppy_tcp=1",
                   *(word for server in lab.servers for word in ("--real", server.address))]
        director = lab.start_director(*options)
        held = [hold(lab.client, lab.vip, HOLD) for _ in range(4)]
        kill(director)
        lab.start_director(*options)

        assert all(still_answers(sock) for _, sock in held)
        assert hold(lab.client, lab.vip, HOLD)[0] == held[0][0]


def test_a_director_without_a_service_takes_the_rules_of_a_killed_one_out(lab):
    kill(lab.start_director(*NAT))
    assert "NFQUEUE" in lab.director.run(["iptables-save"]).stdout

    lab.start_director("serve")

    wait_until(lambda: "NFQUEUE" not in lab.director.run(["iptables-save"]).stdout)
