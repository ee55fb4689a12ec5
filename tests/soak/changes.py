"""What operators do to a director all day, done all the time: in threads of the test, inside the director's namespace.

Changes that must lose nothing: weights, settings, sysctls and timeouts, counters from zero, services that nobody uses,
servers that are emptied, deleted and added again.  One that does: the service ``victim`` loses a server as it is; when
that was is noted.
"""
from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager

from lbq.control.client import ControlClient
from lbq.host.setup import state_directory
from tests.helpers import packets
from tests.soak.clients import TCP_SERVICES, UDP_SERVICES
from tests.soak.network import MixedLab, mode_of

EMPTY_SECONDS = 30      # what a quiesced server may take until nothing that it has is under way any more
ENDED = ("TIME_WAIT", "CLOSE")
SYSCTLS = {"pmtu_disc": (0, 1), "expire_quiescent_template": (0, 1), "expire_nodest_conn": (0, 1), "sloppy_tcp": (0, 1),
           "nat_icmp_send": (0, 1), "schedule_icmp": (0, 1), "run_estimation": (0, 1), "secure_tcp": (0, 1),
           "conn_reuse_mode": (1, 3), "lblc_expiration": (60, 86400), "drop_packet": (0, 1), "drop_entry": (0, 1)}
EMPTIED = ("nat", "dr", "tun", "nat-udp", "dr-udp", "tun-udp", "dr-ops", "nat6", "dr6", "tun6", "tun4in6", "tun6in4",
           "nat6-udp", "dr6-ops")
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "twos")     # which refuse nobody while one has a weight
TIMEOUTS = {"tcp": (60, 900), "tcpfin": (5, 10), "udp": (3, 5)}


class Changes:
    """The changes made so far."""

    def __init__(self, lab: MixedLab):
        self.lab = lab
        self.made = 0
        self.listed = 0
        self.deletions: list[tuple[float, float]] = []
        self.errors: list[BaseException] = []
        self.ending = threading.Event()

    @contextmanager
    def going_on(self):
        """Make changes and ask for listings for the length of a ``with`` block."""
        threads = [threading.Thread(target=self._thread, args=(work, *args)) for work, *args in (
            (self._settings,), (self._listings,), (self._victims,),
            *((self._servers, service) for service in EMPTIED))]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.ending.set()
            for thread in threads:
                thread.join()

    def _thread(self, work, *args) -> None:
        try:
            with self.lab.director.inside(), ControlClient(state_directory()) as client:
                while not self.ending.is_set():
                    work(client, random.Random(f"{work.__name__} {args} {self.made}"), *args)
        except BaseException as error:
            self.errors.append(error)

    def _do(self, client: ControlClient, method: str, **params):
        result = client.call(method, **params)
        self.made += 1
        return result

    def _settings(self, client: ControlClient, choose: random.Random) -> None:
        what = choose.randrange(5)
        service = choose.choice([*TCP_SERVICES, *UDP_SERVICES])
        if what == 0:
            name = choose.choice([*SYSCTLS])
            self._do(client, "sysctl", settings=[f"{name}={choose.choice(SYSCTLS[name])}"])
        elif what == 1:
            name = choose.choice([*TIMEOUTS])
            self._do(client, "timeouts", **{name: choose.choice(TIMEOUTS[name])})
        elif what == 2:
            self._do(client, "zero", service=self.lab.key(service))
        elif what == 3:
            self._do(client, "set_service", service=self.lab.key(service), scheduler=choose.choice(SCHEDULERS))
        else:
            unused, server = choose.choice(((f"{self.lab.vip}:7", "172.16.10.99"),
                                            (f"[{self.lab.vip6}]:7", "[2001:db8:ac10:a00::99]")))
            self._do(client, "add_service", service=unused, scheduler="mh")
            self._do(client, "add_server", service=unused, server=f"{server},weight=3")
            self._do(client, "delete_service", service=unused)
        self.ending.wait(choose.random() * 0.1)

    def _listings(self, client: ControlClient, choose: random.Random) -> None:
        for method in ("status", "list", "stats"):
            client.call(method)
        self.listed += 3 + sum(1 for _ in client.connections())
        if choose.random() < 0.02:
            self.lab.lbq(choose.choice(("list", "conns", "stats")), *choose.choice(((), ("--json",))))
        self.ending.wait(choose.random() * 0.1)

    def _servers(self, client: ControlClient, choose: random.Random, service: str) -> None:
        """Empty the second server of a service, delete it, bring it back; the first one has the held connections."""
        first, second = self.lab.reals(service)
        self._do(client, "set_server", service=self.lab.key(service), server=f"{first},weight={choose.randrange(1, 9)}")
        self._do(client, "set_server", service=self.lab.key(service), server=f"{second},weight=0")
        give_up = time.monotonic() + EMPTY_SECONDS
        while self._active(client, service, second) != 0 or self._is_under_way(client, second):
            assert time.monotonic() < give_up, f"{second} of {service} does not get empty"
            time.sleep(0.2)
        self._do(client, "delete_server", service=self.lab.key(service), server=second)
        self.ending.wait(choose.random())
        self._do(client, "add_server", service=self.lab.key(service),
                 server=f"{second},mode={mode_of(service)},weight={choose.randrange(1, 9)}")
        self.ending.wait(choose.random() * 3)

    def _active(self, client: ControlClient, service: str, server: str) -> int | None:
        """Return its active connections; None when a change between two pages of the listing has hidden it."""
        address, port = packets.endpoint(server)
        return next((row["active"] for each in client.call("list") for row in each["servers"]
                     if (packets.address(row["address"]), row["port"]) == (address, port)), None)

    def _is_under_way(self, client: ControlClient, server: str) -> bool:
        """Return True while a client may still say something: a datagram more, or the end of a TCP connection."""
        place = packets.endpoint(server)
        return any((packets.address(each["daddr"]), each["dport"]) == place and each["state"] not in ENDED
                   for each in client.connections())

    def _victims(self, client: ControlClient, choose: random.Random) -> None:
        """Delete a server with all the connections it has."""
        _, second = self.lab.reals("victim")
        began = time.monotonic()
        self._do(client, "delete_server", service=self.lab.key("victim"), server=second)
        self.deletions.append((began, time.monotonic()))
        self.ending.wait(0.2)
        self._do(client, "add_server", service=self.lab.key("victim"), server=second)
        self.ending.wait(1 + choose.random())
