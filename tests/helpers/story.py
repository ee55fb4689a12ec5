"""Random histories of a director: packets, commands and clock jumps, the same for the same seed.

A story is a list of ``Step``.  Its world is small on purpose, so that clients come back, ports collide,
servers are deleted while they have connections, tables fill up, and every reason to drop or pass a packet
occurs.  Nothing in a story depends on how a director answers it.

A third of the stories is about IPv4, a third about IPv6, in a third both meet.  Everybody has an address in each
family; the words below are IPv4's, and ``six`` translates.
"""
from __future__ import annotations

import hashlib
import random
from typing import NamedTuple

from lbq.errors import LbqError
from lbq.model import (
    AF_INET,
    AF_INET6,
    DR,
    END_DELETED,
    MOVE_QUIESCED,
    NAT,
    OPS,
    OPS_REPLIES,
    PERSISTENT,
    SCHED1,
    SCHED2,
    TUN,
    ServiceKey,
    Verdict,
)
from lbq.outcomes import ACCEPT
from tests.helpers import packets
from tests.helpers.engines import (
    FORWARD,
    LOCAL_IN,
    LOCAL_OUT,
    LOOPBACK,
    NS,
    POSTROUTING,
    PREROUTING,
    connections,
    key,
    services,
)
from tests.helpers.packets import endpoint

SIX = {"192.168.10.10": "c0a8:a09::2001:db8",       # the same four words as 192.168.10.9's, in another order
       "224.0.0.5": "ff02::5", "0.0.0.0": "::", "127.0.0.1": "::1", "127.0.0.2": "::1"}
CLIENTS = [f"192.168.10.{host}:{port}" for host in (9, 10) for port in (40000, 40001)]
STRANGERS = ["192.168.10.9:20", "224.0.0.5:4000", "0.0.0.0:68", "10.99.0.1:5353", "127.0.0.1:4000",
             "192.168.20.2:80", "192.168.10.9:0"]
SERVICES = ["tcp:192.168.10.1:80", "tcp:192.168.10.1:21", "tcp:192.168.10.2:80", "udp:192.168.10.1:80",
            "sctp:192.168.10.1:80"]
OTHER_SERVICES = ["tcp:192.168.10.2:0", "udp:192.168.10.1:0"]
MARKS = [1, 2]
NO_SERVICES = ["tcp:192.168.10.1:81", "udp:192.168.10.3:53", "tcp:192.168.10.1:40000", "tcp:192.168.10.1:20",
               "udp:192.168.10.1:81"]
SERVERS = ["192.168.20.1:80", "192.168.20.1:8080", "192.168.20.2:80", "192.168.20.3:0", "192.168.20.4:80",
           "127.0.0.2:80"]
FLAGS = ["S"] * 10 + ["A"] * 6 + ["FA"] * 3 + ["SA", "R", "RA", "PA", "SF", "SR", "F", "", "P"]
FORMS = [(0, "right")] * 5 + [(4, "right"), (0, 0x1234), (0, "none"),
                              (1, "pseudo"), (2, "pseudo"), (3, "pseudo")]
IP_OPTIONS = [b"", b"", b"", b"\x01" * 4, b"\x01" * 40]
OPTIONS, HOP_BY_HOP = (60, bytes([0, 0, 1, 4, 0, 0, 0, 0])), (0, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
FRAGMENTS = [(44, bytes([0, 0, *offset.to_bytes(2, "big"), 0, 0, 0, 7])) for offset in (0, 1, 8, 1449)]
EXTENSIONS = [[]] * 12 + [[OPTIONS], [HOP_BY_HOP], [HOP_BY_HOP, OPTIONS], [(43, bytes([0, 2, 2, 0, *bytes(20)]))],
                          [(60, bytes([0, 2, *bytes(22)]))], [(51, bytes([0, 4, *bytes(22)]))],
                          *([each] for each in FRAGMENTS), [OPTIONS, FRAGMENTS[0]], [FRAGMENTS[3], OPTIONS]]
REQUEST_HOOKS = [PREROUTING] * 8 + [LOCAL_OUT] * 3 + [POSTROUTING, FORWARD]
REPLY_HOOKS = [POSTROUTING] * 6 + [LOCAL_IN] * 3 + [PREROUTING, FORWARD]
SCHEDULERS = ("rr", "wrr", "wlc", "lc", "sed", "nq", "fo", "ovf", "dh", "sh", "mh", "lblc", "lblcr")
COMMANDS = ["set_server"] * 4 + ["delete_server"] * 3 + ["add_service"] * 8 + ["set_sysctl"] * 3 + [
    "set_service", "delete_service", "set_local_addresses", "set_routes", "set_timeouts", "zero", "set_memory",
    "end_connections", "set_largest_mtu"]
JUMPS = [0, NS // 10] * 12 + [3 * NS] * 6 + [11 * NS] * 3 + [61 * NS, 121 * NS, 301 * NS, 901 * NS]
SYSCTLS = {"conn_reuse_mode": (0, 1, 2), "expire_nodest_conn": (0, 1), "expire_quiescent_template": (0, 1),
           "sloppy_tcp": (0, 1), "sloppy_sctp": (0, 1), "secure_tcp": (0, 3), "drop_packet": (0, 0, 3, 1),
           "am_droprate": (2, 3), "nat_icmp_send": (0, 1), "schedule_icmp": (0, 1), "pmtu_disc": (0, 1),
           "cache_bypass": (0, 1), "run_estimation": (0, 1), "amemthresh": (1024, 5), "lblc_expiration": (30, 86400),
           "nonsense": (1,), "sync_ports": (1,)}
MACS = ("", "020000000001")
GUE_PORT = 6080
FTP_TALK = [b"PASV\r\n", b"EPSV\r\n", b"PORT 192,168,10,9,156,66\r\n", b"EPRT |1|192.168.10.9|40003|\r\n",
            b"USER me\r\n",
            b"227 Entering Passive Mode (192,168,20,1,200,10).\r\n", b"229 Extended Passive (|||51210|)\r\n",
            b"227 (1,2,3)\r\n", b"PORT 1,2,3,4,5,256\r\n", b"EPSV 2\r\n", b"EPRT |2|2001:db8::c0a8:a09|40003|\r\n",
            b"229 Extended Passive (!!!051210!)\r\n"]


class Step(NamedTuple):
    """One thing that happens: ``packet``, ``call`` (a command) or ``advance`` (the clock in ns, and a tick)."""

    kind: str
    arguments: tuple


class Chooser(random.Random):
    """Chooses, and knows how much of a story is about IPv6."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.sixes = (0, 1, 0.5)[seed // 3 % 3]

    def is_six(self) -> bool:
        """Return True when the next thing is about IPv6."""
        return self.random() < self.sixes


def six(text: str, wanted: bool = True) -> str:
    """Return what *text*, an endpoint or a service of IPv4, is called in IPv6, if that is *wanted*."""
    if not wanted:
        return text
    protocol, colon, where = text.rpartition(":")[0].rpartition(":")
    return f"{protocol}{colon}[{SIX.get(where, f'2001:db8::{where}')}]:{text.rpartition(':')[2]}"


def story(seed: int, length: int) -> list[Step]:
    """Return *length* steps."""
    choose = Chooser(seed)
    steps = [Step("call", ("add_service", key(six(service, choose.is_six())), choose.choice(SCHEDULERS)))
             for service in SERVICES]
    steps += [Step("call", ("set_routes", _routes(choose, False))),
              Step("call", ("set_routes6", _routes(choose, True)))]
    commands = COMMANDS + ["add_server"] * choose.choice((1, 10, 20))     # servers are scarce, or plenty
    steps += [_command(choose, "add_server") for _ in range(len(commands) - len(COMMANDS))]
    while len(steps) < length:
        steps.append(_step(choose, commands))
    return steps


def crowd(seed: int, length: int) -> list[Step]:
    """Return a story of thousands of connections that come, close in one way or another, and end."""
    choose = random.Random(seed)
    both = (False, True)
    steps = [Step("call", ("add_service", key(six(service, each)), "wlc")) for service in SERVICES for each in both]
    steps += [Step("call", ("add_server", key(six(service, each)), *endpoint(six(server, each))))
              for service in SERVICES for server in SERVERS for each in both]
    while len(steps) < length:
        client = f"10.0.{choose.randrange(4)}.1:{choose.randrange(1024, 2024)}"
        protocol, _, vip = choose.choice(SERVICES).partition(":")
        server = choose.choice(SERVERS[:3])
        reply = choose.random() < 0.3
        is_six = choose.random() < 0.5
        source, destination = (six(each, is_six) for each in ((server, client) if reply else (client, vip)))
        build = packets.udp if protocol == "udp" else packets.tcp
        flags = {} if protocol == "udp" else {"flags": choose.choice(("S", "S", "A", "FA", "R"))}
        packet = bytes(build(source, destination, **flags))
        steps.append(Step("packet", (packet, POSTROUTING if reply else PREROUTING, 0, 2, False, 0)))
        if choose.random() < 0.05:
            steps.append(Step("advance", (choose.randrange(NS),)))
    return steps[:length]


def _step(choose: Chooser, commands: list[str]) -> Step:
    kind = choose.random()
    if kind < 0.70:
        return _packet(choose)
    if kind < 0.74:
        return _broken_packet(choose)
    if kind < 0.79:
        return _error(choose)
    if kind < 0.88:
        return Step("advance", (choose.choice(JUMPS),))
    return _command(choose, choose.choice(commands))


def _packet(choose: Chooser) -> Step:
    """Return a packet of a client or of a server, mostly at a hook where such packets are seen."""
    form, checksum = choose.choice(FORMS)
    is_six = choose.is_six()
    if choose.random() < 0.7:
        protocol, _, destination = choose.choice(SERVICES * 4 + NO_SERVICES).partition(":")
        source, hook = choose.choice(CLIENTS * 6 + STRANGERS), choose.choice(REQUEST_HOOKS)
    else:
        protocol = choose.choice(("tcp", "tcp", "udp", "sctp"))
        source = choose.choice([*SERVERS, "192.168.20.3:80", "192.168.10.1:80", "192.168.20.1:51210"])
        destination, hook = choose.choice(CLIENTS), choose.choice(REPLY_HOOKS)
    packet = _segment(choose, protocol, six(source, is_six), six(destination, is_six), checksum)
    out_device, truncated = choose.choice((0, LOOPBACK, 2, 3)), choose.random() < 0.01
    return Step("packet", (bytes(packet), hook, form, out_device, truncated, choose.choice((0, 0, 0, 1, 2, 3))))


def _segment(choose: Chooser, protocol: str, source: str, destination: str, checksum="right") -> bytearray:
    """Return a TCP segment, a datagram or an SCTP packet between two endpoints."""
    payload = choose.randbytes(choose.choice((0, 0, 1, 7, 64, 519, 1480, 3000)))
    options = {"tos": choose.choice((0, 0x10, 0xFF)), "ttl": choose.choice((1, 64))}
    is_six = packets.is_ipv6(source)
    if is_six:
        options |= {"extensions": choose.choice(EXTENSIONS), "flow_label": choose.choice((0, 0xFFFFF))}
    else:
        options |= {"ip_options": choose.choice(IP_OPTIONS), "fragment": choose.choice((0, 0x4000))}
    if protocol == "sctp":
        chunk = bytes([choose.choice((0, 1, 2, 6, 7, 8, 10, 11, 14, 99)), 0, 0, 4])
        (saddr, sport), (daddr, dport) = endpoint(source), endpoint(destination)
        header = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + choose.randbytes(8)
        build = packets.ipv6 if is_six else packets.ipv4
        return build(132, saddr, daddr, header + chunk[:choose.choice((4, 4, 4, 3))] + payload[:64], **options)
    if protocol == "udp":
        return packets.udp(source, destination, payload=payload, checksum=checksum, **options)
    if ":21" in source + destination or choose.random() < 0.05:
        payload = choose.choice(FTP_TALK)
    return packets.tcp(source, destination, choose.choice(FLAGS), payload=payload, checksum=checksum,
                       sequence=choose.choice((1000, 2000, 5000)), **options)


def _error(choose: Chooser) -> Step:
    """Return an ICMP error about a packet of ours, one way or the other, or about something else."""
    is_six = choose.is_six()
    protocol, _, vip = six(choose.choice(SERVICES), is_six).partition(":")
    client, server = six(choose.choice(CLIENTS), is_six), six(choose.choice(SERVERS), is_six)
    from_client = choose.random() < 0.5
    ends = (vip, client) if from_client else (client, choose.choice((server, vip)))
    quoted = bytes(_segment(choose, protocol, *ends))
    tunnelled = choose.random() < 0.4
    if tunnelled:
        quoted = _tunnelled(choose, is_six)
    quoted = quoted[:choose.choice((19, 23, 24, 40, 44, 48, 548, 548, 3000))]
    rest = choose.choice((0, 0, 1400, 60)).to_bytes(4, "big")
    source, destination = ((endpoint(client)[0], endpoint(vip)[0]) if from_client
                           else (endpoint(six("192.168.20.99:0", is_six))[0], endpoint(client)[0]))
    if tunnelled or choose.random() < 0.1:
        destination = endpoint(six("192.168.10.254:0", is_six))[0]
    ttl, wrong = choose.choice((1, 64)), choose.random() < 0.1
    if is_six:
        kind, code = choose.choice(((1, 3), (1, 4), (2, 0), (3, 0), (4, 1), (127, 0), (128, 0), (135, 0)))
        packet = packets.ipv6(58, source, destination, bytes([kind, code, 0, 0]) + rest + quoted,
                              0x1234 if wrong else "right", ttl=ttl, extensions=choose.choice(EXTENSIONS))
    else:
        kind, code = choose.choice(((3, 1), (3, 3), (3, 4), (4, 0), (11, 0), (5, 1), (12, 0), (0, 0)))
        body = bytes([kind, code, 0, 0]) + rest + quoted
        checksum = 0x1234 if wrong else ~packets.ones_complement_sum(body) & 0xFFFF
        packet = packets.ipv4(1, source, destination, body[:2] + checksum.to_bytes(2, "big") + body[4:], ttl=ttl)
    hook = choose.choice(REQUEST_HOOKS if from_client else REPLY_HOOKS)
    return Step("packet", (bytes(packet), hook, 0, 2, False, 0))


def _tunnelled(choose: Chooser, outer_six: bool) -> bytes:
    """Return a tunnel packet of ours, as far as anybody knows."""
    inner_six = choose.is_six()
    protocol, _, vip = six(choose.choice(SERVICES), inner_six).partition(":")
    inner = bytes(_segment(choose, protocol, six(choose.choice(CLIENTS), inner_six), vip))
    ours, server = (endpoint(six(each, outer_six))[0] for each in ("192.168.10.254:0", choose.choice(SERVERS[:4])))
    build = packets.ipv6 if outer_six else packets.ipv4
    return bytes(build(41 if inner_six else 4, ours, server, inner))


def _broken_packet(choose: Chooser) -> Step:
    """Return a packet with a field that lies, or that ends too early, or of a protocol that is not ours."""
    packet = bytearray((_packet if choose.random() < 0.8 else _error)(choose).arguments[0])
    damage = choose.randrange(8)
    if packet[0] >> 4 == 6 and 3 <= damage <= 6:
        _damage6(choose, packet)
    elif damage == 0:
        del packet[choose.randrange(len(packet)):]
    elif damage == 1:
        packet[choose.randrange(min(len(packet), 70))] ^= 1 << choose.randrange(8)
    elif damage == 2:
        packet[0] = choose.randrange(256)
    elif damage == 3:
        packet[2:4] = choose.randrange(80).to_bytes(2, "big")
    elif damage == 4:
        packet[6:8] = choose.choice((0x2000, 0x0001, 0x1FFF, 0x8000, 0xC000)).to_bytes(2, "big")
    elif damage == 5:
        packet[9] = choose.choice((0, 1, 2, 4, 47, 50, 132, 255))
    elif damage == 6:
        packet[(packet[0] & 15) * 4 + 12 if len(packet) > 72 else 0] = choose.randrange(256)
    else:
        packet += choose.randbytes(choose.randrange(1, 40))
    hook, form = choose.choice((PREROUTING, POSTROUTING)), choose.choice((0, 1, 2, 3))
    return Step("packet", (bytes(packet), hook, form, 2, choose.random() < 0.05, 0))


def _damage6(choose: Chooser, packet: bytearray) -> None:
    """Let a header of an IPv6 packet lie: its length, what follows it, or something in what follows it."""
    damage = choose.randrange(4)
    if damage == 0:
        packet[4:6] = choose.randrange(100).to_bytes(2, "big")
    elif damage == 1:
        packet[6] = choose.choice((0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 132, 135, 255))
    elif damage == 2:
        packet[40] = choose.choice((0, 6, 17, 43, 44, 51, 58, 59, 60, 132))
    else:
        packet[41] = choose.randrange(256)


def _command(choose: Chooser, name: str) -> Step:
    is_six = choose.is_six()
    service = _mark(choose, is_six)
    if choose.random() < 0.85:
        service = key(six(choose.choice(SERVICES * 3 + OTHER_SERVICES), is_six))
    server_six = is_six if choose.random() < 0.8 else choose.is_six()
    server, family = endpoint(six(choose.choice(SERVERS), server_six)), AF_INET6 if server_six else AF_INET
    sysctl = choose.choice(list(SYSCTLS))
    arguments = {
        "add_service": (service, choose.choice((*SCHEDULERS, "wcl")), *_persistence(choose, is_six)),
        "set_service": (service, choose.choice(SCHEDULERS), *_persistence(choose, is_six)),
        "delete_service": (service,),
        "add_server": (service, *server, choose.choice((0, 1, 1, 2, 3, 10)), *_settings(choose), family),
        "set_server": (service, *server, choose.choice((0, 1, 2, 5)), *_settings(choose), family),
        "delete_server": (service, *server, family),
        "set_local_addresses": (_own(choose, is_six),),
        "set_routes": (_routes(choose, is_six),),
        "set_largest_mtu": (choose.choice((1500, 1500, 4000, 600)),),
        "set_timeouts": (choose.choice((0, 0, 30, 900)), choose.choice((0, 0, 5)), choose.choice((0, 0, 20))),
        "set_sysctl": (sysctl, choose.choice(SYSCTLS[sysctl])),
        "set_memory": (choose.choice((10, 1000, 100000)),),
        "zero": choose.choice(((), (service,))),
        "end_connections": ([_place(choose) for _ in range(4)],),
    }[name]
    return Step("call", (name + "6" if is_six and name in ("set_routes", "set_local_addresses") else name, *arguments))


def _own(choose: Chooser, is_six: bool) -> list[int]:
    """Return some addresses of the host's own."""
    hosts = choose.choice(([], ["192.168.20.1"], ["192.168.20.3", "192.168.10.1", "192.168.10.254", "127.0.0.2"]))
    return [endpoint(six(f"{host}:0", is_six))[0] for host in hosts]


def _place(choose: Chooser) -> tuple:
    """Return what a connection or template is found by."""
    is_six = choose.is_six()
    service = key(six(choose.choice(SERVICES), is_six))
    client, port = endpoint(six(choose.choice(CLIENTS), is_six))
    if choose.random() < 0.3:
        client, port = client >> 8 << 8 if choose.random() < 0.5 else client, 0
    return service.protocol, client, port, service.address, service.port, service.family


def _mark(choose: Chooser, is_six: bool) -> ServiceKey:
    return ServiceKey(6, 0, 0, AF_INET6 if is_six else AF_INET, choose.choice(MARKS))


def _persistence(choose: Chooser, is_six: bool) -> tuple[int, int, int, int]:
    """Return a service's flags, timeout, netmask and idle time."""
    flags = choose.choice((0, 0, 0, PERSISTENT)) | choose.choice((0, 0, OPS)) | choose.choice((0, SCHED1, SCHED2))
    flags |= choose.choice((0, END_DELETED)) | choose.choice((0, MOVE_QUIESCED)) | choose.choice((0, OPS_REPLIES))
    netmask = choose.choice((128, 120, 64, 33, 1, 129) if is_six else (0xFFFFFFFF, 0xFFFFFF00))
    return flags, choose.choice((20, 300)), netmask, choose.choice((0, 0, 8))


def _settings(choose: Chooser) -> tuple:
    """Return a server's mode, thresholds and tunnel."""
    upper = choose.choice((0, 0, 0, 1, 2, 5))
    return (choose.choice((NAT, NAT, DR, TUN, TUN)), upper, choose.choice((0, 0, upper // 2, 3)),
            (choose.choice((0, 0, 0, 1, 2)), GUE_PORT, choose.choice((0, 0, 1, 2))))


def _routes(choose: Chooser, is_six: bool) -> list[tuple]:
    """Return what the host knows of the ways to some of the servers."""
    mtus = (1500, 1500, 1400, 1320, 600, 0, -1) if is_six else (1500, 1500, 600, 80, 0, -1)
    ours = endpoint(six("192.168.10.254:0", is_six))[0]
    return [(endpoint(six(server, is_six))[0], choose.choice(mtus), ours, 3, choose.choice(MACS))
            for server in SERVERS if choose.random() < 0.9]


class Teller:
    """Tells a story to one director and keeps its clock."""

    def __init__(self, engine, start_ns: int = 1_000 * NS):
        self.engine = engine
        self.now_ns = start_ns
        self.verdict: Verdict | None = None         # the last one, as it was

    def tell(self, step: Step):
        """Let *step* happen; return all that is seen of it."""
        if step.kind == "packet":
            content, hook, form, out_device, truncated, mark = step.arguments
            packet = bytearray(content)
            verdict = self.verdict = self.engine.handle(packet, hook, form, out_device, self.now_ns, truncated, mark)
            if verdict.action == ACCEPT:
                return verdict, bytes(packet)
            return verdict._replace(sent=tuple(_without_port(sent) for sent in verdict.sent))
        if step.kind == "advance":
            self.now_ns += step.arguments[0]
            self.engine.expire(self.now_ns)
            return self.engine.tick(self.now_ns)
        name, *arguments = step.arguments
        try:
            return getattr(self.engine, name)(*arguments)
        except LbqError as error:
            return type(error).__name__, str(error)

    def state(self) -> dict:
        """Return what the listings show."""
        return {"services": services(self.engine, limit=2),
                "connections": connections(self.engine, self.now_ns, limit=7)}


def _without_port(sent):
    """Return what left without GUE's source port, a hash with a secret, and the checksum that covers it."""
    packet = bytearray(sent.packet)
    protocol, at = packet[9], 20
    if packet[0] >> 4 == 6:
        protocol, at = (packet[40], 48) if packet[6] == 44 else (packet[6], 40)
    if protocol == 17 and packet[at + 2:at + 4] == GUE_PORT.to_bytes(2, "big"):
        packet[at:at + 2] = packet[at + 6:at + 8] = bytes(2)
    return sent._replace(packet=bytes(packet))


def digest(seen) -> str:
    """Return a short fingerprint of *seen*, equal in another process."""
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
