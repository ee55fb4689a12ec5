"""Direct routing and tunnelling with real clients and servers: what both do, and that replies bypass the director."""
from __future__ import annotations

import pytest

from lbq.lab.routed import IPIP, RoutedLab
from tests.helpers import icmp
from tests.helpers.endpoints import digest_of
from tests.helpers.routed import (
    BULK,
    DISCARD,
    ECHO,
    HOLD,
    SIZES,
    start,
    vip_routed,
    with_servers,
)
from tests.helpers.topology import (
    curl,
    download,
    hold,
    listing,
    new_lab,
    received_bytes,
    resets_suffered,
    start_endpoint,
    still_answers,
    tell,
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
    assert seen["router"] >= 8 * 3      # SYN ACK, answer, FIN
    assert (tunnelled is not None and tunnelled[9] == IPIP) == (lab.mode == "tun")
    rows = listing(lab)["servers"]
    assert [row["stats"]["conns"] for row in rows] == [4, 4]
    assert all(row["stats"]["packets_in"] >= 4 * 3 and row["stats"]["packets_out"] == 0 for row in rows)


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
    icmp.assert_server_hears_that_its_client_is_gone(lab, web01, lab.vip, DISCARD)


def test_the_director_is_one_of_its_own_servers(lab, engine):
    """What is for it is delivered as it came, and answered from the VIP; the other server is none the worse."""
    web01, size = lab.servers[0], SIZES[engine] // 8
    for kind, port in (("hold", HOLD), ("bulk", BULK), ("echo", ECHO)):
        start_endpoint(lab.director, kind, port)
    lab.start_director("serve", "--engine", engine)
    for service in (f"{lab.vip}:{HOLD}", f"{lab.vip}:{BULK}", f"udp:{lab.vip}:{ECHO}"):
        tell(lab, "add_service", service=service, scheduler="rr", mode=lab.mode)
        for server in (web01, lab.director):
            tell(lab, "add_server", service=service, server=server.address)

    held = [hold(lab.client, lab.vip, HOLD) for _ in range(4)]
    with udp_socket(lab.client, lab.vip, ECHO) as one, udp_socket(lab.client, lab.vip, ECHO) as other:
        for sock in (one, other):
            sock.send(b"who?")
        answers = [sock.recv(100) for sock in (one, other)]
    downloads = {download(lab.client, f"http://{lab.vip}:{BULK}/{size}") for _ in range(2)}
    uploads = {upload(lab.client, f"http://{lab.vip}:{BULK}/", size) for _ in range(2)}

    assert [name for name, _ in held] == ["director", "web01"] * 2
    assert all(still_answers(sock) for _, sock in held)
    assert sorted(answers) == [b"director who?", b"web01 who?"]     # two workers may see the second one first
    assert downloads == uploads == {digest_of(size)}
