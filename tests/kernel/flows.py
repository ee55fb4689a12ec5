"""The traffic side of scenarios: clients that come, talk, close, come back, and everything odd they send."""
from __future__ import annotations

import random

from tests.kernel.services import Service

FIRST_FLAGS = ["S"] * 30 + ["SA", "SF", "A", "FA", "R", "", "PA"]
CLIENT_FLAGS = ["A"] * 6 + ["PA"] * 2 + ["FA"] * 3 + ["F", "R", "RA", "S", "SA", "SF", "SR", "", "U"]
SERVER_FLAGS = ["SA"] * 5 + ["A"] * 5 + ["FA"] * 3 + ["F", "R", "RA", "S", "SF", "SR", "", "PA"]
ORDERLY = [("client", "A"), ("client", "PA"), ("client", "FA"), ("client", "R"), ("server", "SA"), ("server", "A"),
           ("server", "FA"), ("server", "RA")]
CHUNKS = [0, 1, 2, 6, 7, 8, 9, 10, 11, 14] * 4 + [3, 4, 5, 12, 15, 192]
ERRORS = [(3, 0, 0), (3, 1, 0), (3, 3, 0), (3, 4, 1400), (3, 4, 576), (3, 13, 0), (4, 0, 0), (5, 1, 0), (11, 0, 0),
          (11, 1, 0), (12, 0, 0)]
TOS = [0, 0x10, 0x02, 0x01, 0x03, 0xB8, 0xFF]


class Flows:
    """The conversations of a scenario."""

    def __init__(self, choose: random.Random, theme: str):
        self.choose = choose
        self.theme = theme
        self.opens = 0
        self.ids = 0
        self.flows: list[dict] = []
        self.came: list[int] = []           # ids of packets whose outcome a later packet may be about
        self.network = f"172.{choose.randrange(16, 32)}.{choose.randrange(256)}"
        self.clients = choose.choice((4, 40, 250))
        self.odd = theme in ("odd", "talk")

    def _id(self) -> int:
        self.ids += 1
        return self.ids

    def _packet(self, flow: dict, flags: str | None = None, **more) -> dict:
        """Return a packet of the client of *flow*."""
        packet = {"id": self._id(), "proto": flow["proto"], "from": flow["client"], "to": flow["to"]}
        if flow["proto"] == "tcp":
            packet["flags"] = flags if flags is not None else "A"
        elif flow["proto"] == "sctp":
            packet["chunk"] = self.choose.choice(CHUNKS)
        if self.odd:
            more = {**self._oddities(flow["proto"]), **more}
        return {**packet, **more}

    def _oddities(self, protocol: str) -> dict:
        choose, odd = self.choose, {}
        if choose.random() < 0.2:
            odd["tos"] = choose.choice(TOS)
        if choose.random() < 0.2:
            odd["ttl"] = choose.choice((1, 2, 2, 128, 255, 1))
        if choose.random() < 0.2:
            odd["df"] = 0
            odd["ip_id"] = choose.randrange(1, 65536)
        if choose.random() < 0.2:
            odd["payload"] = choose.choice((1, 7, 64, 600))
        if choose.random() < 0.1 and protocol != "sctp":
            odd["checksum"] = "none" if protocol == "udp" else choose.randrange(65536)
        return odd

    def _client(self) -> str:
        """Return a client's address: mostly of one network, some from anywhere."""
        choose = self.choose
        if choose.random() < 0.8:
            return f"{self.network}.{choose.randrange(1, self.clients + 1)}"
        middle = f"{choose.randrange(20, 250)}.{choose.randrange(256)}"
        return f"{choose.choice((20, 100, 172, 198))}.{middle}.{choose.randrange(1, 255)}"

    def _new(self, service: Service) -> dict:
        choose = self.choose
        port = service.port or choose.choice((80, 443, 53, 21, 8080))
        if service.port == 21 and choose.random() < 0.4:
            port = choose.choice((20, 1023, 1024, 40000))
        source = 20 if choose.random() < 0.004 else choose.randrange(1024, 65536)
        protocol = service.protocol
        if service.mark:
            protocol = choose.choice((protocol, protocol, "udp", "tcp"))
        flow = {"client": f"{self._client()}:{source}", "to": f"{choose.choice(service.vips)}:{port}",
                "proto": protocol, "service": service}
        self.flows.append(flow)
        return flow

    def open(self, service: Service) -> dict:
        """Return the first packet of a new conversation; ``by`` says who has to decide."""
        flow = self._new(service)
        flags = "S" if self.choose.random() < 0.96 and self.theme != "odd" else self.choose.choice(FIRST_FLAGS)
        packet = self._packet(flow, flags)
        if flow["proto"] == "sctp" and self.choose.random() < 0.85:
            packet["chunk"] = 1
        self.came.append(packet["id"])
        return self._opens(flow, packet)

    def _opens(self, flow: dict, packet: dict) -> dict:
        """Return *packet*, with which *flow* begins (again)."""
        flow["id"] = packet["id"]
        self.opens += 1
        packet["by"] = flow["service"].scheduler
        return packet

    def _known(self) -> dict | None:
        """Return a conversation that has begun, mostly a recent one."""
        begun = [flow for flow in self.flows if "id" in flow]
        if not begun:
            return None
        if self.theme == "states":
            return self.choose.choice(begun[-3:])
        return self.choose.choice(begun[-8:] if self.choose.random() < 0.8 else begun)

    def finish(self) -> list[dict]:
        """Return packets that take a conversation further, mostly in order."""
        flow = self._known()
        if flow is None:
            return []
        if flow["proto"] != "tcp":
            return [self._answer(flow)] if self.choose.random() < 0.5 else [self._packet(flow)]
        result = []
        for _ in range(self.choose.randrange(1, 5)):
            who, flags = self.choose.choice(ORDERLY)
            result.append(self._packet(flow, flags) if who == "client" else self._answer(flow, flags))
        return result

    def client(self) -> dict | None:
        flow = self._known()
        if flow is None:
            return None
        packet = self._packet(flow, self.choose.choice(CLIENT_FLAGS))
        self.came.append(packet["id"])
        return packet

    def server(self) -> dict | None:
        flow = self._known()
        return flow and self._answer(flow, self.choose.choice(SERVER_FLAGS))

    def _answer(self, flow: dict, flags: str = "A") -> dict:
        """Return what the chosen server says to the client of *flow*."""
        packet = {"id": self._id(), "side": "s", "answer": flow["id"]}
        if flow["proto"] == "tcp":
            packet["flags"] = flags
        elif flow["proto"] == "sctp":
            packet["chunk"] = self.choose.choice(CHUNKS)
        if self.odd:
            packet.update(self._oddities(flow["proto"]))
            if packet.get("ttl") == 1:
                packet["ttl"] = 2
        self.came.append(packet["id"])
        return packet

    def again(self) -> dict | None:
        """Return a packet that opens a known conversation once more."""
        flow = self._known()
        if flow is None:
            return None
        packet = self._packet(flow, self.choose.choice(("S", "S", "S", "S", "SA", "SF")))
        if flow["proto"] == "sctp":
            packet["chunk"] = 1
        return self._opens(flow, packet)

    def error(self) -> dict | None:
        """Return an ICMP error about a packet that came out, from this side or that, or about nothing known."""
        choose = self.choose
        packet = {"id": self._id(), "icmp": list(choose.choice(ERRORS)), "side": choose.choice("ssc")}
        if not self.came:
            return None
        if choose.random() < 0.15:
            flow = choose.choice(self.flows)
            quoted = {"proto": flow["proto"], "from": flow["to"], "to": flow["client"], "flags": "A", "chunk": 0}
            return {**packet, "side": "c", "quoting": quoted, "from": "172.31.255.1"}
        packet["about"] = choose.choice(self.came[-10:])
        if choose.random() < 0.4:
            packet["from"] = {"s": "10.2.255.1", "c": "172.31.255.1"}[packet["side"]]
        if choose.random() < 0.3:
            packet["quote"] = choose.choice((28, 28, 40, 48, 20, 24))
        if choose.random() < 0.1:
            packet["checksum"] = choose.randrange(65536)
        if choose.random() < 0.3:
            packet["inner"] = 1
        return packet

    def large(self, service: Service) -> dict:
        """Return a packet around the size that fits, or with hardly any time to live."""
        choose = self.choose
        more = {"payload": choose.choice((1400, 1420, 1430, 1440, 1460, 1461, 1472, 1500, 2000, 3000)),
                "df": choose.choice((1, 1, 0)), "ip_id": choose.randrange(65536)}
        if choose.random() < 0.3:
            more["ttl"] = choose.choice((1, 2))
        flow = self._known()
        if flow is None or choose.random() < 0.3:
            flow = self._new(service)
            packet = self._opens(flow, self._packet(flow, "S", **more))
        else:
            packet = self._packet(flow, "PA", **more)
        if packet["proto"] == "sctp":
            packet["payload"] &= ~3
        self.came.append(packet["id"])
        return packet

    def fragments(self, service: Service) -> dict:
        """Return a datagram cut into pieces, of a client or of a server."""
        choose = self.choose
        more = {"payload": choose.choice((200, 600, 1600, 2800)), "df": 0, "ip_id": choose.randrange(1, 65536),
                "cut": choose.choice((64, 256, 1400))}
        flow = self._known()
        if flow and choose.random() < 0.4:
            return {**self._answer(flow, "PA"), **more, "ttl": 64}
        if flow is None or choose.random() < 0.4:
            flow = self._new(service)
            return self._opens(flow, self._packet(flow, "S", **more))
        return self._packet(flow, "PA", **more)

    def stranger(self, service: Service) -> dict:
        """Return a packet that no service is for, or that opens nothing."""
        choose = self.choose
        flow = self._new(service)
        self.flows.remove(flow)
        kind = choose.randrange(5)
        if kind == 0:
            flow["to"] = f"10.0.0.8:{choose.choice((80, 81, 9999))}"
        elif kind == 1:
            flow["proto"] = choose.choice(("tcp", "udp", "sctp"))
        elif kind == 2:
            flow["client"] = flow["client"].partition(":")[0] + ":20"
        elif kind == 3:
            flow["proto"] = "icmp"
        packet = self._packet(flow, choose.choice(FIRST_FLAGS))
        if kind == 4:
            # A server speaks first: to a client that nobody knows, or from a port that serves.
            server = choose.choice(service.servers)["address"] if service.servers else "10.1.0.1"
            packet.update({"side": "s", "from": f"{server}:{choose.choice((80, 8080, 8081))}", "to": flow["client"],
                           "ttl": 64})
        return packet
