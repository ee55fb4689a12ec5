"""Any bytes on the control socket: every line is answered, or hung up on, and the next client is served as ever.

One case is a control server before the real operations, the real channel and the real loop of a fast director; only
the host is a fake, which fails now and then.  A few clients send requests at once: legal ones, some with other values,
names and types, some with bytes changed, cut into pieces, glued together or without an end.
"""
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from lbq import worker
from lbq._fastpath import FastDirector
from lbq.control.channel import PacketProcess
from lbq.control.client import SOCKET_NAME
from lbq.control.kernel import KernelCommands
from lbq.control.operations import Operations
from lbq.control.rows import key_of
from lbq.control.server import LINE_BYTES, ControlServer
from lbq.errors import HostError
from lbq.grammar import format_address
from lbq.model import FAMILY_NAMES
from lbq.netlink import KNOCK
from tests.fuzz import mutate
from tests.fuzz.family import NASTY

CLIENTS = 4
REQUESTS = 25           # of each client
IDLE_SECONDS = 60       # a busy machine is no failure
SERVICES = ("192.168.10.1:80", "tcp:192.168.10.1:21", "udp:192.168.10.1:53", "sctp:192.168.10.1:80", "fwmark:1",
            "192.168.10.2:0", "[2001:db8::1]:80", "tcp:[2001:db8::1]:21", "udp:[2001:DB8:0:0::1]:53", "fwmark:1/6",
            "[::ffff:192.168.10.1]:80", "[fe80::1%lo]:80", "[::]:80", "[2001:db8::1:80", "2001:db8::1:80", "fwmark:1/4",
            "nobody:80", "192.168.10.1", "fwmark:0", "")
SERVERS = ("192.168.20.1", "192.168.20.1:8080", "192.168.20.2,weight=2", "192.168.20.3,mode=dr",
           "192.168.20.4,weight=0", "192.168.20.5,mode=tun,tunnel=gue,tunnel-port=6080",
           "192.168.20.1,upper=9,lower=3", "192.168.20.9:0", "[2001:db8:20::1]", "2001:db8:20::1",
           "[2001:db8:20::1]:8080", "[2001:db8:20::2]:80,mode=dr", "[2001:db8:20::5],mode=tun,tunnel=gre,tunnel-csum",
           "[2001:db8:20::5],mode=tun", "192.168.20.5,mode=tun", "[fe80::1],mode=dr", "[ff02::1]", "[2001:db8::1]:80",
           "", ",", "192.168.20.1,weight=99999999999",
           "10.0.0.1," + "weight=1," * 100)
ADDRESSES = ("192.168.10.1", "192.168.10.2", "0.0.0.0", "2001:db8::1", "2001:db8::2", "::", "::ffff:192.168.10.1",
             "fe80::1", "::1%lo", "192.168.10.256")
ENDS = ("192.168.10.9:40000", "192.168.10.1:80", "192.168.10.2:9", "192.168.20.1:80", "192.168.10.1:53", "0.0.0.0:0",
        "255.255.255.255:65535", "[2001:db8::1]:80", "[2001:db8::9]:1", "[::]:0", "[ff02::1]:5353",
        "192.168.10.1:99999", "192.168.10.1", "", "nobody:80")
STATES = ("ESTABLISHED", "assured", "udp", "c-sent", "x", "")
DEEDS = ("add", "add", "edit", "delete", "zero", "sing")
SCHEDULERS = ("rr", "wlc", "mh", "twos", NASTY, NASTY.replace("Nasty", "Deadly"), "/dev/zero.py:X", "wcl", "")
SYSCTLS = ("conn_reuse_mode=0", "net.ipv4.vs.drop_entry=3", "expire_nodest_conn=1", "sync_ports=1", "amemthresh", "=",
           "am_droprate=0", "lblc_expiration=2147483648")
SETTINGS = {"scheduler": SCHEDULERS, "persistent": (0, 300, 10**9, -1, True), "ops": (True, False, None),
            "netmask": ("255.255.255.0", "24", "64", "128", "129", 64, 0xFFFFFF00, "0", "255.0.255.0", 2**40),
            "mode": ("nat", "dr", "tun", "x"),
            "scheduler_flags": ([], ["mh-port"], ["sh-fallback", "sh-fallback"], [1], ["x"]), "nonsense": (1,)}
ODD = (None, True, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e400, "", "\0", "\ud800", "é", "x" * 5000, [], {},
       [[]], {"a": {}}, "192.168.10.1:80")


class Host:
    """A host that does as it is told, and sometimes cannot."""

    def __init__(self, choose: random.Random):
        self.choose = choose

    async def call(self, name: str, *args):
        """Do nothing, or fail."""
        await asyncio.sleep(0)
        if self.choose.random() < 0.05:
            raise HostError("ipset said no")
        return False        # what is asked is only whether an address is a broadcast's


def play(seed: int, counted: Counter, tell=lambda line: None) -> None:
    """Play case *seed*; *tell* is called with what is sent before it is sent."""
    descriptors = os.listdir("/proc/self/fd")
    asyncio.run(_play(random.Random(seed), counted, tell))
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


async def _play(choose: random.Random, counted: Counter, tell) -> None:
    with tempfile.TemporaryDirectory() as folder, packet_process() as process:
        operations = Operations(process, Host(choose), {"queue": 0, "version": "1", "pid": 1, "engine": "fast"})
        methods = operations.methods() | KernelCommands(operations).methods()
        server = ControlServer(Path(folder, SOCKET_NAME), methods, IDLE_SECONDS)
        await server.start()
        try:
            await asyncio.gather(*(converse(random.Random(choose.getrandbits(64)), server.path, counted, tell)
                                   for _ in range(CLIENTS)))
            await agree(server.path, operations)
        finally:
            server.close()
            await server.disconnect()


@contextlib.contextmanager
def packet_process():
    """Give a packet process whose other end is a thread here, with an engine that no packet comes to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nobody, quiet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    engine = FastDirector(max_connections=100)
    engine.attach(quiet, 0)
    thread = threading.Thread(target=worker.serve, args=(engine, theirs))
    thread.start()
    try:
        process = PacketProcess(SimpleNamespace(), ours)
        process.door.close()
        process.door = SimpleNamespace(knock=lambda: nobody.send(KNOCK), close=nobody.close)
        yield process
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        ours.close()
        process.door.knock()
        thread.join()
        for end in (theirs, nobody, quiet):
            end.close()


async def converse(choose: random.Random, path: Path, counted: Counter, tell) -> None:
    """Send requests, most of them wrong, over a few connections; look at every answer."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    for number in range(REQUESTS):
        lines = b"".join(request(choose) for _ in range(choose.choice((1, 1, 2, 20))))
        if choose.random() < 0.2:
            lines = lines[:choose.randrange(len(lines))]
        if choose.random() < 0.02:
            lines += b"x" * choose.choice((LINE_BYTES - 1, LINE_BYTES + 1, 3 * LINE_BYTES))
        tell(lines)
        counted["bytes"] += len(lines)
        last = json.dumps({"jsonrpc": "2.0", "id": f"last {number}", "method": "status"}).encode()
        if choose.random() < 0.1:       # one who leaves in the middle
            writer.write(lines)
            writer.close()
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
            continue
        with contextlib.suppress(ConnectionError):
            await send(choose, writer, lines + b"\n" + last + b"\n")
        if not await answers(reader, f"last {number}", counted):
            assert max(map(len, lines.split(b"\n"))) >= LINE_BYTES - 1, "hung up on for no reason"
            writer.close()
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    writer.close()


async def send(choose: random.Random, writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send *data* in one piece or in several."""
    at = 0
    while at < len(data):
        size = choose.choice((1, 100, 1 << 20, 1 << 20))
        writer.write(data[at:at + size])
        await writer.drain()
        await asyncio.sleep(0)
        at += size


async def answers(reader: asyncio.StreamReader, last: str, counted: Counter) -> bool:
    """Read answers, each of which must be one, up to that with the id *last*; return False at an end before it."""
    while True:
        try:
            line = await asyncio.wait_for(reader.readline(), IDLE_SECONDS)
        except ConnectionError:
            return False
        if not line:
            return False
        answer = json.loads(line)
        counted["answers"] += 1
        assert answer["jsonrpc"] == "2.0" and len(answer) == 3 and ("result" in answer) != ("error" in answer), answer
        error = answer.get("error", {"code": -32000, "message": ""})
        assert error["code"] in (-32700, -32600, -32601, -32602, -32000), answer
        assert "in the packet process" not in error["message"], answer
        if answer["id"] == last:
            assert "result" in answer
            return True


async def agree(path: Path, operations: Operations) -> None:
    """Expect the engine's services and servers to be those that the operations believe in."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    writer.write(b'{"jsonrpc": "2.0", "id": 1, "method": "list"}\n')
    rows = json.loads(await reader.readline())["result"]
    writer.close()
    known = {key_of(row): row for row in rows}
    assert set(known) == set(operations.services)
    for key, row in known.items():
        servers = {(server["family"], server["address"], server["port"], server["weight"]) for server in row["servers"]}
        assert servers == {(FAMILY_NAMES[words.family], format_address(words.address, words.family), words.port,
                            words.weight)
                           for place, words in operations.servers.items() if place[0] == key}


def request(choose: random.Random) -> bytes:
    """Return a line: a legal request, or one in which something was changed."""
    method, params = choose.choice((
        ("status", {}), ("list", {}), ("stats", {}), ("totals", {}),
        ("clear", {}) if choose.random() < 0.1 else ("status", {}),
        *[(name, {"cursor": choose.choice((0, 1, 99, 1 << 17)), "limit": choose.choice((1, 256, 10**6))})
          for name in ("connections", "list_page")],
        ("add_service", {"service": choose.choice(SERVICES), **settings(choose)}),
        ("set_service", {"service": choose.choice(SERVICES), **settings(choose)}),
        ("delete_service", {"service": choose.choice(SERVICES)}),
        *[(name, {"service": choose.choice(SERVICES), "server": choose.choice(SERVERS)})
          for name in ("add_server", "add_server", "set_server", "delete_server")],
        ("zero", {"service": choose.choice((None, *SERVICES))}),
        ("sysctl", {"settings": [choose.choice(SYSCTLS) for _ in range(choose.randrange(3))]}),
        ("drain", {"service": choose.choice(SERVICES), "server": choose.choice(SERVERS), "end_after": choose.choice(
            (None, 0, 9)), "delete": choose.random() < 0.5}),
        ("end_connections", {choose.choice(("service", "server", "client", "state")): choose.choice(
            (*SERVICES, *SERVERS, "ESTABLISHED", None))}),
        ("kernel_service", {"do": choose.choice(DEEDS), "service": row(choose)}),
        ("kernel_server", {"do": choose.choice(DEEDS), "service": row(choose), "server": server_row(choose)}),
        ("replace", {"services": [row(choose) for _ in range(choose.randrange(3))], "timeouts": {"udp": 9},
                     "dry_run": choose.random() < 0.3}),
        ("timeouts", {"tcp": choose.choice((0, 900)), "tcpfin": 0, "udp": choose.choice((0, 1, 300))}),
        *[("look", {"protocol": choose.choice(("tcp", "udp", "sctp", "icmp")), "source": choose.choice(ENDS),
                    "destination": choose.choice(ENDS), "fwmark": choose.choice((0, 0, 1, 2**32))}) for _ in range(2)],
        ("trace_start", {choose.choice(("client", "server", "service", "state")): choose.choice(
            (*SERVICES, *SERVERS, *STATES, None)), "every": choose.choice((1, 7, 0, 2**31, 2**32))}),
        *[(name, {"trace": choose.choice((1, 2, 3, 99, -1))}) for name in ("trace_read", "trace_stop")],
    ))
    wanted = {"jsonrpc": "2.0", "id": choose.choice((1, "a", 10**30)), "method": method, "params": params}
    if choose.random() < 0.4:
        where = choose.choice((wanted, params, *(value for value in params.values() if isinstance(value, dict))))
        name = choose.choice([*where, "more"])
        where[name] = choose.choice(ODD)
        if choose.random() < 0.2:
            del where[name]
    line = json.dumps(wanted).encode()
    if choose.random() < 0.3:
        data = bytearray(line)
        mutate.anything(choose, data, choose.randbytes(30))
        line = bytes(data).replace(b"\n", b" ")
    if choose.random() < 0.005:
        line = choose.choice((b"[", b'{"":', b"9", b"\xff")) * choose.choice((5000, 10_000))
    return line + b"\n"


def row(choose: random.Random) -> dict:
    """Return a service as a listing has it."""
    return {"protocol": choose.choice(("tcp", "udp", "sctp")), "address": choose.choice(ADDRESSES),
            "port": choose.choice((80, 21, 53, 0)), "fwmark": choose.choice((0, 0, 0, 1)),
            "scheduler": choose.choice(SCHEDULERS), "flags": choose.choice(([], ["persistent"], ["ops"], ["sched1"])),
            "timeout": choose.choice((0, 300)),
            "netmask": choose.choice(("255.255.255.255", "255.0.255.0", "128", "64", "0")),
            "pe": choose.choice(("", "", "sip", "x")),
            "servers": [server_row(choose) for _ in range(choose.randrange(3))]}


def server_row(choose: random.Random) -> dict:
    """Return a server as a listing has it."""
    return {"address": choose.choice(("192.168.20.1", "192.168.20.2", "0.0.0.0", "2001:db8:20::1", "2001:db8:20::2",
                                      "::")),
            "port": choose.choice((80, 8080, 0)), "weight": choose.choice((0, 1, 2**31 - 1)),
            "mode": choose.choice(("nat", "dr", "tun")), "upper": choose.choice((0, 5)),
            "lower": choose.choice((0, 0, 9)), "tunnel": choose.choice(("ipip", "gue", "gre")),
            "tunnel_port": choose.choice((0, 6080)),
            "tunnel_flags": choose.choice(("nocsum", "csum", "remcsum", "x"))}


def settings(choose: random.Random) -> dict:
    """Return some settings of a service."""
    return {name: choose.choice(values) for name, values in SETTINGS.items() if choose.random() < 0.2}
