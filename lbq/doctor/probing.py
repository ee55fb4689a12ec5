"""Harmless questions to the network, and an ear for what comes back.

    who has the VIP?        an ARP probe (sender 0.0.0.0, RFC 5227); IPv6: a neighbour solicitation from our own address
    is the server there?    an ICMP echo request, and one as long as the way there should take, not to be fragmented
    does it take the VIP?   an ICMP echo request for the VIP, handed to the server as its mode hands packets over
    does it listen?         a connection that is closed at once, from two addresses of this host (NAT, TCP)

Answers are read with packet sockets: the kernel drops one whose source is the VIP, an address of this host.  A filter
in the kernel keeps the traffic of a busy director away from them.

RFC: 826, 5227 (ARP), 4861 (neighbour discovery), 792, 4443 (echo).
"""
from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from lbq.doctor.facts import OPEN, REFUSED, SILENT, Device
from lbq.host.netlink import address_bytes
from lbq.model import AF_INET, AF_INET6, GRE, GUE

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD
ARP = struct.Struct("!HHBBH6s4s6s4s")
ARP_REQUEST, ARP_REPLY = 1, 2
ECHO = {AF_INET: (8, 0), AF_INET6: (128, 129)}      # ICMP types: request, reply
SOLICITATION, ADVERTISEMENT = 135, 136
HEADER_BYTES = {AF_INET: 20, AF_INET6: 40}
ICMP_PROTOCOL = {AF_INET: socket.IPPROTO_ICMP, AF_INET6: socket.IPPROTO_ICMPV6}
INSIDE = {AF_INET: socket.IPPROTO_IPIP, AF_INET6: socket.IPPROTO_IPV6}      # what an outer header says is inside
ETHERTYPES = {AF_INET: ETH_P_IP, AF_INET6: ETH_P_IPV6}
ICMP_HEADER = struct.Struct("!BBHHH")
SMALLEST = 64                       # of an echo request, with its IP header; IPv6 takes as few
DONT_FRAGMENT = {AF_INET: (socket.IPPROTO_IP, 10, 3),           # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
                 AF_INET6: (socket.IPPROTO_IPV6, 23, 3)}        # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE
SO_ATTACH_FILTER = 26
LD_BYTE, LD_WORD, JUMP_EQUAL, RETURN = 0x30, 0x20, 0x15, 0x06   # classic BPF
WHOLE, NOTHING = 0xFFFFFFFF, 0
MOST_VIPS = 200                     # jumps in a filter go 255 steps at most
BROADCAST = b"\xff" * 6
PACKET_HOST = 0
MOST_FRAMES = 1000                  # that are still read when the time is over
LOOK_BYTES = 128


class Heard(NamedTuple):
    """What was heard of one host."""

    device: str
    mac: str


class Echo(NamedTuple):
    """One echo request that is on its way: what it was for, and its length."""

    name: object
    length: int


class Ears:
    """Packet sockets that hear ARP and neighbour advertisements, echo replies, and packets from the VIPs."""

    def __init__(self, vips: dict[int, set[int]], devices: dict[str, Device]):
        self.vips = vips                            # by family
        self.devices = devices
        self.number = int.from_bytes(os.urandom(2))     # by which our echo requests are known
        self.echoes: list[Echo] = []
        self.answered: list[Echo] = []
        self.answers: dict[tuple[int, int], set[Heard]] = {}        # by family and VIP
        self.announcers: dict[tuple[int, int], set[Heard]] = {}
        self.passing: dict[tuple[int, int], set[tuple[Heard, int]]] = {}    # … and where they were going
        sockets = ((ETH_P_ARP, None, self._hear_arp), (ETH_P_IP, _filter4(vips[AF_INET]), self._hear_ip),
                   (ETH_P_IPV6, _filter6(), self._hear_ipv6))
        self.sockets: dict[socket.socket, Callable[[bytes, tuple], None]] = {}
        # What a router says of an echo request that is too long, the kernel takes in while such a socket is open.
        self.believer = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        try:
            _attach(self.believer, [(RETURN, 0, 0, NOTHING)])
            for protocol, program, hear in sockets:
                ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(protocol))
                self.sockets[ear] = hear
                if program is not None:
                    _attach(ear, program)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Hear no more."""
        for ear in (self.believer, *self.sockets):
            ear.close()

    def listen(self, seconds: float, others: Iterable[Attempt] = ()) -> None:
        """Hear what comes for so many *seconds*, and see to the attempts to connect; at the end, to what has come."""
        pending = {attempt.socket: attempt for attempt in others if attempt.outcome is None}
        until, last_frames = time.monotonic() + seconds, MOST_FRAMES
        while last_frames:
            left = max(until - time.monotonic(), 0)
            readable, writable, _ = select.select(self.sockets, pending, [], left)
            if left == 0:
                last_frames = last_frames - 1 if readable or writable else 0
            for ear in readable:
                with suppress(OSError):             # a device that goes down says so here
                    self.sockets[ear](*ear.recvfrom(LOOK_BYTES))
            for ready in writable:
                pending.pop(ready).finish()

    def ask_who_has(self, vip: int, family: int, device: Device, source: int) -> None:
        """Ask the hosts on the link of *device* which of them has *vip*; *source* is our address (IPv6)."""
        if family == AF_INET:
            own = bytes.fromhex(device.mac)
            request = ARP.pack(1, ETH_P_IP, 6, 4, ARP_REQUEST, own, bytes(4), bytes(6), address_bytes(vip, family))
            self._send(request, device.name, ETH_P_ARP, BROADCAST)
            return
        target = address_bytes(vip, family)
        group = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[-3:]
        body = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + target + b"\x01\x01" + bytes.fromhex(device.mac)
        packet = ipv6(address_bytes(source, family), group, body)
        self._send(packet, device.name, ETH_P_IPV6, b"\x33\x33" + group[-4:])

    def send_echo(self, name: object, destination: int, family: int, length: int = SMALLEST, source: int = 0) -> None:
        """Send an echo request of *length* bytes to *destination* as any program would, from *source* if it is said."""
        message = self._echo_request(name, family, length)
        with socket.socket(family, socket.SOCK_RAW, ICMP_PROTOCOL[family]) as raw:
            raw.setsockopt(*DONT_FRAGMENT[family])
            with suppress(OSError):                 # no route, or longer than the device takes
                if source:
                    raw.bind((socket.inet_ntop(family, address_bytes(source, family)), 0))
                raw.sendto(message, (socket.inet_ntop(family, address_bytes(destination, family)), 0))

    def send_echo_to(self, name: object, destination: int, source: int, family: int, device: str, mac: str) -> None:
        """Hand an echo request for *destination* to the host with this *mac*."""
        packet = self.echo_packet(name, destination, source, family)
        self._send(packet, device, ETHERTYPES[family], bytes.fromhex(mac))

    def send_echo_in_tunnel(self, name: object, destination: int, source: int, server: int, family: int, kind: int,
                            port: int, flags: int) -> None:
        """Send *server* an echo request for *destination* in a tunnel of this *kind*, as far as that needs no sums."""
        packet = self.echo_packet(name, destination, source, family)
        place = socket.inet_ntop(family, address_bytes(server, family))
        if kind == GUE:
            with socket.socket(family, socket.SOCK_DGRAM) as udp:
                udp.sendto(struct.pack("!BBH", 0, INSIDE[family], 0) + packet, (place, port))
            return
        protocol, header = (socket.IPPROTO_GRE, struct.pack("!HH", 0, ETHERTYPES[family])) if kind == GRE else (
            INSIDE[family], b"")
        with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
            raw.sendto(header + packet, (place, 0))

    def echo_packet(self, name: object, destination: int, source: int, family: int) -> bytes:
        """Return an echo request with its IP header."""
        ends = address_bytes(source, family), address_bytes(destination, family)
        message = self._echo_request(name, family, SMALLEST, *ends)
        return ipv4(*ends, message) if family == AF_INET else ipv6(*ends, message, already_summed=True)

    def _echo_request(self, name: object, family: int, length: int, *ends: bytes) -> bytes:
        sequence = len(self.echoes)
        self.echoes.append(Echo(name, length))
        body = bytes(length - HEADER_BYTES[family] - ICMP_HEADER.size)
        message = ICMP_HEADER.pack(ECHO[family][0], 0, 0, self.number, sequence) + body
        if family == AF_INET6:
            return _summed6(*ends, message) if ends else message        # a raw socket of ICMPv6 sums by itself
        return message[:2] + struct.pack("!H", checksum(message)) + message[4:]

    def _send(self, content: bytes, device: str, protocol: int, mac: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as mouth, suppress(OSError):     # device went down
            mouth.sendto(content, (device, protocol, 0, 0, mac))

    def _hear_arp(self, message: bytes, sender: tuple) -> None:
        if len(message) < ARP.size:
            return
        *_, operation, mac, source, _, target = ARP.unpack_from(message)
        vip = int.from_bytes(source)
        if vip not in self.vips[AF_INET]:
            return
        heard = Heard(sender[0], mac.hex())
        is_answer = operation == ARP_REPLY or source == target      # a gratuitous ARP says that it has it
        place = self.answers if is_answer else self.announcers
        place.setdefault((AF_INET, vip), set()).add(heard)

    def _hear_ip(self, packet: bytes, sender: tuple) -> None:
        header = (packet[0] & 15) * 4 if packet else 0
        if len(packet) < max(header, 20):
            return
        source, destination = (int.from_bytes(packet[at:at + 4]) for at in (12, 16))
        if packet[9] == socket.IPPROTO_ICMP:
            self._hear_echo(packet[header:], AF_INET)
        self._note_passing(AF_INET, source, destination, sender)

    def _hear_ipv6(self, packet: bytes, sender: tuple) -> None:
        if len(packet) < 48:
            return
        message = packet[40:]
        if message[0] == ADVERTISEMENT and len(message) >= 24:
            target = int.from_bytes(message[8:24])
            if target in self.vips[AF_INET6]:
                self.answers.setdefault((AF_INET6, target), set()).add(Heard(sender[0], sender[4].hex()))
            return
        self._hear_echo(message, AF_INET6)

    def _hear_echo(self, message: bytes, family: int) -> None:
        if len(message) < ICMP_HEADER.size:
            return
        kind, _, _, number, sequence = ICMP_HEADER.unpack_from(message)
        if kind == ECHO[family][1] and number == self.number and sequence < len(self.echoes):
            self.answered.append(self.echoes[sequence])

    def _note_passing(self, family: int, source: int, destination: int, sender: tuple) -> None:
        if source in self.vips[family] and sender[2] == PACKET_HOST and sender[0] != "lo" and len(sender[4]) == 6:
            heard = Heard(sender[0], sender[4].hex())
            self.passing.setdefault((family, source), set()).add((heard, destination))


class Attempt:
    """A TCP connection that is tried, and closed as soon as it is there; *meant* is for whoever makes it."""

    def __init__(self, family: int, source: int, address: int, port: int, meant: tuple[object, str]):
        self.ends = family, source, address, port
        self.meant = meant
        self.outcome: str | None = None
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.bind((socket.inet_ntop(family, address_bytes(source, family)), 0))
            self.socket.connect((socket.inet_ntop(family, address_bytes(address, family)), port))
        except BlockingIOError:
            return
        except OSError as error:
            self._done(error.errno)
        else:
            self._done(0)

    def finish(self) -> None:
        """See what came of it."""
        self._done(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def give_up(self) -> None:
        """Wait no more; what is done stays so."""
        if self.outcome is None:
            self._done(errno.ETIMEDOUT)

    def _done(self, error: int) -> None:
        self.outcome = {0: OPEN, errno.ECONNREFUSED: REFUSED}.get(error, SILENT)
        self.socket.close()


def checksum(content: bytes) -> int:
    """Return the checksum of the internet protocols over *content*."""
    padded = content + bytes(len(content) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: bytes, destination: bytes, message: bytes) -> bytes:
    """Return an IPv4 packet of ICMP."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 0, 0x4000, 64, socket.IPPROTO_ICMP, 0, source,
                         destination)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + message


def ipv6(source: bytes, destination: bytes, message: bytes, already_summed: bool = False) -> bytes:
    """Return an IPv6 packet of ICMPv6; hop limit 255, without which neighbour discovery is not believed."""
    header = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 255) + source + destination
    return header + (message if already_summed else _summed6(source, destination, message))


def _summed6(source: bytes, destination: bytes, message: bytes) -> bytes:
    pseudo = source + destination + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    return message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]


def _filter4(vips: set[int]) -> list[tuple[int, int, int, int]]:
    """Return a program that lets ICMP pass, and what comes from one of the *vips*."""
    wanted = sorted(vips)[:MOST_VIPS]
    program = [(LD_BYTE, 0, 0, 9), (JUMP_EQUAL, len(wanted) + 2, 0, socket.IPPROTO_ICMP), (LD_WORD, 0, 0, 12)]
    program += [(JUMP_EQUAL, len(wanted) - at, 0, vip) for at, vip in enumerate(wanted)]
    return [*program, (RETURN, 0, 0, NOTHING), (RETURN, 0, 0, WHOLE)]


def _filter6() -> list[tuple[int, int, int, int]]:
    """Return a program that lets ICMPv6 pass."""
    return [(LD_BYTE, 0, 0, 6), (JUMP_EQUAL, 0, 1, socket.IPPROTO_ICMPV6), (RETURN, 0, 0, WHOLE),
            (RETURN, 0, 0, NOTHING)]


def _attach(ear: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    import ctypes

    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    ear.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))
