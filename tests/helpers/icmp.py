"""ICMP errors as programs hear of them, and what they make a host remember."""
from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lbq.lab.namespace import Namespace
from lbq.lab.topology import Lab
from tests.helpers.endpoints import digest_of
from tests.helpers.topology import RECEIVE_ERRORS, features, udp_server, udp_socket, upload

IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 10, 0, 2        # <linux/in.h>
TIMEOUT = 5
SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6 = 2, 3        # <linux/errqueue.h>
EXTENDED_ERROR = struct.Struct("=IBBBxII")          # errno, origin, type, code, info, data; then a sockaddr
OFFENDER = {socket.AF_INET: slice(20, 24), socket.AF_INET6: slice(24, 40)}      # where in it the address is


def error_about(sock: socket.socket, datagram: bytes) -> tuple[int, int, int, str]:
    """Send *datagram*; return type, code, next hop's MTU and sender of the ICMP error that it meets with."""
    waiting = select.poll()
    waiting.register(sock, 0)       # errors are always waited for
    sock.send(datagram)
    assert waiting.poll(TIMEOUT * 1000), "no ICMP error came"
    _, ancillary, _, _ = sock.recvmsg(65535, 1024, socket.MSG_ERRQUEUE)
    [told] = [data for level, kind, data in ancillary if (level, kind) == RECEIVE_ERRORS[sock.family]]
    _, origin, kind, code, mtu, _ = EXTENDED_ERROR.unpack_from(told)
    assert origin in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6), f"an error of this host itself, origin {origin}"
    return kind, code, mtu, socket.inet_ntop(sock.family, told[OFFENDER[sock.family]])


def trace(sock: socket.socket, hops: int) -> list[str]:
    """Return who says of a packet with 1, 2 … *hops* hops to live that those are too few; later ones have one more."""
    senders = []
    for number in range(1, hops + 1):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, number)
        kind, code, _, sender = error_about(sock, b"how far?")
        assert (kind, code) == (11, 0)
        senders.append(sender)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops + 1)
    return senders


@contextmanager
def no_route_cache(host: Namespace) -> Iterator[None]:
    """Let *host* forget the path MTUs that it learns in a ``with`` block."""
    try:
        yield
    finally:
        host.run(["ip", "route", "flush", "cache"])


def assert_server_hears_that_its_client_is_gone(lab: Lab, server: Namespace, address: str, port: int) -> None:
    """Let *server* answer from *address* a client that has closed its socket: it must be told so."""
    with udp_server(server, address, port) as answering:
        with udp_socket(lab.client, lab.vip, port) as sock:
            sock.send(b"hello")
            data, client = answering.recvfrom(100)
        answering.connect(client)

        answering.send(b"too late")

        assert data == b"hello"
        with pytest.raises(ConnectionRefusedError):
            answering.recv(100)


def assert_client_learns_what_fits(lab: Lab, mtu: int, echo: int, bulk: str, size: int) -> None:
    """Send packets larger than *mtu* to the VIP: to the UDP port *echo*, and *size* bytes to the URL *bulk*.

    UDP that forbids fragments hears of it, UDP that allows them arrives in some, and TCP sends smaller segments.
    """
    datagram = bytes(mtu)
    with no_route_cache(lab.client):
        with udp_socket(lab.client, lab.vip, echo) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            assert error_about(sock, datagram) == (3, 4, mtu, lab.vip)
        lab.client.run(["ip", "route", "flush", "cache"])
        with udp_socket(lab.client, lab.vip, echo) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            sock.send(datagram)
            assert sock.recv(2000).endswith(datagram)
        with features(lab.client, "tso off gso off"):
            assert upload(lab.client, bulk, size) == digest_of(size)
        assert f"mtu {mtu}" in lab.client.run(["ip", "route", "get", lab.vip]).stdout
