"""Servers and changes: their names, their grammar, and what makes no sense."""
from __future__ import annotations

import pytest

from lbq.errors import ConfigError
from lbq.grammar import parse_service
from lbq.model import AF_INET, DR, NAT
from lbq.replay.changes import Servers, letters
from lbq.replay.play import Change

SERVICE = parse_service("192.168.10.1:80")
END = 100 * 10**9


def servers(*texts: str, mode: int = NAT) -> Servers:
    """Return the servers that *texts* name."""
    made = Servers(SERVICE, mode)
    made.add(list(texts))
    return made


def mistake(call, *args) -> str:
    """Return what is said when *call* is refused."""
    with pytest.raises(ConfigError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_letters_go_on_after_z():
    assert [letters(number) for number in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA"]


def test_a_number_of_servers():
    made = servers("3").all

    assert [(server.name, server.address, server.port, server.weight) for server in made] == [
        (name, 0xC6336401 + number, 80, 1) for number, name in enumerate("ABC")]


def test_servers_with_settings():
    first, second = servers("10.0.0.1:8080,weight=3,upper=9,lower=5", "10.0.0.2,weight=0").all

    assert first[1:] == (0x0A000001, 8080, 3, NAT, 9, 5, AF_INET, True)
    assert second.weight == 0 and second.port == 80


def test_changes_in_the_order_of_time():
    made = servers("2")
    made.change(["t=60 add 10.0.0.9:81,weight=2", "t=30.5s weight A 0", "t=40 del B", "t=90 add server B",
                 "t=95 quiesce C", "t=96 del server 198.51.100.1"], END)

    assert made.changes == [
        Change(30_500_000_000, "weight", 0, 0, "weight A 0"), Change(40 * 10**9, "del", 1, 0, "del B"),
        Change(60 * 10**9, "add", 2, 2, "add 10.0.0.9:81,weight=2"), Change(90 * 10**9, "add", 1, 1, "add B"),
        Change(95 * 10**9, "weight", 2, 0, "quiesce C"), Change(96 * 10**9, "del", 0, 0, "del 198.51.100.1")]
    assert [server.present for server in made.all] == [True, True, False]


@pytest.mark.parametrize(("texts", "said"), [
    (["0"], "--servers 0: say how many, from 1 to 250"), (["9999"], "say how many, from 1 to 250"),
    (["web01"], "--servers web01: 'web01' is a name"), (["10.0.0.1", "10.0.0.1"], "10.0.0.1:80 is there already"),
    (["192.168.10.1"], "is the virtual service tcp:192.168.10.1:80 itself"), (["10.0.0.1,wieght=2"], "did you mean"),
    (["[2001:db8::1]"], "is not of the service's IP version, and only tun can change that"),
    (["[2001:db8::1]:80,mode=dr"], "only tun can change that")])
def test_wrong_servers(texts, said):
    assert said in mistake(servers, *texts)


def test_dr_keeps_the_port():
    assert "only nat can change ports" in mistake(lambda: servers("10.0.0.1:81", mode=DR))


@pytest.mark.parametrize(("text", "said"), [
    ("", "it begins with the time"), ("weight A 0", "it begins with the time"),
    ("t=x weight A 0", "begins with the time"), ("t=nan weight A 0", "begins with the time"),
    ("t=-1 del A", "begins with the time"),
    ("t=1", "unknown change ''"), ("t=1 wieght A 0", "unknown change 'wieght'; did you mean 'weight'?"),
    ("t=1 weight A", 'write "t=SECONDS weight SERVER N"'), ("t=1 del A B", "write"), ("t=1 add", "write"),
    ("t=1 weight D 0", "there is no server D; there are A (198.51.100.1:80), B (198.51.100.2:80)"),
    ("t=1 del 10.0.0.9", "there is no server 10.0.0.9"), ("t=1 weight A -1", "weight '-1' is not a number"),
    ("t=1 weight ten.0 1", "is a name, and lbq takes addresses"),
    ("t=1 add A", "server A is there already at that time"), ("t=101 del A", "the last packet comes at t=100"),
    ("t=1 add 10.0.0.9,weight=x", "weight 'x' is not a number")])
def test_wrong_changes(text, said):
    made = servers("2")
    assert said in mistake(made.change, [text], END)


def test_what_is_gone_cannot_be_changed():
    assert "server A is not there at that time" in mistake(servers("2").change, ["t=2 weight A 1", "t=1 del A"], END)
