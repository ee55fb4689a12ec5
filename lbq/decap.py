"""``lbq decap``: a real server's end of a TUN tunnel where the kernel has no ipip, gue or gre device.

    director ══[ IPIP, GUE or GRE ]══► raw or UDP socket ─► check ─► tun device ─► the kernel delivers to the VIP
    VIP:vport ─► CIP:cport             leaves by itself, past the director

The tunnel may be IPv4 or IPv6 whatever is in it; it is taken in both.  A raw socket for protocol 4 (IPv4 inside) or 41
(IPv6 inside) also keeps the kernel from answering "protocol unreachable".  Only packets for one of the VIPs are let in:
a tunnel's end that takes anything lets anybody send from any address.

Kernel: Documentation/networking/tuntap.rst; ip_vs_xmit.c has the other end.  A raw IPv4 socket hands over the outer
header, a raw IPv6 socket does not.
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

from lbq.errors import ConfigError, HostError
from lbq.grammar import format_address, parse_balanced_address, parse_number
from lbq.host import addresses, sysctl
from lbq.host.probes import check_ipv6, check_permission
from lbq.model import AF_INET, AF_INET6
from lbq.options import Parser
from lbq.realserver import TUNNEL, tunnel_is_up

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
SO_RCVBUFFORCE, UDP_NO_CHECK6_RX = 33, 102
BUFFER = 8 << 20
LARGEST = 65535
TYPES = ("ipip", "gue", "gre")
INSIDE = {AF_INET: socket.IPPROTO_IPIP, AF_INET6: socket.IPPROTO_IPV6}      # what an outer header says is inside
KERNELS_OWN = {         # (type, family around, inside): where the kernel knows it, every namespace has this device
    ("ipip", AF_INET, AF_INET): TUNNEL, ("ipip", AF_INET, AF_INET6): "sit0",
    ("ipip", AF_INET6, AF_INET): "ip6tnl0", ("ipip", AF_INET6, AF_INET6): "ip6tnl0",
    ("gre", AF_INET, AF_INET): "gre0", ("gre", AF_INET, AF_INET6): "gre0",
    ("gre", AF_INET6, AF_INET): "ip6gre0", ("gre", AF_INET6, AF_INET6): "ip6gre0"}
OVER = {"ipv4": AF_INET, "ipv6": AF_INET6}
GUE_PORT = 6080
EPILOG = """\
It listens where tunnel packets arrive (raw sockets; for gue a UDP port), over IPv4 and IPv6 whatever the VIP is, lets
in what is for a VIP, and hands it to this host through a tun device; the host answers clients directly.  For an IPv4
VIP rp_filter is 0 while it runs.
The director says which type it sends: lbq add server … RIP,mode=tun,tunnel=ipip|gue|gre,tunnel-port=N.

examples:
  lbq realserver tun --vip 172.16.10.1 && lbq decap --vip 172.16.10.1
  lbq decap --vip 172.16.10.1 --type gue --port 6080
  lbq realserver tun --vip 2001:db8::1 && lbq decap --vip 2001:db8::1"""
GUE_HEADER = 4
GRE_HEADER = 4
GRE_OPTIONS = (0x8000, 0x2000, 0x1000)      # checksum, key, sequence number: four bytes each
GRE_INSIDE = (0x0800, 0x86DD)

Vips = set[tuple[int, int]]                 # address and family


def main(words: list[str]) -> int:
    """Do what ``lbq decap WORDS`` says until a signal comes; return the exit status."""
    parser = Parser("lbq decap", "On a real server of TUN without a tunnel device: take the director's packets out of "
                    "their tunnel and hand them to this host.  Runs until Ctrl-C; the VIP must be on lo "
                    "(lbq realserver).",
                    usage="lbq decap --vip VIP [--vip VIP]... [--type ipip|gue|gre] [--port N] [--over ipv4|ipv6]",
                    epilog=EPILOG)
    parser.add_argument("--vip", metavar="VIP", action="append", default=[], help="let packets for this address in")
    parser.add_argument("--type", metavar="TYPE", default="ipip", help="ipip (default), gue or gre")
    parser.add_argument("--port", metavar="N", help=f"UDP port of gue (default {GUE_PORT})")
    parser.add_argument("--over", metavar="FAMILY", help="ipv4 or ipv6: the address that the director has of this host "
                        "(default: both)")
    said = parser.parse_args(words)
    if said.type not in TYPES:
        raise ConfigError(f"unknown --type '{said.type}'; there are ipip, gue and gre")
    if said.over not in (None, *OVER):
        raise ConfigError(f"unknown --over '{said.over}'; tunnels come over ipv4 or ipv6")
    if not said.vip:
        raise ConfigError("no --vip: say which virtual address packets are let in for")
    vips = {parse_balanced_address(vip) for vip in said.vip}
    if said.port is not None and said.type != "gue":
        raise ConfigError(f"--port is the UDP port of gue; {said.type} has none")
    port = GUE_PORT if said.port is None else parse_number(said.port, "--port", 1, 65535)
    check_permission()
    outer = _outer_families(said.over)
    for inner in sorted({family for _, family in vips}):
        for around in outer:
            check_kernel(said.type, around, inner)
    for vip, family in vips:
        if not addresses.is_local(vip, family):
            name = format_address(vip, family)
            raise HostError(f"{name} is not an address of this host, so nobody here would take its "
                            f"packets; run lbq realserver tun --vip {name} first")
    return _run(said.type, port, vips, outer)


def _outer_families(over: str | None) -> list[int]:
    """Return the families that tunnels come over: the one that is said, or all that this machine has."""
    if over is not None:
        if over == "ipv6":
            check_ipv6()
        return [OVER[over]]
    return [AF_INET, *([AF_INET6] if os.path.exists("/proc/net/if_inet6") else [])]


def check_kernel(kind: str, outer: int, inner: int) -> None:
    """Raise HostError when the kernel ends such tunnels itself: it handles each packet beside our socket."""
    device = KERNELS_OWN.get((kind, outer, inner))
    is_up = None if device is None else tunnel_is_up(device)
    if is_up is None:
        return
    around, other = ("IPv4", "ipv6") if outer == AF_INET else ("IPv6", "ipv4")
    elsewhere = f"; or, if the director's packets come over {other.replace('ip', 'IP')}, say --over {other}"
    if (device, inner) == ("ip6tnl0", AF_INET):     # which takes only IPv6 out of tunnels
        if not is_up:
            raise HostError(f"this kernel refuses IPv4 in IPv6 while {device} is down, whoever else takes it; bring it "
                            f"up beside lbq decap (ip link set {device} up){elsewhere}")
    elif is_up:
        raise HostError(f"{device} is up and ends {kind.upper()} tunnels over {around} here: with lbq decap beside it "
                        f"every packet would come twice; leave lbq decap away{elsewhere}")
    else:
        raise HostError(f"this kernel has {kind.upper()} tunnels over {around} itself, and refuses their packets while "
                        f"{device} is down, whoever else takes them; bring it up instead of lbq decap "
                        f"(ip link set {device} up){elsewhere}")


def _run(kind: str, port: int, vips: Vips, outer: list[int]) -> int:
    families = {family for _, family in vips}
    with contextlib.ExitStack() as stack:
        receivers = [stack.enter_context(receiver) for receiver in _receivers(kind, port, outer, families)]
        device = stack.enter_context(open_tun())
        keys = ("net/ipv4/conf/all/rp_filter", f"net/ipv4/conf/{device.name}/rp_filter")
        filters = {key: sysctl.read(key) for key in keys if AF_INET in families}
        sysctl.write_all(dict.fromkeys(filters, "0"))       # clients' addresses are not routed to this device
        if AF_INET6 in families:
            sysctl.write_all({f"net/ipv6/conf/{device.name}/disable_ipv6": "0"})
        woken, waker = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: os.write(waker, b"!"))
        try:
            names = ", ".join(format_address(*vip) for vip in sorted(vips))
            print(f"ready: {kind} for {names} through {device.name}", flush=True)
            counted = _loop(receivers, device, kind, vips, woken)
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


def _receivers(kind: str, port: int, outer: list[int], families: set[int]) -> list[socket.socket]:
    """Return sockets that get the tunnel's packets over each of the families *outer*, with *families* inside."""
    if kind == "gue":
        found = [_udp_socket(family, port) for family in outer]
    else:
        inside = [socket.IPPROTO_GRE] if kind == "gre" else [INSIDE[family] for family in families]
        found = [socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
                 for family in outer for protocol in inside]
    for receiver in found:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        receiver.setblocking(False)
    return found


def _udp_socket(family: int, port: int) -> socket.socket:
    receiver = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        if family == AF_INET6:
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            receiver.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)    # tunnel-csum=no, the director's default
        receiver.bind(("", port))
    except OSError as error:
        receiver.close()
        raise HostError(f"cannot listen on UDP port {port}: {error.strerror}; choose another with --port") from error
    return receiver


def _loop(receivers: list[socket.socket], device: Device, kind: str, vips: Vips, woken: int) -> Counter:
    """Let packets in until *woken* is readable; return what was counted."""
    counted: Counter = Counter()
    poll = select.poll()
    by_descriptor = {receiver.fileno(): receiver for receiver in receivers}
    for descriptor in (woken, *by_descriptor):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == woken:
                return counted
            receiver = by_descriptor[descriptor]
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):
                    inner = read_inner(receiver.recv(LARGEST), kind, receiver.family)
                    counted[_let_in(inner, device, vips)] += 1


def _let_in(inner: bytes, device: Device, vips: Vips) -> str:
    """Hand *inner* to the kernel if it may be; return what became of it."""
    reason = why_not(inner, vips)
    if reason is not None:
        return reason
    try:
        os.write(device.descriptor, inner)
    except OSError:
        return "refused by the kernel"
    return "let in"


def read_inner(received: bytes, kind: str, family: int) -> bytes:
    """Return the inner packet of what a socket of *family* received, nothing when there is none."""
    if kind == "gue":
        if len(received) < GUE_HEADER or received[0] >> 5 or received[1] not in INSIDE.values():
            return b""
        return received[GUE_HEADER + (received[0] & 0x1F) * 4:]
    header = (received[0] & 0x0F) * 4 if received and family == AF_INET else 0
    payload = received[header:]
    return payload if kind == "ipip" else _after_gre(payload)


def _after_gre(payload: bytes) -> bytes:
    if len(payload) < GRE_HEADER or int.from_bytes(payload[2:4]) not in GRE_INSIDE:
        return b""
    flags = int.from_bytes(payload[:2])
    if flags & ~(sum(GRE_OPTIONS)):         # routing, or another version
        return b""
    return payload[GRE_HEADER + 4 * sum(flags & option != 0 for option in GRE_OPTIONS):]


def why_not(inner: bytes, vips: Vips) -> str | None:
    """Return why *inner* is not let in, or None."""
    version = inner[0] >> 4 if inner else 0
    if version == 4 and 20 <= int.from_bytes(inner[2:4]) <= len(inner):
        destination = int.from_bytes(inner[16:20]), AF_INET
    elif version == 6 and 40 <= 40 + int.from_bytes(inner[4:6]) <= len(inner):
        destination = int.from_bytes(inner[24:40]), AF_INET6
    else:
        return "no IP packet inside"
    return None if destination in vips else "not for a VIP"
