"""The loads of the benchmark: what is sent through a column for a second, and what is read off it.

Each load returns numbers by name; ``WORKLOADS`` says which of them the table shows.  Every load is bounded in
time, and a load that carried nothing is an error, not a zero.
"""
from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from columns import Column, Service
from network import Network
from usage import Usage

WEB = Service("tcp", 80)
BULK = Service("tcp", 5201)
SMALL = Service("udp", 9000)

UDP_RATE = 50_000       # packets a second: what the slowest column still carries
WRK_CONNECTIONS = 64
PATIENCE = 10           # seconds beyond the load's own before it counts as stuck

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 1000000000;
  server {{ listen 80 backlog=8192; location / {{ default_type text/plain; return 200 "here\\n"; }} }}
}}
"""


class Failed(Exception):
    """A load broke off; the message says which and why."""


class Bench(NamedTuple):
    """Where loads run: the network, the folder of compiled helpers, seconds a measurement."""

    network: Network
    tools: Path
    seconds: int


def start_server(bench: Bench, service: Service) -> None:
    """Start what answers at the server's end of *service*, in place of what answered before."""
    server = bench.network.server
    server.stop_processes()
    if service == WEB:
        config = bench.network.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=bench.network.folder))
        server.popen(["nginx", "-e", "stderr", "-c", config])
    elif service == BULK:
        server.popen(["iperf3", "--server", "--port", BULK.port], stdout=subprocess.DEVNULL)
    else:
        server.popen([bench.tools / "udpload", "sink", SMALL.port]).wait_for("ready")


def _run(bench: Bench, command: list) -> str:
    """Run a load's *command* on the client; return its output."""
    try:
        done = bench.network.client.run(command, timeout=bench.seconds + PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} was still running {PATIENCE} s after its time") from error
    if done.returncode != 0:
        raise Failed(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def _iperf(bench: Bench, column: Column, *options: str) -> dict:
    command = ["iperf3", "--json", "--client", column.target(), "--port", BULK.port, "--time", bench.seconds]
    deadline = time.monotonic() + PATIENCE
    while True:
        usage = Usage(column.process)
        report = json.loads(_run(bench, [*command, *options]))
        usage.stop()
        # The server may still be at the end of the test before, when a slow director held that up.
        if "busy" not in report.get("error", "") or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    end = report["end"]
    received = end.get("sum_received")
    if not received:    # iperf3 exits with 0 all the same
        raise Failed(f"iperf3: {report.get('error', 'nothing was received')}")
    return {"gbit_per_second": received["bits_per_second"] / 1e9,
            "retransmits": end["sum_sent"].get("retransmits", 0),
            **usage.each(received["bytes"] / 1e6, "mbyte")}


def bulk(bench: Bench, column: Column) -> dict:
    """One TCP stream from client to server."""
    return _iperf(bench, column)


def bulk4(bench: Bench, column: Column) -> dict:
    """Four TCP streams from client to server."""
    return _iperf(bench, column, "--parallel", "4")


def download(bench: Bench, column: Column) -> dict:
    """One TCP stream from server to client."""
    return _iperf(bench, column, "--reverse")


def _wrk(bench: Bench, column: Column, *options: str) -> dict:
    usage = Usage(column.process)
    output = _run(bench, [
        "wrk", "--threads", 1, "--connections", WRK_CONNECTIONS, "--duration", f"{bench.seconds}s",
        "--timeout", "2s", "--latency", *options, f"http://{column.target()}:{WEB.port}/"])
    usage.stop()
    requests = int(re.search(r"(\d+) requests in", output)[1])
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    if requests == 0:
        raise Failed(f"wrk: no request was answered: {output.strip()[-300:]}")
    return {"per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),
            "p50_ms": _milliseconds(re.search(r"(?m)^ +50% +(\S+)", output)[1]),
            "p99_ms": _milliseconds(re.search(r"(?m)^ +99% +(\S+)", output)[1]),
            "errors": sum(map(int, errors.groups())) if errors else 0,
            **usage.each(requests, "request")}


def _milliseconds(text: str) -> float:
    """Return wrk's ``1.50ms`` as 1.5."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 60e3}[unit]


def connections(bench: Bench, column: Column) -> dict:
    """New TCP connections, one request each."""
    return _wrk(bench, column, "--header", "Connection: close")


def requests(bench: Bench, column: Column) -> dict:
    """Requests over 64 connections that stay open."""
    return _wrk(bench, column)


def _udp(bench: Bench, column: Column, rate: int) -> dict:
    before = _udp_arrived(bench)
    usage = Usage(column.process)
    sent = json.loads(_run(bench, [
        bench.tools / "udpload", "send", column.target(), SMALL.port, bench.seconds, rate]))
    in_time = _udp_arrived(bench) - before
    arrived = _drained(bench) - before
    usage.stop()
    if arrived == 0:
        raise Failed(f"udp: none of {sent['sent']} packets arrived")
    return {"per_second": in_time / sent["seconds"], "lost": 1 - arrived / sent["sent"],
            **usage.each(arrived, "packet")}


def _udp_arrived(bench: Bench) -> int:
    """Return how many packets have come to the server: those too many for the sink to read did come."""
    counters = bench.network.server.counters()
    return counters["UdpInDatagrams"] + counters["UdpRcvbufErrors"]


def _drained(bench: Bench) -> int:
    """Return the same once no more come: a director may have thousands in its queue."""
    deadline = time.monotonic() + PATIENCE
    arrived = -1
    while arrived != (now := _udp_arrived(bench)) and time.monotonic() < deadline:
        arrived = now
        time.sleep(0.03)
    return now


def udp_paced(bench: Bench, column: Column) -> dict:
    """64-byte UDP packets at a fixed rate."""
    return _udp(bench, column, UDP_RATE)


def udp_flood(bench: Bench, column: Column) -> dict:
    """64-byte UDP packets as fast as one sender makes them."""
    return _udp(bench, column, 0)


class Workload(NamedTuple):
    """A load, the service it uses, and the rows it gives the table: (number, heading, digits)."""

    title: str
    measure: Callable[[Bench, Column], dict]
    service: Service
    rows: list[tuple[str, str, int]]


WORKLOADS = {
    "bulk": Workload("bulk TCP, 1 stream", bulk, BULK, [("gbit_per_second", "bulk TCP, 1 stream, Gb/s", 2)]),
    "bulk4": Workload("bulk TCP, 4 streams", bulk4, BULK,
                      [("gbit_per_second", "bulk TCP, 4 streams, Gb/s", 2)]),
    "download": Workload("bulk TCP, 1 stream down", download, BULK,
                         [("gbit_per_second", "bulk TCP, 1 stream down, Gb/s", 2)]),
    "connections": Workload("new connections/s", connections, WEB, [("per_second", "new connections/s", 0)]),
    "requests": Workload("keep-alive requests/s", requests, WEB,
                         [("per_second", "keep-alive requests/s", 0),
                          ("p50_ms", "… p50, ms", 2), ("p99_ms", "… p99, ms", 2)]),
    "udp": Workload("CPU a UDP packet, paced", udp_paced, SMALL,
                    [("director_us_per_packet", f"UDP 64 B, {UDP_RATE:,}/s: director's CPU, µs a packet", 2),
                     ("machine_us_per_packet", "… the whole machine's", 2), ("lost", "… lost, of 1", 3)]),
    "flood": Workload("CPU a UDP packet, unpaced", udp_flood, SMALL,
                      [("per_second", "UDP 64 B, unpaced: packets/s", 0),
                       ("director_us_per_packet", "… director's CPU, µs a packet", 2),
                       ("machine_us_per_packet", "… the whole machine's", 2)]),
}
