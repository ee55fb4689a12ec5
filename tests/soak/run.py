"""A director under mixed traffic and steady changes: run it, watch it, stop it, and keep what was seen."""
from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from lbq.control.client import ControlClient
from lbq.host.setup import state_directory
from lbq.lab.namespace import Process
from lbq.lab.topology import RUN_FOLDER, lbq_command, this_lbq
from tests.helpers.namespaces import picture
from tests.helpers.processes import log_of, wait_until, worker_of
from tests.helpers.topology import broken_packets, lost_packets
from tests.soak.changes import TIMEOUTS, Changes
from tests.soak.clients import HELD, HOLDERS, TCP_SERVICES, UDP_SERVICES
from tests.soak.clients import main as clients
from tests.soak.network import MixedLab, mode_of

FULL = os.environ.get("LBQ_FULL") == "1"
FULL_SECONDS = 1800
SECONDS = int(os.environ.get("LBQ_SOAK_SECONDS") or (FULL_SECONDS if FULL else 45))
BUSY_SECONDS = 60           # what a busy machine may take for the first connections, and for the last
CONNECTION_BYTES = 152      # what the table takes for one that is there beside the others; every other is IPv6
LONGEST_TIMEOUT = 120       # of a state that no command shortens: TIME_WAIT
CLIENTS = "import sys; from tests.soak.clients import main; main(*sys.argv[1:])"
ROOT = Path(clients.__code__.co_filename).parents[2]


@dataclass
class Sample:
    """What the two processes of the director held at one moment."""

    seconds: float
    connections: int
    resident: dict[str, int]        # bytes, by process
    descriptors: dict[str, int]


@dataclass
class Soak:
    """Everything that was seen."""

    answered: Counter = field(default_factory=Counter)
    lost: list = field(default_factory=list)            # service, when it began, when it was given up, why
    deletions: list = field(default_factory=list)       # from when to when a server of the victim was being deleted
    errors: list = field(default_factory=list)          # of the operator
    changes: int = 0
    listed: int = 0
    samples: list[Sample] = field(default_factory=list)
    idle: Sample | None = None          # before the first packet
    after: Sample | None = None         # when clients and operator had gone
    broken: dict = field(default_factory=dict)
    dropped: dict = field(default_factory=dict)
    left: list = field(default_factory=list)            # connections that outlived their timeouts
    servers_left: list = field(default_factory=list)    # (active, inactive) that servers counted at last
    connections_at_last: int = -1
    status: int = -1
    log: str = ""
    before_start: dict = field(default_factory=dict)
    after_stop: dict = field(default_factory=dict)
    state_left: bool = True


def soak() -> Soak:
    """Run a director for SECONDS; return what was seen."""
    seen = Soak()
    with MixedLab(prefix=f"lbqs{os.getpid()}-") as lab:
        seen.before_start = picture(lab.director)
        director = lab.director.popen(lbq_command("serve", "--max-connections", "65536"), env=this_lbq())
        director.wait_for("ready")
        changes = Changes(lab)
        lab.director.call(_configure, lab)
        processes = {"front": director.pid, "worker": worker_of(director)}
        seen.idle = _sample(lab, processes, time.monotonic())
        traffic = lab.client.popen([sys.executable, "-P", "-c", CLIENTS, lab.vip, lab.vip6, SECONDS + 5], stdin=-1,
                                   env=_with_tests())
        for _ in range(len(HELD) * HOLDERS):
            traffic.wait_for("held", BUSY_SECONDS)
        _spread(lab)
        traffic.stdin.write(b"go\n")
        traffic.stdin.flush()
        with changes.going_on():
            _watch(lab, processes, seen, traffic)
        told = json.loads(traffic.wait_for("{", BUSY_SECONDS))
        seen.answered, seen.lost = Counter(told["answered"]), told["lost"]
        seen.changes, seen.listed, seen.errors = changes.made, changes.listed, changes.errors
        seen.deletions = changes.deletions
        lab.director.call(_let_end, lab, seen)
        seen.after = _settled(lab, processes, seen.idle)
        seen.broken, seen.dropped = broken_packets(lab), lost_packets(lab)
        seen.status = director.stop()
        seen.log = log_of(director)
        seen.after_stop = picture(lab.director)
        seen.state_left = (RUN_FOLDER / str(lab.director.inode)).exists()
    return seen


def _with_tests() -> dict[str, str]:
    environment = this_lbq()
    return environment | {"PYTHONPATH": f"{environment['PYTHONPATH']}{os.pathsep}{ROOT}"}


def _configure(lab: MixedLab) -> None:
    """Add all services, each with its first server only, so that the held connections are there."""
    with ControlClient(state_directory()) as client:
        for service in (*TCP_SERVICES, *UDP_SERVICES):
            settings = {"persistent": 300} if "persistent" in service else {"ops": True} if "ops" in service else {}
            client.call("add_service", service=lab.key(service), mode=mode_of(service), scheduler="wlc", **settings)
            client.call("add_server", service=lab.key(service), server=lab.reals(service)[0])
        client.call("timeouts", **{name: values[0] for name, values in TIMEOUTS.items()})


def _spread(lab: MixedLab) -> None:
    """Add the second server to every service."""
    def add() -> None:
        with ControlClient(state_directory()) as client:
            for service in (*TCP_SERVICES, *UDP_SERVICES):
                client.call("add_server", service=lab.key(service), server=lab.reals(service)[1])

    lab.director.call(add)


def _watch(lab: MixedLab, processes: dict[str, int], seen: Soak, traffic: Process) -> None:
    """Take a sample a second for as long as there is to be traffic."""
    begin = time.monotonic()
    while time.monotonic() < begin + SECONDS and traffic.poll() is None:
        seen.samples.append(_sample(lab, processes, begin))
        time.sleep(1)


def _sample(lab: MixedLab, processes: dict[str, int], begin: float) -> Sample:
    def ask() -> int:
        with ControlClient(state_directory()) as client:
            return client.call("status")["connections"]

    connections = lab.director.call(ask)
    return Sample(time.monotonic() - begin, connections, {name: _resident(pid) for name, pid in processes.items()},
                  {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in processes.items()})


def _settled(lab: MixedLab, processes: dict[str, int], idle: Sample) -> Sample:
    """Return a sample after everybody has gone; the front may need a moment to notice that."""
    deadline = time.monotonic() + 5
    while True:
        sample = _sample(lab, processes, time.monotonic())
        if sample.descriptors == idle.descriptors or time.monotonic() > deadline:
            return sample
        time.sleep(0.1)


def _resident(pid: int) -> int:
    """Return the bytes of memory that are this process's own: not those of files, which others have mapped, too."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def _let_end(lab: MixedLab, seen: Soak) -> None:
    """Wait for what ends by itself; make an end of what has two minutes to live, unless there is time for that.

    A client sends its reset once.  One that came while the victim's server was deleted is lost, as in the kernel, and
    its connection has a minute or more to live; deleting the server once more makes an end of it.
    """
    with ControlClient(state_directory()) as client:
        client.call("sysctl", settings=["expire_nodest_conn=1"])
        client.call("delete_server", service=lab.key("victim"), server=lab.reals("victim")[1])

        def left() -> list:
            return [each for each in client.connections()
                    if each["state"] != "TIME_WAIT" and each["protocol"] in ("tcp", "udp") and each["cport"]]

        longest = max(TIMEOUTS["tcpfin"][1], TIMEOUTS["udp"][1], 10)
        deadline = time.monotonic() + longest + 5
        while left() and time.monotonic() < deadline:
            time.sleep(0.2)
        seen.left = left()
        if FULL:
            deadline = time.monotonic() + LONGEST_TIMEOUT + 5
            while _only_governed(client) and time.monotonic() < deadline:
                time.sleep(1)
        seen.servers_left = [(row["active"], row["inactive"]) for service in client.call("list")
                             for row in service["servers"]]
        client.call("clear")
        wait_until(lambda: client.call("status")["connections"] == 0, 10)
        seen.connections_at_last = client.call("status")["connections"]


def _only_governed(client: ControlClient) -> bool:
    return any(each["cport"] for each in client.connections())


def grown(seen: Soak) -> dict[str, int]:
    """Return by how many bytes each process has grown, from the middle of the time to its end.

    What the table takes for connections that were more at the end than before is no growth.
    """
    early, late = _between(seen, 0.4, 0.6), _between(seen, 0.8, 1.1)
    more = max(sample.connections for sample in late) - max(sample.connections for sample in early)
    bytes_grown = {process: round(median(sample.resident[process] for sample in late)
                                  - median(sample.resident[process] for sample in early))
                   for process in late[0].resident}
    bytes_grown["worker"] -= CONNECTION_BYTES * max(more, 0)
    return bytes_grown


def _between(seen: Soak, first: float, last: float) -> list[Sample]:
    """Return the samples of a part of the time, told in shares of it."""
    return [sample for sample in seen.samples if first * SECONDS <= sample.seconds < last * SECONDS]
