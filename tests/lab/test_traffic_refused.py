"""What a client sees when no server can take it: "connection refused" at once, not a timeout."""
from __future__ import annotations

import pytest

from tests.helpers.topology import connect, curl, start_nginx, udp_socket

WHERE = pytest.mark.parametrize("where", ["client", "director"])
VIP_LOCAL = pytest.mark.parametrize("vip_local", [True, False], ids=["vip-local", "vip-routed"])


@WHERE
@VIP_LOCAL
def test_tcp_client_is_refused_at_once(make_lab, engine, vip_local, where):
    lab = make_lab(vip_local=vip_local)
    lab.start_director("--mode", "nat", "--engine", engine)

    with pytest.raises(ConnectionRefusedError):
        connect(getattr(lab, where), lab.vip, timeout=5)


@WHERE
@VIP_LOCAL
def test_udp_client_is_refused_at_once(make_lab, engine, vip_local, where):
    lab = make_lab(vip_local=vip_local)
    lab.start_director("--vip", f"{lab.vip}:53", "--udp", "--mode", "nat", "--engine", engine)

    with udp_socket(getattr(lab, where), lab.vip, 53, timeout=5) as sock:
        sock.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


def test_servers_of_weight_zero_refuse_too(lab, engine):
    start_nginx(lab)
    lab.start_director("--mode", "nat", "--engine", engine, "--real", f"{lab.servers[0].address}:80,weight=0")

    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.vip, timeout=5)


def test_first_server_ends_the_refusals(lab, engine):
    """Run without --real, and add one while it runs."""
    start_nginx(lab)
    lab.start_director("--mode", "nat", "--engine", engine)
    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.vip, timeout=5)

    lab.lbq("add", "server", f"{lab.vip}:80", lab.servers[0].address)

    assert curl(lab.client, f"http://{lab.vip}/") == "web01\n"


def test_refusal_of_the_real_server_reaches_the_client(lab, engine):
    """Nothing listens on the real server: its RST comes back as the VIP's."""
    lab.start_director("--mode", "nat", "--engine", engine, "--real", f"{lab.servers[0].address}:80")

    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.vip, timeout=5)
