"""Any message on the sockets to conntrack: nothing is read that is not there, and every count still adds up.

One case is a director with offloaded services, the first packets of some connections, and messages about those and
others, most of them valid ones of which something was changed; servers go and connections end meanwhile.
"""
from __future__ import annotations

import random
import socket
import struct
from collections import Counter

from lbq._fastpath import FastDirector
from lbq.model import NAT, OFFLOAD, Tunnel
from tests.fuzz import mutate
from tests.fuzz.judge import adds_up
from tests.helpers.conntrack import DELETE, DST_NAT, NEW, done, told
from tests.helpers.engines import NS, key
from tests.helpers.packets import endpoint, tcp, udp

STEPS = 300
SERVICES = {"tcp:192.168.10.1:80": ("192.168.20.1:80", "192.168.20.2:8080"),
            "udp:192.168.10.1:53": ("192.168.20.1:53",),
            "tcp:[2001:db8::1]:80": ("[2001:db8:5::1]:80", "[2001:db8:5::2]:8080")}
HEADER = 20


def play(seed: int, counted: Counter, tell=None) -> None:
    """Play case *seed*; *tell* is called with each message before it is sent."""
    choose = random.Random(seed)
    director = FastDirector(max_connections=choose.choice((3, 50)))
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    for end in (*pairs[0], *pairs[1]):
        end.setblocking(False)
    (events, theirs), (lists, its) = pairs
    director.attach_conntrack(theirs, its)
    for service, servers in SERVICES.items():
        director.add_service(key(service), "wlc", OFFLOAD)
        for place in servers:
            director.add_server(key(service), *endpoint(place), 1, NAT, 0, 0, Tunnel(), None, 7)
    now, request = NS, 0
    try:
        for _ in range(STEPS):
            now += choose.choice((0, 1, NS // 10, 3 * NS, 100 * NS))
            service, client = choose.choice([*SERVICES]), choose.randrange(6)
            what = choose.random()
            if what < 0.2:
                director.handle(bytearray(opening(service, client)), 0, headers=128, now_ns=now)
            elif what < 0.8:
                message = hostile(choose, about(choose, service, client, request))
                if tell:
                    tell(message)
                counted["messages"] += 1
                (lists if choose.random() < 0.3 else events).send(message[:60_000] or b"\0")
            elif what < 0.85:
                lists.send(done(request))
            elif what < 0.9:
                director.expire(now)
            elif what < 0.95:
                place = key(service)
                director.end_connections([(place.protocol, endpoint(name(service, client))[0], 40000 + client,
                                           place.address, place.port, place.family)])
            director.follow_once(now)
            request = drained(events, lists, request)
        adds_up(director)
    finally:
        for end in (events, theirs, lists, its):
            end.close()


def name(service: str, client: int) -> str:
    """Return one of the clients, of the service's family."""
    return f"[2001:db8:9::{client}]:{40000 + client}" if "[" in service else f"192.168.10.{client}:{40000 + client}"


def opening(service: str, client: int) -> bytes:
    """Return the first packet of a client."""
    protocol, _, vip = service.partition(":")
    return tcp(name(service, client), vip, "S") if protocol == "tcp" else udp(name(service, client), vip, b"who")


def about(choose: random.Random, service: str, client: int, request: int) -> bytes:
    """Return a message as the kernel writes it."""
    status = choose.choice((DST_NAT, DST_NAT | 10, 8))
    timeout = choose.choice((None, 0, 60, 900, 0xFFFFFFFF))
    counters = choose.choice((None, tuple(choose.getrandbits(choose.choice((8, 64))) for _ in range(4))))
    return told(name(service, client), service, choose.choice(SERVICES[service]),
                kind=choose.choice((NEW, NEW, DELETE)), number=choose.randrange(1, 4), status=status, timeout=timeout,
                state=choose.choice((None, choose.randrange(12))), flags=choose.randrange(8), counters=counters,
                sequence=request)


def hostile(choose: random.Random, message: bytes) -> bytes:
    """Return *message*, perhaps with lengths that lie, attributes in other places, cut, or more than once."""
    data = bytearray(message)
    what = choose.random()
    if what < 0.4:
        return message * choose.choice((1, 1, 2, 5))
    if what < 0.7:
        at = choose.randrange(HEADER, len(data) - 4) & ~3
        size, kind = struct.unpack_from("=HH", data, at)
        struct.pack_into("=HH", data, at, choose.choice((size, choose.choice(mutate.INTERESTING) & 0xFFFF)),
                         choose.choice((kind, choose.randrange(30), kind ^ 0x8000)))
    elif what < 0.9:
        mutate.anything(choose, data, message)
    if choose.random() < 0.7 and len(data) >= 4:
        data[:4] = len(data).to_bytes(4, "little")
    return bytes(data)


def drained(events: socket.socket, lists: socket.socket, request: int) -> int:
    """Take what the director has asked for; return the number of the last list."""
    for sock in (events, lists):
        while True:
            try:
                asked = sock.recv(4096)
            except BlockingIOError:
                break
            if sock is lists:
                request = int.from_bytes(asked[8:12], "little")
    return request
