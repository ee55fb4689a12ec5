"""Clients of every service at once, for a while: ``python -m tests.soak.clients VIP VIP6 SECONDS``.

Each request has its own connection: TCP hears the server's name, sends something and gets it back, UDP gets an answer
to each datagram.  Some connections are held from the first second to the last.  Source ports come round only after
minutes, so a request never meets what is left of an earlier one.  Prints one line of JSON: how many requests of each
service were answered, and for each that was not, when it began, when it was given up, and why.
"""
from __future__ import annotations

import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter

# A 6 in the name: over IPv6; tun4in6 is a service of IPv4 whose servers are reached by a tunnel of IPv6.
TCP_SERVICES = {"nat": 80, "dr": 8080, "tun": 9090, "persistent": 81, "victim": 82,
                "nat6": 86, "dr6": 8086, "tun6": 9096, "persistent6": 87, "tun4in6": 9046, "tun6in4": 9064}
UDP_SERVICES = {"nat-udp": 53, "dr-udp": 8053, "tun-udp": 9053, "dr-ops": 8054,
                "nat6-udp": 56, "dr6-udp": 8056, "tun6-udp": 9056, "dr6-ops": 8057}
HELD = ("nat", "dr", "tun", "persistent", "nat6", "dr6", "tun6in4")
THREADS = 6
HOLDERS = 2                                     # connections of each of those
FIRST_PORT, PORTS = 10000, 8000                 # of each thread
PAUSE = 0.02                                    # seconds after a request, at most
PATIENCE = 10
SIZES = (1, 100, 1460, 1461, 20_000, 300_000)
ABORT = struct.pack("ii", 1, 0)                 # SO_LINGER: close with a reset


class Record:
    """What became of the requests; one for all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.answered: Counter = Counter()
        self.lost: list[tuple[str, float, float, str]] = []

    def attempt(self, service: str, request, *args) -> None:
        """Do one request and note what became of it."""
        began = time.monotonic()
        try:
            request(*args)
        except (OSError, AssertionError) as error:
            why = f"{type(error).__name__}: {error}"
            print(f"{service}: {why}\n", end="", file=sys.stderr, flush=True)
            with self.lock:
                self.lost.append((service, began, time.monotonic(), why))
            return
        with self.lock:
            self.answered[service] += 1


def is_ipv6(service: str) -> bool:
    """Return True when the clients of *service* speak IPv6."""
    return "6" in service and "4in6" not in service


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(vip: str, port: int, source_port: int, choose: random.Random) -> None:
    """Open a connection, have something echoed, and close it in one of three ways."""
    with socket.socket(family_of(vip), socket.SOCK_STREAM) as sock:
        open_from(sock, source_port, (vip, port))
        echo(sock, choose.randbytes(choose.choice(SIZES)))
        how = choose.random()
        if how < 0.9:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        elif how < 0.95:
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b"", "more than was asked for"


def open_from(sock: socket.socket, source_port: int, where: tuple[str, int]) -> None:
    """Connect *sock*, to a server that says its name first."""
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", source_port))
    sock.connect(where)
    name = b""
    while not name.endswith(b"\n"):
        data = sock.recv(64)
        assert data, "closed before the server said its name"
        name += data


def echo(sock: socket.socket, content: bytes) -> None:
    """Send *content* and expect it back."""
    sender = threading.Thread(target=sock.sendall, args=(content,)) if len(content) > 60_000 else None
    sender.start() if sender else sock.sendall(content)
    received = bytearray()
    while len(received) < len(content):
        data = sock.recv(65536)
        assert data, "closed in the middle of an answer"
        received += data
    if sender:
        sender.join()
    assert received == content, "another answer than was sent"


def udp(vip: str, port: int, source_port: int, choose: random.Random) -> None:
    """Ask a few times from one port."""
    with socket.socket(family_of(vip), socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(("", source_port))
        sock.connect((vip, port))
        for _ in range(choose.choice((1, 1, 3))):
            question = choose.randbytes(choose.choice((1, 100, 1400)))
            sock.send(question)
            assert sock.recv(2048).endswith(b" " + question), "another answer than was sent"


def ask(record: Record, vips: tuple[str, str], number: int, over: threading.Event) -> None:
    """Request after request, of all services in turn, until it is *over*."""
    choose = random.Random(number)
    services = [(name, tcp, port) for name, port in TCP_SERVICES.items()]
    services += [(name, udp, port) for name, port in UDP_SERVICES.items()]
    turn = 0
    while not over.is_set():
        service, request, port = choose.choice(services)
        source_port = FIRST_PORT + PORTS * number + turn % PORTS
        record.attempt(service, request, vips[is_ipv6(service)], port, source_port, choose)
        turn += 1
        time.sleep(choose.random() * PAUSE)


def hold(record: Record, vip: str, service: str, number: int, over: threading.Event) -> None:
    """One connection that carries a few bytes three times a second."""
    def all_the_time() -> None:
        with socket.socket(family_of(vip), socket.SOCK_STREAM) as sock:
            open_from(sock, 1024 + number, (vip, TCP_SERVICES[service]))
            print("held\n", end="", flush=True)         # in one piece: other threads print, too
            while not over.is_set():
                echo(sock, b"still here")
                time.sleep(0.3)

    record.attempt(f"held {service}", all_the_time)


def main(vip: str, vip6: str, seconds: str) -> None:
    """Run all threads to their end and print what became of the requests."""
    vips = vip, vip6
    record, over = Record(), threading.Event()
    holders = [threading.Thread(target=hold, args=(record, vips[is_ipv6(service)], service, HOLDERS * place + number,
                                                   over))
               for place, service in enumerate(HELD) for number in range(HOLDERS)]
    threads = [threading.Thread(target=ask, args=(record, vips, number, over)) for number in range(THREADS)]
    for thread in holders:
        thread.start()
    sys.stdin.readline()                # the others begin when they are told that the held ones are there
    for thread in threads:
        thread.start()
    time.sleep(float(seconds))
    over.set()
    for thread in (*holders, *threads):
        thread.join()
    print(json.dumps({"answered": record.answered, "lost": record.lost}))


if __name__ == "__main__":
    main(*sys.argv[1:])
