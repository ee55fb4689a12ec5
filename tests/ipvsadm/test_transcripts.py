"""What the real ipvsadm and a real kernel said, lbq-ipvsadm says, byte for byte (tests/vectors/ipvsadm)."""
from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lbq.ipvsadm import words
from lbq.show import ipvs, proc
from tests.helpers import transcripts

VECTORS = Path(__file__).parents[1] / "vectors" / "ipvsadm"
VIP = "192.168.0.100"
# What the recordings left out: before a section, or before the command of it that has the number.  What keepalived
# did to the kernel directly is here, too.
BEFORE = {
    "01-listings-config-daemon.txt": {
        "restore-roundtrip": ["ipvsadm -S -n > /run/save1"],
        "edit": ["ipvsadm -C"]},
    "03-restore-edit.txt": {
        "restore": [f"echo {line} >> /run/r1" for line in (
            "-A -t 192.168.0.100:80 -s rr", "-a -t 192.168.0.100:80 -r 10.0.0.11:80 -m",
            "-a -t 192.168.0.100:80 -r 10.0.0.12:80 -m -w 2", "-A -u 192.168.0.100:53 -s wrr",
            "-a -u 192.168.0.100:53 -r 10.0.0.12:53 -m")],
        "roundtrip-full": [
            "ipvsadm -A -t 192.168.0.100:80 -s rr",
            "ipvsadm -a -t 192.168.0.100:80 -r 10.0.0.11:80 -m -w 5 -x 100 -y 50",
            "ipvsadm -A -t 192.168.0.100:443 -p -M 255.255.255.0",
            "ipvsadm -a -t 192.168.0.100:443 -r 10.0.0.11:443",
            "ipvsadm -A -u 192.168.0.100:53 -s sh -b sh-port",
            "ipvsadm -a -u 192.168.0.100:53 -r 10.0.0.11:53 -i --tun-type gue --tun-port 6080 --tun-csum",
            "ipvsadm -A -u 192.168.0.100:5060 -s rr -p 60 --pe sip -o",
            "ipvsadm -A -t [2001:db8::100]:80 -s rr",
            "ipvsadm -a -t [2001:db8::100]:80 -r [2001:db8:1::11]:80 -m",
            "ipvsadm -A -t [2001:db8::100]:443 -s lc -b flag-2",
            "ipvsadm -A -f 1 -s mh -b mh-fallback,mh-port", "ipvsadm -a -f 1 -r 10.0.0.11 -m",
            "ipvsadm -A -f 9 -6 -s rr -p 50 -M 64", "ipvsadm -a -f 9 -6 -r 2001:db8:1::11 -m"]},
    "04-errors-service-options.txt": {
        "errors": ["ipvsadm -A -t 192.168.0.100:80 -s rr", "ipvsadm -A -u 192.168.0.100:53 -s rr"]},
    "09-keepalived-2.2.7.txt": {
        "started": [
            "ipvsadm --set 800 60 100", f"ipvsadm -A -t {VIP}:80 -s wrr",
            f"ipvsadm -a -t {VIP}:80 -r 10.0.0.11:80 -m -w 3", f"ipvsadm -a -t {VIP}:80 -r 10.0.0.12:8080 -m",
            f"ipvsadm -A -t {VIP}:443 -p -M 255.255.255.0", f"ipvsadm -a -t {VIP}:443 -r 10.0.0.11 -w 10",
            f"ipvsadm -a -t {VIP}:443 -r 10.0.0.12", "ipvsadm -A -u [2001:db8::100]:53 -s rr -o",
            "ipvsadm -a -u [2001:db8::100]:53 -r 2001:db8:1::11 -m", "ipvsadm -A -f 5 -s sh -b sh-port",
            "ipvsadm -a -f 5 -r 10.0.0.11 -i"],
        "rs2-down-inhibit": [f"ipvsadm -e -t {VIP}:80 -r 10.0.0.12:8080 -m -w 0"],
        "rs1-down-quorum-lost": [f"ipvsadm -d -t {VIP}:80 -r 10.0.0.11:80",
                                 f"ipvsadm -a -t {VIP}:80 -r 10.0.0.254:8080 -m"],
        "back": [f"ipvsadm -a -t {VIP}:80 -r 10.0.0.11:80 -m -w 3", f"ipvsadm -d -t {VIP}:80 -r 10.0.0.254:8080",
                 f"ipvsadm -e -t {VIP}:80 -r 10.0.0.12:8080 -m"],
        "misc-dynamic": [f"ipvsadm -e -t {VIP}:443 -r 10.0.0.11 -w 50"],
        "misc-dynamic 1": [f"ipvsadm -d -t {VIP}:443 -r 10.0.0.11"],
        "misc-dynamic 2": [f"ipvsadm -a -t {VIP}:443 -r 10.0.0.11 -w 10"],
        "reload-remove-rs": [f"ipvsadm -e -t {VIP}:80 -r 10.0.0.11:80 -m -w 7",
                             f"ipvsadm -e -t {VIP}:443 -r 10.0.0.11 -w 0"],
        "stop": ["ipvsadm -C"]},
}


def play(shell, name: str, *sections: str) -> None:
    """Play *sections* of a transcript, each after what was left out of the recording."""
    entries = transcripts.read(VECTORS / name)
    for section in sections:
        for number, entry in enumerate(entry for entry in entries if entry.section == section):
            place = f"{section} {number}" if number else section
            for line in BEFORE.get(name, {}).get(place, ()):
                assert shell.run(line)[-1] == "[exit 0]", line
            if not entry.command.startswith(OTHER_PROGRAMS):
                assert shell.run(entry.command) == entry.lines, f"{place}: $ {entry.command}"


OTHER_PROGRAMS = ("modprobe",)


@pytest.fixture(autouse=True)
def kernels_salt(monkeypatch):
    """Mix into the hash what the recorded kernel did."""
    monkeypatch.setattr(ipvs, "SALT", 112)


@pytest.mark.parametrize(("name", "sections"), [
    ("01-listings-config-daemon.txt", ("empty", "config", "listings", "save", "edit")),
    ("03-restore-edit.txt", ("restore", "restore-comment", "restore-errors", "roundtrip-full", "edit")),
    ("04-errors-service-options.txt", ("errors", "add-server-errors", "service-errors", "cmd-errors", "popt-forms")),
    ("09-keepalived-2.2.7.txt", ("started", "rs2-down-inhibit", "rs1-down-quorum-lost", "back", "misc-dynamic",
                                 "reload-remove-rs", "stop")),
    ("11-words-values-restore.txt", ("words", "values", "more", "legality", "restore")),
])
def test_a_session_is_answered_as_by_the_real_tool(shell, name, sections):
    play(shell, name, *sections)


@pytest.mark.parametrize(("name", "command"), [("help.txt", "ipvsadm -h"), ("noargs.txt", "ipvsadm")])
def test_what_was_recorded_without_its_command(shell, name, command):
    assert shell.run(command) == [*(VECTORS / name).read_text().splitlines(), "[exit 0]"]


def test_proc_net_ip_vs_is_shaped_as_the_kernels(shell, director):
    play(shell, "01-listings-config-daemon.txt", "config")
    lines = list(proc.services(ipvs.kernel_order(director.connect().call("list"))))

    assert lines == (VECTORS / "proc_net_ip_vs.txt").read_text().splitlines()


def test_who_is_not_root_is_told_so_before_anything_else(monkeypatch):
    """But help needs no root here: the one recorded line that is left out."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    entries = [entry for entry in transcripts.read(VECTORS / "06-nonroot-legality-matrix.txt")
               if entry.section == "nonroot" and " -h" not in entry.command]
    assert len(entries) == 11
    for entry in entries:
        assert transcripts.said(*transcripts.run(None, entry.command.partition("/sbin/")[2].split())) == entry.lines


@pytest.mark.parametrize("words", ["-h", "--help", "-v", "--version"])
def test_help_needs_neither_root_nor_a_director(monkeypatch, words):
    monkeypatch.setattr(os, "geteuid", lambda: 65534)

    out, error, status = transcripts.run(None, ["ipvsadm", words])
    assert (out.splitlines()[0], error, status) == (
        "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)", "", 0)


# The words that say an option of ORDER, and those that a command needs to be legal otherwise.
SAYING = {"service-address": "-u 1.2.3.4:80", "scheduler": "-s rr", "persistent": "-p", "netmask": "-M 255.0.0.0",
          "real-server": "-r 1.2.3.4:80", "forwarding-method": "-m", "weight": "-w 1", "u-threshold": "-x 1",
          "l-threshold": "-y 1", "mcast-interface": "--mcast-interface eth0", "syncid": "--syncid 1",
          "pe": "--pe sip", "sched-flags": "-b flag-1", "mcast-group": "--mcast-group 224.0.0.81",
          "mcast-port": "--mcast-port 1", "mcast-ttl": "--mcast-ttl 1", "sync-maxlen": "--sync-maxlen 99",
          "tun-type": "--tun-type ipip", "tun-port": "--tun-port 1"}
NEEDS = {"-A": "-u", "-E": "-u", "-D": "-u", "-a": "-u -r", "-e": "-u -r", "-d": "-u -r", "--set": "1 2 3",
         "--start-daemon": "master", "--stop-daemon": "master"}
VALUES = {"-u": "-u 1.2.3.4:80", "-r": "-r 1.2.3.4:80"}


def test_every_option_is_as_legal_with_every_command_as_in_the_real_tool():
    """The recorded matrix has a row for each command and a column for each option, --sort being the last."""
    rows = [line.split(": ", 1) for line in (VECTORS / "06-nonroot-legality-matrix.txt").read_text().splitlines()
            if line.startswith("-") and ": " in line]
    assert len(rows) == 14
    for command, cells in rows:
        cells = re.findall(r"2\((?:[^)]*)\)|\S+", cells)
        for name, cell in zip([*words.ORDER, "sort"], cells, strict=True):
            said = SAYING.get(name) or f"--{words.ORDER[name][0].long if name in words.ORDER else name}"
            needed = " ".join(VALUES.get(word, word) for word in NEEDS.get(command, "").split()
                              if VALUES.get(word) != said)
            assert legality(f"{command} {needed} {said}".split(), name) == cell, (command, name)


def legality(line: list[str], name: str) -> str:
    """Return what a cell of the matrix says of *line*."""
    try:
        words.parse(line)
    except words.Mistake as mistake:
        if str(mistake).startswith(f"Illegal '{name}' option"):
            return "x"
        return f"2({name}:{mistake})"
    return "."
