"""Rows of packet tests: what is configured, what happens, what must come out.

    Case("a reply from the real server leaves with the VIP as source",
         service(WEB, "192.168.20.1:8080"),
         client().syn() >> to("192.168.20.1:8080"),
         server("192.168.20.1:8080").synack() >> comes_from("192.168.10.1:80"))

``packet >> expectation`` is one step.  Other steps: ``service`` and ``command`` configure, ``wait`` lets
time pass, ``shows`` and ``connection`` look at the listings.  Each step is a function of the ``World``.
"""
from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lbq.director import ACCEPT, DROP
from lbq.model import AF_INET, AF_INET6, PERSISTENT, Verdict
from tests.helpers import engines, packets
from tests.helpers.engines import LOCAL_IN, LOCAL_OUT, LOOPBACK, NS, POSTROUTING, PREROUTING
from tests.helpers.packets import address, endpoint, read

CLIENT = "192.168.10.9:40000"
WEB = "tcp:192.168.10.1:80"
DNS = "udp:192.168.10.1:53"
CLIENT6 = "[2001:db8:c:1::9]:40000"
VIP6 = "[2001:db8:1::1]:80"
WEB6 = f"tcp:{VIP6}"


class World:
    """One director and its clock."""

    def __init__(self, engine):
        self.engine = engine
        self.now_ns = 1_000 * NS


@dataclass(frozen=True)
class Case:
    """A claim, and the steps that show it."""

    claim: str
    steps: tuple[Callable[[World], None], ...]

    def __init__(self, claim: str, *steps: Callable[[World], None]):
        object.__setattr__(self, "claim", claim)
        object.__setattr__(self, "steps", steps)

    def __str__(self) -> str:
        return self.claim

    def play(self, engine) -> None:
        """Let the steps happen with *engine*; a failure says which step it was."""
        world = World(engine)
        for number, step in enumerate(self.steps, 1):
            try:
                step(world)
            except Exception as error:
                error.add_note(f"in step {number} of: {self.claim}")
                raise


# ---- Packets ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A packet, and where and how the queue sees it."""

    packet: bytes
    hook: int = PREROUTING
    form: int = 0
    out_device: int = 0
    truncated: bool = False
    mark: int = 0

    def __rshift__(self, expectation: Callable) -> Callable[[World], None]:
        def step(world: World) -> None:
            packet = bytearray(self.packet)
            before = world.engine.statistics()
            verdict = world.engine.handle(packet, self.hook, self.form, self.out_device, world.now_ns,
                                          self.truncated, self.mark)
            after = world.engine.statistics()
            expectation(Result(self.packet, bytes(packet), verdict, changed(before, after)))

        return step

    def at(self, hook: int, out_device: int = 0) -> Seen:
        """Return the same packet seen at another hook."""
        return replace(self, hook=hook, out_device=out_device)

    def marked(self, mark: int) -> Seen:
        """Return the same packet with a firewall mark."""
        return replace(self, mark=mark)

    def with_form(self, form: int) -> Seen:
        """Return the same packet with other NFQA_SKB_INFO bits."""
        return replace(self, form=form)

    def cut(self, length: int) -> Seen:
        """Return the same packet with only its first *length* bytes here."""
        return replace(self, packet=self.packet[:length])

    def shortened(self) -> Seen:
        """Return the same IPv6 packet saying that it is as long as it is here."""
        return replace(self, packet=self.packet[:4] + (len(self.packet) - 40).to_bytes(2, "big") + self.packet[6:])

    def padded(self, length: int) -> Seen:
        """Return the same packet with *length* bytes behind its end."""
        return replace(self, packet=self.packet + b"\xee" * length)

    def with_byte(self, at: int, value: int) -> Seen:
        """Return the same packet with another byte at *at*."""
        return replace(self, packet=self.packet[:at] + bytes([value]) + self.packet[at + 1:])


@dataclass(frozen=True)
class Peer:
    """Somebody who sends packets from *source* to *destination*."""

    source: str
    destination: str
    hook: int
    options: dict = field(default_factory=dict)
    out_device: int = 0

    def tcp(self, flags: str, payload: bytes = b"", **options) -> Seen:
        """Return a TCP segment with *flags* out of ``FSRPAU``."""
        packet = packets.tcp(self.source, self.destination, flags, payload, **{**self.options, **options})
        return Seen(bytes(packet), self.hook, out_device=self.out_device)

    def syn(self) -> Seen:
        """Return the segment that opens a connection."""
        return self.tcp("S")

    def synack(self) -> Seen:
        """Return the server's answer to it."""
        return self.tcp("SA")

    def ack(self, payload: bytes = b"") -> Seen:
        """Return an ordinary segment."""
        return self.tcp("A", payload)

    def fin(self) -> Seen:
        """Return the segment that closes one side."""
        return self.tcp("FA")

    def rst(self) -> Seen:
        """Return a reset."""
        return self.tcp("R")

    def udp(self, payload: bytes = b"question", **options) -> Seen:
        """Return a datagram."""
        packet = packets.udp(self.source, self.destination, payload, **{**self.options, **options})
        return Seen(bytes(packet), self.hook, out_device=self.out_device)


def client(source: str = CLIENT, vip: str = "192.168.10.1:80", **options) -> Peer:
    """Return a client on another machine."""
    return Peer(source, vip, PREROUTING, options)


def local_client(source: str = "192.168.10.1:40000", vip: str = "192.168.10.1:80") -> Peer:
    """Return a client on the director itself."""
    return Peer(source, vip, LOCAL_OUT)


def server(source: str = "192.168.20.1:80", to_client: str = CLIENT, **options) -> Peer:
    """Return a real server that answers a client on another machine."""
    return Peer(source, to_client, POSTROUTING, options, out_device=2)


def server_to_local_client(source: str = "192.168.20.1:80", to_client: str = "192.168.10.1:40000") -> Peer:
    """Return a real server that answers a client on the director."""
    return Peer(source, to_client, LOCAL_IN)


def server_over_loopback(source: str = "192.168.20.1:80", to_client: str = "192.168.10.1:40000") -> Peer:
    """Return a real server on the director that answers a client on the director."""
    return Peer(source, to_client, POSTROUTING, out_device=LOOPBACK)


# ---- What must come out -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What became of one packet."""

    sent: bytes
    came_out: bytes
    verdict: tuple
    counted: dict


def changed(before: dict, after: dict) -> dict:
    """Return by how much each counter moved, without those that did not and without what is no counter."""
    return {name: after[name] - before[name] for name in after
            if after[name] != before[name] and not name.startswith("connections")}


def counters(packet: bytes, *names: str) -> dict:
    """Return what is counted for *packet* when it counts once under *names*."""
    counted = {"packets": 1, "bytes": len(packet), **dict.fromkeys(names, 1)}
    return {name: count for name, count in counted.items() if count}


def to(real_server: str, checksums_right: bool = True) -> Callable[[Result], None]:
    """Expect that the packet was addressed to *real_server* and nothing else."""
    return _rewritten(lambda sent: (sent.source, real_server), checksums_right)


def comes_from(vip: str, checksums_right: bool = True) -> Callable[[Result], None]:
    """Expect that the packet now comes from *vip* and nothing else."""
    return _rewritten(lambda sent: (vip, sent.destination), checksums_right)


def _rewritten(ends: Callable, checksums_right: bool) -> Callable[[Result], None]:
    def check(result: Result) -> None:
        assert result.verdict == Verdict(ACCEPT, True), f"{result.verdict} {result.counted}"
        sent, came_out = read(result.sent), read(result.came_out)
        assert (came_out.source, came_out.destination) == ends(sent)
        assert (came_out.flags, came_out.ttl) == (sent.flags, sent.ttl)
        assert came_out.checksums_right or not checksums_right
        assert result.counted["rewritten"] == result.counted["accepted"] == 1

    return check


def passed(reason: str) -> Callable[[Result], None]:
    """Expect that the packet goes on untouched, counted under *reason*."""
    def check(result: Result) -> None:
        assert result.verdict == Verdict(ACCEPT), f"{result.verdict} {result.counted}"
        assert result.came_out == result.sent
        assert result.counted == counters(result.sent, "accepted", f"passed_{reason}",
                                          *({"started_over"} & set(result.counted)))

    return check


def dropped(reason: str) -> Callable[[Result], None]:
    """Expect that the packet is dropped in silence, counted under *reason*."""
    def check(result: Result) -> None:
        assert result.verdict == Verdict(DROP), f"{result.verdict} {result.counted}"
        assert result.came_out == result.sent
        assert result.counted == counters(result.sent, f"dropped_{reason}")

    return check


def refused(result: Result) -> None:
    """Expect that the client is told: ICMP port unreachable from the VIP, quoting the packet."""
    assert result.verdict[:2] == (DROP, False), f"{result.verdict} {result.counted}"
    answer = result.verdict[2]
    assert answer is not None
    if result.sent[0] >> 4 == 6:
        told(1, 4, "no_server")(result)
        return
    assert (answer[12:16], answer[16:20]) == (result.sent[16:20], result.sent[12:16])
    assert (answer[9], answer[20], answer[21]) == (1, 3, 3)
    assert answer[28:] == result.sent[:576 - 28]
    assert packets.ones_complement_sum(answer[:20]) == packets.ones_complement_sum(answer[20:]) == 0xFFFF
    assert result.counted["dropped_no_server"] == result.counted["icmp_sent"] == 1


def refused_silently(result: Result) -> None:
    """Expect that nobody can serve the client, who is not told so: it was told too often."""
    assert result.verdict == Verdict(DROP), f"{result.verdict} {result.counted}"
    assert result.counted["dropped_no_server"] == result.counted["icmp_limited"] == 1


def told(kind: int, code: int, reason: str, mtu: int = 0, later: bool = False,
         by: str = "") -> Callable[[Result], None]:
    """Expect a drop for *reason* and an ICMP answer that quotes the packet, *later* by one hop.

    It comes from where the packet was going, the VIP, or *by* another address.
    """
    def check(result: Result) -> None:
        assert result.verdict[:2] == (DROP, False), f"{result.verdict} {result.counted}"
        quote = packets.with_less_ttl(result.sent) if later else result.sent
        if quote[0] >> 4 == 6:
            vip, client_address = (str(ipaddress.IPv6Address(quote[at:at + 16])) for at in (24, 8))
            assert result.verdict[2] == packets.icmp_error(by or vip, client_address, kind, code, quote[:1232], mtu)
            assert result.counted[f"dropped_{reason}"] == result.counted["icmp_sent"] == 1
            return
        vip, client_address = (str(ipaddress.IPv4Address(result.sent[at:at + 4])) for at in (16, 12))
        expected = bytearray(packets.icmp_error(by or vip, client_address, kind, code, quote[:548], mtu))
        expected[1] = result.sent[1] & 0x1E | 0xC0
        assert packets.without_ip_sum(result.verdict[2]) == packets.without_ip_sum(expected, identification=0)
        assert result.verdict[3] == ()
        assert result.counted[f"dropped_{reason}"] == result.counted["icmp_sent"] == 1

    return check


def sent_to(real_server: str, wrap: Callable[[bytes], bytes] = bytes) -> Callable[[Result], None]:
    """Expect that the packet left for the machine *real_server* one hop later, in what *wrap* puts around it."""
    def check(result: Result) -> None:
        action, _, answer, sent, *_ = result.verdict
        assert (action, answer) == (DROP, None), f"{result.verdict} {result.counted}"
        expected = wrap(packets.with_less_ttl(result.sent))
        assert sent == ((address(real_server), expected, 0, AF_INET6 if expected[0] >> 4 == 6 else AF_INET),)
        assert result.counted == counters(result.sent, "forwarded", *({"conns", "started_over"} & set(result.counted)))

    return check


# ---- Other steps ------------------------------------------------------------------------------------------


def service(name: str, *servers: str, scheduler: str = "rr") -> Callable[[World], None]:
    """Configure a service; its servers are ``RIP:rport[,weight]``, the one added last comes first."""
    return lambda world: engines.add_service(world.engine, name, *servers, scheduler=scheduler)


def call(name: str, *arguments) -> Callable[[World], None]:
    """Give an engine command as it is."""
    return lambda world: getattr(world.engine, name)(*arguments)


def persistent(name: str, *servers: str, timeout: int = 300, netmask: str = "255.255.255.255",
               flags: int = PERSISTENT) -> Callable[[World], None]:
    """Configure a round-robin service with flags, persistent when nothing else is said; IPv6's netmask is a number."""
    mask = int(netmask) if netmask.isdigit() else address(netmask)

    def step(world: World) -> None:
        world.engine.add_service(engines.key(name), "rr", flags, timeout, mask)
        for each in servers:
            world.engine.add_server(engines.key(name), *endpoint(each))

    return step


def sysctl(name: str, value: int) -> Callable[[World], None]:
    """Set a sysctl."""
    return call("set_sysctl", name, value)


def routes(**mtus: int) -> Callable[[World], None]:
    """Say the MTU of the way to servers, each named by the last byte of its address: ``s1=1400``."""
    return call("set_routes", [(address(f"192.168.20.{name[1:]}"), mtu, address("192.168.20.254"), 2, "")
                               for name, mtu in mtus.items()])


def routes6(**mtus: int) -> Callable[[World], None]:
    """Say the same of IPv6 servers: ``s1=1400`` is 2001:db8:5::1."""
    return call("set_routes6", [(address(f"2001:db8:5::{name[1:]}"), mtu, address("2001:db8:5::fe"), 2, "")
                                for name, mtu in mtus.items()])


def command(name: str, *arguments) -> Callable[[World], None]:
    """Give an engine command; text is turned into what the engine takes."""
    def convert(argument):
        if isinstance(argument, str) and argument.startswith(("tcp:", "udp:")):
            return [engines.key(argument)]
        return endpoint(argument) if isinstance(argument, str) else [argument]

    converted = [part for argument in arguments for part in convert(argument)]
    return lambda world: getattr(world.engine, name)(*converted)


def local_addresses(*texts: str) -> Callable[[World], None]:
    """Say which addresses are the director's own."""
    four = [address(text) for text in texts if ":" not in text]
    six = [address(text) for text in texts if ":" in text]

    def step(world: World) -> None:
        world.engine.set_local_addresses(four)
        world.engine.set_local_addresses6(six)

    return step


def wait(seconds: float) -> Callable[[World], None]:
    """Let time pass, and what is due end."""
    def step(world: World) -> None:
        world.now_ns += int(seconds * NS)
        world.engine.expire(world.now_ns)
        world.engine.tick(world.now_ns)

    return step


def shows(name: str, real_server: str, **expected) -> Callable[[World], None]:
    """Expect values in a server's row of the listing; counters by their names, too."""
    def step(world: World) -> None:
        row = engines.servers(world.engine, name)[real_server]
        row = {**row, **row["stats"]}
        assert {key: row[key] for key in expected} == expected

    return step


def connection(source: str = CLIENT, **expected) -> Callable[[World], None]:
    """Expect the one connection of the client *source* to be listed so."""
    def step(world: World) -> None:
        found = [each for each in engines.connections(world.engine, world.now_ns)
                 if source in (f"{each['caddr']}:{each['cport']}", f"[{each['caddr']}]:{each['cport']}")]
        assert len(found) == 1, found
        assert {key: found[0][key] for key in expected} == expected

    return step


def connections(count: int) -> Callable[[World], None]:
    """Expect so many connections, in the listing and in the statistics."""
    def step(world: World) -> None:
        assert len(engines.connections(world.engine, world.now_ns)) == count
        assert world.engine.statistics()["connections"] == count

    return step
