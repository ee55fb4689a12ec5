"""One request in a lab, recorded: what every interface saw, what lbq saw and did, and why it chose that server."""
from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lbq.control.client import ControlClient
from lbq.errors import HostError
from lbq.host.setup import state_directory
from lbq.lab.report.capture import Capture, Frame, fill_in_checksums
from lbq.lab.topology import Lab, host_name
from lbq.trace.records import Traced, decode

CLIENT_PORT = 40001         # the same in every lab: it is the same request
END_SECONDS = 10            # that its two ends get to close the connection
TIME_WAIT = "06"            # <net/tcp_states.h>


class Recording(NamedTuple):
    """Everything that is known about one request."""

    mode: str
    client: tuple[str, int]
    vip: tuple[str, int]
    frames: list[Frame]
    traced: list[Traced]
    explained: dict             # by lbq explain, of the SYN before it was sent
    interfaces: list[dict]      # of all machines: machine, name, mac, addresses, and whether it is a switch's port
    answer: str


def prepare(lab: Lab) -> Capture:
    """Look at every interface of *lab* from now on, and have each packet bear its checksum, as on a cable.

    Long before the request: the kernel takes a while until it notes the times of packets.
    """
    for machine in lab.namespaces:
        for name in _cables(machine):
            machine.call(fill_in_checksums, name)
    return Capture({host_name(machine): machine for machine in lab.namespaces})


def record(mode: str, lab: Lab, capture: Capture, request: Callable[[int], str]) -> Recording:
    """Record the one request that ``request(source port)`` makes, and return what was seen of it."""
    client, vip = lab.client.address, lab.vip
    ends = ("--from", f"{client}:{CLIENT_PORT}", "--to", f"{vip}:80")
    explained = json.loads(lab.lbq("explain", "--json", *ends).stdout)
    interfaces = [row for machine in lab.namespaces for row in _interfaces(machine)]
    with ControlClient(lab.director.call(state_directory)) as director:
        trace = director.call("trace_start", client=f"{client}:{CLIENT_PORT}")
        answer = request(CLIENT_PORT)
        _wait_for_the_end(lab)
        frames = capture.stop()
        records, counters = director.call("trace_read", trace=trace["trace"])
        director.call("trace_stop", trace=trace["trace"])
    if counters["waiting"] or counters["lost"]:
        raise HostError("the request cannot be shown: it has more packets than one trace keeps")
    traced = decode(bytes.fromhex(records), trace["outcomes"])
    return Recording(mode, (client, CLIENT_PORT), (vip, 80), frames, traced, explained, interfaces, answer)


def _wait_for_the_end(lab: Lab) -> None:
    """Wait until both ends have closed the connection: then nothing more comes of it."""
    deadline = time.monotonic() + END_SECONDS
    while any(machine.call(_is_open) for machine in (lab.client, *lab.servers)):
        if time.monotonic() > deadline:
            raise HostError(f"the request cannot be shown: its connection is still open after {END_SECONDS} s")
        time.sleep(0.01)


def _is_open() -> bool:
    """Return True when a socket of this namespace still has a part in the connection."""
    port = f":{CLIENT_PORT:04X}"
    lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    return any(state != TIME_WAIT and port in (local[-5:], remote[-5:])
               for _, local, remote, state, *_ in map(str.split, lines))


def _cables(machine) -> list[str]:
    with machine.links() as links:
        return [link.get("ifname") for link in links.get_links() if link.get(("linkinfo", "kind")) == "veth"]


def _interfaces(machine) -> list[dict]:
    """Return the interfaces of *machine* that packets pass."""
    with machine.links() as links:
        addresses: dict[int, list[str]] = {}
        for address in links.get_addr():
            addresses.setdefault(address["index"], []).append(address.get("address"))
        return [{"machine": host_name(machine), "name": link.get("ifname"), "mac": link.get("address") or "",
                 "addresses": addresses.get(link["index"], []), "is_port": bool(link.get("master"))}
                for link in links.get_links() if link.get("ifname") != "lo"]
