"""What a running director refuses: one line, status 2, and it goes on with what it had."""
from __future__ import annotations

import pytest

from tests.helpers.processes import director_in
from tests.helpers.topology import ask_director

WEB, ALL, MARK = "192.168.10.1:80", "192.168.10.1:0", "fwmark:7"
REAL = "192.168.20.1"
FAILING = """
from lbq.schedulers.base import Scheduler
class Binds(Scheduler):
    def bind(self, service): raise RuntimeError("not with me")
    def schedule(self, service, flow): return None
"""

MISTAKES = [
    (("add", "service", WEB), "it is already there; `lbq set service` changes it"),
    (("add", "service", "192.168.10.9:0"), "needs --persistent"),
    (("add", "service", "192.168.10.9:80", "--ops"), "--ops is for UDP services"),
    (("add", "service", "192.168.10.9:80", "--scheduler", "{folder}/own.py:Binds"), "not with me"),
    (("add", "service", "192.168.10.9:80", "--scheduler", "{folder}/own.py:Missing"), "the file has no such class"),
    (("set", "service", WEB), "nothing to set"),
    (("set", "service", "192.168.10.9:80", "--persistent", "9"), "no service tcp:192.168.10.9:80"),
    (("set", "service", ALL, "--no-persistent"), "needs --persistent"),
    (("set", "service", ALL, "--persistent", "0"), "needs --persistent"),
    (("set", "service", WEB, "--ops"), "--ops is for UDP services"),
    (("set", "service", MARK, "--ops", "--ops-replies"), "a firewall mark has none"),
    (("set", "service", WEB, "--scheduler-flags", "sh-port"), "scheduler rr has no flag sh-port"),
    (("set", "service", WEB, "--scheduler", "{folder}/own.py:Binds"), "not with me"),
    (("del", "service", "192.168.10.9:80"), "no service tcp:192.168.10.9:80"),
    (("add", "server", WEB, REAL), "it is already there"),
    (("add", "server", "192.168.10.9:80", REAL), "no service tcp:192.168.10.9:80"),
    (("add", "server", WEB, "192.168.20.2:81,mode=dr"), "real server port 81 is not the service's port 80"),
    (("add", "server", WEB, "192.168.20.2,lower=2"), "lower=2 is above upper=0"),
    (("set", "server", WEB, f"{REAL}:8080,mode=tun"), "8080 is not the service's port 80"),
    (("set", "server", WEB, f"{REAL},mode=tun,tunnel=gue"), "tunnel=gue needs tunnel-port=N"),
    (("set", "server", WEB, f"{REAL},upper=1,lower=2"), "lower=2 is above upper=1"),
    (("set", "server", WEB, "192.168.20.9,weight=3"), "has no server 192.168.20.9:80"),
    (("del", "server", WEB, "192.168.20.9"), "it is not there"),
    (("drain", WEB, "192.168.20.9"), "has no server 192.168.20.9:80"),
    (("drain", "udp:192.168.10.1:80", REAL), "no service udp:192.168.10.1:80"),
    (("zero", "192.168.10.9:80"), "no service tcp:192.168.10.9:80"),
    (("sysctl", "sloppy_tcp=1", "drop_packet=4"), "net.ipv4.vs.drop_packet=4: not a number from 0 to 3"),
    (("sysctl", "net.ipv4.vs.sloppy_tcp=1", "net.ipv4.vs.conntrack=1"), "net.ipv4.vs.conntrack means nothing here"),
    (("timeouts", "--tcp", "60", "--udp", "5000000"), "--udp '5000000' is not a number"),
    (("end", "--service", "192.168.10.1"), "has no port"),
]


@pytest.fixture(scope="module")
def running(shared_machine, tmp_path_factory):
    """A director with three services, and a folder with a user's own scheduler that fails."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(FAILING)
    with director_in(shared_machine.host, "--vip", WEB, "--mode", "nat", "--scheduler", "rr", "--real", REAL,
                     "--real", f"{REAL}:8080"):
        for words in (("add", "service", ALL, "--persistent"), ("add", "service", MARK), ("add", "server", MARK, REAL)):
            assert shared_machine.lbq(*words).returncode == 0
        shared_machine.before = shared_machine.picture()
        shared_machine.folder = folder
        yield shared_machine
    shared_machine.before = shared_machine.picture()


def configuration(machine) -> list:
    """Return all that can be set."""
    return [machine.host.call(ask_director, *question) for question in (("list",), ("timeouts",))] + [
        machine.host.call(ask_director, "sysctl", settings=[])]


@pytest.mark.parametrize(("words", "saying"), MISTAKES, ids=lambda value: value if isinstance(value, str) else None)
def test_what_is_refused_changes_nothing(running, words, saying):
    before = configuration(running)

    running.assert_refuses(*(word.format(folder=running.folder) for word in words), saying=saying)

    assert configuration(running) == before
