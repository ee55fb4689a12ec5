"""A batch of netlink messages gets the verdicts that ``handle`` gives packet by packet.

The fast director's own loop runs here, on a socket pair in place of the kernel's netlink socket: up to 64
messages in one call, one datagram of verdicts back, packets returned in place.
"""
from __future__ import annotations

import os
import random
import socket
import time

import pytest

from lbq._fastpath import FastDirector
from lbq.director import Director
from tests.helpers import engines, netlink, sampled
from tests.helpers.batches import QUEUE, Kernel
from tests.helpers.cases import CLIENT6, VIP6, WEB, client, server
from tests.helpers.engines import add_service, key
from tests.helpers.packets import endpoint
from tests.helpers.story import Teller, story

STORIES = max(10, sampled.STEPS // 2000)
UNINTERESTING = [b"", netlink.attribute(netlink.MARK, bytes(4)), netlink.attribute(netlink.INDEV, bytes(4)),
                 netlink.attribute(netlink.HWADDR, bytes(12)), netlink.attribute(99, b"odd")]


@pytest.fixture
def kernel():
    """Return the kernel's end of a new fast director's queue."""
    kernel = Kernel(FastDirector(max_connections=1000))
    yield kernel
    kernel.close()


class Pair:
    """Both directors; packets gather until they are judged as one batch."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.reference = Teller(Director(max_connections=1000))
        self.fast = Teller(kernel.director)
        self.messages: list[bytes] = []
        self.expected: list[netlink.Verdict] = []
        self.packet_id = 0

    def gather(self, more: bytes, content: bytes, hook: int, form: int, out_device: int, truncated: bool,
               mark: int) -> None:
        """Put one packet into the batch, and note what the reference says of it."""
        self.packet_id += 1
        more += netlink.attribute(netlink.MARK, mark.to_bytes(4, "big")) if mark else b""
        self.messages.append(netlink.packet_message(self.packet_id, content, hook, form, out_device, truncated, more))
        packet = bytearray(content)
        verdict = self.reference.engine.handle(packet, hook, form, out_device, time.monotonic_ns(), truncated, mark)
        self.expected.append(netlink.Verdict(QUEUE, self.packet_id, verdict.action,
                                             bytes(packet) if verdict.changed else None,
                                             0 if verdict.unmarked else None))

    def judge(self) -> None:
        """Let the fast director judge the batch."""
        assert self.kernel.exchange(self.messages) == self.expected
        self.reference.engine.expire(time.monotonic_ns())       # as run() does after a batch
        sampled.COUNTED["batches: packets"] += len(self.messages)
        self.messages, self.expected = [], []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(STORIES))
def test_a_batch_is_judged_like_its_packets_one_by_one(kernel, seed):
    choose = random.Random(seed)
    pair = Pair(kernel)
    for step in story(seed, 500):
        if step.kind == "packet":
            pair.gather(choose.choice(UNINTERESTING), *step.arguments)
        if step.kind == "call" or len(pair.messages) == 64 or choose.random() < 0.05:
            pair.judge()
        if step.kind == "call":         # a command comes between two batches
            assert pair.fast.tell(step) == pair.reference.tell(step)
    pair.judge()
    assert pair.fast.state()["services"] == pair.reference.state()["services"]


def test_a_payload_without_room_for_a_verdict_before_it_is_no_packet(kernel):
    add_service(kernel.director, WEB, "192.168.20.1:80")
    syn = client().syn().packet
    payload_first = netlink.message(netlink.attribute(netlink.PAYLOAD, syn)
                                    + netlink.attribute(netlink.PACKET_HDR, bytes(7)))

    answers = kernel.exchange([netlink.packet_message(1, syn, 0, 0, 0, False), payload_first])

    assert [(answer.packet_id, answer.action) for answer in answers] == [(1, 1), (0, 0)]
    assert kernel.director.statistics()["dropped_malformed"] == 1


def test_packets_of_both_queues_in_one_batch_go_back_to_where_they_wait(kernel):
    """Long ones of the queue behind are answered with the server's number in the mark, whose other bits stay."""
    director = kernel.director
    director.take_headers(QUEUE + 1, 0x00FFFF00)
    director.add_service(key(WEB), "rr")
    director.add_server(key(WEB), *endpoint("192.168.20.1:80"), steer=0x321)
    syn, long = client().syn().packet, client().tcp("A", bytes(5000)).packet
    mark = netlink.attribute(netlink.MARK, (0x81654307).to_bytes(4, "big"))

    def headers(number: int, packet: bytes) -> bytes:
        cut = netlink.attribute(netlink.CAP_LEN, len(packet).to_bytes(4, "big")) if len(packet) > 128 else b""
        return netlink.message(netlink.attribute(netlink.PACKET_HDR, number.to_bytes(4, "big") + b"\x08\x00\x00") + mark
                               + cut + netlink.attribute(netlink.PAYLOAD, packet[:128]), QUEUE + 1)

    answers = kernel.exchange([netlink.packet_message(1, syn, 0, 0, 0, False), headers(2, syn), headers(3, long),
                               headers(4, client(CLIENT6, VIP6).syn().packet[:50]),
                               netlink.packet_message(5, long, 0, 0, 0, False)])

    assert [(each.queue, each.packet_id, each.action & 0xFF, each.mark) for each in answers] == [
        (QUEUE, 1, 1, None), (QUEUE + 1, 2, 1, None), (QUEUE + 1, 3, 1, 0x81032107),
        (QUEUE + 1, 4, 0, None), (QUEUE, 5, 1, None)]
    assert [each.payload is None for each in answers] == [False, False, True, True, False]
    counted = engines.servers(director, WEB)["192.168.20.1:80"]["stats"]
    assert counted["bytes_in"] == 2 * len(syn) + 2 * len(long)


def test_what_must_be_seen_whole_is_queued_once_more(kernel):
    kernel.director.take_headers(QUEUE + 1, 0x00FFFF00)
    add_service(kernel.director, WEB, "192.168.20.1:80")
    opening = client().tcp("S", bytes(5000)).packet

    answer, = kernel.exchange([netlink.message(
        netlink.attribute(netlink.PACKET_HDR, bytes(7))
        + netlink.attribute(netlink.CAP_LEN, len(opening).to_bytes(4, "big"))
        + netlink.attribute(netlink.PAYLOAD, opening[:128]), QUEUE + 1)])

    assert (answer.queue, answer.action, answer.mark) == (QUEUE + 1, 3 | QUEUE << 16, None)


def test_a_packet_too_large_to_be_returned_is_dropped_and_the_rest_of_its_batch_returned(kernel):
    add_service(kernel.director, WEB, "192.168.20.1:80")
    kernel.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)        # the kernel doubles it
    sizes = (1, 2000, 40000, 3000, 4)
    packets = [client().tcp("S", bytes(size)).packet for size in sizes]

    answers = kernel.exchange([netlink.packet_message(number, packet, 0, 0, 0, False)
                               for number, packet in enumerate(packets)])

    assert [(answer.packet_id, answer.action) for answer in answers] == [(0, 1), (1, 1), (2, 0), (3, 1), (4, 1)]
    assert [len(answer.payload or b"") for answer in answers] == [41, 2040, 0, 3040, 44]
    assert kernel.director.statistics()["verdict_errors"] == 1


def test_an_ftp_reply_goes_back_with_the_length_it_has_now(kernel):
    """The payload's attribute says how long it is; the kernel takes no more of the packet than that."""
    add_service(kernel.director, "tcp:192.168.10.1:21", "192.168.20.100:21")
    ftp_client, ftp_server = client(vip="192.168.10.1:21"), server("192.168.20.100:21")
    talk = [ftp_client.syn(), ftp_server.synack(), ftp_client.ack(), ftp_client.ack(b"PASV\r\n"),
            ftp_server.ack(b"227 (192,168,20,100,200,10).\r\n")]

    *_, reply = kernel.exchange([netlink.packet_message(number, seen.packet, seen.hook, 0, 2, False)
                                 for number, seen in enumerate(talk)])

    assert reply.payload[40:] == b"227 (192,168,10,1,200,10).\r\n"
    assert len(reply.payload) == int.from_bytes(reply.payload[2:4])


def test_garbage_from_the_socket_is_counted_and_harms_nobody(kernel):
    choose = random.Random(2)
    good = netlink.packet_message(5, bytes(40), 0, 0, 0, False)
    sent = 0
    for _ in range(300):
        broken = bytearray(good)
        for _ in range(choose.randrange(1, 6)):
            broken[choose.randrange(4, len(broken))] = choose.randrange(256)
        cut = bytes(broken[:choose.randrange(1, len(broken) + 1)])
        answers = kernel.exchange([cut, choose.randbytes(choose.randrange(1, 200))])
        sent += 2
        assert all(answer.payload is None for answer in answers), "no packet was asked to be rewritten"

    assert kernel.exchange([good]) == [netlink.Verdict(QUEUE, 5, 0, None)]
    statistics = kernel.director.statistics()
    assert statistics["verdict_errors"] > 0
    assert statistics["verdict_errors"] + statistics["packets"] == sent + 1


@pytest.mark.parametrize(("arguments", "error"), [((0,), ValueError), (((1 << 27) + 1,), ValueError),
                                                  (("many",), TypeError)])
def test_a_director_that_cannot_be_made_closes_no_file_of_others(arguments, error):
    with pytest.raises(error):
        FastDirector(*arguments)

    os.fstat(0)
