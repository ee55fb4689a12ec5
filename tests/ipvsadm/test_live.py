"""Recorded sessions with traffic: the same packets through an engine give the same listings, byte for byte.

What the clients did was not recorded packet by packet, but what they sent is known from the counters; it is
sent here again, at the times that the listed timers tell.  Left out: what a persistence engine keeps.  Connections
are compared in any order: the kernel's is random.
"""
from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lbq import worker
from lbq.show import proc
from tests.helpers import packets, transcripts
from tests.helpers.engines import ENGINES, LOCAL_OUT, LOOPBACK, NS, POSTROUTING, PREROUTING
from tests.helpers.local_director import LocalDirector

VECTORS = Path(__file__).parents[1] / "vectors" / "ipvsadm"
VIP, RS1, RS2, CLIENT = "192.168.0.100", "10.0.0.11", "10.0.0.12", "192.168.0.2"
ACCEPT, DROP = 1, 0
OPTIONS = bytes(12), bytes(20)      # of a TCP segment, and of one that opens: as Linux sends them
VIP6, RS1_6, RS2_6, CLIENT6 = "[2001:db8::100]", "[2001:db8:1::11]", "[2001:db8:1::12]", "[2001:db8::2]"
# Others' work; and lbq has no sync daemon, counts not by CPU, and its one helper is not a module.
NOT_HERE = ("ip addr", "curl", "cat /proc/net/ip_vs_conn_sync", "cat /proc/net/ip_vs_stats_percpu",
            "cat /proc/net/ip_vs_app")
SYSCTL = re.compile(r"(?:echo (\d+) > |cat )/proc/sys/net/ipv4/vs/(\w+)")


class World:
    """A director with a clock, clients in front of it and servers behind it."""

    def __init__(self, engine, folder, monkeypatch):
        self.director = LocalDirector(engine)
        self.shell = transcripts.Shell(self.director, folder)
        self.engine = engine
        self.engine.limit_icmp(False)
        self.now_ns = 1_000 * NS
        monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic_ns=lambda: self.now_ns))

    def wait(self, seconds: float) -> None:
        """Let time pass; connections end, but the estimator rests until ``round``."""
        self.now_ns += int(seconds * NS)
        self.engine.expire(self.now_ns)

    def round(self) -> None:
        """Let the estimator look."""
        self.engine.tick(self.now_ns)

    def ipvsadm(self, *lines: str) -> None:
        """Carry out command lines that must succeed."""
        for line in lines:
            assert self.shell.run(f"ipvsadm {line}") == ["[exit 0]"], line

    def sends(self, source: str, destination: str, *sent, mark: int = 0, hook: int = PREROUTING, short: bool = False):
        """Send from a client: flags with the number of bytes, or a number of bytes as a datagram; return the last.

        *short* segments have no options.
        """
        return self._send(source, destination, sent, hook, mark, 0, short)

    def answers(self, source: str, destination: str, *sent, hook: int = POSTROUTING, out_device: int = 0,
                short: bool = False):
        """Send from a server."""
        return self._send(source, destination, sent, hook, 0, out_device, short)

    def _send(self, source, destination, sent, hook, mark, out_device, short):
        for what in sent:
            if isinstance(what, int):
                packet = packets.udp(source, destination, bytes(what))
            else:
                flags, length = what if isinstance(what, tuple) else (what, 0)
                options = b"" if short or "R" in flags else OPTIONS["S" in flags]
                packet = packets.tcp(source, destination, flags, bytes(length), options=options)
            verdict = self.engine.handle(packet, hook, 0, out_device, self.now_ns, False, mark)
        return verdict, packet

    def opens(self, client: str, vip: str, server: str, length: int, **how) -> None:
        """Open a connection, send *length* bytes and get as many back."""
        self.sends(client, vip, "S", **how)
        self.answers(server, client, "SA")
        self.sends(client, vip, "A", ("PA", length), **how)
        self.answers(server, client, "A", ("PA", length))
        self.sends(client, vip, "A", **how)

    def gets(self, client: str, vip: str, server: str, asked: int = 18, given: int = 1019) -> None:
        """Get a page; the server closes."""
        self.sends(client, vip, "S")
        self.answers(server, client, "SA")
        self.sends(client, vip, "A", ("PA", asked))
        self.answers(server, client, "A", ("PA", given), "FA")
        self.sends(client, vip, "A", "FA")
        self.answers(server, client, "A")


@pytest.fixture(params=ENGINES)
def world(request, tmp_path, monkeypatch):
    world = World(ENGINES[request.param](profile="classic"), tmp_path, monkeypatch)
    yield world
    world.shell.close()
    world.director.close()


def play(world, name: str, sections: dict[str, dict]) -> None:
    """Play the *sections* of a session; the functions of each happen before the entry of their number."""
    entries = transcripts.read(VECTORS / name)
    for section, happens in sections.items():
        for number, entry in enumerate(entry for entry in entries if entry.section == section):
            if number in happens:
                happens[number](world)
            if entry.command and not entry.command.startswith(NOT_HERE):
                assert comparable(answer(world, entry.command)) == comparable(entry.lines), (
                    f"{section} {number}: $ {entry.command}")


def answer(world, command: str) -> list[str]:
    """Return what *command* prints, as a transcript has it."""
    found = SYSCTL.fullmatch(command)
    if found and found[1] is None:
        return [str(world.engine.sysctls()[found[2]]), "[exit 0]"]
    if found:
        world.engine.set_sysctl(found[2], int(found[1]))
        return ["[exit 0]"]
    client = world.director.connect()
    if command == "cat /proc/net/ip_vs_conn":
        return [*proc.connections(client.connections()), "[exit 0]"]
    if command == "cat /proc/net/ip_vs_stats":
        return [*proc.statistics(client.call("stats")["total"]), "[exit 0]"]
    return world.shell.run(command)


def comparable(lines: list[str]) -> list[str]:
    """Return *lines* without persistence engines, connections in one order."""
    kept = [re.sub(r" +sip +abc123@client$", "", line).replace(" pe sip", "") for line in lines]
    rows = [number for number, line in enumerate(kept) if re.match("(TCP|UDP|SCTP|IP ) ", line) and
            re.search(r"\d\d:\d\d  |([0-9A-F]{8}|[0-9a-f:]{39}) [0-9A-F]{4} ", line)]
    for number, row in zip(rows, sorted(kept[number] for number in rows), strict=True):
        kept[number] = row
    return kept


# ---- Many kinds of connections at a time -----------------------------------------------------------------


def begin(world):
    world.ipvsadm(
        f"-A -t {VIP}:80 -s rr", f"-a -t {VIP}:80 -r {RS1}:80 -m", f"-a -t {VIP}:80 -r {RS2}:8080 -m",
        f"-A -t {VIP}:81 -s rr", f"-a -t {VIP}:81 -r {RS1}:81 -m",
        f"-A -t {VIP}:82 -s rr", f"-a -t {VIP}:82 -r 10.0.0.99:82 -m",
        f"-A -t {VIP}:443 -s wlc -p 60 -M 255.255.255.0", f"-a -t {VIP}:443 -r {RS1}:443 -m",
        f"-a -t {VIP}:443 -r {RS2}:443 -m",
        f"-A -u {VIP}:53 -s rr", f"-a -u {VIP}:53 -r {RS1}:53 -m", f"-a -u {VIP}:53 -r {RS2}:53 -m",
        f"-A -u {VIP}:514 -s rr -o", f"-a -u {VIP}:514 -r {RS1}:514 -m",
        f"-A -u {VIP}:5060 -s rr -p 30 --pe sip", f"-a -u {VIP}:5060 -r {RS1}:5060 -m",
        f"-A -t {VIP6}:80 -s rr", f"-a -t {VIP6}:80 -r {RS1_6}:80 -m", f"-a -t {VIP6}:80 -r {RS2_6}:8080 -m",
        "-A -f 7 -s rr -p 90", f"-a -f 7 -r {RS1}:0 -m", f"-a -f 7 -r {RS2}:0 -m")
    for port, server in zip(range(40000, 40005), (f"{RS2}:8080", f"{RS1}:80") * 3, strict=False):
        world.gets(f"{CLIENT}:{port}", f"{VIP}:80", server)
    world.opens(f"{CLIENT}:40010", f"{VIP}:80", f"{RS1}:80", 5)
    world.opens(f"{CLIENT}:40011", f"{VIP}:80", f"{RS2}:8080", 5)
    half = f"{CLIENT}:40020"
    world.opens(half, f"{VIP}:80", f"{RS1}:80", 4)
    world.sends(half, f"{VIP}:80", "FA")
    world.answers(f"{RS1}:80", half, "A")
    for client in ("192.168.0.2:40030", "192.168.0.3:40031"):
        world.opens(client, f"{VIP}:443", f"{RS2}:443", 1)
    for port in (8001, 8002):
        world.opens(f"{CLIENT}:{port + 32039}", f"{VIP}:{port}", f"{RS2}:{port}", 1, mark=7)
    world.sends(f"{CLIENT}:40050", f"{VIP}:81", "S")
    world.answers(f"{RS1}:81", f"{CLIENT}:40050", "RA")
    world.wait(1.3)
    world.sends(f"{CLIENT}:40060", f"{VIP}:82", "S", "S")
    for port, server in ((41000, RS2), (41001, RS1), (41002, RS2)):
        world.sends(f"{CLIENT}:{port}", f"{VIP}:53", 30)
        world.answers(f"{server}:53", f"{CLIENT}:{port}", 30)
    world.sends(f"{CLIENT}:41010", f"{VIP}:5060", 49)
    world.answers(f"{RS1}:5060", f"{CLIENT}:41010", 49)
    for port in range(41020, 41024):
        world.sends(f"{CLIENT}:{port}", f"{VIP}:514", 3)
    world.gets(f"{CLIENT6}:42000", f"{VIP6}:80", f"{RS2_6}:8080")
    world.opens(f"{CLIENT6}:42001", f"{VIP6}:80", f"{RS1_6}:80", 1)
    world.wait(0.2)
    world.round()


def still_there(world, port: int, server: str) -> None:
    """Send something on an established connection and get it back."""
    world.sends(f"{CLIENT}:{port}", f"{VIP}:80", ("PA", 5))
    world.answers(server, f"{CLIENT}:{port}", ("PA", 5))


def without_its_server(world):
    world.wait(1.2)
    verdict, _ = world.sends(f"{CLIENT}:40010", f"{VIP}:80", ("PA", 5))
    assert (verdict.action, verdict.answer) == (DROP, None)
    world.wait(0.9)
    still_there(world, 40011, f"{RS2}:8080")
    world.wait(0.1)


def with_its_server_again(world):
    still_there(world, 40010, f"{RS1}:80")
    still_there(world, 40011, f"{RS2}:8080")


def ends_with_its_server(world):
    verdict, packet = world.sends(f"{CLIENT}:40010", f"{VIP}:80", ("PA", 5))
    assert (verdict.action, packets.read(packet).destination) == (ACCEPT, f"{VIP}:80")     # the host resets it
    still_there(world, 40011, f"{RS2}:8080")
    world.wait(0.1)


def flush(world):
    """Let what deleted servers leave behind go: in the kernel, too, that is a tick later."""
    world.round()


def wait(seconds: float):
    return lambda world: world.wait(seconds)


def test_many_kinds_of_connections_are_listed_as_the_kernel_lists_them(world):
    play(world, "02-live-connections.txt", {
        "live": {0: begin, 8: wait(0.6), 10: wait(0.4)},
        "zero": {},
        "remove-dest-with-connections": {3: wait(1), 4: without_its_server, 7: with_its_server_again,
                                         9: ends_with_its_server},
        "delete-service-with-connections": {1: flush, 4: flush}})


# ---- One behaviour after the other ------------------------------------------------------------------------

ECHO = 1            # bytes that a client sends and gets back


def echo(world, port: int, server: str, vip: str = f"{VIP}:80", **how) -> None:
    """Open a connection that must go to *server*, send one byte, get it back, close."""
    client = f"{CLIENT}:{port}"
    _, packet = world.sends(client, vip, "S", **how)
    assert packets.read(packet).destination == server
    world.answers(server, client, "SA")
    world.sends(client, vip, "A", ("PA", ECHO))
    world.answers(server, client, "A", ("PA", ECHO))
    world.sends(client, vip, "A", "FA")
    world.answers(server, client, "FA")
    world.sends(client, vip, "A")


def refused(world, port: int, vip: str = f"{VIP}:80", what="S") -> None:
    """See the director say that the port is unreachable."""
    verdict, _ = world.sends(f"{CLIENT}:{port}", vip, what)
    assert verdict.action == DROP and verdict.answer[20:22] == bytes([3, 3])


def asks(world, port: int, server: str | None) -> None:
    """Ask by UDP; the answer comes from *server*, or never."""
    verdict, packet = world.sends(f"{CLIENT}:{port}", f"{VIP}:53", 1)
    if server is None:
        assert (verdict.action, verdict.answer) == (DROP, None)
    else:
        assert packets.read(packet).destination == server
        world.answers(server, f"{CLIENT}:{port}", 1)


def without_servers(world):
    world.ipvsadm(f"-A -t {VIP}:80 -s rr", f"-A -u {VIP}:53 -s rr")
    refused(world, 44000)
    refused(world, 44000, f"{VIP}:53", 1)


def in_turn(world):
    world.ipvsadm(*(f"-a -t {VIP}:80 -r {server} -m" for server in (RS1, RS2)))
    for port, server in zip(range(45000, 45004), (RS2, RS1) * 2, strict=True):
        echo(world, port, f"{server}:80")
    world.wait(0.5)


def quiesced(world):
    world.ipvsadm(*(f"-e -t {VIP}:80 -r {server} -m -w 0" for server in (RS1, RS2)))
    refused(world, 45100)


def thresholds(world):
    """A limit that is passed already is not looked at before the next connection is there."""
    world.ipvsadm(f"-d -t {VIP}:80 -r {RS2}", f"-e -t {VIP}:80 -r {RS1} -m -x 1")
    echo(world, 45200, f"{RS1}:80")
    refused(world, 45201)
    refused(world, 45202)


def datagrams(world):
    world.ipvsadm(*(f"-a -u {VIP}:53 -r {server} -m" for server in (RS1, RS2)))
    asks(world, 46000, f"{RS2}:53")
    world.wait(0.5)


def datagrams_to_nobody(world):
    world.wait(0.5)
    asks(world, 46000, None)
    asks(world, 46000, None)
    world.wait(1)
    asks(world, 46001, f"{RS1}:53")
    world.wait(0.5)


def datagrams_again(world):
    for _ in range(2):
        asks(world, 46000, f"{RS1}:53")
    asks(world, 46001, f"{RS1}:53")
    world.wait(0.5)


def quiesced_later(world):
    world.ipvsadm("-C")
    flush(world)
    world.ipvsadm(f"-A -t {VIP}:80 -s rr", f"-a -t {VIP}:80 -r {RS1} -m")
    client = f"{CLIENT}:47000"
    world.sends(client, f"{VIP}:80", "S")
    world.answers(f"{RS1}:80", client, "SA")
    world.sends(client, f"{VIP}:80", "A")
    world.ipvsadm(f"-e -t {VIP}:80 -r {RS1} -m -w 0")
    _, packet = world.sends(client, f"{VIP}:80", ("PA", 4))
    assert packets.read(packet).destination == f"{RS1}:80"
    world.sends(client, f"{VIP}:80", "FA")
    world.answers(f"{RS1}:80", client, "FA")


def persistent(world):
    world.ipvsadm("-C", f"-A -t {VIP}:80 -s rr -p 30",
                  *(f"-a -t {VIP}:80 -r {server} -m" for server in (RS1, RS2)))
    world.engine.set_sysctl("expire_nodest_conn", 0)
    world.wait(1000)            # what was there before is over
    echo(world, 37367, f"{RS2}:80")
    world.wait(0.5)


def persistent_and_quiesced(world):
    world.wait(0.6)
    for port in (40325, 37545):
        echo(world, port, f"{RS2}:80")


def persistent_elsewhere(world):
    for port in (44685, 35405):
        echo(world, port, f"{RS1}:80")
    world.wait(0.4)


def test_behaviours_with_traffic_are_the_kernels(world):
    play(world, "07-behaviour-removal-udp-persist.txt", {
        "no-rs": {0: without_servers}, "rr-order": {0: in_turn}, "weight0": {0: quiesced},
        "threshold": {0: thresholds}, "udp-stale": {0: datagrams, 4: datagrams_to_nobody, 7: datagrams_again},
        "tcp-weight0-existing": {0: quiesced_later},
        "persistent-quiesce": {0: persistent, 3: persistent_and_quiesced, 6: persistent_elsewhere}})


def idle(world):
    world.ipvsadm("--set 2 0 0", f"-A -t {VIP}:80 -s rr", f"-a -t {VIP}:80 -r {RS1} -m")


def idle_too_long(world):
    client = f"{CLIENT}:48000"
    world.opens(client, f"{VIP}:80", f"{RS1}:80", 1)
    world.wait(3.2)
    verdict, packet = world.sends(client, f"{VIP}:80", ("PA", 4))
    assert (verdict.action, packets.read(packet).destination) == (ACCEPT, f"{VIP}:80")     # the host resets it


def many_before(world):
    for port in range(30000, 30115):
        echo(world, port, f"{RS1}:80")
    world.ipvsadm(f"-d -t {VIP}:80 -r {RS1}", f"-D -t {VIP}:80",
                  f"-A -t {VIP}:80 -s rr", f"-a -t {VIP}:80 -r {RS1} -m")
    for port in range(30200, 30205):
        echo(world, port, f"{RS1}:80")


def local_clients(world):
    for port, server in ((43466, f"{RS1}:80"), (43476, "127.0.0.1:8099")):
        client, vip = f"10.55.0.1:{port}", "10.55.0.1:80"
        world.sends(client, vip, "S", hook=LOCAL_OUT)
        world.answers(server, client, "SA", out_device=LOOPBACK)
        world.sends(client, vip, "A", "FA", hook=LOCAL_OUT)
        world.answers(server, client, "FA", out_device=LOOPBACK)
    world.wait(0.1)


def test_idle_connections_late_counters_and_local_clients_are_the_kernels(world):
    world.engine.set_local_addresses([packets.address(address) for address in ("10.55.0.1", "127.0.0.1")])
    play(world, "10-behaviour-mh-idle-local.txt", {
        "idle-expiry": {0: idle, 1: idle_too_long},
        "stats-lag": {0: many_before, 2: World.round},
        "local": {6: local_clients}})


# ---- Both families -------------------------------------------------------------------------------------------


def both_families(world):
    """Tunnels lead from each family to the other; marks are in the first word of what their templates call VIP."""
    vip, vip6, server6 = "10.0.0.1", "[2001:db8::a00:1]", "[2001:db8:1::a01:1]"
    client, client6 = "172.16.0.1", "[2001:db8:ac10:d770::ac10:1]"
    world.ipvsadm(
        f"-A -t {vip6}:80 -s rr", f"-a -t {vip6}:80 -r 10.1.0.2 -i", f"-a -t {vip6}:80 -r {server6}:8080 -m",
        f"-A -t {vip}:80 -s rr", f"-a -t {vip}:80 -r 10.1.0.3:80 -m",
        f"-a -t {vip}:80 -r {server6}:80 -i --tun-type gue --tun-port 6080",
        f"-A -u {vip6}:53 -s rr -p 60 -M 64", f"-a -u {vip6}:53 -r {server6}:53 -g",
        f"-A -u {vip6}:514 -s rr -o", f"-a -u {vip6}:514 -r {server6}:514 -m",
        "-A -f 7 -6 -s rr -p 90", f"-a -f 7 -6 -r {server6}:0 -m",
        "-A -f 2147483657 -6 -s rr -p 90 -M 96", "-a -f 2147483657 -6 -r 10.1.0.4:0 -i")
    for port in (40001, 40002):
        world.sends(f"{client6}:{port}", f"{vip6}:80", "S", short=True)
        world.sends(f"{client}:{port}", f"{vip}:80", "S", short=True)
    world.sends(f"{client6}:40003", f"{vip6}:53", 5)
    world.sends(f"{client6}:40003", f"{vip6}:514", 7)
    world.sends(f"{client6}:40004", "[2001:db8::a00:2]:443", "S", short=True, mark=7)
    world.sends(f"{client6}:40004", "[2001:db8::a00:2]:444", "S", short=True, mark=2147483657)
    world.answers(f"{server6}:8080", f"{client6}:40001", "SA", short=True)
    world.wait(4.5)
    world.round()


def test_services_and_connections_of_both_families_are_listed_as_the_kernel_lists_them(world):
    play(world, "12-families-with-traffic.txt", {"traffic": {0: both_families, 14: wait(4)}})
