"""The IPv4 corpus: a director with a service of every kind, valid packets that reach all of it, and their fields.

A family of the fuzz suite (``families.py``) is a module with

    world(choose) -> steps              the commands that configure the director
    command(choose) -> step             a command that changes it
    packet(choose, live)                a valid packet, mostly about one of the connections in *live*, and whether it
                                        is on its way to a client
    fields(packet) -> [(at, size)]      where its numbers are, however broken it is
    repair(packet) -> None              lengths and checksums made right, as far as the packet lets itself be read
    meaning(packet) -> Meaning          what the packet is to a director that makes no mistake
    length(packet) -> int               how long the packet says it is
    is_right_answer(packet) -> bool     whether the director's own ICMP packet is one
    can_be_taken(sent, packet) -> bool  whether the other end takes what the director sent for *packet*
"""
from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import NamedTuple

from lbq import decap
from lbq.model import DR, MODE_MASK, NAT, OPS, PERSISTENT, SCHED1, SCHED2, TUN, ServiceKey
from lbq.protocols import tcp
from tests.helpers import packets
from tests.helpers.engines import key
from tests.helpers.packets import TCP, UDP, address, endpoint, ones_complement_sum
from tests.helpers.story import SCHEDULERS, SYSCTLS, Step

ICMP, IPIP, GRE, SCTP = 1, 4, 47, 132
VIP, OWN = "192.168.10.1", "192.168.10.254"
CLIENTS = [endpoint(f"192.168.10.{host}:{port}") for host in (9, 10, 77) for port in (40000, 40001, 20)]
STRANGERS = [endpoint(text) for text in ("224.0.0.5:4000", "0.0.0.0:68", "127.0.0.1:4000", "192.168.20.2:80",
                                         "255.255.255.255:0", f"{VIP}:80", f"{OWN}:40000")]
WEB, FTP, SECURE, ANY_PORT = (key(f"tcp:{where}")
                              for where in (f"{VIP}:80", f"{VIP}:21", f"{VIP}:443", "192.168.10.2:0"))
DNS, GAME, SIGNALS = key(f"udp:{VIP}:53"), key(f"udp:{VIP}:80"), key(f"sctp:{VIP}:80")
MARKED, MARKED_TOO = (ServiceKey(TCP, 0, 0, fwmark=mark) for mark in (1, 2))
FLAGS = {SECURE: PERSISTENT, ANY_PORT: PERSISTENT, DNS: OPS, MARKED: PERSISTENT, MARKED_TOO: PERSISTENT | OPS}
SERVICES = (WEB, FTP, SECURE, ANY_PORT, DNS, GAME, SIGNALS, MARKED, MARKED_TOO)
NASTY = f"{Path(__file__).with_name('nasty.py')}:Nasty"
GUE_PORT = 6080
HEADER = 20
TRANSPORT_HEADERS = {TCP: 20, UDP: 8, SCTP: 12}
OF_ALL_FLAGS = ["S"] * 6 + ["A"] * 6 + ["FA", "FA", "SA", "R", "RA", "PA", "SF", "SR", "F", "", "P", "FSRPAU"]
CHUNKS = (0, 1, 1, 2, 3, 6, 7, 8, 9, 10, 10, 11, 11, 14, 99, 255)
ERRORS = ((3, 1), (3, 3), (3, 4), (3, 4), (4, 0), (11, 0), (11, 1), (5, 1), (12, 0), (0, 0), (8, 0))
FTP_LINES = (b"PASV\r\n", b"pasv\r\n", b"EPSV\r\n", b"EPSV 1\r\n", b"EPSV 2\r\n", b"PORT %s\r\n",
             b"EPRT |1|%s|%d|\r\n", b"EPRT !2!%s!%d!\r\n", b"227 Entering Passive Mode (%s).\r\n", b"227 %s\r\n",
             b"229 Entering Extended Passive Mode (|||%d|)\r\n", b"229 (!!!%d!)\r\n", b"220 ready\r\n")
FTP_WORDS = (b"PASV", b"EPSV", b"PORT ", b"EPRT ", b"227 ", b"229 ", b"(", b")", b"|||", b"|1|", b",", b"\r\n", b" ",
             b"192,168,20,1,4,1", b"1.2.3.4", b"65536", b"99999999999999999999", b"-1", b"\0", b"\xff")


class Meaning(NamedTuple):
    """What a packet says; *protocol* is None when it says nothing that can be trusted."""

    protocol: int | None
    source_port: int = 0
    destination: int = 0
    destination_port: int = 0
    flags: int = 0              # of TCP
    first_chunk: int = -1       # of SCTP


# ---- The director ---------------------------------------------------------------------------------------


def world(choose: random.Random) -> list[Step]:
    """Return the commands that configure every kind of service, with servers reached in every way."""
    commands = [("add_service", service, *_settings(choose, service)) for service in SERVICES]
    for service in SERVICES:
        commands += [("add_server", service, *_server(choose, service, number))
                     for number in range(1, choose.choice((2, 4, 7)))]
        if choose.random() < 0.3:
            commands.append(("add_server", service, address("127.0.0.2"), service.port or 80, 1, NAT))
    commands += [_routes(choose), _own_addresses(choose)]
    if choose.random() < 0.5:
        commands.append(("set_sysctl", "schedule_icmp", 1))
    return [Step("call", command) for command in commands]


def command(choose: random.Random) -> Step:
    """Return a command, legal as a rule; what is deleted comes back soon."""
    service = choose.choice(SERVICES)
    server, settings = _server(choose, service, choose.randrange(1, 7)), _settings(choose, service)
    name = choose.choice(list(SYSCTLS))
    what = choose.random()
    if what < 0.25:
        return Step("call", ("add_server", service, *server))
    if what < 0.50:
        return Step("call", ("set_sysctl", name, choose.choice(SYSCTLS[name])))
    if what < 0.60:
        return Step("call", ("add_service", service, *settings))
    if what < 0.63:
        return Step("call", ("delete_service", service))
    if what < 0.635:
        return Step("call", ("flush",))
    return Step("call", choose.choice((
        ("set_server", service, *server), ("set_server", service, *server[:2], 0),
        ("delete_server", service, *server[:2]), ("set_service", service, *settings),
        ("set_timeouts", choose.choice((0, 30)), choose.choice((0, 5)), choose.choice((0, 20))),
        _routes(choose), _own_addresses(choose), ("zero", service), ("set_memory", choose.choice((10, 100000))))))


def _settings(choose: random.Random, service: ServiceKey) -> tuple:
    """Return scheduler, flags, timeout and netmask."""
    flags = FLAGS.get(service, 0) | choose.choice((0, 0, SCHED1, SCHED2))
    return choose.choice((*SCHEDULERS, NASTY)), flags, 300, choose.choice((0xFFFFFFFF, 0xFFFFFF00))


def _server(choose: random.Random, service: ServiceKey, number: int) -> tuple:
    """Return address, port, weight, mode, thresholds and tunnel of server *number* of *service*."""
    mode = NAT if service == FTP else choose.choice((NAT, NAT, DR, TUN, TUN))
    port = (service.port if mode != NAT or number % 2 else 8080) or 80
    upper = choose.choice((0, 0, 0, 2))
    where = f"192.168.20.{number}"
    if service == FTP:                  # shorter and longer than the VIP: its replies change their length
        where = f"10.0.0.{number}" if number % 2 else f"192.168.20.10{number}"
    return (address(where), port, choose.choice((1, 1, 2, 0)), mode, upper, upper // 2,
            (choose.randrange(3), GUE_PORT, choose.randrange(3)))


def _routes(choose: random.Random) -> tuple:
    return "set_routes", [(address(f"192.168.20.{number}"), choose.choice((1500, 1500, 1400, 576, 100, 69, 0, -1)),
                           address(OWN), 3, choose.choice(("", "020000000001"))) for number in range(1, 6)]


def _own_addresses(choose: random.Random) -> tuple:
    more = choose.choice(([], [VIP], ["192.168.20.2", VIP]))
    return "set_local_addresses", [address(text) for text in (OWN, "127.0.0.2", *more)]


# ---- Valid packets --------------------------------------------------------------------------------------


def packet(choose: random.Random, live: list) -> tuple[bytes, bool]:
    """Return a valid packet, of a client, of a server, an error about either or a tunnel's; and True for a client's."""
    kind = choose.random()
    if not live or kind < 0.25:
        return _request(choose), False
    controls = [connection for connection in live if connection.helper]
    connection = choose.choice(controls if controls and choose.random() < 0.3 else live)
    if kind < 0.55:
        return _of_client(choose, connection), False
    if kind < 0.75:
        return _of_server(choose, connection), True
    if kind < 0.97:
        return _error(choose, connection)
    return _tunnelled(choose, _of_client(choose, connection)), False


def _request(choose: random.Random) -> bytes:
    """Return a packet to a service, or next to one."""
    service = choose.choice(SERVICES)
    destination, port = (service.address, service.port) if service.address else endpoint("192.168.30.30:80")
    if port == 0 or choose.random() < 0.05:
        port = choose.choice((0, 20, 21, 80, 1024, 51210, 65535))
    source, source_port = choose.choice(CLIENTS * 4 + STRANGERS)
    flags = "S" if choose.random() < 0.8 else ""
    return _whole(choose, service.protocol, source, source_port, destination, port, flags)


def _of_client(choose: random.Random, connection) -> bytes:
    source_port = connection.cport or choose.choice((0, 41000))
    return _whole(choose, connection.protocol or TCP, connection.caddr, source_port, connection.vaddr, connection.vport,
                  "A" if connection.helper and choose.random() < 0.8 else "")


def _of_server(choose: random.Random, connection) -> bytes:
    here = connection.flags & MODE_MASK == NAT or choose.random() < 0.1
    source, port = (connection.daddr, connection.dport) if here else (connection.vaddr, connection.vport)
    return _whole(choose, connection.protocol or TCP, source, port, connection.caddr, connection.cport,
                  "A" if connection.helper and connection.state == tcp.ESTABLISHED and choose.random() < 0.8 else "")


def _whole(choose: random.Random, protocol: int, source: int, source_port: int, destination: int,
           destination_port: int, flags: str = "") -> bytes:
    """Return a TCP, UDP or SCTP packet from one end to another."""
    ports = struct.pack("!HH", source_port, destination_port)
    payload = _payload(choose, protocol == TCP and 21 in (source_port, destination_port))
    checksum = choose.choice(("right",) * 6 + ("pseudo", "none", 0x1234))
    if protocol == SCTP:
        segment, field = ports + choose.randbytes(8) + _chunks(choose), None
    elif protocol == UDP:
        segment, field = ports + struct.pack("!HH", 8 + len(payload), 0) + payload, 6
    else:
        options = _tcp_options(choose)
        bits = sum(packets.FLAGS[letter] for letter in flags or choose.choice(OF_ALL_FLAGS))
        numbers = choose.choice((0, 1000, 1030, 0xFFFFFFF0)), choose.choice((2000, 2030, 0xFFFFFFFE))
        segment, field = ports + struct.pack("!IIBBHHH", *numbers, (5 + len(options) // 4) << 4, bits, 512, 0,
                                             0) + options + payload, 16
    return bytes(packets.ipv4(protocol, source, destination, segment, field, checksum, tos=choose.choice((0, 3, 0xFF)),
                              ttl=choose.choice((64, 64, 64, 2, 1, 0)), ip_options=_ip_options(choose),
                              fragment=choose.choice((0, 0x4000, 0x4000)),
                              identification=choose.getrandbits(16)))


def _payload(choose: random.Random, ftp: bool) -> bytes:
    if ftp and choose.random() < 0.6:
        return _ftp_words(choose)
    return choose.randbytes(choose.choice((0, 0, 0, 1, 7, 8, 63, 500, 1460, 1461, 4000)) if choose.random() < 0.995
                            else choose.choice((30000, 65415)))


def _ftp_words(choose: random.Random) -> bytes:
    """Return a line of the FTP control connection, or words of one in any order."""
    if choose.random() < 0.3:
        return b"".join(choose.choice(FTP_WORDS) for _ in range(choose.randrange(1, 9)))
    line = choose.choice(FTP_LINES)
    numbers = [choose.choice((0, 1, 9, 20, 168, 192, 255, 256)) for _ in range(6)]
    where = b".".join(b"%d" % number for number in numbers[:4])
    port = choose.choice((0, 20, 1024, 51210, 65535, 65536))
    six = b",".join(b"%d" % number for number in numbers)
    if line.count(b"%") == 2:
        return line % (where, port)
    return line % six if b"%s" in line else line % port if b"%d" in line else line


def _tcp_options(choose: random.Random) -> bytes:
    if choose.random() < 0.7:
        return b""
    options = b""
    while len(options) < 36 and choose.random() < 0.7:
        kind = choose.choice((0, 1, 2, 3, 5, 5, 8, 77))
        size = choose.choice((0, 1, 2, 10, 18, 34)) if kind == 5 else choose.randrange(0, 12)
        options += bytes([kind]) + (bytes([size]) + choose.randbytes(max(size - 2, 0)) if kind > 1 else b"")
    options = options[:40]
    return options + bytes(-len(options) % 4)


def _ip_options(choose: random.Random) -> bytes:
    if choose.random() < 0.85:
        return b""
    options = choose.choice((b"\x01" * 4, b"\x07\x27\x04" + bytes(36) + b"\0", b"\x94\x04\0\0", b"\x44\x28" + bytes(38),
                             bytes([choose.randrange(256), choose.randrange(44)]) + choose.randbytes(6)))
    return options + bytes(-len(options) % 4)


def _chunks(choose: random.Random) -> bytes:
    """Return one SCTP chunk or several, whose lengths are right, as a rule."""
    chunks = b""
    for _ in range(choose.choice((0, 1, 1, 1, 2, 3))):
        body = choose.randbytes(choose.choice((0, 0, 1, 2, 4, 16, 64)))
        size = 4 + len(body) if choose.random() < 0.9 else choose.choice((0, 1, 3, 4, 5, 0xFFFC, 0xFFFF))
        chunks += bytes([choose.choice(CHUNKS), choose.randrange(256)]) + struct.pack("!H", size) + body
        chunks += bytes(-len(body) % 4)
    return chunks


def _error(choose: random.Random, connection) -> tuple[bytes, bool]:
    """Return an ICMP error about a packet of *connection*'s, as its server, its client or a router sends it."""
    if connection.flags & MODE_MASK == TUN and choose.random() < 0.5:
        tunnel_packet = _tunnelled(choose, _of_client(choose, connection), connection)
        return _about(choose, tunnel_packet, address("192.168.20.99"), address(OWN)), choose.random() < 0.5
    client, vip = (connection.caddr, connection.cport), (connection.vaddr, connection.vport)
    server = (connection.daddr, connection.dport) if connection.flags & MODE_MASK == NAT else vip
    if choose.random() < 0.5:
        return _about(choose, _whole(choose, connection.protocol or TCP, *client, *server), server[0], client[0]), True
    return _about(choose, _whole(choose, connection.protocol or TCP, *vip, *client), client[0], vip[0]), False


def _about(choose: random.Random, quoted: bytes, source: int, destination: int) -> bytes:
    quoted = quoted[:choose.choice((0, 19, 20, 23, 24, 28, 48, 76, 128, 548, 548, 65000))]
    if choose.random() < 0.05:                      # an error about an error
        quoted = _about(choose, quoted, destination, source)[:548]
    rest = struct.pack("!HH", choose.choice((0, 0, 1, 0xFFFF)), choose.choice((0, 68, 69, 576, 1280, 1400, 0xFFFF)))
    body = bytes([*choose.choice(ERRORS), 0, 0]) + rest + quoted
    checksum = ~ones_complement_sum(body) & 0xFFFF if choose.random() < 0.9 else 0x1234
    body = body[:2] + checksum.to_bytes(2, "big") + body[4:]
    return bytes(packets.ipv4(ICMP, source, destination, body[:65500], ttl=choose.choice((64, 64, 1)),
                              ip_options=_ip_options(choose), fragment=choose.choice((0, 0x4000))))


def _tunnelled(choose: random.Random, inner: bytes, connection=None) -> bytes:
    """Return *inner* in a tunnel packet of any kind, to the server of *connection* or else to the VIP."""
    kind = choose.randrange(3)
    target = connection.daddr if connection is not None else address(VIP)
    if kind == 0:
        return bytes(packets.ipv4(IPIP, address(OWN), target, inner[:65515]))
    if kind == 1:
        words = choose.choice((0, 0, 0, 1, 31))
        gue = bytes([words, choose.choice((4, 4, 4, 41)), 0, 0]) + bytes(4 * words)
        segment = struct.pack("!HHHH", 40000, GUE_PORT, min(12 + len(inner), 0xFFFF), 0) + gue + inner
        return bytes(packets.ipv4(UDP, address(OWN), target, segment[:65515]))
    flags = choose.choice((0, 0, 0x8000, 0x2000, 0x1000, 0xB000, 0x4000, 1))
    words = (flags & 0x8000 != 0) + (flags & 0x2000 != 0) + (flags & 0x1000 != 0)
    segment = struct.pack("!HH", flags, choose.choice((0x0800, 0x0800, 0x86DD))) + bytes(4 * words) + inner
    return bytes(packets.ipv4(GRE, address(OWN), target, segment[:65515]))


# ---- Reading what may be broken ------------------------------------------------------------------------------


def fields(packet: bytes, at: int = 0, depth: int = 0) -> list[tuple[int, int]]:
    """Return (offset, size) of the numbers in a packet that begins at *at*, and of those in what it quotes."""
    found = [(at, 1), (at + 1, 1), (at + 2, 2), (at + 4, 2), (at + 6, 2), (at + 8, 1), (at + 9, 1), (at + 10, 2),
             (at + 12, 4), (at + 16, 4)]
    if at + HEADER > len(packet):
        return [(offset, size) for offset, size in found if offset + size <= len(packet)]
    header, protocol = at + max((packet[at] & 15) * 4, HEADER), packet[at + 9]
    found += [(offset, 1) for offset in range(at + HEADER, header)]                 # IP options
    found += [(header, 2), (header + 2, 2)]
    if protocol == TCP:
        found += [(header + 4, 4), (header + 8, 4), (header + 12, 1), (header + 13, 1), (header + 16, 2)]
        found += [(offset, 1) for offset in range(header + 20, header + 28)]        # TCP options
    elif protocol == UDP:
        found += [(header + 4, 2), (header + 6, 2), (header + 8, 1), (header + 9, 1)]
    elif protocol == SCTP:
        found += [(header + 8, 4), (header + 12, 1), (header + 14, 2), (header + 16, 1), (header + 18, 2)]
    elif protocol == ICMP:
        found += [(header, 1), (header + 1, 1), (header + 4, 2), (header + 6, 2)]
    inner = {ICMP: 8, IPIP: 0, UDP: 12, GRE: 4}.get(protocol)
    if inner is not None and depth < 3:
        found += fields(packet, header + inner, depth + 1)
    return [(offset, size) for offset, size in found if offset + size <= len(packet)]


def repair(packet: bytearray) -> None:
    """Make the length and the checksums right that whoever sent the packet would have made right."""
    header = (packet[0] & 15) * 4 if packet else 0
    if header < HEADER or header > len(packet) or len(packet) > 0xFFFF:
        return
    struct.pack_into("!H", packet, 2, len(packet))
    _sum_up(packet, 10, packet[:10] + b"\0\0" + packet[12:header])
    field = {ICMP: 2, TCP: 16, UDP: 6}.get(packet[9])
    if field is None or header + field + 2 > len(packet):
        return
    pseudo = b"" if packet[9] == ICMP else packet[12:20] + struct.pack("!HH", packet[9], len(packet) - header)
    _sum_up(packet, header + field, pseudo + packet[header:header + field] + b"\0\0" + packet[header + field + 2:])


def _sum_up(packet: bytearray, at: int, covered: bytes) -> None:
    struct.pack_into("!H", packet, at, ~ones_complement_sum(covered) & 0xFFFF)


def meaning(packet: bytes) -> Meaning:
    """Return what *packet* says to one who reads it by the RFCs; a fragment and a cut packet say nothing."""
    if len(packet) < HEADER or packet[0] >> 4 != 4:
        return Meaning(None)
    header, length = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    if not HEADER <= header <= length <= len(packet) or int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return Meaning(None)
    protocol, segment = packet[9], packet[header:length]
    if protocol not in TRANSPORT_HEADERS:
        return Meaning(protocol)
    if len(segment) < TRANSPORT_HEADERS[protocol]:
        return Meaning(None)
    ports = struct.unpack_from("!HH", segment)
    return Meaning(protocol, ports[0], int.from_bytes(packet[16:20], "big"), ports[1],
                   segment[13] if protocol == TCP else 0,
                   segment[12] if protocol == SCTP and len(segment) >= 16 else -1)


def length(packet: bytes) -> int:
    """Return how long *packet* says it is."""
    return int.from_bytes(packet[2:4], "big")


def is_right_answer(packet: bytes) -> bool:
    """Return True for an ICMP packet without options, not longer than RFC 1812 allows, with right checksums."""
    return (packet[9] == ICMP and len(packet) <= 576
            and ones_complement_sum(packet[:HEADER]) == ones_complement_sum(packet[HEADER:]) == 0xFFFF)


def can_be_taken(sent, packet: bytes) -> bool:
    """Return True when ``lbq decap`` lets in what is in the tunnel packet *sent*; fragments wait for the others."""
    destination, word = int.from_bytes(sent.packet[16:20], "big"), int.from_bytes(sent.packet[6:8], "big")
    if destination != sent.next_hop or word & 0x3FFF:
        return True                     # DR, or a fragment
    kind = {IPIP: "ipip", GRE: "gre", UDP: "gue"}[sent.packet[9]]
    inner = decap.read_inner(sent.packet[HEADER + 8:] if kind == "gue" else sent.packet, kind)
    return decap.why_not(inner, {int.from_bytes(packet[16:20], "big")}) is None
