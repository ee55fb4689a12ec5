"""A lab for each test: its own namespaces, its own director, and no broken packet at the end."""
from __future__ import annotations

import os
import re
import resource
import shutil
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from pyroute2 import netns

from lbq.lab.topology import Lab
from tests.helpers.namespaces import PLACES, VARIANTS, Place
from tests.helpers.routed import vip_routed
from tests.helpers.topology import FULL, new_lab, visit

OTHER_WAYS = {      # how else packets may go: the environment of the director, and which tests are in the slice
    "steer": ({"LBQ_DATA_PATH": "auto"}, r"test_traffic_(tcp|udp|bulk|changes|icmp|dr)"),
    "offload": ({"LBQ_DATA_PATH": "offload"}, r"test_traffic_(tcp|udp|changes)"),
    "workers": ({"LBQ_WORKERS": "2"}, r"test_traffic_(ftp|persistence)"),
}
# What conntrack cannot carry, and lbq refuses (docs/data-paths.md): DR and TUN, SCTP, FTP, marks, port 0, one-packet
# scheduling; and the one thing that it does in its own way, a client's datagrams that are to leave a quiesced server.
NOT_OFFLOADED = (r"test_traffic_(bypass|dr|tun|ipv6_dr|ipv6_tun|sctp|ftp)|.*(mark|port_0|datagrams|ipvsadm_was_told"
                 r"|one_socket_leaves)")
# Of files with many labs that are each built for one test, the slice has one test in so many.
ONE_IN = {"test_doctor.py": 3, "test_exercises.py": 4, "test_explain.py": 3}
OPEN_FILES = 16384      # a thousand connections, each with its two ends in a few programs


def pytest_collection_modifyitems(config, items):
    """Mark what is in this folder, and skip it, saying why, where it cannot run.

    In the slice for every run, other ways meet only the tests of traffic that they concern, files are sampled, and a
    test that runs in every combination of some things (iptables, family, engine …) runs in every second one: each of
    them is there, not each with each.  The readable engine runs every second of its tests.
    """
    left_out = [item for item in items if (way := _way(item)) in OTHER_WAYS and (
        (not FULL and not re.match(OTHER_WAYS[way][1], item.path.name)) or
        (way == "offload" and re.match(NOT_OFFLOADED, f"{item.path.name}::{item.name}")))]
    for name, number in () if FULL else ONE_IN.items():
        of_file = [item for item in items if item.path.name == name and "/tests/lab/" in str(item.path)]
        left_out += [item for at, item in enumerate(of_file) if at % number]
    if not FULL:
        in_lab = [item for item in items if "/tests/lab/" in str(item.path)]
        left_out += [item for item in in_lab if _is_odd(item)]
        left_out += [item for item in in_lab if _way(item) == "reference" and item not in left_out][1::2]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if "/tests/lab/" in str(item.path):
            item.add_marker(pytest.mark.lab)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: it makes network namespaces"))


def _way(item) -> str | None:
    return item.callspec.params.get("engine") if "callspec" in dir(item) else None


def _is_odd(item) -> bool:
    """Return True for every second combination of what *item* runs with, when that is more than one thing."""
    places = list(item.callspec.indices.values()) if "callspec" in dir(item) else []
    return len(places) > 1 and sum(places) % 2 == 1


@pytest.fixture(params=VARIANTS)
def variant(request):
    """Run the test with both variants of iptables."""
    return request.param


@pytest.fixture(params=PLACES.values(), ids=PLACES)
def place(request) -> Place:
    """Run the test over IPv4 and over IPv6."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def many_open_files():
    """Let this process and the programs it starts open enough sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))


@pytest.fixture(scope="session", autouse=True)
def no_labs_of_killed_runs():
    """Take down what a run that was killed has left: the number in a lab's names is that of its process."""
    for name in netns.listnetns():
        lab = re.match(r"lbqt(\d+)-", name)
        if lab and not Path(f"/proc/{lab[1]}").exists():
            netns.remove(name)
            shutil.rmtree(f"/run/{lab[0]}lab", ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def say_how_much(record_testsuite_property):
    """Tell tests/run.py what a run in full length does more of."""
    if not FULL:
        record_testsuite_property("sampled", "100,000 of 1,000,000 requests; the reference engine 16 of 256 MiB; "
                                             "by DR and TUN 64 of 1024 MiB; doctor, explain: a third; exercises: a "
                                             "quarter; of combinations, and of the readable engine's tests, every "
                                             "second")


@pytest.fixture
def make_lab(forgiven):
    """Return a function that builds a lab; it is examined and taken down after the test."""
    labs = []
    with ExitStack() as stack:
        def make(**options) -> Lab:
            assert not labs, "one lab a test: they share their names"
            labs.append(stack.enter_context(new_lab(Lab, **options)))
            return stack.enter_context(visit(labs[0], forgiven))

        yield make


@pytest.fixture
def lend(forgiven):
    """Return a function that lends a lab of the whole module to one test; it is examined after it."""
    with ExitStack() as stack:
        yield lambda lab: stack.enter_context(visit(lab, forgiven))


@pytest.fixture
def forgiven() -> set[str]:
    """Return a set to which a test adds the counters that its packets are to move: see topology.BROKEN."""
    return set()


@pytest.fixture
def lab(make_lab) -> Lab:
    """Return the article's lab: one client, two servers, the VIP on the director."""
    return make_lab()


@pytest.fixture(params=["vip-local", "vip-routed"])
def either_lab(lab, request):
    """Return the network of DR or TUN with the VIP on the director, and with the VIP only routed there."""
    with vip_routed(lab) if request.param == "vip-routed" else nullcontext():
        yield lab


@pytest.fixture(params=["fast", "reference", *OTHER_WAYS])
def engine(request, monkeypatch, forgiven) -> str:
    """Run the test on both engines, and with the fast one by every other way."""
    if request.param == "offload":
        forgiven.add("TcpPAWSEstab")        # plain forwarding has some, too, where nobody makes segments
    if request.param not in OTHER_WAYS:
        return request.param
    for name, value in OTHER_WAYS[request.param][0].items():
        monkeypatch.setenv(name, value)
    return "fast"
