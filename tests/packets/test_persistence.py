"""Persistence: which of a client's connections go to one server, for how long, and when no longer."""
from __future__ import annotations

import pytest

from lbq.model import OPS
from tests.helpers import engines
from tests.helpers.cases import (
    DNS,
    WEB,
    Case,
    call,
    client,
    comes_from,
    command,
    connections,
    passed,
    persistent,
    refused,
    server,
    service,
    shows,
    sysctl,
    to,
    wait,
)
from tests.helpers.engines import key

ONE, TWO = "192.168.20.1:80", "192.168.20.2:80"
MARK = key(WEB)._replace(address=0, port=0, fwmark=7)


def at(port, vip="192.168.10.1:80", host=9):
    """Return the client on *host* with another port."""
    return client(f"192.168.10.{host}:{port}", vip)


def template(**expected):
    """Expect the one template to be listed so."""
    def step(world):
        (found,) = [each for each in engines.connections(world.engine, world.now_ns) if each["flags"] & 0x1000]
        assert {name: found[name] for name in expected} == expected

    return step


def marked(*servers):
    """Configure a persistent service of mark 7."""
    def step(world):
        world.engine.add_service(MARK, "rr", 1, 300)
        for each in servers:
            world.engine.add_server(MARK, *engines.endpoint(each))

    return step


KEYS = [
    Case("a client's next connection goes where its first went, another client's does not",
         persistent(WEB, ONE, TWO),
         at(1001).syn() >> to(TWO), at(1002).syn() >> to(TWO), at(1001, host=10).syn() >> to(ONE),
         at(1003).syn() >> to(TWO), connections(6),
         shows(WEB, TWO, persistent=1, active=3, conns=3)),
    Case("a template is listed under client, port 0 and VIP",
         persistent(WEB, ONE), at(1001).syn() >> to(ONE),
         template(protocol="tcp", caddr="192.168.10.9", cport=0, vaddr="192.168.10.1", vport=80,
                  daddr="192.168.20.1", dport=80, state="NONE", expires_seconds=300)),
    Case("the netmask makes one client of a network",
         persistent(WEB, ONE, TWO, netmask="255.255.255.0"),
         at(1001).syn() >> to(TWO), at(1001, host=10).syn() >> to(TWO), template(caddr="192.168.10.0")),
    Case("a port-0 service holds all ports of its protocol together, and keeps the port",
         persistent("tcp:192.168.10.1:0", "192.168.20.1:0", "192.168.20.2:0"),
         at(1001).syn() >> to("192.168.20.2:80"), at(1002, "192.168.10.1:443").syn() >> to("192.168.20.2:443"),
         template(vport=0, dport=0)),
    Case("without persistence a port-0 service serves nobody",
         service("tcp:192.168.10.1:0", "192.168.20.1:0"), at(1001).syn() >> refused),
    Case("FTP's control connection and its data go together",
         persistent("tcp:192.168.10.1:21", "192.168.20.1:21", "192.168.20.2:21"),
         at(1001, "192.168.10.1:21").syn() >> to("192.168.20.2:21"),
         at(1002, "192.168.10.1:2000").syn() >> to("192.168.20.2:2000"), template(vport=0, dport=0)),
    Case("without persistence FTP's service leaves high ports to the host",
         service("tcp:192.168.10.1:21", "192.168.20.1:21"),
         at(1001, "192.168.10.1:2000").syn() >> passed("ftp_data")),
    Case("a firewall mark's template holds every protocol, address and port together",
         marked("192.168.20.1:0", "192.168.20.2:0"),
         at(1001).syn().marked(7) >> to("192.168.20.2:80"),
         at(1001, "192.168.10.3:53").udp().marked(7) >> to("192.168.20.2:53"),
         template(protocol="ip", vaddr="0.0.0.7", vport=0, dport=0, fwmark=7),
         at(1002).syn() >> passed("no_service")),
]
LIVES = [
    Case("a template ends with FTP's control connection that it governs, whichever was looked at last before",
         sysctl("sloppy_tcp", 1), persistent("tcp:192.168.10.1:21", "192.168.20.1:21"),
         at(1001, "192.168.10.1:21").ack() >> to("192.168.20.1:21"), wait(11),
         at(1001, "192.168.10.1:21").ack() >> to("192.168.20.1:21"),
         at(1002, "192.168.10.1:21").syn() >> to("192.168.20.1:21"), wait(890), connections(2),
         wait(12), connections(0)),
    Case("a known client reaches a quiesced server, until expire_quiescent_template",
         persistent(WEB, ONE, TWO), at(1001).syn() >> to(TWO),
         command("set_server", WEB, TWO, 0), at(1002).syn() >> to(TWO),
         sysctl("expire_quiescent_template", 1), at(1003).syn() >> to(ONE), at(1004).syn() >> to(ONE)),
    Case("the template of a deleted server is put aside, and listed with port 65535",
         persistent(WEB, ONE, TWO), at(1001).syn() >> to(TWO),
         command("delete_server", WEB, TWO), command("delete_server", WEB, ONE),
         at(1002).syn() >> refused, template(vport=65535, dport=65535),
         command("add_server", WEB, ONE), at(1003).syn() >> to(ONE), connections(4)),
    Case("a known client reaches an overloaded server",
         persistent(WEB, ONE), call("set_server", key(WEB), *engines.endpoint(ONE), 1, 0, 1, 0),
         at(1001).syn() >> to(ONE), at(1001, host=10).syn() >> refused, at(1002).syn() >> to(ONE)),
    Case("only a new connection starts a template's timer again",
         persistent(WEB, ONE, timeout=100), at(1001).syn() >> to(ONE),
         wait(40), at(1001).ack() >> to(ONE), template(expires_seconds=60),
         at(1002).syn() >> to(ONE), template(expires_seconds=100)),
    Case("a template with connections lives on, a minute at a time, also when used again",
         persistent(WEB, ONE, timeout=10), at(1001).syn() >> to(ONE), at(1001).ack() >> to(ONE),
         wait(11), template(expires_seconds=59), wait(20), at(1002).syn() >> to(ONE), template(expires_seconds=60),
         wait(1000), connections(0), shows(WEB, ONE, persistent=0)),
    Case("a template is assured once a connection of its was established",
         persistent(WEB, ONE),
         at(1001).syn() >> to(ONE), template(state="NONE"), at(1001).ack() >> to(ONE), template(state="ASSURED")),
    Case("an answered datagram assures its template",
         persistent(DNS, "192.168.20.1:53"), at(1001, "192.168.10.1:53").udp() >> to("192.168.20.1:53"),
         template(state="NONE"),
         server("192.168.20.1:53", "192.168.10.9:1001").udp() >> comes_from("192.168.10.1:53"),
         template(state="ASSURED")),
    Case("a finished connection under a template does not start over elsewhere",
         persistent(WEB, ONE), at(1001).syn() >> to(ONE), at(1001).fin() >> to(ONE),
         at(1001).syn() >> to(ONE), connections(2), shows(WEB, ONE, conns=1)),
    Case("one-packet scheduling chooses anew for every datagram and remembers none",
         persistent(DNS, "192.168.20.1:53", "192.168.20.2:53", flags=OPS),
         *[at(1001, "192.168.10.1:53").udp() >> to(f"192.168.20.{host}:53") for host in (2, 1, 2)],
         connections(0), shows(DNS, "192.168.20.2:53", conns=2, packets_in=2, active=0, inactive=0),
         server("192.168.20.1:53", "192.168.10.9:1001").udp() >> passed("no_connection")),
]


@pytest.mark.parametrize("case", KEYS + LIVES, ids=str)
def test_persistence(case, engine):
    case.play(engine)
