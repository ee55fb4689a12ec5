"""``lbq decap``: a real server's end of a TUN tunnel where the kernel has no ipip, gue or gre device.

    director ══[ IPIP, GUE or GRE ]══► raw or UDP socket ─► check ─► tun device ─► the kernel delivers to the VIP
    VIP:vport ─► CIP:cport             leaves by itself, past the director

A raw socket for protocol 4 also keeps the kernel from answering "protocol unreachable".  Only inner IPv4 packets for
one of the VIPs are let in: a tunnel's end that takes anything lets anybody send from any address.

Kernel: Documentation/networking/tuntap.rst; ip_vs_xmit.c has the other end.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
from collections import Counter

from lbq import packet as pkt
from lbq.errors import ConfigError, HostError
from lbq.grammar import format_address, parse_address, parse_number
from lbq.host import addresses, sysctl
from lbq.host.probes import check_permission
from lbq.modes import tun
from lbq.options import Parser
from lbq.realserver import TUNNEL, tunnel_is_up

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
SO_RCVBUFFORCE = 33
BUFFER = 8 << 20
LARGEST = 65535
TYPES = {"ipip": socket.IPPROTO_IPIP, "gre": socket.IPPROTO_GRE}
KERNELS_OWN = {"ipip": TUNNEL, "gre": "gre0"}      # where the kernel knows the type, every namespace has this device
GUE_PORT = 6080
EPILOG = """\
It listens where tunnel packets arrive (a raw socket; for gue a UDP port), lets in what is IPv4 and for a VIP, and
hands it to this host through a tun device; the host answers clients directly.  rp_filter is 0 while it runs.
The director says which type it sends: lbq add server … RIP,mode=tun,tunnel=ipip|gue|gre,tunnel-port=N.

examples:
  lbq realserver tun --vip 172.16.10.1 && lbq decap --vip 172.16.10.1
  lbq decap --vip 172.16.10.1 --type gue --port 6080"""
GUE_HEADER = 4


def main(words: list[str]) -> int:
    """Do what ``lbq decap WORDS`` says until a signal comes; return the exit status."""
    parser = Parser("lbq decap", "On a real server of TUN without a tunnel device: take the director's packets out of "
                    "their tunnel and hand them to this host.  Runs until Ctrl-C; the VIP must be on lo "
                    "(lbq realserver).",
                    usage="lbq decap --vip VIP [--vip VIP]... [--type ipip|gue|gre] [--port N]", epilog=EPILOG)
    parser.add_argument("--vip", metavar="VIP", action="append", default=[], help="let packets for this address in")
    parser.add_argument("--type", metavar="TYPE", default="ipip", help="ipip (default), gue or gre")
    parser.add_argument("--port", metavar="N", help=f"UDP port of gue (default {GUE_PORT})")
    said = parser.parse_args(words)
    if said.type not in (*TYPES, "gue"):
        raise ConfigError(f"unknown --type '{said.type}'; there are ipip, gue and gre")
    if not said.vip:
        raise ConfigError("no --vip: say which virtual address packets are let in for")
    vips = {parse_address(vip) for vip in said.vip}
    if said.port is not None and said.type != "gue":
        raise ConfigError(f"--port is the UDP port of gue; {said.type} has none")
    port = GUE_PORT if said.port is None else parse_number(said.port, "--port", 1, 65535)
    check_permission()
    check_kernel(said.type)
    for vip in vips:
        if not addresses.is_local(vip):
            raise HostError(f"{format_address(vip)} is not an address of this host, so nobody here would take its "
                            f"packets; run lbq realserver tun --vip {format_address(vip)} first")
    return _run(said.type, port, vips)


def check_kernel(kind: str) -> None:
    """Raise HostError when the kernel has tunnels of this *kind* itself: it handles each packet beside our socket."""
    device = KERNELS_OWN.get(kind)
    is_up = None if device is None else tunnel_is_up(device)
    if is_up:
        raise HostError(f"{device} is up and ends {kind.upper()} tunnels here: with lbq decap beside it every packet "
                        "would come twice; leave lbq decap away")
    if is_up is not None:
        raise HostError(f"this kernel has {kind.upper()} tunnels itself, and refuses their packets while {device} is "
                        f"down, whoever else takes them; bring it up instead of lbq decap (ip link set {device} up)")


def _run(kind: str, port: int, vips: set[int]) -> int:
    with contextlib.closing(_receiver(kind, port)) as receiver, open_tun() as device:
        keys = ("net/ipv4/conf/all/rp_filter", f"net/ipv4/conf/{device.name}/rp_filter")
        filters = {key: sysctl.read(key) for key in keys}
        sysctl.write_all(dict.fromkeys(filters, "0"))       # clients' addresses are not routed to this device
        woken, waker = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: os.write(waker, b"!"))
        try:
            print(f"ready: {kind} for {', '.join(map(format_address, sorted(vips)))} through {device.name}", flush=True)
            counted = _loop(receiver, device, kind, vips, woken)
        finally:
            for key, value in filters.items():
                if value is not None and "all" in key:
                    sysctl.write_all({key: value})
    print(", ".join(f"{name} {count}" for name, count in sorted(counted.items())) or "no packet came", flush=True)
    return 0


class Device:
    """A tun device that is up, until it is closed."""

    def __init__(self, descriptor: int, name: str):
        self.descriptor = descriptor
        self.name = name

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_) -> None:
        os.close(self.descriptor)


def open_tun() -> Device:
    """Return a new tun device."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        answer = fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("=16sH22x", b"lbqdecap%d", IFF_TUN | IFF_NO_PI))
    except OSError as error:
        raise HostError(f"cannot make a tun device: {error.strerror}; the kernel needs TUN (modprobe tun), the "
                        "container the device /dev/net/tun") from error
    name = answer[:16].rstrip(b"\0").decode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("=16sH22x", name.encode(), IFF_UP))
    return Device(descriptor, name)


def _receiver(kind: str, port: int) -> socket.socket:
    if kind == "gue":
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            receiver.bind(("", port))
        except OSError as error:
            raise HostError(f"cannot listen on UDP port {port}: {error.strerror}; "
                            "choose another with --port") from error
    else:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, TYPES[kind])
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    receiver.setblocking(False)
    return receiver


def _loop(receiver: socket.socket, device: Device, kind: str, vips: set[int], woken: int) -> Counter:
    """Let packets in until *woken* is readable; return what was counted."""
    counted: Counter = Counter()
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(receiver, select.POLLIN)
    while not any(descriptor == woken for descriptor, _ in poll.poll()):
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                outer = receiver.recv(LARGEST)
                inner = read_inner(outer, kind)
                reason = why_not(inner, vips)
                counted[reason or "let in"] += 1
                if reason is None:
                    try:
                        os.write(device.descriptor, inner)
                    except OSError:
                        counted["refused by the kernel"] += 1
    return counted


def read_inner(received: bytes, kind: str) -> bytes:
    """Return the inner packet of what a socket *received*: a raw one with the outer IP header, a UDP one without."""
    if kind == "gue":
        if len(received) < GUE_HEADER or received[0] >> 5 or received[1] != tun.protocol_of(tun.IPIP, False):
            return b""
        return received[GUE_HEADER + (received[0] & 0x1F) * 4:]
    outer = bytearray(received)
    at = tun.inner_of(outer, len(outer))
    return received[at:] if at > 0 else b""


def why_not(inner: bytes, vips: set[int]) -> str | None:
    """Return why *inner* is not let in, or None."""
    if len(inner) < 20 or inner[0] >> 4 != 4 or pkt.get16(bytearray(inner[:20]), pkt.IP_LENGTH) > len(inner):
        return "no IPv4 packet inside"
    if int.from_bytes(inner[pkt.IP_DESTINATION:pkt.IP_DESTINATION + 4]) not in vips:
        return "not for a VIP"
    return None
