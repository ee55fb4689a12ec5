"""What a machine can lack or hold already: one line with the cure, status 2, and the host is as it was."""
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.errors.conftest import GOOD
from tests.helpers.processes import director_in

WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
ANOTHER_PROGRAM = """
import sys, time
from lbq.netlink import open_queue
held = open_queue(int(sys.argv[1]), 1024, 1 << 20)
print("ready", flush=True)
time.sleep(600)
"""
ANOTHER_USER = """
import os, sys
import lbq.cli, lbq.control.client, lbq.host.setup, lbq.show.table      # while we may still read them
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(lbq.cli.main(sys.argv[1:]))
"""
KERNEL_WITHOUT = """
import sys
from lbq.host import probes
known = probes.EXTENSIONS[0]
probes.EXTENSIONS = ((known[0], "NFQUEUE9", *known[2:]),)      # this kernel has none of that name
from lbq.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("prefix", [WITHOUT_CAPABILITIES, ("unshare", "--user")],
                         ids=["root without capabilities", "another user"])
def test_without_root_a_director_does_not_start(machine, prefix):
    machine.assert_refuses(*GOOD, before=prefix, saying="run lbq as root")


@pytest.mark.parametrize("prefix", [WITHOUT_CAPABILITIES, ("unshare", "--user")],
                         ids=["root without capabilities", "another user"])
def test_without_root_there_is_no_cleanup(machine, prefix):
    machine.assert_refuses("cleanup", before=prefix, saying="run lbq as root")


@pytest.mark.parametrize("prefix", [WITHOUT_CAPABILITIES, ("setpriv", "--reuid=65534")],
                         ids=["root without capabilities", "another user"])
def test_without_root_nothing_is_measured(machine, prefix):
    machine.assert_refuses("bench", "--columns", "plain", before=prefix, saying="cannot make network namespaces: ")


def test_without_root_mistakes_come_first(machine):
    machine.assert_refuses("--vip", "192.168.10.1:80", "--mode", "natt", before=WITHOUT_CAPABILITIES,
                           saying="did you mean 'nat'?")


def test_another_user_may_not_speak_to_the_director(machine):
    with director_in(machine.host, *GOOD):
        done = machine.host.run([sys.executable, "-c", ANOTHER_USER, "list"], check=False, timeout=30)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lbq: cannot speak to the director: Permission denied; only root may (try sudo)\n"


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("add", "--help")], ids=" ".join)
def test_help_needs_no_root(machine, words):
    done = machine.lbq(*words, before=WITHOUT_CAPABILITIES)

    assert (done.returncode, done.stderr) == (0, "")
    assert machine.picture() == machine.before


def test_a_kernel_without_the_queue_is_told_which_module(machine):
    done = machine.host.run([sys.executable, "-c", KERNEL_WITHOUT, *GOOD], check=False, timeout=30)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lbq: this kernel has no iptables target NFQUEUE9, which hands packets")
    assert "modprobe xt_NFQUEUE" in done.stderr and done.stderr.count("\n") == 1
    assert machine.picture() == machine.before


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_queue_that_another_program_holds_is_named(machine, engine):
    other = machine.host.popen([sys.executable, "-c", ANOTHER_PROGRAM, 7])
    other.wait_for("ready")

    machine.assert_refuses(*GOOD, "--engine", engine, "--queue", "7",
                           saying="cannot bind NFQUEUE 7: another program")


def test_another_queue_is_free_while_one_is_held(machine):
    other = machine.host.popen([sys.executable, "-c", ANOTHER_PROGRAM, 7])
    other.wait_for("ready")

    with director_in(machine.host, *GOOD, "--queue", "8"):
        assert "192.168.10.1:80" in machine.lbq("list").stdout


def test_missing_iptables_names_the_package(machine):
    """For real: nothing lies where the program was, in a mount namespace of its own."""
    folders = {str(Path(shutil.which("iptables-restore")).parent), "/usr/sbin", "/sbin"}
    hide = " && ".join(f"mount -t tmpfs none {folder}" for folder in sorted(folders))
    prefix = ("unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh")

    machine.assert_refuses(*GOOD, before=prefix, saying="cannot find iptables-restore")


def test_an_iptables_that_fails_is_quoted(machine, tmp_path):
    broken = tmp_path / "iptables-restore"
    broken.write_text("#!/bin/sh\necho 'Segmentation fault in xtables' >&2\nexit 3\n")
    broken.chmod(0o755)

    machine.assert_refuses(*GOOD, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
                           saying="iptables-restore refused: Segmentation fault in xtables")


def test_an_iptables_that_refuses_the_rules_leaves_nothing_behind(machine, tmp_path):
    """It works for every question; only the rules themselves fail, when sets and sysctls are in already."""
    real = shutil.which("iptables-restore")
    (tmp_path / "iptables-save").symlink_to(shutil.which("iptables-save"))
    picky = tmp_path / "iptables-restore"
    picky.write_text(f"""#!/bin/sh
case "$*" in *noflush*) cat >{tmp_path}/rules; if grep -q NFQUEUE {tmp_path}/rules; then
  echo "no rules today" >&2; exit 1; fi; exec {real} "$@" <{tmp_path}/rules;; esac
exec {real} "$@"
""")
    picky.chmod(0o755)

    done = machine.lbq(*GOOD, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "lbq: iptables-restore refused: no rules today"
    assert "Traceback" not in done.stderr
    assert machine.picture() == machine.before


def test_a_second_director_is_refused_and_the_first_goes_on(machine):
    with director_in(machine.host, *GOOD) as first:
        machine.before = machine.picture()
        machine.assert_refuses(*GOOD, saying="a director already runs in this network namespace "
                                             f"(pid {first.pid})")
        machine.assert_refuses("cleanup", saying=f"(pid {first.pid})")

        assert "192.168.20.1:80" in machine.lbq("list").stdout


def test_a_service_that_the_host_cannot_take_leaves_nothing_behind(machine):
    """Its VIP cannot be put on the device, which is gone; its set entry must not stay."""
    with director_in(machine.host, "serve", "--add-vip", "eth0"):
        machine.lbq("add", "service", "192.168.20.254:80")
        machine.host.run(["ip", "link", "del", "eth0"])
        machine.before = machine.picture()
        machine.assert_refuses("add", "service", "192.168.30.1:80", saying="cannot add 192.168.30.1 to eth0")
        machine.assert_refuses("add", "service", "192.168.30.1:80", saying="cannot add 192.168.30.1 to eth0")

        assert "192.168.30.1" not in machine.lbq("list").stdout


def test_a_first_service_that_the_host_cannot_take_leaves_nothing_behind(machine):
    """With the first service come rules, sets and forwarding of its family; without it, none of them."""
    with director_in(machine.host, "serve", "--add-vip", "eth0"):
        machine.host.run(["ip", "link", "del", "eth0"])
        machine.before = machine.picture()
        machine.assert_refuses("add", "service", "192.168.30.1:80",
                               saying="cannot add the VIP to eth0: there is no such network device")

        assert "192.168.30.1" not in machine.lbq("list").stdout


@pytest.mark.parametrize("words", [
    ("--vip", "[2001:db8:10::1]:80", "--mode", "nat"),
    ("--vip", "192.168.10.1:80", "--mode", "tun", "--real", "[2001:db8:20::1]"),
], ids=["service", "server"])
def test_a_machine_without_ipv6_says_so_and_balances_ipv4(machine, words):
    machine.host.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    machine.before = machine.picture()
    machine.assert_refuses(*words, saying="cannot balance IPv6: it is switched off on every interface; switch it on")

    with director_in(machine.host, *GOOD):
        machine.before = machine.picture()
        machine.assert_refuses("add", "service", "[2001:db8:10::1]:80",
                               saying="cannot balance IPv6: it is switched off on every interface")
        machine.assert_refuses("add", "server", "192.168.10.1:80", "[2001:db8:20::1],mode=tun",
                               saying="cannot balance IPv6: it is switched off on every interface")
        assert "192.168.20.1:80" in machine.lbq("list").stdout


def test_missing_ip6tables_names_the_package_and_leaves_ipv4_alone(machine, tmp_path):
    """The programs for IPv4 are there under another folder, those for IPv6 are not."""
    for program in ("restore", "save"):
        (tmp_path / f"iptables-{program}").symlink_to(shutil.which(f"iptables-{program}"))
    environment = {"LBQ_IPTABLES_RESTORE": str(tmp_path / "iptables-restore")}
    saying = f"cannot find {tmp_path}/ip6tables-restore: lbq needs ip6tables to queue packets; install it (apt install"

    machine.assert_refuses("--vip", "[2001:db8:10::1]:80", "--mode", "nat", env=environment, saying=saying)
    with director_in(machine.host, *GOOD, env={**os.environ, **environment}):
        machine.before = machine.picture()
        machine.assert_refuses("add", "service", "[2001:db8:10::1]:80", saying=saying)


def test_a_tunnel_that_the_kernel_ends_is_not_ended_twice(machine):
    name = ["ip", "link", "add", "tunl0", "type", "veth", "peer", "name", "tunl0p"]
    machine.host.run(name, check=False)             # where the kernel has ipip, it is there already
    machine.host.run(["ip", "link", "set", "tunl0", "up"])
    machine.before = machine.picture()

    machine.assert_refuses("decap", "--vip", "192.168.10.254",
                           saying="tunl0 is up and ends IPIP tunnels over IPv4 here")


def test_the_fast_engine_without_compiled_code_is_one_line(machine):
    machine.assert_refuses(*GOOD, env={"LBQ_PURE": "1"}, saying="cannot start --engine fast: LBQ_PURE=1")


def test_a_table_that_does_not_fit_into_memory_is_one_line(machine):
    limit = ("prlimit", f"--as={1 << 30}")

    machine.assert_refuses(*GOOD, "--max-connections", str(1 << 27), before=limit,
                           saying="cannot make a table for 134217728 connections: [Errno 12] Cannot allocate")
