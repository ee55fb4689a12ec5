"""Tells a scenario again in IPv6: the same story, and what only IPv6 has.

Every IPv4 address becomes the IPv6 one of the same machine (``topology.as_ipv6``).  Packets get flow labels and
extension headers, ICMP errors are those of ICMPv6, and sizes are around what fits through IPv6 networks.  A real server
that only TUN leads to may keep its address: then it is IPv6 in IPv4.  A service may stay what it is with its clients,
beside another one or because TUN leads to all of its servers: the latter is IPv4 in IPv6.
"""
from __future__ import annotations

import random
import re

from tests.kernel import topology
from tests.kernel.services import PROTOCOL_OPTIONS

SERVICE = re.compile(r"(?:-t|-u|--sctp-service|-f) ([\d.]+)")
SERVER = re.compile(r" -r ([\d.]+):\d+ (-[mgi])")
PREFIXES = {"255.255.255.0": (120, 120, 121, 96), "255.255.0.0": (112, 64, 56, 33), "255.255.255.252": (126, 127, 1)}
# Not destination options or routing before a fragment header: the kernel's own host misreads such a packet.
EXTENSIONS = ("h", "H", "d", "D", "r", "R", "f", "hd", "dr", "hr", "hf", "hdr", "hDr", "hfd", "fd", "fr", "rd",
              "a", "da", "fa", "hrad")
# (type, code, the word behind them): all that are errors, known ones and unknown ones
ERRORS = ((1, 0, 0), (1, 1, 0), (1, 3, 0), (1, 4, 0), (1, 6, 0), (2, 0, 1400), (2, 0, 1280), (2, 0, 600), (2, 1, 1300),
          (3, 0, 0), (3, 1, 0), (4, 0, 6), (4, 1, 40), (4, 2, 0), (5, 0, 0), (100, 0, 0), (127, 0, 0))
LARGE = (1220, 1240, 1252, 1340, 1380, 1388, 1389, 1396, 1397, 1400, 1401, 1412, 1420, 1421, 1436, 1440, 1441, 1452,
         2000, 3000)
NARROW = {"c": 4000, "s": 1300}     # what a tunnel over IPv6 has of it is less than IPv6 allows: it gets nothing
# A datagram in fragments fits through any network in one piece, or is longer than any device's MTU: that it was in
# fragments is then known to lbq, which does not see their sizes.  The fragments themselves fit through any network.
SMALL, BEYOND, FRAGMENT = 1200, 2600, 1024


def told(scenarios: list[dict], family: int, kind: str) -> list[dict]:
    """Return *scenarios*, which are of IPv4, in this *family*, 4 or 6."""
    return [in_ipv6(each, kind) for each in scenarios] if family == 6 else scenarios


def in_ipv6(scenario: dict, kind: str) -> dict:
    """Return *scenario* in a world of both families, for a *kind* of kernel."""
    return Translation(scenario, kind).scenario


class Translation:
    """One scenario on its way."""

    def __init__(self, scenario: dict, kind: str):
        self.kind = kind
        self.choose = random.Random(scenario["seed"])
        self.is_odd = scenario["theme"] in ("odd", "talk")
        marks = scenario["world"].get("marks", [])
        self.services: dict[str, list[str]] = {}        # "10.0.0.1" or "1", a mark: addresses of its servers
        self.tunnelled: dict[str, bool] = {}            # servers that only TUN leads to: whether their address stays
        lines = [step["line"] for step in scenario["steps"] if step["do"] == "ipvsadm"]
        self._read(lines)
        self.has_ftp = any(":21 " in line for line in lines)
        self.ipv4 = {service for service, servers in self.services.items() if self._may_stay(servers)}
        self.ipv4 |= {vip for _, vip, _, mark in marks if str(mark) in self.ipv4}
        world = {**scenario["world"], "family": 6}
        if self.is_odd and self.choose.random() < 0.15:
            world["mtu"] = NARROW
        if marks:
            world["marks"] = [[protocol, self._address(vip, vip in self.ipv4), *rest] for protocol, vip, *rest in marks]
        steps = [self._step(step) for step in scenario["steps"]]
        self.scenario = {**scenario, "world": world, "steps": steps}

    def _read(self, lines: list[str]) -> None:
        """Learn from the *lines* of ipvsadm which servers each service has, and which of them only TUN leads to."""
        methods: dict[str, set[str]] = {}
        for line in lines:
            service = SERVICE.search(line)
            if service:
                servers = self.services.setdefault(service[1], [])
                server = SERVER.search(line)
                if server:
                    servers.append(server[1])
                    methods.setdefault(server[1], set()).add(server[2])
        self.tunnelled = {address: self.choose.random() < 0.5 for address in methods if methods[address] == {"-i"}}

    def _may_stay(self, servers: list[str]) -> bool:
        """Return whether a service with these *servers*, and its clients, stay IPv4."""
        if all(server in self.tunnelled for server in servers):
            return self.choose.random() < 0.4
        return len(self.services) > 1 and self.choose.random() < 0.2

    def _step(self, step: dict) -> dict:
        if step["do"] == "ipvsadm":
            return {**step, "line": self._line(step["line"])}
        if step["do"] != "send":
            return step
        # A classic kernel drops these, unless conntrack, which FTP switches on, knows their checksum; see compare.py.
        if "icmp" in step and step["side"] == "s" and self.has_ftp and self.kind == "classic":
            return {"do": "settle"}
        return self._packet(step)

    # ---- Commands ----------------------------------------------------------------------------------------

    def _line(self, line: str) -> str:
        """Return an ipvsadm *line* in the families of its addresses."""
        service = SERVICE.search(line)
        if not service:
            return line
        is_ipv4 = service[1] in self.ipv4
        words = line.split()
        for at, word in enumerate(words):
            before = words[at - 1] if at else ""
            if before == "-r":
                words[at] = self._place(word, self.tunnelled.get(word.partition(":")[0], is_ipv4))
            elif before == "-f" and not is_ipv4:
                words[at] += " -6"
            elif before == "-M" and not is_ipv4:
                words[at] = str(self.choose.choice(PREFIXES[word]))
            elif before in PROTOCOL_OPTIONS.values():
                words[at] = self._place(word, is_ipv4)
        return " ".join(words)

    def _place(self, text: str, stays: bool) -> str:
        """Return ``10.0.0.1:80``, or the same in IPv6."""
        address, _, port = text.partition(":")
        return text if stays else f"[{topology.as_ipv6(address)}]:{port}"

    def _address(self, address: str, stays: bool) -> str:
        return address if stays else topology.as_ipv6(address)

    # ---- Packets -----------------------------------------------------------------------------------------

    def _packet(self, step: dict) -> dict:
        """Return a send *step* in the family of the service that it is about."""
        step = dict(step)
        ends = {end: step[end] for end in ("from", "to") if ":" in step.get(end, "")}
        stays = any(text.partition(":")[0] in self.ipv4 for text in ends.values())
        step.update({end: self._place(text, stays) for end, text in ends.items()})
        if "quoting" in step:
            step["quoting"] = self._quoted(step["quoting"])
        if "icmp" in step:
            step["icmp6"] = list(self.choose.choice(ERRORS))
        if stays:
            step.pop("by", None)            # a decision, but none of IPv6
        else:
            self._adapt(step)
        return step

    def _quoted(self, packet: dict) -> dict:
        """Return a packet that nobody sent but somebody complains about."""
        result = self._packet(packet)
        if "[" in result["to"] and self.choose.random() < 0.3:
            result.update(cut=64, ip_id=7, payload=200, piece=self.choose.choice((0, 0, 1)))
        return result

    def _adapt(self, step: dict) -> None:
        """Give a *step* what only IPv6 has."""
        choose = self.choose
        step.pop("df", None)
        if "quote" in step:                 # IPv6's header is longer, and may have extensions
            step["quote"] += choose.choice((20, 20, 20, 28))
        if "icmp" in step and choose.random() < 0.05:
            step.update(cut=choose.choice((64, 256)), ip_id=choose.randrange(1, 65536))
        if "cut" not in step:
            step.pop("ip_id", None)
        if choose.random() < 0.15:
            step["label"] = choose.randrange(1 << 20)
        if choose.random() < (0.25 if self.is_odd else 0.04) and self._may_be_extended(step):
            step["ext"] = choose.choice("hH" if "cut" in step else EXTENSIONS)
            if "icmp" in step and "cut" in step:    # 1280 bytes without: more than a narrow tunnel takes
                del step["ext"]
        if "cut" in step:
            step["cut"] = min(step["cut"], FRAGMENT)
            if step.get("payload", 0) > SMALL:
                step["payload"] += BEYOND
            if choose.random() < 0.1:
                step["piece"] = choose.randrange(3)
                step.pop("by", None)        # nobody ever sees it
        elif step.get("payload", 0) >= SMALL:
            step["payload"] = choose.choice(LARGE)
            if "f" in step.get("ext", ""):      # a fragment, if the only one: its size is not told either
                step["ext"] = step["ext"].replace("f", "")
            if step.get("proto") == "sctp":
                step["payload"] &= ~3

    def _may_be_extended(self, step: dict) -> bool:
        """Return whether the kernel finds the state of what *step* sends behind extension headers, see compare.py."""
        return self.kind == "new" or "icmp" in step or not ("flags" in step or "chunk" in step)
