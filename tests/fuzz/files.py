"""Any bytes in files that lbq reads: undo.json, realserver.json, the lock, a user's scheduler, captures, saved tables;
and an answer.

What is damaged is not believed, or refused with one line; what is believed can be used.
"""
from __future__ import annotations

import contextlib
import copy
import dataclasses
import fcntl
import io
import ipaddress
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import lbq.host.setup
from lbq import realserver, replay
from lbq.control import client
from lbq.errors import DirectorRunning, LbqError
from lbq.host import undo
from lbq.lock import DirectoryLock
from lbq.log import one_line
from lbq.model import FAMILY_NAMES
from lbq.schedulers import create
from lbq.whatif import command as whatif
from tests.fuzz import control, mutate
from tests.helpers.captures import connection, csv, in_order, pcap, pcapng, question, sctp
from tests.helpers.engines import ENGINES
from tests.helpers.tables import DNS, VIP, filled, taken

FILES = 40
PLAYED = 4             # captures, and tables; each needs a director
RECORD = dataclasses.asdict(dataclasses.replace(
    undo.begin(3, {"inet": {"raw": ["PREROUTING"], "mangle": []}, "inet6": {"raw": []}}),
    programs={"inet": "/usr/sbin/iptables-nft-restore", "inet6": "/usr/sbin/ip6tables-nft-restore"},
    sysctls={"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"},
    addresses=[["192.168.10.1", "eth0"], ["2001:db8::1", "eth0"]]))
REAL_SERVER = {"here": realserver._here(), "sysctls": {"net/ipv4/conf/all/arp_ignore": "0"},
               "addresses": ["192.168.10.1", "2001:db8::1"], "device": False}
ANSWER = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no", "data": {"kind": "NoSuchServer"}}}
SCHEDULER = b'''\
from lbq.schedulers.base import Scheduler


class Mine(Scheduler):
    name = "mine"

    def schedule(self, service, flow):
        for server in service.servers:
            if server.can_schedule():
                return server
        return None
'''
FLOWS = in_order(connection("10.0.0.9:40000", "192.168.10.1:80", 0, 30, data=2),
                 question("10.0.0.9:1", "10.0.0.1:53", 1, 2),
                 connection("[2001:db8::9]:40000", "[2001:db8::1]:80", 1, 9),
                 [(3, sctp("10.0.0.9:1", "10.0.0.1:9", 1)), (4, sctp("10.0.0.1:9", "10.0.0.9:1", 2))])
FRAMES = [(moment, bytes(12) + b"\x81\0\0\7" + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet)
          for moment, packet in FLOWS]
CUT = [(40, FLOWS[0][1][:30])]      # by a snap length: no whole TCP header, and the file ends there
CAPTURES = (pcap(FLOWS), pcap([*FLOWS, *CUT]), pcap(FRAMES, link=1, order=">", nano=True), pcapng(FLOWS),
            pcapng(FRAMES, link=1, order=">"),
            csv("0,10.0.0.9,30,7,900,tcp:192.168.10.1:80", "1.5,[2001:db8::9]:5,9e1,,,udp:[2001:db8::1]:53",
                header="start,client,duration,packets,bytes,destination").encode())
TABLE = taken(filled(ENGINES["reference"](max_connections=1024, profile="new"), "sh"))
CHANGES = (f"del server {VIP} 192.168.20.1", f"set server udp:{DNS} 192.168.20.1,weight=0",
           f"add server {VIP} 192.168.20.9", f"del service {VIP}", "sysctl expire_nodest_conn=1")
WORDS = (b"raise", b"return", b"class", b"\0", b"\xff", b"(", b":", b"1 / 0", b"raise SystemExit(3)",
         b"# coding: utf-7\n", b"[" * 500, b"del Scheduler", b"name = 5", b"def __init__(self, x): pass",
         b"__new__ = None", b"\t", b"'''", b"\\")


def play(seed: int, counted: Counter, tell=lambda content: None) -> None:
    """Play case *seed*; *tell* is called with the content of each file."""
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        lbq.host.setup.state_directory = realserver.state_directory = lambda: Path(folder)
        for _ in range(FILES):
            for valid, name, read in ((RECORD, undo.NAME, read_undo), (REAL_SERVER, realserver.FILE, read_real_server)):
                content = damaged_json(choose, valid)
                tell(content)
                Path(folder, name).write_bytes(content)
                read(Path(folder))
                Path(folder, name).unlink()
            answer = damaged_json(choose, ANSWER) + choose.choice((b"\n", b""))
            tell(answer)
            with contextlib.suppress(LbqError):
                client._result("list", answer)
            source = damaged(choose, SCHEDULER)
            tell(source)
            load_scheduler(Path(folder, "mine.py"), source)
            lock_with(Path(folder, "locked"), choose.randbytes(choose.randrange(70)))
            counted["files"] += 5
        for _ in range(PLAYED):
            captured = damaged(choose, choose.choice(CAPTURES))
            tell(captured)
            counted["played"] += play_capture(Path(folder, "captured"), captured)
            saved = damaged_json(choose, TABLE)
            tell(saved)
            counted["foretold"] += foretell(Path(folder, "table"), saved, choose.choice(CHANGES))
            counted["files"] += 2


def damaged_json(choose: random.Random, valid: dict) -> bytes:
    """Return JSON in which a value somewhere is another, or that is none any more."""
    value = json.loads(json.dumps(valid))
    for _ in range(choose.choice((0, 1, 1, 2))):
        where = choose.choice(list(_parts(value)))
        if isinstance(where, list):
            where[choose.randrange(len(where) + 1):] = [copy.deepcopy(choose.choice(control.ODD))]
        elif where:
            name = choose.choice([*where])
            where[name] = copy.deepcopy(choose.choice(control.ODD))
            if choose.random() < 0.2:
                del where[name]
    content = json.dumps(value).encode()
    if choose.random() < 0.05:
        return choose.choice((b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000))
    return damaged(choose, content) if choose.random() < 0.3 else content


def _parts(value: dict | list) -> Iterator[dict | list]:
    """Give *value*, and all lists and dicts in it."""
    yield value
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            yield from _parts(part)


def damaged(choose: random.Random, valid: bytes) -> bytes:
    """Return *valid* with some bytes changed and a word that does not belong there."""
    data = bytearray(valid)
    for _ in range(choose.choice((0, 1, 3))):
        mutate.anything(choose, data, valid)
    for _ in range(choose.choice((0, 1, 1, 2))):
        at = choose.randrange(len(data) + 1)
        data[at:at] = choose.choice(WORDS)
    return bytes(data)


def read_undo(folder: Path) -> None:
    """Expect a record that can be undone, or none."""
    record = undo.load(folder)
    if record is not None:
        words = *record.sysctls, *record.sysctls.values(), *record.programs.values()
        assert all(isinstance(text, str) for text in words)
        for address, device in record.addresses:
            assert ipaddress.ip_address(address) and isinstance(device, str)
        assert set(record.base_chains) == set(FAMILY_NAMES.values()) >= set(record.programs)
        assert all(isinstance(chain, str) for tables in record.base_chains.values() for chains in tables.values()
                   for chain in chains)


def read_real_server(folder: Path) -> None:
    """Expect a record that can be undone, none, or one line."""
    with contextlib.suppress(LbqError):
        record = realserver._load()
        if record is None:
            return
        assert all(ipaddress.ip_address(vip) for vip in record["addresses"])
        assert all(isinstance(text, str) for text in (*record["sysctls"], *record["sysctls"].values()))
        assert isinstance(record["device"], bool)


def load_scheduler(path: Path, source: bytes) -> None:
    """Expect a scheduler, or one line about what is wrong with its file."""
    path.write_bytes(source)
    with contextlib.suppress(LbqError):
        scheduler = create(f"{path}:Mine")
        assert callable(scheduler.schedule) and isinstance(scheduler.name, str)


def play_capture(path: Path, content: bytes) -> bool:
    """Expect tables about the flows in *content*, or one line; return whether there were any."""
    path.write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(io.StringIO()):
        try:
            assert replay.main([str(path), "--scheduler", "wlc", "--partial", "--slices", "3"]) == 0
        except LbqError as error:
            assert "\n" not in str(error)
            return False
    assert "share of new flows" in told.getvalue()
    return True


def foretell(path: Path, content: bytes, change: str) -> bool:
    """Expect what a change would do to the table in *content*, or one line; return whether it was believed."""
    path.write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        try:
            assert whatif.main(["--table", str(path), "--list", change]) == 0
        except LbqError as error:
            assert "\n" not in one_line(str(error))
            return False
    assert told.getvalue().startswith(f"if: {change}\n")
    return True


def lock_with(folder: Path, content: bytes) -> None:
    """Expect that a lock is a lock whatever is written in it."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, content)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            with DirectoryLock(folder):
                raise AssertionError("two directors")
        except DirectorRunning as error:
            assert "\n" not in str(error)
    finally:
        os.close(descriptor)
    with DirectoryLock(folder):
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"
