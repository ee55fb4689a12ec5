"""``lbq bench``: what it measures in its namespaces, and that nothing of it is left however it ends."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from lbq.lab.namespace import NETNS_FOLDER
from lbq.lab.topology import lbq_command, this_lbq
from tests.helpers.processes import wait_until

pytestmark = pytest.mark.slow

TIMEOUT = 100


def leftovers(pid: int) -> list[Path]:
    """Return the namespaces and files of the benchmark that process *pid* was."""
    return [*NETNS_FOLDER.glob(f"lbqb-{pid}-*"), *Path("/run").glob(f"lbqb-{pid}")]


def start(*words: str, folder: Path, **environment: str) -> subprocess.Popen:
    """Start ``lbq bench WORDS`` with its temporary files in *folder*."""
    return subprocess.Popen(lbq_command("bench", *words), env={**this_lbq(), "TMPDIR": str(folder), **environment},
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_quick_run_measures_every_kind_of_load(tmp_path):
    benchmark = start("--quick", "--json", "--columns", "plain,lbq,floor", "--workloads",
                      "bulk,connections,requests,pingpong,udp", folder=tmp_path)

    said, progress = benchmark.communicate(timeout=TIMEOUT)

    run = json.loads(said)
    assert (benchmark.returncode, run["missing"]) == (0, {}), progress
    numbers = {(row["workload"], row["column"]): row["numbers"] for row in run["measurements"]}
    assert len(numbers) == 5 * 3
    for column in ("plain", "lbq", "floor"):
        assert numbers["bulk", column]["gbit_per_second"] > 0.1
        assert numbers["connections", column]["per_second"] > 100
        requests = numbers["requests", column]
        assert 0 < requests["p50_ms"] <= requests["p99_ms"] <= requests["p999_ms"]
        assert 1 < numbers["pingpong", column]["p50_us"] <= numbers["pingpong", column]["p99_us"]
        assert numbers["udp", column]["lost"] < 0.5
    of_a_director = {column: numbers["pingpong", column].get("director_us_per_answer", 0) > 1
                     for column in ("plain", "lbq", "floor")}
    assert of_a_director == {"plain": False, "lbq": True, "floor": True}
    assert "left" in progress
    assert leftovers(benchmark.pid) == [] and os.listdir(tmp_path) == []


def test_direct_routing_is_measured_with_replies_around_the_director(tmp_path):
    benchmark = start("--quick", "--json", "--columns", "lbq,lbq-dr,steer-dr,steer-tun", "--workloads", "bulk,window",
                      folder=tmp_path)

    said, progress = benchmark.communicate(timeout=TIMEOUT)

    run = json.loads(said)
    assert benchmark.returncode == 0, progress
    assert {key.split()[1] for key in run["missing"]} == {"steer-tun"}
    numbers = {(row["workload"], row["column"]): row["numbers"] for row in run["measurements"]}
    assert len(numbers) == 2 * 3
    for column in ("lbq", "lbq-dr", "steer-dr"):
        assert numbers["bulk", column]["gbit_per_second"] > 0.1
        assert numbers["window", column]["per_second"] > 1000
        assert numbers["window", column]["lost"] < 0.01
    assert leftovers(benchmark.pid) == [] and os.listdir(tmp_path) == []


def test_what_is_not_installed_is_an_empty_column(tmp_path):
    """Only what the machine has is on the path: no compiler, no HAProxy, no wrk."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("iperf3", "iptables"):
        (programs / name).symlink_to(shutil.which(name))
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    benchmark = start("--quick", "--columns", "plain,haproxy,floor", "--workloads", "bulk,requests,udp",
                      folder=temporary, PATH=str(programs))
    said, progress = benchmark.communicate(timeout=TIMEOUT)

    assert benchmark.returncode == 0, progress
    for reason in ("haproxy is not installed (apt install haproxy)", "wrk is not installed (apt install wrk)",
                   "cc is not installed (apt install gcc libc6-dev linux-libc-dev)"):
        assert f") {reason}  \n" in said
    assert leftovers(benchmark.pid) == []


@pytest.mark.parametrize("line", ["tcp port", "bulk: round 1"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_any_stage_leaves_nothing(tmp_path, line, number, status):
    benchmark = start("--columns", "plain,lbq,floor", "--workloads", "bulk", folder=tmp_path)
    try:
        for printed in benchmark.stderr:
            if printed.startswith(line):
                break
        benchmark.send_signal(number)
        benchmark.send_signal(number)           # an impatient user does no harm
        said, last_words = benchmark.communicate(timeout=TIMEOUT)
    finally:
        benchmark.kill()
        benchmark.wait()

    assert (benchmark.returncode, said) == (status, "")
    assert last_words.endswith(f"{signal.Signals(number).name}: the benchmark ends here; nothing is kept\n")
    assert leftovers(benchmark.pid) == [] and os.listdir(tmp_path) == []


@pytest.mark.parametrize(("program", "column"), [("iperf3", "plain"), ("cc", "floor")])
def test_what_its_programs_leave_when_they_are_ended_goes_with_it(tmp_path, program, column):
    """Like iperf3, which has a temporary file until it has mapped it, and the compiler, which has some to its end."""
    programs, temporary, ran = (tmp_path / name for name in ("programs", "temporary", "ran"))
    programs.mkdir()
    temporary.mkdir()
    (programs / program).write_text(f'#!/bin/sh\n: > "$TMPDIR/{program}.left" && : > {ran}\nexec sleep {TIMEOUT}\n')
    (programs / program).chmod(0o755)
    benchmark = start("--columns", column, "--workloads", "bulk", folder=temporary,
                      PATH=f"{programs}:{os.environ['PATH']}")
    wait_until(ran.exists, timeout=TIMEOUT)
    benchmark.terminate()
    benchmark.communicate(timeout=TIMEOUT)

    assert benchmark.returncode == 143
    assert leftovers(benchmark.pid) == [] and os.listdir(temporary) == []


def test_the_next_run_takes_away_what_a_killed_one_left(tmp_path):
    killed = start("--columns", "plain", "--workloads", "bulk", folder=tmp_path)
    for printed in killed.stderr:
        if printed.startswith("bulk: round 1"):
            break
    killed.kill()
    killed.communicate(timeout=TIMEOUT)
    assert leftovers(killed.pid) != []

    start("--quick", "--columns", "plain", "--workloads", "bulk", folder=tmp_path).communicate(timeout=TIMEOUT)

    assert leftovers(killed.pid) == []
