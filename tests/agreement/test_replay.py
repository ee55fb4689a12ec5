"""What ``lbq replay`` decides is what a director decides that is given the very packets of the capture.

The capture is read here with dpkt, whole packets go to the director one by one, and time is told before each of them.
Replay reads it its own way, gives the director headers that it writes itself, and looks at timers now and then.
"""
from __future__ import annotations

import random

import dpkt
import pytest

from lbq.grammar import parse_service
from lbq.model import END_DELETED, NAT, PERSISTENT
from lbq.replay import read
from lbq.replay.changes import Servers
from lbq.replay.play import Player, Setup, new_director
from lbq.schedulers import BUILT_IN
from tests.helpers import sampled
from tests.helpers.captures import connection, in_order, pcap, question, write
from tests.helpers.engines import NS, POSTROUTING, PREROUTING

VIPS = {"tcp": "192.168.10.1:80", "udp": "192.168.10.1:53"}
SERVERS = ["10.1.0.1:8080,weight=3", "10.1.0.2:8080,weight=1", "10.1.0.3,weight=2,upper=40"]
CHANGES = ["t=100.5 weight A 0", "t=200.5 del B", "t=250.5 add 10.1.0.9", "t=400.5 weight A 5", "t=500.5 add B"]
SECONDS = 900
FLOWS = 250
EPOCH = 1 << 40
COUNTED = ("packets", "conns", "connections", "expired", "started_over", "rewritten", "passed_no_connection",
           "passed_not_opening", "dropped_no_server", "dropped_server_gone")


def traffic(protocol: str, seed: int) -> bytes:
    """Return a capture of random flows: short and long ones, clients that come again by the same port."""
    choose = random.Random(seed)
    flows = []
    for number in range(FLOWS):
        client = f"10.0.{choose.randrange(3)}.{choose.randrange(1, 20)}:{1000 + number % 200}"
        start, length = choose.uniform(0, SECONDS), choose.expovariate(1 / choose.choice((1, 20, 200)))
        if protocol == "tcp":
            flows.append(connection(client, VIPS["tcp"], start, start + length, data=choose.randrange(5)))
        else:
            flows.append(question(client, VIPS["udp"], start, start + min(length, 250)))
    return pcap(in_order(*flows))


def directly(path: str, scheduler: str, setup: Setup) -> tuple[dict[bytes, list], dict[str, int]]:
    """Return when each client, by address and port, opened something and the server it got; and all counters."""
    director, key = new_director(10_000), setup.key
    director.add_service(key, scheduler, setup.flags, setup.timeout, None, 0)
    for server in setup.servers:
        if server.present:
            director.add_server(key, server.address, server.port, *server.settings())
    chooser = director.services.service(key).scheduler
    if hasattr(chooser, "random"):
        chooser.random.seed(setup.seed)
    vip, changes, first, went, last, tick = key.address.to_bytes(4), list(setup.changes), None, {}, {}, NS
    with open(path, "rb") as file:
        for moment, data in dpkt.pcap.Reader(file):
            absolute = round(moment * 10**6) * 1000
            first = absolute if first is None else first
            now = absolute - first
            while (changes and changes[0].time_ns <= now) or tick <= now:
                if changes and changes[0].time_ns <= min(tick, now):
                    director.expire(EPOCH + changes[0].time_ns)
                    change = changes.pop(0)
                    server = setup.servers[change.server]
                    if change.what == "add":
                        director.add_server(key, server.address, server.port, *server.settings())
                    elif change.what == "del":
                        director.delete_server(key, server.address, server.port)
                    else:
                        director.set_server(key, server.address, server.port, change.weight, *server.settings()[1:])
                else:
                    director.expire(EPOCH + tick)
                    director.tick(EPOCH + tick)
                    tick += NS
            director.expire(EPOCH + now)
            packet = bytearray(data)
            if data[16:20] == vip:
                verdict = director.handle(packet, PREROUTING, now_ns=EPOCH + now)
                client = data[12:16] + data[20:22]
                where = bytes(packet[16:20] + packet[22:24]) if verdict.changed else None
                last[client] = where
                if where and (key.protocol == 17 or data[33] == 2):
                    went.setdefault(client, []).append((now, where))
            elif last.get(data[16:20] + data[22:24]):
                where = last[data[16:20] + data[22:24]]
                packet[12:16], packet[20:22] = where[:4], where[4:]
                director.handle(packet, POSTROUTING, out_device=2, now_ns=EPOCH + now)
    return went, director.statistics()


@pytest.mark.parametrize("protocol", VIPS)
@pytest.mark.parametrize("scheduler", BUILT_IN)
@pytest.mark.parametrize(("flags", "timeout"), [(0, 0), (PERSISTENT | END_DELETED, 60)])
def test_replay_decides_as_a_director_does(scheduler, protocol, flags, timeout, tmp_path):
    path = write(tmp_path / "x.pcap", traffic(protocol, len(scheduler) + flags))
    key = parse_service(f"{protocol}:{VIPS[protocol]}")
    servers = Servers(key, NAT)
    servers.add(SERVERS)
    servers.change(CHANGES, SECONDS * NS)
    setup = Setup(key, flags, timeout, None, 0, servers.all, servers.changes, 7)
    flows, _ = read(path, key)

    player = Player(flows, setup, scheduler)
    measured = player.play(lambda _: None)
    went, statistics = directly(path, scheduler, setup)

    for number, (client, begin, end, server) in enumerate(zip(flows.clients, flows.first, flows.last, measured.chosen,
                                                              strict=True)):
        expected = next((where for now, where in went.get(client, ()) if begin <= now <= end), None)
        its = None if server < 0 else player._place(servers.all[server])
        assert its == expected, f"flow {number} of {client.hex()}"
    mine = player.director.statistics()
    assert {name: mine[name] for name in COUNTED} == {name: statistics[name] for name in COUNTED}
    assert scheduler == "none" or sum(measured.flows) > FLOWS // 2
    sampled.COUNTED["replay: flows"] += len(flows.clients)
