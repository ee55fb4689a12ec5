"""`lbq trace` on a running director: what it shows, when it ends, and that nobody who is gone is traced for."""
from __future__ import annotations

import json
import re
import signal

import dpkt
import pytest

from lbq.control.questions import TRACE_SECONDS
from lbq.lab.topology import lbq_command, this_lbq
from tests.helpers.processes import wait_until
from tests.helpers.topology import curl, settle, start_nginx, tell


@pytest.fixture
def traced_lab(lab):
    """Return the article's lab with a director and servers."""
    start_nginx(lab)
    lab.start_director("--mode", "nat", "--scheduler", "rr", *(word for server in lab.servers
                                                              for word in ("--real", server.address)))
    return lab


def start_trace(lab, *words):
    """Start `lbq trace` in the director's namespace, and wait until it looks."""
    trace = lab.director.popen(lbq_command("trace", *words), env=this_lbq())
    wait_until(lambda: tell(lab, "status")["traced"], timeout=30)
    return trace


def test_requests_are_seen_from_the_syn_to_the_end(traced_lab, tmp_path):
    lab, path = traced_lab, tmp_path / "trace.pcapng"
    trace = start_trace(lab, "--json", "--client", lab.client.address, "--pcap", str(path))
    answers = [curl(lab.client, f"http://{lab.vip}/").strip() for _ in range(2)]
    settle(lab)
    lines = [json.loads(trace.wait_for("{")) for _ in range(tell(lab, "stats")["counters"]["packets"])]
    trace.send_signal(signal.SIGINT)
    assert (trace.communicate(timeout=10)[0], trace.seen) == (b"", b"")

    news = [line for line in lines if line["is_new"]]
    assert [line["server"] for line in news] == [f"{lab.servers[int(name[-1]) - 1].address}:80" for name in answers]
    states = [line["state_after"] for line in lines if line["server"] == news[0]["server"]]
    assert states[0] == "SYN_RECV" and "ESTABLISHED" in states and states[-1] == "TIME_WAIT"
    with open(path, "rb") as file:
        packets = [packet for _, packet in dpkt.pcapng.Reader(file)]
    assert len(packets) == 2 * len(lines)               # before and after


def test_a_trace_ends_by_itself_and_one_whose_reader_was_killed_too(traced_lab):
    lab = traced_lab
    done = lab.lbq("trace", "--seconds", "1", "--only-drops")
    assert done.stdout == "" and done.stderr == "lbq: no packet was seen that matches\n"

    trace = start_trace(lab)
    refused = lab.lbq("trace", check=False)
    assert refused.returncode == 2 and refused.stderr.startswith("lbq: somebody is tracing already")
    trace.kill()
    trace.wait(5)
    wait_until(lambda: not tell(lab, "status")["traced"], timeout=TRACE_SECONDS + 20)
    start_trace(lab)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trace_that_saw_nothing_says_so_when_it_is_ended(traced_lab, number):
    trace = start_trace(traced_lab, "--client", "192.168.10.77")
    trace.send_signal(number)

    assert (trace.wait(10), trace.stdout.read(), trace.log.read_text()) == (
        130, b"", "lbq: no packet was seen that matches\n")
    wait_until(lambda: not tell(traced_lab, "status")["traced"])


def test_a_capture_that_cannot_be_written_is_one_line_and_ends_the_trace(traced_lab):
    for path, reason in (("/dev/full", "No space left on device"), ("/nowhere/x", "No such file or directory")):
        done = traced_lab.lbq("trace", "--seconds", "1", "--pcap", path, check=False)
        assert (done.returncode, done.stderr) == (2, f"lbq: cannot write {path}: {reason}\n")
        assert not tell(traced_lab, "status")["traced"]


def test_a_director_that_stops_is_one_line(traced_lab):
    trace = start_trace(traced_lab)
    traced_lab.lbq("stop")

    assert (traced_lab.director.processes[0].wait(10), trace.wait(10)) == (0, 2)
    assert re.fullmatch("lbq: .*the director (closed the connection|is stopping).*\n", trace.log.read_text())


def test_the_reference_engine_says_that_it_cannot(lab):
    lab.start_director("--mode", "nat", "--engine", "reference", "--real", lab.servers[0].address)
    refused = lab.lbq("trace", check=False)
    assert refused.returncode == 2 and "only the fast engine can be traced" in refused.stderr
