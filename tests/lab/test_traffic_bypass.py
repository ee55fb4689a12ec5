"""Direct routing and tunnelling with real clients and servers: what both do, and that replies bypass the director."""
from __future__ import annotations

import pytest

from lbq.lab.routed import IPIP, RoutedLab
from tests.helpers.endpoints import digest_of
from tests.helpers.routed import BULK, DISCARD, SIZES, start, vip_routed, with_servers
from tests.helpers.topology import (
    curl,
    download,
    listing,
    new_lab,
    received_bytes,
    resets_suffered,
    udp_server,
    udp_socket,
    upload,
)


@pytest.fixture(scope="module", params=["dr", "tun"])
def network(request):
    """Return the network of DR or TUN."""
    with new_lab(RoutedLab, request.param) as lab:
        yield with_servers(lab)


@pytest.fixture
def lab(network, lend):
    """Lend the network to one test."""
    return lend(network)


def test_servers_take_turns_and_answer_past_the_director(either_lab, engine):
    lab = either_lab
    start(lab, engine)
    watch = lab.watch()

    answers = [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(8)]

    assert answers == ["web02", "web01"] * 4
    seen, tunnelled = watch.count()
    assert seen["director"] == 0
    assert seen["router"] >= 8 * 4      # SYN ACK, ACK, answer, FIN
    assert (tunnelled is not None and tunnelled[9] == IPIP) == (lab.mode == "tun")
    rows = listing(lab)["servers"]
    assert [row["stats"]["conns"] for row in rows] == [4, 4]
    assert all(row["stats"]["packets_in"] >= 4 * 4 and row["stats"]["packets_out"] == 0 for row in rows)


def test_a_client_on_the_director_is_balanced(lab, engine):
    """The VIP must not be the director's own for this: it would take answers from its own address for forged."""
    with vip_routed(lab):
        start(lab, engine)

        answers = [curl(lab.director, f"http://{lab.vip}/").strip() for _ in range(4)]

    assert answers == ["web02", "web01"] * 2


def test_bulk_arrives_intact_and_downloads_bypass_the_director(either_lab, engine):
    lab, size = either_lab, SIZES[engine]
    start(lab, engine, BULK)
    before = received_bytes(lab.director)

    assert download(lab.client, f"http://{lab.vip}:{BULK}/{size}") == digest_of(size)

    assert received_bytes(lab.director) - before < size / 10     # acknowledgements
    assert upload(lab.client, f"http://{lab.vip}:{BULK}/", size) == digest_of(size)
    assert resets_suffered(lab.client) == 0


def test_a_server_hears_that_its_client_is_gone(lab, engine):
    """A client's "port unreachable" is addressed to the VIP, and reaches the server that it is about."""
    web01, _ = lab.servers
    start(lab, engine, DISCARD, "--udp", servers=[web01])
    with udp_server(web01, lab.vip, DISCARD) as server:
        with udp_socket(lab.client, lab.vip, DISCARD) as sock:
            sock.send(b"hello")
            data, client = server.recvfrom(100)
        server.connect(client)

        server.send(b"too late")

        assert data == b"hello"
        with pytest.raises(ConnectionRefusedError):
            server.recv(100)
