"""SCTP between machines of a lab: by the kernel where it has SCTP, else a little of it over raw sockets.

    sctp.py PORT NAME [ipv6]     says the name to whoever associates, then echoes, as ``endpoints.py hold`` does
    associate(host, VIP, PORT)   the other end: ``.name``, ``.echoes(message)``, ``.close()``

The little SCTP (RFC 9260) has one chunk a packet and no retransmission, and refuses wrong checksums.
"""
from __future__ import annotations

import socket
import socketserver
import struct
import sys
from typing import NamedTuple

DATA, INIT, INIT_ACK, SACK, SHUTDOWN, SHUTDOWN_ACK, COOKIE_ECHO, COOKIE_ACK, COMPLETE = 0, 1, 2, 3, 7, 8, 10, 11, 14
WHOLE = 3                       # flags of a DATA chunk that is a whole message
COOKIE = 7                      # parameter of INIT ACK
POLYNOMIAL = 0x82F63B78         # Castagnoli's, reflected
TIMEOUT = 10
PORTS = iter(range(40000, 60000))       # of clients; raw sockets have none of their own


def kernel_has_sctp() -> bool:
    """Return True when programs can open SCTP sockets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def crc32c(data: bytes) -> int:
    """Return the checksum of an SCTP packet, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ POLYNOMIAL * (crc & 1)
    return crc ^ 0xFFFFFFFF


class Packet(NamedTuple):
    """One SCTP packet with one chunk."""

    source: int
    destination: int
    tag: int
    kind: int
    flags: int
    content: bytes

    def build(self) -> bytes:
        """Return it as it is sent."""
        head = struct.pack("!HHI", self.source, self.destination, self.tag)
        chunk = struct.pack("!BBH", self.kind, self.flags, 4 + len(self.content)) + self.content
        chunk += bytes(-len(chunk) % 4)
        return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def read(received: bytes, family: int) -> Packet:
    """Return the packet in what a raw socket *received*: with IPv4 the IP header and all."""
    data = received[(received[0] & 15) * 4:] if family == socket.AF_INET else received
    source, destination, tag, checksum = struct.unpack_from("!HHI4s", data)
    kind, flags, length = struct.unpack_from("!BBH", data, 12)
    assert checksum == struct.pack("<I", crc32c(data[:8] + bytes(4) + data[12:])), "wrong CRC32c"
    return Packet(source, destination, tag, kind, flags, data[16:12 + length])


def opening(tag: int) -> bytes:
    """Return what INIT and INIT ACK begin with: our tag, window, streams, first sequence number."""
    return struct.pack("!IIHHI", tag, 65535, 1, 1, 1)


def message(number: int, content: bytes) -> bytes:
    """Return what a DATA chunk carries: sequence number, stream, protocol, content."""
    return struct.pack("!IHHI", number, 0, number, 0) + content


class Server:
    """The little SCTP's server: it answers chunk by chunk, and keeps of each client the tag and a count."""

    def __init__(self, port: int, title: str, family: int):
        self.port = port
        self.title = title.encode()
        self.clients: dict[tuple[str, int], list[int]] = {}
        self.socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)

    def serve(self) -> None:
        """Answer whatever comes to our port."""
        while True:
            received, (address, *_) = self.socket.recvfrom(65535)
            packet = read(received, self.socket.family)
            if packet.destination == self.port:
                for kind, flags, content in self.answers((address, packet.source), packet):
                    tag = self.clients[address, packet.source][0]
                    answer = Packet(self.port, packet.source, tag, kind, flags, content)
                    self.socket.sendto(answer.build(), (address, 0))

    def answers(self, client: tuple[str, int], packet: Packet):
        """Give the chunks that a client's packet is answered with."""
        if packet.kind == INIT:
            self.clients[client] = [struct.unpack_from("!I", packet.content)[0], 0]
            yield INIT_ACK, 0, opening(1) + struct.pack("!HH4s", COOKIE, 8, b"lbq!")
        elif packet.kind == COOKIE_ECHO:
            yield COOKIE_ACK, 0, b""
            yield DATA, WHOLE, self.numbered(client, self.title)
        elif packet.kind == DATA:
            yield SACK, 0, packet.content[:4] + struct.pack("!IHH", 65535, 0, 0)
            yield DATA, WHOLE, self.numbered(client, packet.content[12:])
        elif packet.kind == SHUTDOWN:
            yield SHUTDOWN_ACK, 0, b""

    def numbered(self, client: tuple[str, int], content: bytes) -> bytes:
        """Return *content* as the next message to a client."""
        self.clients[client][1] += 1
        return message(self.clients[client][1], content)


class Association:
    """The little SCTP's client."""

    def __init__(self, host, address: str, port: int):
        with host.inside():
            self.socket = socket.socket(family_of(address), socket.SOCK_RAW, socket.IPPROTO_SCTP)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect((address, 0))
        self.port, self.peer, self.tag, self.sent = next(PORTS), port, 0, 0
        accepted = self.ask(INIT, opening(1), INIT_ACK)
        self.tag = struct.unpack_from("!I", accepted)[0]
        self.ask(COOKIE_ECHO, b"lbq!", COOKIE_ACK)
        self.name = self.receive(DATA)[12:].decode()

    def send(self, kind: int, content: bytes = b"", flags: int = 0) -> None:
        """Send one chunk."""
        self.socket.send(Packet(self.port, self.peer, self.tag, kind, flags, content).build())

    def receive(self, kind: int) -> bytes:
        """Return what the next chunk carries, which must be of this *kind*."""
        while True:
            packet = read(self.socket.recv(65535), self.socket.family)
            if packet.destination == self.port:
                assert (packet.source, packet.kind) == (self.peer, kind)
                return packet.content

    def ask(self, kind: int, content: bytes, answer: int) -> bytes:
        """Send one chunk and return what its *answer* carries."""
        self.send(kind, content)
        return self.receive(answer)

    def echoes(self, content: bytes) -> bool:
        """Return True when *content* comes back."""
        self.sent += 1
        self.send(DATA, message(self.sent, content), WHOLE)
        self.receive(SACK)
        answer = self.receive(DATA)
        self.send(SACK, answer[:4] + struct.pack("!IHH", 65535, 0, 0))
        return answer[12:] == content

    def close(self) -> None:
        """Shut the association down in order."""
        self.ask(SHUTDOWN, struct.pack("!I", self.sent), SHUTDOWN_ACK)
        self.send(COMPLETE)
        self.socket.close()


class KernelAssociation:
    """The same with the kernel's SCTP."""

    def __init__(self, host, address: str, port: int):
        with host.inside():
            self.socket = socket.socket(family_of(address), socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect((address, port))
        self.name = self.socket.recv(64).decode()

    def echoes(self, content: bytes) -> bool:
        """Return True when *content* comes back."""
        self.socket.sendall(content)
        return self.socket.recv(len(content)) == content

    def close(self) -> None:
        """Shut the association down in order."""
        self.socket.close()


class Echo(socketserver.BaseRequestHandler):
    """Say the name, then echo."""

    def handle(self):
        """Serve one association."""
        self.request.sendall(self.server.title)
        while data := self.request.recv(65536):
            self.request.sendall(data)


class KernelServer(socketserver.ThreadingTCPServer):
    """The kernel's SCTP looks like TCP to a program."""

    daemon_threads = True

    def __init__(self, port: int, title: str, family: int):
        super().__init__(("", port), Echo, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.title = title.encode()
        self.server_bind()
        self.server_activate()

    serve = socketserver.BaseServer.serve_forever


def associate(host, address: str, port: int) -> Association | KernelAssociation:
    """Return an association from *host*."""
    return (KernelAssociation if kernel_has_sctp() else Association)(host, address, port)


def family_of(address: str) -> int:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    family = socket.AF_INET6 if sys.argv[3:] == ["ipv6"] else socket.AF_INET
    server = (KernelServer if kernel_has_sctp() else Server)(int(sys.argv[1]), sys.argv[2], family)
    print("ready", flush=True)
    server.serve()
