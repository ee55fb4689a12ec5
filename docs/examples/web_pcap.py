"""Writes a capture of web traffic, the same each time: 572 connections of 38 clients to 192.168.10.1:80.

    python3 web_pcap.py web.pcap

One client makes every seventh connection; nine of ten take half a second, the tenth a quarter of a minute.
"""
from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator

CONNECTIONS, CLIENTS, SECONDS = 572, 38, 60
VIP = bytes([192, 168, 10, 1]), 80
TCP, RAW_IP = 6, 101
FIN, SYN, PSH, ACK = 1, 2, 8, 16
ROUND_TRIP = 0.002
EPOCH = 1_700_000_000

Packet = tuple[float, bytes]        # seconds, and what an interface would have seen then


def connection(client: tuple[bytes, int], start: float, length: float, requests: int) -> Iterator[Packet]:
    """Give the packets of a connection: an opening, requests with their answers, and a close by the client."""
    sent = {client: 1000, VIP: 5000}        # sequence numbers

    def say(seconds: float, who: tuple[bytes, int], flags: int, payload: bytes = b"") -> Packet:
        other = VIP if who is client else client
        packet = tcp(who, other, flags, sent[who], sent[other] if flags & ACK else 0, payload)
        sent[who] += len(payload) + (1 if flags & (SYN | FIN) else 0)
        return seconds, packet

    yield say(start, client, SYN)
    yield say(start + ROUND_TRIP / 2, VIP, SYN | ACK)
    yield say(start + ROUND_TRIP, client, ACK)
    for number in range(requests):
        asked = start + 2 * ROUND_TRIP + (length - 4 * ROUND_TRIP) * number / requests
        yield say(asked, client, PSH | ACK, b"GET / HTTP/1.1\r\nHost: www\r\n\r\n")
        yield say(asked + ROUND_TRIP, VIP, PSH | ACK, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
    yield say(start + length - ROUND_TRIP, client, FIN | ACK)
    yield say(start + length - ROUND_TRIP / 2, VIP, FIN | ACK)
    yield say(start + length, client, ACK)


def tcp(source: tuple[bytes, int], destination: tuple[bytes, int], flags: int, sequence: int, acknowledged: int,
        payload: bytes) -> bytes:
    """Return an IPv4 packet."""
    header = struct.pack("!HHIIBBHHH", source[1], destination[1], sequence, acknowledged, 5 << 4, flags, 64240, 0, 0)
    pseudo = source[0] + destination[0] + struct.pack("!HH", TCP, len(header + payload))
    segment = header[:16] + checksum(pseudo + header + payload) + header[18:] + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, TCP, 0) + source[0] + destination[0]
    return head[:10] + checksum(head) + head[12:] + segment


def checksum(data: bytes) -> bytes:
    """Return the Internet checksum (RFC 1071) of *data*."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def traffic() -> list[Packet]:
    """Return the packets of all connections in the order of time."""
    chance = random.Random(1998).random        # the one method whose numbers Python promises to keep
    packets: list[Packet] = []
    for number in range(CONNECTIONS):
        host = 0 if number % 7 == 0 else 1 + int(chance() * (CLIENTS - 1))
        client = bytes([10, 0, 0, 100 + host]), 40000 + number
        length = 15.0 if number % 10 == 9 else 0.5
        packets += connection(client, SECONDS * chance(), length, 5)
    return sorted(packets, key=lambda packet: packet[0])


def main(path: str) -> None:
    """Write the capture into *path*."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, RAW_IP))
        for seconds, packet in traffic():
            microseconds = round(seconds * 1_000_000)
            file.write(struct.pack("<IIII", EPOCH + microseconds // 1_000_000, microseconds % 1_000_000, len(packet),
                                   len(packet)) + packet)


if __name__ == "__main__":
    main(sys.argv[1])
