"""Where the machines of each lab are on its picture, and which way a packet takes between two of them."""
from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A machine, or a switch, with its middle on a picture that is 440 wide and 250 high."""

    name: str
    x: int
    y: int
    lines: tuple[str, ...]      # its addresses
    is_switch: bool = False


class Picture(NamedTuple):
    """The network of a lab."""

    places: tuple[Place, ...]
    cables: tuple[tuple[str, str], ...]

    def way(self, start: str, end: str) -> list[str]:
        """Return the places from *start* to *end*, both included, by the fewest cables and through switches only."""
        switches = {place.name for place in self.places if place.is_switch}
        ways = [[start]]
        seen = {start}
        while ways:
            way = ways.pop(0)
            if way[-1] == end:
                return way
            if way[-1] in switches or len(way) == 1:
                near = [pair[1 - pair.index(way[-1])] for pair in self.cables if way[-1] in pair]
                ways += [[*way, name] for name in near if name not in seen]
                seen.update(near)
        return [start, end]


PICTURES = {
    "nat": Picture((
        Place("client", 55, 125, ("192.168.10.100",)),
        Place("director", 185, 125, ("VIP 192.168.10.1", "192.168.20.254")),
        Place("switch", 285, 125, (), is_switch=True),
        Place("web01", 378, 55, ("192.168.20.1",)),
        Place("web02", 378, 195, ("192.168.20.2",)),
    ), (("client", "director"), ("director", "switch"), ("switch", "web01"), ("switch", "web02"))),
    "dr": Picture((
        Place("client", 55, 150, ("192.168.10.100",)),
        Place("router", 175, 150, ("192.168.10.254", "172.16.10.254")),
        Place("switch", 275, 150, (), is_switch=True),
        Place("director", 275, 40, ("VIP 172.16.10.1", "172.16.10.10")),
        Place("web01", 378, 100, ("172.16.10.11", "VIP on lo")),
        Place("web02", 378, 205, ("172.16.10.12", "VIP on lo")),
    ), (("client", "router"), ("router", "switch"), ("switch", "director"), ("switch", "web01"), ("switch", "web02"))),
    "tun": Picture((
        Place("client", 55, 150, ("192.168.10.100",)),
        Place("router", 205, 150, ("192.168.10.254", "172.16.10.254")),
        Place("director", 205, 40, ("VIP 172.16.10.1", "172.16.10.10")),
        Place("web01", 375, 95, ("10.20.1.1", "VIP on lo")),
        Place("web02", 375, 205, ("10.20.2.1", "VIP on lo")),
    ), (("client", "router"), ("router", "director"), ("router", "web01"), ("router", "web02"))),
}
