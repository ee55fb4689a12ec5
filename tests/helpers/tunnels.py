"""Ends of tunnels on real servers: the kernel's own where it knows the type, else ``lbq decap``."""
from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from lbq.decap import KERNELS_OWN
from lbq.lab.namespace import Namespace, Process
from lbq.lab.routed import DIRECTOR, RoutedLab
from lbq.lab.topology import lbq_command, this_lbq
from lbq.model import AF_INET
from lbq.realserver import tunnel_is_up
from tests.helpers import packets

GUE_PORT = 6080
GUE, GRE = b"\0\4\0\0", b"\0\0\10\0"       # headers: IPv4 within, and no flags


class Tunnel(NamedTuple):
    """One way to wrap packets."""

    kind: str
    checksum: bool
    overhead: int       # bytes that it takes

    def settings(self) -> str:
        """Return what ``lbq add server`` is told of it."""
        port = f",tunnel-port={GUE_PORT}" if self.kind == "gue" else ""
        return f",tunnel={self.kind}{port},tunnel-csum={'yes' if self.checksum else 'no'}"

    def __str__(self) -> str:
        return self.kind + (" with checksum" if self.checksum else "")


TUNNELS = [Tunnel("ipip", False, 20), Tunnel("gue", False, 32), Tunnel("gue", True, 32), Tunnel("gre", False, 24),
           Tunnel("gre", True, 28)]


def kernel_ends(server: Namespace, kind: str) -> bool:
    """Return True when the kernel of *server* can end tunnels of this *kind*."""
    if server.call(tunnel_is_up) is None:      # what ends IPIP, and what fou hands GUE's inner packets to
        return False
    program = {"ipip": ["true"], "gue": ["modprobe", "fou"], "gre": ["modprobe", "ip_gre"]}[kind]
    return server.run(program, check=False).returncode == 0


@contextmanager
def ending(lab: RoutedLab, tunnel: Tunnel, servers: list[Namespace]) -> Iterator[None]:
    """End *tunnel* on *servers* for the length of a ``with`` block; the lab itself ends IPIP."""
    with ExitStack() as stack:
        for server in servers if tunnel.kind != "ipip" else []:
            stack.enter_context((_kernel if kernel_ends(server, tunnel.kind) else _decap)(server, lab.vip, tunnel))
        yield


@contextmanager
def _decap(server: Namespace, vip: str, tunnel: Tunnel) -> Iterator[None]:
    process = start_decap(server, vip, tunnel.kind)
    yield
    counted = last_words(process)
    assert counted.startswith("let in ") and "," not in counted, counted


@contextmanager
def _kernel(server: Namespace, vip: str, tunnel: Tunnel) -> Iterator[None]:
    if tunnel.kind == "gue":
        there, gone = ["fou", "add", "port", GUE_PORT, "gue"], ["fou", "del", "port", GUE_PORT]
    else:
        there = ["link", "add", "gre1", "up", "type", "gre", "local", server.address, "remote", DIRECTOR]
        there, gone = there + (["csum"] if tunnel.checksum else []), ["link", "del", "gre1"]
    server.run(["ip", *there])
    try:
        yield
    finally:
        server.run(["ip", *gone])


def kinds_for_decap(server: Namespace, family: int = AF_INET) -> list[str]:
    """Return the kinds of tunnels that the kernel of *server* leaves to ``lbq decap`` for a VIP of *family*."""
    own = {kind for (kind, _, inner), device in KERNELS_OWN.items()
           if inner == family and server.call(tunnel_is_up, device) is not None}
    return [kind for kind in ("ipip", "gue", "gre") if kind not in own]


def start_decap(server: Namespace, vip: str, kind: str, over: str | None = None) -> Process:
    """Run ``lbq decap`` on *server*, for tunnels *over* one family alone if that is said."""
    words = [] if over is None else ["--over", over]
    process = server.popen(lbq_command("decap", "--vip", vip, "--type", kind, *words), env=this_lbq())
    process.wait_for("ready")
    return process


def last_words(process: Process) -> str:
    """End ``lbq decap`` and return what it has counted."""
    process.terminate()
    return process.wait_for("")


def send_tunnelled(host: Namespace, server: str, kind: str, destination: str, content: bytes) -> None:
    """Send a UDP packet of *host* to *destination*, ``ADDRESS:PORT``, through a tunnel of its own making."""
    inner = packets.udp(f"{host.address}:40000", destination, content)
    if kind == "gue":
        outer = packets.udp(f"{host.address}:40001", f"{server}:{GUE_PORT}", GUE + inner)
    else:
        outer = packets.ipv4(socket.IPPROTO_GRE, packets.address(host.address), packets.address(server), GRE + inner)
    with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(outer, (server, 0))
