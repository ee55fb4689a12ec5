"""``lbq doctor``: each thing broken for real, and named; and in the healthy lab nothing is said."""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lbq.lab.namespace import Namespace
from lbq.lab.topology import GATEWAY, Lab
from tests.helpers.topology import curl, new_lab

WAIT = "0.4"        # the lab's hosts answer at once


@contextmanager
def running(kind, *arguments, mode: str) -> Iterator[Lab]:
    """Give a lab with web servers and a director, for a whole module."""
    with new_lab(kind, *arguments) as lab:
        lab.start_web_servers()
        reals = [word for server in lab.servers for word in ("--real", server.address)]
        lab.start_director("--vip", f"{lab.vip}:80", "--mode", mode, "--scheduler", "rr", *reals)
        yield lab


@pytest.fixture(scope="module")
def nat() -> Iterator[Lab]:
    """Give the lab of NAT with a director."""
    with running(Lab, mode="nat") as lab:
        yield lab


def doctor(lab: Lab, *words: str) -> dict:
    """Return what the doctor says of the director of *lab*."""
    done = lab.lbq("doctor", "--json", "--wait", WAIT, *words, check=False)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == said["status"], done.stderr
    return said


def findings(lab: Lab, *words: str) -> dict[str, str]:
    """Return what is found, in words, by check."""
    return {found["check"]: " | ".join((found["what"], found["why"], found["fix"]))
            for found in doctor(lab, *words)["findings"]}


@contextmanager
def setting(host: Namespace, name: str, value: object) -> Iterator[None]:
    """Give a sysctl of *host* another *value* for the length of a ``with`` block."""
    before = host.sysctl(name)
    host.sysctl(name, value)
    try:
        yield
    finally:
        host.sysctl(name, before)


@contextmanager
def instead(host: Namespace, there: str, gone: str) -> Iterator[None]:
    """Run a command on *host*, and at the end another that takes it back."""
    host.run(there.split())
    try:
        yield
    finally:
        host.run(gone.split())


def test_nothing_is_wrong_in_a_healthy_nat_lab(nat):
    curl(nat.client, f"http://{nat.vip}/")

    said = doctor(nat)

    assert (said["findings"], said["not_looked_at"], said["status"]) == ([], [], 0)


def test_forwarding_that_somebody_switched_off(nat):
    with setting(nat.director, "net.ipv4.ip_forward", 0):
        found = findings(nat)

    assert list(found) == ["ip_forward"]
    assert "sysctl -w net.ipv4.ip_forward=1" in found["ip_forward"]


def test_a_real_server_without_its_gateway_is_named(nat):
    """Also before any client has asked: it does not answer what comes from the VIP."""
    web01 = nat.servers[0]
    with instead(web01, "ip route del default", f"ip route add default via {GATEWAY}"):
        found = findings(nat)

    assert list(found) == ["return_path"]
    assert f"on {web01.address}: ip route replace default via {GATEWAY}" in found["return_path"]


def test_rules_that_another_program_has_flushed(nat):
    nat.director.run(["iptables", "-t", "mangle", "-D", "PREROUTING", "-j", "LBQ-REQUEST"])
    try:
        found = findings(nat)
    finally:
        nat.director.run(["iptables", "-t", "mangle", "-A", "PREROUTING", "-j", "LBQ-REQUEST"])

    assert list(found) == ["rules_present"]
    assert "iptables -t mangle -A PREROUTING -j LBQ-REQUEST" in found["rules_present"]


def test_another_host_that_has_the_vip_is_found(nat):
    with instead(nat.client, f"ip address add {nat.vip}/32 dev lo", f"ip address del {nat.vip}/32 dev lo"):
        found = findings(nat)

    assert list(found) == ["vip_answers"]
