"""Which addresses a rule sees at each place of a packet's way: the tables of docs/packet.md, held against a kernel.

At the head of every chain that a table names, rules count the packets of each pair of addresses; what comes in and
leaves is seen by a packet socket.  A transfer in both directions must show what the table says, and nothing else.
"""
from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address
from typing import NamedTuple

import pytest

from lbq.lab.namespace import Namespace
from lbq.lab.routed import DIRECTOR, IPIP, RoutedLab
from lbq.lab.topology import Lab
from tests.helpers.endpoints import digest_of
from tests.helpers.sphinx import DOCS
from tests.helpers.topology import connect, new_lab, start_endpoints, upload

REQUESTS, ANSWERS = ("CIP → VIP", "CIP → RIP"), ("RIP → CIP", "VIP → CIP")
COMING_IN, LEAVING, NOTHING = "tcpdump, coming in", "tcpdump, leaving", "–"
RPORT = 8080
SIZE = 200_000
TCP = 6
ETH_P_ALL = 3
ROOM = 8 << 20


class Way(NamedTuple):
    """How a service is balanced, and whether its client is the director itself."""

    mode: str
    data_path: str
    from_director: bool = False


WAYS = {
    "rewrite, NAT": Way("nat", "rewrite"),
    "rewrite, DR": Way("dr", "rewrite"),
    "rewrite, TUN": Way("tun", "rewrite"),
    "steer, NAT": Way("nat", "steer"),
    "steer, DR": Way("dr", "steer"),
    "offload": Way("nat", "offload"),
    "A client on the director": Way("nat", "rewrite", True),
}


def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Return the tables of the page by heading: place → addresses of the request, of the answer."""
    found = {}
    for part in re.split(r"^## ", (DOCS / "packet.md").read_text(), flags=re.MULTILINE)[1:]:
        address = r"(–|[A-Z]IP → [^|]+?)"
        rows = re.findall(rf"^\| (`\w+ [A-Z]+`|tcpdump, [a-z ]+) \| {address} \| {address} \|$", part, re.MULTILINE)
        if rows:
            found[part.partition("\n")[0]] = {place.strip("`"): (request, answer) for place, request, answer in rows}
    return found


class Ends:
    """The addresses and ports of one service, by the words of the page."""

    def __init__(self, lab: Lab, way: Way):
        self.cip = lab.vip if way.from_director else lab.client.address
        self.rip = lab.servers[0].address
        self.places = {"VIP": (lab.vip, 80 if way.mode == "nat" else RPORT), "RIP": (self.rip, RPORT)}

    def conditions(self, pair: str) -> list[str]:
        """Return what an iptables rule says of packets of the *pair*."""
        source, destination = pair.split(" → ")
        if source == "CIP":
            address, port = self.places[destination]
            return ["-s", self.cip, "-d", address, "-p", "tcp", "--dport", str(port)]
        address, port = self.places[source]
        return ["-s", address, "-d", self.cip, "-p", "tcp", "--sport", str(port)]

    def spoken(self, packet: bytes) -> str | None:
        """Return the pair of an IPv4 packet, None for one that is not the service's."""
        source, destination = (str(IPv4Address(packet[at:at + 4])) for at in (12, 16))
        header = (packet[0] & 15) * 4
        if packet[9] == IPIP:
            assert (source, destination) == (DIRECTOR, self.rip)
            return f"DIP → RIP ({self.spoken(packet[header:])})"
        ports = [int.from_bytes(packet[header + at:header + at + 2], "big") for at in (0, 2)]
        for name, place in self.places.items():
            if packet[9] == TCP and (source, destination, ports[1]) == (self.cip, *place):
                return f"CIP → {name}"
            if packet[9] == TCP and (source, ports[0], destination) == (*place, self.cip):
                return f"{name} → CIP"
        return None


class Counting:
    """Rules at the head of chains, and a packet socket, that see who speaks to whom."""

    def __init__(self, host: Namespace, ends: Ends, places: list[str]):
        self.host, self.ends = host, ends
        self.chains = [place.split() for place in places if not place.startswith("tcpdump")]
        for table, chain in self.chains:
            for pair in (*REQUESTS, *ANSWERS):
                host.run(["iptables", "-t", table, "-A", chain, *ends.conditions(pair)])
        with host.inside():
            self.sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self.sniffer.setblocking(False)

    def seen(self) -> dict[str, tuple[str, str]]:
        """Return what was seen, as a table of the page has it."""
        found = {f"{table} {chain}": self._counted(table, chain) for table, chain in self.chains}
        wire = self._wire()
        self.sniffer.close()
        return {**found, **{place: _row(pairs) for place, pairs in wire.items()}}

    def _counted(self, table: str, chain: str) -> tuple[str, str]:
        lines = self.host.run(["iptables", "-t", table, "-vnxL", chain]).stdout.splitlines()[2:6]
        return _row({pair for pair, line in zip((*REQUESTS, *ANSWERS), lines, strict=True) if int(line.split()[0])})

    def _wire(self) -> dict[str, set[str]]:
        found = {COMING_IN: set(), LEAVING: set()}
        while True:
            try:
                packet, (device, _, kind, *_) = self.sniffer.recvfrom(65536)
            except BlockingIOError:
                return found
            if device != "lo" and kind != socket.PACKET_OTHERHOST and packet[0] >> 4 == 4:
                pair = self.ends.spoken(packet)
                found[LEAVING if kind == socket.PACKET_OUTGOING else COMING_IN] |= {pair} if pair else set()


def _row(pairs: set[str]) -> tuple[str, str]:
    answers = {pair for pair in pairs if pair.endswith("→ CIP")}
    return tuple(" and ".join(sorted(some)) or NOTHING for some in (pairs - answers, answers))


def test_every_way_has_its_table():
    assert set(tables()) == set(WAYS)


@pytest.mark.parametrize("title", WAYS)
def test_rules_see_the_addresses_of_the_table(title):
    way, table = WAYS[title], tables()[title]
    with (new_lab(Lab, servers=1) if way.mode == "nat" else new_lab(RoutedLab, way.mode, servers=1)) as lab:
        start_endpoints(lab, "bulk", RPORT)
        ends = Ends(lab, way)
        connect(lab.director, ends.rip, RPORT).close()      # all know their neighbours' MACs
        counting = Counting(lab.director, ends, list(table))
        vport = ends.places["VIP"][1]
        lab.start_director("--vip", f"{lab.vip}:{vport}", "--mode", way.mode, "--data-path", way.data_path,
                           "--real", f"{ends.rip}:{RPORT}")

        client = lab.director if way.from_director else lab.client
        assert upload(client, f"http://{lab.vip}:{vport}/", SIZE) == digest_of(SIZE)

        seen = counting.seen()
        assert {place: seen[place] for place in table} == table
