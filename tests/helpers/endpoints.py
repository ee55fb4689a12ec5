"""What runs on the lab's servers when nginx is not enough: ``endpoints.py KIND PORT NAME [ipv6]``.

bulk   HTTP: GET /N answers N bytes of known content, PUT answers the SHA-256 of what arrived.
echo   UDP: answers each datagram with the server's name, a space and the datagram, from the address it was sent to.
hold   TCP: says the server's name, then echoes bytes until the client closes.

Content is made as it is sent and hashed as it arrives: nothing here keeps a gigabyte.
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import socket
import socketserver
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 1 << 20
SO_RCVBUFFORCE = 33     # <asm-generic/socket.h>; the socket module has no name for it
IP_PKTINFO = 8          # <linux/in.h>; nor for this
PKTINFO = struct.Struct("=i4s4s")       # device, our address, the packet's destination
PKTINFO6 = struct.Struct("=16si")       # the packet's destination, device


@functools.cache
def _noise() -> bytes:
    return random.Random(20).randbytes(BLOCK)


def content(size: int):
    """Yield *size* bytes in blocks, each different, so that none can be lost, doubled or swapped."""
    for number in range(-(-size // BLOCK)):
        block = number.to_bytes(8, "big") + _noise()[8:]
        yield block[:size - number * BLOCK]


@functools.cache
def digest_of(size: int) -> str:
    """Return the SHA-256 of ``content(size)``."""
    digest = hashlib.sha256()
    for block in content(size):
        digest.update(block)
    return digest.hexdigest()


class Bulk(BaseHTTPRequestHandler):
    """Send known content, hash what comes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Send as many bytes as the path says."""
        size = int(self.path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        for block in content(size):
            self.wfile.write(block)

    def do_PUT(self):
        """Answer with the digest of the body, whose length the client has declared."""
        left = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while left and (data := self.rfile.read1(min(BLOCK, left))):
            digest.update(data)
            left -= len(data)
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        """Say nothing: thousands of requests would fill the log."""


class Hold(socketserver.BaseRequestHandler):
    """Say the name, then echo until the client closes: a connection as long as a test likes."""

    def handle(self):
        """Serve one connection, which the client may also reset."""
        with contextlib.suppress(ConnectionError):
            self.request.sendall(self.server.title.encode() + b"\n")
            while data := self.request.recv(65536):
                self.request.sendall(data)


class HoldServer(socketserver.ThreadingTCPServer):
    """One thread a connection, and room for a burst of a thousand in the backlog."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 4096


class BulkServer(ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True


class Alone6:
    """IPv6 and nothing else: the port is another's in IPv4."""

    address_family = socket.AF_INET6

    def server_bind(self):
        """Bind the socket."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()


class BulkServer6(Alone6, BulkServer):
    """The same over IPv6."""


class HoldServer6(Alone6, HoldServer):
    """The same over IPv6."""


def serve_bulk(port: int, title: str, kind=BulkServer) -> None:
    """Serve the known content over HTTP."""
    server = kind(("", port), Bulk)
    print("ready", flush=True)
    server.serve_forever()


def serve_hold(port: int, title: str, kind=HoldServer) -> None:
    """Hold TCP connections."""
    server = kind(("", port), Hold)
    server.title = title
    print("ready", flush=True)
    server.serve_forever()


def serve_echo(port: int, title: str) -> None:
    """Answer datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        server.bind(("", port))
        print("ready", flush=True)
        while True:
            data, [(level, kind, info)], _, client = server.recvmsg(65535, 64)
            _, address, _ = PKTINFO.unpack(info)
            server.sendmsg([title.encode(), b" ", data], [(level, kind, PKTINFO.pack(0, address, bytes(4)))], 0, client)


def serve_echo6(port: int, title: str) -> None:
    """Answer datagrams of IPv6."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind(("", port))
        print("ready", flush=True)
        while True:
            data, [(level, kind, info)], _, client = server.recvmsg(65535, 64)
            address, _ = PKTINFO6.unpack(info)
            server.sendmsg([title.encode(), b" ", data], [(level, kind, PKTINFO6.pack(address, 0))], 0, client)


SERVERS = {"bulk": serve_bulk, "echo": serve_echo, "hold": serve_hold}
SERVERS6 = {"bulk": functools.partial(serve_bulk, kind=BulkServer6), "echo": serve_echo6,
            "hold": functools.partial(serve_hold, kind=HoldServer6)}

if __name__ == "__main__":
    kind, port, title, *family = sys.argv[1:]
    (SERVERS6 if family == ["ipv6"] else SERVERS)[kind](int(port), title)
