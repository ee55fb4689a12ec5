"""What `lbq whatif` foretells, and what the same engine then does with the next packet of every connection."""
from __future__ import annotations

import json
from collections import Counter

import pytest

from lbq.errors import ConfigError, NoSuchServer, NoSuchService
from lbq.model import AF_INET6, PERSISTENT, TUN
from lbq.whatif import changes, effects, table
from lbq.whatif.command import main, summary
from tests.helpers.engines import NS, PREROUTING, add_service, endpoint, key
from tests.helpers.packets import read, tcp, udp
from tests.helpers.tables import DNS, SIX, VIP, filled, taken

AFTER = 5 * NS


def foretold(known, *made):
    """Return the fates of all connections by client and VIP."""
    engine = table.copy(known)
    for change in made:
        changes.make(engine, change)
    return {(each.client, each.vip): each for each in
            effects.of_connections(engine, known["connections"], lambda number: None)}


def what_happens(engine, known, *made):
    """Make the changes to the real *engine*, send each connection's next packet, and return where that went."""
    for change in made:
        changes.make(engine, change)
    found = {}
    for row in known["connections"]:
        if row["cport"] == 0:
            continue
        client, vip = (f"[{row[end]}]:{row[port]}" if ":" in row[end] else f"{row[end]}:{row[port]}"
                       for end, port in (("caddr", "cport"), ("vaddr", "vport")))
        packet = tcp(client, vip, "A") if row["protocol"] == "tcp" else udp(client, vip, b"?")
        before = engine.statistics()
        verdict = engine.handle(packet, PREROUTING, now_ns=AFTER)
        gone = engine.statistics()["dropped_server_gone"] > before["dropped_server_gone"]
        where = ""
        if verdict.changed:
            where = read(packet).destination
        elif verdict.sent:
            where = str(verdict.sent[0].next_hop)
        found[client, vip] = (gone, where)
    return found


CHANGES = [("del server 192.168.10.1:80 192.168.20.2",), ("set server 192.168.10.1:80 192.168.20.2,weight=0",),
           ("sysctl expire_nodest_conn=1", "del server 192.168.10.1:80 192.168.20.2",
            f"del server udp:{DNS} 192.168.20.1"),
           ("del service udp:192.168.10.1:53",), (f"add server {VIP} 192.168.20.9,weight=5",),
           (f"drain {VIP} 192.168.20.1",),
           (f"del service tcp:{SIX}", f"del server udp:{DNS} 192.168.20.2")]


@pytest.mark.parametrize("made", CHANGES, ids="; ".join)
@pytest.mark.parametrize(("scheduler", "flags", "timeout"), [("rr", 0, 0), ("sh", 0, 0), ("wlc", PERSISTENT, 300)])
def test_what_is_foretold_happens(engine, made, scheduler, flags, timeout):
    filled(engine, scheduler, flags, timeout)
    known = taken(engine)
    fates, happened = foretold(known, *made), what_happens(engine, known, *made)

    assert fates.keys() == happened.keys() and len(fates) == 36
    for place, fate in fates.items():
        gone, where = happened[place]
        assert (fate.fate == "stranded") == gone, (fate, where)
        assert (fate.fate == "cut") == (not gone and not where), (fate, where)
        if fate.fate in ("stays", "moves") and "." in where:
            assert where == fate.then


def test_the_fates_of_a_deleted_server(engine):
    known = taken(filled(engine))
    deleted = ("del server 192.168.10.1:80 192.168.20.2", f"del server udp:{DNS} 192.168.20.2")
    assert Counter(each.fate for each in foretold(known, *deleted).values()) == {"stays": 26, "stranded": 10}
    ended = foretold(known, "sysctl expire_nodest_conn=1", *deleted)
    assert Counter(each.fate for each in ended.values()) == {"stays": 26, "cut": 4, "moves": 6}
    assert {each.then for each in ended.values() if each.fate == "moves"} == {"192.168.20.1:53"}


def test_clients_that_a_hash_sends_elsewhere_are_counted(engine):
    known = taken(filled(engine, "sh"))
    before, after = table.copy(known), table.copy(known)
    changes.make(after, f"add server {VIP} 192.168.20.4")
    clients = effects.of_clients(before, after, known["connections"])
    assert clients.total() == 12 and 0 < clients[False] < 12
    lines = summary(["x"], list(foretold(known, f"add server {VIP} 192.168.20.4").values()), clients)
    assert lines[-1].startswith("of 12 clients of services that are persistent or hash them, ")
    assert lines[-2].split() == ["all", "36", "0", "0", "0"]


@pytest.mark.parametrize(("scheduler", "flags", "timeout", "line"), [
    ("rr", 0, 0, ""), ("sh", 0, 0, "of 12 clients of services"), ("rr", PERSISTENT, 300, "of 12 clients of services")])
def test_clients_are_counted_where_they_are_kept(engine, tmp_path, capsys, scheduler, flags, timeout, line):
    path = tmp_path / "table"
    path.write_text(json.dumps(taken(filled(engine, scheduler, flags, timeout))))
    assert main(["--table", str(path), f"add server {VIP} 192.168.20.4"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(line) if line else last.split()[0] == "all"


def test_a_client_that_uses_every_port_is_looked_at_all_the_same(engine, monkeypatch):
    monkeypatch.setattr(effects, "LAST_PORT", 20)
    known = taken(filled(engine, "sh"))
    row = next(row for row in known["connections"] if row["vaddr"] == "192.168.10.1" and row["vport"] == 80)
    known["connections"] = [{**row, "cport": port} for port in range(1, 21)]
    before, after = table.copy(known), table.copy(known)

    assert effects.of_clients(before, after, known["connections"]) == {True: 1}


def test_a_server_of_the_other_family_is_still_of_that(engine):
    add_service(engine, f"tcp:{VIP}")
    engine.add_server(key(f"tcp:{VIP}"), *endpoint("[2001:db8:1::1]:80"), mode=TUN, family=AF_INET6)
    engine.handle(tcp("192.168.10.100:40000", VIP, "S"), PREROUTING, now_ns=NS)
    known = taken(engine)
    copied = table.copy(known)

    [connection] = [copied.facts_of(each) for each in copied.connections.numbered if each]
    assert connection["daddr"] == known["connections"][0]["daddr"] == "2001:db8:1::1"


@pytest.mark.parametrize(("service", "server", "target", "mark"), [
    ("fwmark:7", "192.168.20.1:80", "192.168.10.1:443", 7),
    ("tcp:192.168.10.1:21", "192.168.20.1:21", "192.168.10.1:50000", 0),
    ("tcp:192.168.10.1:0", "192.168.20.1:0", "192.168.10.1:443", 0),
    ("tcp:192.168.10.1:0", "192.168.20.1:80", "192.168.10.1:443", 0)])
def test_a_connection_at_another_port_than_its_servers_is_still_of_that(engine, service, server, target, mark):
    """A persistent service keeps the port that the client asked for where that is not its own."""
    engine.add_service(key(service), "rr", PERSISTENT, 300)
    engine.add_server(key(service), *endpoint(server))
    engine.handle(tcp("192.168.10.100:40000", target, "S"), PREROUTING, now_ns=NS, mark=mark)
    engine.handle(tcp("192.168.10.100:40000", target, "A"), PREROUTING, now_ns=NS, mark=mark)
    known, rip = taken(engine), server.rpartition(":")[0]
    [before] = foretold(known, "sysctl sloppy_tcp=0").values()
    assert (before.fate, before.server, before.then) == ("stays", *[f"{rip}:{target.rpartition(':')[2]}"] * 2)

    engine.delete_server(key(service), *endpoint(server))
    [gone] = foretold(taken(engine), "sysctl sloppy_tcp=0").values()
    assert gone.fate == "stranded"


def test_one_address_and_port_of_two_protocols_are_two_services(engine):
    known = taken(filled(engine))
    for row, address, port in (*((row, "address", "port") for row in known["services"]),
                               *((row, "vaddr", "vport") for row in known["connections"])):
        row[port] = 53 if row[address] == "192.168.10.1" else row[port]
    fates = effects.of_connections(table.copy(known), known["connections"], lambda number: None)
    lines = summary(["x"], list(fates), Counter())

    assert ["tcp:192.168.10.1:53", "192.168.20.1:80"] in [line.split()[:2] for line in lines]
    assert ["udp:192.168.10.1:53", "192.168.20.1:53"] in [line.split()[:2] for line in lines]


@pytest.mark.parametrize(("change", "kind"), [
    ("", ConfigError), ("del", ConfigError), ("del server 192.168.10.1:80", ConfigError), ("stop", ConfigError),
    ("del server 192.168.10.1:81 192.168.20.1", NoSuchService), ("sysctl", ConfigError),
    ("del server 192.168.10.1:80 192.168.20.9", NoSuchServer), ("sysctl drop_packet", ConfigError),
    ("set server 192.168.10.1:80 192.168.20.1", ConfigError),
    ("del server 192.168.10.1:80 192.168.20.1,weight=4", ConfigError),
    ("drain 192.168.10.1:80 192.168.20.1,weight=4", ConfigError),
    ("add server 192.168.10.1:80 192.168.20.9,mode=dr,port=1", ConfigError), ("del 'server", ConfigError)])
def test_a_change_that_means_nothing_is_refused(engine, change, kind):
    with pytest.raises(kind):
        changes.make(table.copy(taken(filled(engine))), change)


@pytest.mark.parametrize("damage", [
    lambda known: None, lambda known: [], lambda known: {**known, "lbq_table": 2},
    lambda known: {**known, "services": 1},
    lambda known: {**known, "connections": [{}]}, lambda known: {**known, "profile": "old"},
    lambda known: {**known, "sysctls": {"x": 1}}, lambda known: {**known, "timeouts": {}},
    lambda known: {**known, "timeouts": {**known["timeouts"], "tcp": "900"}},
    lambda known: {**known, "services": [{**row, "servers": [{**its, "overloaded": float("inf")}
                                                             for its in row["servers"]]} for row in known["services"]]},
    lambda known: {**known, "connections": [{**known["connections"][0], "state": "ASLEEP"}]},
    lambda known: {**known, "connections": [{**known["connections"][0], "caddr": "web"}]},
    *(lambda known, name=name, value=value: {**known, "connections": [{**known["connections"][0], name: value}]}
      for name, value in (("cport", 65536), ("cport", "80"), ("vport", -1), ("flags", 1.5), ("fwmark", None),
                          ("packets_in", True), ("expires_seconds", float("nan"))))])
def test_a_damaged_table_is_refused(engine, tmp_path, damage):
    path = tmp_path / "table"
    path.write_text(json.dumps(damage(taken(filled(engine)))))
    with pytest.raises(ConfigError, match="table"):
        table.read(str(path))


@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1", b"-A -t 192.168.10.1:80", b"[" * 100_000,
                                     b'{"lbq_table": 1'])
def test_what_is_no_table_is_called_none(tmp_path, content):
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no table that lbq whatif --save wrote"):
        table.read(str(path))


def test_a_saved_table_is_told_without_a_director(engine, tmp_path, capsys):
    path = tmp_path / "table"
    path.write_text(json.dumps(taken(filled(engine))))
    assert main(["--table", str(path), "--list", "del server 192.168.10.1:80 192.168.20.2"]) == 0
    out = capsys.readouterr().out
    assert "if: del server 192.168.10.1:80 192.168.20.2" in out
    row = ["tcp:192.168.10.1:80", "192.168.20.2:80", "0", "0", "0", "4"]
    assert row in [line.split() for line in out.splitlines()]
    assert out.count("\n  stranded  tcp 192.168.10.") == 4
    assert main(["--table", str(path), "--json", "del server 192.168.10.1:80 192.168.20.2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fates"] == {"stays": 32, "moves": 0, "cut": 0, "stranded": 4}
    assert {"service": row[0], "server": row[1], "stays": 0, "moves": 0, "cut": 0, "stranded": 4} in told["servers"]
    assert len(told["servers"]) == 7


