"""A director in this process, a shell in front of it, and the names of the machines in the recordings."""
from __future__ import annotations

import socket

import pytest

from lbq.director import Director
from tests.helpers import transcripts
from tests.helpers.local_director import LocalDirector

HOSTS = {"vip.example.com": "192.168.0.100", "rs1.example.com": "10.0.0.11", "rs2": "10.0.0.12",
         "client.example.com": "192.168.0.2", "vip6.example.com": "2001:db8::100", "localhost": "127.0.0.1"}


@pytest.fixture
def director():
    director = LocalDirector(Director(profile="classic"))
    yield director
    director.close()


@pytest.fixture
def shell(director, tmp_path):
    shell = transcripts.Shell(director, tmp_path)
    yield shell
    shell.close()


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """Know the names that were in /etc/hosts when the sessions were recorded, and no others."""
    names = {address: name for name, address in HOSTS.items()}

    def by_address(address):
        if address not in names:
            raise socket.herror(1, "Unknown host")
        return names[address], [], [address]

    def by_name(name, *_):
        address = HOSTS.get(name.decode(), "")
        if not address or ":" in address:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

    monkeypatch.setattr(socket, "gethostbyaddr", by_address)
    monkeypatch.setattr(socket, "getaddrinfo", by_name)
